package fill_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
)

// heard is an Observer that keeps what it hears of loads.
type heard struct {
	mu    sync.Mutex
	loads []fill.LoadDone
}

type heardKey struct{}

func (h *heard) LoadStart(ctx context.Context, entry string) context.Context {
	return context.WithValue(ctx, heardKey{}, entry)
}

func (h *heard) LoadEnd(_ context.Context, l fill.LoadDone) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.loads = append(h.loads, l)
}

// heldUp is the real database, whose statements for many keys take too long for some of the keys.
type heldUp struct {
	*pgload.Loader

	up map[string]bool // those keys
}

func (s *heldUp) LoadMany(ctx context.Context, q pgload.Query, keys [][]keytext.Arg) pgload.Many {
	m := s.Loader.LoadMany(ctx, q, keys)
	for i, args := range keys {
		if s.up[args[0].Text] {
			m.Ones[i] = pgload.One{Err: pgload.ErrTimeout}
		}
	}
	return m
}

// TestObservedManyHeldUp: a load of many keys has an error only if it loaded none of them, and a key that is loaded alone after it is
// linked to that load; with the cache, and past it.
func TestObservedManyHeldUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.batches()
	for _, past := range []bool{false, true} {
		for _, x := range []struct {
			ids    []int
			up     map[string]bool
			loads  []int // keys of each
			failed bool
			linked int
		}{
			{[]int{1, 2, 3}, nil, []int{3}, false, 1},
			{[]int{4, 5, 6}, map[string]bool{"4": true}, []int{3, 1}, false, 2},
			{[]int{7, 8, 9}, map[string]bool{"7": true, "8": true, "9": true}, []int{3, 1, 1, 1}, true, 3},
		} {
			h, reading := &heard{}, &fill.Reading{}
			r := w.open(fill.Options{
				Loader: &heldUp{w.loader, x.up}, Observer: h,
				Entries: map[string]fill.Entry{"product": {Declared: declarations()["product"], TTL: time.Minute}},
			})
			for _, a := range r.GetMany(fill.Observe(t.Context(), reading), "product", numbered(x.ids...), &fill.Demand{Past: past}) {
				if a.Err != nil || !a.Value.Found || a.Value.Status == fill.Hit {
					t.Errorf("%+v", a)
				}
			}
			r.Close() // after which nothing is loaded
			var keys []int
			for _, l := range h.loads {
				keys = append(keys, l.Keys)
			}
			if diff := cmp.Diff(x.loads, keys); diff != "" || (h.loads[0].Err != nil) != x.failed {
				t.Errorf("past the cache %t, held up %v: %v (-want +got):\n%s", past, x.up, h.loads[0].Err, diff)
			}
			for _, l := range reading.Loads() {
				if l.Value(heardKey{}) != "product" {
					t.Error("linked to what is no load")
				}
			}
			if n := len(reading.Loads()); n != x.linked {
				t.Errorf("past the cache %t, held up %v: linked to %d loads, want %d", past, x.up, n, x.linked)
			}
		}
	}
}

// TestObservedManyFromAReplica: what comes from a standby is of a load like any other, and one with what the primary is asked for.
func TestObservedManyFromAReplica(t *testing.T) {
	t.Parallel()
	w := newStandby(t)
	w.batches()
	h := &heard{}
	r := w.open(fill.Options{
		Observer: h, Replicas: []fill.Replica{w.replica}, Followed: -1,
		Entries: map[string]fill.Entry{"product": {Declared: declarations()["product"], TTL: time.Minute}},
	})
	read := func(used uint64, ids ...int) {
		t.Helper()
		h.loads = nil
		reading := &fill.Reading{}
		for _, a := range r.GetMany(fill.Observe(t.Context(), reading), "product", numbered(ids...), &fill.Demand{}) {
			if a.Err != nil || a.Value.Status != fill.Miss {
				t.Errorf("%+v", a)
			}
		}
		if n := r.Stats().Replicas["used"]; n != used || len(h.loads) != 1 || h.loads[0].Keys != len(ids) || h.loads[0].Bytes == 0 || len(reading.Loads()) != 1 {
			t.Errorf("%d from the standby, loads %+v, linked to %d", n, h.loads, len(reading.Loads()))
		}
	}
	read(3, 1, 2, 3)
	w.standby.Pause(t)
	w.change() // of product 1
	read(5, 1, 11, 12)
}
