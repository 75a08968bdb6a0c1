package near_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/near"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const record = "f1 V - - - s:0000000000000001,0000000000000001, - 0000000000000001\n"

func value(name, payload string) near.Value {
	text := []byte(record + payload)
	return near.Value{Name: name, Text: text, Found: true, Payload: text[len(record):]}
}

func put(s *near.Store, wire *store.Wire, name, payload string, epochs ...string) *near.Held {
	x := s.Expect(wire, append([]string{name}, epochs...)...)
	return x.Put(value(name, payload), epochs, time.Hour)
}

// TestHeardWhileItIsRead: what was heard about a record while it was read keeps it out, whatever of it was heard of, and nothing else does.
func TestHeardWhileItIsRead(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		what string
		do   func(s *near.Store, wire *store.Wire)
		held bool
	}{
		{"nothing", func(*near.Store, *store.Wire) {}, true},
		{"another key", func(s *near.Store, _ *store.Wire) { s.Invalidate("b") }, true},
		{"the key", func(s *near.Store, _ *store.Wire) { s.Invalidate("a") }, false},
		{"an epoch", func(s *near.Store, _ *store.Wire) { s.Invalidate("e1") }, false},
		{"another connection is lost", func(s *near.Store, _ *store.Wire) {
			var other store.Wire
			other.Lose()
			s.Drop(&other)
		}, true},
		{"the connection is lost", func(_ *near.Store, wire *store.Wire) { wire.Lose() }, false},
	} {
		s, wire := near.New(1<<20), new(store.Wire)
		x, second := s.Expect(wire, "a", "e1", "e2"), s.Expect(wire, "a")
		tt.do(s, wire)
		h := x.Put(value("a", "1"), []string{"e1", "e2"}, time.Hour)
		if got := h != nil && s.Get("a") == h; got != tt.held {
			t.Errorf("%s: held %t", tt.what, got)
		}
		second.Cancel()
		second.Cancel()
		if n := s.Expected(); n != 0 {
			t.Errorf("%s: %d names are expected still", tt.what, n)
		}
	}
}

// TestListen: whoever waits for keys that are read on several connections hears of a change of each, and of the end of each connection.
func TestListen(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		what  string
		do    func(s *near.Store, wires []*store.Wire)
		heard bool
	}{
		{"another key", func(s *near.Store, _ []*store.Wire) { s.Invalidate("c") }, false},
		{"the first", func(s *near.Store, _ []*store.Wire) { s.Invalidate("a") }, true},
		{"the second", func(s *near.Store, _ []*store.Wire) { s.Invalidate("b") }, true},
		{"the first's connection", func(s *near.Store, wires []*store.Wire) { s.Drop(wires[0]) }, true},
		{"the second's connection", func(s *near.Store, wires []*store.Wire) { s.Drop(wires[1]) }, true},
	} {
		s, wires := near.New(1<<20), []*store.Wire{{}, {}}
		x := s.Listen(wires, []string{"a", "b"})
		tt.do(s, wires)
		heard := false
		select {
		case <-x.Heard():
			heard = true
		default:
		}
		if heard != tt.heard {
			t.Errorf("%s: heard %t", tt.what, heard)
		}
		x.Cancel()
		if n := s.Expected(); n != 0 {
			t.Errorf("%s: %d names are expected still", tt.what, n)
		}
	}
}

// TestOver: each way in which what is held ends, for who finds it and for who has it in hand, and nothing is left of it.
func TestOver(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		what string
		do   func(s *near.Store, wire *store.Wire)
	}{
		{"its key", func(s *near.Store, _ *store.Wire) { s.Invalidate("a") }},
		{"an epoch", func(s *near.Store, _ *store.Wire) { s.Invalidate("e2") }},
		{"its connection", func(s *near.Store, wire *store.Wire) { wire.Lose(); s.Drop(wire) }},
		{"it is replaced", func(s *near.Store, wire *store.Wire) { put(s, wire, "a", "2", "e1") }},
		{"there is no room", func(s *near.Store, wire *store.Wire) {
			for i := range 5000 {
				put(s, wire, fmt.Sprint("filler", i), strings.Repeat("x", 1000))
				s.Get(fmt.Sprint("filler", i))
			}
		}},
	} {
		s, wire := near.New(1<<20), new(store.Wire)
		h := put(s, wire, "a", "1", "e1", "e2")
		if h == nil || !h.Alive() || s.Get("a") != h {
			t.Fatalf("%s: not held", tt.what)
		}
		tt.do(s, wire)
		if h.Alive() || s.Get("a") == h {
			t.Errorf("%s: it is a hit still", tt.what)
		}
		wire.Lose()
		s.Drop(wire)
		s.Close()
		if ties := s.Ties(); ties != 0 || s.Stats().Records != 0 {
			t.Errorf("%s: %d ties and %d records are left", tt.what, ties, s.Stats().Records)
		}
	}
}

func TestTimeToLive(t *testing.T) {
	t.Parallel()
	s, wire := near.New(1<<20), new(store.Wire)
	if h := s.Expect(wire, "a").Put(value("a", "1"), nil, 0); h != nil || s.Stats().Refused != 0 {
		t.Error("held for no time, or counted as changed")
	}
	now := near.Now()
	h := s.Expect(wire, "a").Put(value("a", "1"), nil, 20*time.Millisecond)
	if h == nil || h.Over(now) {
		t.Fatal("over at once")
	}
	<-time.After(25 * time.Millisecond)
	if !h.Over(near.Now()) || s.Get("a") != nil {
		t.Error("held past its time")
	}
}

// TestSizeIsABound: many records of random sizes take no more than the Store was given.
func TestSizeIsABound(t *testing.T) {
	t.Parallel()
	s, wire := near.New(1<<20), new(store.Wire)
	for i := range 20000 {
		put(s, wire, fmt.Sprint("k", i), strings.Repeat("x", rand.IntN(2000)))
		if st := s.Stats(); st.Bytes > 1<<20+64<<10 {
			t.Fatalf("%d bytes", st.Bytes)
		}
	}
	if st := s.Stats(); st.Evicted == 0 || st.Records == 0 {
		t.Errorf("Stats = %+v", st)
	}
}

// TestNothingOldIsHeld: readers, and a server that changes keys and epochs and says so in its order, in random orders. A reader that has
// heard of a change never finds what was there before.
func TestNothingOldIsHeld(t *testing.T) {
	t.Parallel()
	const keys = 4
	s, wire := near.New(1<<20), new(store.Wire)
	var (
		mu       sync.Mutex // the server: what it has, and what it has said, change together
		versions [keys]int
		pushed   [keys]int // of what the pushes that were handled speak
		working  sync.WaitGroup
	)
	name := func(i int) string { return fmt.Sprint("k", i) }
	for w := range 4 {
		working.Go(func() {
			draw := rand.New(rand.NewPCG(uint64(w), 7))
			for range 20000 {
				i := draw.IntN(keys)
				switch draw.IntN(4) {
				case 0: // the server changes the key, and later the push is handled
					mu.Lock()
					versions[i]++
					now := versions[i]
					mu.Unlock()
					s.Invalidate(name(i))
					mu.Lock()
					pushed[i] = max(pushed[i], now)
					mu.Unlock()
				case 1: // or an epoch that it is tied to
					mu.Lock()
					versions[i]++
					now := versions[i]
					mu.Unlock()
					s.Invalidate("e" + name(i))
					mu.Lock()
					pushed[i] = max(pushed[i], now)
					mu.Unlock()
				case 2:
					x := s.Expect(wire, name(i), "e"+name(i))
					mu.Lock()
					now := versions[i]
					mu.Unlock()
					x.Put(value(name(i), strconv.Itoa(now)), []string{"e" + name(i)}, time.Hour)
				default:
					mu.Lock()
					least := pushed[i]
					mu.Unlock()
					if h := s.Get(name(i)); h != nil {
						var got int
						if _, err := fmt.Sscan(string(h.Payload), &got); err != nil || got < least {
							t.Errorf("%s is %d, and %d was heard of", name(i), got, least)
						}
					}
				}
			}
		})
	}
	working.Wait()
	if st := s.Stats(); st.Puts == 0 || st.Refused == 0 || st.Pushed == 0 {
		t.Errorf("Stats = %+v", st)
	}
}
