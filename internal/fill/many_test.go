package fill_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/mvcc"
)

// steps is the real store; it counts what is asked of it for many keys, and for one, and has the test come between the steps.
type steps struct {
	*redisstore.Store

	reads, leases, pins, fills, singles atomic.Int64

	beforeLease, beforeFill func()
}

func (s *steps) ReadMany(ctx context.Context, all []redisstore.Reading, head bool) []redisstore.Found {
	s.reads.Add(1)
	return s.Store.ReadMany(ctx, all, head)
}

func (s *steps) LeaseMany(ctx context.Context, all []redisstore.Leasing) []redisstore.Leased {
	s.leases.Add(1)
	if s.beforeLease != nil {
		s.beforeLease()
	}
	return s.Store.LeaseMany(ctx, all)
}

func (s *steps) PinMany(ctx context.Context, all [][]string, life time.Duration) []redisstore.PinnedMany {
	s.pins.Add(1)
	return s.Store.PinMany(ctx, all, life)
}

func (s *steps) FillMany(ctx context.Context, all []redisstore.Filling) []redisstore.Filled {
	s.fills.Add(1)
	if s.beforeFill != nil {
		s.beforeFill()
	}
	return s.Store.FillMany(ctx, all)
}

func (s *steps) Read(ctx context.Context, name string) ([]byte, error) {
	s.singles.Add(1)
	return s.Store.Read(ctx, name)
}

func (s *steps) Lease(ctx context.Context, name string, token fence.Token, lasts time.Duration) (redisstore.LeaseReply, error) {
	s.singles.Add(1)
	return s.Store.Lease(ctx, name, token, lasts)
}

func (s *steps) counts() [5]int64 {
	return [5]int64{s.reads.Load(), s.leases.Load(), s.pins.Load(), s.fills.Load(), s.singles.Load()}
}

// other is the token of another process.
const other = fence.Token("0123456789abcdef0123456789abcdef")

// statements is the real database; it counts the loads of many keys, and of one.
type statements struct {
	*pgload.Loader

	many, single atomic.Int64
	sent         atomic.Int64
	before       func(keys [][]keytext.Arg)
}

func (s *statements) LoadMany(ctx context.Context, q pgload.Query, keys [][]keytext.Arg) pgload.Many {
	s.many.Add(1)
	if s.before != nil {
		s.before(keys)
	}
	m := s.Loader.LoadMany(ctx, q, keys)
	s.sent.Add(int64(m.Statements))
	return m
}

func (s *statements) Load(ctx context.Context, sql string, result rule.Result, args []keytext.Arg) (pgload.Loaded, error) {
	s.single.Add(1)
	return s.Loader.Load(ctx, sql, result, args)
}

// batches gives the entries of the roster the form for many keys.
func (w *world) batches() {
	w.t.Helper()
	roster := w.newRoster(w.roster.Revision + 1)
	maps.Copy(roster.Entries, w.roster.Entries)
	for _, e := range roster.Entries {
		inBatch(e)
	}
	w.move(roster)
}

func inBatch(e *rule.Entry) {
	if e.SQL == "" {
		return
	}
	columns := func(sql string) string {
		for i := range e.Params {
			sql = strings.ReplaceAll(sql, "$"+strconv.Itoa(i+1), rule.BatchColumn(i+1))
		}
		return sql
	}
	e.Batch = &rule.Batch{SQL: columns(e.SQL)}
	for _, p := range e.Params {
		e.Batch.Types = append(e.Batch.Types, string(p.Type))
	}
	for i := range e.Rules {
		if tag := e.Rules[i].Tag; tag != nil {
			e.Batch.Tags = append(e.Batch.Tags, columns(tag.SQL))
		}
	}
}

func numbered(ids ...int) (keys [][]keytext.Arg) {
	for _, id := range ids {
		keys = append(keys, arg(strconv.Itoa(id)))
	}
	return keys
}

func upTo(n int) (ids []int) {
	for i := range n {
		ids = append(ids, i+1)
	}
	return ids
}

// readMany reads products and checks what comes: the price is ten times the id unless it says otherwise, and above 100 there is
// none. It returns how many have which status.
func readMany(t *testing.T, r *fill.Reader, d *fill.Demand, ids []int, prices map[int]int) map[string]int {
	t.Helper()
	if d == nil {
		d = &fill.Demand{}
	}
	statuses := map[string]int{}
	for i, a := range r.GetMany(t.Context(), "product", numbered(ids...), d) {
		want := ""
		if id := ids[i]; id <= 100 {
			p, other := prices[id]
			if !other {
				p = 10 * id
			}
			want = price(id, p)
		}
		if a.Err != nil || string(a.Value.Payload) != want || a.Value.Found != (want != "") {
			t.Errorf("product %d: %s, %v, want %s", ids[i], a.Value.Payload, a.Err, want)
		}
		statuses[a.Value.Status.String()]++
	}
	return statuses
}

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
		SQL:        "SELECT id, 60 / (id - 5) AS n, CASE WHEN id = 7 THEN pg_sleep(20)::text END AS s FROM public.product WHERE id = $1",
		Activation: "0000000000000001",
	}
	inBatch(e)
	e.Version = e.Hash()
	roster.Entries["slow"] = e
	w.move(roster)
	loader := &statements{Loader: w.loader}
	r := w.readerOf(nil, loader, map[string]fill.Entry{"slow": {Declared: declared, TTL: time.Minute, LoadTimeout: 2 * time.Second}})
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
	if took := time.Since(began); took > 10*time.Second {
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

func (w *world) named(entry, key string) string {
	return rule.KeyPrefix(w.namespace, w.head.Generation, w.roster.Entries[entry]) + key
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
		w := newWorld(t, options{ownRedis: true})
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
			w := newWorld(t, options{ownRedis: true})
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

// number is a key that is made for whatever type its parameter has.
type number int

func (n number) Args([]rule.Param) ([]keytext.Arg, error) { return arg(strconv.Itoa(int(n))), nil }

// TestManyFromAReplica: a standby has what may be stored from there, the primary the rest, by one statement each.
func TestManyFromAReplica(t *testing.T) {
	t.Parallel()
	w := newStandby(t)
	w.batches()
	if statuses := readMany(t, w.r, nil, upTo(10), nil); statuses["miss"] != 10 {
		t.Errorf("%v", statuses)
	}
	if record, _ := w.record(w.name("product", "3")); !record.Coverage.Standby() || w.outcome("used") != 10 {
		t.Errorf("%+v, %d used", record, w.outcome("used"))
	}
	w.standby.Pause(t)
	w.change() // of product 1
	loads := w.r.Stats().Loads
	ids := []int{1, 11, 12}
	if statuses := readMany(t, w.r, nil, ids, map[int]int{1: 11}); statuses["miss"] != 3 {
		t.Errorf("%v", statuses)
	}
	for _, id := range ids {
		record, _ := w.record(w.name("product", strconv.Itoa(id)))
		if fromStandby := id != 1; record.Coverage.Standby() != fromStandby {
			t.Errorf("product %d: %+v", id, record)
		}
	}
	if s := w.r.Stats(); s.Replicas["used"] != 12 || s.Replicas["behind"] != 1 || s.Loads-loads != 1 {
		t.Errorf("%+v", s)
	}
}

// TestTiedManyFromAReplica: what ended an epoch keeps an older row of a standby out, also in a batch.
func TestTiedManyFromAReplica(t *testing.T) {
	t.Parallel()
	w := newTied(t, options{ownPostgres: true})
	w.batches()
	standby := &withStandby{world: w.world}
	standby.attach(t)
	r := w.tiedReader(nil, nil, standby.replica)
	first := r.GetMany(t.Context(), "teams", numbered(1, 2), &fill.Demand{})
	for _, a := range first {
		if record, _ := w.record(a.Value.Name); a.Err != nil || !record.Coverage.Standby() {
			t.Fatalf("%+v: %+v", a, record)
		}
	}
	standby.standby.Pause(t)
	w.pg.Exec(t, w.url, "UPDATE team SET name = 'renamed' WHERE id = 8")
	w.end(w.epoch("teams", string(rule.AppendEpoch(nil, 1, arg("8")))))
	for i, a := range r.GetMany(t.Context(), "teams", numbered(1, 2), &fill.Demand{}) {
		record, _ := w.record(a.Value.Name)
		if a.Err != nil || a.Value.Status != fill.Miss || !strings.Contains(string(a.Value.Payload), "renamed") || record.Coverage.Standby() {
			t.Errorf("user %d: %s, %v; stored %+v", i+1, a.Value.Payload, a.Err, record)
		}
	}
	for i, a := range r.GetMany(t.Context(), "teams", numbered(1, 2), &fill.Demand{}) {
		if a.Err != nil || a.Value.Status != fill.Hit {
			t.Errorf("user %d: %+v", i+1, a)
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
