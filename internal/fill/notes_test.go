package fill_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/internal/testkit"
)

// notes are those that the store has of a key, as outcomes.
func (w *world) notes(name string) (all []store.Note, outcomes string) {
	w.t.Helper()
	kept, err := w.store.Notes(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	var came []string
	for _, n := range kept {
		if n.Name == name {
			all, came = append(all, n), append(came, n.Outcome)
		}
	}
	return all, strings.Join(came, " ")
}

// TestLoadsAreNoted: what came of a load under a lease is in the store soon, or when the Reader is closed.
func TestLoadsAreNoted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.reader(nil, nil)
	one, none := w.name("product", "1"), w.name("product", "7000")
	v := read(t, r, 1, fill.Miss, price(1, 10))
	read(t, r, 1, fill.Hit, price(1, 10))
	read(t, r, 7000, fill.Miss, "")
	testkit.Eventually(t, 10*time.Second, func() error {
		if _, outcomes := w.notes(one); outcomes != "stored" {
			return fmt.Errorf("of 1: %q", outcomes)
		}
		return nil
	})
	all, _ := w.notes(one)
	_, coverage := v.Stamp()
	if n := all[0]; n.Entry != "product" || n.Bytes != len(price(1, 10)) || n.Coverage != coverage.String() || n.Took <= 0 || n.Negative || n.Replica ||
		time.Since(n.At) > time.Minute || !strings.Contains(n.By, "process "+strconv.Itoa(os.Getpid())) {
		t.Errorf("%+v", n)
	}
	if all, outcomes := w.notes(none); outcomes != "stored" || !all[0].Negative {
		t.Errorf("of what is not there: %q %+v", outcomes, all)
	}
	w.change()
	if _, err := r.GetUnder(t.Context(), "product", arg("1"), nil, &fill.Demand{Revalidate: true}); err != nil {
		t.Fatal(err)
	}
	if many := r.GetMany(t.Context(), "product", [][]keytext.Arg{arg("2"), arg("3"), arg("8000")}, &fill.Demand{}); many[0].Err != nil {
		t.Fatal(many[0].Err)
	}
	r.Close()
	for name, want := range map[string]string{
		one: strings.Repeat(" stored", 2)[1:], w.name("product", "2"): "stored", w.name("product", "3"): "stored", w.name("product", "8000"): "stored",
	} {
		if _, outcomes := w.notes(name); outcomes != want {
			t.Errorf("once closed, of %s: %q, want %q", name, outcomes, want)
		}
	}
}

// TestRenewalIsNoted: a load that found what was cached is told from one that stored another value.
func TestRenewalIsNoted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.readerOf(nil, nil, map[string]fill.Entry{"product": {Declared: declarations()["product"], TTL: time.Minute}})
	read(t, r, 1, fill.Miss, price(1, 10))
	v, err := r.GetUnder(t.Context(), "product", arg("1"), nil, &fill.Demand{Revalidate: true})
	if err != nil || v.Status != fill.Revalidated {
		t.Fatalf("%+v, %v", v, err)
	}
	r.Close()
	if _, outcomes := w.notes(w.name("product", "1")); outcomes != "stored renewed" {
		t.Errorf("%q", outcomes)
	}
}

// afterLoad does something before the database's answer is used.
type afterLoad struct {
	fill.Loader
	then func()
	fail error
}

func (l *afterLoad) Load(ctx context.Context, sql string, result rule.Result, args []keytext.Arg) (pgload.Loaded, error) {
	loaded, err := l.Loader.Load(ctx, sql, result, args)
	if l.then != nil {
		l.then()
	}
	if l.fail != nil {
		return pgload.Loaded{}, l.fail
	}
	return loaded, err
}

// TestRefusalsAreNoted: why a load was not stored, and why one failed.
func TestRefusalsAreNoted(t *testing.T) {
	t.Parallel()
	for want, then := range map[string]func(w *world){
		"lease_lost": func(w *world) { w.raw.Do(w.t.Context(), w.raw.B().Del().Key(w.name("product", "1")).Build()) },
		"not_covering": func(w *world) {
			x := w.reprice()
			_, end := w.gate()
			if err := w.store.Early(w.t.Context(), store.Stamped{Name: w.name("product", "1"), Stamps: []fence.Stamp{{XID: x, End: end}}}); err != nil {
				w.t.Error(err)
			}
		},
	} {
		w := newWorld(t, options{})
		l := &afterLoad{Loader: w.loader}
		l.then = func() {
			l.then = nil
			then(w)
		}
		r := w.reader(nil, l)
		v, err := r.Get(t.Context(), "product", arg("1"), nil)
		if err != nil || v.Reason != want {
			t.Fatalf("%s: %+v, %v", want, v, err)
		}
		r.Close()
		if all, outcomes := w.notes(w.name("product", "1")); outcomes != want || all[0].Coverage == "" {
			t.Errorf("%q, want %q", outcomes, want)
		}
	}
	w := newWorld(t, options{})
	r := w.reader(nil, &afterLoad{Loader: w.loader, fail: errors.New("broken " + strings.Repeat("x", 1000))})
	if _, err := r.Get(t.Context(), "product", arg("1"), nil); err == nil {
		t.Fatal("the load did not fail")
	}
	r.Close()
	all, outcomes := w.notes(w.name("product", "1"))
	if outcomes != store.NoteFailed || all[0].Error != "it could not be loaded; the log of who tried says why" { // the text may have a secret
		t.Errorf("%q %+v", outcomes, all)
	}
	w = newWorld(t, options{})
	r = w.reader(nil, nil)
	w.pg.Exec(t, w.url, "ALTER TABLE product RENAME COLUMN price TO cost")
	if _, err := r.Get(t.Context(), "product", arg("1"), nil); err == nil {
		t.Fatal("the load did not fail")
	}
	r.Close()
	if all, _ := w.notes(w.name("product", "1")); len(all) != 1 || all[0].Error != "the database refuses it: SQLSTATE 42703" {
		t.Errorf("%+v", all)
	}
}

// TestNotesAreFew: of many loads some are noted, and how many are not is said. All are accounted for.
func TestNotesAreFew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.pg.Exec(t, w.url, `INSERT INTO product SELECT i, 10 * i FROM generate_series(101, 2000) i`)
	r := w.reader(nil, nil)
	const loads = 2000
	began := time.Now()
	keys := make([][]keytext.Arg, loads)
	for i := range keys {
		keys[i] = arg(strconv.Itoa(i + 1))
	}
	for _, a := range r.GetMany(t.Context(), "product", keys, &fill.Demand{}) {
		if a.Err != nil {
			t.Fatal(a.Err)
		}
	}
	r.Close()
	// A busy machine takes more than a second for them, after which some more are noted, and others left out.
	single, left := w.accounted()
	if single < 64 || single > seconds(began)*64 || single+left != loads {
		t.Errorf("%d notes of single loads, and %d loads left out, of %d", single, left, loads)
	}
}

// unnoted is a store that does not take notes.
type unnoted struct {
	fill.Store
	err   error
	hangs bool
	calls atomic.Int64
}

func (s *unnoted) Note(ctx context.Context, _ []store.Note) error {
	s.calls.Add(1)
	if s.hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.err
}

// TestNotesHoldNobodyUp: reads go on as before where notes are refused, and where the store hangs with them.
func TestNotesHoldNobodyUp(t *testing.T) {
	t.Parallel()
	for name, kept := range map[string]*unnoted{"hangs": {hangs: true}, "fails": {err: errors.New("full")}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{})
			kept.Store, w.patience = w.store, hurried // for which a store that hangs has notes wait
			r := w.reader(kept, nil)
			slowest, began := time.Duration(0), time.Now()
			for i := 0; time.Since(began) < hurried+time.Second; i = (i + 1) % 100 {
				at := time.Now()
				if _, err := r.Get(t.Context(), "product", arg(strconv.Itoa(i+1)), nil); err != nil {
					t.Fatal(err)
				}
				slowest = max(slowest, time.Since(at))
				w.confirm(w.name("product", strconv.Itoa(i+1)))
			}
			if n := kept.calls.Load(); n < 1 || n > int64(seconds(began)) {
				t.Errorf("notes were sent %d times in %v", n, time.Since(began))
			}
			if slowest > hurried-time.Second {
				t.Errorf("a read took %s", slowest)
			}
			at := time.Now()
			r.Close()
			if took := time.Since(at); took > 2*hurried {
				t.Errorf("Close took %s", took)
			}
		})
	}
}

// TestNotesAreMuted: a store that does not allow them is not asked every second.
func TestNotesAreMuted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	kept := &unnoted{Store: w.store, err: fmt.Errorf("%w: NOPERM", store.ErrNoPermission)}
	now := atomic.Int64{}
	w.clock = func() time.Duration { return time.Duration(now.Load()) }
	began := time.Now()
	now.Store(int64(time.Hour))
	r := w.reader(kept, nil)
	load := func() {
		t.Helper()
		now.Store(int64(time.Hour + time.Since(began)))
		if _, err := r.Get(t.Context(), "product", arg("1"), nil); err != nil {
			t.Fatal(err)
		}
		w.confirm(w.name("product", "1"))
	}
	load()
	testkit.Eventually(t, 10*time.Second, func() error {
		if kept.calls.Load() != 1 {
			return errors.New("notes were not sent")
		}
		return nil
	})
	for deadline := time.Now().Add(1500 * time.Millisecond); time.Now().Before(deadline); {
		load()
	}
	if n := kept.calls.Load(); n != 1 {
		t.Errorf("refused once, and sent %d times", n)
	}
	began = began.Add(-2 * time.Minute) // by the Reader's clock
	load()
	testkit.Eventually(t, 10*time.Second, func() error {
		if n := kept.calls.Load(); n != 2 {
			return fmt.Errorf("two minutes later notes were sent %d times", n)
		}
		return nil
	})
}

// seconds is how many have begun at most: notes are sent after one each.
func seconds(began time.Time) int { return int(time.Since(began)/time.Second) + 1 }

// accounted are the notes of single loads, and the loads that other notes stand for.
func (w *world) accounted() (single, left int) {
	w.t.Helper()
	kept, err := w.store.Notes(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, n := range kept {
		if n.Outcome == store.NoteLeftOut {
			left += n.Count
		} else {
			single++
		}
	}
	return single, left
}

// TestFailedLoadsAreNotedInBounds: failed loads are what people look for, but a database that is down fails all of them.
func TestFailedLoadsAreNotedInBounds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.reader(nil, &afterLoad{Loader: w.loader, fail: errors.New("broken")})
	const loads = 500
	began := time.Now()
	for i := range loads {
		if _, err := r.Get(t.Context(), "product", arg(strconv.Itoa(i+1)), nil); err == nil {
			t.Fatal("the load did not fail")
		}
	}
	r.Close()
	if single, left := w.accounted(); single < 128 || single > 128*seconds(began) || single+left != loads {
		t.Errorf("%d notes of single loads, and %d loads left out, of %d", single, left, loads)
	}
}

// failsOnce is a store that does not take the first notes.
type failsOnce struct {
	fill.Store
	failed atomic.Bool
}

func (s *failsOnce) Note(ctx context.Context, notes []store.Note) error {
	if s.failed.CompareAndSwap(false, true) {
		return errors.New("full")
	}
	return s.Store.Note(ctx, notes)
}

// TestNotesThatWereNotTakenAreCounted: loads whose notes the store did not take are among those that were left out, once each.
func TestNotesThatWereNotTakenAreCounted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	kept := &failsOnce{Store: w.store}
	r := w.reader(kept, nil)
	const before = 80 // more than are noted in a second, so that some were left out already
	for i := range before {
		read(t, r, i+1, fill.Miss, price(i+1, 10*(i+1)))
	}
	testkit.Eventually(t, 10*time.Second, func() error {
		if !kept.failed.Load() {
			return errors.New("notes were not sent")
		}
		return nil
	})
	pause(t, 100*time.Millisecond) // until they are counted
	read(t, r, before+1, fill.Miss, price(before+1, 10*(before+1)))
	r.Close()
	if single, left := w.accounted(); single < 1 || single+left != before+1 {
		t.Errorf("%d notes of single loads, and %d loads left out, of %d", single, left, before+1)
	}
}
