package plan

import (
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"

	"github.com/freshet/freshet/internal/schema"
)

// Where equal rows differ in what is shown of them, PostgreSQL shows one, and which one follows from where the rows lie: a
// write that changes nothing of the result's columns can change the result. No rule sees that; it is said instead.

// severalTexts reports a column whose equal values may be written differently: 1.0 and 1.00, 1 day and 24:00:00. Types of
// extensions are refused where they are sorted or compared.
func severalTexts(c *schema.Column) bool {
	if c == nil {
		return false
	}
	if !c.Deterministic {
		return true
	}
	switch strings.TrimPrefix(c.TypeName, "_") {
	case "numeric":
		return !strings.HasPrefix(c.Type, "numeric(") // a scale is the same for all
	case "float4", "float8", "interval", "jsonb", "numrange", "nummultirange":
		return true
	}
	return false
}

// oneOfEqual warns of a column of which one value is shown for all that are equal.
func (c *compiler) oneOfEqual(what, name string, column *schema.Column) {
	if severalTexts(column) {
		c.warn("%s of %s, which is %s: of equal values that are written differently one is shown, and not always the same, so that two loads of the same data may differ; "+
			"make it a value with one text, as n::numeric(10,2) and lower(t) do", what, name, column.Type)
	}
}

// warnAboutTies notes where one of equal values stands for all, and windows whose order does not tell rows apart.
func (c *compiler) warnAboutTies() {
	for _, b := range c.blocks {
		for _, g := range b.groups {
			c.oneOfEqual("GROUP BY", g.String(), g.column)
		}
		if len(b.statement.GetDistinctClause()) > 0 && !b.hasDistinct {
			for _, o := range b.outputs {
				if o.plain {
					c.oneOfEqual("DISTINCT", o.column.String(), o.column.column)
				}
			}
		}
		for _, n := range b.numbered {
			if b.orderedWindow(n.over) && !b.tells(append(b.partition(n.over), b.windowOrder(n.over)...)) {
				c.warn("%s() over a window whose ORDER BY is not known to be total: two loads of the same data may differ; end it with a primary key", n.function)
			}
		}
	}
}

// numbered is a window function whose result depends on the order of rows that ORDER BY does not tell apart.
type numbered struct {
	function string
	over     *pg_query.WindowDef
}

// tells reports whether the columns tell any two rows apart over which windows run: of groups where there are groups.
func (b *block) tells(by []columnRef) bool {
	if !b.aggregates {
		return b.total(by)
	}
	return !b.sets && len(b.groups) == b.groupItems && !slices.ContainsFunc(b.groups, func(g columnRef) bool { return !slices.ContainsFunc(by, g.same) })
}

// windowOrder lists the plain columns by which a window is ordered.
func (b *block) windowOrder(w *pg_query.WindowDef) []columnRef {
	var columns []columnRef
	for _, node := range w.GetOrderClause() {
		if ref := node.GetSortBy().GetNode().GetColumnRef(); ref != nil {
			if v, err := b.look(ref, b.whole()); err == nil {
				columns = append(columns, v.columnRef)
			}
		}
	}
	if len(w.GetOrderClause()) > 0 {
		return columns
	}
	for _, node := range b.statement.GetWindowClause() {
		if d := node.GetWindowDef(); d != w && d.GetName() != "" && (d.GetName() == w.GetName() || d.GetName() == w.GetRefname()) {
			return b.windowOrder(d)
		}
	}
	return columns
}
