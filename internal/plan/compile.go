package plan

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
)

// occurrenceRules makes the rules of one occurrence, one for each case that differs, or refuses: each of the key's
// parameters has to be one of its columns, or a constant.
func (c *compiler) occurrenceRules(o *occurrence, ignored []string) ([]rule.Rule, error) {
	var rules []rule.Rule
	for _, d := range c.decide(o) {
		r, err := c.caseRule(d, ignored)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(rules, func(other rule.Rule) bool { return covers(other, r) }) {
			continue
		}
		rules = slices.DeleteFunc(rules, func(other rule.Rule) bool { return covers(r, other) })
		rules = append(rules, r)
	}
	return rules, nil
}

// covers reports that the first rule names every key that the second one names: it demands no more of a row.
func covers(r, other rule.Rule) bool {
	for _, condition := range r.Where {
		if !slices.ContainsFunc(other.Where, func(c rule.Condition) bool { return reflect.DeepEqual(c, condition) }) {
			return false
		}
	}
	other.Where = r.Where
	return reflect.DeepEqual(r, other)
}

func (c *compiler) caseRule(d *decision, ignored []string) (rule.Rule, error) {
	o := d.of
	r := rule.Rule{Schema: o.table.Schema, Table: o.table.Name.Name, Occurrence: o.alias, Bind: []string{}}
	for _, i := range d.missing {
		if c.params[i].Type == "" {
			return r, c.untyped(i)
		}
	}
	if err := c.unmet(d); err != nil {
		return r, err
	}
	if d.class != rule.Exact {
		if !c.serves(d.class) || d.class == rule.Broad && !c.allowed(o.table) {
			return r, c.refuse(d)
		}
		r.Class = d.class
	}
	for i, bound := range d.bound {
		if fixed, ok := d.constant(i+1, d.equal); ok && bound == "" && d.class != rule.Broad {
			if r.Fixed == nil {
				r.Fixed = make([]*keytext.Arg, len(c.params))
			}
			r.Fixed[i] = fixed
		}
		r.Bind = append(r.Bind, bound)
	}
	switch d.class {
	case rule.Lookup:
		r.Lookup = c.search(d)
	case rule.Tag:
		r.Tag = c.tag(d)
	default:
	}
	r.Where = d.conditions(o, d.equal)
	if err := c.identify(d, r.Needs()); err != nil {
		return r, err
	}
	var err error
	r.Columns, err = c.columns(o, r.Needs(), ignored)
	return r, err
}

// conditions are the constant predicates that every row of an occurrence satisfies which is in a combination that matters:
// those on its own columns, and those on columns that are equal to one.
func (g *gathering) conditions(o *occurrence, equal classes) []rule.Condition {
	var where []rule.Condition
	add := func(c rule.Condition) {
		if !slices.ContainsFunc(where, func(other rule.Condition) bool { return reflect.DeepEqual(other, c) }) {
			where = append(where, c)
		}
	}
	for i := range g.facts {
		f := &g.facts[i]
		switch {
		case f.filter == nil:
		case f.on.occurrence == o:
			if g.filters(f) {
				add(*f.filter)
			}
		case f.strict != 0 && (f.filter.Op == rule.In || f.filter.Op == rule.NotIn):
			for j := range o.table.Columns {
				column := &o.table.Columns[j]
				own := columnRef{occurrence: o, name: column.Name, column: column}
				if !column.Generated && equal.root(own.node()) == equal.root(f.on.node()) {
					mapped := *f.filter
					mapped.Column = column.Name
					add(mapped)
				}
			}
		}
	}
	return where
}

// constant finds the constant that a parameter is equal to.
func (g *gathering) constant(n int, equal classes) (*keytext.Arg, bool) {
	root := equal.root(parameterNode(n))
	for i := range g.facts {
		f := &g.facts[i]
		switch {
		case f.null == n:
			return &keytext.Arg{Null: true}, true
		case f.filter != nil && f.constant() && f.strict != 0 && equal.root(f.on.node()) == root:
			return &keytext.Arg{Text: f.filter.Values[0]}, true
		}
	}
	return nil, false
}

// bind chooses the column of the occurrence that is equal to a parameter: rather one whose old value the log carries,
// then the first of the table. A generated column is not in the log.
func (c *compiler) bind(o *occurrence, parameter int, equal classes) string {
	return c.columnOf(o, equal.root(parameterNode(parameter+1)), equal)
}

func (c *compiler) columnOf(o *occurrence, root string, equal classes) string {
	best := ""
	for i := range o.table.Columns {
		column := &o.table.Columns[i]
		own := columnRef{occurrence: o, name: column.Name}
		if column.Generated || equal.root(own.node()) != root {
			continue
		}
		if best == "" || !slices.Contains(o.table.IdentityCols, best) && slices.Contains(o.table.IdentityCols, column.Name) {
			best = column.Name
		}
	}
	return best
}

func describe(o *occurrence) string {
	if o.alias == o.table.Name.Name {
		return o.alias
	}
	return fmt.Sprintf("%s (%s)", o.table.Name.Name, o.alias)
}

// columns are those that the query reads of the occurrence, without the ignored ones. A generated column stands for
// columns that are not known here: then all count.
func (c *compiler) columns(o *occurrence, bind, ignored []string) ([]string, error) {
	columns := make([]string, 0, len(o.read))
	for name := range o.read {
		if o.table.Column(name).Generated {
			return nil, nil
		}
		if !slices.Contains(ignored, name) {
			columns = append(columns, name)
			continue
		}
		if slices.Contains(bind, name) {
			return nil, &refusal{
				at: nowhere, what: fmt.Sprintf("unsafe_ignore names %s.%s, which the key is made of", o.table.Name.Name, name),
				why: "a row that moves to another key would stay in the old one for ever", do: "Take it out of unsafe_ignore.",
			}
		}
	}
	if len(columns) == 0 && len(o.read) > 0 {
		return nil, &refusal{
			at: nowhere, what: "unsafe_ignore names every column that the query reads of " + o.table.Name.Name,
			why: "no update of it would count", do: "Take one of them out of unsafe_ignore.",
		}
	}
	slices.Sort(columns)
	return columns, nil
}

// identified refuses a table whose old row images lack a column that the key is made of, or that cannot be published
// without breaking those who write to it.
func identified(t *schema.Table, bind []string, at int) error {
	if r := unidentified(t, bind, at); r != nil {
		return r
	}
	return nil
}

func unidentified(t *schema.Table, bind []string, at int) *refusal {
	var missing, nullable []string
	for _, name := range bind {
		if slices.Contains(t.IdentityCols, name) || slices.Contains(missing, name) {
			continue
		}
		missing = append(missing, name)
		if !t.Column(name).NotNull {
			nullable = append(nullable, name)
		}
	}
	alter := fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY ", quoted(t.Name))
	full, usual := alter+"FULL;", alter+"DEFAULT;"
	// The primary key has what is missing, and only needs to be the identity.
	byKey := t.Identity == change.IdentityNothing && len(t.PrimaryKey) > 0 && !t.DeferrableKey &&
		!slices.ContainsFunc(missing, func(name string) bool { return !slices.Contains(t.PrimaryKey, name) })
	if len(missing) == 0 {
		// Of a partitioned table the partitions' identities count, at which whoever publishes it looks.
		if len(t.IdentityCols) > 0 || t.Identity == change.IdentityFull || t.Kind == schema.PartitionedTable {
			return nil
		}
		r := &refusal{
			at: at, what: fmt.Sprintf("old rows of %s carry nothing (REPLICA IDENTITY %s)", t.Name.Name, identityName(t)),
			why: "once it is published, PostgreSQL refuses the application's UPDATE and DELETE on it", do: full,
		}
		if byKey {
			r.do = usual
		}
		return r
	}
	r := &refusal{
		at:   at,
		what: fmt.Sprintf("old rows of %s do not carry %s (REPLICA IDENTITY %s)", t.Name.Name, strings.Join(missing, ", "), identityName(t)),
		why:  "a DELETE, or an UPDATE that changes it, could not be mapped to the key that the row leaves",
	}
	switch {
	case t.Kind == schema.PartitionedTable && !slices.ContainsFunc(missing, func(name string) bool { return !slices.Contains(t.PrimaryKey, name) }):
		r.do = fmt.Sprintf("Set %s and its partitions to REPLICA IDENTITY DEFAULT: their old rows agree only under that.", t.Name.Name)
	case t.Kind == schema.PartitionedTable:
		r.do = fmt.Sprintf("Give %s a primary key that includes %s, and leave it and its partitions at REPLICA IDENTITY DEFAULT (partitions that are created later have it).", t.Name.Name, strings.Join(missing, ", "))
	case byKey:
		r.do = usual
	case len(t.PrimaryKey) == 0 || t.DeferrableKey || len(nullable) > 0:
		r.do = full
	default:
		// What the identity carries now stays in it: another entry may need it.
		name := t.Name.Name + "_freshet"
		if t.Identity == change.IdentityIndex {
			name += "_" + strings.Join(missing, "_")
		}
		var columns []string
		for _, column := range slices.Concat(t.PrimaryKey, t.IdentityCols, missing) {
			if column = quoteIdent(column); !slices.Contains(columns, column) {
				columns = append(columns, column)
			}
		}
		index := quoteIdent(name)
		r.do = fmt.Sprintf("CREATE UNIQUE INDEX CONCURRENTLY %s ON %s (%s); ALTER TABLE %s REPLICA IDENTITY USING INDEX %s;",
			index, quoted(t.Name), strings.Join(columns, ", "), quoted(t.Name), index)
	}
	return r
}

func identityName(t *schema.Table) string {
	switch t.Identity {
	case change.IdentityDefault:
		if len(t.PrimaryKey) == 0 {
			return "DEFAULT, without a primary key"
		}
		if len(t.IdentityCols) == 0 && t.Kind == schema.PartitionedTable {
			return "of its partitions, which differ"
		}
		if len(t.IdentityCols) == 0 && t.Kind == schema.OrdinaryTable {
			return "DEFAULT, which takes no DEFERRABLE primary key"
		}
		return "DEFAULT: " + strings.Join(t.PrimaryKey, ", ")
	case change.IdentityFull:
		return "FULL"
	case change.IdentityIndex:
		return "USING INDEX: " + strings.Join(t.IdentityCols, ", ")
	case change.IdentityNothing:
		return "NOTHING"
	}
	return string(t.Identity)
}

// ignored reads unsafe_ignore: table.column or schema.table.column, of tables of the query.
func (c *compiler) ignored() (map[*schema.Table][]string, error) {
	ignored := map[*schema.Table][]string{}
	for _, name := range c.declared.UnsafeIgnore {
		parts := strings.Split(name, ".")
		found, noEffect := false, (*schema.Table)(nil)
		for _, o := range c.tables() {
			if len(parts) < 2 || parts[len(parts)-2] != o.table.Name.Name || len(parts) == 3 && parts[0] != o.table.Schema || len(parts) > 3 {
				continue
			}
			column := o.table.Column(parts[len(parts)-1])
			if column == nil {
				continue
			}
			if found = true; o.table.Identity != change.IdentityFull {
				noEffect = o.table
			}
			if !slices.Contains(ignored[o.table], column.Name) {
				ignored[o.table] = append(ignored[o.table], column.Name)
			}
		}
		if !found {
			return nil, &refusal{
				at: nowhere, what: fmt.Sprintf("unsafe_ignore names %s, which is no column of a table of the query", name),
				do: "Write table.column with the table's own name, not its alias.",
			}
		}
		if noEffect != nil {
			c.warn("unsafe_ignore of %s has no effect yet: without whole old rows in the log every UPDATE of %s counts; ALTER TABLE %s REPLICA IDENTITY FULL; would give it one",
				name, noEffect.Name.Name, quoted(noEffect.Name))
			continue
		}
		c.warn("changes of %s are ignored (unsafe_ignore): readers may see its old value for as long as the TTL", name)
	}
	return ignored, nil
}

func ignoredNames(ignored map[*schema.Table][]string) []string {
	var names []string
	for t, columns := range ignored {
		for _, column := range columns {
			names = append(names, t.String()+"."+column)
		}
	}
	slices.Sort(names)
	return names
}

// shape digests what the catalog says of what the query reads.
func (c *compiler) shape(occurrences []*occurrence, views ...*schema.Table) string {
	tables := map[*schema.Table]map[string]bool{}
	for _, o := range occurrences {
		if tables[o.table] == nil {
			tables[o.table] = map[string]bool{}
		}
		maps.Copy(tables[o.table], o.read)
	}
	sorted := slices.SortedFunc(maps.Keys(tables), func(x, y *schema.Table) int { return cmp.Compare(x.String(), y.String()) })
	var text []byte
	for _, t := range sorted {
		text = fmt.Appendf(text, "%q %d %c\n", t.String(), t.OID, t.Kind)
		for _, column := range t.Columns {
			if tables[t][column.Name] {
				text = fmt.Appendf(text, "%q %d %d %q\n", column.Name, column.Num, column.TypeOID, column.Type)
			}
		}
	}
	for _, v := range views {
		text = fmt.Appendf(text, "%q %d %q\n", v.String(), v.OID, v.Definition)
	}
	for _, f := range c.functions {
		text = fmt.Appendf(text, "%q %s\n", f.String(), f.Definition)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// warnAboutPartitions notes what the log does not say of partitioned tables.
func (c *compiler) warnAboutPartitions(tables ...*schema.Table) {
	for _, t := range tables {
		if t.Kind == schema.PartitionedTable {
			c.warn("%s is partitioned: TRUNCATE of one partition leaves nothing in the log, and shows within some seconds; so do ATTACH and DETACH, unless event triggers tell of them", t.Name.Name)
		}
	}
}

// warnAboutOrder notes what the result does not say by itself.
func (c *compiler) warnAboutOrder(q *query) {
	single := q.singleRow()
	switch {
	case c.declared.Result == rule.Many && !q.ordered && !single:
		c.warn("the rows come in no particular order: two loads of the same data may differ; add ORDER BY")
	case c.declared.Result == rule.One && !single:
		c.warn("result is one, and the primary keys of what is in its FROM do not show that the query returns at most one row; should it not, use result: many, or compare with all columns of a primary key")
	}
	for _, b := range c.blocks {
		s := b.statement
		if (s.GetLimitCount() != nil || s.GetLimitOffset() != nil || b.hasDistinct) && !b.totalOrder() {
			c.warn("LIMIT, OFFSET or DISTINCT ON keeps rows by an order that is not known to be total: two loads of the same data may keep different ones; end ORDER BY with a primary key")
			break
		}
	}
	c.warnAboutTies()
}

// totalOrder reports whether ORDER BY tells any two rows apart.
func (b *block) totalOrder() bool {
	if b.aggregates {
		return b.groupItems == 0 && !b.sets
	}
	return b.total(b.orderedBy)
}

// total reports whether the columns tell any two rows of FROM apart: they have all of the primary key of every table that
// has more than one row for a key, but for what is the same in all of those.
func (b *block) total(by []columnRef) bool {
	single := b.singleItems()
	for _, o := range b.items {
		if single&o.bit() != 0 {
			continue
		}
		if o.table == nil || len(o.table.PrimaryKey) == 0 || !determined(o, single, by...) {
			return false
		}
	}
	return true
}

// singleRow reports whether it is known that one key has at most one row.
func (q *query) singleRow() bool {
	if len(q.arms) != 1 {
		return false
	}
	b := q.arms[0]
	if b.aggregates {
		return b.groupItems == 0
	}
	if k := b.statement.GetLimitCount().GetAConst().GetIval(); k != nil && k.GetIval() <= 1 {
		return true
	}
	for _, o := range b.items {
		if b.singleItems()&o.bit() == 0 {
			return false
		}
	}
	return true
}

// singleItems are the tables of FROM of which one key has at most one row, because primary keys say so: all columns of
// the primary key are tied to parameters, to constants, or to a table of which that is known.
func (b *block) singleItems() bits {
	known := bits(0)
	for changed := true; changed; {
		changed = false
		for _, o := range b.items {
			if known&o.bit() != 0 || o.table == nil || len(o.table.PrimaryKey) == 0 {
				continue
			}
			if determined(o, known) {
				known, changed = known|o.bit(), true
			}
		}
	}
	return known
}

// determined reports whether the primary key is: each of its columns is tied, or among those given.
func determined(o *occurrence, known bits, given ...columnRef) bool {
	g := gather(o, nil, true)
	for _, key := range o.table.PrimaryKey {
		own := columnRef{occurrence: o, name: key}
		found := slices.ContainsFunc(given, own.same)
		for i := range g.facts {
			f := &g.facts[i]
			if !f.equal {
				found = found || f.filter != nil && f.constant() && f.on.same(own)
				continue
			}
			for _, pair := range [2][2]operand{{f.left, f.right}, {f.right, f.left}} {
				mine, other := pair[0].column, pair[1].column
				if mine != nil && mine.same(own) && (other == nil || other.occurrence.bit()&known != 0) {
					found = true
				}
			}
		}
		if !found {
			return false
		}
	}
	return true
}
