package pgsource

import (
	"slices"

	"github.com/freshet/freshet/internal/change"
)

// The kinds of tuples in a row message.
const (
	tupleNew = 'N' // the row as it is now
	tupleKey = 'K' // the identity columns as they were
	tupleOld = 'O' // the whole row as it was (REPLICA IDENTITY FULL)
)

// decodeRow reads an insert, update or delete into d.row without allocating.
func (d *decoder) decodeRow(k kind, c *cursor) error {
	if !d.open {
		return malformed("a row outside any transaction")
	}
	oid := c.uint32()
	if c.short {
		return nil
	}
	relation := d.relations[oid]
	if relation == nil {
		return malformed("a row of table %d, which was never described", oid)
	}
	d.row = change.Row{Relation: relation}

	image := c.uint8()
	switch k {
	case kindInsert:
		d.row.Op = change.Insert
	case kindDelete:
		d.row.Op = change.Delete
	default:
		d.row.Op = change.Update
	}
	if d.row.Op != change.Insert && (image == tupleKey || image == tupleOld) {
		if err := decodeTuple(c, relation, image, &d.before); err != nil || c.short {
			return err
		}
		d.row.Old = d.before
		if d.row.Op == change.Delete {
			return nil
		}
		image = c.uint8()
	}
	if c.short {
		return nil
	}
	if image != tupleNew || d.row.Op == change.Delete {
		return malformed("%s on %s.%s has a tuple of kind %q", d.row.Op, relation.Schema, relation.Name, image)
	}
	if err := decodeTuple(c, relation, image, &d.after); err != nil || c.short {
		return err
	}
	d.row.New = d.after
	d.fillUnchanged()
	return nil
}

// fillUnchanged completes large values that the update did not touch, and the log therefore repeats in the old image
// only. Without an old image that has them they stay Unchanged.
func (d *decoder) fillUnchanged() {
	for i := range d.row.Old {
		if d.row.New[i].Kind != change.Unchanged {
			continue
		}
		if k := d.row.Old[i].Kind; k == change.Text || k == change.Null {
			d.row.New[i] = d.row.Old[i]
		}
	}
}

// decodeTuple reads one image into *values, whose memory it reuses.
func decodeTuple(c *cursor, relation *change.Relation, image byte, values *[]change.Value) error {
	n := int(c.uint16())
	if c.short {
		return nil
	}
	if n != len(relation.Columns) {
		return malformed("a row of %s.%s has %d columns, and the table was described with %d",
			relation.Schema, relation.Name, n, len(relation.Columns))
	}
	if cap(*values) < n {
		*values = slices.Grow((*values)[:0], n)
	}
	*values = (*values)[:n]
	for i := range *values {
		value := &(*values)[i]
		switch letter := c.uint8(); letter {
		case 'n':
			*value = change.Value{Kind: change.Null}
			if image == tupleKey && !relation.Columns[i].Key {
				// A key tuple has no room to say "not sent": it says NULL for what is no part of the identity.
				value.Kind = change.Absent
			}
		case 'u':
			*value = change.Value{Kind: change.Unchanged}
		case 't':
			size := c.uint32()
			if uint64(size) > uint64(len(c.rest)) {
				c.short, c.rest = true, nil
				return nil
			}
			*value = change.Value{Kind: change.Text, Text: c.take(int(size))}
		default:
			if c.short {
				return nil
			}
			return malformed("column %q of %s.%s has a value of kind %q",
				relation.Columns[i].Name, relation.Schema, relation.Name, letter)
		}
	}
	return nil
}
