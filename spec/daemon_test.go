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
	daemonDown   // stepped down
	daemonBatch  // of a cluster: it deals with a batch
	daemonUnlink // and so on, for each epoch
)

// A daemon that moved names waits before it advances; the flag lies in its pc's high bit so that work goes on.
const waiting uint8 = 1 << 7

// turn is a daemon's step from one state.
type turn struct {
	*explorer
	s        *state
	i        int
	d        daemon
	wait     bool // it has moved names, and has not waited yet
	expected fence.Expected
}

// to is a copy of the state in which the daemon has gone on.
func (t *turn) to(pc uint8) (*state, *daemon) {
	n := *t.s
	m := &n.daemons[t.i]
	m.pc = pc | t.d.pc&waiting
	return &n, m
}

func (t *turn) emit(n *state, format string, args ...any) {
	t.yield(n, t.say("daemon %d: ", t.i+1)+t.say(format, args...), "")
}

// judge sends the daemon on by the answer to a write of HEAD.
func (t *turn) judge(n *state, m *daemon, outcome fence.HeadOutcome, what string) {
	switch outcome {
	case fence.Mismatch:
		m.pc = daemonClaim
		if t.without.newGeneration && !n.redis.found {
			t.rewrite(n, m)
		}
	case fence.Superseded:
		*m = daemon{pc: daemonDown, term: m.term}
	default:
	}
	t.emit(n, "%s: %s", what, outcome)
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

// daemon yields what a daemon may do next.
func (x *explorer) daemon(s *state, i int) {
	t := &x.turn
	*t = turn{explorer: x, s: s, i: i, d: s.daemons[i]}
	d := &t.d
	t.wait = d.pc&waiting != 0
	if t.wait {
		t.waited()
	}
	if t.expected = x.expected(d); x.without.replid {
		t.expected.Replid = x.replids[s.redis.replid]
	}
	if d.epoch != s.epoch && (d.pc&^waiting == daemonIdle || d.pc&^waiting == daemonBegin) {
		n, m := t.to(daemonClaim)
		m.pc &^= waiting
		t.emit(n, "has lost the database, and connects anew")
		return
	}
	switch d.pc &^ waiting {
	case daemonOff:
		n, m := t.to(daemonClaim)
		m.term = uint8(i) + 1
		if x.without.term {
			m.term = 1
		}
		t.emit(n, "starts")
	case daemonClaim:
		t.claim()
	case daemonBegin:
		t.begin()
	case daemonIdle:
		t.idle()
	case daemonIntent:
		t.intent()
	case daemonConfirm:
		t.confirms()
	case daemonAdvance:
		t.advance()
	default:
		if e, is := epochAt(d.pc&^waiting, daemonUnlink); is {
			t.unlink(e)
			return
		}
		t.move()
	}
}

// waited is the end of a wait for the old names.
func (t *turn) waited() {
	n, m := t.to(t.d.pc &^ waiting)
	m.pc &^= waiting
	if !t.without.roster {
		for r := range n.readers {
			n.readers[r].fresh = false
		}
	}
	if n.redis.found && n.redis.gen == t.d.gen {
		n.redis.promised = n.redis.wc
	}
	t.emit(n, "has waited T_r")
}

// begin is BEGIN: a new generation.
func (t *turn) begin() {
	n, m := t.to(daemonMoveCompare)
	n.gens++
	m.rev = t.revision(n)
	shard, outcome := fence.Begin(t.shard(&n.redis), fence.Head{
		Generation: t.generations[n.gens], Term: t.terms[t.d.term], Revision: uint64(m.rev),
		Wi: mvcc.LSN(n.slot), Wc: mvcc.LSN(n.slot), Si: t.snapshots[n.visible],
	})
	if outcome == fence.Applied {
		t.write(&n.redis, shard)
		n.redis.begun = [maxNames]sets{}
		n.redis.confirmed, n.redis.promised, n.redis.epoch = n.upTo(n.slot), 0, n.epoch
		n.begun |= 1 << n.gens
		*m = daemon{
			pc: daemonMoveCompare, term: t.d.term, gen: n.gens, rev: m.rev, wc: n.slot, replid: n.redis.replid,
			done: n.upTo(n.slot), name: t.draw(n), epoch: t.d.epoch,
		}
	}
	t.judge(n, m, outcome, "begins a generation")
}

// idle is what a daemon may do between batches, and the gate of the next one.
func (t *turn) idle() {
	if outcome := fence.Compare(t.shard(&t.s.redis), t.expected); outcome != fence.Applied && !t.without.compare {
		n, m := t.to(daemonIdle)
		t.judge(n, m, outcome, "compares while it is idle")
	}
	if t.s.moves > 0 {
		n, m := t.to(t.firstOfMove())
		n.moves--
		m.name = t.draw(n)
		if t.without.activation {
			m.name = 1 - t.d.name // the version that was live before is live again
		}
		t.redraw(n, m)
		m.rev = t.revision(n)
		t.emit(n, "moves to name %d, revision %d", m.name, m.rev)
	}
	if t.s.retires > 0 && t.d.other != 0 {
		n, m := t.to(daemonMoveCompare)
		n.retires--
		m.other, m.retiring, m.rev = 0, true, t.revision(n)
		t.emit(n, "retires the version under name %d, revision %d", t.d.other-1, m.rev)
	}
	if t.adds {
		t.admit()
	}
	if t.forget && t.s.slot < t.d.wc && t.newest(t.s, t.i) {
		n, _ := t.to(daemonIdle)
		n.slot = t.d.wc
		t.emit(n, "lets PostgreSQL forget up to %d", t.d.wc)
	}
	for tx := range t.txs {
		if !t.early || t.s.end(tx) == 0 || (t.d.early | t.d.done).has(tx) || t.keyed(1<<tx) == 0 {
			continue
		}
		n, m := t.to(daemonIdle)
		m.early |= 1 << tx
		live(t.d.name, t.d.other, func(name uint8) {
			v, _ := fence.Early(t.record(n.redis.records[name]), t.stamp(tx), true, 1)
			t.put(&n.redis.records[name], v)
		})
		t.emit(n, "EARLY for writer %d under name %d", tx+1, t.d.name)
	}
	if t.d.early&^t.d.done != 0 {
		n, _ := t.to(daemonIdle)
		live(t.d.name, t.d.other, func(name uint8) { n.redis.records[name] = record{} })
		if *n != *t.s {
			t.emit(n, "takes the fences under name %d back", t.d.name)
		}
	}
	if t.bounded() && t.d.count != t.s.redis.count {
		n, m := t.to(daemonIdle)
		m.count = t.s.redis.count
		t.emit(n, "reads the count: %d of id %d", m.count.n, m.count.id)
	}
	for length := t.d.wc; length <= t.s.flushed; length++ {
		t.gate(length)
	}
}

func (t *turn) intent() {
	next := daemonConfirm
	if t.without.intentFirst {
		next = daemonAdvance
	}
	n, m := t.to(next)
	shard, outcome := fence.Intent(t.shard(&n.redis), t.expected, t.raise(&t.d), t.snapshots[t.d.gate])
	if outcome == fence.Applied {
		t.write(&n.redis, shard)
		t.announce(n)
	}
	if t.without.compare {
		outcome = fence.Applied
		n.redis.wi, n.redis.si = max(n.redis.wi, t.d.wi), n.redis.si|t.d.gate
	}
	if t.without.intentCompares && n.redis.found {
		outcome = fence.Applied
		n.redis.wi, n.redis.si = max(n.redis.wi, t.d.wi), n.redis.si|t.d.gate
		m.replid = n.redis.replid
	}
	t.judge(n, m, outcome, "INTENT")
}

func (t *turn) confirms() {
	n, _ := t.to(t.nextUnlink(0))
	n.redis.confirmed |= t.d.batch & t.s.visible
	other := t.d.other
	if t.without.confirmAll {
		other = 0
	}
	live(t.d.name, other, func(name uint8) {
		t.put(&n.redis.records[name], t.confirm(t.record(n.redis.records[name]), t.keyed(t.d.batch), int64(t.s.clock)))
	})
	t.emit(n, "confirms under name %d", t.d.name)
}

func (t *turn) advance() {
	n, m := t.to(daemonIdle)
	m.done |= t.d.batch
	m.batch, m.gate, m.wi, m.advance, m.reached = 0, 0, 0, 0, view{}
	if t.d.advance == t.d.wc && !t.d.reached.taken {
		t.emit(n, "nothing to advance")
		return
	}
	m.wc = t.d.advance
	shard, outcome := fence.Advance(t.shard(&n.redis), t.expected, mvcc.LSN(t.d.advance), t.horizon(t.d.reached), t.tick(t.d.reached.tick))
	if t.without.compare && n.redis.found {
		shard.Head.Wc, outcome = mvcc.LSN(t.d.advance), fence.Applied
	}
	if outcome == fence.Applied {
		t.write(&n.redis, shard)
		n.redis.promised = n.redis.wc
		if t.d.reached.taken && t.without.tickBefore {
			n.redis.sa.tick = t.s.redis.count
		}
	}
	t.judge(n, m, outcome, t.say("ADVANCE to %d%s", t.d.advance, t.d.reached))
}

// move is D7, step by step.
func (t *turn) move() {
	switch t.d.pc &^ waiting {
	case daemonMoveIntent:
		n, m := t.to(daemonMoveCompare)
		shard, outcome := fence.Intent(t.shard(&n.redis), t.expected, fence.Raise{To: mvcc.LSN(n.flushed), All: true}, t.snapshots[n.visible])
		if outcome == fence.Applied {
			t.write(&n.redis, shard)
		}
		t.judge(n, m, outcome, "INTENT for all buckets")
	case daemonMoveCompare:
		n, m := t.to(daemonMoveRoster)
		t.judge(n, m, fence.Compare(t.shard(&n.redis), t.expected), "compares before the move")
	case daemonMoveRoster:
		n, m := t.to(daemonMoveHead)
		outcome := fence.Applied
		switch {
		case n.redis.rosterTerm > t.d.term:
			outcome = fence.Superseded
		case n.redis.rosterTerm == t.d.term && n.redis.rosterGen == t.d.gen && n.redis.rosterRev > t.d.rev:
			outcome = fence.Mismatch
		default:
			n.redis.rosterGen, n.redis.rosterTerm, n.redis.rosterRev, n.redis.rosterName = t.d.gen, t.d.term, t.d.rev, t.d.name
			n.redis.rosterOther, n.redis.suspended = t.d.other, t.adds && !t.d.admitted
		}
		t.judge(n, m, outcome, t.say("writes ROSTER, revision %d, name %d", t.d.rev, t.d.name))
	case daemonMoveHead:
		n, m := t.to(daemonIdle)
		shard, outcome := fence.Move(t.shard(&n.redis), t.expected, uint64(t.d.rev), "")
		if outcome == fence.Applied {
			t.write(&n.redis, shard)
			if hurry := t.d.again && t.without.claimWait || t.d.retiring && t.without.retireWait; !hurry {
				t.startWaiting(m)
			}
			m.again, m.retiring = false, false
		}
		t.judge(n, m, outcome, t.say("HEAD to revision %d", t.d.rev))
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
		v, _ = fence.Confirm(v, x.stamp(tx), 1)
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
	return fence.Raise{To: mvcc.LSN(d.wi), Buckets: x.raised(d)}
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
	r.floors, r.begun = [maxBuckets]uint8{}, [maxNames]sets{}
	*m = daemon{
		pc: daemonIdle, term: m.term, gen: m.gen, rev: m.rev, name: m.name, other: m.other, wc: m.wc, replid: r.replid, done: n.upTo(m.wc),
		epoch: m.epoch,
	}
}

func (t *turn) claim() {
	d := &t.d
	n, m := t.to(daemonIdle)
	shard, outcome := fence.Claim(t.shard(&n.redis), t.terms[d.term])
	switch outcome {
	case fence.Superseded:
		*m = daemon{pc: daemonDown, term: d.term}
	case fence.Mismatch:
		*m = daemon{pc: daemonBegin, term: d.term, epoch: t.s.epoch}
	default:
		t.write(&n.redis, shard)
		r := &n.redis
		*m = daemon{
			pc: daemonIdle, term: d.term, gen: r.gen, rev: r.rev, name: r.rosterName, other: r.rosterOther, wc: r.wc, replid: r.replid,
			done: n.upTo(r.wc), epoch: t.s.epoch, admitted: t.adds && (!r.suspended || t.without.admitAgain && t.s.published),
		}
		t.drawCount(n)
		if t.without.forgetDone {
			m.done |= d.done
		}
		switch {
		case r.wc < n.slot, // the log does not reach back to what the store lost
			n.begun&(1<<r.gen) == 0 && !t.without.alive: // the database lost transactions, and no generation was begun since
			*m = daemon{pc: daemonBegin, term: d.term, epoch: t.s.epoch}
		case t.without.republish && r.rosterGen == r.gen && r.rosterRev == r.rev:
			if !t.without.claimWait {
				t.startWaiting(m)
			}
		default:
			m.pc, m.again = daemonMoveCompare, true
			if r.rosterGen != r.gen || r.rosterRev != r.rev { // a move was not finished
				m.name, m.again, m.pc = t.draw(n), false, t.firstOfMove()
				t.redraw(n, m)
			}
			m.rev = t.revision(n)
		}
	}
	if outcome == fence.Applied && t.without.alive {
		n.redis.epoch = t.s.epoch
	}
	t.emit(n, "claims: %s", outcome)
}

// drawCount begins a count under a new id, as a daemon does that has claimed HEAD.
func (x *explorer) drawCount(n *state) {
	if x.bounded() && !x.without.drawCount {
		n.ids++
		n.redis.count = tick{id: n.ids}
	}
}

// gate takes a batch out of the first commits in the log: what was delivered by now.
func (t *turn) gate(delivered uint8) {
	batch := t.s.upTo(delivered) &^ t.d.done &^ t.s.missed
	if !t.without.gate {
		batch &= t.s.visible
	}
	advance := t.d.wc
	for advance < delivered && (t.d.done | batch | t.s.missed).has(t.s.log[advance]) {
		advance++
	}
	if t.wait {
		advance = t.d.wc
	}
	waits, reached := t.settle(t.s, &t.d, delivered, t.wait)
	if batch == 0 && advance == t.d.wc && waits == t.d.waits && (!reached.taken || reached == t.s.redis.sa) {
		return
	}
	next := daemonIntent
	if t.without.intentFirst {
		next = daemonConfirm
	}
	n, m := t.to(next)
	m.batch, m.gate, m.advance, m.waits, m.reached = batch, t.s.visible, advance, waits, reached
	if t.without.gate {
		m.gate |= batch
	}
	for position := range delivered {
		if batch.has(t.s.log[position]) {
			m.wi = position + 1
		}
	}
	t.emit(n, "gate: batch %03b of the first %d commits, to advance to %d", batch, delivered, advance)
}
