package fill_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/mvcc"
)

// comparisons is the real database; it counts the comparisons of single keys as well.
type comparisons struct {
	*statements

	changed atomic.Int64
}

func (a *comparisons) LoadChanged(ctx context.Context, q pgload.Query, args []keytext.Arg, known pgload.Known) (pgload.Loaded, error) {
	a.changed.Add(1)
	return a.statements.LoadChanged(ctx, q, args, known)
}

// sent is how many statements for many keys, loads of one, and comparisons of one there were.
func (a *comparisons) counts() [3]int64 {
	return [3]int64{a.sent.Load(), a.single.Load(), a.changed.Load()}
}

// conditional is a reader that compares what it has cached and cannot prove.
func (w *world) conditional() (*fill.Reader, *comparisons) {
	w.t.Helper()
	loader := &comparisons{statements: &statements{Loader: w.loader}}
	entries := policed(fill.Policy{})
	for name, e := range entries {
		e.LoadUnproved = false
		entries[name] = e
	}
	return w.readerOf(nil, loader, entries), loader
}

// TestManyUnprovedAreOneStatement: what is cached and cannot be shown to meet a demand is loaded by one statement, with what is missing. What
// has not changed is revalidated, and proves from then on what the statement saw; a changed row, one that came and one that went are misses.
func TestManyUnprovedAreOneStatement(t *testing.T) {
	t.Parallel()
	const cached, missing = 60, 3
	for _, x := range []struct {
		name   string
		demand func(token mvcc.Token) *fill.Demand
	}{
		{"Revalidate", func(mvcc.Token) *fill.Demand { return revalidated() }},
		{"MaxStale", func(mvcc.Token) *fill.Demand { return &fill.Demand{Bounded: true, MaxStale: time.Nanosecond} }},
		{"After", func(token mvcc.Token) *fill.Demand { return &fill.Demand{After: []mvcc.Token{token}} }},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{})
			w.batches()
			w.pg.Exec(t, w.url, "DELETE FROM product WHERE id IN (8, 9)")
			r, loader := w.conditional()
			for i, a := range r.GetMany(t.Context(), "product", numbered(upTo(cached)...), &fill.Demand{}) {
				if gone := i+1 == 8 || i+1 == 9; a.Err != nil || a.Value.Found == gone {
					t.Fatalf("product %d: %+v", i+1, a)
				}
			}
			w.pg.Exec(t, w.url, "INSERT INTO product VALUES (9, 91)", "DELETE FROM product WHERE id = 7")
			token := mvcc.Token{System: w.head.System, Timeline: 1, XID: w.reprice()} // none of it has been delivered yet
			before, was := loader.counts(), r.Stats()
			answers := r.GetMany(t.Context(), "product", numbered(upTo(cached+missing)...), x.demand(token))
			if sent := loader.counts(); sent != [3]int64{before[0] + 1, before[1], before[2]} {
				t.Errorf("statements for many keys, loads and comparisons of one: %v, and before %v", sent, before)
			}
			for i, a := range answers {
				id := i + 1
				want, text := fill.Revalidated, price(id, 10*id)
				switch {
				case id == 1:
					want, text = fill.Miss, price(1, 11)
				case id == 7:
					want, text = fill.Miss, ""
				case id == 8:
					text = ""
				case id == 9:
					want, text = fill.Miss, price(9, 91)
				case id > cached:
					want = fill.Miss
				}
				if a.Err != nil || a.Value.Status != want || string(a.Value.Payload) != text || a.Value.Reason != "" || a.Value.Found != (text != "") {
					t.Errorf("product %d: %v %s (%s), %v, want %v %s", id, a.Value.Status, a.Value.Payload, a.Value.Reason, a.Err, want, text)
				}
				record, _ := w.record(w.name("product", numbered(id)[0][0].Text))
				if string(record.Payload) != text || !record.State.Live() || !record.Coverage.Snapshot.Sees(token.XID) || !record.Lease.IsZero() {
					t.Errorf("product %d is stored as %+v", id, record)
				}
			}
			s := r.Stats()
			if s.Revalidations-was.Revalidations != cached || s.Unchanged-was.Unchanged != cached-3 || s.Fills-was.Fills != cached+missing ||
				s.Loads-was.Loads != 1 || s.Misses-was.Misses != cached+missing {
				t.Errorf("%+v", s)
			}
			readMany(t, r, &fill.Demand{After: []mvcc.Token{token}}, []int{1, 2, 3}, map[int]int{1: 11})
			if s := r.Stats(); s.Loads-was.Loads != 1 {
				t.Errorf("what was found to be right does not prove it: %d statements", s.Loads-was.Loads)
			}
		})
	}
}

// TestManyComparedWithoutAForm: an entry whose query cannot be run for many keys has its comparisons made one by one, which send only what has
// changed; so has one that code loads.
func TestManyComparedWithoutAForm(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r, loader := w.conditional()
	readMany(t, r, nil, upTo(50), nil)
	w.reprice()
	before := loader.counts()
	statuses := readMany(t, r, revalidated(), upTo(53), map[int]int{1: 11})
	if want := map[string]int{"miss": 4, "revalidated": 49}; !cmp.Equal(statuses, want) {
		t.Errorf("%v, want %v", statuses, want)
	}
	if sent := loader.counts(); sent != [3]int64{before[0] + 3, before[1], before[2] + 50} {
		t.Errorf("statements for many keys, loads and comparisons of one: %v, and before %v", sent, before)
	}
	if s := r.Stats(); s.Renewals != 49 || s.Unchanged != 49 || s.Misses != 50+53 {
		t.Errorf("%+v", s)
	}
}

// TestManyComparedAgainstChanges: a value that is found unchanged is not stored once a change has been confirmed that the comparison did not
// see, and a value that was invalidated before it is not kept.
func TestManyComparedAgainstChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.batches()
	store := &steps{Store: w.store}
	entries := policed(fill.Policy{})
	for name, e := range entries {
		e.LoadUnproved = false
		entries[name] = e
	}
	r := w.readerOf(store, nil, entries)
	readMany(t, r, nil, upTo(3), nil)
	store.beforeFill = sync.OnceFunc(w.change) // of product 1, after it was compared
	answers := r.GetMany(t.Context(), "product", numbered(1, 2, 3), revalidated())
	for i, want := range []string{"lease_lost", "", ""} {
		if a := answers[i]; a.Err != nil || a.Value.Reason != want || a.Value.Status != fill.Revalidated {
			t.Errorf("product %d: %+v", i+1, a)
		}
	}
	if record, _ := w.record(w.name("product", "1")); record.State.Live() {
		t.Errorf("the change is not in %+v", record)
	}
	readMany(t, r, nil, upTo(3), map[int]int{1: 11})
	store.beforeLease = sync.OnceFunc(func() { w.update(w.name("product", "2"), "UPDATE product SET price = 22 WHERE id = 2") })
	statuses := readMany(t, r, revalidated(), upTo(3), map[int]int{1: 11, 2: 22})
	if want := map[string]int{"miss": 1, "revalidated": 2}; !cmp.Equal(statuses, want) {
		t.Errorf("%v, want %v", statuses, want)
	}
	if record, _ := w.record(w.name("product", "2")); string(record.Payload) != price(2, 22) || record.State != fence.Live {
		t.Errorf("%+v", record)
	}
}

// TestManyUnderDemandsAtATime: a read that may not have what another one is loading, which began before it came, loads the keys together as well.
func TestManyUnderDemandsAtATime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.batches()
	r, loader := w.conditional()
	readMany(t, r, nil, upTo(60), nil)
	entered, open := make(chan struct{}), make(chan struct{})
	loader.before = func([][]keytext.Arg) {
		loader.before = nil
		close(entered)
		<-open
	}
	first := make(chan map[string]int, 1)
	go func() { first <- readMany(t, r, revalidated(), upTo(60), map[int]int{1: 11}) }()
	select {
	case <-entered:
	case got := <-first:
		t.Fatalf("no statement for many keys: %v", got)
	}
	before := loader.counts()
	if got := readMany(t, r, revalidated(), upTo(60), nil); got["revalidated"] != 60 {
		t.Errorf("beside another: %v", got)
	}
	if sent := loader.counts(); sent != [3]int64{before[0] + 1, before[1], before[2]} {
		t.Errorf("statements for many keys, loads and comparisons of one: %v, and before %v", sent, before)
	}
	w.reprice()
	close(open)
	if got := <-first; got["revalidated"] != 59 || got["miss"] != 1 {
		t.Errorf("of a row that changed before it was loaded: %v", got)
	}
	// Of another process nothing shows when it is there.
	for _, id := range []string{"4", "5", "6"} {
		w.lease(other, id)
	}
	before = loader.counts()
	if got := readMany(t, r, revalidated(), []int{4, 5, 6, 7}, nil); got["revalidated"] != 4 {
		t.Errorf("beside another process: %v", got)
	}
	if sent := loader.counts(); sent != [3]int64{before[0] + 2, before[1], before[2]} {
		t.Errorf("statements for many keys, loads and comparisons of one: %v, and before %v", sent, before)
	}
}

// TestManyBeginAnew: keys that have to be read from the beginning are read together again: when the transaction that they have to contain is not
// visible yet, and when names have moved under them.
func TestManyBeginAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.batches()
	r, loader := w.conditional()
	readMany(t, r, nil, upTo(60), nil)
	tx, err := w.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var text string
	if err := tx.QueryRow(t.Context(), "UPDATE product SET price = 11 WHERE id = 1 RETURNING pg_current_xact_id()::text").Scan(&text); err != nil {
		t.Fatal(err)
	}
	x, err := mvcc.ParseXID(text)
	if err != nil {
		t.Fatal(err)
	}
	under := &fill.Demand{After: []mvcc.Token{{System: w.head.System, Timeline: 1, XID: x}}}
	before := loader.counts()
	done := make(chan map[string]int, 1)
	go func() { done <- readMany(t, r, under, upTo(63), map[int]int{1: 11}) }()
	eventually(t, func() error {
		if loader.sent.Load() == before[0] {
			return errors.New("the database has not answered yet")
		}
		return nil
	})
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := <-done
	if want := map[string]int{"miss": 1, "revalidated": 62}; !cmp.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if sent := loader.counts(); sent != [3]int64{before[0] + 2, before[1], before[2]} {
		t.Errorf("statements for many keys, loads and comparisons of one: %v, and before %v", sent, before)
	}
	// One that is never visible is not waited for longer than the load timeout, and costs no statement for each key.
	before = loader.counts()
	under.After[0].XID += 1000
	for i, a := range r.GetMany(t.Context(), "product", numbered(upTo(60)...), under) {
		if !errors.Is(a.Err, fill.ErrTokenNotReached) {
			t.Errorf("product %d: %+v", i+1, a)
		}
	}
	if sent := loader.counts(); sent != [3]int64{before[0] + 1, before[1], before[2]} {
		t.Errorf("statements for many keys, loads and comparisons of one: %v, and before %v", sent, before)
	}
	roster := w.newRoster(w.roster.Revision + 1)
	for _, e := range roster.Entries {
		inBatch(e)
	}
	under.After[0].XID = x
	readMany(t, r, under, []int{1, 2}, map[int]int{1: 11})
	before = loader.counts()
	w.move(roster)
	if got := readMany(t, r, under, upTo(60), map[int]int{1: 11}); got["miss"] != 60 {
		t.Errorf("under new names: %v", got)
	}
	if sent := loader.counts(); sent != [3]int64{before[0] + 1, before[1], before[2]} {
		t.Errorf("statements for many keys, loads and comparisons of one: %v, and before %v", sent, before)
	}
}
