package spec

import (
	"fmt"
	"math/bits"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/mvcc"
)

// Where a daemon stands.
const (
	daemonOff uint8 = iota
	daemonClaim
	daemonBegin
	daemonIdle
	daemonIntent
	daemonConfirm
	daemonAdvance
	daemonMoveIntent
	daemonMoveCompare
	daemonMoveRoster
	daemonMoveHead
	daemonDown // stepped down
)

// A daemon that moved names waits before it advances; the flag lies in its pc's high bit so that work goes on.
const waiting uint8 = 1 << 7

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
)

// explorer holds what all steps of one exploration share.
type explorer struct {
	config
	*tables
	yield  func(next *state, action, broken string)
	naming bool // actions are wanted in words, which costs more than taking them
}

func (x *explorer) say(format string, args ...any) string {
	if !x.naming {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

func (x *explorer) initial() state {
	var s state
	s.moves, s.retires, s.evictions = x.moves, x.retires, x.evictions
	for i, kind := range x.readers {
		s.readers[i].runs = kind.runs
	}
	d := &s.daemons[0]
	d.term = 1
	s.gens, s.revs, s.names = 1, 1, 1
	if x.empty {
		d.pc = daemonClaim
		return s
	}
	s.redis = store{found: true, gen: 1, term: 1, rev: 1, rosterGen: 1, rosterTerm: 1, rosterRev: 1}
	d.pc, d.gen, d.rev = daemonIdle, 1, 1
	if x.versions {
		d.other = x.draw(&s) + 1
		s.redis.rosterOther = d.other
	}
	return s
}

// steps yields every state that one step leads to.
func (x *explorer) steps(s *state) {
	for tx := range uint8(maxTxs) {
		x.ends[tx] = mvcc.LSN(s.end(tx))
	}
	x.writer(s)
	x.replay(s)
	x.faults(s)
	for i := range x.daemons {
		x.daemon(s, i)
	}
	for i := range x.readers {
		x.reader(s, i)
	}
}

func (x *explorer) writer(s *state) {
	for tx := range x.txs {
		end := s.end(tx)
		switch {
		case end == 0:
			n := *s
			n.log[n.flushed] = tx
			n.flushed++
			x.yield(&n, x.say("writer %d: commit record flushed, readers do not see it", tx+1), "")
		case !s.visible.has(tx):
			n := *s
			n.visible |= 1 << tx
			x.yield(&n, x.say("writer %d: becomes visible", tx+1), "")
		}
	}
}

// replay is the standby's next step. It knows nothing of what is visible on the primary.
func (x *explorer) replay(s *state) {
	if !x.standby() || s.replayed == s.flushed {
		return
	}
	n := *s
	n.replayed++
	x.yield(&n, x.say("standby: replays up to %d", n.replayed), "")
}

func (x *explorer) faults(s *state) {
	if s.evictions > 0 {
		for name := range s.redis.records {
			if s.redis.records[name] != (record{}) {
				n := *s
				n.evictions--
				n.redis.records[name] = record{}
				x.yield(&n, x.say("redis: evicts the record under name %d", name), "")
			}
		}
		if s.redis.found {
			n := *s
			n.evictions--
			n.redis.dropHead()
			x.yield(&n, "redis: evicts HEAD", "")
		}
	}
	if x.failovers == 0 || s.failed {
		return
	}
	n := *s
	if !s.lagging {
		n.replica, n.lagging = s.redis, true
		x.yield(&n, "redis: the replica stops here", "")
		return
	}
	n.redis, n.replica, n.failed = s.replica, store{}, true
	n.redis.replid++
	x.yield(&n, "redis: the replica is promoted", "")
}

func (s *store) dropHead() {
	s.found = false
	s.gen, s.term, s.rev, s.wi, s.wc, s.si, s.floors = 0, 0, 0, 0, 0, 0, [maxNames]uint8{}
}

// newest reports whether no later daemon has taken the slot.
func (x *explorer) newest(s *state, i int) bool {
	for j := i + 1; j < x.daemons; j++ {
		if s.daemons[j].pc != daemonOff {
			return false
		}
	}
	return true
}

func (x *explorer) daemon(s *state, i int) {
	d := s.daemons[i]
	wait := d.pc&waiting != 0
	emit := func(n *state, format string, args ...any) {
		x.yield(n, x.say("daemon %d: ", i+1)+x.say(format, args...), "")
	}
	// to is a copy of the state in which the daemon has gone on.
	to := func(pc uint8) (*state, *daemon) {
		n := *s
		m := &n.daemons[i]
		m.pc = pc | d.pc&waiting
		return &n, m
	}
	if wait {
		n, m := to(d.pc &^ waiting)
		m.pc &^= waiting
		if !x.without.roster {
			for r := range n.readers {
				n.readers[r].fresh = false
			}
		}
		if n.redis.found && n.redis.gen == d.gen {
			n.redis.promised = n.redis.wc
		}
		emit(n, "has waited T_r")
	}
	expected := x.expected(&d)
	if x.without.replid {
		expected.Replid = x.replids[s.redis.replid]
	}
	// judge sends the daemon on by the answer to a write of HEAD.
	judge := func(n *state, m *daemon, outcome fence.HeadOutcome, what string) {
		switch outcome {
		case fence.Mismatch:
			m.pc = daemonClaim
			if x.without.newGeneration && !n.redis.found {
				x.rewrite(n, m)
			}
		case fence.Superseded:
			*m = daemon{pc: daemonDown, term: m.term}
		default:
		}
		emit(n, "%s: %s", what, outcome)
	}
	switch d.pc &^ waiting {
	case daemonOff:
		n, m := to(daemonClaim)
		m.term = uint8(i) + 1
		if x.without.term {
			m.term = 1
		}
		emit(n, "starts")
	case daemonClaim:
		x.claim(s, i, to, emit)
	case daemonBegin:
		n, m := to(daemonMoveCompare)
		n.gens++
		m.rev = x.revision(n)
		shard, outcome := fence.Begin(x.shard(&n.redis), fence.Head{
			Generation: x.generations[n.gens], Term: x.terms[d.term], Revision: uint64(m.rev),
			Wi: mvcc.LSN(n.slot), Wc: mvcc.LSN(n.slot), Si: x.snapshots[n.visible],
		})
		if outcome == fence.Applied {
			x.write(&n.redis, shard)
			n.redis.confirmed, n.redis.promised = n.upTo(n.slot), 0
			*m = daemon{
				pc: daemonMoveCompare, term: d.term, gen: n.gens, rev: m.rev, wc: n.slot, replid: n.redis.replid,
				done: n.upTo(n.slot), name: x.draw(n),
			}
		}
		judge(n, m, outcome, "begins a generation")
	case daemonIdle:
		if outcome := fence.Compare(x.shard(&s.redis), expected); outcome != fence.Applied && !x.without.compare {
			n, m := to(daemonIdle)
			judge(n, m, outcome, "compares while it is idle")
		}
		if s.moves > 0 {
			n, m := to(x.firstOfMove())
			n.moves--
			m.name = x.draw(n)
			if x.without.activation {
				m.name = 1 - d.name // the version that was live before is live again
			}
			x.redraw(n, m)
			m.rev = x.revision(n)
			emit(n, "moves to name %d, revision %d", m.name, m.rev)
		}
		if s.retires > 0 && d.other != 0 {
			n, m := to(daemonMoveCompare)
			n.retires--
			m.other, m.retiring, m.rev = 0, true, x.revision(n)
			emit(n, "retires the version under name %d, revision %d", d.other-1, m.rev)
		}
		if x.forget && s.slot < d.wc && x.newest(s, i) {
			n, _ := to(daemonIdle)
			n.slot = d.wc
			emit(n, "lets PostgreSQL forget up to %d", d.wc)
		}
		for tx := range x.txs {
			if x.early && s.end(tx) != 0 && !(d.early | d.done).has(tx) {
				n, m := to(daemonIdle)
				m.early |= 1 << tx
				live(d.name, d.other, func(name uint8) {
					v, _ := fence.Early(x.record(n.redis.records[name]), x.stamp(tx), true)
					n.redis.records[name] = x.stored(v)
				})
				emit(n, "EARLY for writer %d under name %d", tx+1, d.name)
			}
		}
		for length := d.wc; length <= s.flushed; length++ {
			x.gate(s, &d, length, wait, to, emit)
		}
	case daemonIntent:
		next := daemonConfirm
		if x.without.intentFirst {
			next = daemonAdvance
		}
		n, m := to(next)
		shard, outcome := fence.Intent(x.shard(&n.redis), expected, x.raise(&d), x.snapshots[d.gate])
		if outcome == fence.Applied {
			x.write(&n.redis, shard)
		}
		if x.without.compare {
			outcome = fence.Applied
			n.redis.wi, n.redis.si = max(n.redis.wi, d.wi), n.redis.si|d.gate
		}
		judge(n, m, outcome, "INTENT")
	case daemonConfirm:
		next := daemonAdvance
		if x.without.intentFirst {
			next = daemonIntent
		}
		n, _ := to(next)
		n.redis.confirmed |= d.batch & s.visible
		other := d.other
		if x.without.confirmAll {
			other = 0
		}
		live(d.name, other, func(name uint8) {
			n.redis.records[name] = x.stored(x.confirm(x.record(n.redis.records[name]), d.batch))
		})
		emit(n, "confirms under name %d", d.name)
	case daemonAdvance:
		n, m := to(daemonIdle)
		m.done |= d.batch
		m.batch, m.gate, m.wi, m.advance = 0, 0, 0, 0
		if d.advance == d.wc {
			emit(n, "nothing to advance")
			return
		}
		m.wc = d.advance
		shard, outcome := fence.Advance(x.shard(&n.redis), expected, mvcc.LSN(d.advance), mvcc.Snapshot{}, fence.Tick{})
		if x.without.compare && n.redis.found {
			shard.Head.Wc, outcome = mvcc.LSN(d.advance), fence.Applied
		}
		if outcome == fence.Applied {
			x.write(&n.redis, shard)
			n.redis.promised = n.redis.wc
		}
		judge(n, m, outcome, x.say("ADVANCE to %d", d.advance))
	case daemonMoveIntent:
		n, m := to(daemonMoveCompare)
		shard, outcome := fence.Intent(x.shard(&n.redis), expected, fence.Raise{To: mvcc.LSN(n.flushed), All: true}, x.snapshots[n.visible])
		if outcome == fence.Applied {
			x.write(&n.redis, shard)
		}
		judge(n, m, outcome, "INTENT for all buckets")
	case daemonMoveCompare:
		n, m := to(daemonMoveRoster)
		judge(n, m, fence.Compare(x.shard(&n.redis), expected), "compares before the move")
	case daemonMoveRoster:
		n, m := to(daemonMoveHead)
		outcome := fence.Applied
		switch {
		case n.redis.rosterTerm > d.term:
			outcome = fence.Superseded
		case n.redis.rosterTerm == d.term && n.redis.rosterGen == d.gen && n.redis.rosterRev > d.rev:
			outcome = fence.Mismatch
		default:
			n.redis.rosterGen, n.redis.rosterTerm, n.redis.rosterRev, n.redis.rosterName = d.gen, d.term, d.rev, d.name
			n.redis.rosterOther = d.other
		}
		judge(n, m, outcome, x.say("writes ROSTER, revision %d, name %d", d.rev, d.name))
	case daemonMoveHead:
		n, m := to(daemonIdle)
		shard, outcome := fence.Move(x.shard(&n.redis), expected, uint64(d.rev), "")
		if outcome == fence.Applied {
			x.write(&n.redis, shard)
			if hurry := d.again && x.without.claimWait || d.retiring && x.without.retireWait; !hurry {
				x.startWaiting(m)
			}
			m.again, m.retiring = false, false
		}
		judge(n, m, outcome, x.say("HEAD to revision %d", d.rev))
	}
}

// confirm is CONFIRM of a batch, by script or by UNLINK.
func (x *explorer) confirm(v fence.Record, batch set) fence.Record {
	if !x.script {
		return fence.Unlink(v)
	}
	for tx := range x.txs {
		if !batch.has(tx) {
			continue
		}
		before := v
		v, _ = fence.Confirm(v, x.stamp(tx))
		if x.without.confirmFences {
			v.Fences = before.Fences
		}
		if x.without.confirmCovers && before.State.Live() {
			v = before
		}
	}
	return v
}

// firstOfMove is where a daemon that moves names begins. Floors matter to standbys alone.
func (x *explorer) firstOfMove() uint8 {
	if !x.standby() || x.without.moveFloor {
		return daemonMoveCompare
	}
	return daemonMoveIntent
}

// raise is whose floors a batch raises: those of the name that it confirms.
func (x *explorer) raise(d *daemon) fence.Raise {
	if !x.standby() {
		return fence.Raise{To: mvcc.LSN(d.wi), All: true}
	}
	return fence.Raise{To: mvcc.LSN(d.wi), Buckets: []fence.Bucket{fence.Bucket(d.name)}}
}

func (x *explorer) startWaiting(m *daemon) {
	if !x.without.wait {
		m.pc |= waiting
	}
}

// revision is one that was never used before.
func (x *explorer) revision(n *state) uint8 {
	if x.without.freshRevision {
		return max(n.redis.rev, n.redis.rosterRev) + 1
	}
	n.revs++
	return n.revs
}

// draw is a name that was never used before.
func (x *explorer) draw(n *state) uint8 {
	if int(n.names) >= maxNames {
		panic("spec: more names than the model holds")
	}
	name := n.names
	n.names++
	return name
}

// redraw gives the second version a new name as well.
func (x *explorer) redraw(n *state, m *daemon) {
	if m.other != 0 {
		m.other = x.draw(n) + 1
	}
}

// rewrite is what must not be done: HEAD from memory.
func (x *explorer) rewrite(n *state, m *daemon) {
	r := &n.redis
	r.found, r.gen, r.term, r.rev, r.wi, r.wc, r.si = true, m.gen, m.term, m.rev, max(m.wc, m.wi), m.wc, n.upTo(m.wc)
	r.floors = [maxNames]uint8{}
	*m = daemon{pc: daemonIdle, term: m.term, gen: m.gen, rev: m.rev, name: m.name, other: m.other, wc: m.wc, replid: r.replid, done: n.upTo(m.wc)}
}

func (x *explorer) claim(s *state, i int, to func(uint8) (*state, *daemon), emit func(*state, string, ...any)) {
	d := &s.daemons[i]
	n, m := to(daemonIdle)
	shard, outcome := fence.Claim(x.shard(&n.redis), x.terms[d.term])
	switch outcome {
	case fence.Superseded:
		*m = daemon{pc: daemonDown, term: d.term}
	case fence.Mismatch:
		*m = daemon{pc: daemonBegin, term: d.term}
	default:
		x.write(&n.redis, shard)
		r := &n.redis
		*m = daemon{
			pc: daemonIdle, term: d.term, gen: r.gen, rev: r.rev, name: r.rosterName, other: r.rosterOther, wc: r.wc, replid: r.replid,
			done: n.upTo(r.wc),
		}
		if x.without.forgetDone {
			m.done |= d.done
		}
		switch {
		case r.wc < n.slot: // the log does not reach back to what the store lost
			*m = daemon{pc: daemonBegin, term: d.term}
		case x.without.republish && r.rosterGen == r.gen && r.rosterRev == r.rev:
			if !x.without.claimWait {
				x.startWaiting(m)
			}
		default:
			m.pc, m.again = daemonMoveCompare, true
			if r.rosterGen != r.gen || r.rosterRev != r.rev { // a move was not finished
				m.name, m.again, m.pc = x.draw(n), false, x.firstOfMove()
				x.redraw(n, m)
			}
			m.rev = x.revision(n)
		}
	}
	emit(n, "claims: %s", outcome)
}

// gate takes a batch out of the first commits in the log: what was delivered by now.
func (x *explorer) gate(s *state, d *daemon, delivered uint8, wait bool, to func(uint8) (*state, *daemon), emit func(*state, string, ...any)) {
	batch := s.upTo(delivered) &^ d.done
	if !x.without.gate {
		batch &= s.visible
	}
	advance := d.wc
	for advance < delivered && (d.done | batch).has(s.log[advance]) {
		advance++
	}
	if wait {
		advance = d.wc
	}
	if batch == 0 && advance == d.wc {
		return
	}
	next := daemonIntent
	if x.without.intentFirst {
		next = daemonConfirm
	}
	n, m := to(next)
	m.batch, m.gate, m.advance = batch, s.visible, advance
	if x.without.gate {
		m.gate |= batch
	}
	for position := range delivered {
		if batch.has(s.log[position]) {
			m.wi = position + 1
		}
	}
	emit(n, "gate: batch %03b of the first %d commits, to advance to %d", batch, delivered, advance)
}

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
		*m = reader{runs: r.runs - 1, token: r.token, gen: r.gen, rev: r.rev, name: r.name, fresh: r.fresh}
		return n, m
	}
	head := func(m *reader) {
		m.headFound = s.redis.found && s.redis.gen == r.gen && s.redis.rev == r.rev
		m.headSi, m.headWi = 0, 0
		if m.headFound {
			m.headSi = s.redis.si
			if kind.standby {
				h := fence.Head{Wi: mvcc.LSN(s.redis.wi), Floors: s.redis.buckets()}
				m.headWi = uint8(h.For(fence.Bucket(r.name)).Wi)
			}
			if x.without.intentFloor {
				m.headWi = s.redis.wc
			}
		}
	}
	load := readerLoad
	if kind.standby && !x.without.priorPosition {
		load = readerPosition
	}
	switch r.pc {
	case readerIdle:
		if r.runs == 0 {
			return
		}
		same := s.redis.found && s.redis.gen == r.gen && s.redis.rev == r.rev
		published := s.redis.found && s.redis.gen == s.redis.rosterGen && s.redis.rev == s.redis.rosterRev
		if !r.fresh && (same || published) {
			n, m := to(readerIdle)
			m.fresh = true
			if !same {
				m.gen, m.rev, m.name = s.redis.gen, s.redis.rev, s.redis.rosterName
				if kind.old {
					m.name = noName
					if s.redis.rosterOther != 0 {
						m.name = s.redis.rosterOther - 1
					}
				}
			}
			emit(n, "", "confirms the roster: revision %d, name %d", m.rev, m.name)
		}
		if r.gen != 0 && r.name != noName && (r.fresh || !x.without.judgedAfter) {
			n, m := to(readerGet)
			m.cov = 0
			if kind.early {
				m.cov = s.visible
			}
			emit(n, "", "starts")
		}
	case readerGet:
		v := x.record(s.redis.records[r.name])
		if v.State.Live() {
			n, m := to(readerAccept)
			m.cov, m.must = s.redis.records[r.name].cov, s.upTo(s.redis.promised)
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
		emit(n, "", "serves")
	case readerLease:
		token := r.token + 1
		number := uint8(i)*4 + token
		v, outcome := fence.Acquire(x.record(s.redis.records[r.name]), x.tokens[number], 0, 1)
		if outcome == fence.Busy {
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
		n.redis.records[r.name] = x.stored(v)
		emit(n, "", "LEASE under name %d", r.name)
	case readerHead:
		n, m := to(load)
		head(m)
		if !m.headFound {
			n, _ = over()
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
		emit(n, "", "loads: sees %03b", m.cov)
	case readerFill:
		n, _ := over()
		// Positions are one higher here: a standby at 0 has a coverage too.
		h := fence.Head{Generation: x.generations[r.gen], Si: x.snapshots[r.headSi], Wi: mvcc.LSN(r.headWi) + 1}
		claim, replay := r.cov, r.replay
		if kind.standby && x.without.position {
			// Everything up to the highest id that was replayed.
			claim, replay = set(1)<<bits.Len8(uint8(r.cov))-1, 0
		}
		cov := x.coverage(claim, replay)
		if !x.without.floor && !fence.Floor(h, cov) {
			emit(n, "", "may not fill: below the floor")
			return
		}
		v, outcome := fence.Fill(x.record(s.redis.records[r.name]), fence.Filling{
			Token: x.tokens[uint8(i)*4+r.token], Coverage: cov, State: fence.Live, RowVersion: x.contents[r.cov],
		}, 0)
		if x.without.lease {
			v, outcome = fence.Record{State: fence.Live, Coverage: cov, RowVersion: x.contents[r.cov]}, fence.Filled
		}
		n.redis.records[r.name] = x.stored(v)
		emit(n, "", "FILL under name %d of what saw %03b: %s", r.name, r.cov, outcome)
	}
}
