package redisstore

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/mvcc"
)

func TestReadThrough(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	name := s.testName("k")

	r, err := s.Get(t.Context(), name)
	if err != nil || r.State != fence.None {
		t.Fatalf("Get of an absent key = %+v, %v", r, err)
	}
	reply := leased(t, s, name, token('a'))
	want := fence.Head{Generation: generation, Term: head.Term, Revision: 1, System: "7", Timeline: 1, Wi: 100, Wc: 100, Si: sees(10)}
	if diff := cmp.Diff(want, reply.Head); diff != "" || !reply.HeadFound {
		t.Fatalf("Lease's HEAD (-want +got):\n%s", diff)
	}
	busy, err := s.Lease(t.Context(), name, token('b'), time.Minute)
	if err != nil || busy.Granted || busy.Holder != token('a') {
		t.Fatalf("second Lease = %+v, %v; want it held by the first", busy, err)
	}
	if got := filled(t, s, name, token('b'), 10); got != fence.NoLease {
		t.Fatalf("Fill under another's lease = %v", got)
	}
	if got := filled(t, s, name, token('a'), 10); got != fence.Filled {
		t.Fatalf("Fill = %v", got)
	}
	r, err = s.Get(t.Context(), name)
	if err != nil || r.State != fence.Live || string(r.Payload) != `{"seen":10}` || !r.Lease.IsZero() || r.Filled == 0 {
		t.Fatalf("Get after Fill = %+v, %v", r, err)
	}
	if got := filled(t, s, name, token('a'), 10); got != fence.NoLease {
		t.Fatalf("Fill once more = %v", got)
	}
	// A confirm takes value and lease, and whatever loaded before it cannot fill.
	leased(t, s, name, token('c'))
	result, err := c.Apply(t.Context(), Batch{
		Expect: expect(head), Wi: 200, Si: sees(20), Names: []string{name, s.testName("other")}, Advance: 200, Sa: sees(20),
	})
	if err != nil || result.Removed != 1 {
		t.Fatalf("Apply = %+v, %v", result, err)
	}
	if got := filled(t, s, name, token('c'), 10); got != fence.NoLease {
		t.Fatalf("Fill after the confirm = %v", got)
	}
	got, found, err := s.Head(t.Context())
	head.Wc, head.Si, head.Sa = 200, sees(20), sees(20)
	if diff := cmp.Diff(head, got); diff != "" || !found || err != nil {
		t.Fatalf("HEAD after Apply (-want +got), %v:\n%s", err, diff)
	}
	reply = leased(t, s, name, token('d'))
	if fence.Floor(reply.Head, fence.Coverage{Snapshot: sees(10)}) || !fence.Floor(reply.Head, fence.Coverage{Snapshot: sees(20)}) {
		t.Fatalf("floor under %+v", reply.Head)
	}
}

func TestReleaseFreesTheKey(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	name := s.testName("k")
	leased(t, s, name, token('a'))
	if err := s.Release(t.Context(), name, token('b')); err != nil {
		t.Fatal(err)
	}
	if busy, err := s.Lease(t.Context(), name, token('c'), time.Minute); err != nil || busy.Granted {
		t.Fatalf("Lease after another token's Release = %+v, %v", busy, err)
	}
	if err := s.Release(t.Context(), name, token('a')); err != nil {
		t.Fatal(err)
	}
	leased(t, s, name, token('d'))
}

func TestLeaseOverAValueKeepsIt(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	name := s.testName("k")
	leased(t, s, name, token('a'))
	filled(t, s, name, token('a'), 10)
	before := ttl(t, s, name)
	reply := leased(t, s, name, token('b'))
	if reply.Record.State != fence.Live || string(reply.Record.Payload) != `{"seen":10}` {
		t.Fatalf("Lease's record = %+v", reply.Record)
	}
	if after := ttl(t, s, name); after > before || after < before-10*time.Second {
		t.Fatalf("time to live %v became %v", before, after)
	}
	if got := filled(t, s, name, token('b'), 9); got != fence.NotNewer {
		t.Fatalf("Fill of an older row = %v", got)
	}
	if got := filled(t, s, name, token('b'), 11); got != fence.Filled {
		t.Fatalf("Fill of a newer row = %v", got)
	}
}

func ttl(tb testing.TB, s *Store, name string) time.Duration {
	tb.Helper()
	n, err := s.client.Do(tb.Context(), s.client.B().Pttl().Key(name).Build()).AsInt64()
	if err != nil {
		tb.Fatal(err)
	}
	return time.Duration(n) * time.Millisecond
}

func TestEndedLeaseDoesNotFill(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	name := s.testName("k")
	reply, err := s.Lease(t.Context(), name, token('a'), time.Millisecond)
	if err != nil || !reply.Granted {
		t.Fatalf("Lease = %+v, %v", reply, err)
	}
	if life := ttl(t, s, name); life <= 0 || life > time.Millisecond+leaseMargin {
		t.Fatalf("a lease of 1ms lives %v", life)
	}
	wait(t, 10*time.Millisecond)
	if got := filled(t, s, name, token('a'), 10); got != fence.LeaseEnded {
		t.Fatalf("Fill after the lease's end = %v", got)
	}
	leased(t, s, name, token('b'))
}

func wait(tb testing.TB, d time.Duration) {
	tb.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-tb.Context().Done():
		tb.Fatal(tb.Context().Err())
	}
}

func TestScriptsAreFlushed(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Start(t))
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	for i := range 3 {
		if err := s.client.Do(t.Context(), s.client.B().ScriptFlush().Build()).Error(); err != nil {
			t.Fatal(err)
		}
		name := s.testName(strconv.Itoa(i))
		if reply := leased(t, s, name, token('a')); !reply.HeadFound {
			t.Fatal("no HEAD with the lease")
		}
		if err := s.client.Do(t.Context(), s.client.B().ScriptFlush().Build()).Error(); err != nil {
			t.Fatal(err)
		}
		if got := filled(t, s, name, token('a'), 10); got != fence.Filled {
			t.Fatalf("Fill = %v", got)
		}
		if _, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: head.Wc + 1, Si: sees(11), Names: []string{name}, Advance: head.Wc + 1}); err != nil {
			t.Fatal(err)
		}
		head.Wc++
	}
}

func TestApplyOfManyNames(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	// More than one pipeline, and not a round number.
	names := make([]string, unlinksPerPipeline*namesPerUnlink+123)
	for i := range names {
		names[i] = s.testName(strconv.Itoa(i))
		if i%1000 == 0 {
			leased(t, s, names[i], token('a'))
		}
	}
	result, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 200, Si: sees(20), Names: names, Advance: 200})
	if want := int64(len(names)/1000 + 1); err != nil || result.Removed != want {
		t.Fatalf("Apply = %+v, %v; want %d unlinked", result, err, want)
	}
	if got, _, err := s.Head(t.Context()); err != nil || got.Wc != 200 {
		t.Fatalf("HEAD = %+v, %v", got, err)
	}
}

func TestForeignValueCountsAsAbsent(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	name := s.testName("k")
	if err := s.client.Do(t.Context(), s.client.B().Set().Key(name).Value("somebody else's").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Get(t.Context(), name); err != nil || r.State != fence.None {
		t.Fatalf("Get = %+v, %v", r, err)
	}
	leased(t, s, name, token('a'))
	if got := filled(t, s, name, token('a'), 10); got != fence.Filled {
		t.Fatalf("Fill = %v", got)
	}
}

func TestSweepAndDrop(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	other := openNamespace(t, redistest.Shared(t), s.namespace+"x")
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	if err := c.Move(t.Context(), expect(head), []byte(`{"generation":"x"}`), 2, "p"); err != nil {
		t.Fatal(err)
	}
	for i := range 1200 {
		leased(t, s, s.testName(strconv.Itoa(i)), token('a'))
	}
	live := s.prefix() + generation + ":live.v.a:"
	leased(t, s, live+"1", token('a'))
	leased(t, other, other.testName("1"), token('a'))
	used, unused := Use{Entry: "live", Definition: "d"}, Use{Entry: "dead", Definition: "d"}
	for _, u := range []Use{used, unused} {
		if err := s.Register(t.Context(), u, "a library", time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	later := s.prefix() + "what a later version keeps"
	if err := s.client.Do(t.Context(), s.client.B().Set().Key(later).Value("x").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	alive := func() Live { return Live{Prefixes: []string{live}, Retained: []Use{used}} }
	if n, err := s.Sweep(t.Context(), alive); err != nil || n != 1201 {
		t.Fatalf("Sweep = %d, %v; want 1200 records and a registration", n, err)
	}
	if _, found, err := s.Head(t.Context()); err != nil || !found {
		t.Fatalf("HEAD after Sweep: %v, %v", found, err)
	}
	if n, err := s.DropAll(t.Context()); err != nil || n != 5 {
		t.Fatalf("DropAll = %d, %v; want HEAD, roster, one record, a registration and another key", n, err)
	}
	if r, err := other.Get(t.Context(), other.testName("1")); err != nil || r.Lease.IsZero() {
		t.Fatalf("another namespace's record = %+v, %v", r, err)
	}
}

func TestMove(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	roster := func(revision int) []byte {
		return fmt.Appendf(nil, `{"format":1,"generation":%q,"term":%q,"revision":%d,"entries":{}}`, generation, head.Term, revision)
	}
	if err := c.Move(t.Context(), expect(head), roster(2), 2, "q"); err != nil {
		t.Fatal(err)
	}
	text, found, err := s.Roster(t.Context())
	if err != nil || !found || !bytes.Equal(text, roster(2)) {
		t.Fatalf("Roster = %s, %v, %v", text, found, err)
	}
	got, _, err := s.Head(t.Context())
	if err != nil || got.Revision != 2 || got.Publication != "q" {
		t.Fatalf("HEAD = %+v, %v", got, err)
	}
	if err := c.Move(t.Context(), expect(head), roster(1), 1, "q"); !errors.Is(err, ErrRevision) {
		t.Fatalf("Move to a lower revision = %v", err)
	}
	late := connect(t, s)
	if _, _, err := late.Claim(t.Context(), fence.NewTerm(1, 11)); err != nil {
		t.Fatal(err)
	}
	if err := c.Move(t.Context(), expect(head), roster(3), 3, "q"); !errors.Is(err, ErrSuperseded) {
		t.Fatalf("Move by an older daemon = %v", err)
	}
	if text, _, err := s.Roster(t.Context()); err != nil || !bytes.Equal(text, roster(2)) {
		t.Fatalf("the older daemon's roster is stored: %s, %v", text, err)
	}
}

// T22: a daemon that was stopped and goes on after another took over writes nothing.
func TestTheOlderDaemonIsRefused(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	older, later := connect(t, s), connect(t, s)
	head := begin(t, older, fence.NewTerm(1, 10))
	got, found, err := later.Claim(t.Context(), fence.NewTerm(1, 11))
	if err != nil || !found || got.Wc != 100 || got.Term != fence.NewTerm(1, 11) {
		t.Fatalf("Claim = %+v, %v, %v", got, found, err)
	}
	before, _, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := older.Apply(t.Context(), Batch{Expect: expect(head), Wi: 500, Si: sees(50), Advance: 500}); !errors.Is(err, ErrSuperseded) {
		t.Errorf("Apply by the older daemon = %v", err)
	}
	if _, _, err := older.Claim(t.Context(), fence.NewTerm(1, 10)); !errors.Is(err, ErrSuperseded) {
		t.Errorf("Claim by the older daemon = %v", err)
	}
	if err := older.NewGeneration(t.Context(), head); !errors.Is(err, ErrSuperseded) {
		t.Errorf("NewGeneration by the older daemon = %v", err)
	}
	after, _, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("HEAD changed (-before +after):\n%s", diff)
	}
	head.Term = fence.NewTerm(1, 11)
	if _, err := later.Apply(t.Context(), Batch{Expect: expect(head), Wi: 200, Si: sees(20), Advance: 200}); err != nil {
		t.Errorf("Apply by the later daemon: %v", err)
	}
}

func TestMismatchSaysWhatIsThere(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	tests := []struct {
		name   string
		change func(*Expected)
	}{
		{"other generation", func(e *Expected) { e.Generation = "00000000000000ab" }},
		{"history lost", func(e *Expected) { e.Wc = 101 }},
		{"term lost", func(e *Expected) { e.Term = fence.NewTerm(1, 11) }},
	}
	for _, tt := range tests {
		e := expect(head)
		tt.change(&e)
		_, err := c.Apply(t.Context(), Batch{Expect: e, Wi: 200, Si: sees(20), Advance: 200})
		var mismatch *MismatchError
		if !errors.As(err, &mismatch) || !mismatch.Found || mismatch.Head.Wc != 100 || mismatch.Replid != c.Replid() || len(c.Replid()) != 40 {
			t.Errorf("%s: Apply = %v", tt.name, err)
		}
	}
	e := expect(head)
	e.Wc = 99
	if _, err := c.Apply(t.Context(), Batch{Expect: e, Wi: 200, Si: sees(20), Advance: 200}); !errors.Is(err, ErrSuperseded) {
		t.Errorf("somebody confirmed more: Apply = %v, want ErrSuperseded", err)
	}
	got, _, err := s.Head(t.Context())
	if err != nil || got.Wc != 100 || got.Wi != 100 {
		t.Errorf("HEAD = %+v, %v", got, err)
	}
	if _, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 150, All: true, Si: mvcc.Snapshot{Xmin: 9, Xmax: 12, Xip: []mvcc.XID{9}}}); err != nil {
		t.Fatal(err)
	}
	// Si sees 9 since the beginning, and 11 since now.
	if got, _, err := s.Head(t.Context()); err != nil || got.Wc != 100 || got.Wi != 150 || !got.Si.Sees(9) || !got.Si.Sees(11) {
		t.Errorf("HEAD after INTENT alone = %+v, %v", got, err)
	}
}

// TestReplaceTakesOnlyTheTermThatWasJudged replaces a HEAD of another history, whose term is higher, and nothing else.
func TestReplaceTakesOnlyTheTermThatWasJudged(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	c, err := s.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	foreign, ours := fence.NewTerm(9, 9), fence.NewTerm(1, 5)
	head := func(term fence.Term) fence.Head {
		return fence.Head{Generation: "0123456789abcdef", Term: term, Si: mvcc.Snapshot{Xmin: 3, Xmax: 3}}
	}
	if err := c.NewGeneration(t.Context(), head(foreign)); err != nil {
		t.Fatal(err)
	}
	if err := c.NewGeneration(t.Context(), head(ours)); !errors.Is(err, ErrSuperseded) {
		t.Errorf("NewGeneration() = %v over a higher term", err)
	}
	if err := c.Replace(t.Context(), head(ours), fence.NewTerm(9, 8)); !errors.Is(err, ErrSuperseded) {
		t.Errorf("Replace() = %v over another term than was judged", err)
	}
	if err := c.Replace(t.Context(), head(ours), foreign); err != nil {
		t.Errorf("Replace() = %v", err)
	}
	if got, _, err := s.Head(t.Context()); err != nil || got.Term != ours {
		t.Errorf("Head() = %v, %v", got.Term, err)
	}
	shard := fence.Shard{Found: true, Head: head(foreign)}
	for _, judged := range []fence.Term{fence.NewTerm(9, 8), foreign} {
		_, outcome := fence.Replace(shard, head(ours), judged)
		if want := judged == foreign; (outcome == fence.Applied) != want {
			t.Errorf("fence.Replace(%s) = %v", judged, outcome)
		}
	}
}
