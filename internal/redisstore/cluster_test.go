package redisstore

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/mvcc"
)

// nameIn is a record's name in a lane of a cluster.
func (s *Store) nameIn(c *Conn, lane int, key string) string {
	for i := 0; ; i++ {
		if text := key + strconv.Itoa(i); fence.LaneOf(text) == lane {
			return s.laneKey(lane, c.Generations()[lane]+":e.v.a:"+text)
		}
	}
}

func TestClusterReadThrough(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, false)
	s, err := Open(t.Context(), Options{URL: cluster.URL, Namespace: redistest.Namespace(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	var names []string
	for lane := range fence.Lanes {
		name := s.nameIn(c, lane, "k")
		reply := leased(t, s, name, token('a'))
		if !reply.HeadFound || reply.Head.Generation != generation || reply.Head.Lane != c.Generations()[lane] {
			t.Fatalf("lane %d: LEASE answers HEAD %+v", lane, reply.Head)
		}
		if got := filled(t, s, name, token('a'), 10); got != fence.Filled {
			t.Fatalf("lane %d: Fill = %v", lane, got)
		}
		names = append(names, name)
	}
	result, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 200, Si: sees(20), Names: names, Advance: 200, Sa: sees(20)})
	if err != nil || result.Removed != fence.Lanes {
		t.Fatalf("Apply = %+v, %v", result, err)
	}
	for lane, name := range names {
		h, found, held, err := s.ReadWithHead(t.Context(), name, nil)
		if err != nil || !found || h.Wc != 200 || held.Text != nil {
			t.Errorf("lane %d: HEAD %+v, %v, record %q, %v", lane, h, found, held.Text, err)
		}
	}
	joined, found, err := s.Head(t.Context())
	if err != nil || !found || joined.Wc != 200 || len(joined.Lanes) != fence.Lanes {
		t.Errorf("HEAD = %+v, %v, %v", joined, found, err)
	}
}

func TestNodesOfACluster(t *testing.T) {
	t.Parallel()
	const text = "txt:aa 10.0.0.1:6379@16379,one.example master - 0 1 7 connected 0-600 900 [1536->-bb]\n" +
		"bb :6380@16380 myself,master - 0 0 8 connected 601-899 901-16383 [1536-<-aa]\n" +
		"cc [fd00::2]:6379@16379 slave aa 0 1 7 connected\n" +
		"dd 10.0.0.4:6379@16379 master,fail - 1 1 3 disconnected\n"
	got, err := parseNodes(text, "host")
	want := []member{
		{id: "aa", address: "10.0.0.1:6379", epoch: 7, slots: 602, owns: [fence.Lanes]bool{true}},
		{id: "bb", address: "host:6380", epoch: 8, slots: 299 + 15483},
		{id: "cc", address: "[fd00::2]:6379", of: "aa", epoch: 7},
		{id: "dd", address: "10.0.0.4:6379", epoch: 3, failed: true},
	}
	for lane := 1; lane < fence.Lanes; lane++ {
		want[1].owns[lane] = true
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(member{})); diff != "" || err != nil {
		t.Errorf("nodes (-want +got), %v:\n%s", err, diff)
	}
	for _, wrong := range []string{"aa 10.0.0.1:6379@1 master - 0 1 7\n", "aa nowhere master - 0 1 7 connected\n", "aa h:1@2 master - 0 1 x connected\n", "aa h:1@2 master - 0 1 7 connected a-b\n"} {
		if got, err := parseNodes(wrong, "host"); err == nil {
			t.Errorf("%q is read as %+v", wrong, got)
		}
	}
}

// TestLatestOwnerIsBelieved: of two nodes that claim a lane, the one with the later configuration has it, whoever is asked first; an
// earlier one only when the later is in doubt.
func TestLatestOwnerIsBelieved(t *testing.T) {
	t.Parallel()
	claim := func(id string, epoch uint64) []member {
		return []member{{id: id, epoch: epoch, owns: [fence.Lanes]bool{3: true}}}
	}
	for _, order := range [][]string{{"old", "new"}, {"new", "old"}} {
		var now table
		for _, id := range order {
			believe(&now, claim(id, map[string]uint64{"old": 1, "new": 2}[id]))
		}
		if got := now.lanes[3].id; got != "new" {
			t.Errorf("asked %v, lane 3 is %q's", order, got)
		}
		now.lanes[3].epoch = 0 // in doubt
		believe(&now, claim("old", 1))
		if now.lanes[3].id != "old" {
			t.Errorf("in doubt lane 3 is %q's", now.lanes[3].id)
		}
	}
}

// clustered is a store in a cluster of three masters, with a daemon that has begun a generation.
func clusterStore(t *testing.T) (*redistest.Cluster, *Store, *Conn, fence.Head) {
	t.Helper()
	cluster := redistest.StartCluster(t, 3, false)
	s, err := Open(t.Context(), Options{URL: cluster.URL, Namespace: redistest.Namespace(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	c := connect(t, s)
	return cluster, s, c, begin(t, c, fence.NewTerm(1, 10))
}

// cached stores a value in each lane, which saw 10, and returns the names.
func (s *Store) cached(t *testing.T, c *Conn) []string {
	t.Helper()
	names := make([]string, fence.Lanes)
	for lane := range names {
		names[lane] = s.nameIn(c, lane, "k")
		leased(t, s, names[lane], token('a'))
		if got := filled(t, s, names[lane], token('a'), 10); got != fence.Filled {
			t.Fatalf("lane %d: Fill = %v", lane, got)
		}
	}
	return names
}

// isLive reports whether a record has a value.
func (s *Store) isLive(t *testing.T, name string) bool {
	t.Helper()
	r, err := s.Get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return r.State.Live()
}

// T16, T23: while one node has not answered INTENT, nothing is confirmed on any.
func TestIntentOnAllLanesComesFirst(t *testing.T) {
	t.Parallel()
	cluster, s, c, head := clusterStore(t)
	names := s.cached(t, c)
	cluster.Masters[2].Freeze(t)
	done := make(chan error, 1)
	go func() {
		_, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 200, Si: sees(20), Names: names, Advance: 200})
		done <- err
	}()
	wait(t, 300*time.Millisecond)
	select {
	case err := <-done:
		t.Fatalf("Apply = %v while a node stands still", err)
	default:
	}
	if !s.isLive(t, names[0]) {
		t.Error("a key of another node was confirmed before every lane knew of the intent")
	}
	if h, _, _, err := s.ReadWithHead(t.Context(), names[0], nil); err != nil || h.Si.Xmax != 20 || h.Wc != 100 {
		t.Errorf("HEAD of the lane = %+v, %v, want the intent alone", h, err)
	}
	cluster.Masters[2].Thaw(t)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for lane, name := range names {
		if s.isLive(t, name) {
			t.Errorf("lane %d still has its value", lane)
		}
	}
}

// A lane without keys in a batch is told of it by ADVANCE alone, which reads its tick as well. INTENT goes to all of them when the floors of all
// buckets rise, and when there is no ADVANCE that would compare their HEADs.
func TestIntentGoesWhereKeysAre(t *testing.T) {
	t.Parallel()
	cluster, s, c, head := clusterStore(t)
	names := s.cached(t, c)
	heads := func() (all []fence.Head) {
		t.Helper()
		for lane, h := range s.Heads(t.Context()) {
			if h.Err != nil || !h.Found {
				t.Fatalf("lane %d: %v, %v", lane, h.Found, h.Err)
			}
			all = append(all, h.Head)
		}
		return all
	}
	for lane := range fence.Lanes {
		if _, err := s.Tick(t.Context(), lane); err != nil {
			t.Fatal(err)
		}
	}
	result, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 200, Si: sees(20), Names: names[3:4], Advance: 200, Sa: sees(20)})
	if err != nil || result.Removed != 1 {
		t.Fatalf("Apply = %+v, %v", result, err)
	}
	head.Wc = 200
	for lane, h := range heads() {
		if h.Wc != 200 || h.Sa.Xmax != 20 || (lane == 3) != (h.Si.Xmax == 20) {
			t.Errorf("a batch with a key in lane 3 leaves %+v in lane %d", h, lane)
		}
		if result.Ticks[lane].N != 1 {
			t.Errorf("the tick of lane %d is %v", lane, result.Ticks[lane])
		}
	}
	if _, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 300, Si: sees(30), All: true, Advance: 200}); err != nil {
		t.Fatal(err)
	}
	for lane, h := range heads() {
		if h.Si.Xmax != 30 || h.Wi != 300 {
			t.Errorf("the floors of all buckets rise, and lane %d has %+v", lane, h)
		}
	}
	result, err = c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 400, Si: sees(40), Names: names[4:5]})
	if err != nil {
		t.Fatal(err)
	}
	for lane, h := range heads() {
		if h.Si.Xmax != 40 || h.Wc != 200 || result.Ticks[lane].N != 1 {
			t.Errorf("without ADVANCE lane %d has %+v, tick %v", lane, h, result.Ticks[lane])
		}
	}
	// What INTENT does not meet, ADVANCE does, and what neither is sent to is not left to chance.
	cluster.Open(t, fence.Slot(7), cluster.Masters[1], cluster.Masters[0])
	cluster.Open(t, fence.Slot(12), cluster.Masters[2], cluster.Masters[0])
	lost := func(b Batch, want int) {
		t.Helper()
		b.Expect, b.Wi, b.Si, b.Names = expect(head), 500, sees(50), names[3:4]
		if _, err := c.Apply(t.Context(), b); err != nil || c.Closed() != want {
			t.Errorf("Apply = %v, %d lanes closed, want %d", err, c.Closed(), want)
		}
	}
	lost(Batch{Advance: 500}, 2)
	head.Wc = 500
	cluster.Open(t, fence.Slot(6), cluster.Masters[1], cluster.Masters[0])
	lost(Batch{}, 3)
}

// A node that hangs holds the others up once, for nodeTimeout, and its lanes are lost. What it does later of what it had been sent is
// without effect on the lanes as they are begun anew.
func TestNodeThatHangs(t *testing.T) {
	t.Parallel()
	cluster, s, c, head := clusterStore(t)
	names := s.cached(t, c)
	hangs := cluster.Masters[2]
	before := c.Generations()
	batch := func(to uint64, some ...string) Batch {
		return Batch{Expect: expect(head), Wi: mvcc.LSN(to), Si: sees(mvcc.XID(to)), Names: some, Advance: mvcc.LSN(to), Sa: sees(mvcc.XID(to))}
	}
	apply := func(b Batch) (time.Duration, Result) {
		t.Helper()
		began := time.Now()
		result, err := c.Apply(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		head.Wc = b.Advance
		return time.Since(began), result
	}
	hangs.Freeze(t)
	// ADVANCE alone goes to the lanes of the node that hangs; the keys of others are not held up at all.
	took, result := apply(batch(200, names[0]))
	if took < nodeTimeout || took > 4*nodeTimeout || result.Removed != 1 {
		t.Errorf("a batch takes %v and removes %d", took, result.Removed)
	}
	lost := c.Closed()
	if lost != 5 {
		t.Fatalf("%d lanes are lost", lost)
	}
	anew, least := head, time.Hour
	for i := range 5 {
		anew.Wc, anew.Wi, anew.Si = head.Wc, head.Wc, sees(mvcc.XID(head.Wc))
		began := time.Now()
		if opened, err := c.Mend(t.Context(), anew, []byte("{}")); opened != 0 || err != nil {
			t.Fatalf("Mend = %d, %v", opened, err)
		}
		apply(batch(300+uint64(i), names...))
		least = min(least, time.Since(began))
	}
	if least > nodeTimeout/2 { // the machine may hold one of them up, and the node that hangs would hold up all
		t.Errorf("each of the batches after that takes at least %v beside a node that hangs", least)
	}
	for lane, name := range names[:11] {
		if h, _, held, err := s.ReadWithHead(t.Context(), name, nil); err != nil || h.Wc != head.Wc || held.Text != nil {
			t.Errorf("lane %d has %+v and %q, %v", lane, h, held.Text, err)
		}
	}
	hangs.Thaw(t)
	testkit.Eventually(t, 10*time.Second, func() error {
		anew.Wc, anew.Wi, anew.Si = head.Wc, head.Wc, sees(mvcc.XID(head.Wc))
		if _, err := c.Mend(t.Context(), anew, []byte("{}")); err != nil {
			t.Fatal(err)
		}
		if c.Closed() > 0 {
			return fmt.Errorf("%d lanes are closed", c.Closed())
		}
		return nil
	})
	apply(batch(400))
	for lane, h := range s.Heads(t.Context()) {
		if own := c.Generations()[lane]; h.Head.Lane != own || h.Head.Wc != 400 || (own == before[lane]) != (lane < 11) {
			t.Errorf("lane %d has %+v, its generation is %s", lane, h.Head, own)
		}
	}
}

// A HEAD that was begun by a command of the past, which a node did when nobody waited for it any more, is not the lane's.
func TestGenerationOfALaneIsCompared(t *testing.T) {
	t.Parallel()
	for name, step := range map[string]func(c *Conn, head fence.Head) error{
		"intent": func(c *Conn, head fence.Head) error {
			_, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 200, Si: sees(20)})
			return err
		},
		"advance": func(c *Conn, head fence.Head) error {
			_, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 200, Si: sees(20), Advance: 200})
			return err
		},
		"idle": func(c *Conn, _ fence.Head) error {
			_, err := c.Ticks(t.Context())
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, s, c, head := clusterStore(t)
			late := connect(t, s)
			if err := late.begin(t.Context(), late.lanes[7:8], head, ""); err != nil {
				t.Fatal(err)
			}
			if err := step(c, head); err != nil || c.Closed() != 1 || c.lanes[7].open {
				t.Errorf("%v, %d lanes closed", err, c.Closed())
			}
		})
	}
}

// A lane whose slot is on the move is lost, and only it: the others are applied to. It is begun anew where it comes to lie, under a
// generation of its own, and not before it has.
func TestLaneOnTheMoveIsLost(t *testing.T) {
	t.Parallel()
	cluster, s, c, head := clusterStore(t)
	const lane = 7
	names := s.cached(t, c)
	before := c.Generations()
	move := cluster.Open(t, fence.Slot(lane), cluster.Masters[1], cluster.Masters[0])
	if _, err := s.Lease(t.Context(), names[lane], token('b'), time.Minute); err == nil {
		t.Error("a reader is told a HEAD out of a slot that is on the move")
	}
	result, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 200, Si: sees(20), Names: names, Advance: 200})
	if err != nil || c.Closed() != 1 || result.Removed != fence.Lanes-1 {
		t.Fatalf("Apply = %+v, %v, %d lanes closed", result, err, c.Closed())
	}
	head.Wc = 200
	anew := head
	anew.Wi, anew.Si = 300, sees(30)
	if opened, err := c.Mend(t.Context(), anew, []byte("{}")); opened != 0 || err != nil {
		t.Errorf("Mend = %d, %v while the slot is on the move", opened, err)
	}
	move.Finish(t)
	testkit.Eventually(t, 10*time.Second, func() error {
		opened, err := c.Mend(t.Context(), anew, []byte("{}"))
		if opened != 1 || err != nil {
			return fmt.Errorf("Mend = %d, %w", opened, err)
		}
		return nil
	})
	after := c.Generations()
	for i := range after {
		if (after[i] == before[i]) != (i != lane) {
			t.Errorf("lane %d: generation %s after %s", i, after[i], before[i])
		}
	}
	name := s.nameIn(c, lane, "k")
	reply := leased(t, s, name, token('c'))
	if !reply.HeadFound || reply.Head.Wc != 200 || reply.Head.Wi != 300 || reply.Head.Lane != after[lane] || reply.Head.Revision != head.Revision {
		t.Errorf("HEAD of the lane begun anew = %+v, %v", reply.Head, reply.HeadFound)
	}
	if _, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 400, Si: sees(40), Names: []string{name}, Advance: 400}); err != nil || c.Closed() != 0 {
		t.Errorf("Apply = %v, %d lanes closed", err, c.Closed())
	}
	if got := filled(t, s, name, token('c'), 50); got != fence.NoLease {
		t.Errorf("Fill under a lease that was confirmed away = %v", got)
	}
}

// A move that is given up brings the lane back to where it was, HEAD and all: but the daemon that met it has given the lane up, and another that
// takes over then has to know.
func TestMoveThatIsGivenUp(t *testing.T) {
	t.Parallel()
	for name, words := range map[string][]string{"head stayed": nil, "head went": {"REPLACE"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster, s, c, head := clusterStore(t)
			const lane = 7
			from, to := cluster.Masters[1], cluster.Masters[0]
			move := cluster.Open(t, fence.Slot(lane), from, to)
			if words != nil {
				move.Key(t, s.headKey(lane), words...)
			}
			if _, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 200, Si: sees(20), Advance: 200}); err != nil || c.Closed() != 1 {
				t.Fatalf("Apply = %v, %d lanes closed", err, c.Closed())
			}
			anew := head
			anew.Wi, anew.Si = 300, sees(30)
			if opened, err := c.Mend(t.Context(), anew, []byte("{}")); opened != 0 || err != nil {
				t.Fatalf("Mend = %d, %v", opened, err)
			}
			for _, s := range []*redistest.Server{from, to} {
				keys, err := s.Ask(t, "CLUSTER", "GETKEYSINSLOT", strconv.Itoa(fence.Slot(lane)), "10").AsStrSlice()
				if err != nil || slices.ContainsFunc(keys, func(key string) bool { return strings.HasSuffix(key, ":head") }) {
					t.Errorf("node %s has %v, %v", s.Addr, keys, err)
				}
			}
			move.Cancel(t)
			next := connect(t, s)
			if _, found, err := next.Claim(t.Context(), fence.NewTerm(1, 11)); err != nil || !found || next.Closed() != 1 {
				t.Errorf("Claim = %v, %v, %d lanes closed", found, err, next.Closed())
			}
		})
	}
}

// A daemon that was superseded in one lane steps down, whatever the others say.
func TestSupersededInOneLane(t *testing.T) {
	t.Parallel()
	_, s, c, head := clusterStore(t)
	later := connect(t, s)
	later.lanes = later.lanes[4:5]
	if _, _, err := later.Claim(t.Context(), fence.NewTerm(1, 11)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 200, Si: sees(20), Advance: 200}); !errors.Is(err, ErrSuperseded) {
		t.Errorf("Apply = %v", err)
	}
	if _, _, err := connect(t, s).Claim(t.Context(), head.Term); !errors.Is(err, ErrSuperseded) {
		t.Errorf("Claim = %v", err)
	}
}

// A daemon that was stopped half-way has left lanes behind: with less confirmed, which is where the next one goes on; of an earlier
// generation, which are given up; or, of one term, of two, which nobody can choose between.
func TestLanesLeftBehind(t *testing.T) {
	t.Parallel()
	_, s, c, head := clusterStore(t)
	some := connect(t, s)
	some.lanes = some.lanes[:1]
	some.lanes[0].generation = c.Generations()[0]
	if _, _, err := some.Claim(t.Context(), head.Term); err != nil {
		t.Fatal(err)
	}
	if _, err := some.Apply(t.Context(), Batch{Expect: expect(head), Wi: 300, Si: sees(30), Advance: 300}); err != nil {
		t.Fatal(err)
	}
	next := connect(t, s)
	got, found, err := next.Claim(t.Context(), fence.NewTerm(1, 11))
	if err != nil || !found || got.Wc != 100 || next.Closed() != 0 || got.Lanes[0].Wc != 300 {
		t.Fatalf("Claim = %+v, %v, %v, %d lanes closed; want to go on at the lowest", got, found, err, next.Closed())
	}
	got.Term = fence.NewTerm(1, 11)
	if _, err := next.Apply(t.Context(), Batch{Expect: expect(got), Wi: 200, Si: sees(20), Advance: 200}); err != nil || next.Closed() != 0 {
		t.Fatalf("Apply = %v, %d lanes closed", err, next.Closed())
	}
	if h, _, err := s.Head(t.Context()); err != nil || h.Wc != 200 || h.Lanes[0].Wc != 300 {
		t.Errorf("HEAD = %+v, %v; none may go back", h, err)
	}
	other := head
	other.Generation, other.Term = "00000000000000bb", fence.NewTerm(1, 11)
	half := connect(t, s)
	if err := half.begin(t.Context(), half.lanes[:2], other, ""); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Head(t.Context()); !errors.Is(err, ErrSplit) {
		t.Errorf("HEAD of two generations of one term: %v", err)
	}
	if _, _, err := connect(t, s).Claim(t.Context(), fence.NewTerm(1, 12)); !errors.Is(err, ErrSplit) {
		t.Errorf("Claim = %v", err)
	}
}

func TestClusterIsSweptSurveyedAndDropped(t *testing.T) {
	t.Parallel()
	cluster, s, c, _ := clusterStore(t)
	names := s.cached(t, c)
	v, err := s.Survey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	walked := map[string]bool{}
	if err := v.Walk(t.Context(), s.prefix()+"*", func(some []string) error {
		for _, name := range some {
			walked[name] = true
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	held, err := v.Read(t.Context(), names)
	if err != nil {
		t.Fatal(err)
	}
	for lane, name := range names {
		if !walked[name] || !walked[s.headKey(lane)] || !held[lane].Found || len(held[lane].Text) == 0 {
			t.Errorf("lane %d is not surveyed: %+v", lane, held[lane])
		}
	}
	if h, found, err := v.Head(t.Context()); err != nil || !found || h.Wc != 100 {
		t.Errorf("HEAD = %+v, %v, %v", h, found, err)
	}
	// What is left of a slot that was moved is nobody's, and does not hold up the rest.
	move := cluster.Open(t, fence.Slot(7), cluster.Masters[1], cluster.Masters[0])
	move.Key(t, names[7], "COPY")
	move.Cancel(t)
	kept, _, _ := strings.Cut(names[3], "e.v.a:")
	removed, err := s.Sweep(t.Context(), func() Live { return Live{Prefixes: []string{kept}} })
	if err != nil || removed != fence.Lanes-1 || !s.isLive(t, names[3]) || s.isLive(t, names[4]) {
		t.Errorf("Sweep removes %d, %v", removed, err)
	}
	removed, err = s.DropAll(t.Context())
	if err != nil || removed < fence.Lanes {
		t.Errorf("DropAll removes %d, %v", removed, err)
	}
	if _, found, err := s.Head(t.Context()); found || err != nil {
		t.Errorf("HEAD is found: %v, %v", found, err)
	}
}
