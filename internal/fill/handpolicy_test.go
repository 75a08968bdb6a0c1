package fill_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/pgload"
)

// handPoliced is a reader of the entries that code loads, under a policy.
func (w *withEpochs) handPoliced(p fill.Policy, ttl time.Duration) *fill.Reader {
	w.t.Helper()
	entries := map[string]fill.Entry{}
	for _, d := range handDeclarations() {
		entries[d.Name] = fill.Entry{Declared: d, TTL: ttl, NegativeTTL: ttl, Policy: p}
	}
	return w.readerOf(nil, nil, entries)
}

// fails is code that does not get its value.
func fails(context.Context, pgload.Querier) (payload []byte, found bool, err error) {
	return nil, false, errElsewhere
}

var errElsewhere = errors.New("the other service does not answer")

// TestStaleAndTagsByHand: what is kept once it is invalidated stays so only while its tags do: who ends a tag wants what it ties out of use, and
// then nothing stale is served, neither beside a load nor instead of an error.
func TestStaleAndTagsByHand(t *testing.T) {
	t.Parallel()
	w := newHand(t)
	r := w.handPoliced(fill.Policy{StaleFor: time.Minute, StaleOnError: time.Minute}, time.Minute)
	record, reprice := w.named("hand", "hand:1"), "UPDATE product SET price = price + 1 WHERE id = 1"
	failing := func() error {
		_, err := r.Get(t.Context(), "hand", arg("1"), fails)
		return err
	}
	w.hand(r, 1, priced(1, nil, "a"), fill.Miss, "10")

	// Marked: the code runs beside the read, and what it says now is what the value is tied to.
	w.update(record, reprice)
	w.hand(r, 1, priced(1, nil, "b"), fill.Stale, "10")
	eventually(t, func() error {
		if v, err := r.Get(t.Context(), "hand", arg("1"), fails); err != nil || v.Status != fill.Hit || string(v.Payload) != "11" {
			return fmt.Errorf("%v %s, %w", v.Status, v.Payload, err)
		}
		return nil
	})
	served := r.Stats().Stale["changed"]
	w.end(w.epoch("hand", tagged("a")))
	w.hand(r, 1, priced(1, nil), fill.Hit, "11")

	// Marked, and then a tag ends: the old value is nobody's.
	w.update(record, reprice)
	w.end(w.epoch("hand", tagged("b")))
	if err := failing(); !errors.Is(err, errElsewhere) {
		t.Errorf("with nothing to serve: %v", err)
	}
	w.hand(r, 1, priced(1, nil, "b"), fill.Miss, "12")

	// A tag ends, and then it is marked.
	w.end(w.epoch("hand", tagged("b")))
	w.update(record, reprice)
	if err := failing(); !errors.Is(err, errElsewhere) {
		t.Errorf("with nothing to serve: %v", err)
	}
	w.hand(r, 1, priced(1, nil, "b", "c"), fill.Miss, "13")

	// A tag ends, and nothing else: that keeps no value.
	w.end(w.epoch("hand", tagged("c")))
	if err := failing(); !errors.Is(err, errElsewhere) {
		t.Errorf("with nothing to serve: %v", err)
	}
	w.hand(r, 1, priced(1, nil), fill.Miss, "13")
	if s := r.Stats(); s.Stale["changed"] != served || s.Stale["load_failed"]+s.Stale["load_slow"] != 0 {
		t.Errorf("Stats = %+v", s)
	}
}

// versioned is code whose value and tags a test changes.
type versioned struct {
	value atomic.Int64
	tag   atomic.Pointer[string]
}

func (v *versioned) load(ctx context.Context, _ pgload.Querier) (payload []byte, found bool, err error) {
	if tag := v.tag.Load(); tag != nil {
		if err := fill.Tag(ctx, *tag); err != nil {
			return nil, false, err
		}
	}
	return []byte(strconv.FormatInt(v.value.Load(), 10)), true, nil
}

// reloaded reads until a value whose time is nearly over was loaded again beside the reads, all of which hit.
func reloaded(t *testing.T, r *fill.Reader, entry string, v *versioned, want string) {
	t.Helper()
	before := r.Stats()
	eventually(t, func() error {
		got, err := r.Get(t.Context(), entry, arg("1"), v.load)
		if err != nil || got.Status != fill.Hit {
			t.Fatalf("%v %s, %v", got.Status, got.Payload, err)
		}
		if s := r.Stats(); s.EagerStored == before.EagerStored || string(got.Payload) != want {
			return fmt.Errorf("%s, %d loaded again, %d stored", got.Payload, s.Eager-before.Eager, s.EagerStored-before.EagerStored)
		}
		return nil
	})
}

// eager has values loaded again from the first tenth of their time on.
func eager() (fill.Policy, time.Duration) { return fill.Policy{Eager: 0.9}, 10 * time.Second }

// TestEagerRefreshOfCoversNone: it is by such loads alone that a value of another service becomes newer before its time is over. It is
// no more proof than before.
func TestEagerRefreshOfCoversNone(t *testing.T) {
	t.Parallel()
	w := newHand(t)
	r := w.handPoliced(eager())
	v := &versioned{}
	v.value.Store(1)
	if got, err := r.Get(t.Context(), "away", arg("1"), v.load); err != nil || got.Status != fill.Miss {
		t.Fatalf("%+v, %v", got, err)
	}
	v.value.Store(2)
	reloaded(t, r, "away", v, "2")
	for _, d := range []*fill.Demand{{Session: &fill.Session{}}, {Bounded: true, MaxStale: time.Hour}} {
		want := strconv.FormatInt(v.value.Add(1), 10)
		if got, err := r.GetUnder(t.Context(), "away", arg("1"), v.load, d); err != nil || got.Status != fill.Miss || string(got.Payload) != want {
			t.Errorf("%+v: %v %s, %v, want %s", d, got.Status, got.Payload, err, want)
		}
	}
	if s := r.Stats(); s.Refused["not_newer"] > 0 {
		t.Errorf("Stats = %+v", s)
	}
}

// TestEagerRefreshOfTagsByHand: the tags are those of the last load, also where the value is the same and only renewed.
func TestEagerRefreshOfTagsByHand(t *testing.T) {
	t.Parallel()
	w := newHand(t)
	r := w.handPoliced(eager())
	v, a, b, c := &versioned{}, "a", "b", "c"
	v.value.Store(1)
	v.tag.Store(&a)
	w.hand(r, 1, v.load, fill.Miss, "1")
	for _, step := range []struct {
		tag   *string
		value int64
		ended string
	}{{&b, 1, a}, {&c, 2, b}} {
		before := r.Stats()
		v.value.Store(step.value)
		v.tag.Store(step.tag)
		reloaded(t, r, "hand", v, strconv.FormatInt(step.value, 10))
		if s := r.Stats(); (s.Renewals > before.Renewals) != (step.value == 1) {
			t.Errorf("tag %s: %d renewals", *step.tag, s.Renewals-before.Renewals)
		}
		if got := w.tiedTo("hand", "hand:1"); !slices.Equal(got, []string{"~t", tagged(*step.tag)}) {
			t.Errorf("it is tied to %q", got)
		}
		w.end(w.epoch("hand", tagged(step.ended)))
		w.hand(r, 1, v.load, fill.Hit, strconv.FormatInt(step.value, 10))
	}
	v.value.Store(3)
	w.end(w.epoch("hand", tagged("c")))
	w.hand(r, 1, v.load, fill.Miss, "3")
}

// TestRefreshOfTagsByHand: a daemon, which has no code, refreshes no such value (a file with on_change: refresh for one is refused); a writer that has
// the code does, over a live value and over one whose tag has ended, and the tags are those of that load.
func TestRefreshOfTagsByHand(t *testing.T) {
	t.Parallel()
	w := newHand(t)
	r := w.handReader(nil)
	if got := r.Reload(t.Context(), "hand", "hand:1"); got != fill.ReloadFailed {
		t.Errorf("a daemon's refresh = %v", got)
	}
	if _, text := w.record(w.named("hand", "hand:1")); text != nil {
		t.Errorf("it left %q", text)
	}
	w.hand(r, 1, priced(1, nil, "a"), fill.Miss, "10")
	refresh := func(tag, want string) {
		t.Helper()
		w.pg.Exec(t, w.url, "UPDATE product SET price = price + 1 WHERE id = 1")
		if err := r.Refresh(t.Context(), "hand", key(arg("1")), priced(1, nil, tag)); err != nil {
			t.Fatal(err)
		}
		w.hand(r, 1, fails, fill.Hit, want)
		if got := w.tiedTo("hand", "hand:1"); !slices.Equal(got, []string{"~t", tagged(tag)}) {
			t.Errorf("it is tied to %q", got)
		}
	}
	refresh("b", "11")
	w.end(w.epoch("hand", tagged("a")))
	w.hand(r, 1, fails, fill.Hit, "11")
	w.end(w.epoch("hand", tagged("b")))
	refresh("c", "12")
	w.end(w.epoch("hand", tagged("b")))
	w.hand(r, 1, fails, fill.Hit, "12")
	w.end(w.epoch("hand", tagged("c")))
	w.hand(r, 1, priced(1, nil), fill.Miss, "12")
}
