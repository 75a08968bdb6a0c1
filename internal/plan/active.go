package plan

import (
	"fmt"
	"maps"
	"slices"
)

// Which conditions count for an occurrence.
//
// A condition counts when every combination of rows, through which one of the occurrence's rows can influence the
// result, must satisfy it:
//
//   - WHERE and the ON of inner joins: for every occurrence, unless the inner join is itself within a side that an outer
//     join may fill with NULLs; then only for the occurrences within that side;
//   - the ON of an outer join: for the occurrences on the side that it may fill. A row of the other side is in the result
//     whether ON is true or not. Both sides of a FULL JOIN are such other sides: its ON counts for nobody;
//   - a side that must have a row anyway, because a strict condition that counts mentions it, is no longer one that may be
//     filled. This is iterated, so that chains of LEFT JOINs are followed;
//   - a condition that a row of NULLs can satisfy (b.id IS NULL) never filters an occurrence whose rows an outer join
//     below that condition may have replaced by NULLs: it is satisfied because there is no row;
//   - for a table of a subquery, the conditions of the queries around that count where the subquery stands, except the
//     one that it stands in: what is asked for a row that they drop influences nothing. A query that yields a row from no rows
//     asks the subqueries behind its WHERE (in its select list, HAVING, ORDER BY) all the same: there its conditions do not count;
//     What holds within a subquery holds of the rows around it where it stands, and not above the outer join in whose ON, or below which,
//     it stands: there is also the row that this join fills with NULLs;
//   - for a table outside of it, the conditions of a subquery of which a row must be there: EXISTS and IN under AND, and
//     subqueries in FROM. Not of one that yields a row from no rows, which is an aggregate without GROUP BY;
//   - the columns of a subquery are those of its tables where it copies them: always for what is outside of it, and for
//     its own tables only where a condition on the column may as well be asked below (block.passes);
//   - of alternatives (OR, the sides of UNION) each is a case of its own.

// gathering is what counts for an occurrence in one case.
type gathering struct {
	of      *occurrence
	chosen  map[any]int // which alternative, by the condition or the occurrence that has them
	coarse  bool        // alternatives are passed by
	open    any         // has alternatives, none of which is chosen yet
	number  int         // of them
	facts   []fact
	links   [][2]columnRef
	used    map[any]bool
	cleared map[*side]bool
	around  []anchor // where what is being taken stands, from the outermost block in
}

// fact is a condition that counts.
type fact struct {
	*condition
	block  *block
	place  place
	around []anchor
}

// anchor is the join in whose ON something stands, in one of the blocks around it; nil is WHERE.
type anchor struct {
	block *block
	join  *join
}

// maxCases bounds the alternatives that are told apart for one occurrence. With more, alternatives say nothing.
const maxCases = 64

// cases gathers what counts for an occurrence, in every case.
func cases(o *occurrence) []*gathering {
	var all []*gathering
	var explore func(chosen map[any]int) bool
	explore = func(chosen map[any]int) bool {
		g := gather(o, chosen, false)
		if g.open == nil {
			all = append(all, g)
			return len(all) <= maxCases
		}
		for i := range g.number {
			more := maps.Clone(chosen)
			more[g.open] = i
			if !explore(more) {
				return false
			}
		}
		return true
	}
	if !explore(map[any]int{}) {
		return []*gathering{gather(o, nil, true)}
	}
	return all
}

func gather(o *occurrence, chosen map[any]int, coarse bool) *gathering {
	g := &gathering{of: o, chosen: chosen, coarse: coarse, used: map[any]bool{}, cleared: map[*side]bool{}}
	b, p, holder, behind := o.block, place{bits: o.bit()}, (*condition)(nil), false
	for {
		if b.derived != nil {
			g.used[b.derived] = true // it is what we come from: its rows are not others that must be there
		}
		if !behind || !b.forcesRow() {
			g.block(b, p, holder)
		}
		if b.parent == nil {
			return g
		}
		g.leave(b)
		b, p, holder, behind = b.parent, b.place, b.holder, b.derived == nil && b.holder == nil
	}
}

// leave takes what ties the columns of the block's tables to those of the block.
func (g *gathering) leave(b *block) {
	at := b.place.on
	if b.derived != nil && b.holder == nil {
		at = innermost(b.parent, b.derived)
	}
	if h := b.holder; h != nil && b.derived != nil && h.item == b.derived {
		for _, test := range h.tests { // x IN (SELECT y ...): only rows with that y count
			g.facts = append(g.facts, fact{condition: test, block: b.parent, place: b.place})
		}
	}
	for i := range g.facts { // what holds within holds of the rows around where the subquery stands, not above that
		g.facts[i].around = append(slices.Clone(g.facts[i].around), anchor{b.parent, at})
	}
	if b.derived != nil {
		g.link(b, b.passes)
	}
}

func (g *gathering) link(b *block, which func(output) bool) {
	for i, o := range b.outputs {
		if i < len(b.derived.columns) && which(o) {
			g.tie(b.derived.columns[i].columnRef, o.column)
		}
	}
}

// tie notes that two columns are equal, where equal values have the same text.
func (g *gathering) tie(x, y columnRef) {
	if inKeys(x, 0) == nil && inKeys(y, 0) == nil && columnFamily(x.column) == columnFamily(y.column) {
		g.links = append(g.links, [2]columnRef{x, y})
	}
}

// block takes the conditions of a block that count at a place, except the one that we come from.
func (g *gathering) block(b *block, p place, holder *condition) {
	for changed := true; changed; {
		changed = false
		for _, c := range b.conditions {
			if c == holder || g.used[c] || !g.counts(b, c.join, p) {
				continue
			}
			g.used[c], changed = true, true
			g.take(b, c, c.join, p)
		}
		for _, o := range b.items {
			if o.query == nil || g.used[o] || !g.needed(b, o, p) {
				continue
			}
			g.used[o], changed = true, true
			g.inside(b, o, innermost(b, o))
		}
		changed = g.clear(b) || changed
	}
}

// counts reports whether a condition in the ON of a join counts at a place.
func (g *gathering) counts(b *block, at *join, p place) bool {
	if at == nil {
		return true
	}
	for _, j := range b.joins {
		if p.on == j || at.all&^j.all != 0 {
			continue
		}
		for _, s := range j.sides() {
			if s.nullable && !g.cleared[s] && (at == j || at.all&^s.all == 0) && !p.within(s.all) {
				return false
			}
		}
	}
	return true
}

// needed reports whether every combination that counts at a place has a row of the item.
func (g *gathering) needed(b *block, o *occurrence, p place) bool {
	for _, j := range b.joins {
		for _, s := range j.sides() {
			if p.on != j && s.nullable && !g.cleared[s] && o.bit()&s.all != 0 && !p.within(s.all) {
				return false
			}
		}
	}
	return true
}

// innermost is the join that the item is a side of.
func innermost(b *block, o *occurrence) *join {
	var found *join
	for _, j := range b.joins {
		if o.bit()&j.all != 0 && (found == nil || j.all&^found.all == 0) {
			found = j
		}
	}
	return found
}

// take adds a condition of a block that counts.
func (g *gathering) take(b *block, c *condition, at *join, p place) {
	g.facts = append(g.facts, fact{condition: c, block: b, place: p, around: append(slices.Clone(g.around), anchor{b, at})})
	if len(c.alternatives) > 0 {
		if i, ok := g.choose(c, len(c.alternatives)); ok {
			for _, one := range c.alternatives[i] {
				g.take(b, one, at, p)
			}
		}
	}
	if c.sub != nil {
		for _, test := range c.tests {
			g.take(b, test, at, p)
		}
		g.inside(b, c.item, at)
	}
}

// choose says which alternative is the case. Without a choice, the first that has none is remembered as open.
func (g *gathering) choose(which any, n int) (int, bool) {
	if n == 1 {
		return 0, true
	}
	if g.coarse {
		return 0, false
	}
	i, ok := g.chosen[which]
	if !ok && g.open == nil {
		g.open, g.number = which, n
	}
	return i, ok
}

// inside takes what holds inside of a subquery of which there is a row.
func (g *gathering) inside(b *block, o *occurrence, at *join) {
	i, ok := g.choose(o, len(o.query.producing))
	if !ok {
		return
	}
	arm := o.query.producing[i]
	if arm.forcesRow() {
		return
	}
	g.around = append(g.around, anchor{b, at})
	g.block(arm, everywhere, nil)
	g.around = g.around[:len(g.around)-1]
	g.link(arm, arm.copies)
}

// clear finds the sides of outer joins that must have a row: a strict condition above mentions them.
func (g *gathering) clear(b *block) bool {
	changed := false
	for _, j := range b.joins {
		for _, s := range j.sides() {
			if !s.nullable || g.cleared[s] {
				continue
			}
			for _, f := range g.facts {
				if f.strict&s.all != 0 && f.above(b, j) {
					g.cleared[s], changed = true, true
					break
				}
			}
		}
	}
	return changed
}

// above reports whether the condition is judged on rows that the join has produced already.
func (f *fact) above(b *block, j *join) bool {
	for _, a := range f.around {
		if a.block == b {
			return a.join == nil || a.join != j && j.all&^a.join.all == 0
		}
	}
	return true // of a query around, or of a subquery that we came out of
}

// filters reports whether a condition on one column says something of every row of its occurrence that matters.
func (g *gathering) filters(f *fact) bool {
	if f.strict&f.on.occurrence.bit() != 0 {
		return true
	}
	b := f.on.occurrence.block
	for _, j := range b.joins {
		for _, s := range j.sides() {
			if s.nullable && !g.cleared[s] && s.all&f.on.occurrence.bit() != 0 && f.above(b, j) {
				return false
			}
		}
	}
	return true
}

// classes are sets of columns and parameters that are equal in every combination that matters to an occurrence.
type classes map[string]string

func (c classes) root(x string) string {
	for c[x] != "" && c[x] != x {
		x = c[x]
	}
	return x
}

func (c classes) union(x, y string) {
	if x, y = c.root(x), c.root(y); x != y {
		c[x], c[y] = y, y // a root that has members is its own
	}
}

func (r columnRef) node() string { return fmt.Sprintf("%d.%s", r.occurrence.index, r.name) }

// element stands for the element of a parameter that a column is equal to.
func (c *condition) element() string { return fmt.Sprintf("$%d[%d]", c.right.parameter, c.member) }

func parameterNode(n int) string { return fmt.Sprintf("$%d", n) }

// classes puts together what the gathered equalities tie.
func (g *gathering) classes() classes {
	c := classes{}
	for i := range g.facts {
		f := &g.facts[i]
		switch {
		case f.equal:
			c.union(f.node(f.left), f.node(f.right))
		case f.member > 0:
			c.union(f.node(f.left), f.element())
		}
	}
	for _, l := range g.links {
		c.union(l[0].node(), l[1].node())
	}
	return c
}

// node stands for an operand. A column that FULL JOIN merged is, for the rows of either side, that side's.
func (f *fact) node(o operand) string {
	if o.column == nil {
		return parameterNode(o.parameter)
	}
	if o.column.other == nil {
		return o.column.node()
	}
	for _, j := range f.block.joins {
		if o.column.occurrence.bit()&j.left.all == 0 || o.column.other.occurrence.bit()&j.right.all == 0 {
			continue
		}
		switch {
		case f.place.within(j.left.all):
			return o.column.node()
		case f.place.within(j.right.all):
			return o.column.other.node()
		}
	}
	return "coalesce " + o.column.node() + " " + o.column.other.node()
}
