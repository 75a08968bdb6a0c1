package pgsource

import (
	"time"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/mvcc"
)

// kind is a pgoutput message's type, by its first byte.
type kind byte

// The messages of protocol version 1. Those of the later versions (S E c A: streaming; b P K r p: two-phase) are only
// sent when asked for, and arrive here as unknown.
const (
	kindBegin    kind = 'B'
	kindCommit   kind = 'C'
	kindOrigin   kind = 'O'
	kindRelation kind = 'R'
	kindType     kind = 'Y'
	kindInsert   kind = 'I'
	kindUpdate   kind = 'U'
	kindDelete   kind = 'D'
	kindTruncate kind = 'T'
	kindMessage  kind = 'M'
)

// decoder reads the messages of one connection. Its state is that connection's: relations are described anew on the
// next one, and a transaction that was cut off begins again.
//
// What decode finds is left in the field of its kind, valid until the next call. Values of rows and the content of
// messages alias the bytes that were decoded.
type decoder struct {
	begin    change.Begin
	commit   change.Commit
	relation *change.Relation
	row      change.Row
	truncate change.Truncate
	message  change.Message

	relations map[uint32]*change.Relation
	before    []change.Value // backs row.Old
	after     []change.Value // backs row.New
	near      mvcc.XID       // completes the 32 bits of the next Begin
	open      bool           // between Begin and Commit
	final     mvcc.LSN       // of the open transaction: start of its commit record
}

// newDecoder returns the decoder of a new connection. near is a full transaction id less than 2^31 away from the
// first one that will be decoded.
func newDecoder(near mvcc.XID) *decoder {
	// The images are never nil, also those of a table without columns.
	return &decoder{near: near, relations: make(map[uint32]*change.Relation), before: []change.Value{}, after: []change.Value{}}
}

// decode reads one message. Any error is a *GapError, and the decoder is of no use after it.
func (d *decoder) decode(data []byte) (kind, error) {
	if len(data) == 0 {
		return 0, malformed("empty message")
	}
	k, c := kind(data[0]), cursor{rest: data[1:]}
	var err error
	switch k {
	case kindBegin:
		err = d.decodeBegin(&c)
	case kindCommit:
		err = d.decodeCommit(&c)
	case kindRelation:
		err = d.decodeRelation(&c)
	case kindInsert, kindUpdate, kindDelete:
		err = d.decodeRow(k, &c)
	case kindTruncate:
		err = d.decodeTruncate(&c)
	case kindMessage:
		err = d.decodeMessage(&c)
	case kindOrigin:
		c.uint64() // where the transaction ended on the server it came from
		c.text()
	case kindType:
		c.uint32()
		c.text()
		c.text()
	default:
		return 0, malformed("unknown message %q", data[0])
	}
	switch {
	case err != nil:
		return 0, err
	case c.short:
		return 0, malformed("message %q of %d bytes is cut short", data[0], len(data))
	case len(c.rest) > 0:
		return 0, malformed("message %q of %d bytes has %d too many", data[0], len(data), len(c.rest))
	}
	return k, nil
}

func (d *decoder) decodeBegin(c *cursor) error {
	if d.open {
		return malformed("a transaction begins inside transaction %s", d.begin.XID)
	}
	final, micros, xid := mvcc.LSN(c.uint64()), c.uint64(), c.uint32()
	if c.short {
		return nil // reported by decode
	}
	d.open, d.final = true, final
	d.near = mvcc.Extend(xid, d.near)
	d.begin = change.Begin{XID: d.near, End: final + 1, Committed: fromMicros(micros)}
	return nil
}

func (d *decoder) decodeCommit(c *cursor) error {
	if !d.open {
		return malformed("a transaction ends that did not begin")
	}
	c.uint8() // flags, none defined
	final, end := mvcc.LSN(c.uint64()), mvcc.LSN(c.uint64())
	c.uint64() // commit time, known from Begin
	switch {
	case c.short:
		return nil
	case final != d.final:
		return malformed("transaction %s commits at %s, and began as one that commits at %s", d.begin.XID, final, d.final)
	case end <= final:
		return malformed("transaction %s ends at %s, before its commit record at %s", d.begin.XID, end, final)
	}
	d.open = false
	d.commit = change.Commit{Position: change.Position(end)}
	return nil
}

// decodeRelation replaces what is known of a table: a new pointer each time, since the log describes a table anew
// exactly when something about it may have changed.
func (d *decoder) decodeRelation(c *cursor) error {
	r := &change.Relation{OID: c.uint32(), Schema: string(c.text()), Name: string(c.text())}
	if r.Schema == "" {
		r.Schema = "pg_catalog" // how the plugin spells it
	}
	r.Identity = change.Identity(c.uint8())
	n := int(c.uint16())
	const leastColumn = 1 + 1 + 4 + 4 // flags, an empty name, type, modifier
	if c.short || n*leastColumn > len(c.rest) {
		c.short = true
		return nil
	}
	switch r.Identity {
	case change.IdentityDefault, change.IdentityNothing, change.IdentityFull, change.IdentityIndex:
	default:
		return malformed("table %s.%s has the unknown replica identity %q", r.Schema, r.Name, byte(r.Identity))
	}
	r.Columns = make([]change.Column, n)
	for i := range r.Columns {
		flags := c.uint8()
		r.Columns[i] = change.Column{
			Name:    string(c.text()),
			TypeOID: c.uint32(),
			TypeMod: int32(c.uint32()), //nolint:gosec // the wire's signed field
			Key:     flags&1 != 0,
		}
	}
	if c.short {
		return nil
	}
	d.relations[r.OID], d.relation = r, r
	return nil
}

func (d *decoder) decodeTruncate(c *cursor) error {
	if !d.open {
		return malformed("a truncate outside any transaction")
	}
	n, flags := c.uint32(), c.uint8()
	if c.short || uint64(n)*4 != uint64(len(c.rest)) {
		c.short = true
		return nil
	}
	d.truncate = change.Truncate{
		Relations:       make([]*change.Relation, n),
		Cascade:         flags&1 != 0,
		RestartIdentity: flags&2 != 0,
	}
	for i := range d.truncate.Relations {
		oid := c.uint32()
		relation := d.relations[oid]
		if relation == nil {
			return malformed("a truncate of table %d, which was never described", oid)
		}
		d.truncate.Relations[i] = relation
	}
	return nil
}

func (d *decoder) decodeMessage(c *cursor) error {
	flags, lsn, prefix := c.uint8(), mvcc.LSN(c.uint64()), c.text()
	n := c.uint32()
	if c.short || uint64(n) != uint64(len(c.rest)) {
		c.short = true
		return nil
	}
	transactional := flags&1 != 0
	if transactional && !d.open {
		return malformed("a transactional message outside any transaction")
	}
	d.message = change.Message{Transactional: transactional, LSN: lsn, Prefix: string(prefix), Content: c.take(int(n))}
	return nil
}

// fromMicros reads the protocol's time: microseconds since 2000-01-01 UTC.
func fromMicros(micros uint64) time.Time {
	return time.UnixMicro(int64(micros) + microsTo2000).UTC() //nolint:gosec // the wire's signed field
}

// microsTo2000 is 2000-01-01 00:00:00 UTC in microseconds of Unix time.
const microsTo2000 = 946_684_800_000_000
