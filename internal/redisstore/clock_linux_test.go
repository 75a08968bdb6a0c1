package redisstore

import (
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/localserver"
	"github.com/freshet/freshet/internal/testkit/clocktest"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// T34: a lease ends by Redis' clock, its key is confirmed, the clock steps back before the lease's end. The fill under it
// must not store what it loaded before. Without a confirm it may: leases are what clocks are for, safety is not.
func TestClockStepsBackOverTheEndOfALease(t *testing.T) {
	t.Parallel()
	clock := clocktest.New(t)
	s := open(t, redistest.StartWith(t, localserver.RedisOptions{Env: clock.Env}))
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	name := s.testName("k")
	for _, tt := range []struct {
		how  string
		do   func(*Batch)
		want fence.FillOutcome
	}{
		{"nothing", func(*Batch) {}, fence.Filled},
		{"by UNLINK", func(b *Batch) { b.Names = []string{name} }, fence.NoLease},
		{"by script", func(b *Batch) { b.Keys = []Stamped{{Name: name, Stamps: []fence.Stamp{{XID: 20, End: 200}}}} }, fence.NotCovering},
	} {
		leased(t, s, name, token('a')) // for a minute
		clock.Shift(t, time.Minute+leaseMargin/2)
		if got := filled(t, s, name, token('a'), 10); got != fence.LeaseEnded {
			t.Errorf("%s: Fill after the lease's end = %v", tt.how, got)
		}
		batch := Batch{Expect: expect(head), Wi: head.Wc + 100, Si: sees(30), Advance: head.Wc + 100}
		head.Wc += 100
		tt.do(&batch)
		if _, err := c.Apply(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		clock.Shift(t, 0)
		if got := filled(t, s, name, token('a'), 10); got != tt.want {
			t.Errorf("%s: Fill after the clock stepped back = %v, want %v", tt.how, got, tt.want)
		}
		if _, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: head.Wc, Si: sees(30), Names: []string{name}}); err != nil {
			t.Fatal(err)
		}
	}
}

// The clock jumps by an hour, either way, under a lease. Forward it has ended, and so has the record; backward it lasts
// longer, and its holder alone may fill. What was confirmed stays so.
func TestClockJumpsUnderALease(t *testing.T) {
	t.Parallel()
	clock := clocktest.New(t)
	s := open(t, redistest.StartWith(t, localserver.RedisOptions{Env: clock.Env}))
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	name := s.testName("k")

	leased(t, s, name, token('a'))
	clock.Shift(t, time.Hour)
	if got := filled(t, s, name, token('a'), 10); got != fence.NoLease {
		t.Errorf("Fill an hour later = %v", got)
	}
	leased(t, s, name, token('b'))
	clock.Shift(t, -time.Hour)
	if reply, err := s.Lease(t.Context(), name, token('c'), time.Minute); err != nil || reply.Granted || reply.Holder != token('b') {
		t.Errorf("Lease two hours earlier = %+v, %v, want it to be held", reply, err)
	}
	if got := filled(t, s, name, token('b'), 10); got != fence.Filled {
		t.Errorf("Fill by the holder two hours earlier = %v", got)
	}
	batch := Batch{Expect: expect(head), Wi: 200, Si: sees(20), Names: []string{name}, Advance: 200, Sa: sees(20)}
	if result, err := c.Apply(t.Context(), batch); err != nil || result.Removed != 1 {
		t.Errorf("Apply two hours earlier = %+v, %v", result, err)
	}
	clock.Shift(t, 0)
	if h, _, err := s.Head(t.Context()); err != nil || h.Wc != 200 {
		t.Errorf("HEAD = %+v, %v", h, err)
	}
	if got := filled(t, s, name, token('b'), 10); got != fence.NoLease {
		t.Errorf("Fill under a lease that was used = %v", got)
	}
}
