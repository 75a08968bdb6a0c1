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

	"github.com/freshet/freshet/internal/fill"
)

// TestTooManyWaitForALoad: whoever would wait behind more loads than could end in time is told so at once; those before him have their values.
func TestTooManyWaitForALoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	open := make(chan struct{})
	loader := &slow{Loader: w.loader, before: func(ctx context.Context) {
		select {
		case <-open:
		case <-ctx.Done():
		}
	}}
	entries := policed(fill.Policy{})
	for name, e := range entries {
		e.LoadTimeout = time.Minute // none waits for so long that this is why
		entries[name] = e
	}
	r := w.open(fill.Options{Loader: loader, Entries: entries, MaxLoads: 1})
	const readers, loading, wait = 100, 1, 64
	var (
		all             sync.WaitGroup
		refused, served atomic.Int64
	)
	for i := range readers {
		all.Go(func() {
			v, err := r.Get(t.Context(), "product", arg(strconv.Itoa(i+1)), nil)
			switch {
			case err == nil && string(v.Payload) == price(i+1, 10*(i+1)):
				served.Add(1)
			case errors.Is(err, fill.ErrUnavailable) && errors.Is(err, fill.ErrOverloaded):
				refused.Add(1)
			default:
				t.Errorf("product %d: %s, %v", i+1, v.Payload, err)
			}
		})
	}
	eventually(t, func() error {
		if n := refused.Load(); n != readers-loading-wait {
			return fmt.Errorf("%d were refused", n)
		}
		return nil
	})
	close(open)
	all.Wait()
	if n := served.Load(); n != loading+wait {
		t.Errorf("%d have their values", n)
	}
}

// TestManyWaitForHalfOfTheirTime: keys that another process loads without end are waited for, for half of the load timeout, and then loaded;
// the others are there long before.
func TestManyWaitForHalfOfTheirTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.batches()
	w.loads = 2 * hurried
	loader := &statements{Loader: w.loader}
	r := w.reader(nil, loader)
	w.lease(other, "1")
	w.lease(other, "2")
	began := time.Now()
	answers := r.GetMany(t.Context(), "product", numbered(1, 2, 3), &fill.Demand{})
	if took := time.Since(began); took < w.loads/2-100*time.Millisecond || took > w.loads-100*time.Millisecond {
		t.Errorf("it took %v of %v", took, w.loads)
	}
	for i, a := range answers {
		status := fill.Bypass
		if i == 2 {
			status = fill.Miss
		}
		if a.Err != nil || a.Value.Status != status || string(a.Value.Payload) != price(i+1, 10*(i+1)) {
			t.Errorf("product %d: %v (%s) %s, %v", i+1, a.Value.Status, a.Value.Reason, a.Value.Payload, a.Err)
		}
	}
	if n := loader.sent.Load(); n != 2 {
		t.Errorf("%d statements, want one for what could be leased and one for the rest", n)
	}
}

// TestStandInGrowsOld: a stale value that a read was shown does not stand in for a load that fails once it is older than the entry allows.
func TestStandInGrowsOld(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.loads = hurried
	loader := &slow{Loader: w.loader}
	r := w.under(loader, fill.Policy{StaleOnError: time.Second})
	read(t, r, 1, fill.Miss, price(1, 10))
	w.marked()
	loader.before = func(ctx context.Context) { <-ctx.Done() } // for longer than that
	v, err := r.Get(t.Context(), "product", arg("1"), nil)
	if !errors.Is(err, fill.ErrTimeout) {
		t.Errorf("%v %s, stale by %v, %v", v.Status, v.Payload, v.StaleBy, err)
	}
	if s := r.Stats(); s.Stale["load_slow"]+s.Stale["load_failed"] != 0 {
		t.Errorf("Stats = %+v", s)
	}
}

// TestStandInAfterALongWait: a load that fails after longer than a confirmation of the names lasts has the stale value stand in for it all the
// same, in a process where nobody else reads; of one key, and of many.
func TestStandInAfterALongWait(t *testing.T) {
	t.Parallel()
	for what, get := range map[string]func(r *fill.Reader) (fill.Value, error){
		"one": func(r *fill.Reader) (fill.Value, error) { return r.Get(t.Context(), "product", arg("1"), nil) },
		"many": func(r *fill.Reader) (fill.Value, error) {
			a := r.GetMany(t.Context(), "product", numbered(1, 2), &fill.Demand{})
			return a[0].Value, a[0].Err
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{})
			w.loads = hurried
			var hangs, moves atomic.Bool
			loader := &slow{Loader: w.loader, before: func(ctx context.Context) {
				if hangs.Load() {
					<-ctx.Done()
				} else if moves.CompareAndSwap(true, false) {
					w.begin() //nolint:contextcheck // the daemon is not the load's
				}
			}}
			r := w.under(loader, fill.Policy{StaleOnError: time.Minute})
			read(t, r, 1, fill.Miss, price(1, 10))
			w.marked()
			hangs.Store(true)
			v, err := get(r)
			if err != nil || v.Status != fill.Stale || v.Reason != "load_slow" || string(v.Payload) != price(1, 10) || v.StaleBy < time.Second {
				t.Errorf("%v (%s) %s, stale by %v, %v", v.Status, v.Reason, v.Payload, v.StaleBy, err)
			}
			moves.Store(true) // and then nobody says what it has missed
			hangs.Store(false)
			for moves.Load() { // the load that hung may be on its way yet, and is joined
				v, err = get(r)
			}
			if err == nil && v.Status == fill.Stale {
				t.Errorf("stale, under names that have moved: %s", v.Payload)
			}
		})
	}
}

// TestJitter: values that are filled together do not end together, and none lives for longer than its TTL.
func TestJitter(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.batches()
	const ttl, share, keys = 60_000, 0.1, 40 // of the readers of a world; that 40 draws lie within a tenth of the range never happens
	readMany(t, w.reader(nil, nil), nil, upTo(keys), nil)
	least, most := int64(ttl), int64(0)
	for id := range keys {
		left, err := w.raw.Do(t.Context(), w.raw.B().Pttl().Key(w.name("product", strconv.Itoa(id+1))).Build()).AsInt64()
		if err != nil {
			t.Fatal(err)
		}
		least, most = min(least, left), max(most, left)
	}
	if spread := float64(most-least) / ttl; spread < share/10 || spread > share || most > ttl {
		t.Errorf("they live for %d to %d ms", least, most)
	}
}

// TestRefreshAheadIsNotTriedAgainAndAgain: while another process holds the lease of a value that is due, reads do not each ask for it.
func TestRefreshAheadIsNotTriedAgainAndAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	entries := policed(fill.Policy{Eager: 0.9})
	e := entries["product"]
	e.TTL = 20 * time.Second
	entries["product"] = e
	leases := new(atomic.Int64)
	r := w.readerOf(&hooks{Store: w.store, afterCall: func(string) { leases.Add(1) }}, nil, entries)
	read(t, r, 1, fill.Miss, price(1, 10))
	w.lease(other, "1")
	leases.Store(0)
	began := time.Now()
	for time.Since(began) < 3500*time.Millisecond { // it is due after two seconds
		for range 20 {
			read(t, r, 1, fill.Hit, price(1, 10))
		}
		pause(t, 5*time.Millisecond)
	}
	if n := leases.Load(); n < 1 || n > 3 {
		t.Errorf("%d leases were asked for", n)
	}
}

// TestOwnContextIsOver: a caller whose context is over has that as his error, also where nothing was confirmed yet.
func TestOwnContextIsOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	<-late.Done()
	for _, entry := range []string{"product", "cheaper"} {
		for want, ctx := range map[error]context.Context{context.Canceled: gone, context.DeadlineExceeded: late} {
			r := w.reader(nil, nil)
			if _, err := r.Get(ctx, entry, arg("1"), nil); !errors.Is(err, want) || errors.Is(err, fill.ErrTimeout) || errors.Is(err, fill.ErrUnavailable) {
				t.Errorf("%s: %v, want %v", entry, err, want)
			}
		}
	}
}
