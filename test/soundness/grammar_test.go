package soundness

import (
	"fmt"
	"strconv"
	"strings"
)

// A grammar of queries over the tables a to d and the views: subqueries of every kind at any place, outer joins,
// alternatives, groups, windows, limits and set operations. Every result is a function of the data: where rows are cut
// off, ORDER BY has all outputs, so that those that it does not tell apart are equal.

// grammar makes one query.
type grammar struct {
	writer
	aliases int
	budget  int // tables that may still come
}

// nested makes a random query. Most are refused; what is accepted has to be sound.
func (w writer) nested() watched {
	g := &grammar{writer: w, budget: 2 + w.IntN(4)}
	query := g.block(nil, g.columns(), 0)
	if g.IntN(8) == 0 {
		g.budget += 2
		n := 1 + g.IntN(2)
		query = g.block(nil, n, 1) + g.pick(" UNION ", " UNION ALL ", " INTERSECT ", " EXCEPT ") + g.block(nil, n, 1)
	}
	return watched{query: query, key: "k:{p}", domains: []domain{integers()}, random: true}
}

func (g *grammar) columns() int { return 1 + g.IntN(3) }

// number and any name columns that all relations have.
func (g *grammar) number() string { return g.pick("id", "x", "x", "x") }

func (g *grammar) any() string { return g.pick("id", "x", "kind", "x") }

// relation is an item of FROM, and its name.
func (g *grammar) relation(outer []string, depth int) (text, name string) {
	g.aliases++
	name = "t" + strconv.Itoa(g.aliases)
	g.budget--
	switch n := g.IntN(10); {
	case n < 6 || g.budget <= 0 || depth > 2:
		return g.pick("a", "b", "c", "d") + " " + name, name
	case n < 7:
		return g.pick("live_a", "a_and_b", "of_parts") + " " + name, name
	case n < 9:
		return "(" + g.derived(nil, depth+1) + ") " + name, name
	}
	return "LATERAL (" + g.derived(outer, depth+1) + ") " + name, name
}

// derived is a subquery in FROM: it has the columns that conditions name.
func (g *grammar) derived(outer []string, depth int) string {
	from, names := g.from(outer, depth)
	t := names[g.IntN(len(names))]
	where := g.where(names, outer, depth)
	switch g.IntN(6) {
	case 0:
		return fmt.Sprintf("SELECT %s.x AS id, %s.x AS x, max(%s.kind) AS kind FROM %s%s GROUP BY %s.x", t, t, t, from, where, t)
	case 1:
		first := "count(*)::int"
		if g.budget > 0 && g.IntN(2) == 0 { // asked also where no row is
			inner, own := g.from(outer, depth+1)
			first = "(SELECT " + g.pick("count(*)::int", "max("+own[0]+".x)::int") + " FROM " + inner + g.where(own, outer, depth+1) + ")"
		}
		return fmt.Sprintf("SELECT %s AS id, max(%s.x) AS x, min(%s.kind) AS kind FROM %s%s", first, t, t, from, where)
	case 2:
		return fmt.Sprintf("SELECT %s.id AS id, %s.x AS x, %s.kind AS kind FROM %s%s ORDER BY 1, 2, 3 LIMIT %d", t, t, names[0], from, where, 1+g.IntN(3))
	case 3:
		return fmt.Sprintf("SELECT %s.id AS id, %s.x AS x, (rank() OVER (PARTITION BY %s.%s ORDER BY %s.kind, %s.id))::text AS kind FROM %s%s",
			t, t, t, g.number(), t, names[0], from, where)
	case 4:
		return fmt.Sprintf("SELECT DISTINCT %s.id AS id, %s.x AS x, %s.kind AS kind FROM %s%s", t, names[0], t, from, where)
	}
	return fmt.Sprintf("SELECT %s.id AS id, %s.x AS x, %s.kind AS kind FROM %s%s", t, names[0], t, from, where)
}

func (g *grammar) from(outer []string, depth int) (text string, names []string) {
	first, name := g.relation(outer, depth)
	names = []string{name}
	var joined strings.Builder
	joined.WriteString(first)
	for g.budget > 0 && g.IntN(2) == 0 {
		item, name := g.relation(append(append([]string{}, outer...), names...), depth)
		kind := g.pick(" JOIN ", " LEFT JOIN ", " LEFT JOIN ", " RIGHT JOIN ", " FULL JOIN ")
		if strings.HasPrefix(item, "LATERAL") && kind != " JOIN " {
			kind = " LEFT JOIN "
		}
		names = append(names, name)
		on := fmt.Sprintf("%s.%s = %s.%s", name, g.number(), names[g.IntN(len(names)-1)], g.number())
		if kind != " FULL JOIN " && g.IntN(3) == 0 {
			on += " AND " + g.condition(names, outer, depth)
		}
		joined.WriteString(kind + item + " ON " + on)
	}
	return joined.String(), names
}

func (g *grammar) where(names, outer []string, depth int) string {
	var all []string
	tie := func() string {
		if len(outer) > 0 && g.IntN(3) > 0 {
			return fmt.Sprintf("%s.%s = %s.%s", names[g.IntN(len(names))], g.number(), outer[g.IntN(len(outer))], g.number())
		}
		return fmt.Sprintf("%s.%s = @p", names[g.IntN(len(names))], g.number())
	}
	if depth == 0 || g.IntN(3) > 0 {
		all = append(all, tie())
	}
	for g.IntN(2) == 0 {
		all = append(all, g.condition(names, outer, depth))
	}
	if len(all) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(all, " AND ")
}

func (g *grammar) condition(names, outer []string, depth int) string {
	t, u := names[g.IntN(len(names))], names[g.IntN(len(names))]
	inner := append(append([]string{}, outer...), names...)
	sub := func(what string) string {
		from, own := g.from(inner, depth+1)
		return strings.ReplaceAll(what, "T", own[0]) + " FROM " + from + g.where(own, inner, depth+1)
	}
	n := g.IntN(16)
	if n >= 9 && (g.budget <= 0 || depth > 2) {
		n = g.IntN(9)
	}
	switch n {
	case 0:
		return fmt.Sprintf("%s.%s = %s.%s", t, g.number(), u, g.number())
	case 1:
		return t + ".kind = 'x'"
	case 2:
		return t + "." + g.any() + g.pick(" IS NULL", " IS NOT NULL")
	case 3:
		return t + ".kind" + g.pick(" <> 'y'", " IN ('x', 'z')", " LIKE 'x%'", " IS DISTINCT FROM 'x'")
	case 4:
		return fmt.Sprintf("%s.%s %s %s.%s", t, g.number(), g.pick("<", "<>", ">="), u, g.number())
	case 5, 6:
		return "(" + g.condition(names, outer, depth) + " OR " + g.condition(names, outer, depth) + ")"
	case 7:
		return "NOT (" + g.condition(names, outer, depth) + ")"
	case 8:
		return fmt.Sprintf("%s.%s = %s", t, g.number(), g.pick("@p", strconv.Itoa(g.IntN(4))))
	case 9, 10:
		return g.pick("EXISTS (", "NOT EXISTS (") + sub("SELECT 1") + ")"
	case 11, 12:
		return t + ".x" + g.pick(" IN (", " NOT IN (") + sub("SELECT T."+g.number()) + ")"
	case 13:
		return t + ".kind NOT IN (" + sub("SELECT T.kind") + ")"
	case 14:
		return t + ".x " + g.pick("=", "<", ">=") + " (" + sub("SELECT "+g.pick("max(T.x)", "count(*)", "min(T.id)")) + ")"
	}
	return t + ".x IN (" + sub("SELECT T.x") + fmt.Sprintf(" ORDER BY 1 LIMIT %d)", 1+g.IntN(2))
}

// block is the query itself, or a side of a set operation.
func (g *grammar) block(outer []string, n, depth int) string {
	from, names := g.from(outer, depth)
	where := g.where(names, outer, depth)
	if len(names) > 1 && g.IntN(6) == 0 { // rows that an outer join did not find
		and := " AND "
		if where == "" {
			and = " WHERE "
		}
		where += and + names[len(names)-1] + g.pick(".id IS NULL", ".kind IS NULL", ".x IS NULL")
	}
	var list, ordinals []string
	for i := range n {
		t := names[g.IntN(len(names))]
		column := "x"
		if depth == 0 {
			column = g.any()
		}
		list = append(list, fmt.Sprintf("%s.%s AS c%d", t, column, i))
		ordinals = append(ordinals, strconv.Itoa(i+1))
	}
	if depth > 0 {
		return "SELECT " + strings.Join(list, ", ") + " FROM " + from + where
	}
	if g.budget > 0 && g.IntN(4) == 0 {
		inner, own := g.from(names, 1)
		list = append(list, "(SELECT "+g.pick("count(*)", "max("+own[0]+".x)", "string_agg("+own[0]+".kind, ',' ORDER BY "+own[0]+".kind)")+
			" FROM "+inner+g.where(own, names, 1)+") AS scalar")
		ordinals = append(ordinals, strconv.Itoa(len(list)))
	}
	t := names[g.IntN(len(names))]
	switch g.IntN(7) {
	case 0:
		return fmt.Sprintf("SELECT %s.x AS c, count(*) AS n, min(%s.kind) AS least FROM %s%s GROUP BY %s.x", t, names[0], from, where, t) +
			g.pick("", " HAVING count(*) > 1")
	case 1:
		if g.budget > 0 && g.IntN(3) > 0 { // asked also where no row is
			inner, own := g.from(nil, 1)
			sub := "(SELECT " + g.pick("count(*)", "max("+own[0]+".x)") + " FROM " + inner + g.where(own, nil, 1) + ")"
			if g.IntN(3) == 0 {
				return fmt.Sprintf("SELECT count(*) AS n, max(%s.kind) AS most FROM %s%s HAVING count(*) <= %s", t, from, where, sub)
			}
			return fmt.Sprintf("SELECT count(*) AS n, %s AS m, max(%s.kind) AS most FROM %s%s", sub, t, from, where)
		}
		return fmt.Sprintf("SELECT count(*) AS n, max(%s.kind) AS most FROM %s%s", t, from, where)
	case 2:
		return "SELECT DISTINCT " + strings.Join(list, ", ") + " FROM " + from + where
	case 3:
		return "SELECT " + strings.Join(list, ", ") + " FROM " + from + where + " ORDER BY " + strings.Join(ordinals, ", ") + " LIMIT 2"
	case 4:
		return "SELECT " + strings.Join(list, ", ") + fmt.Sprintf(", rank() OVER (ORDER BY %s.kind, %s.id) AS place FROM ", t, t) + from + where
	}
	return "SELECT " + strings.Join(list, ", ") + " FROM " + from + where
}
