package spec

import (
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
	daemonDown  // stepped down
	daemonBatch // of a cluster: it deals with a batch
)

// A daemon that moved names waits before it advances; the flag lies in its pc's high bit so that work goes on.
const waiting uint8 = 1 << 7

type (
	goOnDaemon = func(pc uint8) (*state, *daemon)
	emitDaemon = func(n *state, format string, args ...any)
)

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
	if d.epoch != s.epoch && (d.pc&^waiting == daemonIdle || d.pc&^waiting == daemonBegin) {
		n, m := to(daemonClaim)
		m.pc &^= waiting
		emit(n, "has lost the database, and connects anew")
		return
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
			n.redis.confirmed, n.redis.promised, n.redis.epoch = n.upTo(n.slot), 0, n.epoch
			n.begun |= 1 << n.gens
			*m = daemon{
				pc: daemonMoveCompare, term: d.term, gen: n.gens, rev: m.rev, wc: n.slot, replid: n.redis.replid,
				done: n.upTo(n.slot), name: x.draw(n), epoch: d.epoch,
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
		if x.adds {
			x.admit(s, &d, to, emit)
		}
		if x.forget && s.slot < d.wc && x.newest(s, i) {
			n, _ := to(daemonIdle)
			n.slot = d.wc
			emit(n, "lets PostgreSQL forget up to %d", d.wc)
		}
		for tx := range x.txs {
			if !x.early || s.end(tx) == 0 || (d.early | d.done).has(tx) {
				continue
			}
			n, m := to(daemonIdle)
			m.early |= 1 << tx
			live(d.name, d.other, func(name uint8) {
				v, _ := fence.Early(x.record(n.redis.records[name]), x.stamp(tx), true)
				n.redis.records[name] = x.stored(v)
			})
			emit(n, "EARLY for writer %d under name %d", tx+1, d.name)
		}
		if d.early&^d.done != 0 {
			n, _ := to(daemonIdle)
			live(d.name, d.other, func(name uint8) { n.redis.records[name] = record{} })
			if *n != *s {
				emit(n, "takes the fences under name %d back", d.name)
			}
		}
		if x.bounded() && d.count != s.redis.count {
			n, m := to(daemonIdle)
			m.count = s.redis.count
			emit(n, "reads the count: %d of id %d", m.count.n, m.count.id)
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
		if x.without.intentCompares && n.redis.found {
			outcome = fence.Applied
			n.redis.wi, n.redis.si = max(n.redis.wi, d.wi), n.redis.si|d.gate
			m.replid = n.redis.replid
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
			n.redis.records[name] = x.stored(x.confirm(x.record(n.redis.records[name]), d.batch, int64(s.clock)))
		})
		emit(n, "confirms under name %d", d.name)
	case daemonAdvance:
		n, m := to(daemonIdle)
		m.done |= d.batch
		m.batch, m.gate, m.wi, m.advance, m.reached = 0, 0, 0, 0, view{}
		if d.advance == d.wc && !d.reached.taken {
			emit(n, "nothing to advance")
			return
		}
		m.wc = d.advance
		shard, outcome := fence.Advance(x.shard(&n.redis), expected, mvcc.LSN(d.advance), x.horizon(d.reached), x.tick(d.reached.tick))
		if x.without.compare && n.redis.found {
			shard.Head.Wc, outcome = mvcc.LSN(d.advance), fence.Applied
		}
		if outcome == fence.Applied {
			x.write(&n.redis, shard)
			n.redis.promised = n.redis.wc
			if d.reached.taken && x.without.tickBefore {
				n.redis.sa.tick = s.redis.count
			}
		}
		judge(n, m, outcome, x.say("ADVANCE to %d%s", d.advance, d.reached))
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
			n.redis.rosterOther, n.redis.suspended = d.other, x.adds && !d.admitted
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
func (x *explorer) confirm(v fence.Record, batch set, now int64) fence.Record {
	if !x.script && batch != 0 {
		return fence.Unlink(v)
	}
	for tx := range x.txs {
		if !batch.has(tx) {
			continue
		}
		before := v
		v, _ = fence.Confirm(v, x.stamp(tx))
		if x.without.confirmFences || x.without.endedLease && !before.Lease.LiveAt(now) {
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

// settle is horizon.settle of internal/apply: a snapshot becomes Sa with the batch that is under way when the log was read
// past its position.
func (x *explorer) settle(s *state, d *daemon, delivered uint8, wait bool) (waits, reached view) {
	if !x.demands() || wait {
		return d.waits, view{}
	}
	now := view{taken: true, seen: s.visible, insert: s.flushed, tick: d.count}
	switch {
	case delivered >= now.insert || x.without.saWaits:
		return view{}, now.position()
	case d.waits.taken && delivered >= d.waits.insert:
		return now, d.waits.position()
	case !d.waits.taken:
		return now, view{}
	}
	return d.waits, view{}
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
	*m = daemon{
		pc: daemonIdle, term: m.term, gen: m.gen, rev: m.rev, name: m.name, other: m.other, wc: m.wc, replid: r.replid, done: n.upTo(m.wc),
		epoch: m.epoch,
	}
}

func (x *explorer) claim(s *state, i int, to goOnDaemon, emit emitDaemon) {
	d := &s.daemons[i]
	n, m := to(daemonIdle)
	shard, outcome := fence.Claim(x.shard(&n.redis), x.terms[d.term])
	switch outcome {
	case fence.Superseded:
		*m = daemon{pc: daemonDown, term: d.term}
	case fence.Mismatch:
		*m = daemon{pc: daemonBegin, term: d.term, epoch: s.epoch}
	default:
		x.write(&n.redis, shard)
		r := &n.redis
		*m = daemon{
			pc: daemonIdle, term: d.term, gen: r.gen, rev: r.rev, name: r.rosterName, other: r.rosterOther, wc: r.wc, replid: r.replid,
			done: n.upTo(r.wc), epoch: s.epoch, admitted: !r.suspended || x.without.admitAgain && s.published,
		}
		x.drawCount(n)
		if x.without.forgetDone {
			m.done |= d.done
		}
		switch {
		case r.wc < n.slot, // the log does not reach back to what the store lost
			n.begun&(1<<r.gen) == 0 && !x.without.alive: // the database lost transactions, and no generation was begun since
			*m = daemon{pc: daemonBegin, term: d.term, epoch: s.epoch}
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
	if outcome == fence.Applied && x.without.alive {
		n.redis.epoch = s.epoch
	}
	emit(n, "claims: %s", outcome)
}

// drawCount begins a count under a new id, as a daemon does that has claimed HEAD.
func (x *explorer) drawCount(n *state) {
	if x.bounded() && !x.without.drawCount {
		n.ids++
		n.redis.count = tick{id: n.ids}
	}
}

// gate takes a batch out of the first commits in the log: what was delivered by now.
func (x *explorer) gate(s *state, d *daemon, delivered uint8, wait bool, to goOnDaemon, emit emitDaemon) {
	batch := s.upTo(delivered) &^ d.done &^ s.missed
	if !x.without.gate {
		batch &= s.visible
	}
	advance := d.wc
	for advance < delivered && (d.done | batch | s.missed).has(s.log[advance]) {
		advance++
	}
	if wait {
		advance = d.wc
	}
	waits, reached := x.settle(s, d, delivered, wait)
	if batch == 0 && advance == d.wc && waits == d.waits && (!reached.taken || reached == s.redis.sa) {
		return
	}
	next := daemonIntent
	if x.without.intentFirst {
		next = daemonConfirm
	}
	n, m := to(next)
	m.batch, m.gate, m.advance, m.waits, m.reached = batch, s.visible, advance, waits, reached
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
