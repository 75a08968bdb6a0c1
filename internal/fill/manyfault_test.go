package fill_test

import (
	"fmt"
	"strconv"
	"strings"
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
