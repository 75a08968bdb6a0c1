package freshet_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet"
)

// notes is an Observer that writes down what it hears.
type notes struct {
	name string
	log  *[]string // in the order of calls, with the names of all observers

	mu    *sync.Mutex
	reads []freshet.ReadDone
	loads []freshet.LoadDone
}

type noteKey string

func (n *notes) said(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	*n.log = append(*n.log, n.name+" "+fmt.Sprintf(format, args...))
}

func (n *notes) ReadStart(ctx context.Context, entry string) context.Context {
	n.said("read of %s", entry)
	return context.WithValue(ctx, noteKey("read by "+n.name), entry)
}

func (n *notes) ReadEnd(ctx context.Context, r freshet.ReadDone) {
	if ctx.Value(noteKey("read by "+n.name)) != r.Entry {
		n.said("another context")
	}
	n.said("%s is a %s", r.Entry, r.Status)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reads = append(n.reads, r)
}

func (n *notes) LoadStart(ctx context.Context, entry string) context.Context {
	n.said("load for a read of %v", ctx.Value(noteKey("read by "+n.name)))
	return context.WithValue(ctx, noteKey("load by "+n.name), entry)
}

func (n *notes) LoadEnd(ctx context.Context, l freshet.LoadDone) {
	if ctx.Value(noteKey("load by "+n.name)) != l.Entry {
		n.said("another context")
	}
	n.said("loaded %s", l.Entry)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loads = append(n.loads, l)
}

func twoNotes() (a, b *notes, log *[]string) {
	log = &[]string{}
	mu := &sync.Mutex{}
	return &notes{name: "a", log: log, mu: mu}, &notes{name: "b", log: log, mu: mu}, log
}

// TestObservers: each hears of every read and load, with what came of it, the outer one first and last; and a read is told which
// load its value came by.
func TestObservers(t *testing.T) {
	t.Parallel()
	s := published(t)
	a, b, log := twoNotes()
	cache := open(t, freshet.Options{Config: s.file, Observers: []freshet.Observer{a, b}})
	products := entry[int, Product](t, cache, "product")
	if _, err := products.Get(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"a read of product", "b read of product", "a load for a read of product", "b load for a read of product",
		"b loaded product", "a loaded product", "b product is a miss", "a product is a miss",
	}
	if diff := cmp.Diff(want, *log); diff != "" {
		t.Fatalf("a miss (-want +got):\n%s", diff)
	}
	*log = nil
	if _, err := products.Get(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a read of product", "b read of product", "b product is a hit", "a product is a hit"}, *log); diff != "" {
		t.Errorf("a hit (-want +got):\n%s", diff)
	}
	_, missing := products.Get(t.Context(), 404)
	_, revalidated := products.Get(t.Context(), 1, freshet.Revalidate())
	_, past := products.Get(t.Context(), 1, freshet.Bypass())
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, cancelled := products.Get(gone, 2)
	if !errors.Is(missing, freshet.ErrNotFound) || revalidated != nil || past != nil || !errors.Is(cancelled, context.Canceled) {
		t.Fatal(missing, revalidated, past, cancelled)
	}
	type line struct {
		Status, Reason      string
		Found, Err, ByALoad bool
	}
	var got []line
	for _, r := range a.reads {
		got = append(got, line{r.Status, r.Reason, r.Found, r.Err != nil, r.Load != nil})
		if r.Load != nil && r.Load.Value(noteKey("load by a")) != "product" {
			t.Errorf("the load of %+v is another's", r)
		}
		if r.Took <= 0 || r.Entry != "product" {
			t.Errorf("%+v", r)
		}
	}
	wantReads := []line{
		{Status: "miss", Found: true, ByALoad: true},
		{Status: "hit", Found: true},
		{Status: "miss", ByALoad: true},
		{Status: "revalidated", Found: true, ByALoad: true},
		{Status: "bypass", Reason: "asked_for", Found: true, ByALoad: true},
		{Err: true},
	}
	if diff := cmp.Diff(wantReads, got); diff != "" {
		t.Errorf("reads (-want +got):\n%s", diff)
	}
	if n := len(a.loads); n < 4 || !a.loads[0].Found || a.loads[0].Bytes == 0 || a.loads[1].Found || !a.loads[2].Unchanged || a.loads[2].Bytes != 0 {
		t.Errorf("loads: %+v", a.loads)
	}
}

// TestObservedFlight: reads that share a load are all told of that one.
func TestObservedFlight(t *testing.T) {
	t.Parallel()
	s := published(t)
	a, _, _ := twoNotes()
	cache := open(t, freshet.Options{Config: s.file, Observers: []freshet.Observer{a}})
	held, goes := make(chan struct{}), make(chan struct{})
	totals := entry(t, cache, "total", freshet.Load(func(context.Context, freshet.Querier, int) (string, error) {
		close(held)
		<-goes
		return "loaded", nil
	}))
	var readers sync.WaitGroup
	read := func() {
		if v, err := totals.Get(t.Context(), 7); err != nil || v != "loaded" {
			t.Errorf("Get() = %q, %v", v, err)
		}
	}
	readers.Go(read)
	<-held
	for range 4 {
		readers.Go(read)
	}
	deadline := time.Now().Add(10 * time.Second)
	for cache.Stats().Waits < 4 && time.Now().Before(deadline) {
		<-time.After(time.Millisecond)
	}
	close(goes)
	readers.Wait()
	if len(a.loads) != 1 || len(a.reads) != 5 {
		t.Fatalf("%d loads, %d reads", len(a.loads), len(a.reads))
	}
	for _, r := range a.reads {
		if r.Load == nil || r.Load != a.reads[0].Load {
			t.Errorf("%+v is of another load", r)
		}
	}
}

// BenchmarkObserversOff compares hits where observers would hear of them, with none given, and past that place. Rounds
// alternate.
func BenchmarkObserversOff(b *testing.B) {
	s := newShop(b.Context(), "observers")
	if err := s.publish(b.Context()); err != nil {
		b.Fatal(err)
	}
	cache, err := freshet.Open(b.Context(), freshet.Options{Config: s.file})
	if err != nil {
		b.Fatal(err)
	}
	defer cache.Close()
	products, err := freshet.Entry[int64, Product](cache, "product")
	if err != nil {
		b.Fatal(err)
	}
	const each = 500
	var took [2][]time.Duration
	round := func(watched int) {
		start := time.Now()
		for range each {
			if err := freshet.ReadRaw(b.Context(), products, 1, watched == 1); err != nil {
				b.Error(err)
			}
		}
		took[watched] = append(took[watched], time.Since(start)/each)
	}
	for i := 0; b.Loop(); i++ {
		round(i % 2)
		round(1 - i%2)
	}
	for i := range took {
		slices.Sort(took[i])
	}
	past, through := took[0][len(took[0])/2], took[1][len(took[1])/2]
	b.ReportMetric(float64(past.Nanoseconds()), "past-ns")
	b.ReportMetric(float64(through.Nanoseconds()), "through-ns")
	b.ReportMetric(float64(through)/float64(past), "ratio")
}

// TestObserversOffAllocateNothing holds the same with counts.
func TestObserversOffAllocateNothing(t *testing.T) { //nolint:paralleltest // the count is the whole process's
	s := published(t)
	cache := open(t, freshet.Options{Config: s.file})
	products := entry[int64, Product](t, cache, "product")
	for range 2 {
		if _, err := products.Get(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	}
	// The least of several: what runs beside it allocates too, and under the race detector pools lose some of what they are given.
	count := func(watched bool) float64 {
		least := math.Inf(1)
		for range 40 {
			least = min(least, testing.AllocsPerRun(50, func() {
				if err := freshet.ReadRaw(t.Context(), products, 1, watched); err != nil {
					t.Error(err)
				}
			}))
		}
		return least
	}
	if past, through := count(false), count(true); through > past {
		t.Errorf("a hit allocates %v times, and %v times where nobody observes it", past, through)
	}
}
