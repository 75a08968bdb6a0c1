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
	readerAgain      // HEAD once more, after the epochs
	readerHolds      // the epochs of a value that it found
	readerVouchHolds // the same under a demand
	readerEpochs     // and so on: it makes an epoch, or reads it
)

// reading is a reader's step from one state.
type reading struct {
	*explorer
	s    *state
	i    int
	r    reader
	kind readerKind
}

// at is the store that it is connected to.
func (q *reading) at() *store { return q.s.at(q.i) }

// to is a copy of the state in which the reader has gone on.
func (q *reading) to(pc uint8) (*state, *reader) {
	n := *q.s
	n.readers[q.i].pc = pc
	return &n, &n.readers[q.i]
}

// over ends a read.
func (q *reading) over() (*state, *reader) {
	n, m := q.to(readerIdle)
	*m = q.next(q.i, &q.r)
	return n, m
}

func (q *reading) emit(n *state, broken, format string, args ...any) {
	q.yield(n, q.say("reader %d: ", q.i+1)+q.say(format, args...), broken)
}

// head has the reader read HEAD.
func (q *reading) head(m *reader) {
	h := q.at()
	m.headFound = h.found && h.gen == q.r.gen && h.rev == q.r.rev
	m.headSi, m.headWi = 0, 0
	if !m.headFound {
		return
	}
	m.headSi = h.si
	if q.kind.standby || q.kind.joins && q.standby() {
		all := fence.Head{Wi: mvcc.LSN(h.wi), Floors: h.buckets()}
		m.headWi = uint8(all.For(fence.Bucket(q.r.name)).Wi)
		q.epochFloors(&all, m)
	}
	if q.without.intentFloor {
		m.headWi = h.wc
	}
}

// reader yields what a reader may do next.
func (x *explorer) reader(s *state, i int) {
	q := &x.reading
	*q = reading{explorer: x, s: s, i: i, r: s.readers[i], kind: x.readers[i]}
	if q.r.behind {
		q.comeOver()
	}
	switch q.r.pc {
	case readerIdle:
		q.start()
	case readerCount, readerVouch, readerValue, readerVouchHolds:
		q.vouch()
	case readerWaitHead, readerWait:
		q.wait()
	case readerGet:
		q.get()
	case readerAccept:
		q.accept()
	case readerLease:
		q.lease()
	case readerHead:
		n, m := q.to(q.first())
		q.head(m)
		if q.without.sameStatement {
			m.saw = q.s.visible // the tags are looked for now
		}
		if !m.headFound {
			m.pc = readerRelease
			q.emit(n, "", "HEAD: not its roster's")
			return
		}
		q.emit(n, "", "HEAD: Si %03b, floor %d", m.headSi, m.headWi)
	case readerPosition, readerLoad:
		q.loads()
	case readerFill:
		q.fill()
	case readerRelease:
		n, _ := q.over()
		v, _ := fence.Release(q.record(q.at().records[q.r.name]), q.tokens[uint8(q.i)*4+q.r.token])
		q.put(&n.at(q.i).records[q.r.name], v)
		q.emit(n, "", "gives its lease back")
	default:
		q.epochal()
	}
}

// first is the first step of its load.
func (q *reading) first() uint8 {
	if q.kind.standby && !q.without.priorPosition {
		return readerPosition
	}
	return readerLoad
}

// comeOver has a reader leave the old master.
func (q *reading) comeOver() {
	n, m := q.to(readerIdle)
	switch {
	case q.r.pc == readerVouch && q.kind.bounded: // a process remembers its counts
		m.pc = readerVouch
	case q.r.pc != readerIdle: // its connection is gone, and its read with it
		n, m = q.over()
	}
	m.behind = false
	q.emit(n, "", "comes over to the new master")
}

func (q *reading) start() {
	if q.r.runs == 0 {
		return
	}
	q.confirmRoster()
	if q.r.gen == 0 || q.r.name == noName || !q.r.fresh && q.without.judgedAfter {
		return
	}
	if q.kind.demands() {
		q.demand()
		return
	}
	first := readerGet
	if q.without.keyFirst {
		first = readerHolds
	}
	n, m := q.to(first)
	m.cov, m.claim = 0, 0
	if q.kind.early {
		m.cov, m.claim = q.s.visible, q.s.visible
	}
	q.emit(n, "", "starts")
}

func (q *reading) get() {
	v := q.record(q.at().records[q.r.name])
	if v.State.Live() {
		n, m := q.to(readerAccept)
		m.cov, m.must = q.at().records[q.r.name].cov, q.s.upTo(q.at().promised)|q.s.sure
		q.got(m)
		q.emit(n, "", "GET under name %d: a value that saw %03b", q.r.name, m.cov)
		return
	}
	n, m := q.to(readerLease)
	q.promise(m)
	if q.without.leaseBeforeRead {
		q.head(m)
	}
	q.emit(n, "", "GET under name %d: none", q.r.name)
}

func (q *reading) accept() {
	n, _ := q.over()
	if !q.r.fresh && !q.without.judgedAfter {
		q.emit(n, "", "drops the reply: the roster is not confirmed")
		return
	}
	if q.lacks(q.r.cov, q.r.must) != 0 {
		q.emit(n, "a value was served without what was confirmed before it was read", "serves a value that saw %03b, must see %03b", q.r.cov, q.r.must)
		return
	}
	if q.kind.session {
		q.remembers(&n.readers[q.i], &q.r)
	}
	q.emit(n, "", "serves")
}

func (q *reading) lease() {
	token := q.r.token + 1
	number := uint8(q.i)*4 + token
	if other := q.s.readers[1-q.i]; q.kind.joins && q.without.sameLease && other.name == q.r.name && other.flying() {
		q.join()
		return
	}
	v, outcome := fence.Acquire(q.leasable(), q.tokens[number], int64(q.s.clock), int64(q.s.clock)+1)
	if outcome == fence.Busy {
		if other := q.s.readers[1-q.i]; q.kind.joins && other.flying() && q.at().records[q.r.name].token == uint8(1-q.i)*4+other.token {
			q.join()
			return
		}
		n, _ := q.over()
		q.emit(n, "", "LEASE: busy")
		return
	}
	next := readerHead
	if q.without.leaseBeforeRead {
		next = q.first()
	}
	n, m := q.to(next)
	m.token = token
	q.leased(m)
	q.put(&n.at(q.i).records[q.r.name], v)
	q.emit(n, "", "LEASE under name %d", q.r.name)
}

// loads reads the database, and of a standby its position.
func (q *reading) loads() {
	if q.r.pc == readerPosition {
		next := readerLoad
		if q.without.priorPosition {
			next = readerFill
		}
		n, m := q.to(next)
		m.replay = q.s.replayed + 1
		q.emit(n, "", "the standby is at %d", q.s.replayed)
		return
	}
	next := readerFill
	if q.kind.standby && q.without.priorPosition {
		next = readerPosition
	}
	n, m := q.to(next)
	switch {
	case q.kind.standby:
		m.cov = q.s.upTo(q.s.replayed)
	case !q.kind.early:
		m.cov = q.s.visible
	}
	if !q.kind.early {
		m.claim = m.cov
	}
	broken := q.loaded(m)
	if w := &n.readers[1-q.i]; w.flight == uint8(q.i)+1 && !w.have {
		w.cov, w.claim, w.replay, w.have = m.cov, m.claim, m.replay, true
	}
	q.emit(n, broken, "loads: sees %03b", m.cov)
}

func (q *reading) fill() {
	n, _ := q.over()
	claim, replay := q.r.claim, q.r.replay
	if q.kind.standby && q.without.position {
		// Everything up to the highest id that was replayed.
		claim, replay = set(1)<<bits.Len8(uint8(q.r.cov))-1, 0
	}
	cov := q.coverage(claim, replay)
	if !q.without.floor && !fence.Floor(q.floor(&q.r), cov) {
		n, _ = q.to(readerRelease)
		q.emit(n, "", "may not fill: below the floor")
		return
	}
	broken := q.handedOut()
	v, outcome := fence.Fill(q.record(q.at().records[q.r.name]), fence.Filling{
		Token: q.tokens[uint8(q.i)*4+q.r.token], Coverage: cov, State: fence.Live, RowVersion: q.contents[q.r.cov],
	}, int64(q.s.clock))
	if q.without.lease {
		v, outcome = fence.Record{State: fence.Live, Coverage: cov, RowVersion: q.contents[q.r.cov]}, fence.Filled
	}
	if outcome == fence.NotNewer && q.dead() {
		broken = "a value that was found dead keeps a fill out"
	}
	q.put(&n.at(q.i).records[q.r.name], v)
	q.depends(&n.at(q.i).records[q.r.name], outcome)
	q.emit(n, broken, "FILL under name %d of what saw %03b: %s", q.r.name, q.r.cov, outcome)
}

// next is a reader after its read.
func (x *explorer) next(i int, r *reader) reader {
	n := reader{runs: r.runs - 1, token: r.token, gen: r.gen, rev: r.rev, name: r.name, fresh: r.fresh, behind: r.behind}
	if x.without.epochsAgain {
		n.ids = r.ids
	}
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
	case readerHead, readerPosition, readerLoad, readerFill, readerAgain:
		return true
	}
	return r.pc >= readerEpochs
}

// confirmRoster is R0.
func (q *reading) confirmRoster() {
	same := q.at().found && q.at().gen == q.r.gen && q.at().rev == q.r.rev
	published := q.at().found && q.at().gen == q.at().rosterGen && q.at().rev == q.at().rosterRev
	if !q.r.fresh && (same || published) {
		n, m := q.to(q.r.pc)
		m.fresh = true
		if !same {
			m.gen, m.rev, m.name = q.at().gen, q.at().rev, q.at().rosterName
			if q.at().suspended {
				m.name = noName
			}
			if q.readers[q.i].old {
				m.name = noName
				if q.at().rosterOther != 0 {
					m.name = q.at().rosterOther - 1
				}
			}
		}
		q.emit(n, "", "confirms the roster: revision %d, name %d", m.rev, m.name)
	}
}

// join has a reader wait for the other one's load.
func (q *reading) join() {
	n, m := q.to(readerWaitHead)
	other := &q.s.readers[1-q.i]
	m.flight, m.fences, m.must = uint8(1-q.i)+1, q.at().records[m.name].fences, q.s.upTo(q.at().promised)|q.s.sure
	if q.epochs > 0 {
		m.replid = q.at().replid
	}
	if other.pc == readerFill || !q.readers[1-q.i].before && other.pc >= readerAgain {
		m.cov, m.claim, m.replay, m.have = other.cov, other.claim, other.replay, true
	}
	q.emit(n, "", "LEASE: busy, with fences %03b; waits for reader %d's load", m.fences, m.flight)
}

// wait is R6.
func (q *reading) wait() {
	if q.r.pc == readerWaitHead {
		if q.torn() {
			n, _ := q.over()
			q.emit(n, "", "the connection that LEASE was answered by is broken")
			return
		}
		n, m := q.to(readerWait)
		q.head(m)
		q.emit(n, "", "HEAD: Si %03b, floor %d", m.headSi, m.headWi)
		return
	}
	if !q.r.have {
		if !q.s.readers[q.r.flight-1].flying() {
			n, _ := q.over()
			q.emit(n, "", "the load that it waited for failed")
		}
		return
	}
	n, _ := q.over()
	cov := q.coverage(q.r.claim, q.r.replay)
	fits := q.r.headFound && fence.Floor(q.floor(&q.r), cov)
	for tx := range q.txs {
		fits = fits && (!q.r.fences.has(tx) || cov.Covers(q.stamp(tx)))
	}
	switch {
	case !fits && !q.without.fits:
		q.emit(n, "", "the row is not new enough for it")
	case q.lacks(q.r.cov, q.r.must) != 0:
		q.emit(n, "a row was given to a waiter without what was confirmed before it came",
			"takes a row that saw %03b, must see %03b", q.r.cov, q.r.must)
	default:
		q.emit(n, "", "takes the row")
	}
}

// demand starts a read that asks for something: for a transaction whose COMMIT has returned, or for what was visible when
// the store counted.
func (q *reading) demand() {
	first := readerVouch
	if q.without.headBeforeKey {
		first = readerValue
	}
	if q.readers[q.i].session {
		q.session()
		return
	}
	if q.readers[q.i].bounded {
		n, m := q.to(readerCount)
		m.must = q.s.visible
		q.emit(n, "", "will have the store count, and sees %03b by then", m.must)
		return
	}
	for tx := range q.txs {
		if !q.s.visible.has(tx) {
			continue
		}
		for _, at := range []uint8{0, q.s.flushed} {
			n, m := q.to(first)
			m.after, m.at, m.must = tx+1, at, 1<<tx
			q.emit(n, "", "starts, with a token of writer %d, position %d", tx+1, at)
		}
	}
}

// vouch reads a value under a demand.
func (q *reading) vouch() {
	first, second := readerVouch, readerValue
	if q.without.headBeforeKey {
		first, second = second, first
	}
	n, m := q.to(second)
	switch q.r.pc {
	case readerVouchHolds:
		q.vouchHolds()
		return
	case readerCount:
		m.pc = first
		n.counted(n.at(q.i))
		m.asked = n.at(q.i).count
		q.emit(n, "", "has the store count: %d of id %d", m.asked.n, m.asked.id)
		return
	case readerVouch:
		if q.readers[q.i].bounded && !q.without.headBeforeKey {
			q.confirmRoster()
		}
		if m.headFound = q.at().found && q.at().gen == q.r.gen && q.at().rev == q.r.rev; !m.headFound {
			n, _ = q.over()
			q.emit(n, "", "HEAD: not its roster's")
			return
		}
		m.headWc, m.headSa, m.replid = q.at().wc, q.at().sa, q.at().replid
		if q.readers[q.i].session {
			m.headSi = q.at().si
		}
		if q.r.pc != first {
			q.proved(n, q.i)
		}
		q.emit(n, "", "HEAD: Wc %d%s", q.at().wc, q.at().sa)
	case readerValue:
		if v := q.at().records[q.r.name]; v.live {
			m.have, m.cov, m.claim, m.replay = true, v.cov, v.claim, v.replay
			if q.epochs > 0 {
				m.pc, m.over = readerVouchHolds, v.pairs
			}
		}
		if q.r.pc != first {
			if q.r.replid != q.at().replid && !q.without.oneConnection {
				n, _ = q.over()
				q.emit(n, "", "the connection that HEAD came by is broken")
				return
			}
			if m.pc != readerVouchHolds {
				q.proved(n, q.i)
			}
		}
		q.emit(n, "", "GET under name %d: %s", q.r.name, q.say("live %v, saw %03b", q.at().records[q.r.name].live, q.at().records[q.r.name].cov))
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
