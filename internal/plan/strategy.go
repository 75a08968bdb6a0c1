package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"

	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
)

// Which class of rule an occurrence needs.
//
// EXACT where its own columns, or constants, are all of the key. Otherwise the keys may follow through other tables: over
// equalities that count for it, to tables that have the rest. Whoever then looks the keys up, at whatever later time, may
// find that another transaction has taken the way there apart; that transaction's own rows must lead to the key instead.
// This is the rank condition: each table on the way has a rule that needs less (a shorter way, or none), and whatever that
// rule demands of its row is demanded here as well. Where the condition fails, or no way leads there, all keys count that
// have what is known in common: GROUP, and BROAD when nothing is known.

// decision is the class of an occurrence in one case, and why it is not a better one.
type decision struct {
	*gathering
	equal   classes
	ties    map[*occurrence]map[string]string
	class   rule.Class
	path    []step   // TAG and LOOKUP: through which other tables the keys follow
	missing []int    // parameters that the row does not tell, by index
	bound   []string // by parameter: the column that the rule binds to it
	lacking []string // columns that old rows do not carry, for which the rule is broader than it could be
	why     string
}

// step is one table of a path.
type step struct {
	to   *occurrence
	text string // the equality that leads there
}

// decide decides for every case of an occurrence. It returns nothing for one that is being decided: a way that comes back
// to where it began is none.
func (c *compiler) decide(o *occurrence) []*decision {
	if decided, ok := c.decisions[o]; ok {
		return decided
	}
	c.decisions[o] = nil
	var decided []*decision
	for _, g := range cases(o) {
		d := &decision{gathering: g, equal: g.classes(), class: rule.Exact}
		for i := range c.params {
			d.bound = append(d.bound, c.bind(o, i, d.equal))
			if _, fixed := g.constant(i+1, d.equal); !fixed && d.bound[i] == "" {
				d.missing = append(d.missing, i)
			}
		}
		if len(d.missing) > 0 {
			c.fallBack(d)
		}
		c.broaden(d)
		decided = append(decided, d)
	}
	c.decisions[o] = decided
	return decided
}

// fallBack chooses the class of an occurrence whose rows do not tell the keys.
func (c *compiler) fallBack(d *decision) {
	path, reached := c.way(d)
	known := c.knownText(d)
	switch {
	case reached && c.ranked(d, path):
		texts := make([]string, 0, len(path))
		for _, s := range path {
			texts = append(texts, s.text)
		}
		d.class, d.path = rule.Tag, path
		if c.serves(rule.Lookup) && (!c.serves(rule.Tag) || c.wish(d.of.table) == wishLookup) {
			d.class = rule.Lookup
		}
		d.why = "the keys follow through other tables (" + strings.Join(texts, ", ") + ")"
		if len(path) == 0 {
			d.why = "it has elements of a parameter, which many keys may have"
		}
		if d.class == rule.Tag && c.serves(rule.Group) && c.told(d) {
			d.class, d.path = rule.Group, nil
		}
	case reached && known != "":
		d.class = rule.Group
		d.why = "the keys follow through other tables that need it in turn, so that changes of both in two transactions could hide each other; what it says itself is " + known
	case known != "":
		d.class, d.why = rule.Group, "a changed row says only "+known+" of the key"
	default:
		d.class, d.why = rule.Broad, "nothing ties it to the key, so any change of it may affect every key"
	}
}

// told reports that all columns that tie the row to the path are parameters: what would be noted at the fill is known
// without asking.
func (c *compiler) told(d *decision) bool {
	return !slices.ContainsFunc(c.through(d), func(column *schema.Column) bool {
		root := d.equal.root(columnRef{occurrence: d.of, name: column.Name}.node())
		for i := range c.params {
			if d.equal.root(parameterNode(i+1)) == root {
				return false
			}
		}
		return true
	})
}

// knownText lists the parameters that the row tells.
func (c *compiler) knownText(d *decision) string {
	var known []string
	for i, column := range d.bound {
		if column != "" {
			known = append(known, "{"+c.params[i].Name+"}")
		}
	}
	return strings.Join(known, ", ")
}

// way finds tables that together have all that is missing, over equalities that count for the occurrence.
func (c *compiler) way(d *decision) ([]step, bool) {
	var path []step
	for _, i := range d.missing {
		if c.anchored(d.of, i, d) || slices.ContainsFunc(path, func(s step) bool { return c.anchored(s.to, i, d) }) {
			continue
		}
		more, ok := c.shortest(d, i)
		if !ok {
			return nil, false
		}
		for _, s := range more {
			if !slices.ContainsFunc(path, func(other step) bool { return other.to == s.to }) {
				path = append(path, s)
			}
		}
	}
	return path, true
}

// anchored reports that the parameter, or an element of it, is a column of the occurrence. Elements lead from arguments to rows
// and not back, so they are of use to TAG alone.
func (c *compiler) anchored(o *occurrence, parameter int, d *decision) bool {
	if c.bind(o, parameter, d.equal) != "" {
		return true
	}
	return c.serves(rule.Tag) && c.wish(d.of.table) != wishLookup && slices.ContainsFunc(d.facts, func(f fact) bool {
		return f.member > 0 && f.right.parameter == parameter+1 && c.columnOf(o, d.equal.root(f.element()), d.equal) != ""
	})
}

// shortest finds the shortest way to a table that has the parameter.
func (c *compiler) shortest(d *decision, parameter int) ([]step, bool) {
	type reached struct {
		occurrence *occurrence
		path       []step
	}
	tables := c.tables()
	seen := map[*occurrence]bool{d.of: true}
	for queue := []reached{{occurrence: d.of}}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		if at.occurrence != d.of && c.anchored(at.occurrence, parameter, d) {
			return at.path, true
		}
		for _, next := range tables {
			if seen[next] {
				continue
			}
			if text := d.edge(at.occurrence, next); text != "" {
				seen[next] = true
				queue = append(queue, reached{next, append(slices.Clone(at.path), step{to: next, text: text})})
			}
		}
	}
	return nil, false
}

// edge is an equality between two occurrences, on the side that we come from of a column that the log carries.
func (d *decision) edge(from, to *occurrence) string {
	here, there := d.tied(from), d.tied(to)
	for _, root := range slices.Sorted(maps.Keys(here)) {
		x := here[root]
		if y, ok := there[root]; ok && !from.table.Column(x).Generated {
			return columnRef{occurrence: from, name: x}.String() + " = " + columnRef{occurrence: to, name: y}.String()
		}
	}
	return ""
}

// tied lists the columns of an occurrence that something is equal to, by their class.
func (d *decision) tied(o *occurrence) map[string]string {
	if d.ties == nil {
		d.ties = map[*occurrence]map[string]string{}
	}
	if found, ok := d.ties[o]; ok {
		return found
	}
	found := map[string]string{}
	for i := range o.table.Columns {
		name := o.table.Columns[i].Name
		root := d.equal.root(columnRef{occurrence: o, name: name}.node())
		if _, ok := found[root]; !ok && d.equal.has(root) {
			found[root] = name
		}
	}
	d.ties[o] = found
	return found
}

// has reports that a class has more than one member.
func (c classes) has(root string) bool { return c[root] != "" }

// ranked is the rank condition.
func (c *compiler) ranked(d *decision, path []step) bool {
	for _, s := range path {
		if !slices.ContainsFunc(c.decide(s.to), func(other *decision) bool {
			return len(other.path) < len(path) && other.within(d.gathering)
		}) {
			return false
		}
	}
	return true
}

// within reports that whatever the rule of one case demands of a row is demanded in the other one as well. Conditions that only
// the database can judge are in no rule.
func (g *gathering) within(other *gathering) bool {
	facts := map[*condition]bool{}
	for i := range other.facts {
		facts[other.facts[i].condition] = true
	}
	for i := range g.facts {
		if f := &g.facts[i]; (f.equal || f.member > 0 || f.filter != nil || f.null > 0) && !facts[f.condition] {
			return false
		}
	}
	for _, l := range g.links {
		if !slices.ContainsFunc(other.links, func(o [2]columnRef) bool { return o[0].same(l[0]) && o[1].same(l[1]) }) {
			return false
		}
	}
	return true
}

// search makes the query that finds the keys from what rows of the occurrence say.
func (c *compiler) search(d *decision) *rule.LookupQuery {
	l := &rule.LookupQuery{Rank: len(d.path)}
	have := map[string]string{} // by class: an expression that is equal to what is in it
	for _, column := range c.through(d) {
		l.From, l.Types = append(l.From, column.Name), append(l.Types, columnType(column))
		have[d.equal.root(columnRef{occurrence: d.of, name: column.Name}.node())] = fmt.Sprintf("k.c%d::%s", len(l.From), sqlType(column))
	}
	var from, where []string
	for n, s := range d.path {
		alias := fmt.Sprintf("q%d", n+1)
		from = append(from, quoted(s.to.table.Name)+" "+alias)
		for i := range s.to.table.Columns {
			column := &s.to.table.Columns[i]
			root := d.equal.root(columnRef{occurrence: s.to, name: column.Name}.node())
			name := alias + "." + quoteIdent(column.Name)
			if have[root] == "" {
				have[root] = name
			} else if have[root] != name {
				where = append(where, name+" = "+have[root])
			}
		}
	}
	keys := make([]string, len(c.params))
	for i := range c.params {
		keys[i] = "NULL::text"
		if expression := have[d.equal.root(parameterNode(i+1))]; expression != "" {
			keys[i] = "(" + expression + ")::text"
			if !strings.HasPrefix(expression, "k.") { // a changed row with NULL there has no key
				where = append(where, expression+" IS NOT NULL")
			}
		}
	}
	arrays, names := make([]string, len(l.From)), make([]string, len(l.From))
	for i := range l.From {
		arrays[i], names[i] = fmt.Sprintf("$%d::text[]", i+1), fmt.Sprintf("c%d", i+1)
	}
	l.SQL = fmt.Sprintf("SELECT DISTINCT %s FROM unnest(%s) AS k (%s), %s WHERE %s",
		strings.Join(keys, ", "), strings.Join(arrays, ", "), strings.Join(names, ", "), strings.Join(from, ", "), strings.Join(where, " AND "))
	return l
}

// sqlType names a column's type, of those that keys have.
func sqlType(c *schema.Column) string {
	if c.Category == 'e' {
		return quoteIdent(c.TypeSchema) + "." + quoteIdent(c.TypeName)
	}
	return sqlName(columnType(c))
}

// refuse refuses an occurrence whose class of rule nobody applies, or that may not be BROAD.
func (c *compiler) refuse(d *decision) error {
	o := d.of
	r := &refusal{at: o.where(), why: d.why}
	var unfit *refusal
	if len(d.missing) > 0 {
		unfit = c.unfit(d.gathering, d.missing[0])
	}
	switch {
	case c.wish(o.table) == wishBroad:
		r.what, r.do = "rules demands a BROAD rule for "+describe(o), "take it out of rules."
	case unfit != nil && c.serves(d.class):
		r.why, r.do = unfit.what+": "+unfit.why, unfit.do
	case unfit != nil:
		return unfit
	default:
		name := c.params[d.missing[0]].Name
		r.what = fmt.Sprintf("%s needs a %s rule: no column of it is tied to parameter {%s} by an equality", describe(o), d.class, name)
		r.do = fmt.Sprintf("Store the column in %s and compare it with @%s, cache %s in an entry under its own key, or load the entry by code and declare depends_on.",
			o.table.Name.Name, name, o.table.Name.Name)
		if len(d.path) == 0 {
			c.blame(d, d.missing[0], r)
		}
	}
	if c.serves(d.class) { // it is BROAD, and not allowed to be
		r.what = describe(o) + " is BROAD: every change of it drops every key of the entry"
		r.do = strings.TrimSuffix(fmt.Sprintf("Add allow_broad: [%s], or: %s", shown(o.table), r.do), ", or: ")
	} else {
		r.why += fmt.Sprintf("; this version has no %s rules", d.class)
	}
	if o.block.reading.view != "" {
		r.what = "view " + o.block.reading.view + ": " + r.what
	}
	return r
}

// blame says what keeps a condition from reaching the occurrence, where that is known.
func (c *compiler) blame(d *decision, i int, r *refusal) {
	o, name := d.of, c.params[i].Name
	root := d.equal.root(parameterNode(i + 1))
	for j := range o.table.Columns {
		column := &o.table.Columns[j]
		if column.Generated && d.equal.root(columnRef{occurrence: o, name: column.Name}.node()) == root {
			r.why = "the column that is tied to it is generated, and the log does not carry generated columns"
			r.do = "Compare the parameter with a stored column."
			return
		}
	}
	for b := o.block; b != nil; b = b.parent {
		if b.derived != nil && b.barrier(r) {
			return
		}
		if b.asked {
			r.why = "NOT IN, and IN that is not a condition of its own, ask all rows of the subquery, and one NULL among them changes the answer for every key"
			r.do = "Use NOT EXISTS (SELECT ... WHERE ... = ...)."
			return
		}
		for _, cond := range b.conditions {
			if cond.equal && cond.right.parameter == i+1 && !d.used[cond] && cond.join != nil {
				r.why = fmt.Sprintf("@%s stands only in the ON of an outer join, so every row of %s is in the result of every key", name, o.table.Name.Name)
				r.do = fmt.Sprintf("Tie %s to @%s in WHERE, or cache the two tables in two entries.", o.alias, name)
				return
			}
		}
	}
}

// barrier says what of the block keeps conditions on its result from its rows.
func (b *block) barrier(r *refusal) bool {
	for _, o := range b.outputs {
		if !b.copies(o) || b.passes(o) {
			continue
		}
		switch {
		case b.limited:
			r.why = "LIMIT or OFFSET keeps rows before the condition is asked, so any change can move a row in or out for every key"
			r.do = "Put the condition into the subquery, or cache the whole list under one key."
		case b.hasDistinct:
			r.why = "DISTINCT ON keeps rows before the condition is asked"
			r.do = "Put the condition into the subquery, or its column into DISTINCT ON."
		default:
			w := b.windows[0]
			r.why = windowText(w) + " has no PARTITION BY of the column that the condition is on, so any change can move every row"
			r.do = "Add PARTITION BY, put the condition into the subquery, or cache the whole list under one key."
		}
		return true
	}
	return false
}

func windowText(w *pg_query.WindowDef) string {
	if w.GetName() != "" {
		return "the window " + w.GetName()
	}
	return "the window"
}

// unfit is why an equality with the parameter ties nothing, where there is one.
func (c *compiler) unfit(g *gathering, i int) *refusal {
	for k := range g.facts {
		f := &g.facts[k]
		if f.unfit == nil || f.block.reading.view != "" {
			continue
		}
		if f.right.parameter == i+1 || f.left.column != nil && f.left.column.occurrence == g.of || f.right.column != nil && f.right.column.occurrence == g.of {
			return f.unfit
		}
	}
	return nil
}

// untyped refuses a parameter that no column gives a type.
func (c *compiler) untyped(i int) *refusal {
	name := c.params[i].Name
	for _, b := range c.blocks {
		for _, cond := range b.conditions {
			if cond.unfit != nil && cond.left.column != nil && cond.right.parameter == i+1 && b.reading.view == "" {
				return cond.unfit
			}
		}
	}
	r := &refusal{
		at: nowhere, what: fmt.Sprintf("parameter {%s} is not compared with any column by =", name),
		why: "its type follows from such a comparison, or from a cast, and keys are spelled by it",
		do:  fmt.Sprintf("Write its type behind it, such as @%s::text, or add a condition such as id = @%s.", name, name),
	}
	for _, use := range c.loose {
		if use.parameter != i+1 || use.view != "" {
			continue
		}
		r.at = use.at
		if use.operator != "" {
			r.what = fmt.Sprintf("parameter {%s} is compared by %s and not with any column by =", name, use.operator)
		}
		r.do = fmt.Sprintf("Write its type behind it, such as @%s::text.", name)
		break
	}
	return r
}

// where is the occurrence's place in the query's own text.
func (o *occurrence) where() int { return o.block.reading.place(o.at) }

// place turns a place in the text that is read into one in the query.
func (r *reading) place(at int) int {
	if r.view != "" {
		return r.at
	}
	return at
}
