package freshettest_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/freshettest"
	"github.com/freshet/freshet/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const patience = 20 * time.Second

func newWorld(t *testing.T) (*freshettest.World, *freshet.Typed[int64, Product]) {
	t.Helper()
	w := freshettest.New(t, freshettest.Options{Config: "testdata/freshet.yaml"})
	products, err := freshet.Entry[int64, Product](w.Cache, "product")
	if err != nil {
		t.Fatal(err)
	}
	return w, products
}

func get(t *testing.T, products *freshet.Typed[int64, Product], id int64, options ...freshet.ReadOption) Product {
	t.Helper()
	p, err := products.Get(t.Context(), id, options...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSetInvalidates(t *testing.T) {
	t.Parallel()
	w, products := newWorld(t)
	w.Set("product", Product{ID: 1, Price: 1}, 1)
	w.Set("product", Product{ID: 2, Price: 1}, 2)
	w.Miss(func() { get(t, products, 1) })
	w.Miss(func() { get(t, products, 2) })
	for price := range int64(20) {
		w.Set("product", Product{ID: 1, Price: price}, 1)
		var p Product
		w.Miss(func() { p = get(t, products, 1) })
		w.Fresh("product", p, 1)
		w.Hit(func() { p = get(t, products, 1) })
		w.Fresh("product", p, 1)
		w.Hit(func() { get(t, products, 2) }) // another key's value stays
	}
	w.Invalidate("product", 2)
	w.Miss(func() { get(t, products, 2) })
	w.Delete("product", 1)
	if _, err := products.Get(t.Context(), 1); !errors.Is(err, freshet.ErrNotFound) {
		t.Errorf("Get of a row that was deleted = %v", err)
	}
}

// TestLate: a value whose change has not arrived is a hit, and is refused by whoever asks for more.
func TestLate(t *testing.T) {
	t.Parallel()
	w, products := newWorld(t)
	old := w.Set("product", Product{ID: 1, Price: 1}, 1)
	get(t, products, 1)
	w.Hit(func() { get(t, products, 1, freshet.After(old)) })
	testkit.Eventually(t, patience, func() error { // once there was a count within the bound
		if r := w.Reads(func() { get(t, products, 1, freshet.MaxStale(10*time.Second)) }); r.Hits != 1 {
			return fmt.Errorf("with everything delivered: %+v", r)
		}
		return nil
	})
	w.Late()
	token := w.Set("product", Product{ID: 1, Price: 2}, 1)
	var p Product
	w.Hit(func() { p = get(t, products, 1) })
	w.Stale("product", p, 1)
	w.Miss(func() { p = get(t, products, 1, freshet.After(token)) })
	w.Fresh("product", p, 1)

	w.Deliver()
	w.Hit(func() { p = get(t, products, 1) }) // the token's read has stored what contains the change already
	w.Fresh("product", p, 1)
	w.Hit(func() { get(t, products, 1, freshet.After(token)) })
	w.Set("product", Product{ID: 1, Price: 3}, 1)
	w.Miss(func() { p = get(t, products, 1) })
	w.Fresh("product", p, 1)
}

// TestBoundWhenLate: a bound that cannot be proved asks the database.
func TestBoundWhenLate(t *testing.T) {
	t.Parallel()
	w, products := newWorld(t)
	w.Set("product", Product{ID: 1, Price: 1}, 1)
	get(t, products, 1)
	w.Late()
	w.Set("product", Product{ID: 1, Price: 2}, 1)
	const bound = 50 * time.Millisecond
	late := time.Now()
	testkit.Eventually(t, patience, func() error {
		if time.Since(late) <= bound {
			return errors.New("the bound is not over yet")
		}
		return nil
	})
	w.Fresh("product", get(t, products, 1, freshet.MaxStale(bound)), 1)
}

// TestOvertakenLoad: what changed while a load was under way is not stored over.
func TestOvertakenLoad(t *testing.T) {
	t.Parallel()
	w, products := newWorld(t)
	w.Set("product", Product{ID: 1, Price: 1}, 1)
	w.DuringLoad(func() { w.Set("product", Product{ID: 1, Price: 2}, 1) })
	var p Product
	r := w.Reads(func() { p = get(t, products, 1) })
	w.Stale("product", p, 1) // as it was when it was read
	if r.Loads != 1 || r.Refused != 1 || r.Stored != 0 {
		t.Errorf("an overtaken load: %+v", r)
	}
	w.Miss(func() { p = get(t, products, 1) })
	w.Fresh("product", p, 1)

	// A change that is late does not refuse the load, which lacks it; once it arrives, the value goes.
	w.Invalidate("product", 1)
	w.DuringLoad(func() { w.Late(); w.Set("product", Product{ID: 1, Price: 3}, 1) })
	if r := w.Reads(func() { get(t, products, 1) }); r.Stored != 1 {
		t.Errorf("a load before a change that is late: %+v", r)
	}
	w.Hit(func() { p = get(t, products, 1) })
	w.Stale("product", p, 1)
	w.Deliver()
	w.Miss(func() { p = get(t, products, 1) })
	w.Fresh("product", p, 1)
}

func TestRevalidate(t *testing.T) {
	t.Parallel()
	w, products := newWorld(t)
	w.Set("product", Product{ID: 1, Price: 1}, 1)
	get(t, products, 1)
	r := w.Reads(func() { get(t, products, 1, freshet.Revalidate()) })
	if r.Compared != 1 || r.Stored != 1 {
		t.Errorf("a conditional read of what has not changed: %+v", r)
	}
	w.Late()
	w.Set("product", Product{ID: 1, Price: 2}, 1)
	w.Fresh("product", get(t, products, 1, freshet.Revalidate()), 1)
}

func TestManyAndKeys(t *testing.T) {
	t.Parallel()
	w, _ := newWorld(t)
	type key struct {
		Slug string
		Page int
	}
	categories, err := freshet.Entry[key, []Product](w.Cache, "category")
	if err != nil {
		t.Fatal(err)
	}
	list, err := categories.Get(t.Context(), key{"tea", 0})
	if err != nil || len(list) != 0 {
		t.Fatalf("an empty list is %v, %v", list, err)
	}
	w.Fresh("category", list, "tea", 0)
	w.Set("category", []Product{{ID: 1}, {ID: 2}}, "tea", 0)
	w.Miss(func() { list, err = categories.Get(t.Context(), key{"tea", 0}) })
	if err != nil || len(list) != 2 {
		t.Errorf("the list is %v, %v", list, err)
	}
	w.Fresh("category", list, "tea", 0)
}

// TestCode: entries that code loads are invalidated by their keys.
func TestCode(t *testing.T) {
	t.Parallel()
	w, _ := newWorld(t)
	calls := 0
	totals, err := freshet.Entry(w.Cache, "total", freshet.Load(func(_ context.Context, _ freshet.Querier, order int64) (int64, error) {
		calls++
		return order * 10, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if total, err := totals.Get(t.Context(), 4); err != nil || total != 40 {
			t.Fatalf("Get = %d, %v", total, err)
		}
	}
	w.Invalidate("total", 4)
	if total, err := totals.Get(t.Context(), 4); err != nil || total != 40 || calls != 2 {
		t.Errorf("Get = %d, %v, after %d calls", total, err, calls)
	}
	asking, err := freshet.Entry(w.Cache, "total", freshet.Load(func(ctx context.Context, q freshet.Querier, order int64) (n int64, err error) {
		err = q.QueryRow(ctx, "SELECT 1").Scan(&n)
		return n, err
	}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := asking.Get(t.Context(), 5); err == nil {
		t.Error("code that asks the database has an answer")
	}
}

// TestDown: without the store reads go to the database, without the database hits go on, and both come back.
func TestDown(t *testing.T) {
	t.Parallel()
	w, products := newWorld(t)
	w.Set("product", Product{ID: 1, Price: 1}, 1)
	get(t, products, 1)
	w.DatabaseDown(true)
	w.Hit(func() { get(t, products, 1) })
	if _, err := products.Get(t.Context(), 2); !errors.Is(err, freshet.ErrUnavailable) {
		t.Errorf("a miss without a database = %v", err)
	}
	w.DatabaseDown(false)
	w.StoreDown(true)
	w.Set("product", Product{ID: 1, Price: 2}, 1)
	r := w.Reads(func() { w.Fresh("product", get(t, products, 1), 1) })
	if r.Bypassed == 0 || r.Hits > 0 {
		t.Errorf("without a store: %+v", r)
	}
	w.StoreDown(false)
	testkit.Eventually(t, patience, func() error {
		if r := w.Reads(func() { get(t, products, 1) }); r.Hits != 1 {
			return fmt.Errorf("with the store back: %+v", r)
		}
		return nil
	})
}

// TestOneLoadForMany: the read path is the real one, with its flights.
func TestOneLoadForMany(t *testing.T) {
	t.Parallel()
	w, products := newWorld(t)
	w.Set("product", Product{ID: 1, Price: 1}, 1)
	const readers = 20
	var (
		running sync.WaitGroup
		started sync.WaitGroup
	)
	started.Add(readers)
	w.DuringLoad(started.Wait)
	r := w.Reads(func() {
		for range readers {
			running.Go(func() {
				started.Done()
				if _, err := products.Get(t.Context(), 1); err != nil {
					t.Error(err)
				}
			})
		}
		running.Wait()
	})
	if r.Loads != 1 {
		t.Errorf("%d readers of one key: %+v", readers, r)
	}
}
