// Package schema describes the tables that entries read, as the database's catalog has them at one moment. The
// catalog adapter fills it, the planner reads it.
package schema

import (
	"github.com/freshet/freshet/internal/change"
)

// Catalog is everything that planning needs to know of one database.
type Catalog struct {
	ServerVersion int // server_version_num, 150018 for 15.18
	SearchPath    []string
	Tables        map[Name]*Table
	Functions     map[Name]*Function // of users
}

// Function is what the catalog says of all functions of one name together.
type Function struct {
	Name
	Volatility byte   // pg_proc.provolatile of the least tame one: i, s or v
	Definition string // digest of what they are made of
}

// Name is a schema-qualified name.
type Name struct{ Schema, Name string }

// String joins the two parts, unquoted: for messages, not for SQL.
func (n Name) String() string { return n.Schema + "." + n.Name }

// Kind is pg_class.relkind.
type Kind byte

// The kinds of relations that a query can name.
const (
	OrdinaryTable    Kind = 'r'
	PartitionedTable Kind = 'p'
	View             Kind = 'v'
	MaterializedView Kind = 'm'
	ForeignTable     Kind = 'f'
)

// Table is a relation of the catalog.
type Table struct {
	Name
	OID         uint32
	Kind        Kind
	Persistence byte // pg_class.relpersistence: p, u (unlogged), t (temporary)
	RowSecurity bool
	HasChildren bool // inheritance children or partitions
	IsPartition bool
	Identity    change.Identity
	Columns     []Column
	PrimaryKey  []string // column names, empty without one
	// DeferrableKey says that the primary key may be violated until COMMIT: it is no replica identity, and no unique index, which is
	// checked at once, is as good.
	DeferrableKey bool     `json:",omitempty"` //nolint:tagliatelle // as the others
	IdentityCols  []string // columns of the old image under the identity; all of them under FULL
	Definition    string   `json:",omitempty"` //nolint:tagliatelle // of a view: its query
}

// Column is a column of a Table, in order of attnum, dropped ones left out.
type Column struct {
	Name          string
	Num           int16
	TypeOID       uint32
	Type          string // format_type(atttypid, atttypmod)
	TypeName      string // pg_type.typname of the type, of the base type for a domain
	TypeSchema    string
	Category      byte // pg_type.typtype: b, e (enum), d (domain), c, r
	Deterministic bool // collation is deterministic, or the type has none
	NotNull       bool
	Generated     bool
}

// Column finds a column by name, nil when there is none.
func (t *Table) Column(name string) *Column {
	for i := range t.Columns {
		if t.Columns[i].Name == name {
			return &t.Columns[i]
		}
	}
	return nil
}

// ForeignKey is a constraint by which Columns of Table refer to rows of another table.
type ForeignKey struct {
	Table, References Name
	Columns           []string
	Indexed           bool // an index of Table begins with the columns
}

// Index is a unique index of a table, or one that was to become one.
type Index struct {
	Name      string
	Columns   []string // of the key, without those that it only includes; empty where one is an expression
	Primary   bool
	Identity  bool // it is the table's replica identity
	Valid     bool // false: it is being made, or making it was interrupted
	Immediate bool // its uniqueness is never checked late
	Partial   bool
}

// Usable reports that the index can be the replica identity of its table.
func (x *Index) Usable(t *Table) bool {
	if !x.Valid || !x.Immediate || x.Partial || len(x.Columns) == 0 {
		return false
	}
	for _, name := range x.Columns {
		if c := t.Column(name); c == nil || !c.NotNull {
			return false
		}
	}
	return true
}
