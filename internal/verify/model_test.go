package verify

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/mvcc"
)

// model is one key, the transactions that change it, a daemon, a reader, and a verify, each doing one step after the
// other. A value is the set of transactions that it contains, so that two values are equal exactly when they contain
// the same.
type model struct {
	random *rand.Rand
	// The log: transactions in the order of their commits, and those that the primary shows, in whatever order.
	ends    map[mvcc.XID]mvcc.LSN
	visible map[mvcc.XID]bool
	end     mvcc.LSN
	replay  mvcc.LSN // of the standby

	shard  fence.Shard
	keeps  bool // a confirm keeps a value that contains the change already
	record *value
	token  int // of the lease, 0 for none
	serial int

	daemon  daemonStep
	reader  readerStep
	verify  verifyStep
	verdict string // of verify; empty: it is not done

	// What is broken: the protocol, and then verify has to notice; or verify, and then it may be wrong.
	forgets       bool // the daemon deletes nothing
	ignoresHead   bool // verify does not wait
	positionFirst bool // it reads the position before the truth
	oneRound      bool
	ignoresPlace  bool // of the standby that a value was loaded on
}

type value struct {
	contains []mvcc.XID
	coverage fence.Coverage
	serial   int // the bytes of two fills differ
}

type daemonStep struct {
	next      int
	snapshot  mvcc.Snapshot
	insert    mvcc.LSN
	batch     []mvcc.XID
	confirmed map[mvcc.XID]bool
	waiting   mvcc.Snapshot // for its turn as Sa
	position  mvcc.LSN
}

type readerStep struct {
	next  int
	token int
	head  fence.Head
	found value
}

type verifyStep struct {
	next   int
	round  int
	seen   *value
	truth  []mvcc.XID
	needs  needs
	before fence.Head
	same   bool
}

const transactions = 4

func newModel(seed uint64) *model {
	m := &model{random: rand.New(rand.NewPCG(seed, 1)), ends: map[mvcc.XID]mvcc.LSN{}, visible: map[mvcc.XID]bool{}}
	m.keeps = m.random.IntN(2) == 0
	m.daemon.confirmed = map[mvcc.XID]bool{}
	m.shard = fence.Shard{Found: true, Head: fence.Head{Generation: "g", Si: sees(1), Sa: sees(1)}}
	return m
}

// snapshot is the primary's.
func (m *model) snapshot() mvcc.Snapshot {
	xmax := mvcc.XID(1)
	for x := range m.visible {
		xmax = max(xmax, x+1)
	}
	var running []mvcc.XID
	for x := mvcc.XID(1); x < xmax; x++ {
		if !m.visible[x] {
			running = append(running, x)
		}
	}
	return sees(xmax, running...)
}

func (m *model) contains(c fence.Coverage) []mvcc.XID {
	var list []mvcc.XID
	for x := mvcc.XID(1); x <= transactions; x++ {
		if end, committed := m.ends[x]; committed && c.Covers(fence.Stamp{XID: x, End: end}) {
			list = append(list, x)
		}
	}
	return list
}

// step lets somebody do something, if that can be done now.
func (m *model) step() {
	switch m.random.IntN(8) {
	case 0: // a transaction is flushed, after which the standby may have it
		x := mvcc.XID(1 + m.random.IntN(transactions))
		if m.ends[x] != 0 {
			return
		}
		m.end += 10
		m.ends[x] = m.end
	case 1: // and later the primary shows it
		x := mvcc.XID(1 + m.random.IntN(transactions))
		if m.ends[x] == 0 || m.visible[x] {
			return
		}
		m.visible[x] = true
	case 2:
		m.replay = min(m.end, m.replay+10)
	case 3, 4:
		m.apply()
	case 5:
		m.read()
	default:
		m.check()
	}
}

func (m *model) apply() {
	d := &m.daemon
	switch d.next {
	case 0: // D2
		d.snapshot, d.insert, d.batch = m.snapshot(), m.end, nil
		for x := range m.ends {
			if d.snapshot.Sees(x) && !d.confirmed[x] {
				d.batch = append(d.batch, x)
			}
		}
	case 1: // D3
		wi := mvcc.LSN(0)
		for _, x := range d.batch {
			wi = max(wi, m.ends[x])
		}
		m.shard, _ = fence.Intent(m.shard, m.expected(), fence.Raise{To: wi, All: true}, d.snapshot)
	case 2:
		for _, x := range d.batch {
			d.confirmed[x] = true
			if m.forgets {
				continue
			}
			m.token = 0
			if r := m.record; r != nil && (!m.keeps || !r.coverage.Covers(fence.Stamp{XID: x, End: m.ends[x]})) {
				m.record = nil
			}
		}
	case 3: // D4, D6
		wc := m.end
		for x, end := range m.ends {
			if !d.confirmed[x] {
				wc = min(wc, end-1)
			}
		}
		var sa mvcc.Snapshot
		if !d.waiting.IsZero() && wc >= d.position {
			sa, d.waiting = d.waiting, mvcc.Snapshot{}
		}
		m.shard, _ = fence.Advance(m.shard, m.expected(), wc, sa, fence.Tick{})
		if d.waiting.IsZero() {
			d.waiting, d.position = d.snapshot, d.insert
		}
	}
	d.next = (d.next + 1) % 4
}

func (m *model) expected() fence.Expected {
	return fence.Expected{Generation: "g", Wc: m.shard.Head.Wc}
}

func (m *model) read() {
	r := &m.reader
	switch r.next {
	case 0: // R2
		if m.record != nil && m.random.IntN(2) == 0 {
			return // a hit
		}
		m.serial++
		m.token, r.token, r.head = m.serial, m.serial, m.shard.Head
	case 1: // R3
		r.found.coverage = fence.Coverage{Snapshot: m.snapshot()}
		if m.random.IntN(2) == 0 && m.replay > 0 {
			r.found.coverage = fence.Coverage{Replay: m.replay}
		}
		r.found.contains = m.contains(r.found.coverage)
	case 2: // R4, R5
		if fence.Floor(r.head, r.found.coverage) && m.token == r.token && r.token != 0 &&
			(m.record == nil || r.found.coverage.Dominates(m.record.coverage)) {
			v := r.found
			v.serial = m.serial
			m.record, m.token = &v, 0
		}
	}
	r.next = (r.next + 1) % 3
}

// check is what verifier does, step by step.
func (m *model) check() {
	v := &m.verify
	if m.verdict != "" {
		return
	}
	v.next++
	switch v.next {
	case 1:
		if m.record == nil {
			v.next = 0
			return
		}
		v.seen, v.round, v.needs = m.record, 1, needs{}
		if m.positionFirst {
			v.needs.position = m.end
		}
	case 2:
		v.needs.snapshot = m.snapshot()
		v.truth = m.contains(fence.Coverage{Snapshot: v.needs.snapshot})
		if slices.Equal(v.truth, v.seen.contains) {
			m.verdict = "fresh"
		}
	case 3:
		if !m.positionFirst {
			v.needs.position = m.end
		}
		if !m.ignoresPlace {
			v.needs.replay = v.seen.coverage.Replay
		}
	case 4:
		v.before = m.shard.Head
	case 5:
		v.same = m.record != nil && m.record.serial == v.seen.serial
		s := second{round: v.round, same: v.same, live: true, met: v.needs.met(&v.before)}
		if m.oneRound {
			s.round = rounds
		}
		if m.ignoresHead {
			s.met = true
		}
		switch judge(s) {
		case wait:
			v.next = 3
		case again:
			v.next, v.round = 1, v.round+1
			v.needs = needs{}
			if m.positionFirst {
				v.needs.position = m.end
			}
		case inFlight:
			m.verdict = "in flight"
		case stale:
			m.verdict = "stale"
		case undecided:
			m.verdict = "undecided"
		}
	}
}

// run takes random steps until verify is done, or nobody writes any more.
func (m *model) run(steps int) {
	for range steps {
		if m.verdict != "" {
			return
		}
		m.step()
	}
}

// TestNoViolationWithoutABreach has everybody act at random: whatever the order, verify never reports a violation where
// the protocol is obeyed; and where a piece of verify is left out, it does.
func TestNoViolationWithoutABreach(t *testing.T) {
	t.Parallel()
	const seeds, steps = 30_000, 120
	verdicts := map[string]int{}
	for seed := range uint64(seeds) {
		m := newModel(seed)
		m.run(steps)
		verdicts[m.verdict]++
		if m.verdict == "stale" {
			t.Fatalf("seed %d: a violation is reported: %+v, HEAD %+v", seed, m.verify, m.shard.Head)
		}
	}
	if verdicts["fresh"] < seeds/10 || verdicts["in flight"] < seeds/100 {
		t.Errorf("the model hardly gets anywhere: %v", verdicts)
	}
	for name, breach := range map[string]func(m *model){
		"HEAD is not waited for":             func(m *model) { m.ignoresHead = true },
		"the position is read too early":     func(m *model) { m.positionFirst, m.oneRound = true, true },
		"one round, for a standby's value":   func(m *model) { m.oneRound = true },
		"a standby's position is not waited": func(m *model) { m.ignoresPlace = true },
	} {
		found := false
		for seed := uint64(0); seed < 40*seeds && !found; seed++ {
			m := newModel(seed)
			breach(m)
			m.run(steps)
			found = m.verdict == "stale"
		}
		if !found {
			t.Errorf("%s: no false violation is ever reported, so the model proves nothing", name)
		}
	}
}

// TestNoViolationEscapes has the daemon delete nothing. Once nobody writes, verify tells a stale value from a fresh one.
func TestNoViolationEscapes(t *testing.T) {
	t.Parallel()
	const seeds, steps = 5_000, 60
	verdicts := map[string]int{}
	for seed := range uint64(seeds) {
		m := newModel(seed)
		m.forgets = true
		for range steps {
			m.step()
		}
		// Everything comes to rest: what was flushed is visible, delivered and confirmed.
		for x := range m.ends {
			m.visible[x] = true
		}
		m.replay = m.end
		for range 40 {
			m.apply()
		}
		if m.record == nil {
			continue
		}
		want := "stale"
		if slices.Equal(m.record.contains, m.contains(fence.Coverage{Snapshot: m.snapshot()})) {
			want = "fresh"
		}
		m.verify, m.verdict = verifyStep{}, ""
		for range 40 {
			m.check()
		}
		if m.verdict != want {
			t.Fatalf("seed %d: the verdict is %q, want %q: %+v, HEAD %+v", seed, m.verdict, want, m.verify, m.shard.Head)
		}
		verdicts[m.verdict]++
	}
	if verdicts["stale"] < 100 || verdicts["fresh"] < 100 {
		t.Errorf("the model hardly gets anywhere: %v", verdicts)
	}
}
