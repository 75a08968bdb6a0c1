// Package change holds the one form in which every source hands over what a committed transaction did.
//
// A source calls its sink with Begin, then Row, Truncate and Message in the order of the log, then Commit: one call
// per thing, so that a transaction of any size takes bounded memory.
package change

import (
	"context"
	"fmt"
	"time"

	"github.com/freshet/freshet/mvcc"
)

// Position is a resumable place in a source, ordered, and otherwise opaque to everyone but the source. A PostgreSQL
// source uses the LSN.
type Position uint64

// Begin opens a committed transaction.
type Begin struct {
	XID       mvcc.XID  // top-level, 64 bits
	End       mvcc.LSN  // e of the protocol: final_lsn + 1; replay up to it contains the commit
	Committed time.Time // the writer's clock, for display only
}

// Commit closes the transaction that Begin opened.
type Commit struct {
	Position Position // first byte after the commit record; what may be confirmed once the transaction is applied
}

// Op is what happened to a row.
type Op uint8

// The operations on a row.
const (
	_ Op = iota
	Insert
	Update
	Delete
)

// String names the operation as SQL does.
func (o Op) String() string {
	switch o {
	case Insert:
		return "INSERT"
	case Update:
		return "UPDATE"
	case Delete:
		return "DELETE"
	}
	return fmt.Sprintf("Op(%d)", uint8(o))
}

// Kind says what a Value is.
type Kind uint8

// The kinds of column values in a row image.
const (
	// Absent is a column that this image does not carry: not part of the replica identity. It is not NULL.
	Absent Kind = iota
	// Null is SQL's NULL.
	Null
	// Text is a value in PostgreSQL's text form.
	Text
	// Unchanged is a large (TOASTed) value that the UPDATE did not touch and the log does not repeat.
	Unchanged
)

// Value is one column of a row image. Text aliases the source's buffer: whoever keeps it past the sink's return
// copies it.
type Value struct {
	Kind Kind
	Text []byte
}

// Identity is a table's REPLICA IDENTITY: which old columns its changes carry.
type Identity byte

// The replica identities, by the letters of pg_class.relreplident.
const (
	IdentityDefault Identity = 'd'
	IdentityNothing Identity = 'n'
	IdentityFull    Identity = 'f'
	IdentityIndex   Identity = 'i'
)

// Relation describes a table as the log describes it just before the first row of that shape.
type Relation struct {
	OID          uint32
	Schema, Name string
	Identity     Identity
	Columns      []Column
}

// Column is one column of a Relation.
type Column struct {
	Name    string
	TypeOID uint32
	TypeMod int32
	Key     bool // part of the replica identity
}

// Row is one changed row. It and its values are valid only until the sink returns.
//
// Insert has New; Delete has Old; Update has New, and Old only when the log carries it: always under FULL, otherwise
// only when an identity column changed. Old of an Update that is nil means that the identity columns did not change.
type Row struct {
	Op       Op
	Relation *Relation
	Old, New []Value // nil, or one Value per column of Relation
}

// Truncate empties tables.
type Truncate struct {
	Relations       []*Relation
	Cascade         bool
	RestartIdentity bool
}

// Message is a logical message (pg_logical_emit_message). Content is valid only until the sink returns.
type Message struct {
	Transactional bool
	LSN           mvcc.LSN
	Prefix        string
	Content       []byte
}

// Sink receives what a source reads. A source calls it from one goroutine; a call may block, which is how the applying
// side holds the source back. An error ends the source's run and is returned from it.
type Sink interface {
	// Begin opens a transaction; Row, Truncate and Message belong to it until Commit.
	Begin(ctx context.Context, b Begin) error
	// Row hands over one changed row, valid until Row returns. Row.Relation is another pointer whenever the log
	// described the table anew, also when nothing about it changed.
	Row(ctx context.Context, r *Row) error
	// Truncate hands over one TRUNCATE.
	Truncate(ctx context.Context, t *Truncate) error
	// Message hands over a logical message. One that is not transactional comes at any time and says nothing about
	// any commit.
	Message(ctx context.Context, m *Message) error
	// Commit closes the transaction.
	Commit(ctx context.Context, c Commit) error
	// Idle says, outside a transaction, that everything before p was handed over.
	Idle(ctx context.Context, p Position) error
}
