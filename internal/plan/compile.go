package plan

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
)

// occurrenceRule makes the rule of one occurrence, or refuses: each of the key's parameters has to be one of its
// columns.
func (c *compiler) occurrenceRule(b *block, o *occurrence, ignored map[*schema.Table][]string) (rule.Rule, TableExplain, error) {
	active := b.active(o)
	equal := classesOf(active)
	r := rule.Rule{Schema: o.table.Schema, Table: o.table.Name.Name, Occurrence: o.alias, Bind: []string{}}
	for i := range c.params {
		bound := c.bind(o, equal.root(parameterNode(i+1)), equal)
		if bound == "" {
			return r, TableExplain{}, c.unbound(b, o, i)
		}
		r.Bind = append(r.Bind, bound)
	}
	for _, a := range active {
		if a.filter != nil && a.on == o && b.filters(a) {
			r.Where = append(r.Where, *a.filter)
		}
	}
	if err := identified(o.table, r.Bind, int(o.node.GetLocation())); err != nil {
		return r, TableExplain{}, err
	}
	var err error
	if r.Columns, err = c.columns(o, r.Bind, ignored[o.table]); err != nil {
		return r, TableExplain{}, err
	}
	return r, c.explainRule(r, o.table, ignored[o.table]), nil
}

// bind chooses the column of the occurrence that is equal to a parameter: rather one whose old value the log carries,
// then the first of the table. A generated column is not in the log.
func (c *compiler) bind(o *occurrence, root string, equal classes) string {
	best := ""
	for i := range o.table.Columns {
		column := &o.table.Columns[i]
		if column.Generated || equal.root(columnNode(o.alias, column.Name)) != root {
			continue
		}
		if best == "" || !slices.Contains(o.table.IdentityCols, best) && slices.Contains(o.table.IdentityCols, column.Name) {
			best = column.Name
		}
	}
	return best
}

// unbound refuses an occurrence that a parameter is not tied to.
func (c *compiler) unbound(b *block, o *occurrence, i int) error {
	name := c.params[i].Name
	r := &refusal{
		at:   int(o.node.GetLocation()),
		what: fmt.Sprintf("no column of %s is tied to parameter {%s} by an equality", describe(o), name),
		why: fmt.Sprintf("from a changed row of %s alone it cannot be told which keys it affects; that needs a TAG, LOOKUP or BROAD rule, and those are not built yet",
			o.table.Name.Name),
	}
	inOn, generated := false, false
	for _, a := range b.atoms {
		if a.equal && a.right.parameter == i+1 && a.join != nil && a.join.outer && !a.join.reduced && a.join.nullable&o.bit() == 0 {
			inOn = true
		}
	}
	all := classesOf(b.active(o))
	for j := range o.table.Columns {
		column := &o.table.Columns[j]
		generated = generated || column.Generated && all.root(columnNode(o.alias, column.Name)) == all.root(parameterNode(i+1))
	}
	switch {
	case c.params[i].Type == "":
		r.what = fmt.Sprintf("parameter {%s} is not compared with any column by =", name)
		r.why, r.do = "its type, and which rows matter to a key, follow from such a comparison", fmt.Sprintf("Add a condition such as %s.id = @%s.", o.alias, name)
	case generated:
		r.why = "the column that is tied to it is generated, and the log does not carry generated columns"
		r.do = "Compare the parameter with a stored column."
	case inOn:
		r.why = fmt.Sprintf("@%s stands only in the ON of an outer join, so every row of %s is in the result of every key; that needs a BROAD rule, which is not built yet", name, o.table.Name.Name)
		r.do = fmt.Sprintf("Tie %s to @%s in WHERE, or cache the two tables in two entries.", o.alias, name)
	default:
		r.do = fmt.Sprintf("Store the column in %s and compare it with @%s, cache %s in an entry under its own key, or load the entry by code and declare depends_on.", o.table.Name.Name, name, o.table.Name.Name)
	}
	return r
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
	full := fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL;", quoted(t.Name))
	if len(missing) == 0 {
		// Of a partitioned table the partitions' identities count, at which whoever publishes it looks.
		if len(t.IdentityCols) > 0 || t.Identity == change.IdentityFull || t.Kind == schema.PartitionedTable {
			return nil
		}
		return &refusal{
			at: at, what: fmt.Sprintf("old rows of %s carry nothing (REPLICA IDENTITY %s)", t.Name.Name, identityName(t)),
			why: "once it is published, PostgreSQL refuses the application's UPDATE and DELETE on it", do: full,
		}
	}
	r := &refusal{
		at:   at,
		what: fmt.Sprintf("old rows of %s do not carry %s (REPLICA IDENTITY %s)", t.Name.Name, strings.Join(missing, ", "), identityName(t)),
		why:  "a DELETE, or an UPDATE that changes it, could not be mapped to the key that the row leaves",
	}
	switch {
	case t.Kind == schema.PartitionedTable:
		r.do = fmt.Sprintf("Give %s a primary key that includes %s, and leave it and its partitions at REPLICA IDENTITY DEFAULT (partitions that are created later have it).", t.Name.Name, strings.Join(missing, ", "))
	case len(t.PrimaryKey) == 0 || len(nullable) > 0:
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
func (c *compiler) ignored(b *block) (map[*schema.Table][]string, error) {
	ignored := map[*schema.Table][]string{}
	for _, name := range c.declared.UnsafeIgnore {
		parts := strings.Split(name, ".")
		found, noEffect := false, (*schema.Table)(nil)
		for _, o := range b.occurrences {
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
func shape(occurrences []*occurrence) string {
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
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// warnAboutPartitions notes what the log does not say of partitioned tables.
func (c *compiler) warnAboutPartitions(tables ...*schema.Table) {
	for _, t := range tables {
		if t.Kind == schema.PartitionedTable {
			c.warn("%s is partitioned: TRUNCATE of one partition, ATTACH and DETACH leave nothing in the log, and show within some seconds, not at once", t.Name.Name)
		}
	}
}

// warnAboutOrder notes what the result does not say by itself.
func (c *compiler) warnAboutOrder(b *block) {
	single := b.singleRow()
	switch {
	case c.declared.Result == rule.Many && !b.ordered && !single:
		c.warn("the rows come in no particular order: two loads of the same data may differ; add ORDER BY")
	case c.declared.Result == rule.One && !single:
		c.warn("result is one, but nothing says that the query returns at most one row; use result: many, or compare with all columns of a primary key")
	}
}

// singleRow reports whether primary keys say that one key has at most one row: each occurrence has all columns of its
// primary key tied to parameters, to constants, or to an occurrence of which that is known.
func (b *block) singleRow() bool {
	known := bits(0)
	for changed := true; changed; {
		changed = false
		for _, o := range b.occurrences {
			if known&o.bit() != 0 || len(o.table.PrimaryKey) == 0 {
				continue
			}
			if b.determined(o, known) {
				known, changed = known|o.bit(), true
			}
		}
	}
	return known == 1<<len(b.occurrences)-1
}

func (b *block) determined(o *occurrence, known bits) bool {
	for _, key := range o.table.PrimaryKey {
		found := false
		for _, a := range b.active(o) {
			if !a.equal {
				found = found || a.on == o && a.filter != nil && a.filter.Op == rule.In && len(a.filter.Values) == 1 && a.filter.Column == key
				continue
			}
			for _, side := range [2][2]operand{{a.left, a.right}, {a.right, a.left}} {
				own, other := side[0].column, side[1].column
				if own != nil && own.occurrence == o && own.column.Name == key && (other == nil || other.occurrence.bit()&known != 0) {
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
