package soundness

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/plan"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
)

// TAG, GROUP and BROAD promise more than LOOKUP: when a transaction is the first one after the fill that changes a key,
// then that transaction, or one between the fill and it, names the key. What TAG rules note is noted at the fill, which here
// is the beginning of a window.

const (
	onlyRows   = "only the values of rows that are there are noted"
	lookedUp   = "keys are looked up when the window is over"
	notedLate  = "join values are noted after the value was read"
	lateNoting = "late " // marks what was noted at the end of the window
)

// TestTags is TestOtherClasses for the classes that are on time.
func TestTags(t *testing.T) { //nolint:tparallel // rounds come one after the other
	t.Parallel()
	seed, limit := settings(t)
	missed := map[string]int{}
	identities := []struct{ name, ddl string }{{"full", identityFull}, {"default", ""}, {"minimal", identityMinimal}}
	end := time.Now().Add(limit)
	for n := uint64(0); n < uint64(len(identities)) || time.Now().Before(end); n++ {
		identity := identities[n%uint64(len(identities))]
		t.Run(fmt.Sprintf("round %d, identity %s", n, identity.name), func(t *testing.T) {
			h := newTagged(t, identity.ddl, rand.New(rand.NewPCG(seed, n<<2|3)))
			h.run(min(round, limit/time.Duration(len(identities))), missed)
			for _, e := range h.examples {
				t.Errorf("missed: %s\nrepeat with SEED=%d", e, seed)
			}
			t.Logf("%d entries, %s, transactions %d, changed %d", len(h.entries), h.count(), h.transactions, h.changed)
		})
	}
	noticed(t, missed)
}

func newTagged(t *testing.T, identity string, random *rand.Rand) *follower {
	t.Helper()
	base, url, catalog := openHarness(t, tables+identity, random)
	h := &follower{harness: base, onTime: true}
	h.classes = []rule.Class{rule.Tag, rule.Group, rule.Broad}
	for _, w := range away() {
		if err := h.watch(catalog, w); err != nil {
			t.Error(err)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	h.watchRandom(catalog)
	h.tagged(catalog)
	for _, v := range h.variants {
		h.harness.variants = append(h.harness.variants, v.variant)
	}
	h.stream(url, catalog)
	return h
}

// tagged makes the product's way to apply the rules, and mistaken ones.
func (h *follower) tagged(catalog *schema.Catalog) {
	h.t.Helper()
	same := func(_ int, r rule.Rule) []rule.Rule { return []rule.Rule{r} }
	without := func(class rule.Class) func(int, rule.Rule) []rule.Rule {
		return func(_ int, r rule.Rule) []rule.Rule {
			if r.Class == class {
				return nil
			}
			return []rule.Rule{r}
		}
	}
	h.variants = []*following{
		newFollowing(product, h.entries, same),
		newFollowing(oldIgnored, h.entries, same),
		newFollowing(noBroad, h.entries, without(rule.Broad)),
		newFollowing(noGroup, h.entries, without(rule.Group)),
		newFollowing(onlyRows, h.entries, func(_ int, r rule.Rule) []rule.Rule {
			if r.Tag != nil {
				r.Tag = present(r)
			}
			return []rule.Rule{r}
		}),
		newFollowing(notedLate, h.entries, func(_ int, r rule.Rule) []rule.Rule {
			if r.Tag != nil {
				late := *r.Tag
				late.SQL = lateNoting + late.SQL
				r.Tag = &late
			}
			return []rule.Rule{r}
		}),
		newFollowing(rankOff, h.entries, h.unranked),
		newFollowing(lookedUp, h.looking(catalog), same),
	}
	h.variants[1].rewrite = forgetOld
}

// present is the query of a TAG rule that finds only values of rows that are there.
func present(r rule.Rule) *rule.TagQuery {
	mistaken := *r.Tag
	names, ties := make([]string, len(r.Tag.From)), make([]string, len(r.Tag.From))
	for i, column := range r.Tag.From {
		names[i] = "c" + strconv.Itoa(i)
		ties[i] = fmt.Sprintf("t.%s::text = p.%s", column, names[i])
	}
	mistaken.SQL = fmt.Sprintf("SELECT p.* FROM (%s) p (%s) WHERE EXISTS (SELECT FROM %s.%s t WHERE %s)",
		r.Tag.SQL, strings.Join(names, ", "), r.Schema, r.Table, strings.Join(ties, " AND "))
	return &mistaken
}

// unranked has both tables of the mutual query noted through each other.
func (h *follower) unranked(i int, r rule.Rule) []rule.Rule {
	if h.watched[i].query != mutual || r.Class != rule.Group {
		return []rule.Rule{r}
	}
	r.Class = rule.Tag
	if r.Table == "a" {
		r.Tag = &rule.TagQuery{
			SQL:  "SELECT DISTINCT q.x::text, $1::int::text FROM b q WHERE q.kind = $2::text",
			From: []string{"id", "x"}, Types: []keytext.Type{keytext.Int4, keytext.Int4},
		}
	} else {
		r.Tag = &rule.TagQuery{
			SQL:  "SELECT DISTINCT $2::text, q.id::text FROM a q WHERE q.x = $1::int",
			From: []string{"kind", "x"}, Types: []keytext.Type{keytext.String, keytext.Int4},
		}
	}
	return []rule.Rule{r}
}

// looking plans the same queries with LOOKUP for TAG.
func (h *follower) looking(catalog *schema.Catalog) []*rule.Entry {
	h.t.Helper()
	entries := make([]*rule.Entry, len(h.entries))
	for i := range entries {
		d := h.watched[i].declared(i)
		for _, t := range catalog.Tables {
			d.AllowBroad = append(d.AllowBroad, t.Name.Name)
		}
		entries[i] = h.entries[i]
		d.AllowBroad = slices.DeleteFunc(d.AllowBroad, func(name string) bool {
			return !slices.ContainsFunc(h.entries[i].Rules, func(r rule.Rule) bool { return r.Table == name })
		})
		if compiled, err := plan.Compile(catalog, d, rule.Lookup, rule.Group, rule.Broad); err == nil {
			entries[i] = compiled.Entry
		}
	}
	return entries
}

// note asks every TAG rule for the join values of every key, now.
func (h *follower) note(late bool) {
	h.t.Helper()
	if !late {
		h.noted = map[string][][]string{}
	}
	for _, f := range h.variants {
		for i := range h.entries {
			for _, o := range f.more[i] {
				if o.rule.Tag == nil || strings.HasPrefix(o.rule.Tag.SQL, lateNoting) != late {
					continue
				}
				name := h.entries[i].Name + "\n" + o.rule.Tag.SQL
				if h.noted[name] == nil {
					h.noted[name] = h.values(i, o, f.entries[o.index])
				}
			}
		}
	}
}

// values are the join values of each key of an entry, spelled as keys of the entry that stands for the rule.
func (h *follower) values(i int, o other, said *rule.Entry) [][]string {
	h.t.Helper()
	query, keys := keyed(strings.TrimPrefix(o.rule.Tag.SQL, lateNoting), h.watched[i], combinations(h.watched[i].domains))
	query = "SELECT __k.ord, __q.* FROM " + keys + " CROSS JOIN LATERAL (" + query + ") __q"
	rows, err := h.conn.Query(h.t.Context(), query)
	if err != nil {
		h.t.Fatalf("%s: %v", query, err)
	}
	values := make([][]string, len(h.keys[i]))
	template := h.template(said.Key)
	var key int
	texts := make([]string, len(o.rule.Tag.From))
	scan := []any{&key}
	for j := range texts {
		scan = append(scan, &texts[j])
	}
	_, err = pgx.ForEachRow(rows, scan, func() error {
		args := make([]keytext.Arg, len(texts))
		for j, text := range texts {
			canonical, err := keytext.Canonical(o.rule.Tag.Types[j], text)
			if err != nil {
				return err
			}
			args[j].Text = canonical
		}
		values[key] = append(values[key], string(template.Append(nil, args)))
		return nil
	})
	if err != nil {
		h.t.Fatalf("%s: %v", query, err)
	}
	return values
}
