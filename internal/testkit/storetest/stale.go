package storetest

import (
	"bytes"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/mvcc"
)

// kept fills a value that stays, stale, once it is invalidated.
func (w *world) kept(name string, t fence.Token, state fence.State, keep, ttl time.Duration) {
	w.t.Helper()
	w.leased(name, t)
	f := store.FillRequest{Token: t, Coverage: fence.Coverage{Snapshot: Sees(10)}, State: state, Keep: keep, TTL: ttl}
	if state == fence.Live {
		f.Payload = []byte(`{"seen":10}`)
	}
	if outcome, err := w.Store.Fill(w.t.Context(), name, f); err != nil || outcome != fence.Filled {
		w.t.Fatalf("Fill = %v, %v", outcome, err)
	}
}

// staleIsKept: what is to be kept is marked once, with the store's clock, by EARLY and CONFIRM; it is no value to a FILL, it ends
// with its time to live, and neither a writer's EARLY nor UNLINK leave it. What else a record says goes on as if it were not there.
func staleIsKept(t *testing.T, w *world) {
	t.Helper()
	c := w.connect()
	head := w.begin(c, fence.NewTerm(1, 1))
	stamp := func(x mvcc.XID) []fence.Stamp { return []fence.Stamp{{XID: x, End: 200}} }
	confirm := func(name string, x mvcc.XID) (removed int64, live bool) {
		t.Helper()
		result := w.apply(c, store.Batch{
			Expect: expect(head), Wi: 200, Si: Sees(50), Keys: []store.Stamped{{Name: name, Stamps: stamp(x), Live: &live}},
		})
		return result.Removed, live
	}
	for state, marked := range map[fence.State]fence.State{fence.Live: fence.Stale, fence.Negative: fence.StaleNegative} {
		name := w.Name("kept " + state.String())
		w.kept(name, Token('a'), state, time.Hour, time.Minute)
		if removed, live := confirm(name, 9); removed != 0 || live || w.get(name).State != state {
			t.Errorf("what contains a change is %v after it: %d removed, live %t", w.get(name).State, removed, live)
		}
		before := w.leased(name, Token('b')) // a load under way does not keep it from being marked
		if removed, live := confirm(name, 20); removed != 1 || !live {
			t.Errorf("of a live value that lacks a change %d are removed, live %t", removed, live)
		}
		r := w.get(name)
		if r.State != marked || r.Marked < before.Now || r.Keep != 0 || !bytes.Equal(r.Payload, before.Record.Payload) || r.Lease.Token != Token('b') {
			t.Errorf("%v, marked: %+v", state, r)
		}
		wait(t, time.Millisecond) // the store's clock counts microseconds
		if removed, live := confirm(name, 30); removed != 0 || live {
			t.Errorf("of a stale one %d are removed, live %t", removed, live)
		}
		if _, err := c.Early(t.Context(), []store.Stamped{{Name: name, Stamps: stamp(40)}}); err != nil {
			t.Fatal(err)
		}
		if again := w.get(name); again.Marked != r.Marked || again.State != marked {
			t.Errorf("later changes made it %+v, before %+v", again, r)
		}
		if left := w.ttl(name); left <= 50*time.Second || left > time.Minute+store.LeaseMargin { // as long as the lease of the load
			t.Errorf("it lives for %v", left)
		}
		if got := w.filled(name, Token('b'), 35); got != fence.NotCovering {
			t.Errorf("a load that lacks what came after it = %v", got)
		}
		if got := w.filled(name, Token('b'), 41); got != fence.Filled {
			t.Errorf("one that does not = %v", got)
		}
		if r := w.get(name); r.State != fence.Live || r.Marked != 0 || r.Keep != 0 {
			t.Errorf("then it is %+v", r)
		}
	}
}

// staleIsLeft: who asks for nothing stale to be left has that, and what is stale ends with the value's time.
func staleIsLeft(t *testing.T, w *world) {
	t.Helper()
	c := w.connect()
	head := w.begin(c, fence.NewTerm(1, 1))
	batch := func(name string, b store.Batch) {
		t.Helper()
		b.Expect, b.Wi, b.Si = expect(head), 200, Sees(50)
		if b.Names == nil {
			b.Keys = []store.Stamped{{Name: name, Stamps: []fence.Stamp{{XID: 20, End: 200}}}}
		}
		w.apply(c, b)
	}
	strict := func(name string, x mvcc.XID) {
		t.Helper()
		if err := w.Store.Early(t.Context(), store.Stamped{Name: name, Stamps: []fence.Stamp{{XID: x, End: 300}}}); err != nil {
			t.Fatal(err)
		}
	}
	for i, take := range []func(name string){
		func(name string) { strict(name, 20) },
		func(name string) { batch(name, store.Batch{}); strict(name, 30) },
		func(name string) { batch(name, store.Batch{Names: []string{name}}) },
		func(name string) { batch(name, store.Batch{}); batch(name, store.Batch{Names: []string{name}}) },
	} {
		name := w.Name(string(rune('a' + i)))
		w.kept(name, Token('a'), fence.Live, time.Hour, time.Minute)
		take(name)
		if w.get(name).State != fence.None {
			t.Errorf("case %d leaves %+v", i, w.get(name))
		}
	}
	const short = 50 * time.Millisecond
	for key, times := range map[string][2]time.Duration{"kept shortly": {short, time.Minute}, "lives shortly": {time.Hour, short}} {
		name := w.Name(key)
		w.kept(name, Token('a'), fence.Live, times[0], times[1])
		batch(name, store.Batch{})
		wait(t, short+10*time.Millisecond)
		if text, err := w.Store.Read(t.Context(), name); err != nil || text != nil {
			t.Errorf("what is %s is there after that: %q, %v", key, text, err)
		}
	}
	// A load that takes longer than what it replaces is kept has its lease all the same, granted before or after the change.
	for key, before := range map[string]bool{"leased before": true, "leased after": false} {
		name := w.Name(key)
		w.kept(name, Token('a'), fence.Live, short, time.Minute)
		if before {
			w.leased(name, Token('b'))
		}
		batch(name, store.Batch{})
		if !before {
			w.leased(name, Token('b'))
		}
		wait(t, short+10*time.Millisecond)
		if got := w.filled(name, Token('b'), 30); got != fence.Filled {
			t.Errorf("%s the change, a load that outlasts the stale value = %v", key, got)
		}
	}
}
