package freshet_test

import (
	"context"
	"testing"

	"github.com/freshet/freshet"
)

// TestCodeThatReadsThroughTheCache: its value is not stored, also where what it reads is in the process's memory, by one key or by many.
func TestCodeThatReadsThroughTheCache(t *testing.T) {
	t.Parallel()
	cache := open(t, freshet.Options{Config: published(t).file})
	products := entry[int64, Product](t, cache, "product")
	kettle := Product{ID: 1, Name: "kettle", Price: 24.50}
	held := func() { eventuallyHeld(t, cache, func() { get(t, products, 1, kettle) }) }
	held()
	for what, read := range map[string]func(context.Context) (Product, error){
		"one": func(ctx context.Context) (Product, error) { return products.Get(ctx, 1) },
		"many": func(ctx context.Context) (Product, error) {
			found, err := products.GetMany(ctx, []int64{1})
			return found[0].Value, err
		},
		"under": func(ctx context.Context) (Product, error) { return products.Get(ctx, 1, freshet.NoStale()) },
	} {
		calls := 0
		labels := entry(t, cache, "report", freshet.Load(func(ctx context.Context, _ freshet.Querier, _ int) (string, error) {
			calls++
			p, err := read(ctx)
			return p.Name, err
		}))
		before := cache.Stats().Refused["nested_read"]
		get(t, labels, 7, "kettle")
		get(t, labels, 7, "kettle")
		if now := cache.Stats().Refused["nested_read"]; calls != 2 || now != before+2 {
			t.Errorf("%s: the code ran %d times, and %d values were refused", what, calls, now-before)
		}
	}
	held()
}
