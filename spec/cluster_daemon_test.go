package spec

import (
	"slices"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/mvcc"
)

func (x *clusterExplorer) daemon(s *clusterState, i int) {
	d := &s.daemons[i]
	switch d.pc {
	case daemonOff:
		n := *s
		n.daemons[i] = clusterDaemon{pc: daemonIdle, term: uint8(i) + 1}
		x.emit(&n, "daemon %d: starts", i+1)
	case daemonIdle:
		for u := range x.units() {
			x.tend(s, i, u)
		}
		x.gateBatch(s, i)
	case daemonBatch:
		x.goOn(s, i)
	}
}

// send gives a write of HEAD, or a comparison, to the server that has it. Whatever keeps it from being done is a mismatch.
func (x *clusterExplorer) send(
	s *clusterState, unit uint8, script func(fence.Shard) (fence.Shard, fence.HeadOutcome),
) (v *server, h *vouch, outcome fence.HeadOutcome) {
	v, h, asked := x.headAt(s, unit)
	if asked && !x.follow || x.refuses && s.slots[unit].open || x.tallied && h.found && h.moved != v.migrated {
		return v, h, fence.Mismatch
	}
	written, outcome := script(x.shard(v, h))
	if outcome == fence.Applied {
		h.wrote(written)
	}
	return v, h, outcome
}

// compare is what an idle daemon asks.
func (x *clusterExplorer) compare(s *clusterState, d *clusterDaemon, unit uint8) (*vouch, fence.HeadOutcome) {
	_, h, outcome := x.send(s, unit, func(shard fence.Shard) (fence.Shard, fence.HeadOutcome) {
		return shard, fence.Compare(shard, x.expected(d.term, &d.units[unit]))
	})
	return h, outcome
}

func (x *clusterExplorer) expected(term uint8, b *believed) fence.Expected {
	e := fence.Expected{Generation: x.generations[b.gen], Term: x.terms[term], Wc: mvcc.LSN(b.wc), Replid: x.replids[b.at]}
	if x.bound {
		e.Lane = e.Generation
	}
	return e
}

// refused sends the daemon on by an answer other than applied.
func (x *clusterExplorer) refused(d *clusterDaemon, unit uint8, outcome fence.HeadOutcome) {
	switch {
	case outcome == fence.Superseded:
		*d = clusterDaemon{pc: daemonDown, term: d.term}
	case x.bound && !x.promoted:
		d.units[unit] = believed{state: lost}
	default:
		d.units[unit] = believed{}
	}
}

// tend is what an idle daemon does for a unit besides batches.
func (x *clusterExplorer) tend(s *clusterState, i int, u uint8) {
	n := *s
	d := &n.daemons[i]
	b := &d.units[u]
	switch b.state {
	case claimed:
		h, outcome := x.compare(&n, d, u)
		if outcome != fence.Applied {
			x.refused(d, u, outcome)
			x.emit(&n, "daemon %d: compares HEAD of %d: %s", i+1, u, outcome)
			return
		}
		if b.waiting {
			b.waiting, h.promised = false, h.wc
			for r := range n.readers {
				n.readers[r].fresh = false
			}
			x.emit(&n, "daemon %d: has waited T_r for %d", i+1, u)
			return
		}
		x.seen(&n, i, u)
	case unclaimed:
		x.claim(&n, i, u)
	case lost:
		b.state = closed
		if _, h, _ := x.headAt(&n, u); h.found && h.term <= d.term {
			*h = vouch{}
		}
		x.emit(&n, "daemon %d: closes %d", i+1, u)
	case closed:
		x.begin(&n, i, u)
		n = *s
		x.seen(&n, i, u)
	}
}

// seen notes that the latest daemon has looked since the slot was opened.
func (x *clusterExplorer) seen(n *clusterState, i int, u uint8) {
	if x.unseen || x.undone == 0 && x.opens < 2 {
		return // nobody asks
	}
	for later := i + 1; later < x.daemons; later++ {
		if n.daemons[later].pc != daemonOff {
			return
		}
	}
	for l := range x.slots {
		if v := &n.slots[l]; (v.open || v.owner != 0) && !v.seen && (u == l && !x.perMaster || u == v.owner && x.perMaster) {
			v.seen = true
			x.emit(n, "daemon %d: has looked at %d", i+1, u)
		}
	}
}

func (x *clusterExplorer) claim(n *clusterState, i int, u uint8) {
	d := &n.daemons[i]
	if v, h, _ := x.headAt(n, u); x.promoted && h.at == v.continues {
		h.at = v.history
	}
	v, h, outcome := x.send(n, u, func(shard fence.Shard) (fence.Shard, fence.HeadOutcome) {
		return fence.Claim(shard, x.terms[d.term])
	})
	switch outcome {
	case fence.Superseded:
		*d = clusterDaemon{pc: daemonDown, term: d.term}
	case fence.Mismatch:
		d.units[u].state = lost
	default:
		h.term = d.term
		d.units[u] = believed{state: claimed, gen: h.gen, at: v.history, wc: h.wc, done: n.upTo(h.wc), waiting: !x.hasty}
	}
	x.emit(n, "daemon %d: claims %d: %s", i+1, u, outcome)
}

// begin starts a generation. Whatever is cached in it was loaded under a snapshot that sees all that is visible, or by a
// standby that has replayed it, so that nothing of that need be confirmed again, in order or out of it.
func (x *clusterExplorer) begin(n *clusterState, i int, u uint8) {
	v, h, asked := x.headAt(n, u)
	if asked && !x.follow || x.refuses && n.slots[u].open {
		return
	}
	d := &n.daemons[i]
	wc := uint8(0)
	for wc < n.flushed && n.visible.has(n.log[wc]) {
		wc++
	}
	if int(n.gens)+1 >= maxGens {
		panic("spec: more generations than the model holds")
	}
	written, outcome := fence.Begin(x.shard(v, h), fence.Head{
		Generation: x.generations[n.gens+1], Lane: x.generations[n.gens+1], Term: x.terms[d.term],
		Wi: mvcc.LSN(n.flushed), Wc: mvcc.LSN(wc), Si: x.snapshots[n.visible],
	})
	if outcome != fence.Applied {
		*d = clusterDaemon{pc: daemonDown, term: d.term}
		x.emit(n, "daemon %d: begins a generation of %d: %s", i+1, u, outcome)
		return
	}
	n.gens++
	*h = vouch{found: true, gen: n.gens, term: d.term, at: uint8(slices.Index(x.replids[:], written.Head.At)), moved: v.migrated}
	h.wrote(written)
	d.units[u] = believed{state: claimed, gen: h.gen, at: h.at, wc: wc, done: n.visible, waiting: !x.hasty}
	x.emit(n, "daemon %d: begins generation %d of %d, from %d", i+1, h.gen, u, wc)
}

// share is what a batch confirms of a unit, and where it takes Wc.
func (x *clusterExplorer) share(s *clusterState, b *believed, delivered uint8, gate set) (batch set, advance uint8) {
	batch = s.upTo(delivered) & gate &^ b.done
	advance = b.wc
	for !b.waiting && advance < delivered && (b.done | batch).has(s.log[advance]) {
		advance++
	}
	return batch, advance
}

func (x *clusterExplorer) gateBatch(s *clusterState, i int) {
	for u := range x.units() {
		if x.perMaster && s.daemons[i].units[u].state != claimed {
			return // a batch is all masters'
		}
	}
	for delivered := uint8(1); delivered <= s.flushed; delivered++ {
		n := *s
		d := &n.daemons[i]
		work := false
		for u := range x.units() {
			b := &d.units[u]
			batch, advance := x.share(s, b, delivered, s.visible)
			work = work || b.state == claimed && (batch != 0 || advance > b.wc)
		}
		if !work {
			continue
		}
		d.pc, d.step, d.delivered, d.gate = daemonBatch, 0, delivered, s.visible
		for l := range x.slots {
			d.owners[l] = s.slots[l].owner
		}
		x.skip(&n, d)
		x.emit(&n, "daemon %d: gate: %03b of the first %d commits", i+1, s.upTo(delivered)&s.visible, delivered)
	}
}

// skip passes over steps for units that are lost, and over those for which there is nothing to do, and ends the batch after the last one.
func (x *clusterExplorer) skip(s *clusterState, d *clusterDaemon) {
	for int(d.step) < len(x.order) && !x.needs(s, d, x.order[d.step]) {
		d.step++
	}
	if int(d.step) == len(x.order) {
		x.over(d)
	}
}

// needs reports whether a batch has the step.
func (x *clusterExplorer) needs(s *clusterState, d *clusterDaemon, p phase) bool {
	b := &d.units[p.unit]
	batch, _ := x.share(s, b, d.delivered, d.gate)
	keys := batch&x.affecting(p.unit) != 0
	switch {
	case b.state != claimed:
		return false
	case p.what == phaseIntent:
		return !x.silent && (keys || !x.spares)
	case p.what == phaseConfirm:
		return keys || x.perMaster
	}
	return true
}

func (x *clusterExplorer) over(d *clusterDaemon) {
	d.pc, d.step, d.delivered, d.gate, d.owners = daemonIdle, 0, 0, 0, [maxSlots]uint8{}
}

func (x *clusterExplorer) goOn(s *clusterState, i int) {
	n := *s
	d := &n.daemons[i]
	p := x.order[d.step]
	b := &d.units[p.unit]
	batch, advance := x.share(s, b, d.delivered, d.gate)
	d.step++
	if p.what == phaseConfirm {
		if x.confirm(&n, d, p.unit, batch) {
			x.skip(&n, d)
			x.emit(&n, "daemon %d: confirms %03b in %d", i+1, batch, p.unit)
			return
		}
		if x.perMaster {
			x.over(d)
		} else {
			x.refused(d, p.unit, fence.Mismatch)
			x.skip(&n, d)
		}
		x.emit(&n, "daemon %d: confirms in %d, and is redirected", i+1, p.unit)
		return
	}
	what, script := "ADVANCE", func(shard fence.Shard) (fence.Shard, fence.HeadOutcome) {
		return fence.Advance(shard, x.expected(d.term, b), mvcc.LSN(advance), mvcc.Snapshot{}, fence.Tick{})
	}
	if p.what == phaseIntent {
		what, script = "INTENT", func(shard fence.Shard) (fence.Shard, fence.HeadOutcome) {
			raise := fence.Raise{All: true}
			for position := range d.delivered {
				if (batch & x.affecting(p.unit)).has(s.log[position]) {
					raise.To = mvcc.LSN(position) + 1
				}
			}
			return fence.Intent(shard, x.expected(d.term, b), raise, x.snapshots[d.gate])
		}
	}
	_, h, outcome := x.send(&n, p.unit, script)
	switch {
	case outcome != fence.Applied:
		x.refused(d, p.unit, outcome)
		if x.perMaster && d.pc != daemonDown {
			x.over(d)
		}
	case p.what == phaseIntent && x.epoch && batch != 0:
		h.begun = d.gate
	case p.what == phaseAdvance:
		b.done |= batch
		if b.wc = advance; !b.waiting {
			h.promised = advance
		}
	}
	if d.pc == daemonBatch {
		x.skip(&n, d)
	}
	x.emit(&n, "daemon %d: %s of %d: %s, Wi %d, Wc %d", i+1, what, p.unit, outcome, h.wi, h.wc)
}

// confirm reports whether the keys of a unit could be confirmed where they were believed to be.
func (x *clusterExplorer) confirm(n *clusterState, d *clusterDaemon, unit uint8, batch set) bool {
	for l := range x.slots {
		if x.perMaster && d.owners[l] != unit || !x.perMaster && l != unit {
			continue
		}
		if x.epoch {
			if !x.unlink(n, d, l) {
				return false
			}
			continue
		}
		gen := d.units[unit].gen
		at, asked := n.recordAt(l, gen)
		if asked && !x.follow || x.perMaster && n.slots[l].owner != unit || x.bound && !x.follow && n.servers[at].history != d.units[unit].at {
			return false
		}
		r := &n.servers[at].slots[l].records[gen]
		v := x.record(*r)
		for tx := range x.txs {
			switch {
			case !(batch & x.affecting(l)).has(tx):
			case x.script:
				v, _ = fence.Confirm(v, x.stamp(tx), 1)
			default:
				v = fence.Unlink(v)
			}
		}
		x.put(r, v)
	}
	return true
}
