package spec

import (
	"math/bits"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/mvcc"
)

// Where a reader stands.
const (
	readerIdle uint8 = iota
	readerGet
	readerAccept
	readerLease
	readerHead
	readerPosition
	readerLoad
	readerFill
	readerRelease
	readerWaitHead // it waits for another's load: HEAD first, as with every LEASE,
	readerWait     // then the row
	readerCount    // it has the store count
	readerVouch    // HEAD, and then the value, which HEAD may vouch for
	readerValue
)

func (x *explorer) reader(s *state, i int) {
	r := s.readers[i]
	kind := x.readers[i]
	emit := func(n *state, broken, format string, args ...any) {
		x.yield(n, x.say("reader %d: ", i+1)+x.say(format, args...), broken)
	}
	to := func(pc uint8) (*state, *reader) {
		n := *s
		n.readers[i].pc = pc
		return &n, &n.readers[i]
	}
	// over ends a read.
	over := func() (*state, *reader) {
		n, m := to(readerIdle)
		*m = x.next(i, &r)
		return n, m
	}
	head := func(m *reader) {
		m.headFound = s.at(i).found && s.at(i).gen == r.gen && s.at(i).rev == r.rev
		m.headSi, m.headWi = 0, 0
		if m.headFound {
			m.headSi = s.at(i).si
			if kind.standby || kind.joins && x.standby() {
				h := fence.Head{Wi: mvcc.LSN(s.at(i).wi), Floors: s.at(i).buckets()}
				m.headWi = uint8(h.For(fence.Bucket(r.name)).Wi)
			}
			if x.without.intentFloor {
				m.headWi = s.at(i).wc
			}
		}
	}
	load := readerLoad
	if kind.standby && !x.without.priorPosition {
		load = readerPosition
	}
	if r.behind {
		n, m := to(readerIdle)
		switch {
		case r.pc == readerVouch && kind.bounded: // a process remembers its counts
			m.pc = readerVouch
		case r.pc != readerIdle: // its connection is gone, and its read with it
			n, m = over()
		}
		m.behind = false
		emit(n, "", "comes over to the new master")
	}
	switch r.pc {
	case readerIdle:
		if r.runs == 0 {
			return
		}
		x.confirmRoster(s, i, to, emit)
		if r.gen == 0 || r.name == noName || !r.fresh && x.without.judgedAfter {
			return
		}
		if kind.demands() {
			x.demand(s, i, to, emit)
			return
		}
		n, m := to(readerGet)
		m.cov, m.claim = 0, 0
		if kind.early {
			m.cov, m.claim = s.visible, s.visible
		}
		emit(n, "", "starts")
	case readerCount, readerVouch, readerValue:
		x.vouch(s, i, to, over, emit)
	case readerWaitHead, readerWait:
		x.wait(s, i, to, over, emit, head)
	case readerGet:
		v := x.record(s.at(i).records[r.name])
		if v.State.Live() {
			n, m := to(readerAccept)
			m.cov, m.must = s.at(i).records[r.name].cov, s.upTo(s.at(i).promised)|s.sure
			emit(n, "", "GET under name %d: a value that saw %03b", r.name, m.cov)
			return
		}
		n, m := to(readerLease)
		if x.without.leaseBeforeRead {
			head(m)
		}
		emit(n, "", "GET under name %d: none", r.name)
	case readerAccept:
		n, _ := over()
		if !r.fresh && !x.without.judgedAfter {
			emit(n, "", "drops the reply: the roster is not confirmed")
			return
		}
		if r.must&^r.cov != 0 {
			emit(n, "a value was served without what was confirmed before it was read", "serves a value that saw %03b, must see %03b", r.cov, r.must)
			return
		}
		if kind.session {
			x.remembers(&n.readers[i], &r)
		}
		emit(n, "", "serves")
	case readerLease:
		token := r.token + 1
		number := uint8(i)*4 + token
		if other := s.readers[1-i]; kind.joins && x.without.sameLease && other.name == r.name && other.flying() {
			x.join(s, i, to, emit)
			return
		}
		v, outcome := fence.Acquire(x.record(s.at(i).records[r.name]), x.tokens[number], int64(s.clock), int64(s.clock)+1)
		if outcome == fence.Busy {
			if other := s.readers[1-i]; kind.joins && other.flying() && s.at(i).records[r.name].token == uint8(1-i)*4+other.token {
				x.join(s, i, to, emit)
				return
			}
			n, _ := over()
			emit(n, "", "LEASE: busy")
			return
		}
		next := readerHead
		if x.without.leaseBeforeRead {
			next = load
		}
		n, m := to(next)
		m.token = token
		n.at(i).records[r.name] = x.stored(v)
		emit(n, "", "LEASE under name %d", r.name)
	case readerHead:
		n, m := to(load)
		head(m)
		if !m.headFound {
			m.pc = readerRelease
			emit(n, "", "HEAD: not its roster's")
			return
		}
		emit(n, "", "HEAD: Si %03b, floor %d", m.headSi, m.headWi)
	case readerPosition:
		next := readerLoad
		if x.without.priorPosition {
			next = readerFill
		}
		n, m := to(next)
		m.replay = s.replayed + 1
		emit(n, "", "the standby is at %d", s.replayed)
	case readerLoad:
		next := readerFill
		if kind.standby && x.without.priorPosition {
			next = readerPosition
		}
		n, m := to(next)
		switch {
		case kind.standby:
			m.cov = s.upTo(s.replayed)
		case !kind.early:
			m.cov = s.visible
		}
		if !kind.early {
			m.claim = m.cov
		}
		if w := &n.readers[1-i]; w.flight == uint8(i)+1 && !w.have {
			w.cov, w.claim, w.replay, w.have = m.cov, m.claim, m.replay, true
		}
		emit(n, "", "loads: sees %03b", m.cov)
	case readerFill:
		n, _ := over()
		claim, replay := r.claim, r.replay
		if kind.standby && x.without.position {
			// Everything up to the highest id that was replayed.
			claim, replay = set(1)<<bits.Len8(uint8(r.cov))-1, 0
		}
		cov := x.coverage(claim, replay)
		if !x.without.floor && !fence.Floor(x.floor(&r), cov) {
			n, _ = to(readerRelease)
			emit(n, "", "may not fill: below the floor")
			return
		}
		v, outcome := fence.Fill(x.record(s.at(i).records[r.name]), fence.Filling{
			Token: x.tokens[uint8(i)*4+r.token], Coverage: cov, State: fence.Live, RowVersion: x.contents[r.cov],
		}, int64(s.clock))
		if x.without.lease {
			v, outcome = fence.Record{State: fence.Live, Coverage: cov, RowVersion: x.contents[r.cov]}, fence.Filled
		}
		n.at(i).records[r.name] = x.stored(v)
		emit(n, "", "FILL under name %d of what saw %03b: %s", r.name, r.cov, outcome)
	case readerRelease:
		n, _ := over()
		v, _ := fence.Release(x.record(s.at(i).records[r.name]), x.tokens[uint8(i)*4+r.token])
		n.at(i).records[r.name] = x.stored(v)
		emit(n, "", "gives its lease back")
	}
}

// next is a reader after its read.
func (x *explorer) next(i int, r *reader) reader {
	n := reader{runs: r.runs - 1, token: r.token, gen: r.gen, rev: r.rev, name: r.name, fresh: r.fresh, behind: r.behind}
	if x.readers[i].session {
		n.must, n.saw, n.seen = r.must, r.saw, r.seen
	}
	return n
}

// floor is the HEAD that a reader has read. Positions are one higher here: a standby at 0 has a coverage too.
func (x *explorer) floor(r *reader) fence.Head {
	return fence.Head{Generation: x.generations[r.gen], Si: x.snapshots[r.headSi], Wi: mvcc.LSN(r.headWi) + 1}
}

// flying reports whether the reader loads under a lease.
func (r *reader) flying() bool {
	switch r.pc {
	case readerHead, readerPosition, readerLoad, readerFill:
		return true
	}
	return false
}

type (
	goOn  = func(pc uint8) (*state, *reader)
	endIt = func() (*state, *reader)
	emit  = func(n *state, broken, format string, args ...any)
)

// confirmRoster is R0.
func (x *explorer) confirmRoster(s *state, i int, to goOn, emit emit) {
	r := s.readers[i]
	same := s.at(i).found && s.at(i).gen == r.gen && s.at(i).rev == r.rev
	published := s.at(i).found && s.at(i).gen == s.at(i).rosterGen && s.at(i).rev == s.at(i).rosterRev
	if !r.fresh && (same || published) {
		n, m := to(r.pc)
		m.fresh = true
		if !same {
			m.gen, m.rev, m.name = s.at(i).gen, s.at(i).rev, s.at(i).rosterName
			if s.at(i).suspended {
				m.name = noName
			}
			if x.readers[i].old {
				m.name = noName
				if s.at(i).rosterOther != 0 {
					m.name = s.at(i).rosterOther - 1
				}
			}
		}
		emit(n, "", "confirms the roster: revision %d, name %d", m.rev, m.name)
	}
}

// join has a reader wait for the other one's load.
func (x *explorer) join(s *state, i int, to goOn, emit emit) {
	n, m := to(readerWaitHead)
	other := &s.readers[1-i]
	m.flight, m.fences, m.must = uint8(1-i)+1, s.at(i).records[m.name].fences, s.upTo(s.at(i).promised)|s.sure
	if other.pc == readerFill {
		m.cov, m.claim, m.replay, m.have = other.cov, other.claim, other.replay, true
	}
	emit(n, "", "LEASE: busy, with fences %03b; waits for reader %d's load", m.fences, m.flight)
}

// wait is R6.
func (x *explorer) wait(s *state, i int, to goOn, over endIt, emit emit, head func(*reader)) {
	r := s.readers[i]
	if r.pc == readerWaitHead {
		n, m := to(readerWait)
		head(m)
		emit(n, "", "HEAD: Si %03b, floor %d", m.headSi, m.headWi)
		return
	}
	if !r.have {
		if !s.readers[r.flight-1].flying() {
			n, _ := over()
			emit(n, "", "the load that it waited for failed")
		}
		return
	}
	n, _ := over()
	cov := x.coverage(r.claim, r.replay)
	fits := r.headFound && fence.Floor(x.floor(&r), cov)
	for tx := range x.txs {
		fits = fits && (!r.fences.has(tx) || cov.Covers(x.stamp(tx)))
	}
	switch {
	case !fits && !x.without.fits:
		emit(n, "", "the row is not new enough for it")
	case r.must&^r.cov != 0:
		emit(n, "a row was given to a waiter without what was confirmed before it came",
			"takes a row that saw %03b, must see %03b", r.cov, r.must)
	default:
		emit(n, "", "takes the row")
	}
}

// demand starts a read that asks for something: for a transaction whose COMMIT has returned, or for what was visible when
// the store counted.
func (x *explorer) demand(s *state, i int, to goOn, emit emit) {
	first := readerVouch
	if x.without.headBeforeKey {
		first = readerValue
	}
	if x.readers[i].session {
		x.session(s, i, to, emit)
		return
	}
	if x.readers[i].bounded {
		n, m := to(readerCount)
		m.must = s.visible
		emit(n, "", "will have the store count, and sees %03b by then", m.must)
		return
	}
	for tx := range x.txs {
		if !s.visible.has(tx) {
			continue
		}
		for _, at := range []uint8{0, s.flushed} {
			n, m := to(first)
			m.after, m.at, m.must = tx+1, at, 1<<tx
			emit(n, "", "starts, with a token of writer %d, position %d", tx+1, at)
		}
	}
}

// vouch reads a value under a demand.
func (x *explorer) vouch(s *state, i int, to goOn, over endIt, emit emit) {
	r := s.readers[i]
	first, second := readerVouch, readerValue
	if x.without.headBeforeKey {
		first, second = second, first
	}
	n, m := to(second)
	switch r.pc {
	case readerCount:
		m.pc = first
		n.counted(n.at(i))
		m.asked = n.at(i).count
		emit(n, "", "has the store count: %d of id %d", m.asked.n, m.asked.id)
		return
	case readerVouch:
		if x.readers[i].bounded && !x.without.headBeforeKey {
			x.confirmRoster(s, i, to, emit)
		}
		if m.headFound = s.at(i).found && s.at(i).gen == r.gen && s.at(i).rev == r.rev; !m.headFound {
			n, _ = over()
			emit(n, "", "HEAD: not its roster's")
			return
		}
		m.headWc, m.headSa, m.replid = s.at(i).wc, s.at(i).sa, s.at(i).replid
		if x.readers[i].session {
			m.headSi = s.at(i).si
		}
		if r.pc != first {
			x.proved(n, i)
		}
		emit(n, "", "HEAD: Wc %d%s", s.at(i).wc, s.at(i).sa)
	case readerValue:
		if v := s.at(i).records[r.name]; v.live {
			m.have, m.cov, m.claim, m.replay = true, v.cov, v.claim, v.replay
		}
		if r.pc != first {
			if r.replid != s.at(i).replid && !x.without.oneConnection {
				n, _ = over()
				emit(n, "", "the connection that HEAD came by is broken")
				return
			}
			x.proved(n, i)
		}
		emit(n, "", "GET under name %d: %s", r.name, x.say("live %v, saw %03b", s.at(i).records[r.name].live, s.at(i).records[r.name].cov))
	}
}

// proved sends a reader on that has HEAD and the value: it serves, or loads.
func (x *explorer) proved(n *state, i int) {
	m := &n.readers[i]
	if m.pc = readerLease; m.have && x.vouched(m) {
		m.pc = readerAccept
		return
	}
	if x.readers[i].session { // it would load; what it sees then is what a load of another key shows
		*m = x.next(i, m)
		return
	}
	m.have, m.cov, m.claim, m.replay, m.must = false, 0, 0, 0, 0
	m.after, m.at, m.asked, m.headWc, m.headSa, m.replid = 0, 0, tick{}, 0, view{}, 0
}

// vouched reports whether HEAD proves that the value has what is asked for.
func (x *explorer) vouched(m *reader) bool {
	if m.seen {
		return x.follows(m)
	}
	if m.after == 0 {
		head, asked := x.tick(m.headSa.tick), x.tick(m.asked)
		if x.without.tickID {
			head.ID = asked.ID
		}
		return head.Reaches(asked)
	}
	// Positions are one higher here: a standby at 0 has a coverage too.
	h := fence.Head{Wc: mvcc.LSN(m.headWc), Sa: x.horizon(m.headSa)}
	c, token := x.coverage(m.claim, m.replay), mvcc.Token{XID: mvcc.XID(m.after), After: mvcc.LSN(m.at)}
	if m.at != 0 {
		h.Wc++
		token.After++
	}
	return fence.Contains(&h, c, token)
}
