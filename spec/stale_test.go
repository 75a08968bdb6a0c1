package spec

import (
	"fmt"
	"strings"
	"testing"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/mvcc"
)

// A model of its own for values that are kept once they are invalidated: one key, one epoch that its value is tied to, a clock, and
// a reader that fills it. Readers that are served something stale take no steps: every state is judged as if one came just now.

const (
	staleWriters = 3 // the first and the last are confirmed by the key's name, the second may be by the epoch's
	staleClock   = 3
	servedFor    = 1 // an entry's serve_stale.for
	keptFor      = 2 // and its serve_stale_on_error, for which the record is kept
)

// staleState is comparable: the record is as the store has it.
type staleState struct {
	record    string
	now       uint8
	epoch     uint8 // its id
	visible   uint8 // writers, in their order
	early     bool  // the first writer was fenced early
	strict    bool  // the last writer's COMMIT has returned, and so has its second fence
	confirmed [staleWriters + 1]uint8
	reader    struct {
		step, token, runs uint8
		floor, saw, epoch uint8
	}
}

type staleWithout struct {
	once   bool // a later transaction marks a stale value anew
	age    bool // whatever is there is served
	epochs bool // of a stale value epochs are not asked
	gone   bool // a strict commit leaves stale values behind
	covers bool // a stale value is served as if it were live
}

func (s *staleState) get() fence.Record {
	if s.record == "" {
		return fence.Record{}
	}
	r, err := fence.ParseRecord([]byte(s.record))
	if err != nil {
		panic(err)
	}
	return r
}

func (s *staleState) put(r fence.Record) {
	if s.record = string(r.Append(nil)); r.Empty() {
		s.record = ""
	}
}

func staleToken(n uint8) fence.Token { return fence.Token(fmt.Sprintf("%032x", n)) }

func (s *staleState) holds(r *fence.Record) bool {
	return len(r.Payload) == 1 && r.Payload[0] == s.epoch
}

// wrong says what a state violates.
func (s *staleState) wrong(without staleWithout) string {
	r := s.get()
	lacks := func(x uint8) bool { return !r.Coverage.Covers(fence.Stamp{XID: mvcc.XID(x)}) }
	switch {
	case r.State.Live() || without.covers && r.State.Stale():
		for x := uint8(1); x <= staleWriters; x++ {
			if s.confirmed[x] != 0 && lacks(x) && s.holds(&r) {
				return fmt.Sprintf("a live value lacks writer %d, which is confirmed (I2)", x)
			}
		}
	case r.State.Stale():
		if !without.age && int64(s.now)-r.Marked > servedFor || !without.epochs && !s.holds(&r) {
			return "" // not served
		}
		for x := uint8(1); x <= staleWriters; x++ {
			if c := s.confirmed[x]; c != 0 && lacks(x) && s.now > c+servedFor {
				return fmt.Sprintf("at %d a stale value lacks writer %d, which was confirmed at %d", s.now, x, c)
			}
		}
		if s.strict && lacks(staleWriters) {
			return "a stale value is served after a strict commit that it lacks"
		}
	}
	return ""
}

// next yields the states that one step leads to. The clock begins at 1, since 0 is fence.Gone.
func (s *staleState) next(without staleWithout, byEpoch bool, yield func(n staleState, action string)) {
	invalidate := func(n *staleState, script func(r fence.Record, now int64) fence.Record, now int64) {
		r := n.get()
		if without.once && r.State.Stale() && now != fence.Gone {
			r.Marked = now
		}
		n.put(script(r, now))
	}
	now := int64(s.now)
	if s.now < staleClock {
		n := *s
		n.now++
		yield(n, "the clock")
	}
	if s.visible < staleWriters {
		n := *s
		n.visible++
		yield(n, fmt.Sprintf("writer %d commits", n.visible))
	}
	if s.visible == staleWriters && !s.strict {
		n := *s
		n.strict = true
		fenced := fence.Gone
		if without.gone {
			fenced = now
		}
		invalidate(&n, func(r fence.Record, now int64) fence.Record {
			r, _ = fence.Early(r, fence.Stamp{XID: staleWriters}, true, now)
			return r
		}, fenced)
		yield(n, "the strict commit fences again")
	}
	for x := uint8(1); x <= staleWriters; x++ {
		stamp := fence.Stamp{XID: mvcc.XID(x)}
		ends := byEpoch && x == 2
		if x == 1 && !s.early && s.confirmed[x] == 0 {
			n := *s
			n.early = true
			invalidate(&n, func(r fence.Record, now int64) fence.Record { r, _ = fence.Early(r, stamp, true, now); return r }, now)
			yield(n, fmt.Sprintf("EARLY for writer %d", x))
		}
		if x <= s.visible && s.confirmed[x] == 0 {
			n := *s
			n.confirmed[x] = s.now
			if ends {
				n.epoch++
			} else {
				invalidate(&n, func(r fence.Record, now int64) fence.Record { r, _ = fence.Confirm(r, stamp, now); return r }, now)
			}
			yield(n, fmt.Sprintf("INTENT and CONFIRM of writer %d", x))
		}
	}
	s.fills(yield)
}

// floor are the writers that HEAD says were confirmed.
func (s *staleState) floor() (bits uint8) {
	for x, at := range s.confirmed {
		if at != 0 {
			bits |= 1 << x
		}
	}
	return bits
}

// fills is a reader's next step.
func (s *staleState) fills(yield func(n staleState, action string)) {
	n, m := *s, &s.reader
	o := &n.reader
	switch m.step {
	case 0:
		if m.runs == 0 {
			return
		}
		o.runs--
		o.token++
		r, outcome := fence.Acquire(s.get(), staleToken(o.token), int64(s.now), int64(s.now)+staleClock)
		if r.State.Live() && !s.holds(&r) { // it goes with the grant (fence.AcquireOver)
			r = fence.Record{Lease: r.Lease, Fences: r.Fences}
		}
		if outcome != fence.Granted {
			return
		}
		o.step, o.floor = 1, s.floor()
		n.put(r)
		yield(n, "LEASE")
	case 1:
		o.step, o.saw = 2, s.visible
		yield(n, "load")
	case 2: // the epoch is read after the load, and what it was ended for after it
		o.step, o.epoch, o.floor = 3, s.epoch, m.floor|s.floor()
		yield(n, "pin")
	case 3:
		o.step = 0
		if m.floor>>(m.saw+1) == 0 {
			r, _ := fence.Fill(s.get(), fence.Filling{
				Token: staleToken(m.token), Coverage: fence.Coverage{Snapshot: upTo(m.saw)}, State: fence.Live, Keep: keptFor, Payload: []byte{m.epoch},
			}, int64(s.now))
			n.put(r)
		}
		yield(n, "FILL")
	}
}

// exploreStale visits every state, and returns how many there are, or the way to a violation. It counts what was served stale.
func exploreStale(without staleWithout, byEpoch bool) (states, stale int, violation string) {
	type from struct {
		state  staleState
		action string
	}
	var first staleState
	first.now, first.reader.runs = 1, 1
	first.put(fence.Record{State: fence.Live, Coverage: fence.Coverage{Snapshot: upTo(0)}, Keep: keptFor, Payload: []byte{0}})
	seen := map[staleState]from{first: {}}
	for queue := []staleState{first}; len(queue) > 0; queue = queue[1:] {
		s := queue[0]
		if r := s.get(); r.State.Stale() {
			stale++
		}
		if wrong := s.wrong(without); wrong != "" {
			var way []string
			for s != first {
				way = append([]string{seen[s].action}, way...)
				s = seen[s].state
			}
			return len(seen), stale, wrong + ": " + strings.Join(way, ", ")
		}
		s.next(without, byEpoch, func(n staleState, action string) {
			if _, known := seen[n]; !known {
				seen[n] = from{s, action}
				queue = append(queue, n)
			}
		})
	}
	return len(seen), stale, ""
}

// TestStaleValues: what is served stale lacks nothing that was confirmed longer ago than the entry allows, and nothing of a strict
// commit; and what is live lacks nothing that is confirmed, whatever is kept beside.
func TestStaleValues(t *testing.T) {
	t.Parallel()
	for _, byEpoch := range []bool{false, true} {
		states, stale, violation := exploreStale(staleWithout{}, byEpoch)
		if violation != "" {
			t.Errorf("%s", violation)
		}
		if stale < 1000 {
			t.Errorf("only %d of %d states have a stale value", stale, states)
		}
		t.Logf("by epoch %v: %d states, %d of them with a stale value", byEpoch, states, stale)
	}
}

// TestEachPieceOfStaleIsNeeded: without it the model finds what goes wrong.
func TestEachPieceOfStaleIsNeeded(t *testing.T) {
	t.Parallel()
	for name, without := range map[string]staleWithout{
		"marked once": {once: true}, "judged by age": {age: true}, "epochs of a stale value": {epochs: true},
		"strict commits leave nothing": {gone: true}, "stale is not live": {covers: true},
	} {
		_, _, violation := exploreStale(without, without.epochs)
		if violation == "" {
			t.Errorf("without %q nothing goes wrong", name)
		}
		t.Logf("without %q: %s", name, violation)
	}
}
