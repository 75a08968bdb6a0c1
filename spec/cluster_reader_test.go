package spec

import (
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/mvcc"
)

// slotOf is the slot that a reader's key is in.
func (x *clusterExplorer) slotOf(i int) uint8 {
	if i == 1 {
		return x.slots - 1
	}
	return 0
}

func (x *clusterExplorer) reader(s *clusterState, i int) {
	r := s.readers[i]
	kind, l := x.readers[i], x.slotOf(i)
	n := *s
	m := &n.readers[i]
	over := func() { *m = clusterReader{runs: r.runs - 1, token: r.token, gen: r.gen, fresh: r.fresh} }
	number := uint8(i)*4 + r.token
	at, _ := s.recordAt(l, r.gen)
	held := &n.servers[at].slots[l].records[r.gen]
	switch r.pc {
	case readerIdle:
		if r.runs > 0 {
			x.starts(s, i)
		}
	case readerLease:
		m.token++
		number++
		v, outcome := fence.Acquire(x.record(*held), x.tokens[number], 0, 1)
		if outcome == fence.Busy {
			over()
			x.emit(&n, "reader %d: LEASE: busy", i+1)
			return
		}
		x.put(held, v)
		m.pc, m.server, m.history = readerHead, at, s.servers[at].history
		x.emit(&n, "reader %d: LEASE of generation %d on server %d", i+1, r.gen, at)
	case readerHead:
		if h, ok := x.headOf(s, i); ok {
			m.si, m.wi = h.si, h.wi
			if m.pc = readerLoad; kind.standby {
				m.pc = readerPosition
			}
			x.emit(&n, "reader %d: HEAD: Si %03b, floor %d", i+1, m.si, m.wi)
			return
		}
		m.pc = readerRelease
		x.emit(&n, "reader %d: HEAD: none that counts", i+1)
	case readerPosition:
		m.pc, m.replay = readerLoad, s.replayed+1
		x.emit(&n, "reader %d: the standby is at %d", i+1, s.replayed)
	case readerLoad:
		if m.pc = readerFill; x.epoch {
			m.pc = readerEpochs
		}
		switch {
		case kind.standby:
			m.cov = s.upTo(s.replayed)
		case !kind.early:
			m.cov = s.visible
		}
		if !kind.early {
			m.claim = m.cov
		}
		x.emit(&n, "reader %d: loads: sees %03b", i+1, m.cov)
	case readerFill:
		cov := x.coverage(r.claim, r.replay)
		if !fence.Floor(fence.Head{Generation: "g", Si: x.snapshots[r.si], Wi: mvcc.LSN(r.wi) + 1}, cov) {
			m.pc = readerRelease
			x.emit(&n, "reader %d: may not fill: below the floor", i+1)
			return
		}
		v, outcome := fence.Fill(x.record(*held), fence.Filling{
			Token: x.tokens[number], Coverage: cov, State: fence.Live, RowVersion: x.contents[r.cov],
		}, 0)
		x.put(held, v)
		if outcome == fence.Filled {
			held.pairs = r.pairs
		}
		over()
		x.emit(&n, "reader %d: FILL on server %d of what saw %03b: %s", i+1, at, r.cov, outcome)
	case readerRelease:
		v, _ := fence.Release(x.record(*held), x.tokens[number])
		x.put(held, v)
		over()
		x.emit(&n, "reader %d: gives its lease back", i+1)
	case readerVouch, readerValue:
		x.vouch(s, i)
	default:
		x.epochal(s, i)
	}
}

// headOf is the HEAD that a reader has from the server, and in the history, that its key is on.
func (x *clusterExplorer) headOf(s *clusterState, i int) (*vouch, bool) {
	r := &s.readers[i]
	l := x.slotOf(i)
	v, h, _ := x.headAt(s, l)
	if x.perMaster {
		v, h, _ = x.headAt(s, r.server)
	}
	ok := v == &s.servers[r.server] && v.history == r.history && x.counts(v, h) && h.gen == r.gen
	return h, ok
}

// starts is a read's first step, or R0.
func (x *clusterExplorer) starts(s *clusterState, i int) {
	r := s.readers[i]
	kind, l := x.readers[i], x.slotOf(i)
	unit := l
	if x.perMaster {
		unit = s.slots[l].owner
	}
	server, h, _ := x.headAt(s, unit)
	if !r.fresh {
		if x.counts(server, h) {
			n := *s
			n.readers[i].fresh, n.readers[i].gen = true, h.gen
			x.emit(&n, "reader %d: confirms its roster: generation %d", i+1, h.gen)
		}
		return
	}
	if kind.token {
		for tx := range x.txs {
			if s.visible.has(tx) {
				n := *s
				n.readers[i].pc, n.readers[i].after, n.readers[i].at = readerVouch, tx+1, s.flushed
				x.emit(&n, "reader %d: starts, with a token of writer %d, position %d", i+1, tx+1, s.flushed)
			}
		}
		return
	}
	n := *s
	m := &n.readers[i]
	at, _ := s.recordAt(l, r.gen)
	v := s.servers[at].slots[l].records[r.gen]
	if !v.live {
		m.pc = readerLease
		if kind.early {
			m.cov, m.claim = s.visible, s.visible
		}
		x.emit(&n, "reader %d: GET: none", i+1)
		return
	}
	must := set(0)
	if x.counts(server, h) {
		must = s.upTo(h.promised)
	}
	if x.epoch {
		m.pc, m.server, m.history, m.cov, m.pairs, m.must = readerHolds, at, s.servers[at].history, v.cov, v.pairs, must
		x.emit(&n, "reader %d: GET on server %d: a value of generation %d that saw %03b", i+1, at, r.gen, v.cov)
		return
	}
	*m = clusterReader{runs: r.runs - 1, token: r.token, gen: r.gen, fresh: r.fresh}
	broken := ""
	if must&x.affecting(l)&^v.cov != 0 {
		broken = "a value was served without what was confirmed before it was read"
	}
	x.wrong(&n, broken, "reader %d: GET: serves a value of generation %d that saw %03b", i+1, r.gen, v.cov)
}

// vouch is a read with a token: HEAD, and then the value, from one server.
func (x *clusterExplorer) vouch(s *clusterState, i int) {
	r := s.readers[i]
	n := *s
	m := &n.readers[i]
	over := func() { *m = clusterReader{runs: r.runs - 1, token: r.token, gen: r.gen, fresh: r.fresh} }
	l := x.slotOf(i)
	if r.pc == readerVouch {
		unit := l
		if x.perMaster {
			unit = s.slots[l].owner
		}
		v, h, _ := x.headAt(s, unit)
		if !x.counts(v, h) || h.gen != r.gen {
			over()
			x.emit(&n, "reader %d: HEAD: none that counts", i+1)
			return
		}
		for at := range uint8(maxServers) {
			if v == &s.servers[at] {
				m.server = at
			}
		}
		m.pc, m.history, m.wc = readerValue, v.history, h.wc
		x.emit(&n, "reader %d: HEAD: Wc %d", i+1, h.wc)
		return
	}
	at, _ := s.recordAt(l, r.gen)
	v := s.servers[at].slots[l].records[r.gen]
	over()
	head := fence.Head{Wc: mvcc.LSN(r.wc) + 1}
	token := mvcc.Token{XID: mvcc.XID(r.after), After: mvcc.LSN(r.at) + 1}
	switch {
	case (at != r.server || s.servers[at].history != r.history) && !x.apart:
		x.emit(&n, "reader %d: the value is elsewhere", i+1)
	case !v.live || !x.lives(s, l, r.gen, at, v.pairs) || !fence.Contains(&head, x.coverage(v.claim, v.replay), token):
		x.emit(&n, "reader %d: GET: nothing that is proved", i+1)
	case x.affecting(l).has(r.after-1) && !v.cov.has(r.after-1):
		x.wrong(&n, "a value was served without what was asked for", "reader %d: serves a value that saw %03b", i+1, v.cov)
	default:
		x.emit(&n, "reader %d: serves", i+1)
	}
}
