package fill_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
)

// TestManyWhileRedisRefuses: what is cached is served, the rest comes from the database by one statement and is stored nowhere, each read
// anew; once Redis takes writes again it is stored.
func TestManyWhileRedisRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownRedis: true})
	w.batches()
	loader := &statements{Loader: w.loader}
	r := w.reader(nil, loader)
	for i, tt := range []struct{ reason, refuse, take string }{
		{"store_full", "CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"},
		{"store_refuses", "REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"}, // nobody is there: its data stay
	} {
		readMany(t, r, nil, upTo(10), nil)
		w.redis.Do(t, strings.Fields(tt.refuse)...)
		for range 3 {
			before := loader.sent.Load()
			statuses := readMany(t, r, nil, upTo(60), nil)
			if want := map[string]int{"hit": 10, "bypass": 50}; !cmp.Equal(statuses, want) || loader.sent.Load() != before+1 {
				t.Errorf("%s: %v by %d statements, want %v", tt.reason, statuses, loader.sent.Load()-before, want)
			}
		}
		if n := r.Stats().Bypassed[tt.reason]; n != 150 {
			t.Errorf("%s: %d keys were read past the cache", tt.reason, n)
		}
		w.redis.Do(t, strings.Fields(tt.take)...)
		eventually(t, func() error {
			if statuses := readMany(t, r, nil, []int{1, 70 + i}, nil); statuses["hit"] != 2 {
				return fmt.Errorf("%v", statuses)
			}
			return nil
		})
	}
}

// TestRedisFailsOverWhileItLoadsMany: the server goes while values are loaded, and a replica of it takes over that never heard of the leases.
// The read has its rows, and none is stored by a lease that is gone.
func TestRedisFailsOverWhileItLoadsMany(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownRedis: true})
	w.batches()
	replica := w.redis.Replica(t)
	store, proxy := w.through()
	loader := &statements{Loader: w.loader}
	r := w.reader(store, loader)
	readMany(t, r, nil, []int{50, 51}, nil)
	w.redis.CaughtUp(t, replica)
	replica.Promote(t) // what happens from now on is lost
	loader.before = func([][]keytext.Arg) {
		loader.before = nil
		proxy.Lead(replica.Addr)
		w.redis.Kill(t)
		proxy.Reset()
	}
	if statuses := readMany(t, r, nil, []int{1, 2, 3, 50}, nil); statuses["hit"] != 1 {
		t.Errorf("%v", statuses)
	}
	for id := 1; id <= 3; id++ {
		if text, err := replica.Ask(t, "GET", w.name("product", strconv.Itoa(id))).ToString(); err == nil && strings.Contains(text, price(id, 10*id)) {
			t.Errorf("the other server has %q, which no lease of its own allows", text)
		}
	}
	eventually(t, func() error {
		if statuses := readMany(t, r, &fill.Demand{}, []int{1, 2, 3, 50}, nil); statuses["hit"] != 4 {
			return fmt.Errorf("%v", statuses)
		}
		return nil
	})
}

// TestManyWithoutAStore: where there is no store, no roster or no daemon, keys are loaded together all the same, and joined by reads
// of single keys.
func TestManyWithoutAStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{noDaemon: true})
	loader := &statements{Loader: w.loader}
	r := w.reader(nil, loader)
	if statuses := readMany(t, r, nil, upTo(101), nil); statuses["bypass"] != 101 {
		t.Errorf("%v", statuses)
	}
	if loader.many.Load() != 1 || loader.single.Load() != 0 {
		t.Errorf("%d loads of many, %d of one", loader.many.Load(), loader.single.Load())
	}
	entered, open := make(chan struct{}), make(chan struct{})
	loader.before = func([][]keytext.Arg) {
		close(entered)
		<-open
	}
	done := make(chan map[string]int, 1)
	go func() { done <- readMany(t, r, nil, []int{1, 2, 3}, nil) }()
	<-entered
	single := background(t.Context(), r, "2")
	close(open)
	if a := <-single; a.err != nil || string(a.value.Payload) != price(2, 20) {
		t.Errorf("%+v", a)
	}
	if statuses := <-done; statuses["bypass"] != 3 {
		t.Errorf("%v", statuses)
	}
	if s := r.Stats(); s.Bypassed["no_head"] != 105 {
		t.Errorf("%+v", s)
	}
	unknown := r.GetMany(t.Context(), "nothing", numbered(1), &fill.Demand{})
	if !errors.Is(unknown[0].Err, fill.ErrUnknownEntry) {
		t.Errorf("%+v", unknown)
	}
}

// TestManyWhileRedisIsAway: the database is to be spared more than ever, so what the last roster said of loads of many keys still counts,
// until the database refuses it, which is asked once.
func TestManyWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	for _, refused := range []bool{false, true} {
		w := newWorld(t, options{ownRedis: true, away: true})
		w.batches()
		if refused {
			roster := w.newRoster(w.roster.Revision + 1)
			maps.Copy(roster.Entries, w.roster.Entries)
			roster.Entries["product"].Batch.SQL = "SELECT it FROM what_was_dropped"
			w.move(roster)
		}
		loader := &statements{Loader: w.loader}
		r := w.reader(nil, loader)
		if _, err := r.Get(t.Context(), "product", arg("1"), nil); err != nil {
			t.Fatal(err)
		}
		w.redis.Kill(t)
		eventually(t, func() error { return awayFrom(r) })
		for round := range 3 {
			before := loader.sent.Load()
			if statuses := readMany(t, r, nil, upTo(101), nil); statuses["bypass"] != 101 {
				t.Errorf("%v", statuses)
			}
			want := int64(1)
			if refused {
				if want = 101; round == 0 {
					want++
				}
			}
			if n := loader.sent.Load() - before; n != want {
				t.Errorf("refused %t, round %d: %d statements for 101 keys, want %d", refused, round, n, want)
			}
		}
	}
}

// awayFrom is nil once the reader uses no names.
func awayFrom(r *fill.Reader) error {
	if r.Ready(context.Background()) == nil {
		return errors.New("the cache is still used")
	}
	return nil
}

// TestManyWhileRedisGoes at every step: the rows come from the database.
func TestManyWhileRedisGoes(t *testing.T) {
	t.Parallel()
	for step := range 3 {
		t.Run(strconv.Itoa(step), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{ownRedis: true, away: true})
			w.batches()
			store := &steps{Store: w.store}
			r := w.reader(store, nil)
			readMany(t, r, nil, []int{1}, nil)
			stop := sync.OnceFunc(func() { w.redis.Kill(t) })
			switch step {
			case 0:
				stop()
			case 1:
				store.beforeLease = stop
			default:
				store.beforeFill = stop
			}
			readMany(t, r, nil, upTo(50), nil)
			readMany(t, r, nil, upTo(50), nil)
		})
	}
}

// TestManyAreGivenUp at every step: the caller is answered at once, and what was begun ends without it.
func TestManyAreGivenUp(t *testing.T) {
	t.Parallel()
	for step := range 4 {
		t.Run(strconv.Itoa(step), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{})
			w.batches()
			store, loader := &steps{Store: w.store}, &statements{Loader: w.loader}
			r := w.reader(store, loader)
			readMany(t, r, nil, []int{50}, nil)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			switch step {
			case 0:
				cancel()
			case 1:
				store.beforeLease = cancel
			case 2:
				loader.before = func([][]keytext.Arg) { cancel() }
			default:
				store.beforeFill = cancel
			}
			for i, a := range r.GetMany(ctx, "product", numbered(1, 2, 3), &fill.Demand{}) {
				if a.Err != nil && !errors.Is(a.Err, context.Canceled) || a.Err == nil && string(a.Value.Payload) != price(i+1, 10*i+10) {
					t.Errorf("product %d: %+v", i+1, a)
				}
			}
			readMany(t, r, nil, []int{1, 2, 3}, nil)
		})
	}
}
