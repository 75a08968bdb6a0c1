package plan

import "fmt"

// Which conditions restrict an occurrence.
//
// A condition is active for an occurrence when every combination of rows, through which one of its rows can influence
// the result, must satisfy it:
//
//   - WHERE and the ON of inner joins: for every occurrence, unless the inner join is itself within the nullable side
//     of an outer join; then only for the occurrences within that side;
//   - the ON of an outer join: for the occurrences on its nullable side. A row of the preserved side is in the result
//     whether ON is true or not;
//   - an outer join whose nullable side must have a row anyway, because an active strict condition mentions it, counts
//     as an inner join for that occurrence. This is iterated, so chains of LEFT JOINs are followed;
//   - a condition that a row of NULLs can satisfy (b.id IS NULL) never filters an occurrence whose rows an outer join
//     below that condition may have replaced by NULLs: it is satisfied because there is no row.

// inside reports whether the join stands within the given side of another one.
func (j *join) inside(side bits) bool { return j != nil && j.all&^side == 0 }

// above reports whether the condition is judged on rows that the join has produced already.
func (a *atom) above(j *join) bool { return a.join == nil || a.join != j && j.all&^a.join.all == 0 }

// reduceOuterJoins finds the outer joins that are as good as inner ones for the whole query: a strict condition above
// drops the rows that they filled with NULLs.
func (b *block) reduceOuterJoins() {
	for changed := true; changed; {
		changed = false
		for _, j := range b.joins {
			if !j.outer || j.reduced {
				continue
			}
			for _, a := range b.atoms {
				if a.strict && a.all&j.nullable != 0 && a.above(j) && a.drops(j) {
					j.reduced, changed = true, true
				}
			}
		}
	}
}

// drops reports whether a row of the join that fails the condition above it is gone.
func (a *atom) drops(j *join) bool {
	return a.join == nil || !a.join.outer || a.join.reduced || j.inside(a.join.nullable)
}

// active lists the conditions that are active for an occurrence.
func (b *block) active(o *occurrence) []*atom {
	forced := map[*join]bool{}
	for {
		var active []*atom
		for _, a := range b.atoms {
			if b.isActive(a, o, forced) {
				active = append(active, a)
			}
		}
		more := false
		for _, j := range b.joins {
			if !j.outer || j.reduced || forced[j] || j.nullable&o.bit() != 0 {
				continue
			}
			for _, a := range active {
				if a.strict && a.all&j.nullable != 0 {
					forced[j], more = true, true
				}
			}
		}
		if !more {
			return active
		}
	}
}

func (b *block) isActive(a *atom, o *occurrence, forced map[*join]bool) bool {
	if a.join == nil {
		return true
	}
	for _, j := range b.joins {
		if !j.outer || j.reduced || forced[j] || j.nullable&o.bit() != 0 {
			continue
		}
		if j == a.join || a.join.inside(j.nullable) {
			return false
		}
	}
	return true
}

// filters reports whether an active condition on one column says something of every row of its occurrence that
// matters.
func (b *block) filters(a *atom) bool {
	if a.strict {
		return true
	}
	for _, j := range b.joins {
		if j.outer && !j.reduced && j.nullable&a.on.bit() != 0 && a.above(j) {
			return false
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
		c[x] = y
	}
}

func columnNode(alias, column string) string { return fmt.Sprintf("%q.%q", alias, column) }

func parameterNode(n int) string { return fmt.Sprintf("$%d", n) }

func (o operand) node() string {
	if o.column != nil {
		return columnNode(o.column.occurrence.alias, o.column.column.Name)
	}
	return parameterNode(o.parameter)
}

func classesOf(active []*atom) classes {
	c := classes{}
	for _, a := range active {
		if a.equal {
			c.union(a.left.node(), a.right.node())
		}
	}
	return c
}
