package storetest

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/mvcc"
)

// HeadEqualsFence gives random commands about HEAD, to a new store each time.
func HeadEqualsFence(t *testing.T, open Open) {
	t.Helper()
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		o := open(t, run)
		defer o.Close()
		c, err := o.Connect(t.Context())
		if err != nil {
			rt.Fatal(err)
		}
		defer c.Close()
		if _, _, err := c.Claim(t.Context(), "0"); err != nil {
			rt.Fatal(err)
		}
		h := &headRun{Opened: o, ctx: t.Context(), conn: c, replid: replid(t, o)}
		h.twin.Replid = h.replid
		rt.Repeat(map[string]func(*rapid.T){
			"claim": h.claim, "begin": h.begin, "apply": h.apply, "move": h.move, "evict": h.evict, "move the lane": h.stray,
			"lease": h.lease, "": h.same,
		})
	})
}

// headRun is one store, and what fence has for its HEAD.
type headRun struct {
	*Opened
	ctx    context.Context //nolint:containedctx // of the test
	conn   pipeline.Conn
	replid string
	twin   fence.Shard
}

// replid is the name of the history that the tested lane is in.
func replid(t *testing.T, o *Opened) string {
	t.Helper()
	if o.LaneReplid != nil {
		return o.LaneReplid()
	}
	id, err := o.Store.Replid(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func terms() *rapid.Generator[fence.Term] {
	return rapid.SampledFrom([]fence.Term{fence.NewTerm(1, 9), fence.NewTerm(1, 1<<60), fence.NewTerm(2, 3)})
}

func generations() *rapid.Generator[string] {
	return rapid.SampledFrom([]string{generation, "00000000000000bb"})
}

func positions() *rapid.Generator[mvcc.LSN] {
	return rapid.Map(rapid.Uint64Range(1, 12), func(n uint64) mvcc.LSN { return mvcc.LSN(n << 58) })
}

// expected is what the daemon believes: mostly what is right, since what is refused is soon seen.
func (h *headRun) expected(t *rapid.T) (asked store.Expected, judged fence.Expected) {
	e := store.Expected{Generation: h.twin.Head.Generation, Term: h.twin.Head.Term, Wc: h.twin.Head.Wc}
	id, lane := h.replid, h.twin.Head.Lane
	switch rapid.IntRange(0, 11).Draw(t, "wrong") {
	case 0:
		e.Generation = generations().Draw(t, "generation")
	case 1:
		e.Term = terms().Draw(t, "term")
	case 2:
		e.Wc = positions().Draw(t, "wc")
	case 3:
		if h.Believe != nil {
			id = "another history"
		}
	case 4:
		if h.Believe != nil {
			lane = "another"
		}
	}
	if h.Believe != nil {
		h.Believe(h.conn, id, lane)
	}
	return e, fence.Expected{Generation: e.Generation, Term: e.Term, Wc: e.Wc, Replid: id, Lane: lane}
}

func (h *headRun) claim(t *rapid.T) {
	term := terms().Draw(t, "term")
	head, found, err := h.conn.Claim(h.ctx, term)
	var outcome fence.HeadOutcome
	h.twin, outcome = fence.Claim(h.twin, term)
	if outcome == fence.Superseded != errors.Is(err, store.ErrSuperseded) || found != h.twin.Found || err != nil && outcome != fence.Superseded {
		t.Fatalf("Claim = %+v, %v, %v; fence says %v", head, found, err, outcome)
	}
}

func (h *headRun) begin(t *rapid.T) {
	head := fence.Head{
		Generation: generations().Draw(t, "generation"), Term: terms().Draw(t, "term"), Revision: 1, System: "7", Timeline: 1,
		Publication: "p", Wi: positions().Draw(t, "wi"), Si: snapshots().Draw(t, "si"),
	}
	head.Wc = head.Wi
	err := h.conn.NewGeneration(h.ctx, head)
	if h.LaneOf != nil {
		head.Lane = h.LaneOf(h.conn)
	}
	var outcome fence.HeadOutcome
	h.twin, outcome = fence.Begin(h.twin, head)
	check(t, "NewGeneration", err, outcome, h.twin)
}

func (h *headRun) apply(t *rapid.T) {
	e, f := h.expected(t)
	b := store.Batch{
		Expect: e, Wi: positions().Draw(t, "wi"), Si: snapshots().Draw(t, "si"), All: rapid.IntRange(0, 3).Draw(t, "all") == 0,
	}
	some := func(what string) (names []string) {
		for range rapid.IntRange(0, 3).Draw(t, what) {
			names = append(names, h.Name(strconv.Itoa(rapid.IntRange(0, 4).Draw(t, "key"))))
		}
		return names
	}
	b.Names, b.Epochs = some("keys"), some("epochs")
	if rapid.IntRange(0, 9).Draw(t, "many epochs") == 0 {
		for i := range store.RaisedAtMost + 50 {
			b.Epochs = append(b.Epochs, h.Name(strconv.Itoa(i)))
		}
	}
	if rapid.Bool().Draw(t, "advance") {
		b.Advance = positions().Draw(t, "advance")
		if rapid.Bool().Draw(t, "with sa") {
			b.Sa = snapshots().Draw(t, "sa")
			b.Ticks[h.Lane] = ticks().Draw(t, "tick")
		}
	}
	_, err := h.conn.Apply(h.ctx, b)
	var outcome fence.HeadOutcome
	h.twin, outcome = fence.Intent(h.twin, f, b.Raise(b.Names, b.Epochs, nil), b.Si)
	if b.Advance != 0 && outcome == fence.Applied {
		h.twin, outcome = fence.Advance(h.twin, f, b.Advance, b.Sa, b.Ticks[h.Lane])
	}
	check(t, "Apply", err, outcome, h.twin)
}

func (h *headRun) move(t *rapid.T) {
	e, f := h.expected(t)
	revision := rapid.Uint64Range(1, 4).Draw(t, "revision")
	err := h.conn.Move(h.ctx, e, []byte("no roster, so that only HEAD decides"), revision, "q")
	var outcome fence.HeadOutcome
	h.twin, outcome = fence.Move(h.twin, f, revision, "q")
	check(t, "Move", err, outcome, h.twin)
}

func (h *headRun) evict(t *rapid.T) {
	if err := h.Evict(); err != nil {
		t.Fatal(err)
	}
	h.twin.Head, h.twin.Found = fence.Head{}, false
}

func (h *headRun) stray(t *rapid.T) {
	if h.Stray == nil || h.twin.Head.At == "" || rapid.IntRange(0, 3).Draw(t, "rarely") > 0 {
		return
	}
	if err := h.Stray(); err != nil {
		t.Fatal(err)
	}
	h.twin.Head.At = "elsewhere"
}

// lease shows what a reader judges its load by.
func (h *headRun) lease(t *rapid.T) {
	name := h.Name(strconv.Itoa(rapid.IntRange(0, 9).Draw(t, "key")))
	reply, err := h.Store.Lease(h.ctx, name, Token('a'), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	want, found := h.twin.Head.For(fence.BucketOf(name)), h.twin.Found
	if h.twin.Head.At != "" && h.twin.Head.At != h.replid { // it vouches for nothing
		want, found = fence.Head{}, false
	}
	if reply.HeadFound != found || reply.Head.Wi != want.Wi || !reply.Head.Si.Dominates(want.Si) || !want.Si.Dominates(reply.Head.Si) {
		t.Fatalf("Lease answers HEAD %+v, fence has %+v", reply.Head, want)
	}
}

func (h *headRun) same(t *rapid.T) {
	got, err := h.Head()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	if h.twin.Found {
		want = Fields(&h.twin.Head)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("HEAD (-fence +stored):\n%s", diff)
	}
}

// Fields are HEAD's fields by name.
func Fields(h *fence.Head) map[string]string {
	fields, all := h.Fields(), map[string]string{}
	for i := 0; i < len(fields); i += 2 {
		all[fields[i]] = fields[i+1]
	}
	return all
}

func check(t *rapid.T, what string, err error, outcome fence.HeadOutcome, twin fence.Shard) {
	t.Helper()
	var mismatch *store.MismatchError
	switch outcome {
	case fence.Applied:
		if err != nil {
			t.Fatalf("%s = %v, fence says %v", what, err, outcome)
		}
	case fence.Superseded:
		if !errors.Is(err, store.ErrSuperseded) {
			t.Fatalf("%s = %v, fence says %v", what, err, outcome)
		}
	default:
		if !errors.As(err, &mismatch) {
			t.Fatalf("%s = %v, fence says %v", what, err, outcome)
		}
		if mismatch.Found != twin.Found || mismatch.Replid != twin.Replid {
			t.Fatalf("%s = %+v, want found %v, replication id %s", what, mismatch, twin.Found, twin.Replid)
		}
		if got, want := strings.Join(mismatch.Head.Fields(), " "), strings.Join(twin.Head.Fields(), " "); got != want {
			t.Fatalf("%s answers HEAD\n%s, fence has\n%s", what, got, want)
		}
	}
}
