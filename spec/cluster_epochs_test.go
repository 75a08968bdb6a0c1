package spec

import "github.com/freshet/freshet/internal/fence"

// Epochs where a store is several servers: each lane has its own, and whatever depends on one depends on that of its own lane.

// drop removes an item.
func (h *holding) drop(item uint8) {
	switch {
	case item == 0:
		h.head = vouch{}
	case item < maxGens:
		h.records[item] = record{}
	default:
		h.epochs[item-maxGens] = 0
	}
}

// take has an item of another server's.
func (h *holding) take(from *holding, item uint8) {
	switch {
	case item == 0:
		h.head = from.head
	case item < maxGens:
		h.records[item] = from.records[item]
	default:
		h.epochs[item-maxGens] = from.epochs[item-maxGens]
	}
}

// laneOf is the lane in which the epochs of a slot's values are.
func (x *clusterExplorer) laneOf(l uint8) uint8 {
	if x.elsewhere {
		return x.slots - 1
	}
	return l
}

// epochAt is the server that answers for an epoch of a slot's values.
func (x *clusterExplorer) epochAt(s *clusterState, l, gen uint8) (at uint8, asked bool) {
	return s.holder(x.laneOf(l), func(h *holding) bool { return h.epochs[gen] != 0 })
}

// lives reports whether a value that was found on a server holds: the epoch is on the same one, as it was. Redirections are not
// followed; an epoch that is elsewhere is none.
func (x *clusterExplorer) lives(s *clusterState, l, gen, at uint8, pairs ids) bool {
	if !x.epoch {
		return true
	}
	holder, asked := x.epochAt(s, l, gen)
	return !asked && (holder == at || x.elsewhere) && s.servers[holder].slots[x.laneOf(l)].epochs[gen] == pairs[0]
}

// unlink reports whether a lane's epoch could be removed where it was believed to be.
func (x *clusterExplorer) unlink(n *clusterState, d *clusterDaemon, l uint8) bool {
	values := l
	switch {
	case x.elsewhere && l != x.slots-1:
		return true
	case x.elsewhere:
		values = 0
	}
	gen := d.units[values].gen
	at, asked := x.epochAt(n, values, gen)
	if asked || x.bound && n.servers[at].history != d.units[l].at {
		return false
	}
	n.servers[at].slots[l].epochs[gen] = 0
	return true
}

// epochal is a reader's step about its epoch.
func (x *clusterExplorer) epochal(s *clusterState, i int) {
	r := s.readers[i]
	l := x.slotOf(i)
	n := *s
	m := &n.readers[i]
	at, asked := x.epochAt(s, l, r.gen)
	there := !asked && (x.elsewhere || at == r.server && s.servers[at].history == r.history)
	switch r.pc {
	case readerEpochs:
		if m.pc = readerRelease; there {
			held := &n.servers[at].slots[x.laneOf(l)].epochs[r.gen]
			if *held == 0 {
				*held = uint8(i)*4 + r.token
			}
			m.pc, m.pairs[0] = readerAgain, *held
		}
		x.emit(&n, "reader %d: makes or reads the epoch on server %d: id %d, there %v", i+1, at, m.pairs[0], there)
	case readerAgain:
		m.pc = readerRelease
		if h, ok := x.headOf(s, i); ok && x.fits(h, &r) {
			m.pc = readerFill
		}
		x.emit(&n, "reader %d: HEAD once more; goes on: %v", i+1, m.pc == readerFill)
	case readerHolds:
		if there && x.lives(s, l, r.gen, r.server, r.pairs) {
			*m = clusterReader{runs: r.runs - 1, token: r.token, gen: r.gen, fresh: r.fresh}
			broken := ""
			if r.must&^r.cov != 0 {
				broken = "a value was served without what was confirmed before it was read"
			}
			x.wrong(&n, broken, "reader %d: MGET of the epochs: as it was; serves what saw %03b", i+1, r.cov)
			return
		}
		*m = clusterReader{pc: readerLease, runs: r.runs, token: r.token, gen: r.gen, fresh: r.fresh}
		x.emit(&n, "reader %d: MGET of the epochs: another, or none", i+1)
	}
}

// fits reports whether a load has what was begun of its epoch.
func (x *clusterExplorer) fits(h *vouch, r *clusterReader) bool {
	cov := x.coverage(r.claim, r.replay)
	if cov.Standby() {
		return r.replay > h.wi // positions are one higher, as in floor
	}
	return h.begun == 0 || cov.Dominates(fence.Coverage{Snapshot: x.snapshots[h.begun]})
}
