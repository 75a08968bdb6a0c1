package fill_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
)

func waiting(r *fill.Reader, n uint64) func() error {
	return func() error {
		if s := r.Stats(); s.Waits != n {
			return fmt.Errorf("%d readers wait, not %d", s.Waits, n)
		}
		return nil
	}
}

func TestReadersShareALoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r, loader, v, first := w.heldBefore()
	all := []<-chan answer{first}
	for range 20 {
		all = append(all, background(t.Context(), r, "1"))
	}
	eventually(t, waiting(r, 20))
	close(v.open)
	for _, done := range all {
		if a := <-done; a.err != nil || string(a.value.Payload) != price(1, 10) {
			t.Errorf("got %s, %v", a.value.Payload, a.err)
		}
	}
	if s := r.Stats(); loader.count.Load() != 1 || s.Joins != 20 || s.Fills != 1 {
		t.Errorf("%d loads, Stats = %+v", loader.count.Load(), s)
	}
}

// TestFlightIsNotJoinedAfterAnInvalidation: a reader that starts after it never takes a row from before it.
func TestFlightIsNotJoinedAfterAnInvalidation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r, _, v, old := w.heldAfter()
	w.change()
	read(t, r, 1, fill.Miss, price(1, 11))
	read(t, r, 1, fill.Hit, price(1, 11))
	close(v.open)
	if a := <-old; a.err != nil || a.value.Reason != "lease_lost" {
		t.Errorf("the old flight got %+v, %v", a.value, a.err)
	}
	read(t, r, 1, fill.Hit, price(1, 11))
}

// TestFlightOfAnotherLeaseIsNotJoined: the key is the flight's, the lease is another process's by now.
func TestFlightOfAnotherLeaseIsNotJoined(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r, _, v, old := w.heldAfter()
	w.change()
	other := fence.Token(strings.Repeat("0", 32))
	w.lease(other, "1")
	late := background(t.Context(), r, "1")
	eventually(t, waiting(r, 1))
	w.fill(other, "1")
	if a := <-late; a.err != nil || a.value.Status != fill.Hit || string(a.value.Payload) != price(1, 11) {
		t.Errorf("the late reader got %s %+v, %v", a.value.Payload, a.value, a.err)
	}
	close(v.open)
	if a := <-old; a.err != nil || a.value.Reason != "lease_lost" {
		t.Errorf("the old flight got %+v, %v", a.value, a.err)
	}
}

// TestWaiterSeesAFence is T28: the flight's lease survived an invalidation, which left a fence in the record.
func TestWaiterSeesAFence(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r, _, v, old := w.heldAfter()
	x := w.reprice()
	name := w.name("product", "1")
	record, _ := w.record(name)
	record.Fences = append(record.Fences, fence.Stamp{XID: x, End: 1})
	w.put(name, record.Append(nil))
	late := background(t.Context(), r, "1")
	eventually(t, waiting(r, 1))
	close(v.open)
	if a := <-old; a.err != nil || a.value.Reason != "not_covering" {
		t.Errorf("the old flight got %+v, %v", a.value, a.err)
	}
	if a := <-late; a.err != nil || string(a.value.Payload) != price(1, 11) || a.value.Reason != "flight_not_covering" {
		t.Errorf("the late reader got %s %+v, %v", a.value.Payload, a.value, a.err)
	}
}

// TestWaiterReadsAnotherTimeline: the database failed over while the flight was on its way, and its ids mean something else by now.
func TestWaiterReadsAnotherTimeline(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r, _, v, old := w.heldAfter()
	w.setHead("tl", "00000002")
	late := background(t.Context(), r, "1")
	eventually(t, waiting(r, 1))
	close(v.open)
	if a := <-old; a.err != nil {
		t.Errorf("the old flight got %+v, %v", a.value, a.err)
	}
	if a := <-late; a.err != nil || a.value.Reason != "flight_not_covering" {
		t.Errorf("the late reader got %s %+v, %v", a.value.Payload, a.value, a.err)
	}
}

// TestWaiterReadsAHigherFloor: HEAD's intent passed the flight's snapshot before the waiter came.
func TestWaiterReadsAHigherFloor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r, _, v, old := w.heldAfter()
	w.reprice()
	w.intent() // and the daemon stopped there
	late := background(t.Context(), r, "1")
	eventually(t, waiting(r, 1))
	close(v.open)
	if a := <-late; a.err != nil || string(a.value.Payload) != price(1, 11) || a.value.Reason != "flight_not_covering" {
		t.Errorf("the late reader got %s %+v, %v", a.value.Payload, a.value, a.err)
	}
	if a := <-old; a.err != nil {
		t.Errorf("the old flight got %v", a.err)
	}
}

// TestLeaseThatIsNotKnownYet: a reader is told of a lease before the reader of its own process that it was granted to hears of
// it. It takes that one's row, and not another process's that it would have to watch for.
func TestLeaseThatIsNotKnownYet(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	var leases atomic.Int64
	granted, known := make(chan struct{}), make(chan struct{})
	v := newValve()
	loader := &slow{Loader: w.loader, before: v.pass}
	r := w.reader(&hooks{Store: w.store, afterCall: func(string) {
		if leases.Add(1) == 1 {
			close(granted)
			<-known
		}
	}}, loader)
	first := background(t.Context(), r, "1")
	<-granted
	second := background(t.Context(), r, "1")
	eventually(t, waiting(r, 1))
	close(known)
	<-v.reached
	pause(t, 2*longestLook) // for the second one to look once more
	close(v.open)
	for _, done := range []<-chan answer{first, second} {
		if a := <-done; a.err != nil || a.value.Status != fill.Miss || string(a.value.Payload) != price(1, 10) {
			t.Errorf("got %s %+v, %v", a.value.Payload, a.value, a.err)
		}
	}
	if s := r.Stats(); loader.count.Load() != 1 || s.Joins != 1 {
		t.Errorf("%d loads, Stats = %+v", loader.count.Load(), s)
	}
}

// longestLook is how long a reader lets pass between two looks at a key that somebody else loads.
const longestLook = 50 * time.Millisecond

// TestCrowdThatMayNotJoinIsOneLoad: readers that saw a fence which the flight does not know come at the same time, and one
// load that begins after all of them came does for all.
func TestCrowdThatMayNotJoinIsOneLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	const crowd = 20
	var came, asked atomic.Int64
	all := make(chan struct{})
	v := newValve()
	loader := &slow{Loader: w.loader, after: v.pass}
	// Nobody of the crowd is told whose the lease is before all have come. They may ask together.
	r := w.reader(&hooks{Store: w.store, afterGet: func(string) {
		if came.Add(1) == 1+crowd {
			close(all)
		}
	}, afterCall: func(string) {
		if asked.Add(1) > 1 {
			<-all
		}
	}}, loader)
	old := background(t.Context(), r, "1")
	<-v.reached
	w.early(w.name("product", "1"), fence.Stamp{XID: w.reprice(), End: 1})
	var late []<-chan answer
	for range crowd {
		late = append(late, background(t.Context(), r, "1"))
	}
	for _, done := range late {
		if a := <-done; a.err != nil || string(a.value.Payload) != price(1, 11) || a.value.Reason != "flight_not_covering" {
			t.Errorf("a late reader got %s %+v, %v", a.value.Payload, a.value, a.err)
		}
	}
	// On a busy machine one of them may come to it when the load of the others has ended, and needs another.
	if n := loader.count.Load(); n < 2 || n > 1+crowd/4 {
		t.Errorf("%d loads, want the flight's and one more for most of the crowd", n)
	}
	close(v.open)
	if a := <-old; a.err != nil || a.value.Reason != "not_covering" {
		t.Errorf("the old flight got %+v, %v", a.value, a.err)
	}
}

// TestThoseWhoWaitedInVainShareALease: an invalidation takes the lease of the load that they waited for, and its row is too
// old for them. One of them leases the key again, and fills it.
func TestThoseWhoWaitedInVainShareALease(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r, loader, v, old := w.heldAfter()
	w.reprice()
	w.intent()
	const crowd = 20
	var late []<-chan answer
	for range crowd {
		late = append(late, background(t.Context(), r, "1"))
	}
	eventually(t, waiting(r, crowd))
	w.confirm(w.name("product", "1"))
	close(v.open)
	if a := <-old; a.err != nil || string(a.value.Payload) != price(1, 10) || a.value.Reason != "lease_lost" {
		t.Errorf("the old flight got %+v, %v", a.value, a.err)
	}
	for _, done := range late {
		if a := <-done; a.err != nil || string(a.value.Payload) != price(1, 11) || a.value.Status == fill.Bypass {
			t.Errorf("a late reader got %s %+v, %v", a.value.Payload, a.value, a.err)
		}
	}
	if s := r.Stats(); loader.count.Load() != 2 || s.Fills != 1 {
		t.Errorf("%d loads, Stats = %+v", loader.count.Load(), s)
	}
	read(t, r, 1, fill.Hit, price(1, 11))
}

func TestCancelledCallerDoesNotEndTheFlight(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	v := newValve()
	r := w.reader(nil, &slow{Loader: w.loader, before: v.pass})
	ctx, cancel := context.WithCancel(t.Context())
	first := background(ctx, r, "1")
	<-v.reached
	second := background(t.Context(), r, "1")
	eventually(t, waiting(r, 1))
	cancel()
	if a := <-first; !errors.Is(a.err, context.Canceled) {
		t.Errorf("the first got %v", a.err)
	}
	close(v.open)
	if a := <-second; a.err != nil || string(a.value.Payload) != price(1, 10) {
		t.Errorf("the second got %s, %v", a.value.Payload, a.err)
	}
	read(t, r, 1, fill.Hit, price(1, 10))
}

// TestLeasedElsewhere has another process hold the lease: until it fills, until it gives up, and for too long.
func TestLeasedElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	token := func(n int) fence.Token { return fence.Token(fmt.Sprintf("%032x", n)) }
	loader := &slow{Loader: w.loader}
	r := w.reader(nil, loader)

	w.lease(token(1), "1")
	done := background(t.Context(), r, "1")
	eventually(t, waiting(r, 1))
	w.fill(token(1), "1")
	if a := <-done; a.err != nil || a.value.Status != fill.Hit || loader.count.Load() != 0 {
		t.Errorf("after the other's fill: %+v, %v, %d loads", a.value, a.err, loader.count.Load())
	}

	w.lease(token(2), "2")
	done = background(t.Context(), r, "2")
	eventually(t, waiting(r, 2))
	if err := w.store.Release(t.Context(), w.name("product", "2"), token(2)); err != nil {
		t.Fatal(err)
	}
	if a := <-done; a.err != nil || a.value.Status != fill.Miss || a.value.Reason != "" {
		t.Errorf("after the other gave up: %+v, %v", a.value, a.err)
	}

	w.lease(token(3), "3")
	w.loads = 2 * hurried
	r = w.reader(nil, loader)
	start := time.Now()
	a := <-background(t.Context(), r, "3")
	if took := time.Since(start); a.err != nil || a.value.Reason != "leased_elsewhere" || took < w.loads/2-100*time.Millisecond || took > w.loads {
		t.Errorf("after %v: %+v, %v", took, a.value, a.err)
	}
	if record, _ := w.record(w.name("product", "3")); record.Lease.Token != token(3) || record.State != fence.None {
		t.Errorf("the other's record is %+v", record)
	}
}

// TestBypassJoinsOnlyLoadsToCome reads without a cache: a reader takes part in a load only if it came before the load
// began, and a crowd is still two loads.
func TestBypassJoinsOnlyLoadsToCome(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{noDaemon: true})
	r, loader, v, old := w.heldAfter()
	w.reprice()
	var late []<-chan answer
	for range 20 {
		late = append(late, background(t.Context(), r, "1"))
	}
	eventually(t, func() error {
		if n := r.Stats().Bypassed["no_head"]; n != 21 {
			return fmt.Errorf("%d readers came", n)
		}
		return nil
	})
	close(v.open)
	if a := <-old; a.err != nil || string(a.value.Payload) != price(1, 10) {
		t.Errorf("the first got %s, %v", a.value.Payload, a.err)
	}
	for _, done := range late {
		if a := <-done; a.err != nil || string(a.value.Payload) != price(1, 11) || a.value.Status != fill.Bypass {
			t.Errorf("a late reader got %s, %v", a.value.Payload, a.err)
		}
	}
	if n := loader.count.Load(); n > 3 {
		t.Errorf("%d loads", n)
	}
}

// TestBypassDoesNotWaitForALoadThatHangs: the one behind it begins after a part of the load timeout.
func TestBypassDoesNotWaitForALoadThatHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{noDaemon: true})
	w.loads = 12 * time.Second
	r, _, v, hangs := w.heldBefore()
	start := time.Now()
	read(t, r, 1, fill.Bypass, price(1, 10))
	if took := time.Since(start); took > w.loads*3/4 {
		t.Errorf("the second reader waited for %v", took)
	}
	close(v.open)
	if a := <-hangs; a.err != nil {
		t.Errorf("the first got %v", a.err)
	}
}

func TestBypassUsesTheDeclaredQuery(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{noDaemon: true})
	r := w.reader(nil, nil)
	if v := read(t, r, 7, fill.Bypass, price(7, 70)); v.Reason != "no_head" || v.Name != "" {
		t.Errorf("%+v", v)
	}
	params, err := r.Params(t.Context(), "cheaper")
	if err != nil || len(params) != 1 || params[0].Type != "int4" || params[0].Name != "than" {
		t.Errorf("Params = %v, %v", params, err)
	}
	if params, err := r.Params(t.Context(), "code"); err != nil || params[0].Type != "" {
		t.Errorf("Params = %v, %v", params, err)
	}
	// A daemon comes: the reader takes the cache up by itself.
	w.begin()
	eventually(t, func() error {
		v, err := r.Get(t.Context(), "product", arg("7"), nil)
		if err == nil && v.Status != fill.Hit {
			err = fmt.Errorf("%v %s", v.Status, v.Reason)
		}
		return err
	})
}

func TestEntriesThatAreNotLive(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	next := w.newRoster(2)
	next.Entries["product"].Suspended = "ALTER TABLE"
	next.Entries["cheaper"].Definition = strings.Repeat("0", 16)
	w.move(next)
	r := w.reader(nil, nil)
	if v := read(t, r, 1, fill.Bypass, price(1, 10)); v.Reason != "suspended" {
		t.Errorf("%+v", v)
	}
	if v, err := r.Get(t.Context(), "cheaper", arg("11"), nil); err != nil || v.Reason != "unknown_definition" || string(v.Payload) != `[{"id":1}]` {
		t.Errorf("%+v %s, %v", v, v.Payload, err)
	}
	if keys, err := w.raw.Do(t.Context(), w.raw.B().Keys().Pattern("f:"+w.namespace+":*:*").Build()).AsStrSlice(); err != nil || len(keys) != 0 {
		t.Errorf("stored are %q, %v", keys, err)
	}
}
