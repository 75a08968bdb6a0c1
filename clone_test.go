package freshet_test

import (
	"testing"

	"github.com/freshet/freshet"
)

// TestClone: with WithClone what a read returns is its caller's, wherever it came from: the database, Redis, what was decoded before, memory,
// and several times in one call.
func TestClone(t *testing.T) {
	t.Parallel()
	s := newShop(t.Context(), "clone")
	if err := s.publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	cache := openCache(t, freshet.Options{Config: s.file})
	products, err := freshet.Entry(cache, "product", freshet.WithClone[int64](func(p *Product) *Product {
		q := *p
		return &q
	}))
	if err != nil {
		t.Fatal(err)
	}
	spoil := func() {
		t.Helper()
		p, err := products.Get(t.Context(), 1)
		if err != nil || p.Name == "spoilt" {
			t.Fatalf("Get = %+v, %v", p, err)
		}
		p.Name = "spoilt"
		many, err := products.GetMany(t.Context(), []int64{1, 1})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range many {
			if r.Value.Name == "spoilt" {
				t.Fatal("one call's value is another's")
			}
			r.Value.Name = "spoilt"
		}
	}
	eventuallyHeld(t, cache, spoil)
	spoil()
	if st := cache.Stats(); st.Loads == 0 || st.Hits == 0 || st.HitsL1 == 0 {
		t.Errorf("not every way was read: %+v", st)
	}
}
