// Package mend finds out what a database lacks for the entries of a configuration, and the cheapest statements that
// mend it. It decides, and runs nothing.
package mend

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/plan"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
)

// How is the way in which a table gets the replica identity that it lacks, from the cheapest one on.
type How string

// The ways.
const (
	Default  How = "default"        // the primary key has all that is needed, and is not the identity
	Existing How = "existing index" // a unique index is there that has it
	NewIndex How = "new index"      // a unique index is made of the primary key and the columns that are needed
	Full     How = "full"           // nothing less has it
	ByHand   How = "by hand"        // no statement that only adds something does it
)

// Identity is a table whose old row images lack what the rules of entries need of them.
type Identity struct {
	Table      schema.Name `json:"-"`
	Name       string      `json:"table"`
	Now        string      `json:"now"`
	Lacks      []string    `json:"lacks"` // columns; none: its publication would break its writers
	Entries    []string    `json:"entries"`
	How        How         `json:"how"`
	Why        string      `json:"why,omitempty"` // why no cheaper way does
	Log        string      `json:"log"`           // what it costs in log
	Statements []string    `json:"statements"`    // each on its own, outside a transaction
	Do         string      `json:"do,omitempty"`  // where no statement does it
	index      string      // that is made
}

// Facts are what the database says besides its catalog.
type Facts struct {
	Indexes map[schema.Name][]schema.Index
	Widths  map[schema.Name]map[string]int // bytes that a column's value takes on average
	Names   map[schema.Name]bool           // of relations of every kind; an index can have none of them
}

// Identities finds the tables whose replica identity lacks something for the entries. Whether an entry lacks something
// is not asked of its refusal: it is planned once more as if old rows were whole, and what then differs is what they lack.
func Identities(catalog *schema.Catalog, declared []rule.Declared, facts Facts) []Identity {
	wanted := map[schema.Name]*want{}
	for _, d := range declared {
		for name, columns := range lacking(catalog, d) {
			w := wanted[name]
			if w == nil {
				w = &want{}
				wanted[name] = w
			}
			w.entries = append(w.entries, d.Name)
			w.columns = merge(w.columns, columns)
		}
	}
	list := make([]Identity, 0, len(wanted))
	made := map[schema.Name]bool{}
	for _, name := range slices.SortedFunc(maps.Keys(wanted), func(a, b schema.Name) int { return strings.Compare(a.String(), b.String()) }) {
		list = append(list, advise(catalog.Tables[name], wanted[name], facts, func(relation schema.Name) bool {
			return facts.Names[relation] || catalog.Tables[relation] != nil || made[relation] || facts.holds(relation, name)
		}))
		if id := &list[len(list)-1]; id.index != "" {
			made[schema.Name{Schema: name.Schema, Name: id.index}] = true
		}
	}
	return list
}

// holds reports that an index of another table has the name: they share them with tables.
func (f *Facts) holds(name, except schema.Name) bool {
	for table, indexes := range f.Indexes {
		if table.Schema == name.Schema && table != except && slices.ContainsFunc(indexes, func(x schema.Index) bool { return x.Name == name.Name }) {
			return true
		}
	}
	return false
}

// want is what entries need of the old rows of a table.
type want struct {
	entries []string
	columns []string
}

func merge(a, b []string) []string {
	for _, column := range b {
		if !slices.Contains(a, column) {
			a = append(a, column)
		}
	}
	return a
}

// lacking plans an entry as if old rows were whole and takes that back table by table, as long as its rules stay what
// they are: whatever remains lacks something.
func lacking(catalog *schema.Catalog, d rule.Declared) map[schema.Name][]string {
	whole := func(names map[schema.Name]bool) *schema.Catalog {
		c := *catalog
		c.Tables = maps.Clone(catalog.Tables)
		for name := range names {
			t := *c.Tables[name]
			t.Identity, t.IdentityCols = change.IdentityFull, nil
			for i := range t.Columns {
				if !t.Columns[i].Generated {
					t.IdentityCols = append(t.IdentityCols, t.Columns[i].Name)
				}
			}
			c.Tables[name] = &t
		}
		return &c
	}
	all := map[schema.Name]bool{}
	for name, t := range catalog.Tables {
		if t.Kind == schema.OrdinaryTable || t.Kind == schema.PartitionedTable {
			all[name] = true
		}
	}
	best, err := plan.Compile(whole(all), d, plan.Served()...)
	if err != nil {
		return nil // it is refused for another reason
	}
	asGood := func(names map[schema.Name]bool) bool {
		c := whole(names)
		compiled, err := plan.Compile(c, d, plan.Served()...)
		return err == nil && sameRules(compiled, best) && met(compiled, c)
	}
	if asGood(nil) {
		return nil
	}
	used := map[schema.Name]bool{}
	for i := range best.Entry.Rules {
		used[schema.Name{Schema: best.Entry.Rules[i].Schema, Name: best.Entry.Rules[i].Table}] = true
	}
	for name := range maps.Clone(used) {
		delete(used, name)
		if !asGood(used) {
			used[name] = true
		}
	}
	if now, err := plan.Compile(whole(used), d, plan.Served()...); err == nil {
		best = now
	}
	lacks := map[schema.Name][]string{}
	for i := range best.Entry.Rules {
		r := &best.Entry.Rules[i]
		if name := (schema.Name{Schema: r.Schema, Name: r.Table}); used[name] {
			lacks[name] = merge(lacks[name], r.Needs())
		}
	}
	return lacks
}

// sameRules reports that two plans go by as much of a row, table by table.
func sameRules(a, b *plan.Compiled) bool {
	return slices.EqualFunc(a.Entry.Rules, b.Entry.Rules, func(x, y rule.Rule) bool {
		return x.Schema == y.Schema && x.Table == y.Table && x.Class == y.Class && bound(&x) == bound(&y)
	})
}

// bound counts the parameters that a rule knows from a row: a GROUP rule whose old rows carry less goes by fewer.
func bound(r *rule.Rule) (n int) {
	for _, column := range r.Bind {
		if column != "" {
			n++
		}
	}
	return n
}

// met reports that old rows carry what the rules need. A TAG rule may lack it and be a TAG rule all the same, where
// allow_broad has every key dropped for rows that do not say which.
func met(compiled *plan.Compiled, catalog *schema.Catalog) bool {
	return !slices.ContainsFunc(compiled.Entry.Rules, func(r rule.Rule) bool {
		t := catalog.Tables[schema.Name{Schema: r.Schema, Name: r.Table}]
		return !contains(t.IdentityCols, r.Needs())
	})
}

// advise chooses the cheapest way for a table.
func advise(t *schema.Table, w *want, facts Facts, taken func(schema.Name) bool) Identity {
	id := Identity{
		Table: t.Name, Name: t.String(), Now: now(t), Lacks: []string{}, Entries: w.entries, Statements: []string{},
	}
	for _, column := range w.columns {
		if !slices.Contains(t.IdentityCols, column) {
			id.Lacks = append(id.Lacks, column)
		}
	}
	alter := "ALTER TABLE " + quoted(t.Name) + " REPLICA IDENTITY "
	if t.Kind == schema.PartitionedTable {
		return id.byHand(t)
	}
	// What the identity has now stays in it: an entry of another file may need it.
	needs := merge(slices.Clone(t.IdentityCols), w.columns)
	indexes := facts.Indexes[t.Name]
	usable := -1
	for i := range indexes {
		if x := &indexes[i]; x.Usable(t) && contains(x.Columns, needs) && (usable < 0 || len(x.Columns) < len(indexes[usable].Columns)) {
			usable = i
		}
	}
	switch {
	case usable >= 0 && indexes[usable].Primary:
		id.How, id.Statements = Default, []string{alter + "DEFAULT"}
		id.Log = indexLog(t, indexes[usable].Columns, facts)
	case usable >= 0:
		id.How, id.Statements = Existing, []string{alter + "USING INDEX " + QuoteIdent(indexes[usable].Name)}
		id.Log = indexLog(t, indexes[usable].Columns, facts)
	default:
		unique, why := base(t, indexes, needs)
		if why != "" {
			id.How, id.Why, id.Statements = Full, why, []string{alter + "FULL"}
			id.Log = fullLog(t, facts)
			break
		}
		columns := merge(unique, needs)
		name, before, after := newIndex(t, indexes, taken)
		id.How, id.index = NewIndex, name
		id.Statements = slices.Concat(before, []string{
			"CREATE UNIQUE INDEX CONCURRENTLY " + QuoteIdent(name) + " ON " + quoted(t.Name) + " (" + quotedList(columns) + ")",
			alter + "USING INDEX " + QuoteIdent(name),
		}, after)
		id.Log = indexLog(t, columns, facts) +
			fmt.Sprintf("; an UPDATE that changes one of them cannot stay out of the indexes any more: about %d more for each index of the table", indexEntry)
	}
	return id
}

// byHand is for a partitioned table: its log follows the identities of its partitions, and only DEFAULT on all of them,
// those to come included, is known to agree with what the publication describes.
func (id Identity) byHand(t *schema.Table) Identity {
	id.How, id.Why = ByHand, "the old rows of a partitioned table are those of its partitions, which agree only under DEFAULT"
	id.Log = "that of the primary key"
	if !contains(t.PrimaryKey, id.Lacks) {
		more := slices.DeleteFunc(slices.Clone(id.Lacks), func(column string) bool { return slices.Contains(t.PrimaryKey, column) })
		id.Do = fmt.Sprintf("give %s a primary key that includes %s, and leave it and its partitions at REPLICA IDENTITY DEFAULT", quoted(t.Name), strings.Join(more, ", "))
		return id
	}
	id.Do = fmt.Sprintf("set %s and its partitions to REPLICA IDENTITY DEFAULT", quoted(t.Name))
	return id
}

// base are the columns that make a new index unique, and why there can be none.
func base(t *schema.Table, indexes []schema.Index, needs []string) (columns []string, why string) {
	var nullable []string
	for _, name := range needs {
		if c := t.Column(name); c != nil && !c.NotNull {
			nullable = append(nullable, name)
		}
	}
	if len(nullable) > 0 {
		return nil, strings.Join(nullable, ", ") +
			" may be NULL, and an index that is the identity takes none; ALTER COLUMN ... SET NOT NULL, where it never is, allows the cheaper index"
	}
	// The primary key comes first among the indexes. One that is DEFERRABLE is none of these: a new index on its columns would
	// refuse what the key allows until COMMIT.
	for i := range indexes {
		if indexes[i].Usable(t) {
			return slices.Clone(indexes[i].Columns), ""
		}
	}
	return nil, "it has no primary key that is checked at once, and no unique index of columns that are NOT NULL, with which an index that has the column could be unique"
}

// newIndex names an index that is to be made, and says what is to be dropped: before, what an interrupted run left, and
// after, an identity of ours that the new one replaces.
func newIndex(t *schema.Table, indexes []schema.Index, taken func(schema.Name) bool) (name string, before, after []string) {
	const longest = 63 // bytes of a name in PostgreSQL
	ours := func(n int) string {
		suffix := "_freshet"
		if n > 1 {
			suffix = fmt.Sprintf("_freshet_%d", n)
		}
		return cut(t.Name.Name, longest-len(suffix)) + suffix
	}
	drop := func(name string) string {
		return "DROP INDEX CONCURRENTLY " + QuoteIdent(t.Schema) + "." + QuoteIdent(name)
	}
	for n := 1; ; n++ {
		at := slices.IndexFunc(indexes, func(x schema.Index) bool { return x.Name == ours(n) })
		switch {
		case at < 0 && taken(schema.Name{Schema: t.Schema, Name: ours(n)}):
		case at < 0:
			return ours(n), before, after
		case !indexes[at].Valid:
			return ours(n), append(before, drop(ours(n))), after
		case indexes[at].Identity:
			after = append(after, drop(ours(n)))
		}
	}
}

func cut(s string, longest int) string {
	for len(s) > longest {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}

func contains(all, some []string) bool {
	return !slices.ContainsFunc(some, func(s string) bool { return !slices.Contains(all, s) })
}

func now(t *schema.Table) string {
	switch t.Identity {
	case change.IdentityFull:
		return "FULL"
	case change.IdentityNothing:
		return "NOTHING"
	case change.IdentityIndex:
		return "USING INDEX (" + strings.Join(t.IdentityCols, ", ") + ")"
	case change.IdentityDefault:
	}
	switch {
	case len(t.PrimaryKey) == 0:
		return "DEFAULT, without a primary key"
	case len(t.IdentityCols) == 0 && t.Kind == schema.PartitionedTable:
		return "not the primary key in all of its partitions"
	case len(t.IdentityCols) == 0:
		return "DEFAULT, which the primary key cannot be"
	}
	return "DEFAULT (" + strings.Join(t.IdentityCols, ", ") + ")"
}

// Apart from the data, an old image takes the header of a tuple in the log, and padding.
const imageHeader = 8

// indexEntry is about what a new entry of an index takes in the log.
const indexEntry = 90

// fullLog is what FULL costs in log: every UPDATE and DELETE carries the whole old row.
func fullLog(t *schema.Table, facts Facts) string {
	names := make([]string, 0, len(t.Columns))
	for i := range t.Columns {
		names = append(names, t.Columns[i].Name)
	}
	return fmt.Sprintf("about %d bytes more for each UPDATE and DELETE", imageHeader+width(t, names, facts))
}

// indexLog is what an index costs: old values are logged only where one of its columns changes, and with a DELETE.
func indexLog(t *schema.Table, columns []string, facts Facts) string {
	return fmt.Sprintf("about %d bytes for each DELETE and each UPDATE that changes %s; none for other updates",
		imageHeader+width(t, columns, facts), strings.Join(columns, ", "))
}

func width(t *schema.Table, columns []string, facts Facts) (sum int) {
	for _, name := range columns {
		sum += facts.Widths[t.Name][name]
	}
	return sum
}

func quoted(n schema.Name) string { return QuoteIdent(n.Schema) + "." + QuoteIdent(n.Name) }

func quotedList(names []string) string {
	list := make([]string, len(names))
	for i, name := range names {
		list[i] = QuoteIdent(name)
	}
	return strings.Join(list, ", ")
}

// QuoteIdent quotes a name for SQL.
func QuoteIdent(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
