package freshet_test

import (
	"context"
	"errors"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/testkit"
)

// manyNotes are notes that are told of GetMany as well.
type manyNotes struct {
	*notes

	many []freshet.ManyDone
}

func (n *manyNotes) ManyStart(ctx context.Context, entry string, keys int) context.Context {
	n.said("%d keys of %s", keys, entry)
	return context.WithValue(ctx, noteKey("read by "+n.name), entry)
}

func (n *manyNotes) ManyEnd(ctx context.Context, m freshet.ManyDone) {
	if ctx.Value(noteKey("read by "+n.name)) != m.Entry {
		n.said("another context")
	}
	n.said("%d keys of %s are there", m.Keys, m.Entry)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.many = append(n.many, m)
}

// TestManyObservers: a call of GetMany is heard of once, by those that want to, the outer one first and last; and the load of its
// keys by all.
func TestManyObservers(t *testing.T) {
	t.Parallel()
	s := published(t)
	one, two, log := twoNotes()
	a, b := &manyNotes{notes: one}, &manyNotes{notes: two}
	plain := &notes{name: "plain", log: log, mu: one.mu}
	cache := open(t, freshet.Options{Config: s.file, Observers: []freshet.Observer{a, plain, b}})
	products := entry[int64, Product](t, cache, "product")
	for _, want := range [][]string{
		{
			"a 3 keys of product", "b 3 keys of product",
			"a load for a read of product", "plain load for a read of <nil>", "b load for a read of product",
			"b loaded product", "plain loaded product", "a loaded product",
			"b 3 keys of product are there", "a 3 keys of product are there",
		},
		{"a 3 keys of product", "b 3 keys of product", "b 3 keys of product are there", "a 3 keys of product are there"},
	} {
		*log = nil
		if _, err := products.GetMany(t.Context(), []int64{1, 2, 404}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, *log); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// TestObservedMany: what came of GetMany, and by which loads, however its keys are read; none of which is a read of its own.
func TestObservedMany(t *testing.T) {
	t.Parallel()
	s := published(t)
	one, _, _ := twoNotes()
	a := &manyNotes{notes: one}
	cache := open(t, freshet.Options{Config: s.file, Observers: []freshet.Observer{a}})
	products := entry[int64, Product](t, cache, "product")
	odd := errors.New("odd")
	totals := entry(t, cache, "total", freshet.Load(func(_ context.Context, _ freshet.Querier, id int64) (Product, error) {
		if id == 1 {
			return Product{}, odd
		}
		return Product{ID: id}, nil
	}))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	var turns []int64
	for id := range int64(1200) {
		turns = append(turns, 1000+id)
	}
	type outcome struct {
		Keys, Missing, Failed int
		Statuses              map[string]int
		Loads                 int   // that values came by
		Loaded                []int // keys of all loads
	}
	for _, x := range []struct {
		name    string
		ctx     context.Context
		of      *freshet.Typed[int64, Product]
		keys    []int64
		options []freshet.ReadOption
		err     error
		want    outcome
	}{
		{"misses", t.Context(), products, []int64{1, 2, 404, 1}, nil, nil, outcome{4, 1, 0, map[string]int{"miss": 4}, 1, []int{3}}},
		{"hits", t.Context(), products, []int64{1, 2, 404, 1}, nil, nil, outcome{4, 1, 0, map[string]int{"hit": 4}, 0, nil}},
		{"both", t.Context(), products, []int64{1, 405}, nil, nil, outcome{2, 1, 0, map[string]int{"hit": 1, "miss": 1}, 1, []int{1}}},
		{"one key", t.Context(), products, []int64{406}, nil, nil, outcome{1, 1, 0, map[string]int{"miss": 1}, 1, []int{1}}},
		{"past the cache", t.Context(), products, []int64{1, 2}, []freshet.ReadOption{freshet.Bypass()}, nil, outcome{2, 0, 0, map[string]int{"bypass": 2}, 1, []int{2}}},
		{"revalidated", t.Context(), products, []int64{1, 2}, []freshet.ReadOption{freshet.Revalidate()}, nil, outcome{2, 0, 0, map[string]int{"revalidated": 2}, 2, []int{1, 1}}},
		{"by code", t.Context(), totals, []int64{7, 8, 1}, nil, odd, outcome{3, 0, 1, map[string]int{"miss": 2}, 3, []int{1, 1, 1}}},
		{"in turns", t.Context(), products, turns, nil, nil, outcome{1200, 1200, 0, map[string]int{"miss": 1200}, 6, []int{200, 200, 200, 200, 200, 200}}},
		{"caller gone", gone, products, []int64{1, 2}, nil, context.Canceled, outcome{2, 0, 2, map[string]int{}, 0, nil}},
		{"none", t.Context(), products, nil, nil, nil, outcome{0, 0, 0, map[string]int{}, 0, nil}},
	} {
		a.many, a.loads = nil, nil
		_, err := x.of.GetMany(x.ctx, x.keys, x.options...)
		if !errors.Is(err, x.err) || len(a.many) != 1 || len(a.reads) != 0 {
			t.Fatalf("%s: %v, heard of %d calls and %d reads", x.name, err, len(a.many), len(a.reads))
		}
		m := a.many[0]
		got := outcome{Keys: m.Keys, Missing: m.Missing, Failed: m.Failed, Statuses: m.Statuses, Loads: len(m.Loads)}
		for _, l := range a.loads {
			got.Loaded = append(got.Loaded, l.Keys)
			if l.Took <= 0 || l.Found != (l.Bytes > 0) && !l.Unchanged {
				t.Errorf("%s: %+v", x.name, l)
			}
		}
		for _, l := range m.Loads {
			if l.Value(noteKey("load by a")) != m.Entry {
				t.Errorf("%s: linked to what is no load of it", x.name)
			}
		}
		if diff := cmp.Diff(x.want, got); diff != "" || !errors.Is(m.Err, x.err) || m.Took <= 0 {
			t.Errorf("%s: %v, %v (-want +got):\n%s", x.name, m.Err, m.Took, diff)
		}
	}
}

// TestObservedManyJoin: a load of many keys is that of a Get which waits for it, and the other way round.
func TestObservedManyJoin(t *testing.T) {
	t.Parallel()
	s := published(t)
	one, _, _ := twoNotes()
	a := &manyNotes{notes: one}
	cache := open(t, freshet.Options{Config: s.file, Observers: []freshet.Observer{a}})
	products := entry[int64, Product](t, cache, "product")
	conn, err := pgx.Connect(t.Context(), s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conn.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	get := func() { _, err = products.Get(t.Context(), 1) }
	getMany := func(keys ...int64) func() {
		return func() {
			if _, err := products.GetMany(t.Context(), keys); err != nil {
				t.Error(err)
			}
		}
	}
	for i, x := range []struct{ first, second func() }{{getMany(1, 2), get}, {func() { _, err = products.Get(t.Context(), 3) }, getMany(3, 4)}} {
		tx, failed := conn.Begin(t.Context())
		if failed != nil {
			t.Fatal(failed)
		}
		if _, failed = tx.Exec(t.Context(), "LOCK TABLE products IN ACCESS EXCLUSIVE MODE"); failed != nil {
			t.Fatal(failed)
		}
		a.many, a.reads, a.loads = nil, nil, nil
		before := cache.Stats()
		var readers sync.WaitGroup
		readers.Go(x.first)
		testkit.Eventually(t, 10*time.Second, func() error { return until(cache.Stats().Misses > before.Misses) })
		readers.Go(x.second)
		testkit.Eventually(t, 10*time.Second, func() error { return until(cache.Stats().Waits > before.Waits) })
		if failed = tx.Rollback(t.Context()); failed != nil {
			t.Fatal(failed)
		}
		readers.Wait()
		if err != nil && !errors.Is(err, freshet.ErrNotFound) || len(a.reads) != 1 || len(a.many) != 1 || len(a.loads) != 1+i {
			t.Fatalf("%v: %d reads, %d of many, loads %+v", err, len(a.reads), len(a.many), a.loads)
		}
		shared := false
		for _, l := range a.many[0].Loads {
			shared = shared || l == a.reads[0].Load
		}
		if !shared || len(a.many[0].Loads) != len(a.loads) {
			t.Errorf("round %d: the shared load is one of %d: %t", i, len(a.many[0].Loads), shared)
		}
	}
}

var errNotYet = errors.New("not yet")

func until(there bool) error {
	if there {
		return nil
	}
	return errNotYet
}

// TestManyObserversOffAllocateNothing counts hits where observers would hear of them, with none given, and past that place.
func TestManyObserversOffAllocateNothing(t *testing.T) { //nolint:paralleltest // the count is the whole process's
	s := published(t)
	cache := open(t, freshet.Options{Config: s.file})
	products := entry[int64, Product](t, cache, "product")
	keys := []int64{1, 2}
	past := func() error { return freshet.GetManyRaw(t.Context(), products, keys) }
	through := func() error {
		_, err := products.GetMany(t.Context(), keys)
		return err
	}
	count := func(read func() error) float64 {
		least := math.Inf(1) // as for TestObserversOffAllocateNothing
		for range 40 {
			least = min(least, testing.AllocsPerRun(50, func() {
				if err := read(); err != nil {
					t.Error(err)
				}
			}))
		}
		return least
	}
	if past, through := count(past), count(through); through > past {
		t.Errorf("it allocates %v times, and %v times where nobody observes it", past, through)
	}
}
