package fill_test

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/near"
	"github.com/freshet/freshet/internal/redisstore"
)

// TestHeardBeforeHead: HEAD vouches for a change whose push is on its way, and both come. By the time that HEAD has answered the push was
// heard, and what was held when the read began is not what it gets.
func TestHeardBeforeHead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	m := w.memory("", nil)
	for p := 12; p < 22; p++ {
		m.holds(1)
		token := w.after(w.write(1, p))
		m.proxy.Delay(100 * time.Millisecond)
		w.confirm(w.name("product", "1"))
		before := m.near.Stats()
		if before.Records == 0 { // the machine was busy, and the push came too early
			m.proxy.Heal()
			continue
		}
		under(t, m.Reader, 1, after(token), fill.Miss, price(1, p))
		if s := m.near.Stats(); s.Pushed == before.Pushed {
			t.Errorf("nothing was heard: %+v", s)
		}
		return
	}
	t.Fatal("the push came too early each time: the test does not show what it is about")
}

// TestBoundInMemory: a bound is proved of what is held by HEAD alone, for as long as HEAD proves it.
func TestBoundInMemory(t *testing.T) {
	t.Parallel()
	w, clock := newWorld(t, options{}), &hands{}
	w.clock = clock.now
	records := new(atomic.Int64)
	m := w.memory("", func(s *redisstore.Store) fill.Store {
		return &hooks{Store: s, afterHead: func(string) { records.Add(1) }}
	})
	read(t, m.Reader, 1, fill.Miss, price(1, 10))
	under(t, m.Reader, 1, within(time.Second), fill.Miss, price(1, 10)) // nothing was asked for yet, so nothing is proved
	w.ticked(1)
	w.confirm()
	m.holds(1)
	before := m.Stats()
	records.Store(0)
	under(t, m.Reader, 1, within(0), fill.Hit, price(1, 10)) // asked for at this very time, by the test's clock
	clock.pass(200 * time.Millisecond)
	w.reprice() // which nobody is told of
	under(t, m.Reader, 1, within(200*time.Millisecond), fill.Hit, price(1, 10))
	if s := m.Stats(); s.HitsL1-before.HitsL1 != 2 || records.Load() != 0 {
		t.Errorf("%d hits in memory, %d records read with HEAD", s.HitsL1-before.HitsL1, records.Load())
	}
	clock.pass(time.Nanosecond)
	under(t, m.Reader, 1, within(200*time.Millisecond), fill.Miss, price(1, 11))
}

// TestHeldForItsTime: what is held ends by itself when its time in the store is over, should the store not say so; "no such row" has a time of
// its own.
func TestHeldForItsTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	m := w.memory("", nil)
	for id, ttl := range map[string]time.Duration{"1": time.Minute, "1000": 10 * time.Second} {
		var held *near.Held
		eventually(t, func() error {
			v, err := m.Get(t.Context(), "product", arg(id), nil)
			if held = v.Held(); err == nil && held == nil {
				err = fmt.Errorf("%v", v.Status)
			}
			return err
		})
		if now := near.Now(); held.Over(now+ttl/2) || !held.Over(now+ttl) {
			t.Errorf("product %s: over after half of its time %t, after all of it %t", id, held.Over(now+ttl/2), held.Over(now+ttl))
		}
	}
}

// TestHeldUntilItIsDue: what is held of an entry that is refreshed before the end of its time is held until that is due: a key that is read
// in memory alone is refreshed as well, and never misses.
func TestHeldUntilItIsDue(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	entries := policed(fill.Policy{Eager: 0.6})
	e := entries["product"]
	e.TTL = 3 * time.Second
	entries["product"] = e
	m := w.memoryOf("", nil, entries)
	read(t, m.Reader, 1, fill.Miss, price(1, 10))
	// Where the machine stands still for as long as it is due before its time is over, nobody reads it in time.
	last := time.Now()
	for began := last; time.Since(began) < 5*time.Second; pause(t, 5*time.Millisecond) {
		v, err := m.Get(t.Context(), "product", arg("1"), nil)
		if err != nil || string(v.Payload) != price(1, 10) || v.Status != fill.Hit && time.Since(last) < time.Second/2 {
			t.Fatalf("%v %s, %v", v.Status, v.Payload, err)
		}
		last = time.Now()
	}
	if s := m.Stats(); s.HitsL1 < 100 || s.EagerStored < 2 {
		t.Errorf("Stats = %+v", s)
	}
}

// looked counts how often records of many keys were looked at.
type looked struct {
	*redisstore.Store

	times *atomic.Int64
}

func (l *looked) ReadMany(ctx context.Context, all []redisstore.Reading, head bool) []redisstore.Found {
	l.times.Add(1)
	return l.Store.ReadMany(ctx, all, head)
}

// TestManyAreTold: a read of many keys that another process loads is told when they are there, and does not look again and again.
func TestManyAreTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	looks := new(atomic.Int64)
	m := w.memory("", func(s *redisstore.Store) fill.Store { return &looked{Store: s, times: looks} })
	m.holds(50) // the connection tells
	const other = fence.Token("fedcba9876543210fedcba9876543210")
	soon(t, slack, func(n int) time.Duration {
		ids := []int{3*n + 1, 3*n + 2, 3*n + 3}
		for _, id := range ids {
			w.lease(other, strconv.Itoa(id))
		}
		late := make(chan []fill.Answer, 1)
		go func() { late <- m.GetMany(t.Context(), "product", numbered(ids...), &fill.Demand{}) }()
		eventually(t, waiting(m.Reader, uint64(3*(n+1))))
		looks.Store(0)
		pause(t, 400*time.Millisecond)
		if n := looks.Load(); n > 4 {
			t.Errorf("%d looks in 400 ms", n)
		}
		for _, id := range ids {
			w.fill(other, strconv.Itoa(id))
		}
		filled := time.Now()
		for i, a := range <-late {
			if a.Err != nil || a.Value.Status != fill.Hit || string(a.Value.Payload) != price(ids[i], 10*ids[i]) {
				t.Errorf("product %d: %v %s, %v", ids[i], a.Value.Status, a.Value.Payload, a.Err)
			}
		}
		return time.Since(filled)
	})
}
