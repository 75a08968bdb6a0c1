package freshettest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/freshettest"
)

// Shop is an application's code. It knows nothing of tests.
type Shop struct {
	products *freshet.Typed[int64, Product]
}

// Product is what the shop shows.
type Product struct {
	ID    int64  `json:"id"`
	Name  string `json:"name"`
	Price int64  `json:"price"`
}

func NewShop(cache *freshet.Cache) (*Shop, error) {
	products, err := freshet.Entry[int64, Product](cache, "product")
	if err != nil {
		return nil, err
	}
	return &Shop{products: products}, nil
}

// Label is what stands on a product's page.
func (s *Shop) Label(ctx context.Context, id int64) (string, error) {
	p, err := s.products.Get(ctx, id)
	switch {
	case errors.Is(err, freshet.ErrNotFound):
		return "no such product", nil
	case err != nil:
		return "", err
	}
	return fmt.Sprintf("%s: %d", p.Name, p.Price), nil
}

// Order takes a product at the price that it has now.
func (s *Shop) Order(ctx context.Context, id int64) (Product, error) {
	return s.products.Get(ctx, id, freshet.Revalidate())
}

// TestShop tests the application's code: what it does with rows that are there or not, that it reads through the cache, and that it
// is careful where it has to be.
func TestShop(t *testing.T) {
	t.Parallel()
	w := freshettest.New(t, freshettest.Options{Config: "testdata/freshet.yaml"})
	shop, err := NewShop(w.Cache)
	if err != nil {
		t.Fatal(err)
	}
	label := func(want string) {
		t.Helper()
		if got, err := shop.Label(t.Context(), 7); err != nil || got != want {
			t.Errorf("Label = %q, %v; want %q", got, err, want)
		}
	}

	// Rows that are there, or not. "No such product" is cached too.
	w.Miss(func() { label("no such product") })
	w.Hit(func() { label("no such product") })
	w.Set("product", Product{ID: 7, Name: "kettle", Price: 20}, 7)
	w.Miss(func() { label("kettle: 20") })
	w.Hit(func() { label("kettle: 20") })

	// A change that is late: pages may show the old price for a moment, orders must not.
	w.Late()
	w.Set("product", Product{ID: 7, Name: "kettle", Price: 25}, 7)
	w.Hit(func() { label("kettle: 20") })
	p, err := shop.Order(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	w.Fresh("product", p, 7)
	w.Deliver()
	label("kettle: 25")

	// The store is down: pages go on from the database. Both are down: the caller is told.
	w.StoreDown(true)
	label("kettle: 25")
	w.DatabaseDown(true)
	if _, err := shop.Label(t.Context(), 7); !errors.Is(err, freshet.ErrUnavailable) {
		t.Errorf("without store and database: %v", err)
	}
}
