package route

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
)

// valueFunc reads a column of one image of a row. The kinds Absent and Unchanged mean that the value is unknown.
type valueFunc func(row *change.Row, column int) change.Value

// newValue takes an unchanged large value from the old image, where that has it.
func newValue(row *change.Row, column int) change.Value {
	v := row.New[column]
	if v.Kind == change.Unchanged && row.Old != nil {
		return row.Old[column]
	}
	return v
}

// oldValue knows that an UPDATE without an old image left the identity's columns as they are. Nothing is known of the
// others then: they are not NULL.
func oldValue(row *change.Row, column int) change.Value {
	if row.Old != nil {
		return row.Old[column]
	}
	if row.Relation.Columns[column].Key && row.Relation.Identity != change.IdentityFull {
		return row.New[column]
	}
	return change.Value{}
}

// irrelevant reports an UPDATE that changes none of the columns that the query reads. Only a full old image can tell.
func (c *compiled) irrelevant(row *change.Row) bool {
	if len(c.filter) == 0 || row.Old == nil {
		return false
	}
	for _, i := range c.filter {
		before, after := row.Old[i], row.New[i]
		switch {
		case after.Kind == change.Unchanged:
		case before.Kind == change.Null && after.Kind == change.Null:
		case before.Kind == change.Text && after.Kind == change.Text && bytes.Equal(before.Text, after.Text):
		default:
			return false
		}
	}
	return true
}

// image adds the key of one image, the epoch that it ends, or what its keys are to be looked up by, unless the image is known not to matter.
func (r *Router) image(c *compiled, row *change.Row, value valueFunc, out *Keys) {
	for i := range c.conditions {
		if r.fails(&c.conditions[i], value(row, c.conditions[i].column)) {
			return
		}
	}
	if c.rule.Tied() {
		r.epoch(c, row, value, out)
		return
	}
	for _, column := range c.bind {
		if column != fixed && value(row, column).Kind == change.Null {
			return // no equality holds for NULL: the image has no key
		}
	}
	start := len(out.arena)
	asks := c.rule.Class == rule.Lookup
	if asks {
		out.arena = binary.AppendUvarint(out.arena, uint64(c.number)) //nolint:gosec // not negative
	}
	for n, column := range c.bind {
		if !asks {
			out.arena = append(out.arena, c.literals[n]...)
		}
		if column == fixed {
			out.arena = append(out.arena, c.fixed[n]...)
			continue
		}
		v := value(row, column)
		if v.Kind != change.Text {
			out.arena = out.arena[:start]
			out.move(c.entry, func() string { return unknown(row, column) })
			return
		}
		text, err := keytext.AppendCanonicalLog(r.scratch[:0], c.types[n], v.Text)
		if err != nil {
			out.arena = out.arena[:start]
			out.move(c.entry, func() string {
				return fmt.Sprintf("column %s of %s.%s: %v", row.Relation.Columns[column].Name, row.Relation.Schema, row.Relation.Name, err)
			})
			return
		}
		r.scratch = text
		if asks {
			out.arena = append(binary.AppendUvarint(out.arena, uint64(len(text))), text...)
		} else {
			out.arena = keytext.AppendEscapedText(out.arena, text)
		}
	}
	if asks {
		out.hold(c.entry, start, ALookUp)
		return
	}
	out.arena = append(out.arena, c.literals[len(c.bind)]...)
	out.seal(c.entry, start)
}

func unknown(row *change.Row, column int) string {
	return fmt.Sprintf("%s of %s.%s: the log does not carry the value of column %s (replica identity %q)",
		row.Op, row.Relation.Schema, row.Relation.Name, row.Relation.Columns[column].Name, row.Relation.Identity)
}

// fails reports that the condition is known not to be TRUE for the value. What is unknown never fails.
func (r *Router) fails(c *condition, v change.Value) bool {
	switch {
	case v.Kind != change.Null && v.Kind != change.Text:
		return false
	case c.op == rule.IsNull:
		return v.Kind != change.Null
	case v.Kind == change.Null:
		return c.op == rule.IsNotNull || c.op == rule.In || c.op == rule.NotIn
	case c.op != rule.In && c.op != rule.NotIn:
		return false
	}
	text, err := keytext.AppendCanonicalLog(r.scratch[:0], c.typ, v.Text)
	if err != nil {
		return false
	}
	r.scratch = text
	among := false
	for _, value := range c.values {
		among = among || string(text) == value
	}
	return among != (c.op == rule.In)
}
