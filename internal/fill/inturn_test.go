package fill_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
)

// few is a reader whose loads may be few at a time.
func (w *world) few(loads int, loader fill.Loader, timeout time.Duration, p fill.Policy) *fill.Reader {
	w.t.Helper()
	entries := policed(p)
	for name, e := range entries {
		e.LoadTimeout = timeout
		entries[name] = e
	}
	if loader == nil {
		loader = w.loader
	}
	r, err := fill.New(fill.Options{
		Namespace: w.namespace, Store: w.store, Loader: loader, Entries: entries, Clock: w.clock, Patience: w.patience, MaxLoads: loads,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(r.Close)
	return r
}

// working is code that loads keys, and counts how often it does, and how often at a time.
type working struct {
	do             func(ctx context.Context, i int) error
	all, now, most atomic.Int64
	value          atomic.Int64 // of all keys, besides their numbers
}

func (c *working) load(i int) fill.LoadFunc {
	return func(ctx context.Context, _ pgload.Querier) ([]byte, bool, error) {
		c.all.Add(1)
		now := c.now.Add(1)
		defer c.now.Add(-1)
		for old := c.most.Load(); now > old && !c.most.CompareAndSwap(old, now); old = c.most.Load() {
		}
		if err := c.do(ctx, i); err != nil {
			return nil, false, err
		}
		return []byte(strconv.FormatInt(int64(i)+c.value.Load(), 10)), true, nil
	}
}

// sleeping takes so long for each key.
func sleeping(d time.Duration) func(context.Context, int) error {
	return func(ctx context.Context, _ int) error {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// opened waits for that.
func opened(open <-chan struct{}) func(context.Context, int) error {
	return func(ctx context.Context, _ int) error {
		select {
		case <-open:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func numbers(n int) []fill.Key {
	keys := make([]fill.Key, n)
	for i := range keys {
		keys[i] = number(i)
	}
	return keys
}

// leases is how many keys of the entry that code loads have a lease.
func (w *world) leases(n int) (leased int) {
	w.t.Helper()
	for i := range n {
		if record, _ := w.record(w.name("code", strconv.Itoa(i))); !record.Lease.IsZero() {
			leased++
		}
	}
	return leased
}

// TestManyInTurn: keys that are loaded each by itself are so a few at a time, of which each has a load timeout of its own, however long they
// take together. Meanwhile other reads have their turn at once, and nothing is leased but what is being loaded.
func TestManyInTurn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	const keys, most = 200, 2
	r := w.few(2*most, nil, 1500*time.Millisecond, fill.Policy{})
	c := &working{do: sleeping(20 * time.Millisecond)}
	done := make(chan []fill.Answer, 1)
	began := time.Now()
	go func() { done <- r.ReadMany(t.Context(), "code", numbers(keys), c.load, &fill.Demand{}) }()
	eventually(t, func() error {
		if n := c.all.Load(); n < 3*most {
			return fmt.Errorf("%d loads", n)
		}
		return nil
	})
	for id := 1; id <= 20; id++ {
		at := time.Now()
		read(t, r, id, fill.Miss, price(id, 10*id))
		if took := time.Since(at); took > 500*time.Millisecond {
			t.Errorf("another read waited %s", took)
		}
	}
	if n := w.leases(keys); n > 3*most { // one is asked for, or given back, a little before the other
		t.Errorf("%d leases are held", n)
	}
	for i, a := range <-done {
		if a.Err != nil || string(a.Value.Payload) != strconv.Itoa(i) || a.Value.Status != fill.Miss || a.Value.Reason != "" {
			t.Errorf("key %d: %+v", i, a)
		}
	}
	if took := time.Since(began); took < keys/most*20*time.Millisecond {
		t.Errorf("after %s", took)
	}
	if c.most.Load() != most || c.all.Load() != keys {
		t.Errorf("%d loads, %d at a time", c.all.Load(), c.most.Load())
	}
	if s := r.Stats(); s.Misses != keys+20 || s.Overloaded != 0 || s.Fills != keys+20 {
		t.Errorf("%+v", s)
	}
	for i, a := range r.ReadMany(t.Context(), "code", numbers(keys), c.load, &fill.Demand{}) {
		if a.Err != nil || a.Value.Status != fill.Hit {
			t.Errorf("key %d, once more: %+v", i, a)
		}
	}
	// Comparisons are as few at a time, and so is what is loaded past the cache.
	c.most.Store(0)
	for status, d := range map[fill.Status]*fill.Demand{fill.Miss: {Bounded: true, MaxStale: time.Nanosecond}, fill.Bypass: {Past: true}} {
		r.ForgetSights()
		for i, a := range r.ReadMany(t.Context(), "code", numbers(40), c.load, d) {
			if a.Err != nil || string(a.Value.Payload) != strconv.Itoa(i) || a.Value.Status != status {
				t.Errorf("key %d: %+v, want a %v", i, a, status)
			}
		}
	}
	if c.most.Load() != most {
		t.Errorf("%d loads at a time", c.most.Load())
	}
	// Nor do they wait for each other where an entry may have fewer, out of their own time.
	one := w.few(64, nil, 1500*time.Millisecond, fill.Policy{MaxLoads: 1})
	c.do = sleeping(40 * time.Millisecond)
	for i, a := range one.ReadMany(t.Context(), "code", numbers(40), c.load, &fill.Demand{Past: true}) {
		if a.Err != nil {
			t.Errorf("key %d of an entry that may have one load at a time: %v", i, a.Err)
		}
	}
}

// TestManyThatHang: a key that hangs costs its own load timeout, and as soon as nothing comes in time any more, the rest is not waited for.
func TestManyThatHang(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	const timeout = time.Second
	r := w.few(4, nil, timeout, fill.Policy{})
	some := &working{do: func(ctx context.Context, i int) error {
		if i%10 == 3 {
			<-ctx.Done()
		}
		return ctx.Err()
	}}
	for i, a := range r.ReadMany(t.Context(), "code", numbers(60), some.load, &fill.Demand{}) {
		if hangs := i%10 == 3; hangs != errors.Is(a.Err, fill.ErrTimeout) || !hangs && a.Err != nil {
			t.Errorf("key %d: %+v", i, a)
		}
	}
	all := &working{do: func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() }}
	began := time.Now()
	timeouts, unavailable := 0, 0
	for i, a := range r.ReadMany(t.Context(), "code", numbers(300)[60:], all.load, &fill.Demand{}) {
		switch {
		case errors.Is(a.Err, fill.ErrUnavailable):
			unavailable++
		case errors.Is(a.Err, fill.ErrTimeout):
			timeouts++
		default:
			t.Errorf("key %d: %+v", i, a)
		}
	}
	if took := time.Since(began); took > 10*timeout || all.all.Load() > 8 || timeouts != int(all.all.Load()) {
		t.Errorf("%d were loaded in %s; %d came too late, %d were not begun", all.all.Load(), took, timeouts, unavailable)
	}
	eventually(t, func() error {
		if n := w.leases(300); n != 0 {
			return fmt.Errorf("%d leases are left", n)
		}
		return nil
	})
}

// TestManyInTurnAreGivenUp: what has not begun when the caller goes is not begun, and the caller is answered at once.
func TestManyInTurnAreGivenUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.few(4, nil, 2*time.Second, fill.Policy{})
	open := make(chan struct{})
	c := &working{do: opened(open)}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan []fill.Answer, 1)
	go func() { done <- r.ReadMany(ctx, "code", numbers(50), c.load, &fill.Demand{}) }()
	eventually(t, func() error {
		if n := c.all.Load(); n != 2 {
			return fmt.Errorf("%d loads", n)
		}
		return nil
	})
	cancel()
	for i, a := range <-done {
		if !errors.Is(a.Err, context.Canceled) {
			t.Errorf("key %d: %+v", i, a)
		}
	}
	close(open)
	eventually(t, func() error { // those that had begun are stored
		if s := r.Stats(); s.Fills != 2 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	eventually(t, func() error {
		if n := w.leases(50); n != 0 {
			return fmt.Errorf("%d leases are left", n)
		}
		return nil
	})
	if c.all.Load() != 2 {
		t.Errorf("%d loads", c.all.Load())
	}
}

// TestManyStaleInTurn: keys that code loads and that have just changed are there at once, however many; they are loaded a few at a time,
// also when the caller has gone. What may only stand in for a load does after the soft timeout, whether its turn has come or not.
func TestManyStaleInTurn(t *testing.T) {
	t.Parallel()
	const keys = 30
	for _, x := range []struct {
		policy fill.Policy
		reason string
	}{
		{fill.Policy{StaleFor: time.Minute}, "changed"},
		{fill.Policy{StaleOnError: time.Minute, SoftTimeout: 100 * time.Millisecond}, "load_slow"},
	} {
		t.Run(x.reason, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{})
			r := w.few(4, nil, 2*time.Second, x.policy)
			open := make(chan struct{})
			c := &working{do: func(context.Context, int) error { return nil }}
			r.ReadMany(t.Context(), "code", numbers(keys), c.load, &fill.Demand{})
			for i := range keys {
				w.update(w.name("code", strconv.Itoa(i)), "UPDATE product SET price = 11 WHERE id = 1")
			}
			c.do = func(ctx context.Context, i int) error {
				return errors.Join(opened(open)(ctx, i), sleeping(10*time.Millisecond)(ctx, i))
			}
			c.most.Store(0)
			c.value.Store(1000)
			ctx, cancel := context.WithCancel(t.Context())
			began := time.Now()
			for i, a := range r.ReadMany(ctx, "code", numbers(keys), c.load, &fill.Demand{}) {
				if v := a.Value; a.Err != nil || v.Status != fill.Stale || v.Reason != x.reason || string(v.Payload) != strconv.Itoa(i) {
					t.Errorf("key %d: %+v", i, a)
				}
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("after %s", took)
			}
			cancel()
			close(open)
			eventually(t, func() error {
				if s := r.Stats(); s.Fills != 2*keys {
					return fmt.Errorf("%+v", s)
				}
				return nil
			})
			for i, a := range r.ReadMany(t.Context(), "code", numbers(keys), c.load, &fill.Demand{}) {
				if a.Err != nil || a.Value.Status != fill.Hit || string(a.Value.Payload) != strconv.Itoa(i+1000) {
					t.Errorf("key %d: %+v", i, a)
				}
			}
			if c.all.Load() != 2*keys || c.most.Load() > 2 {
				t.Errorf("%d loads, %d at a time", c.all.Load(), c.most.Load())
			}
		})
	}
}

// TestManyHeldUpTogether: what a statement for many keys took too long for is loaded a few at a time, with and without the cache, and who waits
// for it in this process has it.
func TestManyHeldUpTogether(t *testing.T) {
	t.Parallel()
	for _, past := range []bool{false, true} {
		t.Run(fmt.Sprintf("past the cache %t", past), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{})
			w.batches()
			const keys = 60
			reached, open := make(chan struct{}), make(chan struct{})
			loader := &late{Loader: w.loader}
			loader.before = func() { close(reached); <-open }
			r := w.few(4, loader, 2*time.Second, fill.Policy{})
			done := make(chan map[string]int, 1)
			go func() { done <- readMany(t, r, &fill.Demand{Past: past}, upTo(keys), nil) }()
			<-reached
			waiter := backgroundUnder(t.Context(), r, "50", &fill.Demand{Past: past})
			if !past {
				eventually(t, waiting(r, 1))
			}
			close(open)
			want := map[string]int{"miss": keys}
			if past {
				want = map[string]int{"bypass": keys}
			}
			got := <-done
			if got["hit"] == 1 { // the waiter was quicker
				got["miss"] += got["hit"]
				delete(got, "hit")
			}
			if !cmp.Equal(got, want) {
				t.Errorf("%v, want %v", got, want)
			}
			if a := <-waiter; a.err != nil || string(a.value.Payload) != price(50, 500) {
				t.Errorf("the waiter has %+v", a)
			}
			if n := loader.atATime(); n > 3 { // two of the batch, and the waiter's
				t.Errorf("%d at a time", n)
			}
			if !past {
				for id := 1; id <= keys; id++ {
					if record, _ := w.record(w.name("product", strconv.Itoa(id))); record.State != fence.Live || !record.Lease.IsZero() {
						t.Errorf("product %d is stored as %+v", id, record)
					}
				}
			}
		})
	}
}

// late is a database whose statements for many keys take too long.
type late struct {
	*pgload.Loader

	before func()

	mu        sync.Mutex
	now, most int
}

func (l *late) LoadMany(_ context.Context, _ pgload.Query, keys [][]keytext.Arg) pgload.Many {
	l.before()
	m := pgload.Many{Ones: make([]pgload.One, len(keys)), Statements: 1}
	for i := range m.Ones {
		m.Ones[i].Err = pgload.ErrTimeout
	}
	return m
}

func (l *late) Load(ctx context.Context, sql string, result rule.Result, args []keytext.Arg) (pgload.Loaded, error) {
	l.count(1)
	defer l.count(-1)
	return l.Loader.Load(ctx, sql, result, args)
}

func (l *late) count(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now += n
	l.most = max(l.most, l.now)
}

func (l *late) atATime() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.most
}
