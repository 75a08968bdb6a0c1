package fill_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fill"
)

// hands is a clock that a test moves.
type hands struct{ at atomic.Int64 }

func (h *hands) now() time.Duration   { return time.Hour + time.Duration(h.at.Load()) }
func (h *hands) pass(d time.Duration) { h.at.Add(int64(d)) }

func within(d time.Duration) *fill.Demand { return &fill.Demand{Bounded: true, MaxStale: d} }

// ticked waits until the reader's count has been answered: the store's is n.
func (w *world) ticked(n uint64) {
	w.t.Helper()
	eventually(w.t, func() error {
		ticks, err := w.daemon.Ticks(w.t.Context())
		if err != nil || ticks[0].N != n {
			return fmt.Errorf("the store counted %d, %w", ticks[0].N, err)
		}
		return nil
	})
	pause(w.t, 20*time.Millisecond) // for the answer's way to the reader
}

// bounded is a world whose readers have a clock of the test's, with product 1 cached and the count answered by HEAD.
func bounded(t *testing.T) (*world, *hands, *fill.Reader) {
	t.Helper()
	w, clock := newWorld(t, options{}), &hands{}
	w.clock = clock.now
	r := w.reader(nil, nil)
	read(t, r, 1, fill.Miss, price(1, 10))
	under(t, r, 1, within(time.Second), fill.Miss, price(1, 10)) // nothing was asked for yet, so nothing is proved
	w.ticked(1)
	w.confirm()
	return w, clock, r
}

// TestBoundIsProvedByTicks follows one count: it proves what is younger than the asking, and nothing else.
func TestBoundIsProvedByTicks(t *testing.T) {
	t.Parallel()
	w, clock, r := bounded(t)
	under(t, r, 1, within(0), fill.Hit, price(1, 10)) // asked for at this very time, by the test's clock
	clock.pass(200 * time.Millisecond)
	under(t, r, 1, within(200*time.Millisecond), fill.Hit, price(1, 10))
	w.reprice()
	under(t, r, 1, within(200*time.Millisecond), fill.Hit, price(1, 10)) // as it was allowed to
	clock.pass(time.Millisecond)
	under(t, r, 1, within(200*time.Millisecond), fill.Miss, price(1, 11))
	// A plain read is served, and so is one that tolerates as much.
	read(t, r, 1, fill.Hit, price(1, 11))
	under(t, r, 1, within(time.Second), fill.Hit, price(1, 11))
	// The daemon goes on.
	clock.pass(time.Minute)
	under(t, r, 1, within(time.Second), fill.Miss, price(1, 11))
	w.ticked(2)
	under(t, r, 1, within(time.Second), fill.Miss, price(1, 11))
	w.confirm(w.name("product", "1"))
	under(t, r, 1, within(time.Second), fill.Miss, price(1, 11))
	under(t, r, 1, within(time.Second), fill.Hit, price(1, 11))
	if s := r.Stats(); s.Unproven < 3 {
		t.Errorf("Stats = %+v", s)
	}
}

// TestBoundedWaiter is R6 under a bound: a flight is joined only if it began within it.
func TestBoundedWaiter(t *testing.T) {
	t.Parallel()
	w, clock := newWorld(t, options{}), &hands{}
	w.clock = clock.now
	r, _, v, old := w.heldAfter()
	clock.pass(time.Minute)
	w.reprice() // nobody confirms it: the flight's lease stands
	strict, lax := backgroundUnder(t.Context(), r, "1", within(time.Second)), backgroundUnder(t.Context(), r, "1", within(time.Hour))
	eventually(t, waiting(r, 2))
	close(v.open)
	for done, want := range map[<-chan answer]string{old: price(1, 10), strict: price(1, 11), lax: price(1, 10)} {
		if a := <-done; a.err != nil || string(a.value.Payload) != want {
			t.Errorf("got %s, %v, want %s", a.value.Payload, a.err, want)
		}
	}
}

// TestStalledDaemonProvesNothing, but for what it proved before.
func TestStalledDaemonProvesNothing(t *testing.T) {
	t.Parallel()
	w, clock, r := bounded(t)
	for range 100 { // counts pile up that HEAD does not reach
		clock.pass(300 * time.Millisecond)
		under(t, r, 1, within(time.Second/10), fill.Miss, price(1, 10))
		pause(t, time.Millisecond)
	}
	under(t, r, 1, within(time.Hour), fill.Hit, price(1, 10)) // the one that it reached is remembered
	under(t, r, 1, within(20*time.Second), fill.Miss, price(1, 10))
	w.reprice()
	w.confirm(w.name("product", "1"))
	under(t, r, 1, within(time.Second), fill.Miss, price(1, 11))
	under(t, r, 1, within(time.Second), fill.Hit, price(1, 11))
}

// TestClockThatJumps: by an hour, for a machine that slept. Whatever it does, it costs loads only.
func TestClockThatJumps(t *testing.T) {
	t.Parallel()
	w, clock, r := bounded(t)
	under(t, r, 1, within(time.Minute), fill.Hit, price(1, 10))
	clock.pass(time.Hour)
	w.reprice()
	under(t, r, 1, within(time.Minute), fill.Miss, price(1, 11))
	w.ticked(2)
	w.confirm(w.name("product", "1"))
	under(t, r, 1, within(time.Minute), fill.Miss, price(1, 11))
	under(t, r, 1, within(time.Minute), fill.Hit, price(1, 11))
}

// TestHeadsThatComeLate: a reader that holds an older HEAD than others do still has its proof.
func TestHeadsThatComeLate(t *testing.T) {
	t.Parallel()
	w, clock := newWorld(t, options{}), &hands{}
	w.clock = clock.now
	v := newValve()
	store := &hooks{Store: w.store}
	r := w.reader(store, nil)
	read(t, r, 1, fill.Miss, price(1, 10))
	under(t, r, 1, within(time.Second), fill.Miss, price(1, 10))
	w.ticked(1)
	w.confirm()
	store.afterHead = func(string) { v.pass(t.Context()) }
	late := backgroundUnder(t.Context(), r, "1", within(time.Second))
	<-v.reached
	clock.pass(300 * time.Millisecond)
	under(t, r, 1, within(time.Second), fill.Hit, price(1, 10)) // asks again
	w.ticked(2)
	w.confirm()
	under(t, r, 1, within(time.Second), fill.Hit, price(1, 10))
	close(v.open)
	if a := <-late; a.err != nil || a.value.Status != fill.Hit {
		t.Errorf("with the HEAD of before: %v, %v", a.value.Status, a.err)
	}
}

// TestTicksOfAnotherHistory: a count that begins anew, for whatever reason, never answers what was asked of the one before.
func TestTicksOfAnotherHistory(t *testing.T) {
	t.Parallel()
	key := func(w *world) string { return "f:" + w.namespace + ":tick" }
	for name, lose := range map[string]func(w *world){
		"evicted": func(w *world) {
			if err := w.raw.Do(w.t.Context(), w.raw.B().Del().Key(key(w)).Build()).Error(); err != nil {
				w.t.Fatal(err)
			}
		},
		"another daemon": func(w *world) {
			if err := w.daemon.DrawTick(w.t.Context()); err != nil {
				w.t.Fatal(err)
			}
		},
		"somebody's text": func(w *world) {
			if err := w.raw.Do(w.t.Context(), w.raw.B().Set().Key(key(w)).Value("17").Build()).Error(); err != nil {
				w.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, clock, r := bounded(t)
			// HEAD has reached a high count of the old history.
			for range 20 {
				if _, err := w.store.Tick(t.Context(), 0); err != nil {
					t.Fatal(err)
				}
			}
			w.confirm()
			clock.pass(time.Hour)
			lose(w)
			w.reprice()
			under(t, r, 1, within(time.Minute), fill.Miss, price(1, 11)) // asks for the first count of the new one
			pause(t, 50*time.Millisecond)
			w.write(1, 12)
			under(t, r, 1, within(time.Minute), fill.Miss, price(1, 12))
			w.confirm(w.name("product", "1"))
			under(t, r, 1, within(time.Minute), fill.Miss, price(1, 12))
			under(t, r, 1, within(time.Minute), fill.Hit, price(1, 12))
		})
	}
}

// TestTicksAreNotCarriedOver into a new generation.
func TestTicksAreNotCarriedOver(t *testing.T) {
	t.Parallel()
	w, _, r := bounded(t)
	under(t, r, 1, within(time.Hour), fill.Hit, price(1, 10))
	w.begin()
	under(t, r, 1, within(time.Hour), fill.Miss, price(1, 10))
	w.reprice()
	under(t, r, 1, within(time.Hour), fill.Miss, price(1, 11))
}

// TestBoundWithoutCache reads the database when there is no roster or no store.
func TestBoundWithoutCache(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{noDaemon: true})
	under(t, w.reader(nil, nil), 1, within(time.Hour), fill.Bypass, price(1, 10))
	if _, err := w.reader(nil, nil).GetUnder(t.Context(), "nothing", nil, nil, within(0)); !errors.Is(err, fill.ErrUnknownEntry) {
		t.Errorf("unknown entry: %v", err)
	}
}
