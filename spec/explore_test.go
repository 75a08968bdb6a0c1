package spec

import (
	"fmt"
	"hash/maphash"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// check holds the invariants against a state. It returns which one is broken.
func (x *explorer) check(s *state) string {
	r := &s.redis
	if !r.found || r.epoch != s.epoch { // positions and ids mean nothing until the daemon has noticed
		return ""
	}
	confirmed := s.upTo(r.wc)
	if missing := confirmed &^ s.missed &^ r.confirmed; missing != 0 {
		return fmt.Sprintf("I1: Wc is %d, but %03b was not confirmed in this history", r.wc, missing)
	}
	if missing := confirmed &^ s.missed &^ s.visible; missing != 0 {
		return fmt.Sprintf("I1: Wc is %d, but %03b is not visible", r.wc, missing)
	}
	// A name is live while ROSTER and HEAD agree. What readers of an earlier roster may still do is judged when they serve.
	if r.rosterGen == r.gen && r.rosterRev == r.rev && !r.suspended {
		broken := ""
		live(r.rosterName, r.rosterOther, func(name uint8) {
			v := &r.records[name]
			if missing := x.lacks(v.cov, confirmed); v.live && missing != 0 && x.holds(v.pairs, r.epochs[name]) {
				broken = fmt.Sprintf("I2: Wc is %d, the live value under name %d lacks %03b", r.wc, name, missing)
			}
		})
		return broken
	}
	return ""
}

// checkEnd holds a state in which nothing can happen any more against I3: everything is confirmed, nothing is stale.
func checkEnd(x *explorer, s *state) string {
	r := &s.redis
	if !r.found || s.flushed != x.txs || r.wc != s.flushed {
		return fmt.Sprintf("I3: nothing more happens, and Wc is %d of %d", r.wc, x.txs)
	}
	if r.rosterGen != r.gen || r.rosterRev != r.rev || r.suspended {
		return "I3: nothing more happens, and HEAD and roster differ, or nothing is live"
	}
	return ""
}

type result struct {
	states int
	broken string   // the invariant that is broken, empty for none
	trace  []string // the steps to it
	limit  bool     // not all states were seen
}

// explore visits every state of the protocol's model.
func explore(c config, limit int) result {
	x := &explorer{config: c, tables: newTables()}
	return search(x.initial(), limit, func(s *state, naming bool, yield func(n *state, action, broken string)) {
		x.yield, x.naming = yield, naming
		x.steps(s)
	}, x.check, func(s *state) string {
		if c.safety {
			return ""
		}
		return checkEnd(x, s)
	})
}

// search visits every state that can be reached, breadth first, so that a trace to a broken invariant is a shortest. steps
// yields every state that one step leads to, and says what it did when naming is set; atEnd judges states without any.
func search[S comparable](
	first S, limit int, steps func(s *S, naming bool, yield func(n *S, action, broken string)), check, atEnd func(*S) string,
) result {
	type origin struct {
		from  int32
		place int32 // among the steps of from
	}
	states := newStates[S]()
	states.add(&first)
	origins := []origin{{from: -1}}
	trace := func(at int32) []string {
		var places []origin
		for ; origins[at].from >= 0; at = origins[at].from {
			places = append(places, origins[at])
		}
		var lines []string
		for _, taken := range slices.Backward(places) {
			n := int32(0)
			s := *states.at(taken.from)
			steps(&s, true, func(_ *S, action, _ string) {
				if n == taken.place {
					lines = append(lines, action)
				}
				n++
			})
		}
		return lines
	}
	at := int32(0) // not a range: states grows on the way
	for at < states.count {
		if int(states.count) > limit {
			return result{states: int(states.count), limit: true}
		}
		s := *states.at(at)
		place, last, broken := int32(0), int32(-1), ""
		steps(&s, false, func(n *S, _, wrong string) {
			here := place
			place++
			if broken != "" {
				return
			}
			if wrong == "" {
				wrong = check(n)
			}
			if !states.add(n) && wrong == "" {
				return
			}
			origins = append(origins, origin{from: at, place: here})
			if wrong != "" {
				broken, last = wrong, int32(len(origins)-1)
			}
		})
		if place == 0 {
			broken, last = atEnd(&s), at
		}
		if broken != "" {
			return result{states: int(states.count), broken: broken, trace: trace(last)}
		}
		at++
	}
	return result{states: int(states.count)}
}

// states is the set of all states seen, each with its number. A map would hold every state twice.
type states[S comparable] struct {
	chunks [][]S
	slots  []slotOf // by hash
	count  int32
	seed   maphash.Seed
}

// slotOf has so much of a state's hash that others are seldom looked at, and growing looks at none.
type slotOf struct {
	hash   uint32
	number int32 // plus one; 0: free
}

const chunk = 1 << 11

func newStates[S comparable]() *states[S] {
	return &states[S]{slots: make([]slotOf, 1<<12), seed: maphash.MakeSeed()}
}

func (s *states[S]) at(i int32) *S { return &s.chunks[i/chunk][i%chunk] }

// free is a place for a hash that is not there yet.
func (s *states[S]) free(hash uint32) *slotOf {
	mask := uint32(len(s.slots) - 1)
	at := hash & mask
	for s.slots[at].number != 0 {
		at = (at + 1) & mask
	}
	return &s.slots[at]
}

// add reports whether the state is new.
func (s *states[S]) add(n *S) bool {
	hash := uint32(maphash.Comparable(s.seed, *n))
	mask := uint32(len(s.slots) - 1)
	at := hash & mask
	for ; s.slots[at].number != 0; at = (at + 1) & mask {
		if s.slots[at].hash == hash && *s.at(s.slots[at].number - 1) == *n {
			return false
		}
	}
	if int(s.count)%chunk == 0 {
		s.chunks = append(s.chunks, make([]S, 0, chunk))
	}
	last := &s.chunks[len(s.chunks)-1]
	*last = append(*last, *n)
	s.count++
	s.slots[at] = slotOf{hash: hash, number: s.count}
	if int(s.count) > len(s.slots)/2 {
		old := s.slots
		s.slots = make([]slotOf, 2*len(old))
		for _, slot := range old {
			if slot.number != 0 {
				*s.free(slot.hash) = slot
			}
		}
	}
	return true
}

func deep() bool { return os.Getenv("SPEC") == "deep" }

func TestProtocol(t *testing.T) {
	t.Parallel()
	began := time.Now()
	total := 0
	for _, c := range protocolConfigs() {
		r := explore(c, 25_000_000)
		total += r.states
		t.Logf("%-60s %9d states, %v", c.name, r.states, time.Since(began).Round(time.Millisecond))
		if r.limit {
			t.Errorf("%s: not exhausted", c.name)
		}
		if r.broken != "" {
			t.Errorf("%s: %s\n%s", c.name, r.broken, strings.Join(r.trace, "\n"))
		}
	}
	t.Logf("%d states in all, every one of them, %v", total, time.Since(began).Round(time.Millisecond))
}
