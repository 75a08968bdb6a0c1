package near_test

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/freshet/freshet/internal/near"
	"github.com/freshet/freshet/internal/store"
)

// TestOnEnd: whoever wants to know when a record ends is told once, however it ends and whenever that is, and not so many are that a
// record grows by it.
func TestOnEnd(t *testing.T) {
	t.Parallel()
	for what, end := range map[string]func(s *near.Store, wire *store.Wire){
		"pushed":      func(s *near.Store, _ *store.Wire) { s.Invalidate("a") },
		"overwritten": func(s *near.Store, wire *store.Wire) { put(s, wire, "a", "2") },
		"dropped": func(s *near.Store, wire *store.Wire) {
			wire.Lose()
			s.Drop(wire)
			s.Close()
		},
		"evicted": func(s *near.Store, wire *store.Wire) {
			for i := range 10_000 {
				put(s, wire, strconv.Itoa(i), "3")
			}
		},
	} {
		s, wire := near.New(1<<18), new(store.Wire)
		h := put(s, wire, "a", "1")
		told := [2]int{}
		for range 3 {
			if !h.OnEnd("first", func() { told[0]++ }) {
				t.Errorf("%s: refused", what)
			}
		}
		end(s, wire)
		if h.Alive() {
			t.Fatalf("%s: it has not ended", what)
		}
		h.OnEnd("late", func() { told[1]++ })
		if told != [2]int{1, 1} {
			t.Errorf("%s: told %v times, want once each", what, told)
		}
	}
	s, wire := near.New(1<<18), new(store.Wire)
	h, taken := put(s, wire, "a", "1"), 0
	for id := range 100 {
		if h.OnEnd(id, func() {}) {
			taken++
		}
	}
	if taken != 8 {
		t.Errorf("%d are to be told", taken)
	}
}

// TestOnEndAsItEnds: who asks while the record ends is told, by one or by the other.
func TestOnEndAsItEnds(t *testing.T) {
	t.Parallel()
	for range 2000 {
		s, wire := near.New(1<<18), new(store.Wire)
		h := put(s, wire, "a", "1")
		var told atomic.Int64
		var all sync.WaitGroup
		all.Go(func() { s.Invalidate("a") })
		for id := range 2 {
			all.Go(func() { h.OnEnd(id, func() { told.Add(1) }) })
		}
		all.Wait()
		if n := told.Load(); n != 2 {
			t.Fatalf("%d of 2 were told", n)
		}
	}
}

// TestNobodyWaitsForADrop: who says that a connection is lost reads it for others. What it leaves behind is no hit at once, and goes later.
func TestNobodyWaitsForADrop(t *testing.T) {
	t.Parallel()
	s, wire := near.New(1<<18), new(store.Wire)
	h, gate := put(s, wire, "a", "1"), make(chan struct{})
	h.OnEnd("slow", func() { <-gate })
	wire.Lose()
	s.Drop(wire) // would not return
	if h.Alive() {
		t.Error("it is a hit still")
	}
	close(gate)
	s.Close()
	if n := s.Stats().Records; n != 0 {
		t.Errorf("%d records are left", n)
	}
}
