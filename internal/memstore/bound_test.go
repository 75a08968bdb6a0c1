package memstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/internal/testkit/storetest"
	"github.com/freshet/freshet/mvcc"
)

// stored fills a key with a value of some size.
func stored(tb testing.TB, s *Store, name string, size int, ttl time.Duration) {
	tb.Helper()
	token := storetest.Token('a')
	if reply, err := s.Lease(tb.Context(), name, token, time.Minute); err != nil || !reply.Granted {
		tb.Fatalf("Lease = %+v, %v", reply, err)
	}
	outcome, err := s.Fill(tb.Context(), name, store.FillRequest{
		Token: token, Coverage: fence.Coverage{Snapshot: storetest.Sees(10)}, State: fence.Live, Payload: bytes.Repeat([]byte("x"), size), TTL: ttl,
	})
	if err != nil || outcome != fence.Filled {
		tb.Fatalf("Fill = %v, %v", outcome, err)
	}
}

func live(s *Store, name string) bool { return s.read(name) != nil }

// weighed is what the items of a store take, counted anew.
func weighed(s *Store) (weight int64, items int) {
	for i := range s.shards {
		for _, it := range s.shards[i].items {
			weight += it.cost()
			items++
		}
	}
	return weight, items
}

// TestBound stores four times what there is room for, and reads some keys all the time: the store stays within its bound, these
// keys stay, and so do HEAD, roster, count and registrations.
func TestBound(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	s := New(Options{Namespace: "test", Size: size})
	c, err := s.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	head := fence.Head{Generation: "00000000000000aa", Term: fence.NewTerm(1, 1), Wi: 1, Wc: 1, Si: storetest.Sees(10)}
	if err := c.NewGeneration(t.Context(), head); err != nil {
		t.Fatal(err)
	}
	expected := store.Expected{Generation: head.Generation, Term: head.Term, Wc: 1}
	if err := c.Move(t.Context(), expected, []byte(`{"revision":2}`), 2, "p"); err != nil {
		t.Fatal(err)
	}
	used := store.Use{Entry: "e", Definition: "d"}
	if err := s.Register(t.Context(), used, "who", time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Tick(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	hot := make([]string, 100)
	for i := range hot {
		hot[i] = fmt.Sprintf("f:test:hot:%d", i)
		stored(t, s, hot[i], 1000, time.Hour)
	}
	for i := range 12_000 {
		stored(t, s, fmt.Sprintf("f:test:cold:%d", i), 1000, time.Hour)
		if i%200 == 0 {
			for _, name := range hot {
				live(s, name)
			}
		}
		if used := s.used.Load(); used > size {
			t.Fatalf("%d bytes are used of %d", used, size)
		}
	}
	for _, name := range hot {
		if !live(s, name) {
			t.Errorf("%s is evicted although it is read all the time", name)
		}
	}
	u := s.Usage()
	weight, items := weighed(s)
	if u.Bytes != weight || u.Records != items || u.Evicted < 5_000 || u.Bytes < size*9/10 {
		t.Errorf("Usage = %+v; counted: %d bytes, %d items", u, weight, items)
	}
	if h, found, err := s.Head(t.Context()); err != nil || !found || h.Revision != 2 {
		t.Errorf("HEAD = %+v, %t, %v", h, found, err)
	}
	if text, found, err := s.Roster(t.Context()); err != nil || !found || text == nil {
		t.Errorf("Roster = %s, %t, %v", text, found, err)
	}
	if tick, err := s.Tick(t.Context(), 0); err != nil || tick.N != 2 {
		t.Errorf("Tick = %v, %v", tick, err)
	}
	if uses, err := s.Uses(t.Context(), []store.Use{used}); err != nil || uses[used] != "who" {
		t.Errorf("Uses = %v, %v", uses, err)
	}
}

// TestLargeValue: one that would take more than its share is not kept, and drives out nothing.
func TestLargeValue(t *testing.T) {
	t.Parallel()
	s := New(Options{Namespace: "test", Size: 1 << 20})
	for i := range 100 {
		stored(t, s, fmt.Sprintf("f:test:%d", i), 1000, time.Hour)
	}
	const name = "f:test:large"
	token := storetest.Token('a')
	if reply, err := s.Lease(t.Context(), name, token, time.Minute); err != nil || !reply.Granted {
		t.Fatalf("Lease = %+v, %v", reply, err)
	}
	_, err := s.Fill(t.Context(), name, store.FillRequest{
		Token: token, Coverage: fence.Coverage{Snapshot: storetest.Sees(10)}, State: fence.Live, Payload: make([]byte, 1<<18), TTL: time.Hour,
	})
	if !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("a value of a quarter of the store: %v", err)
	}
	if r, err := s.Get(t.Context(), name); err != nil || r.State.Live() || r.Lease.Token != token {
		t.Errorf("its record is %+v, %v: its lease is to be given back", r, err)
	}
	for i := range 100 {
		if !live(s, fmt.Sprintf("f:test:%d", i)) {
			t.Fatalf("value %d was driven out", i)
		}
	}
}

// TestExpiredMakesRoom: what has expired goes by itself as long as anything is written, whether it is read or not.
func TestExpiredMakesRoom(t *testing.T) {
	t.Parallel()
	s := New(Options{Namespace: "test"})
	for i := range 5000 {
		stored(t, s, fmt.Sprintf("f:test:short:%d", i), 100, 5*time.Millisecond)
	}
	timer := time.NewTimer(10 * time.Millisecond)
	<-timer.C
	for i := range 2000 {
		stored(t, s, fmt.Sprintf("f:test:long:%d", i), 100, time.Hour)
	}
	if u := s.Usage(); u.Records != 2000 || u.Evicted != 0 {
		t.Errorf("Usage = %+v, want the 2000 that have not expired", u)
	}
	if weight, _ := weighed(s); weight != s.used.Load() {
		t.Errorf("%d bytes are counted, and %d are there", s.used.Load(), weight)
	}
}

// TestForget: nothing is left that a reader could take for fresh.
func TestForget(t *testing.T) {
	t.Parallel()
	s := New(Options{Namespace: "test"})
	c, err := s.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.NewGeneration(t.Context(), fence.Head{Generation: "00000000000000aa", Term: fence.NewTerm(1, 1), Si: storetest.Sees(10)}); err != nil {
		t.Fatal(err)
	}
	stored(t, s, "f:test:k", 10, time.Hour)
	s.Forget()
	if _, found, _ := s.Head(t.Context()); found || live(s, "f:test:k") || s.used.Load() != 0 {
		t.Errorf("left: HEAD %t, record %t, %d bytes", found, live(s, "f:test:k"), s.used.Load())
	}
}

// TestNoOldValueUnderContention has readers fill some keys under the protocol while a daemon confirms change after change, in a
// store that is too small for all of them: once a change is applied, no live value lacks it.
func TestNoOldValueUnderContention(t *testing.T) {
	t.Parallel()
	s := New(Options{Namespace: "test", Size: 1 << 20})
	c, err := s.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	head := fence.Head{Generation: "00000000000000aa", Term: fence.NewTerm(1, 1), Wi: 1, Wc: 1, Si: storetest.Sees(100)}
	if err := c.NewGeneration(t.Context(), head); err != nil {
		t.Fatal(err)
	}
	names := []string{"f:test:a", "f:test:b", "f:test:c"}
	var visible atomic.Uint64 // the next transaction's id: all before it are visible
	visible.Store(100)
	ctx, cancel := context.WithCancel(t.Context())
	var (
		running sync.WaitGroup
		fills   atomic.Int64
	)
	for n := range 4 {
		running.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				name := names[rand.IntN(len(names))]
				token := fence.Token(fmt.Sprintf("%016x%016x", n, i))
				loaded := fence.Coverage{Snapshot: storetest.Sees(mvcc.XID(visible.Load()))} // perhaps from before the lease
				reply, _ := s.Lease(ctx, name, token, time.Minute)
				if !reply.Granted {
					continue
				}
				if rand.IntN(2) == 0 {
					loaded.Snapshot = storetest.Sees(mvcc.XID(visible.Load()))
				}
				if !fence.Floor(reply.Head, loaded) {
					_ = s.Release(ctx, name, token)
					continue
				}
				outcome, _ := s.Fill(ctx, name, store.FillRequest{
					Token: token, Coverage: loaded, State: fence.Live, Payload: []byte(strings.Repeat("x", 100)), TTL: time.Minute,
				})
				if outcome == fence.Filled {
					fills.Add(1)
				}
			}
		})
	}
	running.Go(func() { // others' values, so that there is too little room
		for i := 0; ctx.Err() == nil; i++ {
			name, token := fmt.Sprintf("f:test:other:%d", i), storetest.Token('a')
			if _, err := s.Lease(ctx, name, token, time.Minute); err != nil {
				return
			}
		}
	})
	wc := mvcc.LSN(1)
	few := func() bool { return fills.Load() < 100 || wc < 100 } // on a busy machine it takes longer
	for began := time.Now(); time.Since(began) < 2*time.Second || few() && time.Since(began) < 30*time.Second; {
		x := mvcc.XID(visible.Add(1) - 1)
		name := names[rand.IntN(len(names))]
		b := store.Batch{
			Expect: store.Expected{Generation: head.Generation, Term: head.Term, Wc: wc}, Wi: wc + 1, Si: storetest.Sees(x + 1), Advance: wc + 1,
		}
		if rand.IntN(2) == 0 {
			b.Names = []string{name}
		} else {
			b.Keys = []store.Stamped{{Name: name, Stamps: []fence.Stamp{{XID: x, End: wc + 1}}}}
		}
		if _, err := c.Apply(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		wc++
		if r, _ := s.Get(t.Context(), name); r.State.Live() && !r.Coverage.Snapshot.Sees(x) {
			t.Fatalf("after transaction %d was applied, %s has a value that covers %v", x, name, r.Coverage)
		}
	}
	cancel()
	running.Wait()
	if few() {
		t.Errorf("%d fills and %d changes show nothing", fills.Load(), wc)
	}
	t.Logf("%d fills, %d changes", fills.Load(), wc)
	if weight, _ := weighed(s); weight != s.used.Load() || weight > s.size {
		t.Errorf("%d bytes are counted, %d are there", s.used.Load(), weight)
	}
}
