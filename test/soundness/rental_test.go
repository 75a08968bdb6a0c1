package soundness

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/testkit/plantest"
)

// The shop of internal/plan/testdata/rental, filled with some thousand rows.

const rentalFolder = "../../internal/plan/testdata/rental"

func newShop(random *rand.Rand) (s large) {
	s = large{writer: writer{random}}
	seldom := s.oneOf("NULL", "NULL", "NULL", "NULL", s.moment())
	often := s.oneOf("NULL", s.moment(), s.moment(), s.moment())
	truth := s.oneOf("true", "true", "true", "false")
	// What most entries are about changes most.
	s.tables = []filled{
		{name: "country", rows: 8, writes: 1},
		{name: "city", rows: 40, writes: 1},
		{name: "address", rows: 300, writes: 2},
		{name: "store", rows: 3},
		{name: "staff", rows: 9, writes: 1},
		{name: "customer", rows: 150, writes: 3},
		{name: "language", rows: 4, writes: 1},
		{name: "category", rows: 12, titled: "Category", writes: 1},
		{name: "film", rows: 160, writes: 3},
		{name: "actor", rows: 90, writes: 1},
		{name: "film_actor", joins: 320, writes: 2},
		{name: "film_category", joins: 320, writes: 1},
		{name: "inventory", rows: 480, writes: 2},
		{name: "rental", rows: 1200, writes: 5},
		{name: "payment", rows: 1200, writes: 3},
	}
	of, named := s.of, s.named
	for name, columns := range map[string][]column{
		"country":       {{"country_id", of("country")}, {"name", named("Country")}},
		"city":          {{"city_id", of("city")}, {"name", named("City")}, {"country_id", of("country")}},
		"address":       {{"address_id", of("address")}, {"street", named("Street")}, {"postal_code", named("P")}, {"city_id", of("city")}},
		"store":         {{"store_id", of("store")}, {"address_id", of("address")}},
		"staff":         {{"staff_id", of("staff")}, {"name", named("Clerk")}, {"store_id", of("store")}, {"address_id", of("address")}, {"active", truth}},
		"customer":      {{"customer_id", of("customer")}, {"store_id", of("store")}, {"first_name", named("First")}, {"last_name", named("Last")}, {"email", named("Mail")}, {"address_id", of("address")}, {"active", truth}, {"last_seen", s.moment}},
		"language":      {{"language_id", of("language")}, {"name", named("Language")}},
		"category":      {{"category_id", of("category")}, {"name", func() string { return "'Category " + s.id("category") + "'" }}},
		"film":          {{"film_id", of("film")}, {"title", named("Film")}, {"language_id", of("language")}, {"rental_rate", s.amount}, {"length", s.small}, {"rating", s.oneOf("'G'", "'PG'", "'PG-13'", "'R'")}, {"withdrawn_at", seldom}},
		"actor":         {{"actor_id", of("actor")}, {"name", named("Actor")}},
		"film_actor":    {{"film_id", of("film")}, {"actor_id", of("actor")}},
		"film_category": {{"film_id", of("film")}, {"category_id", of("category")}},
		"inventory":     {{"inventory_id", of("inventory")}, {"film_id", of("film")}, {"store_id", of("store")}},
		"rental":        {{"rental_id", of("rental")}, {"inventory_id", of("inventory")}, {"customer_id", of("customer")}, {"rented_at", s.moment}, {"due_at", s.moment}, {"returned_at", often}},
		"payment":       {{"payment_id", of("payment")}, {"customer_id", of("customer")}, {"rental_id", of("rental")}, {"amount", s.amount}, {"paid_at", s.moment}},
	} {
		s.table(name).columns = columns
	}
	return s
}

// shopDomain draws the arguments of a parameter that are watched.
func shopDomain(s large, entry, parameter string) domain {
	switch parameter {
	case "store":
		return domain{cast: "int4", values: []string{"1", "2", "3"}}
	case "film": // times three stores
		d := drawDistinct("int4", s.of("film"))
		d.values = d.values[:8]
		return d
	case "id":
		switch entry {
		case "film", "films", "film_of_view", "cast", "related", "place_of_film", "stock":
			return drawDistinct("int4", s.of("film"))
		case "filmography":
			return drawDistinct("int4", s.of("actor"))
		}
		return drawDistinct("int4", s.of("customer"))
	case "n":
		return domain{cast: "int8", values: []string{"3"}}
	case "rating":
		return domain{cast: "rating", values: []string{"G", "PG-13"}}
	case "prefix":
		return domain{cast: "text", values: []string{"Film 1", "Film 2", "Film 30", "Film"}}
	case "email":
		return drawDistinct("text", s.named("mail"))
	case "name":
		return drawDistinct("text", func() string { return "Category " + s.id("category") })
	}
	return drawDistinct("int4[]", func() string { return "{" + s.id("film") + "," + s.id("film") + "," + s.id("film") + "}" })
}

// newRental watches the entries of the shop.
func newRental(t *testing.T, random *rand.Rand) *follower {
	t.Helper()
	ddl, err := os.ReadFile(filepath.Join(rentalFolder, "schema.sql"))
	if err != nil {
		t.Fatal(err)
	}
	s := newShop(random)
	h, url, catalog := openLarge(t, s, string(ddl))
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
			w.domains = append(w.domains, shopDomain(s, c.Declared.Name, parameter))
		}
		if err := h.watch(catalog, w); err != nil {
			t.Fatal(err)
		}
	}
	h.attend(url, catalog)
	return h
}

// TestRental is a shop with views and a function, of which the log carries whole old rows of what changes much, and the primary key of the
// rest.
func TestRental(t *testing.T) {
	t.Parallel()
	seed, limit := settings(t)
	h := newRental(t, rand.New(rand.NewPCG(seed, 1)))
	h.judge(seed, h.measure(limit))
}
