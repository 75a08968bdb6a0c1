package storetest

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/mvcc"
)

// What is in this file gives the same random commands to fence and to a store: answers and what is stored must be the same. The
// one thing that fence cannot know, the store's clock, is taken from the answer or from what is stored.

func snapshots() *rapid.Generator[mvcc.Snapshot] {
	return rapid.Custom(func(t *rapid.T) mvcc.Snapshot {
		// Now and then far up, where a double would round.
		base := rapid.SampledFrom([]mvcc.XID{1, 1 << 62}).Draw(t, "base")
		s := mvcc.Snapshot{Xmax: base + mvcc.XID(rapid.Uint64Range(1, 8).Draw(t, "xmax"))}
		s.Xmin = s.Xmax
		for x := base; x < s.Xmax; x++ {
			if rapid.Bool().Draw(t, "running") {
				s.Xip = append(s.Xip, x)
			}
		}
		if len(s.Xip) > 0 {
			s.Xmin = s.Xip[0]
		}
		return s
	})
}

func coverages() *rapid.Generator[fence.Coverage] {
	return rapid.OneOf(
		rapid.Map(snapshots(), func(s mvcc.Snapshot) fence.Coverage { return fence.Coverage{Snapshot: s} }),
		rapid.Map(rapid.Uint64Range(1, 9), func(n uint64) fence.Coverage { return fence.Coverage{Replay: mvcc.LSN(n)} }),
	)
}

func ticks() *rapid.Generator[fence.Tick] {
	return rapid.Custom(func(t *rapid.T) fence.Tick {
		if rapid.Bool().Draw(t, "none") {
			return fence.Tick{}
		}
		return fence.Tick{ID: "00000000000000cc", N: rapid.Uint64().Draw(t, "n")}
	})
}

func someToken() *rapid.Generator[fence.Token] {
	return rapid.Map(rapid.SampledFrom([]byte("abc")), Token)
}

// stored is a record as no script of today leaves it, but one of a later freshet might: with fences, or stale.
func stored() *rapid.Generator[fence.Record] {
	return rapid.Custom(func(t *rapid.T) fence.Record {
		r := fence.Record{State: fence.State(rapid.Uint8Range(0, 4).Draw(t, "state"))}
		plain := rapid.Bool().Draw(t, "plain")
		if !plain && rapid.Bool().Draw(t, "leased") {
			r.Lease = fence.Lease{Token: someToken().Draw(t, "token"), End: rapid.SampledFrom([]int64{1, 1 << 62}).Draw(t, "end")}
		}
		fences := 0
		if !plain {
			fences = rapid.IntRange(0, 3).Draw(t, "fences")
		}
		for range fences {
			r.Fences = append(r.Fences, fence.Stamp{
				XID: mvcc.XID(rapid.Uint64Range(1, 9).Draw(t, "x")), End: mvcc.LSN(rapid.Uint64Range(1, 9).Draw(t, "e")),
			})
		}
		if r.State != fence.None {
			if rapid.IntRange(0, 9).Draw(t, "covered") > 0 {
				r.Coverage = coverages().Draw(t, "coverage")
			}
			r.RowVersion = rapid.SampledFrom([]string{"", "-", "a b", "ü\n%"}).Draw(t, "version")
			r.Filled = 5
			if keep := rapid.SampledFrom([]int64{0, 3_600_000_001, 1 << 40}).Draw(t, "keep"); r.State.Live() {
				r.Keep = keep
			} else {
				r.Marked = keep
			}
			r.Epochs = someEpochs().Draw(t, "epochs")
			r.Payload = []byte(rapid.SampledFrom([]string{"", "{}", "a\nb\x00c", "f1 V"}).Draw(t, "payload"))
		}
		return r
	})
}

// someEpochs are none, or some of the few that there are.
func someEpochs() *rapid.Generator[[]fence.Epoch] {
	return rapid.SampledFrom([][]fence.Epoch{
		nil, nil,
		{{Name: "~0", ID: string(Token('d'))}},
		{{Name: "~0", ID: string(Token('e'))}},
		{{Name: "~0", ID: string(Token('d'))}, {Name: "~1:7:%-", ID: string(Token('e'))}, {Name: "~1+", ID: string(Token('e'))}},
	})
}

// stamps are what one key is fenced or confirmed with at a time: often a single one, about which coverages say something.
func stamps() *rapid.Generator[[]fence.Stamp] {
	of := func(last uint64, least, most int) *rapid.Generator[[]fence.Stamp] {
		return rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) fence.Stamp {
			return fence.Stamp{
				XID: mvcc.XID(rapid.Uint64Range(1, last).Draw(t, "x")), End: mvcc.LSN(rapid.Uint64Range(1, 9).Draw(t, "e")),
			}
		}), least, most, func(x fence.Stamp) mvcc.XID { return x.XID })
	}
	return rapid.OneOf(of(9, 1, 1), of(40, 1, 9))
}

// same holds the counts that a script's answer gave against fence's outcomes, of which the last one is answered, or that
// a value was removed.
func same(t rapid.TB, what string, got store.Result, outcomes []fence.InvalidateOutcome) {
	t.Helper()
	var want store.Result
	switch {
	case slices.Contains(outcomes, fence.Removed):
		want.Removed = 1
	case outcomes[len(outcomes)-1] == fence.Kept:
		want.Kept = 1
	}
	if got != want {
		t.Fatalf("%s = %+v, fence says %v", what, got, outcomes)
	}
}

// RecordsEqualFence gives random commands about records.
func RecordsEqualFence(t *testing.T, open Open) {
	t.Helper()
	o := open(t, 0)
	t.Cleanup(o.Close)
	c, err := o.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	head := (&world{Opened: o, t: t}).begin(c, fence.NewTerm(1, 1))
	run, renewed := 0, map[fence.FillOutcome]int{}
	rapid.Check(t, func(rt *rapid.T) {
		run++
		r := &record{Opened: o, ctx: t.Context(), conn: c, head: head, name: o.Name(strconv.Itoa(run)), renewed: renewed}
		rt.Repeat(map[string]func(*rapid.T){
			"lease": r.lease, "fill": r.fill, "renew": r.renew, "release": r.release, "early": r.early,
			"strict early": r.earlyStrictly, "confirm": r.confirm,
			"disturb": r.disturb, "put what is no record": r.putForeign, "unlink": r.unlink, "put": r.putAny, "": r.same,
		})
	})
	for outcome := fence.NoLease; outcome <= fence.NoValue; outcome++ {
		if renewed[outcome] == 0 {
			t.Errorf("no RENEW was answered with %v: the commands are not random enough", outcome)
		}
	}
}

// record is one key, and what fence has for it.
type record struct {
	*Opened
	ctx     context.Context //nolint:containedctx // of the test
	conn    pipeline.Conn
	head    fence.Head
	name    string
	twin    fence.Record
	renewed map[fence.FillOutcome]int
}

func (r *record) put(t *rapid.T, stored fence.Record) {
	t.Helper()
	if err := r.Put(r.name, string(stored.Append(nil))); err != nil {
		t.Fatal(err)
	}
	r.twin = stored
}

func (r *record) lease(t *rapid.T) {
	tok := someToken().Draw(t, "token")
	dead := ""
	if rapid.Bool().Draw(t, "over what is dead") {
		if dead = fence.EpochsText(someEpochs().Draw(t, "dead")); rapid.Bool().Draw(t, "which is there") {
			dead = fence.EpochsText(r.twin.Epochs)
		}
	}
	reply, err := r.Store.LeaseOver(r.ctx, r.name, dead, tok, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	var outcome fence.LeaseOutcome
	r.twin, outcome = fence.AcquireOver(r.twin, dead, tok, reply.Now, reply.Now+time.Hour.Microseconds())
	if reply.Granted != (outcome == fence.Granted) || reply.Holder != r.twin.Lease.Token {
		t.Fatalf("Lease = %+v, fence says %v", reply, outcome)
	}
	if got, want := reply.Record.Append(nil), r.twin.Append(nil); !bytes.Equal(got, want) {
		t.Fatalf("Lease answered %q, fence %q", got, want)
	}
}

// filledAt is the store's clock when it took the value that it has now, or about now: no lease of these ends near to it.
func (r *record) filledAt(t *rapid.T, stored bool) int64 {
	t.Helper()
	if !stored {
		return time.Now().UnixMicro()
	}
	now, err := r.Store.Get(r.ctx, r.name)
	if err != nil || now.Filled < time.Now().Add(-time.Minute).UnixMicro() {
		t.Fatalf("what was just filled is %+v, %v", now, err)
	}
	return now.Filled
}

func (r *record) fill(t *rapid.T) {
	f := store.FillRequest{
		Token: someToken().Draw(t, "token"), Coverage: coverages().Draw(t, "coverage"),
		State:      rapid.SampledFrom([]fence.State{fence.Live, fence.Negative}).Draw(t, "state"),
		RowVersion: rapid.SampledFrom([]string{"", "-", "7"}).Draw(t, "version"),
		Keep:       rapid.SampledFrom([]time.Duration{0, time.Hour + time.Microsecond}).Draw(t, "keep"),
		Epochs:     someEpochs().Draw(t, "epochs"),
		Payload:    []byte(rapid.SampledFrom([]string{"", "x\n\x00"}).Draw(t, "payload")), TTL: time.Hour,
	}
	got, err := r.Store.Fill(r.ctx, r.name, f)
	if err != nil {
		t.Fatal(err)
	}
	var want fence.FillOutcome
	r.twin, want = fence.Fill(r.twin, fence.Filling{
		Token: f.Token, Coverage: f.Coverage, State: f.State, RowVersion: f.RowVersion, Keep: f.Keep.Microseconds(),
		Epochs: f.Epochs, Payload: f.Payload,
	}, r.filledAt(t, got == fence.Filled))
	if got != want {
		t.Fatalf("Fill = %v, fence says %v", got, want)
	}
}

func (r *record) renew(t *rapid.T) {
	if rapid.IntRange(0, 7).Draw(t, "over another") > 0 {
		other := stored().Draw(t, "record")
		if other.Lease.IsZero() {
			other.Lease = fence.Lease{Token: Token('a'), End: 1 << 62}
		}
		r.put(t, other)
	}
	q := store.RenewRequest{
		Token: someToken().Draw(t, "token"), Coverage: coverages().Draw(t, "coverage"),
		RowVersion: rapid.SampledFrom([]string{"", "-", "7 8"}).Draw(t, "version"), TTL: time.Hour, Epochs: someEpochs().Draw(t, "epochs"),
		Keep: rapid.SampledFrom([]time.Duration{0, time.Minute}).Draw(t, "keep"),
	}
	// Mostly with what may be accepted, since what is refused is soon seen.
	if rapid.IntRange(0, 7).Draw(t, "held") > 0 && !r.twin.Lease.IsZero() {
		q.Token = r.twin.Lease.Token
	}
	if rapid.Bool().Draw(t, "late") {
		last := 1<<62 + mvcc.XID(rapid.Uint64Range(5, 40).Draw(t, "last"))
		q.Coverage = fence.Coverage{Snapshot: mvcc.Snapshot{Xmin: last, Xmax: last}}
	}
	got, err := r.Store.Renew(r.ctx, r.name, q)
	if err != nil {
		t.Fatal(err)
	}
	var want fence.FillOutcome
	r.twin, want = fence.Renew(r.twin, fence.Renewing{
		Token: q.Token, Coverage: q.Coverage, RowVersion: q.RowVersion, Keep: q.Keep.Microseconds(), Epochs: q.Epochs,
	}, r.filledAt(t, got == fence.Renewed))
	if got != want {
		t.Fatalf("Renew = %v, fence says %v", got, want)
	}
	r.renewed[got]++
}

func (r *record) release(t *rapid.T) {
	tok := someToken().Draw(t, "token")
	if err := r.Store.Release(r.ctx, r.name, tok); err != nil {
		t.Fatal(err)
	}
	r.twin, _ = fence.Release(r.twin, tok)
}

func (r *record) early(t *rapid.T) {
	stamps := stamps().Draw(t, "stamps")
	got, err := r.conn.Early(r.ctx, []store.Stamped{{Name: r.name, Stamps: stamps}})
	if err != nil {
		t.Fatal(err)
	}
	var want []fence.InvalidateOutcome
	now := r.markedAt(t)
	for _, x := range stamps {
		var o fence.InvalidateOutcome
		r.twin, o = fence.Early(r.twin, x, true, now)
		want = append(want, o)
	}
	same(t, "Early", got, want)
}

// earlyStrictly is a writer's EARLY, which leaves no value that lacks the transactions, also none that would be kept.
func (r *record) earlyStrictly(t *rapid.T) {
	stamps := stamps().Draw(t, "stamps")
	if err := r.Store.Early(r.ctx, store.Stamped{Name: r.name, Stamps: stamps}); err != nil {
		t.Fatal(err)
	}
	for _, x := range stamps {
		r.twin, _ = fence.Early(r.twin, x, true, fence.Gone)
	}
	if r.twin.State.Stale() {
		t.Fatalf("a strict EARLY leaves a value that is %v", r.twin.State)
	}
}

// markedAt is the store's clock when it marked the record, if it did: else any that is not Gone.
func (r *record) markedAt(t *rapid.T) int64 {
	t.Helper()
	now, err := r.Store.Get(r.ctx, r.name)
	if err != nil {
		t.Fatal(err)
	}
	return max(now.Marked, 1)
}

// confirmed confirms the key by stamps, in a batch that advances nothing.
func (r *record) confirmed(t *rapid.T, stamps []fence.Stamp) store.Result {
	t.Helper()
	got, err := r.conn.Apply(r.ctx, store.Batch{
		Expect: expect(r.head), Wi: 100, Si: Sees(10), Keys: []store.Stamped{{Name: r.name, Stamps: stamps}},
	})
	if err != nil {
		t.Fatal(err)
	}
	got.Ticks = fence.Ticks{}
	return got
}

func (r *record) confirm(t *rapid.T) {
	stamps := stamps().Draw(t, "stamps")
	got := r.confirmed(t, stamps)
	var want []fence.InvalidateOutcome
	now := r.markedAt(t)
	for _, x := range stamps {
		var o fence.InvalidateOutcome
		r.twin, o = fence.Confirm(r.twin, x, now)
		want = append(want, o)
	}
	same(t, "confirm", got, want)
}

func (r *record) disturb(t *rapid.T) {
	if r.Disturb == nil || rapid.IntRange(0, 9).Draw(t, "rarely") > 0 {
		return
	}
	if err := r.Disturb(); err != nil {
		t.Fatal(err)
	}
}

// putForeign puts what nobody here can read: it may be a value, and goes with the first confirm.
func (r *record) putForeign(t *rapid.T) {
	if err := r.Put(r.name, "f2 of a later layout"); err != nil {
		t.Fatal(err)
	}
	r.confirmed(t, stamps().Draw(t, "stamps"))
	r.twin = fence.Record{}
}

func (r *record) unlink(t *rapid.T) {
	if err := r.Remove(r.name); err != nil {
		t.Fatal(err)
	}
	r.twin = fence.Unlink(r.twin)
}

func (r *record) putAny(t *rapid.T) { r.put(t, stored().Draw(t, "record")) }

func (r *record) same(t *rapid.T) {
	text, err := r.Store.Read(r.ctx, r.name)
	if err != nil {
		t.Fatal(err)
	}
	if want := r.twin.Append(nil); text == nil && !r.twin.Empty() || text != nil && !bytes.Equal(text, want) {
		t.Fatalf("stored (absent %t)\n%q, fence has\n%q", text == nil, text, want)
	}
}
