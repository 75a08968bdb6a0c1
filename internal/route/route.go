// Package route applies compiled rules to the changed rows of the log: which keys of which entries a row affects, and
// which a transaction names itself. It is pure, and errs to one side only: what it cannot tell for certain moves the version of the entries concerned.
package route

import (
	"fmt"
	"slices"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
)

// Router maps changed rows to keys. It is used from one goroutine.
type Router struct {
	tables  map[table][]binding
	targets map[string][]*target // by the entry's name, one for each version
	shapes  map[uint32]*shape    // by OID: as the log last described it
	names   map[table]uint32     // the OID that last had the name
	planned map[uint32]table     // the name that an OID had when the entries were planned
	tagged  []int                // the versions whose values are tied to tags by hand
	scratch []byte
	rows    uint64 // that were routed
}

type table struct{ schema, name string }

// binding is a rule under its entry, compiled as far as that goes without the table's shape.
type binding struct {
	entry    int
	number   int // of the rule, in its entry
	rule     *rule.Rule
	literals []string
	types    []keytext.Type
	fixed    [][]byte // the text of a parameter that is no column of the row
	broken   string   // why the rule cannot be applied at all
}

// shape is a Relation with the rules compiled for its columns.
type shape struct {
	relation *change.Relation
	rules    []compiled
}

type compiled struct {
	*binding
	bind       []int // column indexes, of the n-th parameter or of the n-th value of an epoch, or fixed
	never      []int // further columns without which, where they are NULL, the row does not matter
	filter     []int // columns that matter to an UPDATE; nil: all
	conditions []condition
	broken     string
}

// fixed stands for a column where the rule itself has the argument.
const fixed = -1

type condition struct {
	column int
	typ    keytext.Type
	op     rule.Comparison
	values []string
}

// New compiles the rules of entries, which Keys names by their index.
func New(entries []*rule.Entry) *Router {
	r := &Router{
		tables: map[table][]binding{}, targets: map[string][]*target{}, shapes: map[uint32]*shape{}, names: map[table]uint32{},
		planned: map[uint32]table{},
	}
	for i, e := range entries {
		r.targets[e.Name] = append(r.targets[e.Name], aim(i, e))
		if e.Tags != "" {
			r.tagged = append(r.tagged, i)
		}
		for j := range e.Rules {
			b := bind(i, e, j)
			name := table{b.rule.Schema, b.rule.Table}
			r.tables[name] = append(r.tables[name], b)
		}
	}
	return r
}

func bind(index int, e *rule.Entry, number int) binding {
	one := &e.Rules[number]
	b := binding{entry: index, number: number, rule: one}
	template, err := rule.ParseTemplate(e.Key)
	switch {
	case err != nil:
		b.broken = err.Error()
		return b
	case one.Class == rule.Tag && one.Tag != nil && len(one.Tag.From) > 0 && len(one.Tag.From) == len(one.Tag.Types):
		for _, t := range one.Tag.Types {
			b.types = append(b.types, t.Wide())
		}
		return b
	case one.Class == rule.Lookup && one.Lookup != nil && len(one.Lookup.From) > 0 && len(one.Lookup.From) == len(one.Lookup.Types):
		for _, t := range one.Lookup.Types {
			b.types = append(b.types, t.Wide())
		}
		return b
	case one.Class == rule.Broad:
		return b
	case one.Class != "" && one.Class != rule.Group:
		b.broken = fmt.Sprintf("a rule of the class %s, which this program does not know", one.Class)
		return b
	case len(template.Params()) != len(e.Params) || len(one.Bind) != len(e.Params) || one.Fixed != nil && len(one.Fixed) != len(e.Params):
		b.broken = fmt.Sprintf("the rule binds %d columns, the key has %d parameters", len(one.Bind), len(template.Params()))
		return b
	}
	b.literals = template.Literals()
	for _, p := range e.Params {
		b.types = append(b.types, p.Type.Wide())
	}
	if one.Fixed == nil {
		return b
	}
	b.fixed = make([][]byte, len(one.Fixed))
	for i, a := range one.Fixed {
		if a != nil {
			b.fixed[i] = keytext.AppendEscaped(nil, *a)
		}
	}
	return b
}

// Planned says which OID a table had when the entries were planned. Without it a table would not be known that the log
// first shows under another name: it was renamed, written and renamed back while nobody followed the log, say, and the
// rows of that time affect what is cached.
func (r *Router) Planned(schema, name string, oid uint32) {
	r.planned[oid], r.names[table{schema, name}] = table{schema, name}, oid
}

// remember compiles the rules for a relation as the log describes it now.
func (r *Router) remember(relation *change.Relation) *shape {
	name := table{relation.Schema, relation.Name}
	s := &shape{relation: relation}
	bindings := r.tables[name]
	for i := range bindings {
		s.rules = append(s.rules, compile(&bindings[i], relation))
	}
	r.shapes[relation.OID] = s
	r.names[name] = relation.OID
	return s
}

func compile(b *binding, relation *change.Relation) compiled {
	c := compiled{binding: b, broken: b.broken}
	column := func(name string) int {
		return slices.IndexFunc(relation.Columns, func(c change.Column) bool { return c.Name == name })
	}
	if c.broken != "" {
		return c
	}
	if b.rule.Tied() {
		c.tie(column)
	}
	named := b.rule.Bind
	if b.rule.Class == rule.Lookup {
		named = b.rule.Lookup.From
	}
	for n, name := range named {
		if b.rule.Tied() {
			break
		}
		if n < len(b.fixed) && b.fixed[n] != nil {
			c.bind = append(c.bind, fixed)
			continue
		}
		i := column(name)
		if i < 0 {
			c.broken = fmt.Sprintf("the log does not carry column %s of %s.%s", name, relation.Schema, relation.Name)
			return c
		}
		c.bind = append(c.bind, i)
	}
	for _, w := range b.rule.Where {
		if i := column(w.Column); i >= 0 { // a column that the log does not carry cannot be judged
			c.conditions = append(c.conditions, condition{column: i, typ: w.Type.Wide(), op: w.Op, values: w.Values})
		}
	}
	if relation.Identity != change.IdentityFull {
		return c
	}
	for _, name := range b.rule.Columns {
		i := column(name)
		if i < 0 {
			c.filter = nil
			return c
		}
		c.filter = append(c.filter, i)
	}
	return c
}

// look returns the compiled shape of a relation. One that the log describes otherwise than before moves its entries:
// what was cached was read from a table of another shape.
func (r *Router) look(relation *change.Relation, out *Keys) *shape {
	known := r.shapes[relation.OID]
	if known != nil && known.relation == relation {
		return known
	}
	name := table{relation.Schema, relation.Name}
	before, named := r.names[name]
	if planned, ok := r.planned[relation.OID]; ok && known == nil && planned != name {
		r.moveAll(planned, fmt.Sprintf("table %s.%s was written under the name %s.%s", planned.schema, planned.name, name.schema, name.name), out)
	}
	s := r.remember(relation)
	switch {
	case known != nil && !sameShape(known.relation, relation):
		old := table{known.relation.Schema, known.relation.Name}
		cause := fmt.Sprintf("table %s.%s was altered", old.schema, old.name)
		r.moveAll(old, cause, out)
		r.moveAll(name, cause, out)
	case named && before != relation.OID:
		r.moveAll(name, fmt.Sprintf("table %s.%s was replaced by another one", name.schema, name.name), out)
	}
	return s
}

func sameShape(a, b *change.Relation) bool {
	return a.Schema == b.Schema && a.Name == b.Name && a.Identity == b.Identity && slices.Equal(a.Columns, b.Columns)
}

func (r *Router) moveAll(name table, cause string, out *Keys) {
	for i := range r.tables[name] {
		out.move(r.tables[name][i].entry, func() string { return cause })
	}
}

// Truncate moves the versions of all entries that read one of the tables.
func (r *Router) Truncate(t *change.Truncate, out *Keys) {
	for _, relation := range t.Relations {
		r.look(relation, out)
		name := table{relation.Schema, relation.Name}
		r.moveAll(name, "TRUNCATE of "+name.schema+"."+name.name, out)
	}
}

// Row adds the keys that a changed row affects, through its old image and through its new one, to out.
func (r *Router) Row(row *change.Row, out *Keys) {
	s := r.look(row.Relation, out)
	if len(s.rules) == 0 {
		return
	}
	if problem := malformed(row); problem != "" {
		cause := fmt.Sprintf("%s of %s.%s: %s", row.Op, row.Relation.Schema, row.Relation.Name, problem)
		r.moveAll(table{row.Relation.Schema, row.Relation.Name}, cause, out)
		return
	}
	r.rows++
	for i := range s.rules {
		c := &s.rules[i]
		out.cause = Cause{Rule: c.number, Row: row, Number: r.rows}
		if c.broken != "" {
			out.move(c.entry, func() string { return c.broken })
			continue
		}
		if row.Op == change.Update && c.irrelevant(row) {
			continue
		}
		if row.Op != change.Insert {
			out.cause.Old = true
			r.image(c, row, oldValue, out)
		}
		if row.Op != change.Delete {
			out.cause.Old = false
			r.image(c, row, newValue, out)
		}
	}
	out.cause = Cause{}
}

// malformed says what makes a row impossible to read as the operation that it claims to be.
func malformed(row *change.Row) string {
	columns := len(row.Relation.Columns)
	hasOld, hasNew := row.Old != nil, row.New != nil
	switch {
	case hasOld && len(row.Old) != columns, hasNew && len(row.New) != columns:
		return "its values do not match the table's columns"
	case row.Op == change.Insert && hasNew, row.Op == change.Delete && hasOld, row.Op == change.Update && hasNew:
		return ""
	}
	return "it lacks the row"
}
