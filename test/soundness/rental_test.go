package soundness

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/testkit/plantest"
)

// The shop of internal/plan/testdata/rental, filled with some thousand rows: a large domain, in which most writes matter to few
// keys. On it the rules have to be on time, as everywhere, and it shows how precise they are.

const rentalFolder = "../../internal/plan/testdata/rental"

// sampled are the keys of each entry that are watched.
const sampled = 25

// sizes of the tables that random rows refer to.
var sizes = map[string]int{
	"country": 8, "city": 40, "address": 300, "store": 3, "staff": 9, "customer": 150, "language": 4, "category": 12, "film": 160, "actor": 90,
	"inventory": 480, "rental": 1200, "payment": 1200,
}

// shop makes random rows of the shop, and random writes to it.
type shop struct{ writer }

func (s shop) id(table string) string { return strconv.Itoa(1 + s.IntN(sizes[table])) }

func (s shop) text(kind string) string { return fmt.Sprintf("'%s %d'", kind, s.IntN(400)) }

func (s shop) moment() string {
	return fmt.Sprintf("'2026-%02d-%02d 12:00:00+00'", 1+s.IntN(12), 1+s.IntN(28))
}

func (s shop) amount() string { return fmt.Sprintf("%d.%d9", s.IntN(9), s.IntN(10)) }

// columns are a table's columns and how to make a value of each; the first is the key.
func (s shop) columns(table string) []column {
	of := func(other string) func() string { return func() string { return s.id(other) } }
	named := func(kind string) func() string { return func() string { return s.text(kind) } }
	seldom := func() string { return s.pick("NULL", "NULL", "NULL", "NULL", s.moment()) }
	often := func() string { return s.pick("NULL", s.moment(), s.moment(), s.moment()) }
	truth := func() string { return s.pick("true", "true", "true", "false") }
	all := map[string][]column{
		"country":       {{"country_id", of("country")}, {"name", named("Country")}},
		"city":          {{"city_id", of("city")}, {"name", named("City")}, {"country_id", of("country")}},
		"address":       {{"address_id", of("address")}, {"street", named("Street")}, {"postal_code", named("P")}, {"city_id", of("city")}},
		"store":         {{"store_id", of("store")}, {"address_id", of("address")}},
		"staff":         {{"staff_id", of("staff")}, {"name", named("Clerk")}, {"store_id", of("store")}, {"address_id", of("address")}, {"active", truth}},
		"customer":      {{"customer_id", of("customer")}, {"store_id", of("store")}, {"first_name", named("First")}, {"last_name", named("Last")}, {"email", named("Mail")}, {"address_id", of("address")}, {"active", truth}, {"last_seen", s.moment}},
		"language":      {{"language_id", of("language")}, {"name", named("Language")}},
		"category":      {{"category_id", of("category")}, {"name", func() string { return "'Category " + s.id("category") + "'" }}},
		"film":          {{"film_id", of("film")}, {"title", named("Film")}, {"language_id", of("language")}, {"rental_rate", s.amount}, {"length", s.small}, {"rating", func() string { return s.pick("'G'", "'PG'", "'PG-13'", "'R'") }}, {"withdrawn_at", seldom}},
		"actor":         {{"actor_id", of("actor")}, {"name", named("Actor")}},
		"film_actor":    {{"film_id", of("film")}, {"actor_id", of("actor")}},
		"film_category": {{"film_id", of("film")}, {"category_id", of("category")}},
		"inventory":     {{"inventory_id", of("inventory")}, {"film_id", of("film")}, {"store_id", of("store")}},
		"rental":        {{"rental_id", of("rental")}, {"inventory_id", of("inventory")}, {"customer_id", of("customer")}, {"rented_at", s.moment}, {"due_at", s.moment}, {"returned_at", often}},
		"payment":       {{"payment_id", of("payment")}, {"customer_id", of("customer")}, {"rental_id", of("rental")}, {"amount", s.amount}, {"paid_at", s.moment}},
	}
	return all[table]
}

// fill is a script that fills the tables, each after those that it refers to.
func (s shop) fill() string {
	var b strings.Builder
	for _, table := range []string{"country", "city", "address", "store", "staff", "customer", "language", "category", "film", "actor", "film_actor", "film_category", "inventory", "rental", "payment"} {
		n := sizes[table]
		if n == 0 {
			n = 2 * sizes["film"] // of what joins two tables
		}
		columns := s.columns(table)
		rows := make([]string, n)
		for i := range rows {
			values := make([]string, len(columns))
			for j, c := range columns {
				values[j] = c.value()
			}
			if sizes[table] > 0 {
				values[0] = strconv.Itoa(i + 1)
			}
			if table == "category" {
				values[1] = fmt.Sprintf("'Category %d'", i+1)
			}
			rows[i] = "(" + strings.Join(values, ", ") + ")"
		}
		fmt.Fprintf(&b, "INSERT INTO %s VALUES %s ON CONFLICT DO NOTHING;\n", table, strings.Join(rows, ", "))
	}
	return b.String()
}

// statement is a random write. What most entries are about changes most.
func (s shop) statement() string {
	table := s.pick("country", "city", "address", "address", "staff", "customer", "customer", "customer", "language", "category", "film", "film", "film", "actor", "film_actor",
		"film_actor", "film_category", "inventory", "inventory", "rental", "rental", "rental", "rental", "rental", "payment", "payment", "payment")
	columns := s.columns(table)
	key := columns[0].name + " = " + columns[0].value()
	if sizes[table] == 0 {
		key += " AND " + columns[1].name + " = (SELECT min(" + columns[1].name + ") FROM " + table + " WHERE " + key + ")"
	}
	switch n := s.IntN(20); {
	case n < 11 && sizes[table] > 0:
		c := columns[1+s.IntN(len(columns)-1)]
		return "UPDATE " + table + " SET " + c.name + " = " + c.value() + " WHERE " + key
	case n < 16:
		names, values := make([]string, len(columns)), make([]string, len(columns))
		for i, c := range columns {
			names[i], values[i] = c.name, c.value()
		}
		return "INSERT INTO " + table + " (" + strings.Join(names, ", ") + ") VALUES (" + strings.Join(values, ", ") + ") ON CONFLICT DO NOTHING"
	}
	return "DELETE FROM " + table + " WHERE " + key
}

// domainOf draws the arguments of a parameter that are watched.
func (s shop) domainOf(entry, parameter string) domain {
	from := map[string]string{"store": "store", "film": "film"}[parameter]
	if parameter == "id" {
		from = map[string]string{"film": "film", "films": "film", "film_of_view": "film", "cast": "film", "related": "film", "place_of_film": "film", "stock": "film", "filmography": "actor"}[entry]
		if from == "" {
			from = "customer"
		}
	}
	d := domain{cast: "int4"}
	for n := range sampled {
		var value string
		switch {
		case from == "store":
			d.values = []string{"1", "2", "3"}
			return d
		case from == "film" && parameter == "film" && n == 8: // times three stores
			return d
		case from != "":
			value = s.id(from)
		case parameter == "n":
			return domain{cast: "int8", values: []string{"3"}}
		case parameter == "rating":
			return domain{cast: "rating", values: []string{"G", "PG-13"}}
		case parameter == "prefix":
			return domain{cast: "text", values: []string{"Film 1", "Film 2", "Film 30", "Film"}}
		case parameter == "email":
			d.cast, value = "text", fmt.Sprintf("mail %d", s.IntN(400))
		case parameter == "name":
			d.cast, value = "text", "Category "+s.id("category")
		default: // ids
			d.cast, value = "int4[]", fmt.Sprintf("{%s,%s,%s}", s.id("film"), s.id("film"), s.id("film"))
		}
		if !slices.Contains(d.values, value) {
			d.values = append(d.values, value)
		}
	}
	return d
}

// newRental watches the entries of the shop.
func newRental(t *testing.T, random *rand.Rand) *follower {
	t.Helper()
	ddl, err := os.ReadFile(filepath.Join(rentalFolder, "schema.sql"))
	if err != nil {
		t.Fatal(err)
	}
	s := shop{writer{random}}
	base, url, catalog := openHarness(t, string(ddl)+s.fill(), random)
	h := &follower{harness: base, onTime: true}
	h.classes = []rule.Class{rule.Tag, rule.Group, rule.Broad}
	h.write = s.statement
	cases, err := plantest.Cases(rentalFolder)
	if err != nil || len(cases) < 20 {
		t.Fatalf("the entries of the shop: %d, %v", len(cases), err)
	}
	for _, c := range cases {
		if c.Declared.DependsOnTime {
			continue // its results change by themselves
		}
		template, err := rule.ParseTemplate(c.Declared.Key)
		if err != nil {
			t.Fatal(err)
		}
		w := watched{query: c.Declared.Query, key: c.Declared.Key, name: c.Declared.Name, functions: c.Declared.Functions}
		for _, parameter := range template.Params() {
			w.domains = append(w.domains, s.domainOf(c.Declared.Name, parameter))
		}
		if err := h.watch(catalog, w); err != nil {
			t.Fatal(err)
		}
	}
	h.variants = []*following{newFollowing(product, h.entries, func(_ int, r rule.Rule) []rule.Rule { return []rule.Rule{r} })}
	h.harness.variants = append(h.harness.variants, h.variants[0].variant)
	h.stream(url, catalog)
	return h
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
	}
	return causeUnknown
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

// TestRental holds the entries of the shop to being on time, and says how precise their rules are: of the keys that they
// invalidate, how many had changed, against invalidating every key whose entry reads the table.
func TestRental(t *testing.T) {
	t.Parallel()
	seed, limit := settings(t)
	h := newRental(t, rand.New(rand.NewPCG(seed, 1)))
	counts := h.measure(limit)
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
