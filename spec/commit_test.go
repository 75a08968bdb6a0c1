package spec

import "github.com/freshet/freshet/internal/fence"

// fences are what a strict commit does besides: EARLY before COMMIT, and once more when that has returned. It reports
// whether the transaction may go on.
func (x *explorer) fences(s *state, tx uint8) bool {
	n := *s
	switch {
	case !s.fenced.has(tx):
		n.fenced |= 1 << tx
		if !x.without.fenceBefore {
			x.fence(&n, tx)
		}
		x.yield(&n, x.say("writer %d: EARLY, before COMMIT", tx+1), "")
		return false
	case s.visible.has(tx) && !s.sure.has(tx):
		n.sure |= 1 << tx
		if !x.without.fenceAgain {
			x.fence(&n, tx)
		}
		x.yield(&n, x.say("writer %d: EARLY again; Commit returns", tx+1), "")
		if x.unheard {
			n = *s
			n.sure |= 1 << tx
			x.yield(&n, x.say("writer %d: cannot reach the store; Commit returns", tx+1), "")
		}
	}
	return true
}

// fence is EARLY, by a writer, under every live name.
func (x *explorer) fence(n *state, tx uint8) {
	live(n.redis.rosterName, n.redis.rosterOther, func(name uint8) {
		v, _ := fence.Early(x.record(n.redis.records[name]), x.stamp(tx), true, fence.Gone)
		x.put(&n.redis.records[name], v)
	})
}

// begins has transactions begin in the order of their ids, where it matters what was open when. It reports whether this one
// has.
func (x *explorer) begins(s *state, tx uint8) bool {
	if s.began == tx {
		n := *s
		n.began++
		x.yield(&n, x.say("writer %d: begins to write", tx+1), "")
	}
	return s.began > tx
}

// admit is D8: the entry's table joins the publication; when everything is over that had begun by then, the entry goes live.
func (t *turn) admit() {
	if !t.s.published {
		n, _ := t.to(daemonIdle)
		n.published, n.missed = true, 1<<t.s.began-1
		t.emit(n, "adds the table to the publication; the log lacks %03b", n.missed)
		return
	}
	if t.d.admitted {
		return
	}
	if !t.d.admits {
		n, m := t.to(daemonIdle)
		m.admits, m.open = true, t.s.began
		t.emit(n, "waits until the first %d transactions are over", t.s.began)
		return
	}
	if over := set(1)<<t.d.open - 1; over&^t.s.visible == 0 || t.without.admission {
		first := daemonMoveIntent
		if t.without.moveFloor {
			first = daemonMoveCompare
		}
		n, m := t.to(first)
		m.admits, m.open, m.admitted, m.name, m.rev = false, 0, true, t.draw(n), t.revision(n)
		t.emit(n, "has the entry live under name %d, revision %d", m.name, m.rev)
	}
}
