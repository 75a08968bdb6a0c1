// Package promises_test has readers with tokens, sessions and bounds against writers, while the daemon is restarted and
// the store loses things, and holds every single read against what was promised.
package promises_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/freshet/freshet"
)

// lasts is how long the test goes on; SEED repeats the choices of a run, not its timing.
const lasts = 6 * time.Second

// event is a read through a session, or a token that it was told of.
type event struct {
	id, v    int64
	observed map[int64]int64 // of the token's transaction; nil for a read
}

// TestPromises runs everything at once. What is exact about it: a version says which of the transactions that wrote the row
// a value contains, so each promise is an inequality of versions.
func TestPromises(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SEED=%d", seed)
	random := func(n uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, n)) }
	w := newWorld(t)
	processes := []*freshet.Typed[int64, item]{w.reads(), w.reads()}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	group, working := errgroup.WithContext(ctx)
	for n := range uint64(2) {
		group.Go(func() error { return w.writes(working, random(n)) })
	}
	group.Go(func() error { return w.restarts(working, random(10)) })
	var done counts
	histories := make([][]event, 8)
	for n := range histories {
		r := &reader{w: w, random: random(uint64(100 + n)), items: processes[n%2], counts: &done}
		group.Go(func() error {
			defer func() { histories[n] = r.history }()
			return r.run(working)
		})
	}
	for began := time.Now(); working.Err() == nil && (time.Since(began) < lasts || done.few() && time.Since(began) < 10*lasts); {
		rest(working, 100*time.Millisecond) // on a busy machine it takes longer
	}
	failed := working.Err() != nil
	stop()
	if err := group.Wait(); err != nil && failed {
		t.Fatal(err)
	}
	for n, events := range histories {
		if err := w.monotonic(events); err != nil {
			t.Errorf("session %d: %v", n, err)
		}
	}
	t.Logf("%d commits; reads: %d by token, %d through sessions, %d bounded, %d revalidated", len(w.commits), done.token.Load(), done.session.Load(),
		done.bounded.Load(), done.revalidated.Load())
	if done.few() {
		t.Error("too few reads of a kind")
	}
}

type counts struct{ token, session, bounded, revalidated atomic.Int64 }

// few reports whether some kind of read shows little.
func (c *counts) few() bool {
	return min(c.token.Load(), c.session.Load(), c.bounded.Load(), c.revalidated.Load()) < 50
}

func (w *world) writes(ctx context.Context, r *rand.Rand) error {
	for ctx.Err() == nil {
		ids := []int64{1 + r.Int64N(keys)}
		if r.IntN(2) == 0 {
			ids = append(ids, 1+r.Int64N(keys))
		}
		slices.Sort(ids)
		if err := w.write(ctx, slices.Compact(ids), r.IntN(4) == 0, r.IntN(8) == 0); err != nil && ctx.Err() == nil {
			return fmt.Errorf("write: %w", err)
		}
		rest(ctx, time.Duration(r.IntN(30))*time.Millisecond)
	}
	return nil
}

// restarts runs one daemon after the other, with a pause between them now and then. Meanwhile it takes things from the
// store, or has the server stop sending its log for a while, as if it were slow.
func (w *world) restarts(ctx context.Context, r *rand.Rand) error {
	for ctx.Err() == nil {
		life, end := context.WithTimeout(ctx, time.Duration(1500+r.IntN(1000))*time.Millisecond)
		died := make(chan error, 1)
		go func() { died <- w.follow(life) }()
		rest(life, time.Duration(500+r.IntN(500))*time.Millisecond)
		var err error
		switch r.IntN(6) {
		case 0:
			err = w.lose(ctx, "tick")
		case 1:
			err = w.lose(ctx, "head") // a new generation
		default:
			err = w.stall(life, time.Duration(600+r.IntN(600))*time.Millisecond)
		}
		failed := <-died
		end()
		if err := errors.Join(err, failed); err != nil && ctx.Err() == nil {
			return fmt.Errorf("the daemon: %w", err)
		}
		rest(ctx, time.Duration(r.IntN(3))*400*time.Millisecond)
	}
	return nil
}

func rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// reader reads in every way, one read after the other.
type reader struct {
	w       *world
	random  *rand.Rand
	items   *freshet.Typed[int64, item]
	session freshet.Session
	history []event
	counts  *counts
}

func (r *reader) run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := r.read(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		rest(ctx, time.Duration(r.random.IntN(5))*time.Millisecond)
	}
	return nil
}

func (r *reader) read(ctx context.Context) error {
	id := 1 + r.random.Int64N(keys-bounded)
	var (
		options []freshet.ReadOption
		least   int64  // the version that the value must have
		asked   string // for messages
		through bool
	)
	choose := r.random.IntN(10)
	if choose == 2 {
		id = keys - r.random.Int64N(bounded)
	}
	if c, ok := r.w.recent(r.random.IntN(4)); ok && choose&1 != 0 {
		if _, wrote := c.wrote[id]; !wrote && r.random.IntN(4) > 0 {
			for other := range c.wrote {
				if other <= keys-bounded {
					id = other
				}
			}
		}
		least, asked = max(least, c.wrote[id]), asked+" token "+c.token.String()
		if r.random.IntN(3) == 0 {
			r.session.Observe(c.token)
			r.history = append(r.history, event{observed: c.wrote})
			through = true
		} else {
			options = append(options, freshet.After(c.token))
			r.counts.token.Add(1)
		}
	}
	if choose&2 != 0 {
		bound := []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, time.Second, 3 * time.Second}[r.random.IntN(4)]
		options, asked = append(options, freshet.MaxStale(bound)), asked+" bound "+bound.String()
		least = max(least, r.w.settledBefore(id, time.Now().Add(-bound)))
		r.counts.bounded.Add(1)
	}
	if through = through || choose&4 != 0; through {
		options, asked = append(options, freshet.Through(&r.session)), asked+" session"
		r.counts.session.Add(1)
	}
	if choose == 8 {
		options = append(options, freshet.Bypass())
	}
	if r.random.IntN(4) == 0 {
		options, asked = append(options, freshet.Revalidate()), asked+" revalidated"
		least = max(least, r.w.settledBefore(id, time.Now()))
		r.counts.revalidated.Add(1)
	}
	got, err := r.items.Get(ctx, id, options...)
	if err != nil {
		return fmt.Errorf("read %d,%s: %w", id, asked, err)
	}
	if got.ID != id || got.V < least {
		return fmt.Errorf("read %d,%s: got version %d of %d, and %d was promised", id, asked, got.V, got.ID, least)
	}
	if through {
		r.history = append(r.history, event{id: id, v: got.V})
	}
	return nil
}

// monotonic checks a session's reads: whoever has seen a transaction in one row sees it in every other row that it wrote.
func (w *world) monotonic(events []event) error {
	byRow := map[int64][]commit{}
	for _, c := range w.commits {
		for id := range c.wrote {
			byRow[id] = append(byRow[id], c)
		}
	}
	for id, commits := range byRow {
		slices.SortFunc(commits, func(a, b commit) int { return int(a.wrote[id] - b.wrote[id]) })
	}
	least := map[int64]int64{}
	contain := func(wrote map[int64]int64) {
		for id, v := range wrote {
			least[id] = max(least[id], v)
		}
	}
	for i, e := range events {
		if e.observed != nil {
			contain(e.observed)
			continue
		}
		if e.v < least[e.id] {
			return fmt.Errorf("event %d of %d: version %d of row %d after what contains its version %d", i, len(events), e.v, e.id, least[e.id])
		}
		least[e.id] = e.v
		seen := byRow[e.id]
		n := 0
		for n < len(seen) && seen[n].wrote[e.id] <= e.v {
			contain(seen[n].wrote)
			n++
		}
		byRow[e.id] = seen[n:]
	}
	return nil
}
