package soundness

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
)

// Large domains: tables with hundreds of rows, in which most writes matter to few keys. On them the rules have to be on time, as
// everywhere, and they show how precise the rules are.

// sampled are the keys of each entry that are watched.
const sampled = 25

// filled is a table of a large domain.
type filled struct {
	name string
	rows int // that there are at first, with the numbers from 1 on as their keys; 0: its first two columns are its key, and say what it joins
	// joins is how many rows there are at first of a table whose key are its first two columns.
	joins   int
	titled  string // what its second column is at first, before the row's number; empty: by chance
	writes  int    // its share of the writes
	columns []column
}

// large makes the rows of a large domain, and random writes to it.
type large struct {
	writer

	tables []filled // each after those that it refers to
}

func (l large) table(name string) *filled {
	return &l.tables[slices.IndexFunc(l.tables, func(f filled) bool { return f.name == name })]
}

func (l large) id(table string) string { return strconv.Itoa(1 + l.IntN(l.table(table).rows)) }

// of are random ids of a table.
func (l large) of(table string) func() string { return func() string { return l.id(table) } }

func (l large) text(kind string) string { return fmt.Sprintf("'%s %d'", kind, l.IntN(400)) }

func (l large) named(kind string) func() string { return func() string { return l.text(kind) } }

func (l large) moment() string {
	return fmt.Sprintf("'2026-%02d-%02d 12:00:00+00'", 1+l.IntN(12), 1+l.IntN(28))
}

func (l large) amount() string { return fmt.Sprintf("%d.%d9", l.IntN(9), l.IntN(10)) }

func (l large) oneOf(values ...string) func() string {
	return func() string { return l.pick(values...) }
}

// row are random values of a table's columns.
func (f *filled) row() (names, values []string) {
	for _, c := range f.columns {
		names, values = append(names, c.name), append(values, c.value())
	}
	return names, values
}

// fill is a script that fills the tables.
func (l large) fill() string {
	var b strings.Builder
	for i := range l.tables {
		f := &l.tables[i]
		rows := make([]string, cmp.Or(f.rows, f.joins))
		for i := range rows {
			_, values := f.row()
			if f.rows > 0 {
				values[0] = strconv.Itoa(i + 1)
			}
			if f.titled != "" {
				values[1] = fmt.Sprintf("'%s %d'", f.titled, i+1)
			}
			rows[i] = "(" + strings.Join(values, ", ") + ")"
		}
		names, _ := f.row()
		fmt.Fprintf(&b, "INSERT INTO %s (%s) VALUES %s ON CONFLICT DO NOTHING;\n", f.name, strings.Join(names, ", "), strings.Join(rows, ", "))
	}
	return b.String()
}

// drawn is a table by its share of the writes.
func (l large) drawn() *filled {
	all := 0
	for i := range l.tables {
		all += l.tables[i].writes
	}
	n := l.IntN(all)
	for i := range l.tables {
		if n -= l.tables[i].writes; n < 0 {
			return &l.tables[i]
		}
	}
	panic("unreachable")
}

// statement is a random write.
func (l large) statement() string {
	f := l.drawn()
	columns := f.columns
	key := columns[0].name + " = " + columns[0].value()
	if f.rows == 0 {
		key += " AND " + columns[1].name + " = (SELECT min(" + columns[1].name + ") FROM " + f.name + " WHERE " + key + ")"
	}
	switch n := l.IntN(20); {
	case n < 11 && f.rows > 0:
		c := columns[1+l.IntN(len(columns)-1)]
		return "UPDATE " + f.name + " SET " + c.name + " = " + c.value() + " WHERE " + key
	case n < 16:
		names, values := f.row()
		return "INSERT INTO " + f.name + " (" + strings.Join(names, ", ") + ") VALUES (" + strings.Join(values, ", ") + ") ON CONFLICT DO NOTHING"
	}
	return "DELETE FROM " + f.name + " WHERE " + key
}

// drawDistinct are different values, quoted nowhere, as many as are sampled where there are so many.
func drawDistinct(cast string, draw func() string) domain {
	d := domain{cast: cast}
	for range sampled {
		if value := strings.Trim(draw(), "'"); !slices.Contains(d.values, value) {
			d.values = append(d.values, value)
		}
	}
	return d
}

// openLarge opens a database with a large domain in it, of which nothing is watched yet.
func openLarge(t *testing.T, l large, ddl string) (*follower, string, *schema.Catalog) {
	t.Helper()
	base, url, catalog := openHarness(t, ddl+l.fill(), l.Rand)
	h := &follower{harness: base, onTime: true}
	h.classes = []rule.Class{rule.Tag, rule.Group, rule.Broad}
	h.write = l.statement
	return h, url, catalog
}

// attend begins to follow the log for all that is watched.
func (h *follower) attend(url string, catalog *schema.Catalog) {
	h.t.Helper()
	h.variants = []*following{newFollowing(product, h.entries, func(_ int, r rule.Rule) []rule.Rule { return []rule.Rule{r} })}
	h.harness.variants = append(h.harness.variants, h.variants[0].variant)
	h.stream(url, catalog)
}

// precise counts what is invalidated and what had changed, of the entries whose coarsest rule has one class.
type precise struct {
	entries, changed, named, hits, byTable int
	causes                                 map[string]int // of keys that were invalidated and had not changed
}

// Why a key may be invalidated although its result is the same. A rule is of rows that a query reads, and not of what it makes of them.
const (
	causeBroad   = "the rule reaches further than the row tells"
	causeCancels = "several writes of the transaction cancel out"
	causePartner = "the row has no partner in a join or subquery, or its partner does not show"
	causeMerged  = "equal rows are merged, or an aggregate comes to the same"
	causeSame    = "the log has no whole old row, to tell that an UPDATE changed nothing that is read"
	causeHolds   = "a column changed that only a condition reads, which holds as it did"
	causeCutOff  = "the row is beyond the first ones"
	causeUnknown = "none that is known"
)

// cause says why a key of an entry was invalidated in vain. In a query of one table without anything that merges or drops rows every
// change of a row that it reads shows, unless the transaction takes it back.
func (h *follower) cause(i int, class rule.Class, statements []string) string {
	has := func(words ...string) bool {
		text := " " + strings.Join(strings.Fields(strings.ToUpper(strings.NewReplacer("(", " ( ", ",", " , ").Replace(h.watched[i].query))), " ") + " "
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(text, " "+w+" ") })
	}
	touching := 0
	for _, s := range statements {
		if h.touches(i, []string{s}) {
			touching++
		}
	}
	switch {
	case class == rule.Group || class == rule.Broad:
		return causeBroad
	case has("LIMIT", "ROW_NUMBER", "RANK"):
		return causeCutOff
	case has("DISTINCT", "UNION", "GROUP BY", "COUNT", "SUM", "MAX", "MIN", "AVG", "STRING_AGG", "ARRAY_AGG"):
		return causeMerged
	case has("JOIN", "EXISTS", "IN", "LATERAL", "EXCEPT", "INTERSECT", "WITH") || len(h.entries[i].Views) > 0 || len(h.entries[i].Rules) > 1:
		return causePartner
	case touching > 1:
		return causeCancels
	case slices.ContainsFunc(statements, func(s string) bool { return setsOnlyCondition(s, h.watched[i].query) }):
		return causeHolds
	case slices.ContainsFunc(h.partial, func(table string) bool {
		return slices.ContainsFunc(statements, func(s string) bool { return strings.HasPrefix(s, "UPDATE "+table+" ") })
	}):
		return causeSame
	}
	return causeUnknown
}

// setsOnlyCondition reports that an UPDATE sets a column that the query has in its WHERE and does not select.
func setsOnlyCondition(statement, query string) bool {
	_, set, ok := strings.Cut(statement, " SET ")
	column, _, _ := strings.Cut(set, " ")
	list, where, _ := strings.Cut(query, " WHERE ")
	return ok && slices.Contains(strings.Fields(where), column) && !slices.Contains(strings.FieldsFunc(list, func(r rune) bool { return r == ' ' || r == ',' }), column)
}

// measure commits one transaction at a time.
func (h *follower) measure(limit time.Duration) map[rule.Class]*precise {
	h.t.Helper()
	counts := map[rule.Class]*precise{}
	worst, classes := make([]*precise, len(h.entries)), make([]rule.Class, len(h.entries))
	for i, e := range h.entries {
		class := rule.Exact
		for _, r := range e.Rules {
			if order := []rule.Class{rule.Exact, rule.Tag, rule.Group, rule.Broad}; r.Class != "" && slices.Index(order, r.Class) > slices.Index(order, class) {
				class = r.Class
			}
		}
		if counts[class] == nil {
			counts[class] = &precise{causes: map[string]int{}}
		}
		worst[i], classes[i] = counts[class], class
		worst[i].entries++
	}
	before := h.read(h.truths)
	for begun := time.Now(); time.Since(begun) < limit; {
		h.note(false)
		number, statements := strconv.Itoa(h.transactions), h.statements()
		if !h.commit(number, statements) {
			continue
		}
		h.transactions++
		after, r := h.read(h.truths), h.next(number)
		named := h.apply(h.variants[0], r.verdicts[0])
		h.each(func(i, j int, key string) {
			hit, changed := named.all[i] || named.keys[i][key], before[i][j] != after[i][j]
			count := worst[i]
			if h.touches(i, statements) {
				count.byTable++
			}
			switch {
			case hit && changed:
				count.hits++
				fallthrough
			case hit:
				count.named++
				if changed {
					break
				}
				why := h.cause(i, classes[i], statements)
				count.causes[why]++
				if why == causeUnknown {
					h.t.Errorf("in vain, and nobody knows why: key %s of %s after\n%s", key, h.watched[i].query, strings.Join(statements, ";\n"))
				}
			case changed:
				h.t.Errorf("missed: key %s of %s after\n%s", key, h.watched[i].query, strings.Join(statements, ";\n"))
			}
			if changed {
				count.changed++
				h.changed++
			}
		})
		before = after
	}
	return counts
}

// touches reports that one of the statements is about a table that the entry reads.
func (h *follower) touches(entry int, statements []string) bool {
	return slices.ContainsFunc(h.entries[entry].Rules, func(r rule.Rule) bool {
		return slices.ContainsFunc(statements, func(s string) bool { return slices.Contains(strings.Fields(s), r.Table) })
	})
}

// judge holds a large domain's entries to being on time, and says how precise their rules are: of the keys that they invalidate, how many
// had changed, against invalidating every key whose entry reads the table.
func (h *follower) judge(seed uint64, counts map[rule.Class]*precise) {
	t := h.t
	t.Helper()
	if h.changed == 0 {
		t.Error("no result changed: nothing was tested")
	}
	if t.Failed() {
		t.Logf("repeat with SEED=%d", seed)
	}
	t.Logf("%d transactions, seed %d", h.transactions, seed)
	for _, class := range slices.Sorted(maps.Keys(counts)) {
		c := counts[class]
		t.Logf("%-5s %2d entries, changed %4d, invalidated %5d, precision %.0f%%; by table %d", class, c.entries, c.changed, c.named, 100*float64(c.hits)/float64(max(1, c.named)), c.byTable)
		for _, why := range slices.Sorted(maps.Keys(c.causes)) {
			t.Logf("      in vain %4d: %s", c.causes[why], why)
		}
	}
	// With fewer changes the shares say nothing. The long run has thousands.
	const enough = 300
	for class, least := range map[rule.Class]float64{rule.Exact: 0.75, rule.Tag: 0.43} {
		if c := counts[class]; c.named >= enough && float64(c.hits) < least*float64(c.named) {
			t.Errorf("%s: of %d invalidated keys %d had changed, want at least %.0f%%", class, c.named, c.hits, 100*least)
		}
	}
}
