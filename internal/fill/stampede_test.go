package fill_test

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/redisstore"
)

// fleet is what processes are to each other: readers with connections of their own, of which each has time enough for a lease that
// somebody else holds to end.
func (w *world) fleet(size int) ([]*fill.Reader, *slow) {
	w.t.Helper()
	entries := policed(fill.Policy{})
	for name, e := range entries {
		e.LoadTimeout = 30 * time.Second
		entries[name] = e
	}
	loader := &slow{Loader: w.loader}
	readers := make([]*fill.Reader, size)
	for i := range readers {
		store, err := redisstore.Open(w.t.Context(), redisstore.Options{URL: w.redis.URL, Namespace: w.namespace, Patience: w.patience})
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(store.Close)
		readers[i] = w.readerOf(store, loader, entries)
	}
	return readers, loader
}

// storm has each of the fleet read the keys from so many goroutines, all at once.
func storm(t *testing.T, fleet []*fill.Reader, goroutines, keys int) {
	t.Helper()
	var all sync.WaitGroup
	start := make(chan struct{})
	for _, r := range fleet {
		for g := range goroutines {
			all.Go(func() {
				<-start
				for k := range keys {
					id := (k+g)%keys + 1
					v, err := r.Get(t.Context(), "product", arg(strconv.Itoa(id)), nil)
					if err != nil || string(v.Payload) != price(id, 10*id) {
						t.Errorf("product %d: %v %s, %v", id, v.Status, v.Payload, err)
					}
				}
			})
		}
	}
	close(start)
	all.Wait()
}

// TestStampede: the fleet loads each key that nobody has once, however many want it.
func TestStampede(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	fleet, loader := w.fleet(4)
	const keys = 20
	storm(t, fleet, 200, keys)
	if n := loader.count.Load(); n != keys {
		t.Errorf("%d loads of %d keys by 4 times 200 readers", n, keys)
	}
}

// TestStampedeAsksForOneLease: the readers of one process that want the same key ask for its lease together, and look together for what others
// load. How many meet is the machine's, so that one of some tries has to show it.
func TestStampedeAsksForOneLease(t *testing.T) {
	t.Parallel()
	const readers, few, tries = 200, 100, 10
	for _, elsewhere := range []bool{false, true} {
		w := newWorld(t, options{})
		var leases, looks atomic.Int64
		store := &hooks{Store: w.store, afterCall: func(what string) {
			if what == "lease" {
				leases.Add(1)
			}
		}, afterGet: func(string) { looks.Add(1) }}
		loader := &slow{Loader: w.loader, before: func(context.Context) { pause(t, 50*time.Millisecond) }}
		r := w.readerOf(store, loader, policed(fill.Policy{}))
		read(t, r, 2, fill.Miss, price(2, 20))
		try := func() (asked, looked int64) {
			w.confirm(w.name("product", "1"))
			var holder sync.WaitGroup
			if elsewhere {
				w.lease(other, "1")
				holder.Go(func() {
					pause(t, 50*time.Millisecond)
					_ = w.store.Release(t.Context(), w.name("product", "1"), other)
				})
			}
			leases.Store(0)
			looks.Store(0)
			storm(t, []*fill.Reader{r}, readers, 1)
			holder.Wait()
			return leases.Load(), looks.Load()
		}
		for left := tries; ; left-- {
			asked, looked := try()
			if asked <= few && looked <= readers+few {
				break
			}
			if left == 0 {
				t.Errorf("%d readers asked for a lease %d times, and looked at the key %d times", readers, asked, looked)
				break
			}
		}
	}
}

// TestLeaseOfTheDead: a process that dies while it loads has its lease pass on when that ends, and then to one of all.
func TestLeaseOfTheDead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	fleet, loader := w.fleet(4)
	const term = 2 * time.Second
	token := fence.Token("0123456789abcdef0123456789abcdef")
	began := time.Now()
	if reply, err := w.store.Lease(t.Context(), w.name("product", "1"), token, term); err != nil || !reply.Granted {
		t.Fatalf("Lease = %+v, %v", reply, err)
	}
	storm(t, fleet, 50, 1)
	if took := time.Since(began); took < term/2 || took > term+10*time.Second {
		t.Errorf("the value came %s after the lease of %s was granted", took, term)
	}
	if n := loader.count.Load(); n != 1 {
		t.Errorf("%d loads", n)
	}
}

// TestLeaseOfTheDeadEndsBeforeItsRecord: who waits for the load of a process that has died asks for the lease when that is over, also
// where the record of it stays: for one key, for several, and to refresh it.
func TestLeaseOfTheDeadEndsBeforeItsRecord(t *testing.T) {
	t.Parallel()
	const term = 700 * time.Millisecond
	for i, get := range []func(r *fill.Reader, id int) fill.Answer{
		func(r *fill.Reader, id int) fill.Answer {
			v, err := r.Get(t.Context(), "product", arg(strconv.Itoa(id)), nil)
			return fill.Answer{Value: v, Err: err}
		},
		func(r *fill.Reader, id int) fill.Answer {
			return r.GetMany(t.Context(), "product", numbered(id, 5), &fill.Demand{})[0]
		},
		func(r *fill.Reader, id int) fill.Answer {
			if err := r.Refresh(t.Context(), "product", number(id), nil); err != nil {
				return fill.Answer{Err: err}
			}
			v, err := r.Get(t.Context(), "product", arg(strconv.Itoa(id)), nil)
			return fill.Answer{Value: v, Err: err}
		},
	} {
		w := newWorld(t, options{})
		w.batches()
		fleet, loader := w.fleet(1)
		name := w.name("product", strconv.Itoa(i+1))
		reply, err := w.store.Lease(t.Context(), name, other, term)
		if err != nil || !reply.Granted {
			t.Fatalf("Lease = %+v, %v", reply, err)
		}
		w.put(name, reply.Record.Append(nil)) // without an end
		began := time.Now()
		a := get(fleet[0], i+1)
		if took := time.Since(began); a.Err != nil || string(a.Value.Payload) != price(i+1, 10*(i+1)) || a.Value.Reason != "" || took > 10*time.Second {
			t.Errorf("%d: after %s: %+v", i, took, a)
		}
		if n, held := loader.count.Load(), fleet[0].Stats().Fills; held == 0 {
			t.Errorf("%d: %d loads, and none was stored", i, n)
		}
	}
}
