package plan

import (
	"fmt"
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"

	"github.com/freshet/freshet/internal/rule"
)

// Which class of rule an occurrence needs, when its rows alone do not tell the keys.

// need is the best class of rule for an occurrence, and why it cannot be a better one.
type need struct {
	class rule.Class
	path  []step // LOOKUP and TAG: through which other tables the keys follow
	bound []string
	why   string
}

// step is one table of a path: its rows that are tied to the row before.
type step struct {
	to   *occurrence
	text string // the equality
}

// need decides for one case. The first parameter that is not tied is the one that decides.
func (c *compiler) need(g *gathering, missing int) need {
	equal := g.classes()
	var bound []string
	for i, p := range c.params {
		root := equal.root(parameterNode(i + 1))
		if _, fixed := g.constant(i+1, root, equal); fixed || c.bind(g.of, root, equal) != "" {
			bound = append(bound, "{"+p.Name+"}")
		}
	}
	path, reached := c.path(g, equal, missing)
	switch {
	case reached && c.ranked(path):
		var texts []string
		for _, s := range path {
			texts = append(texts, s.text)
		}
		return need{class: rule.Lookup, path: path, bound: bound, why: fmt.Sprintf(
			"the keys follow through other tables (%s); LOOKUP and TAG rules are not built yet", strings.Join(texts, ", "))}
	case reached && len(bound) > 0:
		return need{class: rule.Group, path: path, bound: bound, why: fmt.Sprintf(
			"the keys follow through other tables that need it in turn, so that changes of both in two transactions could hide each other; GROUP rules (here by %s) are not built yet",
			strings.Join(bound, ", "))}
	case len(bound) > 0:
		return need{class: rule.Group, bound: bound, why: fmt.Sprintf(
			"a changed row says only %s of the key; GROUP rules, which drop all keys that have it in common, are not built yet", strings.Join(bound, ", "))}
	}
	return need{class: rule.Broad, why: "any change of it may affect every key; " + notBroad}
}

// path finds the shortest way from an occurrence, over equalities that count for it, to one with a column that is the
// parameter.
func (c *compiler) path(g *gathering, equal classes, parameter int) ([]step, bool) {
	target := equal.root(parameterNode(parameter + 1))
	type reached struct {
		occurrence *occurrence
		path       []step
	}
	seen := map[*occurrence]bool{g.of: true}
	for queue := []reached{{occurrence: g.of}}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		if at.occurrence != g.of && c.bind(at.occurrence, target, equal) != "" {
			return at.path, true
		}
		for _, next := range c.tables() {
			if seen[next] {
				continue
			}
			if text := edge(at.occurrence, next, equal); text != "" {
				seen[next] = true
				queue = append(queue, reached{next, append(slices.Clone(at.path), step{to: next, text: text})})
			}
		}
	}
	return nil, false
}

// edge is an equality between two occurrences.
func edge(from, to *occurrence, equal classes) string {
	for i := range from.table.Columns {
		x := columnRef{occurrence: from, name: from.table.Columns[i].Name}
		root := equal.root(x.node())
		for j := range to.table.Columns {
			y := columnRef{occurrence: to, name: to.table.Columns[j].Name}
			if equal.root(y.node()) == root {
				return x.String() + " = " + y.String()
			}
		}
	}
	return ""
}

// ranked is the rank condition (a look-up that happens later must find what a change of the path has not taken away, or
// that change must find it): every table of the path has a shorter path of its own, or none.
func (c *compiler) ranked(path []step) bool {
	for _, s := range path {
		if rank, ok := c.rank(s.to); !ok || rank >= len(path) {
			return false
		}
	}
	return true
}

// rank is the length of an occurrence's own path: 0 when its rows tell the keys.
func (c *compiler) rank(o *occurrence) (int, bool) {
	if rank, ok := c.ranks[o]; ok {
		return rank, rank >= 0
	}
	if c.ranks == nil {
		c.ranks = map[*occurrence]int{}
	}
	c.ranks[o] = -1 // a path that comes back to it is none
	rank := 0
	for _, g := range cases(o) {
		missing := c.missing(g)
		if missing < 0 {
			continue
		}
		path, reached := c.path(g, g.classes(), missing)
		if !reached || !c.ranked(path) {
			return 0, false
		}
		rank = max(rank, len(path))
	}
	c.ranks[o] = rank
	return rank, true
}

// missing is the first parameter that the rows of the occurrence do not tell, or -1.
func (c *compiler) missing(g *gathering) int {
	equal := g.classes()
	for i := range c.params {
		root := equal.root(parameterNode(i + 1))
		if _, fixed := g.constant(i+1, root, equal); !fixed && c.bind(g.of, root, equal) == "" {
			return i
		}
	}
	return -1
}

// unbound refuses an occurrence that a parameter is not tied to.
func (c *compiler) unbound(g *gathering, i int) error {
	o, name := g.of, c.params[i].Name
	if c.params[i].Type == "" {
		return c.untyped(i)
	}
	if r := c.unfit(g, i); r != nil {
		return r
	}
	n := c.need(g, i)
	r := &refusal{
		at: o.where(), what: fmt.Sprintf("%s needs a %s rule: no column of it is tied to parameter {%s} by an equality", describe(o), n.class, name),
		why: "from a changed row of " + o.table.Name.Name + " alone it cannot be told which keys it affects: " + n.why,
		do: fmt.Sprintf("Store the column in %s and compare it with @%s, cache %s in an entry under its own key, or load the entry by code and declare depends_on.",
			o.table.Name.Name, name, o.table.Name.Name),
	}
	if o.block.reading.view != "" {
		r.what = "view " + o.block.reading.view + ": " + r.what
	}
	if n.class != rule.Lookup {
		c.blame(g, i, r)
	}
	return r
}

// blame says what keeps a condition from reaching the occurrence, where that is known.
func (c *compiler) blame(g *gathering, i int, r *refusal) {
	o, name := g.of, c.params[i].Name
	equal := g.classes()
	root := equal.root(parameterNode(i + 1))
	for j := range o.table.Columns {
		column := &o.table.Columns[j]
		if column.Generated && equal.root(columnRef{occurrence: o, name: column.Name}.node()) == root {
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
			r.why = "NOT IN, and IN that is not a condition of its own, ask all rows of the subquery, and one NULL among them changes the answer for every key; " + notBroad
			r.do = "Use NOT EXISTS (SELECT ... WHERE ... = ...)."
			return
		}
		for _, cond := range b.conditions {
			if cond.equal && cond.right.parameter == i+1 && !g.used[cond] && cond.join != nil {
				r.why = fmt.Sprintf("@%s stands only in the ON of an outer join, so every row of %s is in the result of every key; %s", name, o.table.Name.Name, notBroad)
				r.do = fmt.Sprintf("Tie %s to @%s in WHERE, or cache the two tables in two entries.", o.alias, name)
				return
			}
		}
	}
}

const notBroad = "BROAD rules are not built yet"

// barrier says what of the block keeps conditions on its result from its rows.
func (b *block) barrier(r *refusal) bool {
	for _, o := range b.outputs {
		if !b.copies(o) || b.passes(o) {
			continue
		}
		switch {
		case b.limited:
			r.why = "LIMIT or OFFSET keeps rows before the condition is asked, so any change can move a row in or out for every key; " + notBroad
			r.do = "Put the condition into the subquery, or cache the whole list under one key."
		case b.hasDistinct:
			r.why = "DISTINCT ON keeps rows before the condition is asked; " + notBroad
			r.do = "Put the condition into the subquery, or its column into DISTINCT ON."
		default:
			w := b.windows[0]
			r.why = windowText(w) + " has no PARTITION BY of the column that the condition is on, so any change can move every row; " + notBroad
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
			if cond.unfit != nil && cond.right.parameter == i+1 && b.reading.view == "" {
				return cond.unfit
			}
		}
	}
	r := &refusal{
		at: nowhere, what: fmt.Sprintf("parameter {%s} is not compared with any column by =", name),
		why: "its type, and which rows matter to a key, follow from such a comparison; without it all keys that differ in it alone need a GROUP rule, and those are not built yet",
		do:  fmt.Sprintf("Add a condition such as id = @%s, or load the entry by code and declare depends_on.", name),
	}
	for _, use := range c.loose {
		if use.parameter != i+1 || use.view != "" {
			continue
		}
		r.at = use.at
		if use.operator != "" {
			r.what = fmt.Sprintf("parameter {%s} is compared by %s and not with any column by =", name, use.operator)
		}
		r.do = "Leave it out of the query and let the application choose among the rows, or load the entry by code and declare depends_on."
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
