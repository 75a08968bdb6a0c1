package freshettest_test

import (
	"testing"

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
