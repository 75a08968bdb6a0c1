package freshet_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet"
)

func TestGetMany(t *testing.T) {
	t.Parallel()
	s := published(t)
	cache := open(t, freshet.Options{Config: s.file})
	products := entry[int64, Product](t, cache, "product")
	kettle, cup := Product{ID: 1, Name: "kettle", Price: 24.50}, Product{ID: 2, Name: "cup", Price: 3}
	for range 2 { // from the database, and from the cache
		got, err := products.GetMany(t.Context(), []int64{2, 9, 1, 2})
		want := []freshet.Result[Product]{{Value: cup}, {Err: freshet.ErrNotFound}, {Value: kettle}, {Value: cup}}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b error) bool { return errors.Is(b, a) || errors.Is(a, b) })); diff != "" || err != nil {
			t.Fatalf("%v (-want +got):\n%s", err, diff)
		}
	}
	if s := cache.Stats(); s.Misses != 3 || s.Hits != 3 || s.Fills != 3 {
		t.Errorf("%+v", s)
	}
	for name, option := range map[string]freshet.ReadOption{
		"bypass": freshet.Bypass(), "revalidate": freshet.Revalidate(), "stale": freshet.MaxStale(time.Minute), "session": freshet.Through(cache.Session()),
	} {
		got, err := products.GetMany(t.Context(), []int64{1, 2}, option)
		if err != nil || got[0].Value != kettle || got[1].Value != cup {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if none, err := products.GetMany(t.Context(), nil); err != nil || len(none) != 0 {
		t.Errorf("%v, %v", none, err)
	}
	raw, err := entry[int64, json.RawMessage](t, cache, "product").GetMany(t.Context(), []int64{2})
	if err != nil || !strings.Contains(string(raw[0].Value), "cup") {
		t.Errorf("%s, %v", raw[0].Value, err)
	}
	type number struct{ OrderID, Number int }
	lines, err := entry[number, map[string]any](t, cache, "line").GetMany(t.Context(), []number{{7, 2}, {7, 1}, {8, 1}})
	if err != nil || lines[0].Value["sku"] != "C-2" || lines[1].Value["sku"] != "K-1" || !errors.Is(lines[2].Err, freshet.ErrNotFound) {
		t.Errorf("%+v, %v", lines, err)
	}
}

// TestGetManyOfWhichSomeFail: what fails, panics or hangs for one key is that key's alone, and the error says that there was one.
func TestGetManyOfWhichSomeFail(t *testing.T) {
	t.Parallel()
	s := published(t)
	cache := open(t, freshet.Options{Config: s.file})
	odd := errors.New("odd")
	totals := entry(t, cache, "total", freshet.Load(func(ctx context.Context, q freshet.Querier, id int) (int, error) {
		switch id {
		case 1:
			return 0, odd
		case 2:
			panic("even")
		case 3:
			<-ctx.Done()
			return 0, ctx.Err()
		case 4:
			return 0, freshet.ErrNotFound
		}
		var n int
		err := q.QueryRow(ctx, "SELECT count(*) FROM lines WHERE order_id = $1", id).Scan(&n)
		return n, err
	}))
	got, err := totals.GetMany(t.Context(), []int{7, 1, 2, 3, 4, 8})
	if err == nil || !errors.Is(err, odd) || !strings.Contains(err.Error(), "3 of 6 keys") {
		t.Errorf("%v", err)
	}
	for i, ok := range []func(freshet.Result[int]) bool{
		func(r freshet.Result[int]) bool { return r.Err == nil && r.Value == 2 },
		func(r freshet.Result[int]) bool { return errors.Is(r.Err, odd) },
		func(r freshet.Result[int]) bool {
			return r.Err != nil && strings.Contains(r.Err.Error(), "panicked: even") && strings.Contains(r.Err.Error(), "many_test.go")
		},
		func(r freshet.Result[int]) bool { return errors.Is(r.Err, freshet.ErrTimeout) },
		func(r freshet.Result[int]) bool { return errors.Is(r.Err, freshet.ErrNotFound) },
		func(r freshet.Result[int]) bool { return r.Err == nil && r.Value == 0 },
	} {
		if !ok(got[i]) {
			t.Errorf("key %d: %+v", i, got[i])
		}
	}
	if _, err := totals.Get(t.Context(), 2); err == nil || !strings.Contains(err.Error(), "panicked") {
		t.Errorf("a panic of one key alone: %v", err)
	}
	if again, err := totals.GetMany(t.Context(), []int{7, 8, 4}); err != nil || again[0].Value != 2 {
		t.Errorf("%+v, %v", again, err)
	}
	if n, err := entry[int16, json.RawMessage](t, cache, "stage").GetMany(t.Context(), []int16{1}); !errors.Is(err, freshet.ErrKey) || !errors.Is(n[0].Err, freshet.ErrKey) {
		t.Errorf("%+v, %v", n, err)
	}
}

// The error says that some key could not be read. Whoever takes what there is looks at each Err instead.
func ExampleTyped_GetMany() {
	found, err := app.products.GetMany(context.Background(), []int64{2, 1, 404})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, p := range found {
		if errors.Is(p.Err, freshet.ErrNotFound) {
			fmt.Println("no such product")
			continue
		}
		fmt.Println(p.Value.Name)
	}
	// Output:
	// cup
	// kettle
	// no such product
}
