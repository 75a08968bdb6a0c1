package plan

import (
	"fmt"
	"slices"
	"strconv"

	pg_query "github.com/pganalyze/pg_query_go/v6"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/schema"
)

// notInKeys stands for a built-in type whose equal values can have different texts.
const notInKeys keytext.Type = "-"

// builtIn maps pg_type.typname to a type of keys.
func builtIn(name string) (keytext.Type, bool) {
	switch name {
	case "int2", "int4", "int8", "oid", "bool", "uuid", "text", "date", "timestamp", "timestamptz", "numeric", "bytea":
		return keytext.Type(name), true
	case "varchar":
		return keytext.String, true
	case "float4", "float8", "bpchar", "jsonb", "inet", "cidr", "macaddr":
		return notInKeys, true
	}
	return "", false
}

// baseType is the type, for a domain the type below it, when PostgreSQL itself defines it.
func baseType(c *schema.Column) keytext.Type {
	if c.TypeSchema != "pg_catalog" {
		return ""
	}
	t, _ := builtIn(c.TypeName)
	return t
}

// columnType is the type of a column, "" for one that conditions cannot be judged on.
func columnType(c *schema.Column) keytext.Type {
	if c.Category == 'e' {
		return keytext.Enum
	}
	return baseType(c)
}

// keyType is the type of a column whose values can stand in a key: equal values, and only they, have one text.
func keyType(c *schema.Column) (keytext.Type, bool) {
	t := columnType(c)
	return t, t != "" && t != notInKeys && c.Deterministic
}

// family names the btree operator family within which PostgreSQL's own = compares values of different types as their
// canonical texts do. The types of dates and times are apart, although they share a family: comparing them depends on
// the time zone.
func family(t keytext.Type, enum uint32) string {
	switch t {
	case keytext.Int2, keytext.Int4, keytext.Int8:
		return "integer"
	case keytext.Enum:
		return "enum " + strconv.FormatUint(uint64(enum), 10)
	default:
		return string(t)
	}
}

func columnFamily(c *schema.Column) string { return family(columnType(c), c.TypeOID) }

// inKeys refuses a column whose equality is not that of texts.
func inKeys(c columnRef, at int) *refusal {
	if c.column == nil {
		return &refusal{
			at: at, what: fmt.Sprintf("%s is the result of an expression", c), why: "what a changed row makes of it is not known here",
			do: "Compare columns of tables.",
		}
	}
	if _, ok := keyType(c.column); ok {
		return nil
	}
	r := &refusal{
		at: at, what: fmt.Sprintf("%s has the type %s", c, c.column.Type), why: "equal values of it can have different text, so that a changed row would be mapped to another key",
		do: "Join and look up by a column of a type with one text per value, such as bigint, uuid or text.",
	}
	if !c.column.Deterministic {
		r.what += " with a nondeterministic collation"
	}
	return r
}

// judgeable refuses a column that constants are compared with under rules that are not known here.
func judgeable(c columnRef, at int) error {
	if columnType(c.column) != "" {
		return nil
	}
	return &refusal{
		at: at, what: fmt.Sprintf("%s has the type %s", c, c.column.Type), why: "what comparing it reads and depends on is not known here",
		do: "Test a column of a built-in type.",
	}
}

// namesType reports whether a tree names the type of a column.
func namesType(t *pg_query.TypeName, c *schema.Column) bool {
	names := t.GetNames()
	if len(names) == 0 || len(names) > 2 || len(names) == 2 && names[0].GetString_().GetSval() != c.TypeSchema || len(t.GetArrayBounds()) > 0 {
		return false
	}
	return names[len(names)-1].GetString_().GetSval() == c.TypeName
}

// enumSchemas are the schemas that have an enum type, of some column, under the name that a tree has.
func (c *compiler) enumSchemas(t *pg_query.TypeName) []string {
	var found []string
	for _, table := range c.catalog.Tables {
		for i := range table.Columns {
			column := &table.Columns[i]
			if column.Category == 'e' && namesType(t, column) && !slices.Contains(found, column.TypeSchema) {
				found = append(found, column.TypeSchema)
			}
		}
	}
	return found
}

// qualify writes down the schema of a type that a constant is cast to.
func (b *block) qualify(cast *pg_query.TypeCast, schemaName string) {
	b.edit(func() {
		names := cast.GetTypeName().GetNames()
		cast.TypeName.Names = []*pg_query.Node{pg_query.MakeStrNode(schemaName), names[len(names)-1]}
	})
}

// castName is the type that a cast names.
func castName(cast *pg_query.TypeCast) (keytext.Type, bool) {
	name, ok := typeName(cast.GetTypeName())
	if !ok || len(cast.GetTypeName().GetTypmods()) > 0 || len(cast.GetTypeName().GetArrayBounds()) > 0 {
		return "", false
	}
	return builtIn(name)
}

// timeless refuses a constant such as 'today', and one whose meaning depends on the session's time zone or date style.
func timeless(t keytext.Type, k *pg_query.A_Const) error {
	switch t {
	case keytext.Date, keytext.Timestamp, keytext.Timestamptz:
	default:
		return nil
	}
	text, ok := constantText(k)
	if !ok {
		return nil
	}
	if _, err := keytext.Canonical(t, text); err != nil {
		return &refusal{
			at: int(k.GetLocation()), what: fmt.Sprintf("the constant '%s'", text), why: "what it means depends on the clock or on the session's settings",
			do: "Write it as 2006-01-02, with a time zone where the column has one (2006-01-02 15:04:05+00), or pass it as a parameter.",
		}
	}
	return nil
}

// constantText is the text of a constant that is not NULL.
func constantText(k *pg_query.A_Const) (string, bool) {
	switch v := k.GetVal().(type) {
	case *pg_query.A_Const_Ival:
		return strconv.Itoa(int(v.Ival.GetIval())), true
	case *pg_query.A_Const_Fval:
		return v.Fval.GetFval(), true
	case *pg_query.A_Const_Boolval:
		return strconv.FormatBool(v.Boolval.GetBoolval()), true
	case *pg_query.A_Const_Sval:
		return v.Sval.GetSval(), true
	}
	return "", false
}

// canonicalConstant is a constant's canonical text as a value of the column's type.
func canonicalConstant(c *schema.Column, k *pg_query.A_Const) (string, bool) {
	t, ok := keyType(c)
	text, known := constantText(k)
	if !ok || !known {
		return "", false
	}
	text, err := keytext.Canonical(t, text)
	return text, err == nil
}

// typeParams gives each parameter the type that PostgreSQL infers: that of the first column that it is compared with,
// or of its first cast. pgcatalog.Verify confirms it.
func (c *compiler) typeParams() error {
	families := make([]string, len(c.params))
	for _, use := range c.typed {
		if use.weak {
			continue
		}
		n := use.parameter
		t, oid := use.cast, uint32(0)
		if use.cast == "" {
			if inKeys(*use.column, use.at) != nil {
				continue // it stays without a type, which is said where it is missed
			}
			t, oid = columnType(use.column.column), use.column.column.TypeOID
		}
		c.setType(n, t)
		if families[n-1] == "" {
			families[n-1] = family(t, oid)
		}
		other := use.column != nil && inKeys(*use.column, use.at) == nil && family(t, oid) != columnFamily(use.column.column)
		if !other && families[n-1] == family(t, oid) {
			continue
		}
		r := &refusal{
			at: use.at, what: fmt.Sprintf("parameter {%s} is %s and is cast to %s", c.params[n-1].Name, c.params[n-1].Type, t),
			why: "equal values of different types can have different text, so that a changed row would be mapped to another key",
			do:  "Compare the parameter with columns of one type.",
		}
		if use.column != nil {
			r.what = fmt.Sprintf("parameter {%s} is %s and %s is %s", c.params[n-1].Name, c.params[n-1].Type, use.column, use.column.column.Type)
		}
		return r
	}
	for _, use := range c.typed {
		if use.weak {
			c.setType(use.parameter, use.cast)
		}
	}
	return nil
}
