package fill_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/testkit/faultproxy"
)

// through is the store by way of a proxy.
func (w *world) through() (*redisstore.Store, *faultproxy.Proxy) {
	w.t.Helper()
	proxy := faultproxy.Start(w.t, w.redis.Addr)
	store, err := redisstore.Open(w.t.Context(), redisstore.Options{URL: "redis://" + proxy.Addr, Namespace: w.namespace, Patience: w.patience})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(store.Close)
	return store, proxy
}

// TestRedisIsSlow: each answer takes 100 ms more. Reads take as many times that as they have round trips, and are as right as ever.
func TestRedisIsSlow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	store, proxy := w.through()
	loader := &slow{Loader: w.loader}
	r := w.reader(store, loader)
	read(t, r, 1, fill.Miss, price(1, 10))
	proxy.Delay(50 * time.Millisecond) // each way
	took := func(id int, status fill.Status, payload string) time.Duration {
		began := time.Now()
		read(t, r, id, status, payload)
		return time.Since(began)
	}
	if d := took(1, fill.Hit, price(1, 10)); d < 100*time.Millisecond {
		t.Errorf("a hit took %s", d)
	}
	if d := took(2, fill.Miss, price(2, 20)); d < 300*time.Millisecond || d > unhurried/2 {
		t.Errorf("a miss took %s", d)
	}
	took(2, fill.Hit, price(2, 20))
	var waiters sync.WaitGroup
	before := loader.count.Load()
	for range 50 {
		waiters.Go(func() {
			if v, err := r.Get(t.Context(), "product", arg("3"), nil); err != nil || string(v.Payload) != price(3, 30) {
				t.Errorf("%v %s, %v", v.Status, v.Payload, err)
			}
		})
	}
	waiters.Wait()
	if n := loader.count.Load() - before; n != 1 {
		t.Errorf("%d loads for one key", n)
	}
	w.change()
	took(1, fill.Miss, price(1, 11))
}

// TestRedisIsReadOnly: what is cached is served for as long as its names are vouched for, and the rest comes from the database.
func TestRedisIsReadOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownRedis: true})
	r := w.reader(nil, nil)
	read(t, r, 1, fill.Miss, price(1, 10))
	w.redis.Do(t, "REPLICAOF", "127.0.0.1", "1") // nobody is there: its data stay
	for range 20 {
		read(t, r, 1, fill.Hit, price(1, 10))
		v, err := r.Get(t.Context(), "product", arg("2"), nil)
		if err != nil || string(v.Payload) != price(2, 20) || v.Status != fill.Bypass || v.Reason != "store_refuses" {
			t.Fatalf("%v %s (%s), %v", v.Status, v.Payload, v.Reason, err)
		}
	}
	w.redis.Do(t, "REPLICAOF", "NO", "ONE")
	eventually(t, func() error {
		v, err := r.Get(t.Context(), "product", arg("2"), nil)
		if err == nil && v.Status != fill.Hit {
			err = fmt.Errorf("%v (%s)", v.Status, v.Reason)
		}
		return err
	})
}

// TestHotKeyUnderInvalidations: 64 readers of a key that changes 100 times a second see it grow and never fall back, each read at
// least as new as what was confirmed before it began; stale values, where the entry allows them, are younger than that allows.
func TestHotKeyUnderInvalidations(t *testing.T) {
	t.Parallel()
	for name, policy := range map[string]fill.Policy{"drop": {}, "serve_stale": {StaleFor: 2 * time.Second}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hotKey(t, policy)
		})
	}
}

func hotKey(t *testing.T, policy fill.Policy) {
	t.Helper()
	w := newWorld(t, options{})
	loader := &slow{Loader: w.loader}
	r := w.under(loader, policy)
	w.pg.Exec(t, w.url, "UPDATE product SET price = 0 WHERE id = 1")
	var confirmed atomic.Int64 // every read that begins after has at least this price
	stop := make(chan struct{})
	var readers sync.WaitGroup
	var reads, stale atomic.Int64
	for range 64 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				least := confirmed.Load()
				v, err := r.Get(t.Context(), "product", arg("1"), nil)
				if err != nil {
					t.Error(err)
					return
				}
				reads.Add(1)
				var id, got int64
				if _, err := fmt.Sscanf(string(v.Payload), `{"id":%d,"price":%d}`, &id, &got); err != nil {
					t.Error(err)
					return
				}
				switch {
				case v.Status == fill.Stale:
					stale.Add(1)
					if v.StaleBy > policy.StaleFor {
						t.Errorf("stale by %s", v.StaleBy)
					}
				case got < least:
					t.Errorf("%v price %d, although %d was confirmed before", v.Status, got, least)
				}
			}
		})
	}
	changes := int64(0)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < 4*time.Second && !t.Failed(); changes++ {
		<-tick.C
		w.raise()
		confirmed.Add(1)
	}
	close(stop)
	readers.Wait()
	if policy.StaleFor > 0 && stale.Load() == 0 {
		t.Error("nothing stale was served")
	}
	s := r.Stats()
	t.Logf("%d changes, %d reads, %d of them stale, %d loads (%d fills)", changes, reads.Load(), stale.Load(), s.Loads, s.Fills)
	if s.Loads > uint64(reads.Load()) || s.Fills == 0 {
		t.Errorf("%d loads for %d reads", s.Loads, reads.Load())
	}
}

// raise makes the price of product 1 higher by one, and does what the daemon does about it.
func (w *world) raise() {
	w.t.Helper()
	w.update(w.name("product", "1"), "UPDATE product SET price = price + 1 WHERE id = 1")
}

// TestCancelledAtEveryPoint: whatever moment a reader goes at, it has its answer or its own cancellation, and those who go on
// reading have the value.
func TestCancelledAtEveryPoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.under(nil, fill.Policy{StaleFor: time.Minute, StaleOnError: time.Minute, SoftTimeout: time.Second})
	answered, gone := 0, 0
	for i := range 300 {
		id := strconv.Itoa(1 + i%20)
		ctx, cancel := context.WithCancel(t.Context())
		timer := time.AfterFunc(time.Duration(i)*20*time.Microsecond, cancel)
		v, err := r.Get(ctx, "product", arg(id), nil)
		timer.Stop()
		cancel()
		switch {
		case err == nil && v.Found:
			answered++
		case errors.Is(err, context.Canceled):
			gone++
		default:
			t.Fatalf("read %d: %v %v, %v", i, v.Status, v.Found, err)
		}
		w.confirm(w.name("product", id))
	}
	if gone == 0 || answered == 0 {
		t.Errorf("%d were answered and %d gone", answered, gone)
	}
	for i := range 20 {
		id := strconv.Itoa(i + 1)
		v, err := r.Get(t.Context(), "product", arg(id), nil)
		if err != nil || string(v.Payload) != price(i+1, 10*(i+1)) {
			t.Errorf("product %s: %s, %v", id, v.Payload, err)
		}
		eventually(t, func() error { // no lease is left behind
			if record, text := w.record(w.name("product", id)); record.State != fence.Live || !record.Lease.IsZero() {
				return fmt.Errorf("the record of %s is %q", id, text)
			}
			return nil
		})
	}
}

// TestRedisFailsOverWhileItLoads: the server goes while a value is loaded, and a replica of it takes over that never heard of the
// lease. Who waits has the row; it is not stored by a lease that is gone, and the next read stores one under its own.
func TestRedisFailsOverWhileItLoads(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownRedis: true})
	replica := w.redis.Replica(t)
	store, proxy := w.through()
	held := newValve()
	loader := &slow{Loader: w.loader}
	r := w.reader(store, loader)
	read(t, r, 1, fill.Miss, price(1, 10))
	w.redis.CaughtUp(t, replica)
	replica.Promote(t) // what happens from now on is lost
	loader.before = held.pass
	first, second := background(t.Context(), r, "2"), background(t.Context(), r, "2")
	<-held.reached
	proxy.Lead(replica.Addr)
	w.redis.Kill(t)
	proxy.Reset()
	close(held.open)
	for _, waits := range []<-chan answer{first, second} {
		a := <-waits
		if a.err != nil || string(a.value.Payload) != price(2, 20) || a.value.Status == fill.Hit {
			t.Errorf("%v %s (%s), %v", a.value.Status, a.value.Payload, a.value.Reason, a.err)
		}
	}
	if text, err := replica.Ask(t, "GET", w.name("product", "2")).ToString(); err == nil && strings.Contains(text, price(2, 20)) {
		t.Errorf("the other server has %q, which no lease of its own allows", text)
	}
	eventually(t, func() error {
		for id := range 3 {
			v, err := r.Get(t.Context(), "product", arg(strconv.Itoa(id+1)), nil)
			if err != nil || string(v.Payload) != price(id+1, 10*(id+1)) {
				return fmt.Errorf("product %d: %v %s, %w", id+1, v.Status, v.Payload, err)
			}
			if v.Status != fill.Hit {
				return fmt.Errorf("product %d: %v (%s)", id+1, v.Status, v.Reason)
			}
		}
		return nil
	})
}

// TestDeadlineKeepsTheConnection: a read that gives up upon its deadline leaves the connection as it is, which is everybody's.
func TestDeadlineKeepsTheConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownRedis: true})
	store, proxy := w.through()
	r := w.reader(store, nil)
	read(t, r, 1, fill.Miss, price(1, 10))
	read(t, r, 1, fill.Hit, price(1, 10))
	conns := func() string {
		list, err := w.redis.Ask(t, "CLIENT", "LIST", "TYPE", "normal").ToString()
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for line := range strings.Lines(list) {
			if id, _, _ := strings.Cut(line, " "); strings.Contains(line, " name=freshet ") {
				ids = append(ids, id)
			}
		}
		return strings.Join(ids, " ")
	}
	before := conns()
	if before == "" {
		t.Fatal("no connection is freshet's")
	}
	proxy.Hold(faultproxy.ToClient)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := r.Get(ctx, "product", arg("1"), nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the read has no error of its deadline: %v", err)
	}
	proxy.Heal()
	read(t, r, 1, fill.Hit, price(1, 10))
	if after := conns(); after != before {
		t.Errorf("the connections were %s and are %s", before, after)
	}
}
