package freshettest_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/freshettest"
)

// TestInvalidate: what code under test invalidates by hand arrives as in production.
func TestInvalidate(t *testing.T) {
	t.Parallel()
	w := freshettest.New(t, freshettest.Options{Config: "testdata/freshet.yaml"})
	w.Set("product", map[string]any{"id": 1, "name": "kettle"}, 1)
	products, err := freshet.Entry[int64, map[string]any](w.Cache, "product")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := products.Get(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	}
	before := w.Cache.Stats()
	token, err := w.Cache.Invalidate(t.Context(), products.Key(1))
	if err != nil || token.IsZero() {
		t.Fatalf("Invalidate() = %v, %v", token, err)
	}
	if _, err := products.Get(t.Context(), 1, freshet.After(token)); err != nil {
		t.Fatal(err)
	}
	if after := w.Cache.Stats(); after.Loads != before.Loads+1 {
		t.Errorf("%d loads after it was invalidated, want %d", after.Loads, before.Loads+1)
	}
}

// TestInvalidateMoreThanKeys: an entry, what reads a table, and everything: each is out of the cache, and nothing else is; also what is being loaded.
func TestInvalidateMoreThanKeys(t *testing.T) {
	t.Parallel()
	w := freshettest.New(t, freshettest.Options{Config: "testdata/scopes.yaml"})
	load := freshet.Load(func(context.Context, freshet.Querier, int) (string, error) { return "loaded", nil })
	typed := map[string]*freshet.Typed[int, any]{}
	for _, name := range []string{"product", "lines_of", "quoted", "joined", "priced", "other", "column"} {
		e, err := freshet.Entry[int, any](w.Cache, name)
		if err != nil {
			t.Fatal(err)
		}
		typed[name] = e
	}
	texts := map[string]*freshet.Typed[int, string]{}
	for _, name := range []string{"total", "foreign", "profile"} {
		e, err := freshet.Entry(w.Cache, name, load)
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = e
	}
	reads := map[string]func(key int) error{}
	for name, e := range typed {
		for key := range 3 {
			w.Set(name, key, key)
		}
		reads[name] = func(key int) error { _, err := e.Get(t.Context(), key); return err }
	}
	for name, e := range texts {
		reads[name] = func(key int) error { _, err := e.Get(t.Context(), key); return err }
	}
	all := slices.Sorted(maps.Keys(reads))
	// loads reads some keys of every entry, and returns the entries of which none was a hit. It fails the test where some were.
	loads := func() (loaded []string) {
		t.Helper()
		for _, name := range all {
			r := w.Reads(func() {
				for key := range 3 {
					if err := reads[name](key); err != nil {
						t.Errorf("%s %d: %v", name, key, err)
					}
				}
			})
			switch {
			case r.Misses == 3:
				loaded = append(loaded, name)
			case r.Hits != 3:
				t.Errorf("%s: %+v", name, r)
			}
		}
		return loaded
	}
	loads()
	if again := loads(); again != nil {
		t.Fatalf("not cached: %q", again)
	}
	for _, tt := range []struct {
		name string
		key  freshet.Key
		want []string
	}{
		{"all", w.Cache.All(), all},
		{"an entry with a query", w.Cache.AllOf("product"), []string{"product"}},
		{"an entry of code", w.Cache.AllOf("total"), []string{"total"}},
		{"an entry with tags", w.Cache.AllOf("profile"), []string{"profile"}},
		{"products", w.Cache.AllReading("products"), []string{"joined", "product"}},
		{"public.products", w.Cache.AllReading("public.products"), []string{"joined", "product"}},
		{"lines", w.Cache.AllReading("lines"), []string{"joined", "lines_of", "total"}},
		{"shop.lines", w.Cache.AllReading("shop.lines"), []string{"foreign", "joined", "lines_of", "other"}}, // a name alone may be of any schema
		{"a name that is quoted", w.Cache.AllReading("Odd Name"), []string{"quoted"}},
		{"what a function reads", w.Cache.AllReading("prices"), []string{"priced"}},
		{"no such table", w.Cache.AllReading("nothing"), nil},
	} {
		w.Late()
		token, err := w.Cache.Invalidate(t.Context(), tt.key)
		if err != nil || token.IsZero() {
			t.Fatalf("%s: %v, %v", tt.name, token, err)
		}
		if early := loads(); early != nil {
			t.Errorf("%s, before it arrives: %q are loaded", tt.name, early)
		}
		w.Deliver()
		if diff := cmp.Diff(tt.want, loads()); diff != "" {
			t.Errorf("%s (-want +loaded):\n%s", tt.name, diff)
		}
		if again := loads(); again != nil {
			t.Errorf("%s: %q are not cached afterwards", tt.name, again)
		}
	}
	w.Invalidate("product", 1)
	w.DuringLoad(func() {
		if _, err := w.Cache.Invalidate(t.Context(), w.Cache.All()); err != nil {
			t.Error(err)
		}
	})
	if r := w.Reads(func() { _ = reads["product"](1) }); r.Refused != 1 || r.Stored != 0 {
		t.Errorf("a load that everything being invalidated overtakes: %+v", r)
	}
}

// TestKeysHaveNoTypes: to a World a key is what it is written as, as the documentation says.
func TestKeysHaveNoTypes(t *testing.T) {
	t.Parallel()
	w, products := newWorld(t)
	w.Set("product", Product{ID: 42}, "042")
	if _, err := products.Get(t.Context(), 42); !errors.Is(err, freshet.ErrNotFound) {
		t.Errorf("042 is 42: %v", err)
	}
	w.Set("product", Product{ID: 42}, "42")
	get(t, products, 42)
}
