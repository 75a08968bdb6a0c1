package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/mvcc"
)

// Run runs everything but the random commands (RecordsEqualFence, HeadEqualsFence).
func Run(t *testing.T, open Open) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(t *testing.T, w *world)
	}{
		{"read through", readThrough},
		{"release frees the key", releaseFreesTheKey},
		{"lease over a value keeps it", leaseOverAValueKeepsIt},
		{"ended lease does not fill", endedLeaseDoesNotFill},
		{"what has expired is gone", expired},
		{"fence without a value lives on its own", fenceLives},
		{"foreign value counts as absent", foreignValueCountsAsAbsent},
		{"many names", manyNames},
		{"renew", renew},
		{"stale is kept", staleIsKept},
		{"stale is left", staleIsLeft},
		{"move", move},
		{"the older daemon is refused", theOlderDaemonIsRefused},
		{"mismatch says what is there", mismatchSaysWhatIsThere},
		{"replace takes only the term that was judged", replaceTakesOnlyTheTermThatWasJudged},
		{"floors of buckets", floorsOfBuckets},
		{"pin", pin},
		{"ticks", ticksAreCounted},
		{"uses", uses},
		{"notes", notesAreKept},
		{"sweep", sweep},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, newWorld(t, open)) })
	}
}

func readThrough(t *testing.T, w *world) {
	t.Helper()
	c := w.connect()
	head := w.begin(c, fence.NewTerm(1, 10))
	name := w.Name("k")
	if r := w.get(name); r.State != fence.None {
		t.Fatalf("Get of an absent key = %+v", r)
	}
	reply := w.leased(name, Token('a'))
	judged := fence.Head{
		Generation: reply.Head.Generation, Term: reply.Head.Term, Revision: reply.Head.Revision, System: reply.Head.System,
		Timeline: reply.Head.Timeline, Wi: reply.Head.Wi, Wc: reply.Head.Wc, Si: reply.Head.Si, Sa: reply.Head.Sa,
	}
	want := fence.Head{Generation: generation, Term: head.Term, Revision: 1, System: "7", Timeline: 1, Wi: 100, Wc: 100, Si: Sees(10)}
	if diff := cmp.Diff(want, judged); diff != "" || !reply.HeadFound {
		t.Fatalf("Lease's HEAD (-want +got):\n%s", diff)
	}
	busy, err := w.Store.Lease(t.Context(), name, Token('b'), time.Minute)
	if err != nil || busy.Granted || busy.Holder != Token('a') {
		t.Fatalf("second Lease = %+v, %v; want it held by the first", busy, err)
	}
	if got := w.filled(name, Token('b'), 10); got != fence.NoLease {
		t.Fatalf("Fill under another's lease = %v", got)
	}
	if got := w.filled(name, Token('a'), 10); got != fence.Filled {
		t.Fatalf("Fill = %v", got)
	}
	r := w.get(name)
	if r.State != fence.Live || string(r.Payload) != `{"seen":10}` || !r.Lease.IsZero() || r.Filled == 0 {
		t.Fatalf("Get after Fill = %+v", r)
	}
	if text, err := w.Store.Read(t.Context(), name); err != nil || !bytes.Equal(text, r.Append(nil)) {
		t.Fatalf("Read = %q, %v", text, err)
	}
	if got := w.filled(name, Token('a'), 10); got != fence.NoLease {
		t.Fatalf("Fill once more = %v", got)
	}
	// A confirm takes value and lease, and whatever loaded before it cannot fill.
	w.leased(name, Token('c'))
	result := w.apply(c, store.Batch{
		Expect: expect(head), Wi: 200, Si: Sees(20), Names: []string{name, w.Name("other")}, Advance: 200, Sa: Sees(20),
	})
	if result.Removed != 1 {
		t.Fatalf("Apply = %+v", result)
	}
	if got := w.filled(name, Token('c'), 10); got != fence.NoLease {
		t.Fatalf("Fill after the confirm = %v", got)
	}
	head.Wc, head.Si, head.Sa = 200, Sees(20), Sees(20)
	if diff := cmp.Diff(head, w.head()); diff != "" {
		t.Fatalf("HEAD after Apply (-want +got):\n%s", diff)
	}
	reply = w.leased(name, Token('d'))
	if fence.Floor(reply.Head, fence.Coverage{Snapshot: Sees(10)}) || !fence.Floor(reply.Head, fence.Coverage{Snapshot: Sees(20)}) {
		t.Fatalf("floor under %+v", reply.Head)
	}
}

func releaseFreesTheKey(t *testing.T, w *world) {
	t.Helper()
	name := w.Name("k")
	w.leased(name, Token('a'))
	if err := w.Store.Release(t.Context(), name, Token('b')); err != nil {
		t.Fatal(err)
	}
	if busy, err := w.Store.Lease(t.Context(), name, Token('c'), time.Minute); err != nil || busy.Granted {
		t.Fatalf("Lease after another token's Release = %+v, %v", busy, err)
	}
	if err := w.Store.Release(t.Context(), name, Token('a')); err != nil {
		t.Fatal(err)
	}
	if text, err := w.Store.Read(t.Context(), name); err != nil || text != nil {
		t.Errorf("a record that says nothing is left: %q, %v", text, err)
	}
	w.leased(name, Token('d'))
}

func leaseOverAValueKeepsIt(t *testing.T, w *world) {
	t.Helper()
	name := w.Name("k")
	w.leased(name, Token('a'))
	w.filled(name, Token('a'), 10)
	before := w.ttl(name)
	reply := w.leased(name, Token('b'))
	if reply.Record.State != fence.Live || string(reply.Record.Payload) != `{"seen":10}` {
		t.Fatalf("Lease's record = %+v", reply.Record)
	}
	if after := w.ttl(name); after > before || after < before-10*time.Second {
		t.Fatalf("time to live %v became %v", before, after)
	}
	if got := w.filled(name, Token('b'), 9); got != fence.NotNewer {
		t.Fatalf("Fill of an older row = %v", got)
	}
	if got := w.filled(name, Token('b'), 11); got != fence.Filled {
		t.Fatalf("Fill of a newer row = %v", got)
	}
}

func endedLeaseDoesNotFill(t *testing.T, w *world) {
	t.Helper()
	name := w.Name("k")
	reply, err := w.Store.Lease(t.Context(), name, Token('a'), time.Millisecond)
	if err != nil || !reply.Granted {
		t.Fatalf("Lease = %+v, %v", reply, err)
	}
	if life := w.ttl(name); life <= 0 || life > time.Millisecond+store.LeaseMargin {
		t.Fatalf("a lease of 1ms lives %v", life)
	}
	wait(t, 10*time.Millisecond)
	if got := w.filled(name, Token('a'), 10); got != fence.LeaseEnded {
		t.Fatalf("Fill after the lease's end = %v", got)
	}
	w.leased(name, Token('b'))
}

func expired(t *testing.T, w *world) {
	t.Helper()
	name := w.Name("k")
	w.leased(name, Token('a'))
	outcome, err := w.Store.Fill(t.Context(), name, store.FillRequest{
		Token: Token('a'), Coverage: fence.Coverage{Snapshot: Sees(10)}, State: fence.Live, Payload: []byte("{}"), TTL: 20 * time.Millisecond,
	})
	if err != nil || outcome != fence.Filled {
		t.Fatalf("Fill = %v, %v", outcome, err)
	}
	wait(t, 30*time.Millisecond)
	if text, err := w.Store.Read(t.Context(), name); err != nil || text != nil {
		t.Errorf("after its time it reads %q, %v", text, err)
	}
	if r := w.leased(name, Token('b')).Record; r.State != fence.None {
		t.Errorf("after its time a lease finds %+v", r)
	}
}

func fenceLives(t *testing.T, w *world) {
	t.Helper()
	name := w.Name("k")
	stamp := fence.Stamp{XID: 12, End: 120}
	if err := w.Store.Early(t.Context(), store.Stamped{Name: name, Stamps: []fence.Stamp{stamp}}); err != nil {
		t.Fatal(err)
	}
	if life := w.ttl(name); life <= 0 || life > store.FenceLife {
		t.Errorf("a fence lives %v", life)
	}
	w.leased(name, Token('a'))
	if got := w.filled(name, Token('a'), 12); got != fence.NotCovering {
		t.Errorf("Fill of a load that does not see what the key is fenced for = %v", got)
	}
	if got := w.filled(name, Token('a'), 13); got != fence.Filled {
		t.Errorf("Fill of one that does = %v", got)
	}
}

func foreignValueCountsAsAbsent(t *testing.T, w *world) {
	t.Helper()
	name := w.Name("k")
	if err := w.Put(name, "somebody else's"); err != nil {
		t.Fatal(err)
	}
	if r := w.get(name); r.State != fence.None {
		t.Fatalf("Get = %+v", r)
	}
	w.leased(name, Token('a'))
	if got := w.filled(name, Token('a'), 10); got != fence.Filled {
		t.Fatalf("Fill = %v", got)
	}
}

func manyNames(t *testing.T, w *world) {
	t.Helper()
	c := w.connect()
	head := w.begin(c, fence.NewTerm(1, 10))
	names := make([]string, 5*store.RaisedAtMost+123)
	for i := range names {
		names[i] = w.Name(strconv.Itoa(i))
		if i%100 == 0 {
			w.leased(names[i], Token('a'))
		}
	}
	result := w.apply(c, store.Batch{Expect: expect(head), Wi: 200, Si: Sees(20), Names: names, Advance: 200})
	if want := int64(len(names)/100 + 1); result.Removed != want {
		t.Fatalf("Apply = %+v; want %d unlinked", result, want)
	}
	if got := w.head(); got.Wc != 200 {
		t.Fatalf("HEAD = %+v", got)
	}
}

// renew: the value stays as it is, byte for byte, and has coverage, row version, age and time to live of a load that was just
// made.
func renew(t *testing.T, w *world) {
	t.Helper()
	name := w.Name("k")
	for _, state := range []fence.State{fence.Live, fence.Negative} {
		w.leased(name, Token('a'))
		payload := bytes.Repeat([]byte("\x00{\n}"), 25_000)
		if state == fence.Negative {
			payload = nil
		}
		outcome, err := w.Store.Fill(t.Context(), name, store.FillRequest{
			Token: Token('a'), Coverage: fence.Coverage{Snapshot: Sees(10)}, State: state, Payload: payload, RowVersion: "old", TTL: 10 * time.Second,
		})
		if err != nil || outcome != fence.Filled {
			t.Fatalf("Fill = %v, %v", outcome, err)
		}
		before := w.leased(name, Token('b')).Record
		wait(t, time.Millisecond) // the store's clock counts microseconds
		outcome, err = w.Store.Renew(t.Context(), name, store.RenewRequest{
			Token: Token('b'), Coverage: fence.Coverage{Snapshot: Sees(20)}, RowVersion: "a b", TTL: time.Minute,
		})
		if err != nil || outcome != fence.Renewed {
			t.Fatalf("Renew = %v, %v", outcome, err)
		}
		r := w.get(name)
		if r.State != state || !bytes.Equal(r.Payload, payload) || r.RowVersion != "a b" || !r.Lease.IsZero() ||
			r.Coverage.Snapshot.Xmax != 20 || r.Filled <= before.Filled {
			t.Fatalf("%v, renewed: %v %v %v %q, filled %d after %d, %d bytes", state, r.State, r.Coverage, r.Lease, r.RowVersion, r.Filled, before.Filled,
				len(r.Payload))
		}
		if left := w.ttl(name); left < 50*time.Second {
			t.Errorf("it lives for %v", left)
		}
		if outcome, err = w.Store.Renew(t.Context(), name, store.RenewRequest{Token: Token('b'), TTL: time.Minute}); err != nil || outcome != fence.NoLease {
			t.Errorf("Renew once more = %v, %v", outcome, err)
		}
		if err := w.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

func floorsOfBuckets(t *testing.T, w *world) {
	t.Helper()
	c := w.connect()
	head := w.begin(c, fence.NewTerm(1, 10))
	floor := func(key string) mvcc.LSN {
		t.Helper()
		reply := w.leased(w.Name(key), Token('a'))
		if err := w.Store.Release(t.Context(), w.Name(key), Token('a')); err != nil {
			t.Fatal(err)
		}
		return reply.Head.Wi
	}
	apply := func(b store.Batch) {
		t.Helper()
		b.Expect, b.Si = expect(head), Sees(20)
		w.apply(c, b)
	}
	// The buckets are those of whole names, which begin differently in every run.
	quietly := "quiet"
	for fence.BucketOf(w.Name("written")) == fence.BucketOf(w.Name(quietly)) {
		quietly += "."
	}
	apply(store.Batch{Wi: 200, Names: []string{w.Name("written")}})
	if written, quiet := floor("written"), floor(quietly); written != 200 || quiet != 100 {
		t.Errorf("floors are %d and %d, want 200 for the key that was written, 100 for the other", written, quiet)
	}
	apply(store.Batch{Wi: 300}) // without keys
	apply(store.Batch{Wi: 150, Names: []string{w.Name("written")}})
	if written, quiet := floor("written"), floor(quietly); written != 200 || quiet != 100 {
		t.Errorf("floors are %d and %d after batches without keys and of an older transaction", written, quiet)
	}
	apply(store.Batch{Wi: 400, All: true})
	if written, quiet := floor("written"), floor(quietly); written != 400 || quiet != 400 {
		t.Errorf("floors are %d and %d, want 400 after names moved", written, quiet)
	}
	many := make([]string, 4*store.RaisedAtMost)
	for i := range many {
		many[i] = w.Name(strconv.Itoa(i))
	}
	apply(store.Batch{Wi: 500, Names: many})
	if quiet := floor(quietly); quiet != 500 {
		t.Errorf("the floor is %d after a batch with keys in many buckets, want 500", quiet)
	}
	if err := c.NewGeneration(t.Context(), head); err != nil {
		t.Fatal(err)
	}
	if written := floor("written"); written != 100 {
		t.Errorf("the floor is %d in a new generation", written)
	}
}

// pin: ids that are there stay, those that are made are new each time, and HEAD is that of the epochs' buckets.
func pin(t *testing.T, w *world) {
	t.Helper()
	c := w.connect()
	head := w.begin(c, fence.NewTerm(1, 1))
	names := []string{w.epoch("~0"), w.epoch("~0:7"), w.epoch("~0:8")}
	// Which bucket a name is in depends on the namespace: the third has to be alone in its own.
	for fence.BucketOf(names[2]) == fence.BucketOf(names[0]) || fence.BucketOf(names[2]) == fence.BucketOf(names[1]) {
		names[2] += "8"
	}
	pin := func(names ...string) store.Pinned {
		t.Helper()
		p, err := w.Store.Pin(t.Context(), names, time.Minute)
		if err != nil || !p.HeadFound || p.Head.Generation != generation {
			t.Fatalf("Pin = %+v, %v", p, err)
		}
		for _, id := range p.IDs {
			if !fence.ValidEpochID(id) {
				t.Fatalf("id %q", id)
			}
		}
		return p
	}
	first := pin(names[:2]...)
	if again := pin(names...); again.IDs[0] != first.IDs[0] || again.IDs[1] != first.IDs[1] || again.IDs[2] == first.IDs[0] {
		t.Errorf("ids %q, before %q", again.IDs, first.IDs)
	}
	held, err := w.Store.ReadTied(t.Context(), w.Name("k"), names[:2])
	if err != nil || held.Text != nil || !slices.Equal(held.IDs, first.IDs) {
		t.Errorf("ReadTied = %+v, %v", held, err)
	}
	if result := w.apply(c, store.Batch{Expect: expect(head), Wi: 200, Si: Sees(20), Epochs: names[:2]}); result.Ended != 2 || result.Removed != 0 {
		t.Fatalf("Apply = %+v", result)
	}
	ids, err := w.Store.Epochs(t.Context(), names)
	if err != nil || ids[0] != "" || ids[1] != "" || ids[2] == "" {
		t.Errorf("Epochs = %q, %v", ids, err)
	}
	p := pin(names...)
	if p.IDs[0] == first.IDs[0] || p.IDs[1] == first.IDs[1] {
		t.Error("an id that was ended is back")
	}
	buckets := func(names ...string) (all []fence.Bucket) {
		for _, name := range names {
			all = append(all, fence.BucketOf(name))
		}
		return all
	}
	loaded := func(x mvcc.XID) fence.Coverage { return fence.Coverage{Snapshot: Sees(x)} }
	for _, tt := range []struct {
		names    []string
		coverage fence.Coverage
		want     bool
	}{
		{names[:2], loaded(20), true},
		{names[:2], loaded(19), false},
		{names[1:], loaded(19), false},
		{names[2:], loaded(11), true},
		{names[:1], fence.Coverage{Replay: 199}, false},
		{names[:1], fence.Coverage{Replay: 200}, true},
		{names[2:], fence.Coverage{Replay: 100}, true},
		{names[2:], fence.Coverage{Replay: 99}, false},
		{names[2:], fence.Coverage{}, false},
	} {
		if got := fence.Pinned(p.Head, buckets(tt.names...), tt.coverage); got != tt.want {
			t.Errorf("Pinned(%q, %v) = %t", tt.names, tt.coverage, got)
		}
	}
	// More epochs than INTENT names buckets: then it is said of all.
	many := make([]string, 3*store.RaisedAtMost)
	for i := range many {
		many[i] = w.epoch(fmt.Sprintf("~0:%d", 100+i))
	}
	w.apply(c, store.Batch{Expect: expect(head), Wi: 300, Si: Sees(30), Epochs: many})
	p = pin(names[2])
	if fence.Pinned(p.Head, buckets(names[2]), loaded(29)) || !fence.Pinned(p.Head, buckets(names[2]), loaded(30)) ||
		fence.Pinned(p.Head, buckets(names[2]), fence.Coverage{Replay: 299}) {
		t.Errorf("HEAD = %+v", p.Head)
	}
	if err := w.Put(names[0], "no id"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Store.Pin(t.Context(), names[:1], time.Minute); err == nil {
		t.Error("Pin takes what is no id")
	}
	pin(names[0])
}

func ticksAreCounted(t *testing.T, w *world) {
	t.Helper()
	c := w.connect()
	head := w.begin(c, fence.NewTerm(1, 9))
	count := func() fence.Tick {
		t.Helper()
		tick, err := w.Store.Tick(t.Context(), w.Lane)
		if err != nil {
			t.Fatal(err)
		}
		return tick
	}
	first := count()
	if first.N != 1 || len(first.ID) != 16 {
		t.Errorf("the first tick is %v", first)
	}
	if next := count(); next.ID != first.ID || next.N != 2 {
		t.Errorf("after %v comes %v", first, next)
	}
	if err := c.DrawTick(t.Context()); err != nil {
		t.Fatal(err)
	}
	drawn := count()
	if drawn.ID == first.ID || drawn.N != 1 {
		t.Errorf("after a new beginning comes %v", drawn)
	}
	if all, err := c.Ticks(t.Context()); err != nil || all[w.Lane] != drawn {
		t.Errorf("Ticks = %v, %v", all, err)
	}
	var drawns fence.Ticks
	drawns[w.Lane] = drawn
	result := w.apply(c, store.Batch{Expect: expect(head), Wi: 200, Si: Sees(20), Advance: 100, Sa: Sees(20), Ticks: drawns})
	if result.Ticks[w.Lane] != drawn {
		t.Errorf("Apply = %+v", result)
	}
	name := w.Name("k")
	if h, found, held, err := w.Store.ReadWithHead(t.Context(), name, nil); err != nil || !found || h.Tick != drawn || h.Sa.Xmax != 20 || h.Wc != 100 || held.Text != nil {
		t.Errorf("ReadWithHead = %+v, %t, %q, %v", h, found, held.Text, err)
	}
	// Without Sa the tick stays as well.
	var later fence.Ticks
	later[w.Lane] = count()
	w.apply(c, store.Batch{Expect: expect(head), Wi: 300, Si: Sees(30), Advance: 300, Ticks: later})
	w.leased(name, Token('a'))
	w.filled(name, Token('a'), 40)
	if h, found, held, err := w.Store.ReadWithHead(t.Context(), name, nil); err != nil || !found || h.Tick != drawn || h.Wc != 300 || held.Text == nil {
		t.Errorf("ReadWithHead = %+v, %t, %q, %v", h, found, held.Text, err)
	}
}

func uses(t *testing.T, w *world) {
	t.Helper()
	short, long, never := store.Use{Entry: "product", Definition: "a"}, store.Use{Entry: "product", Definition: "b"}, store.Use{Entry: "product", Definition: "c"}
	if err := w.Store.Register(t.Context(), short, "web-1", 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	who := bytes.Repeat([]byte("w"), 1000)
	who[3] = '\n'
	if err := w.Store.Register(t.Context(), long, string(who), time.Hour); err != nil {
		t.Fatal(err)
	}
	who[3] = '?'
	want := map[store.Use]string{long: string(who[:store.LongestUser])}
	testkit.Eventually(t, 10*time.Second, func() error {
		found, err := w.Store.Uses(t.Context(), []store.Use{short, long, never})
		if diff := cmp.Diff(want, found); err == nil && diff != "" {
			err = errors.New("Uses (-want +got):\n" + diff)
		}
		return err
	})
	if found, err := w.Store.Uses(t.Context(), nil); err != nil || len(found) != 0 {
		t.Errorf("Uses of none = %v, %v", found, err)
	}
}

// sweep: what is under live names stays, with its epochs and what is registered; the rest goes.
func sweep(t *testing.T, w *world) {
	t.Helper()
	c := w.connect()
	head := w.begin(c, fence.NewTerm(1, 1))
	if err := c.Move(t.Context(), expect(head), []byte(`{"generation":"x"}`), 2, "p"); err != nil {
		t.Fatal(err)
	}
	for i := range 1200 {
		w.leased(w.Prefix+generation+":dead.v.a:"+strconv.Itoa(i), Token('a'))
	}
	w.leased(w.Name("1"), Token('a'))
	used, unused := store.Use{Entry: "live", Definition: "d"}, store.Use{Entry: "dead", Definition: "d"}
	for _, u := range []store.Use{used, unused} {
		if err := w.Store.Register(t.Context(), u, "a library", time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	live := []string{w.epoch("~0"), w.epoch("~0:7"), w.epoch("~1+")}
	dead := []string{w.Prefix + generation + ":e.v.b~0", w.Prefix + generation + ":e.v.ab~0", w.Prefix + "00000000000000bb:e.v.a~0:7"}
	for _, name := range slices.Concat(live, dead) {
		if _, err := w.Store.Pin(t.Context(), []string{name}, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	removed, err := w.Store.Sweep(t.Context(), func() store.Live {
		return store.Live{Prefixes: []string{w.Prefix + generation + ":e.v.a:"}, Retained: []store.Use{used}}
	})
	if want := int64(1200 + 1 + len(dead)); err != nil || removed != want {
		t.Errorf("Sweep = %d, %v; want %d: the records, the epochs and the registration of what is dead", removed, err, want)
	}
	ids, err := w.Store.Epochs(t.Context(), live)
	if err != nil || slices.Contains(ids, "") {
		t.Errorf("of the live ones %q are left, %v", ids, err)
	}
	if r := w.get(w.Name("1")); r.Lease.IsZero() {
		t.Error("a live record is gone")
	}
	w.head()
	if found, err := w.Store.Uses(t.Context(), []store.Use{used, unused}); err != nil || len(found) != 1 || found[used] == "" {
		t.Errorf("Uses = %v, %v", found, err)
	}
}
