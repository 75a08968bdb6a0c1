package apply

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/mvcc"
)

// fences has the applier fence early, as it does when it has taken a part.
func (r *rig) fences() {
	r.t.Helper()
	if err := r.early(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

func fencedBy(x mvcc.XID) string { return "none fence " + strconv.FormatUint(uint64(x), 10) }

// TestEarlyFences: what is cached goes with the delivery of a transaction that nobody sees yet, and the old row is stored by
// nobody until it is visible; other keys stay as they are.
func TestEarlyFences(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Shared(t), 0)
	r.settled()
	r.cached("1", "2")
	x, commit := r.open()
	end := r.part(x, "1")
	r.fences()
	if got := r.record("1"); got != fencedBy(x) {
		t.Errorf("the record is %q, want %q", got, fencedBy(x))
	}
	if got := r.record("2"); got != "live" {
		t.Errorf("another key's record is %q", got)
	}
	if got := r.fills("1"); got != fence.NotCovering {
		t.Errorf("Fill of the old row = %v", got)
	}
	commit()
	r.steps()
	// The lease of the fill that was refused keeps the fence: what is filled under it must contain the transaction.
	if got := r.record("1"); got != fencedBy(x) || r.stored().Wc != end {
		t.Errorf("after the step the record is %q and Wc %v, want %q and %v", got, r.stored().Wc, fencedBy(x), end)
	}
}

// TestEarlyIsForWhatIsFew: behind a backlog, for a large part, and for one that was gated already it is left out.
func TestEarlyIsForWhatIsFew(t *testing.T) {
	t.Parallel()
	many := make([]string, smallKeys+1)
	for i := range many {
		many[i] = strconv.Itoa(i)
	}
	for name, tt := range map[string]struct {
		keys    []string
		prepare func(r *rig)
	}{
		"behind a backlog": {many[:2], func(r *rig) { r.linger = time.Millisecond }},
		"a large part":     {many, func(*rig) {}},
		"gated already":    {many[:2], func(r *rig) { r.steps(); r.settled() }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, pgtest.Shared(t), 0)
			r.settled()
			r.cached("1")
			x, _ := r.open()
			r.part(x, tt.keys...)
			tt.prepare(r)
			r.fences()
			if got := r.record("1"); got != "live" || !r.pending[0].fenced.IsZero() {
				t.Errorf("the record is %q, and the part counts as fenced at %v", got, r.pending[0].fenced)
			}
		})
	}
}

// TestWithdraw: a transaction that stays invisible has its fences taken back after a while, and the old row can be cached
// until it becomes visible; then it goes like any other.
func TestWithdraw(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Shared(t), 0)
	r.settled()
	x, commit := r.open()
	r.part(x, "1")
	r.fences()
	r.steps()
	if got := r.record("1"); got != fencedBy(x) {
		t.Errorf("at once the record is %q, want %q", got, fencedBy(x))
	}
	r.pending[0].fenced = time.Now().Add(-withdrawAfter)
	r.steps()
	if got := r.record("1"); got != "none" || !r.pending[0].fenced.IsZero() {
		t.Errorf("after %v the record is %q", withdrawAfter, got)
	}
	r.cached("1") // the old row
	r.steps()
	if got := r.record("1"); got != "live" {
		t.Errorf("the next look makes the record %q", got)
	}
	commit()
	r.steps()
	if got := r.record("1"); got != "none" {
		t.Errorf("after the commit became visible the record is %q", got)
	}
}

// TestCrowded: what is fenced waits for company for a moment after a step; what is not, does not.
func TestCrowded(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, tt := range []struct {
		name    string
		fenced  bool
		stepped time.Duration // ago
		want    bool
	}{
		{"just after a step", true, 0, true},
		{"a moment later", true, crowd, false},
		{"not fenced", false, 0, false},
	} {
		a := New(Options{Queue: NewQueue(nil)})
		a.stepped = now.Add(-tt.stepped)
		p := &pendingPart{part: newPart(nil)}
		if tt.fenced {
			p.fenced = now
		}
		a.pending = []*pendingPart{p}
		if got := a.crowded(now); got != tt.want {
			t.Errorf("%s: crowded() = %t", tt.name, got)
		}
		if tt.want && !a.gateAt.Equal(a.stepped.Add(crowd)) {
			t.Errorf("%s: the next gate is %v after the step", tt.name, a.gateAt.Sub(a.stepped))
		}
	}
}

// TestStepsOutOfOrder: of what was delivered the visible part is confirmed, whatever its place in the log; Wc keeps to the
// order, Sa does not, and the slot is told of Wc.
func TestStepsOutOfOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Shared(t), 0)
	r.settled()
	start := r.end
	r.cached("1", "2")
	hangs, commit := r.open()
	r.part(hangs, "1")
	passes := r.committed()
	r.part(passes, "2")
	if err := r.opts.Queue.Idle(t.Context(), change.Position(^uint64(0)>>1)); err != nil { // the log was read past any gate
		t.Fatal(err)
	}
	r.takes()
	r.steps()
	if one, two := r.record("1"), r.record("2"); one != "live" || two != "none" {
		t.Errorf("the records are %q of what hangs and %q of what passes", one, two)
	}
	head := r.stored()
	if head.Wc != start || !head.Sa.Sees(passes) || head.Sa.Sees(hangs) {
		t.Errorf("Wc %v, Sa %v: want %v, and %d seen without %d", head.Wc, head.Sa, start, passes, hangs)
	}
	if got := r.opts.Stats.Waiting.Load(); got != 1 {
		t.Errorf("%d parts wait, want that of the transaction that hangs", got)
	}
	commit()
	r.steps()
	head = r.stored()
	if got := r.record("1"); got != "none" || head.Wc != mvcc.LSN(^uint64(0)>>1) || !head.Sa.Sees(hangs) {
		t.Errorf("after its commit the record is %q, Wc %v, Sa %v", got, head.Wc, head.Sa)
	}
	if r.confirmed != head.Wc {
		t.Errorf("the slot is told of %v, and Wc is %v", r.confirmed, head.Wc)
	}
}

// TestNothingIsVouchedForWhileNamesSettle: readers may go on under old names for a while after a move. Confirms go on, Wc and
// Sa stand still, and both move once the time has passed.
func TestNothingIsVouchedForWhileNamesSettle(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Shared(t), 0)
	r.opts.Settle = time.Hour
	before, old := r.stored(), r.name("1")
	request := &request{change: func(n *Names) bool { return n.Move(0, "the test", time.Now()) }}
	if err := r.step(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	moved := r.stored()
	if r.name("1") == old || moved.Revision <= before.Revision || moved.Wc != before.Wc {
		t.Errorf("the name is %s, was %s; HEAD was %+v and is %+v", r.name("1"), old, before, moved)
	}
	r.cached("1")
	end := r.part(r.committed(), "1")
	r.steps()
	if got, head := r.record("1"), r.stored(); got != "none" || head.Wc != before.Wc || !head.Sa.IsZero() {
		t.Errorf("while names settle the record is %q, Wc %v, Sa %v", got, head.Wc, head.Sa)
	}
	r.settled()
	r.steps()
	if wc := r.stored().Wc; wc != end {
		t.Errorf("Wc is %v once they have settled, want %v", wc, end)
	}
}

// TestStepOfASupersededDaemon: nothing of it counts, and the slot hears nothing.
func TestStepOfASupersededDaemon(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Shared(t), 0)
	r.settled()
	r.cached("1")
	later, err := r.store.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer later.Close()
	if _, _, err := later.Claim(t.Context(), fence.NewTerm(1, 2)); err != nil {
		t.Fatal(err)
	}
	before := r.stored()
	r.part(r.committed(), "1")
	if err := r.step(context.WithoutCancel(t.Context()), nil); !errors.Is(err, redisstore.ErrSuperseded) {
		t.Errorf("step() = %v", err)
	}
	if head := r.stored(); head.Wc != before.Wc || r.confirmed != 0 || r.opts.Stats.Transactions.Load() != 0 {
		t.Errorf("Wc went from %v to %v, the slot is told of %v, %d transactions count", before.Wc, head.Wc, r.confirmed,
			r.opts.Stats.Transactions.Load())
	}
}
