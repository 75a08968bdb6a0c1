package spec

import (
	"fmt"
	"slices"
	"testing"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/mvcc"
)

// A model of its own for conditional reads: one row, which is changed, changed back and touched, so that values of different
// snapshots have the same bytes; readers that lease over the value and renew it, beside ones that fill; confirms of both kinds,
// early fences, and evictions. As in the large model it is the code of internal/fence that decides.

// contents are the row's bytes after each number of its writers.
const contents = "aba"

const lastWriter = uint8(len(contents) - 1)

// renewing is a state of it. Writers take the row's lock, so that they become visible in order; the log delivers a commit before
// that.
type renewing struct {
	delivered, visible uint8
	intent             uint8 // HEAD's Si
	sent, confirmed    uint8 // bits: INTENT is written; CONFIRM too
	early              uint8 // bits
	evictions          uint8
	live               bool
	payload            byte
	claim              uint8 // the value's coverage: so many writers
	token              uint8 // of the lease, 0 for none
	fences             uint8 // bits
	readers            [2]renewer
	epoch              uint8 // the id of the epoch that the value is tied to, where writers end that; 0 for none
	pair               uint8 // what the value has of it
}

type renewer struct {
	step   uint8 // 0 idle, 1 leased, 2 has HEAD, 3 loaded, 4 has the epoch, 5 may store
	runs   uint8
	token  uint8
	kept   byte  // what the value was that it leased over, 0 for none
	head   uint8 // Si
	loaded uint8
	pair   uint8
}

// renewWithout lists what can be left out. Fences and floor are not among it: what is newer than a live value covers both.
type renewWithout struct {
	lease, kept bool
	tied        bool // not left out: writers end an epoch, and leave the key alone
	begun       bool // HEAD is not asked once more after the epoch was read
}

// firstEpoch is the id of the epoch that is there from the beginning.
const firstEpoch = 99

// holds reports whether the value is one: that its epoch is as it was, or that it has none.
func (s *renewing) holds() bool { return s.live && s.pair == s.epoch }

func (s *renewing) record(tokens []fence.Token) fence.Record {
	var r fence.Record
	if s.live {
		r.State, r.Payload, r.Coverage = fence.Live, []byte{s.payload}, fence.Coverage{Snapshot: upTo(s.claim)}
	}
	if s.token != 0 {
		r.Lease = fence.Lease{Token: tokens[s.token], End: 1}
	}
	for x := uint8(1); x <= lastWriter; x++ {
		if s.fences&(1<<x) != 0 {
			r.Fences = append(r.Fences, fence.Stamp{XID: mvcc.XID(x)})
		}
	}
	return r
}

func (s *renewing) store(r fence.Record, tokens []fence.Token) {
	s.live, s.payload, s.claim, s.token, s.fences = r.State.Live(), 0, 0, 0, 0
	if s.live {
		s.payload, s.claim = r.Payload[0], uint8(r.Coverage.Snapshot.Xmax-1)
	}
	if !r.Lease.IsZero() {
		s.token = uint8(slices.Index(tokens, r.Lease.Token))
	}
	for _, x := range r.Fences {
		s.fences |= 1 << x.XID
	}
}

// upTo sees the first n writers.
func upTo(n uint8) mvcc.Snapshot { return mvcc.Snapshot{Xmin: mvcc.XID(n) + 1, Xmax: mvcc.XID(n) + 1} }

// wrong says what a state violates. A value is what its coverage says, and none lacks what is confirmed (I2).
func (s *renewing) wrong() string {
	switch {
	case !s.holds():
	case s.payload != contents[s.claim]:
		return "a value has the coverage of another"
	case s.confirmed>>(s.claim+1) != 0:
		return "a live value lacks what is confirmed (I2)"
	}
	return ""
}

// next yields the states that one step leads to.
func (s *renewing) next(tokens []fence.Token, without renewWithout, yield func(n renewing, action string)) {
	s.writers(yield)
	for x := uint8(1); x <= lastWriter; x++ {
		stamp, bit := fence.Stamp{XID: mvcc.XID(x)}, uint8(1)<<x
		if x <= s.delivered && s.early&bit == 0 && s.sent&bit == 0 && !without.tied {
			n := *s
			n.early |= bit
			r, _ := fence.Early(s.record(tokens), stamp, true, 1)
			n.store(r, tokens)
			yield(n, fmt.Sprintf("EARLY for writer %d", x))
		}
		if s.sent&bit == 0 || s.confirmed&bit != 0 {
			continue
		}
		if without.tied {
			n := *s
			n.confirmed |= bit
			n.epoch = 0
			yield(n, fmt.Sprintf("UNLINK of the epoch for writer %d", x))
			continue
		}
		for _, script := range []bool{true, false} {
			n, r := *s, fence.Unlink(s.record(tokens))
			if script {
				r, _ = fence.Confirm(s.record(tokens), stamp, 1)
			}
			n.confirmed |= bit
			n.store(r, tokens)
			yield(n, fmt.Sprintf("CONFIRM of writer %d, by script: %v", x, script))
		}
	}
	if s.evictions > 0 && (s.live || s.token != 0 || s.fences != 0) {
		n := *s
		n.evictions--
		n.store(fence.Record{}, tokens)
		yield(n, "eviction")
	}
	if s.evictions > 0 && s.epoch != 0 {
		n := *s
		n.evictions--
		n.epoch = 0
		yield(n, "eviction of the epoch")
	}
	for i := range s.readers {
		s.reader(i, tokens, without, yield)
	}
}

func (s *renewing) writers(yield func(n renewing, action string)) {
	if s.delivered < lastWriter && s.delivered == s.visible {
		n := *s
		n.delivered++
		yield(n, fmt.Sprintf("writer %d is delivered", n.delivered))
	}
	if s.visible < s.delivered {
		n := *s
		n.visible++
		yield(n, fmt.Sprintf("writer %d is visible", n.visible))
	}
	for x := uint8(1); x <= s.visible; x++ {
		if s.sent&(1<<x) == 0 {
			n := *s
			n.sent |= 1 << x
			n.intent = max(n.intent, s.visible)
			yield(n, fmt.Sprintf("INTENT for writer %d", x))
		}
	}
}

// reader is one step of a reader: the first renews where it can, the second always fills.
func (s *renewing) reader(i int, tokens []fence.Token, without renewWithout, yield func(n renewing, action string)) {
	n, m := *s, &s.readers[i]
	o := &n.readers[i]
	say := func(format string, args ...any) string {
		return fmt.Sprintf("reader %d: ", i) + fmt.Sprintf(format, args...)
	}
	switch m.step {
	case 0:
		if m.runs == 0 {
			return
		}
		if without.kept && i == 0 && m.kept == 0 && s.live {
			o.kept = s.payload
			yield(n, say("GET"))
		}
		r := s.record(tokens)
		if i == 1 && s.holds() {
			return // a hit
		}
		if !s.holds() { // it goes with the grant
			r = fence.Record{Lease: r.Lease, Fences: r.Fences}
		}
		token := m.token + 2
		r, outcome := fence.Acquire(r, tokens[token], 0, 1)
		if outcome != fence.Granted {
			return
		}
		o.step, o.token, o.runs = 1, token, m.runs-1
		if !without.kept {
			o.kept = 0
		}
		if i == 0 && r.State.Live() && o.kept == 0 {
			o.kept = r.Payload[0]
		}
		n.store(r, tokens)
		yield(n, say("LEASE over %q", o.kept))
	case 1:
		o.step, o.head = 2, s.intent
		yield(n, say("HEAD: Si %d", o.head))
	case 2:
		if o.step, o.loaded = 5, s.visible; without.tied {
			o.step = 3
		}
		yield(n, say("loads %q, of %d writers", contents[o.loaded], o.loaded))
	case 3:
		if n.epoch == 0 {
			n.epoch = m.token
		}
		o.step, o.pair = 4, n.epoch
		yield(n, say("makes or reads the epoch: id %d", o.pair))
	case 4:
		if o.step = 5; !without.begun {
			o.head = max(o.head, s.intent) // S_b
		}
		yield(n, say("HEAD once more: S_b %d", s.intent))
	case 5:
		yield(n, say("%s", n.keep(s, i, tokens, without)))
	}
}

// keep has a reader store what it has loaded, or say that it is there.
func (s *renewing) keep(before *renewing, i int, tokens []fence.Token, without renewWithout) (action string) {
	m, o := &before.readers[i], &s.readers[i]
	cov := fence.Coverage{Snapshot: upTo(m.loaded)}
	o.step, o.kept, o.head, o.loaded, o.pair = 0, 0, 0, 0, 0
	if !fence.Floor(fence.Head{Generation: "g", Si: upTo(m.head)}, cov) {
		return "is below the floor"
	}
	r, outcome := s.record(tokens), fence.NoValue
	if m.kept == contents[m.loaded] {
		q := r
		if without.lease && q.State.Live() {
			q.Lease = fence.Lease{Token: tokens[m.token], End: 1}
		}
		q, outcome = fence.Renew(q, fence.Renewing{Token: tokens[m.token], Coverage: cov}, 0)
		if outcome == fence.Renewed {
			r = q
		}
	}
	if outcome == fence.NoValue {
		r, outcome = fence.Fill(r, fence.Filling{
			Token: tokens[m.token], Coverage: cov, State: fence.Live, Payload: []byte{contents[m.loaded]},
		}, 0)
	}
	s.store(r, tokens)
	if outcome == fence.Renewed || outcome == fence.Filled {
		s.pair = m.pair
	}
	return fmt.Sprintf("stores %q, of %d writers: %s", contents[m.loaded], m.loaded, outcome)
}

// exploreRenewing visits every state, and returns the shortest way to one that is wrong.
func exploreRenewing(without renewWithout) (states int, wrong string, way []string) {
	tokens := make([]fence.Token, 8)
	for i := range tokens {
		tokens[i] = fence.Token(fmt.Sprintf("%032x", i))
	}
	start := renewing{evictions: 1, live: true, payload: contents[0]}
	start.readers[0] = renewer{runs: 1}
	start.readers[1] = renewer{runs: 1, token: 1}
	if without.tied {
		start.epoch, start.pair = firstEpoch, firstEpoch
	}
	type step struct {
		from   renewing
		action string
	}
	seen := map[renewing]step{start: {}}
	for queue := []renewing{start}; len(queue) > 0; queue = queue[1:] {
		s := queue[0]
		if wrong = s.wrong(); wrong != "" {
			for at := s; at != start; at = seen[at].from {
				way = append(way, seen[at].action)
			}
			slices.Reverse(way)
			return len(seen), wrong, way
		}
		s.next(tokens, without, func(n renewing, action string) {
			if _, known := seen[n]; !known {
				seen[n] = step{s, action}
				queue = append(queue, n)
			}
		})
	}
	return len(seen), "", nil
}

// TestRenew explores conditional reads, and then without each piece that they rest on.
func TestRenew(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		without renewWithout
		want    string
	}{
		{"whole", renewWithout{}, ""},
		{"whole, of values that are tied to an epoch", renewWithout{tied: true}, ""},
		{"RENEW, and HEAD is not asked once more after the epoch", renewWithout{tied: true, begun: true}, "a live value lacks what is confirmed (I2)"},
		{"RENEW under any lease, or none", renewWithout{lease: true}, "a value has the coverage of another"},
		{"what a GET showed is compared, not what the lease is over", renewWithout{kept: true}, "a value has the coverage of another"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			states, wrong, way := exploreRenewing(tt.without)
			t.Logf("%d states", states)
			if wrong != tt.want {
				t.Errorf("%q, want %q", wrong, tt.want)
			}
			for _, action := range way {
				t.Log(action)
			}
		})
	}
}
