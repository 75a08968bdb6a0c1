package freshettest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/freshettest"
)

// The test sets rows, has the code under test read, and says what it expects of the cache. What inTest makes is in a test its
// own *testing.T.
func ExampleNew() {
	t := inTest()
	defer t.end()
	w := freshettest.New(t, freshettest.Options{Config: "testdata/freshet.yaml"})
	shop, err := NewShop(w.Cache)
	if err != nil {
		t.Fatal(err)
	}
	w.Set("product", Product{ID: 7, Name: "kettle", Price: 20}, 7)
	label, err := shop.Label(t.Context(), 7)
	fmt.Println(label, err)
	// Output: kettle: 20 <nil>
}

// Tests that begin with the same rows share a function that makes their World. Each has a World of its own.
func ExampleWorld() {
	withKettle := func(tb testing.TB) *freshettest.World {
		tb.Helper()
		w := freshettest.New(tb, freshettest.Options{Config: "testdata/freshet.yaml"})
		w.Set("product", Product{ID: 7, Name: "kettle", Price: 20}, 7)
		return w
	}
	t := inTest()
	defer t.end()
	shop, err := NewShop(withKettle(t).Cache)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(shop.Label(t.Context(), 7))
	// Output: kettle: 20 <nil>
}

// Code that is meant to be served from the cache, and code that is not, are told apart.
func ExampleWorld_Hit() {
	t := inTest()
	defer t.end()
	w := freshettest.New(t, freshettest.Options{Config: "testdata/freshet.yaml"})
	shop, err := NewShop(w.Cache)
	if err != nil {
		t.Fatal(err)
	}
	label := func() { fmt.Println(shop.Label(t.Context(), 7)) }
	w.Miss(label)
	w.Hit(label) // "no such product" is cached as well
	w.Miss(label)
	// Output:
	// no such product <nil>
	// no such product <nil>
	// no such product <nil>
	// FAIL: freshettest: not loaded from the database: {Hits:1 Misses:0 Stale:0 Bypassed:0 Loads:0 Compared:0 Stored:0 Refused:0 Ahead:0}
}

// What became of some reads can be had in numbers: of three the first is loaded, and stored for the others.
func ExampleWorld_Reads() {
	t := inTest()
	defer t.end()
	w := freshettest.New(t, freshettest.Options{Config: "testdata/freshet.yaml"})
	shop, err := NewShop(w.Cache)
	if err != nil {
		t.Fatal(err)
	}
	r := w.Reads(func() {
		for range 3 {
			if _, err := shop.Label(t.Context(), 7); err != nil {
				t.Fatal(err)
			}
		}
	})
	fmt.Println(r == freshettest.Reads{Hits: 2, Misses: 1, Loads: 1, Stored: 1})
	// Output: true
}

// A change that has not arrived yet: what the application shows may be old, what it sells by may not.
func ExampleWorld_Late() {
	t := inTest()
	defer t.end()
	w := freshettest.New(t, freshettest.Options{Config: "testdata/freshet.yaml"})
	products, err := freshet.Entry[int64, Product](w.Cache, "product")
	if err != nil {
		t.Fatal(err)
	}
	price := func(options ...freshet.ReadOption) Product {
		p, err := products.Get(t.Context(), 7, options...)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println(p.Price)
		return p
	}
	w.Set("product", Product{ID: 7, Name: "kettle", Price: 20}, 7)
	price()
	w.Late()
	token := w.Set("product", Product{ID: 7, Name: "kettle", Price: 25}, 7)
	w.Stale("product", price(), 7)
	w.Fresh("product", price(freshet.After(token)), 7)
	w.Deliver()
	w.Fresh("product", price(), 7)
	// Output:
	// 20
	// 20
	// 25
	// 25
}

// A change that overtakes a load: its reader has the row as it was, and nobody after it.
func ExampleWorld_DuringLoad() {
	t := inTest()
	defer t.end()
	w := freshettest.New(t, freshettest.Options{Config: "testdata/freshet.yaml"})
	shop, err := NewShop(w.Cache)
	if err != nil {
		t.Fatal(err)
	}
	w.Set("product", Product{ID: 7, Name: "kettle", Price: 20}, 7)
	w.DuringLoad(func() { w.Delete("product", 7) })
	for range 2 {
		fmt.Println(shop.Label(t.Context(), 7))
	}
	// Output:
	// kettle: 20 <nil>
	// no such product <nil>
}

// A change that leaves the row as it is, such as one of a table that the value depends on: it is loaded again.
func ExampleWorld_Invalidate() {
	t := inTest()
	defer t.end()
	w := freshettest.New(t, freshettest.Options{Config: "testdata/freshet.yaml"})
	lines := 2
	totals, err := freshet.Entry(w.Cache, "total", freshet.Load(func(context.Context, freshet.Querier, int64) (int, error) { return lines, nil }))
	if err != nil {
		t.Fatal(err)
	}
	total := func() { fmt.Println(totals.Get(t.Context(), 7)) }
	total()
	lines = 3 // the application has added one
	total()
	w.Invalidate("total", 7) // which the log tells
	total()
	// Output:
	// 2 <nil>
	// 2 <nil>
	// 3 <nil>
}

// Without the store reads go to the database; without both they fail, and the application can be seen to say so.
func ExampleWorld_StoreDown() {
	t := inTest()
	defer t.end()
	w := freshettest.New(t, freshettest.Options{Config: "testdata/freshet.yaml"})
	shop, err := NewShop(w.Cache)
	if err != nil {
		t.Fatal(err)
	}
	w.Set("product", Product{ID: 7, Name: "kettle", Price: 20}, 7)
	w.StoreDown(true)
	fmt.Println(shop.Label(t.Context(), 7))
	w.DatabaseDown(true)
	_, err = shop.Label(t.Context(), 7)
	fmt.Println(errors.Is(err, freshet.ErrUnavailable))
	w.StoreDown(false)
	w.DatabaseDown(false)
	fmt.Println(shop.Label(t.Context(), 7))
	// Output:
	// kettle: 20 <nil>
	// true
	// kettle: 20 <nil>
}
