package fill_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/mvcc"
)

// TestManyInOneOfEach: one round trip to the store for what is there, one for the leases of what is missing, one statement, and one
// round trip for what is stored; in the order of the keys, those that are the same once, "no such row" like any other.
func TestManyInOneOfEach(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.batches()
	store, loader := &steps{Store: w.store}, &statements{Loader: w.loader}
	r := w.reader(store, loader)
	readMany(t, r, nil, []int{3, 7}, nil)
	if got, want := store.counts(), [5]int64{1, 1, 0, 1, 0}; got != want || loader.sent.Load() != 1 {
		t.Fatalf("reads, leases, pins, fills, singles: %v, want %v; %d statements", got, want, loader.sent.Load())
	}
	ids := slices.Concat([]int{100, 101, 7, 101}, upTo(99), []int{100})
	statuses := readMany(t, r, nil, ids, nil)
	if want := map[string]int{"hit": 3, "miss": len(ids) - 3}; !cmp.Equal(statuses, want) {
		t.Errorf("statuses %v, want %v", statuses, want)
	}
	if got, want := store.counts(), [5]int64{2, 2, 0, 2, 0}; got != want || loader.sent.Load() != 2 {
		t.Errorf("reads, leases, pins, fills, singles: %v, want %v; %d statements", got, want, loader.sent.Load())
	}
	if statuses := readMany(t, r, nil, ids, nil); statuses["hit"] != len(ids) {
		t.Errorf("statuses %v", statuses)
	}
	if record, _ := w.record(w.name("product", "101")); record.State != fence.Negative {
		t.Errorf("%+v", record)
	}
	if s := r.Stats(); s.Loads != 2 || s.Fills != 101 || s.Misses != 101 || loader.single.Load() != 0 {
		t.Errorf("%+v", s)
	}
	if got := r.GetMany(t.Context(), "product", nil, &fill.Demand{}); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

// TestManyAreStoredAsSinglesAre: the records differ in nothing but what time makes different.
func TestManyAreStoredAsSinglesAre(t *testing.T) {
	t.Parallel()
	w := newTied(t, options{})
	w.batches()
	r := w.tiedReader(nil, nil)
	for entry, keys := range map[string][][]keytext.Arg{
		"below": numbered(0, 15, 35, 1000),
		"above": {{{Text: "1"}, {Text: "6"}}, {{Text: "1"}, {Text: "7"}}, {{Text: "2"}, {Text: "0"}}, {{Text: "9"}, {Text: "0"}}},
		"teams": numbered(1, 2, 3, 4),
	} {
		together := r.GetMany(t.Context(), entry, keys, &fill.Demand{})
		for i, key := range keys {
			name := together[i].Value.Name
			got, _ := w.record(name)
			if err := w.raw.Do(t.Context(), w.raw.B().Del().Key(name).Build()).Error(); err != nil {
				t.Fatal(err)
			}
			v, err := r.Get(t.Context(), entry, key, nil)
			if err != nil || together[i].Err != nil {
				t.Fatal(err, together[i].Err)
			}
			want, _ := w.record(name)
			if v.Status != fill.Miss || v.Name != name || !bytes.Equal(v.Payload, together[i].Value.Payload) {
				t.Errorf("%s %v: %+v, and alone %+v", entry, key, together[i].Value, v)
			}
			for _, record := range []*fence.Record{&got, &want} {
				if record.Coverage.Snapshot.IsZero() || record.Filled == 0 {
					t.Errorf("%s %v: %+v", entry, key, record)
				}
				record.Coverage, record.Filled = fence.Coverage{}, 0
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s %v (-alone +together):\n%s", entry, key, diff)
			}
		}
	}
	if s := r.Stats(); s.Loads != 3+12 || s.Fills != 24 {
		t.Errorf("%+v", s)
	}
}

// TestManyAgainstChanges: what a batch has loaded is stored key by key, only where nothing came between: a change that is confirmed
// after the lease takes the lease, and one before the fill that the load lacks is refused by the floor.
func TestManyAgainstChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.batches()
	store, loader := &steps{Store: w.store}, &statements{Loader: w.loader}
	r := w.reader(store, loader)
	store.beforeFill = sync.OnceFunc(w.change) // of product 1, after it was loaded
	answers := r.GetMany(t.Context(), "product", numbered(1, 2, 3), &fill.Demand{})
	for i, want := range []string{"lease_lost", "", ""} {
		if a := answers[i]; a.Err != nil || a.Value.Reason != want || a.Value.Status != fill.Miss {
			t.Errorf("product %d: %+v", i+1, a)
		}
	}
	readMany(t, r, nil, []int{1, 2, 3}, map[int]int{1: 11})
	if record, _ := w.record(w.name("product", "1")); string(record.Payload) != price(1, 11) {
		t.Errorf("%+v", record)
	}
	// Between the GET and the LEASE another process fills one of them, and names move for good after that.
	store.beforeLease = sync.OnceFunc(func() {
		w.lease(other, "5")
		w.fill(other, "5")
	})
	if statuses := readMany(t, r, nil, []int{4, 5}, nil); statuses["hit"] != 1 || statuses["miss"] != 1 {
		t.Errorf("%v", statuses)
	}
	store.beforeLease = sync.OnceFunc(func() { w.move(w.newRoster(w.roster.Revision + 1)) })
	for _, a := range r.GetMany(t.Context(), "product", numbered(6, 7), &fill.Demand{}) {
		if a.Err != nil || a.Value.Reason != "names_moved" {
			t.Errorf("%+v", a)
		}
	}
	if statuses := readMany(t, r, nil, []int{6, 7}, nil); statuses["miss"] != 2 {
		t.Errorf("a value was left under old names, or found there: %v", statuses)
	}
}

// TestManyWait: keys that others are loading, in this process and in another, are waited for while the rest is loaded.
func TestManyWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.batches()
	r, _, v, first := w.heldBefore() // of product 1, in this process
	w.lease(other, "2")              // in another
	loaded := make(chan []fill.Answer, 1)
	go func() { loaded <- r.GetMany(t.Context(), "product", numbered(1, 2, 3, 4), &fill.Demand{}) }()
	for _, id := range []string{"3", "4"} {
		eventually(t, func() error {
			if record, _ := w.record(w.name("product", id)); record.State != fence.Live {
				return errors.New("what nobody holds is not loaded")
			}
			return nil
		})
	}
	eventually(t, waiting(r, 2))
	w.fill(other, "2")
	close(v.open)
	if a := <-first; a.err != nil {
		t.Error(a.err)
	}
	for i, a := range <-loaded {
		if a.Err != nil || string(a.Value.Payload) != price(i+1, 10*(i+1)) {
			t.Errorf("product %d: %+v", i+1, a)
		}
	}
	if s := r.Stats(); s.Joins != 1 {
		t.Errorf("%+v", s)
	}
}

// TestBatchesOfTheSameKeys from many goroutines and processes at a time load each key about once, and wait for each other without
// holding each other up.
func TestBatchesOfTheSameKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.batches()
	patient := map[string]fill.Entry{"product": {Declared: declarations()["product"], TTL: time.Minute, LoadTimeout: 30 * time.Second}}
	readers := []*fill.Reader{w.readerOf(nil, &statements{Loader: w.loader}, patient), w.readerOf(nil, &statements{Loader: w.loader}, patient)}
	var all sync.WaitGroup
	for n := range 16 {
		all.Go(func() {
			ids := upTo(100)
			if n%2 == 1 {
				slices.Reverse(ids)
			}
			readMany(t, readers[n%2], nil, ids[n:], nil)
		})
	}
	all.Wait()
	if fills := readers[0].Stats().Fills + readers[1].Stats().Fills; fills != 100 {
		t.Errorf("%d fills of 100 keys", fills)
	}
}

// TestManyOfWhichOneFails: an error is its own key's, as is a key that cannot be one; a key that hangs costs the others a part of the
// load timeout and no more.
func TestManyOfWhichOneFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	declared := rule.Declared{Name: "slow", Key: "slow:{id}", Query: "SELECT id FROM product WHERE id = @id", Result: rule.One}
	roster := w.newRoster(w.roster.Revision + 1)
	e := &rule.Entry{
		Name: "slow", Definition: declared.Digest(), Key: declared.Key, Params: []rule.Param{{Name: "id", Type: keytext.Int8}}, Result: rule.One,
		SQL:        "SELECT id, 60 / (id - 5) AS n, CASE WHEN id = 7 THEN pg_sleep(100)::text END AS s FROM public.product WHERE id = $1",
		Activation: "0000000000000001",
	}
	inBatch(e)
	e.Version = e.Hash()
	roster.Entries["slow"] = e
	w.move(roster)
	loader := &statements{Loader: w.loader}
	r := w.readerOf(nil, loader, map[string]fill.Entry{"slow": {Declared: declared, TTL: time.Minute, LoadTimeout: 2 * hurried}})
	began := time.Now()
	answers := r.GetMany(t.Context(), "slow", slices.Concat(numbered(1, 2, 3), [][]keytext.Arg{{}}, numbered(4, 5, 6)), &fill.Demand{})
	for i, a := range answers {
		switch {
		case i == 3:
			if !errors.Is(a.Err, fill.ErrArguments) {
				t.Errorf("key without arguments: %+v", a)
			}
		case i == 5:
			if _, ok := errors.AsType[*pgload.QueryError](a.Err); !ok {
				t.Errorf("key that fails: %+v", a)
			}
		case a.Err != nil || !a.Value.Found || a.Value.Reason != "":
			t.Errorf("key %d: %+v", i, a)
		}
	}
	answers = r.GetMany(t.Context(), "slow", numbered(7, 8, 9, 10), &fill.Demand{})
	for i, a := range answers {
		if hung := i == 0; hung != errors.Is(a.Err, fill.ErrTimeout) || !hung && (a.Err != nil || a.Value.Reason != "") {
			t.Errorf("key %d: %+v", i+7, a)
		}
	}
	if took := time.Since(began); took > 6*hurried {
		t.Errorf("it took %v", took)
	}
	if statuses := r.GetMany(t.Context(), "slow", numbered(8, 9, 10), &fill.Demand{}); statuses[0].Value.Status != fill.Hit {
		t.Errorf("%+v", statuses)
	}
	// Nothing holds a lease of what failed.
	if record, _ := w.record(w.named("slow", "slow:5")); record.Lease.Token != "" {
		t.Errorf("%+v", record)
	}
}

// TestManyUnderDemands: every key of a batch is what a read of it alone would be.
func TestManyUnderDemands(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.batches()
	store, loader := &steps{Store: w.store}, &statements{Loader: w.loader}
	r := w.reader(store, loader)
	ids := upTo(10)
	readMany(t, r, nil, ids, nil)
	x := w.reprice()
	token := mvcc.Token{System: w.head.System, Timeline: 1, XID: x}
	changed := map[int]int{1: 11}
	if statuses := readMany(t, r, &fill.Demand{After: []mvcc.Token{token}}, ids, changed); statuses["miss"] != 10 {
		t.Errorf("after a token that HEAD does not vouch for: %v", statuses)
	}
	w.confirm(w.name("product", "1"))
	if statuses := readMany(t, r, &fill.Demand{After: []mvcc.Token{token}}, ids, changed); statuses["hit"] != 9 && statuses["hit"] != 10 {
		t.Errorf("after a token that HEAD vouches for: %v", statuses)
	}
	if statuses := readMany(t, r, &fill.Demand{Revalidate: true}, ids, changed); statuses["revalidated"] != 10 {
		t.Errorf("revalidated: %v", statuses)
	}
	before := r.Stats().Fills
	if statuses := readMany(t, r, &fill.Demand{Past: true}, ids, changed); statuses["bypass"] != 10 || r.Stats().Fills != before {
		t.Errorf("past the cache: %v", statuses)
	}
	var session fill.Session
	session.Observe(token)
	readMany(t, r, &fill.Demand{Session: &session}, ids, changed)
	if session.Size() != 0 {
		t.Errorf("the session has not seen what the batch has: %d tokens are left", session.Size())
	}
	if statuses := readMany(t, r, &fill.Demand{Bounded: true, MaxStale: time.Minute}, ids, changed); statuses["hit"] != 10 {
		t.Errorf("within a minute of what was just loaded: %v", statuses)
	}
	r.ForgetSights()
	if statuses := readMany(t, r, &fill.Demand{Bounded: true, MaxStale: time.Nanosecond}, ids, changed); statuses["hit"] != 0 {
		t.Errorf("within a bound that nothing proves: %v", statuses)
	}
	foreign := mvcc.Token{System: "1", Timeline: 1, XID: x}
	for _, a := range r.GetMany(t.Context(), "product", numbered(ids...), &fill.Demand{After: []mvcc.Token{foreign}}) {
		if !errors.Is(a.Err, fill.ErrForeignToken) {
			t.Errorf("a token of another database: %+v", a)
		}
	}
}

// TestManyThatCodeLoads are loads of their own, all at a time; what fails is its own.
func TestManyThatCodeLoads(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.reader(nil, nil)
	keys := make([]fill.Key, 4)
	for i := range keys {
		keys[i] = number(i + 1)
	}
	load := func(i int) fill.LoadFunc {
		return func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
			if i == 2 {
				return nil, false, errors.New("of its own")
			}
			var p int
			err := q.QueryRow(ctx, "SELECT price FROM product WHERE id = $1", i+1).Scan(&p)
			return []byte(strconv.Itoa(p)), true, err
		}
	}
	for range 2 {
		for i, a := range r.ReadMany(t.Context(), "code", keys, load, &fill.Demand{}) {
			if fails := i == 2; fails != (a.Err != nil) || !fails && string(a.Value.Payload) != strconv.Itoa(10*i+10) {
				t.Errorf("key %d: %+v", i+1, a)
			}
		}
	}
	if s := r.Stats(); s.Hits != 3 || s.Fills != 3 {
		t.Errorf("%+v", s)
	}
	for _, a := range r.ReadMany(t.Context(), "code", keys[2:], nil, &fill.Demand{}) {
		if a.Err != nil && !errors.Is(a.Err, fill.ErrNoLoader) {
			t.Errorf("%+v", a)
		}
	}
}

// TestManyMoreThanOneStatementLoads are loaded by several, and more than are read at once, in turns.
func TestManyMoreThanOneStatementLoads(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.batches()
	w.pg.Exec(t, w.url, "INSERT INTO product SELECT i, 10 * i FROM generate_series(101, 1500) i")
	store, loader := &steps{Store: w.store}, &statements{Loader: w.loader}
	r := w.reader(store, loader)
	ids := upTo(1500)
	for i, a := range r.GetMany(t.Context(), "product", numbered(ids...), &fill.Demand{}) {
		if a.Err != nil || string(a.Value.Payload) != price(i+1, 10*i+10) || a.Value.Reason != "" {
			t.Fatalf("product %d: %+v", i+1, a)
		}
	}
	if got := store.counts(); got[0] != 2 || got[1] != 2 || loader.sent.Load() != 5+3 {
		t.Errorf("%v, %d statements", got, loader.sent.Load())
	}
}

// TestRefusedBatches: a database that does not take the statement for many keys is not sent it again.
func TestRefusedBatches(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.batches()
	w.roster.Entries["product"].Batch.SQL = "SELECT id, nothing FROM public.product WHERE id = freshet_k.p1"
	w.roster.Revision++
	w.move(w.roster)
	loader := &statements{Loader: w.loader}
	r := w.reader(nil, loader)
	readMany(t, r, nil, []int{1, 2, 3}, nil)
	readMany(t, r, nil, []int{4, 5, 6}, nil)
	if got := loader.sent.Load(); got != 1+3+3 {
		t.Errorf("%d statements", got)
	}
	if s := r.Stats(); s.Fills != 6 {
		t.Errorf("%+v", s)
	}
}
