package spec

import (
	"fmt"

	"github.com/freshet/freshet/mvcc"
)

// explorer holds what all steps of one exploration share.
type explorer struct {
	config
	*tables
	yield  func(next *state, action, broken string)
	naming bool // actions are wanted in words, which costs more than taking them
	// What is being taken; here, so that no step allocates it.
	turn    turn
	reading reading
}

func (x *explorer) say(format string, args ...any) string {
	if !x.naming {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

func (x *explorer) initial() state {
	var s state
	s.moves, s.retires, s.evictions, s.counts = x.moves, x.retires, x.evictions, x.counts
	s.others = x.others
	if x.clock {
		s.clocks = 2
	}
	for i, kind := range x.readers {
		s.readers[i].runs = kind.runs
	}
	d := &s.daemons[0]
	d.term = 1
	s.gens, s.revs, s.names, s.begun = 1, 1, 1, 1<<1
	if x.empty {
		d.pc = daemonClaim
		return s
	}
	s.redis = store{found: true, gen: 1, term: 1, rev: 1, rosterGen: 1, rosterTerm: 1, rosterRev: 1}
	d.pc, d.gen, d.rev = daemonIdle, 1, 1
	if s.redis.records[0].live = x.cached; x.cached {
		x.cache(&s.redis)
	}
	s.redis.suspended = x.adds
	if x.versions {
		d.other = x.draw(&s) + 1
		s.redis.rosterOther = d.other
	}
	if x.bounded() {
		s.redis.count.id, s.ids = 1, 1
	}
	if x.counts > 0 {
		s.replica, s.lagging = s.redis, true // what a replica has elsewhere is up to other configurations
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
	x.arrive(s)
	x.another(s)
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
		if x.adds && !x.begins(s, tx) || x.strict && tx == 0 && !x.fences(s, tx) {
			continue
		}
		if x.crashes > 0 && end == 0 && !s.visible.has(tx) {
			n := *s
			n.visible |= 1 << tx
			x.yield(&n, x.say("writer %d: becomes visible, its commit record is not flushed", tx+1), "")
		}
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
		x.evictEpochs(s)
		if s.redis.found && !x.keysOnly {
			n := *s
			n.evictions--
			n.redis.dropHead()
			x.yield(&n, "redis: evicts HEAD", "")
		}
		if s.redis.count != (tick{}) {
			n := *s
			n.evictions--
			n.redis.count = tick{}
			x.yield(&n, "redis: evicts the count", "")
		}
	}
	if s.clocks > 0 {
		n := *s
		n.clocks--
		n.clock = n.clocks
		x.yield(&n, x.say("redis: its clock is at %d", n.clock), "")
	}
	if s.counts > 0 && s.failed {
		n := *s
		n.counts--
		n.counted(&n.redis)
		x.yield(&n, x.say("redis: another reader has it count: %d of id %d", n.redis.count.n, n.redis.count.id), "")
	}
	x.database(s)
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
	if x.oldMaster {
		n.replica = s.redis
		for i := range x.readers {
			n.readers[i].behind = true
		}
	}
	x.yield(&n, "redis: the replica is promoted", "")
}

// counted is TICK.
func (s *state) counted(r *store) {
	if r.count == (tick{}) {
		s.ids++
		r.count.id = s.ids
	}
	r.count.n++
}

// database is how PostgreSQL loses history.
func (x *explorer) database(s *state) {
	if x.crashes > 0 && s.epoch == 0 {
		n := *s
		n.loses(s.visible &^ s.upTo(s.flushed))
		n.visible = n.upTo(n.flushed) // recovery waits for no standby
		x.yield(&n, "postgresql: recovers from a crash", "")
	}
	if x.promotes > 0 && s.epoch == 0 {
		n := *s
		n.loses((s.visible | s.upTo(s.flushed)) &^ s.upTo(s.replayed))
		for i := s.replayed; i < s.flushed; i++ {
			n.log[i] = 0
		}
		n.flushed, n.visible = s.replayed, s.upTo(s.replayed)
		n.slot = s.replayed // what was not confirmed before the new slot was made is not in its stream
		x.yield(&n, x.say("postgresql: the standby, at %d, is promoted", n.flushed), "")
	}
}

// loses takes transactions back. Values that contain them contain what never happened, and nothing of those to which
// the same ids are given next.
func (s *state) loses(lost set) {
	s.epoch++
	s.begun = 0
	for _, r := range []*store{&s.redis, &s.replica} {
		for i := range r.records {
			r.records[i].cov &^= lost
		}
		r.confirmed &^= lost
		for r.promised > 0 && s.upTo(r.promised)&lost != 0 {
			r.promised--
		}
	}
	for i := range s.readers {
		s.readers[i].cov &^= lost
		s.readers[i].must &^= lost
	}
}

func (s *store) dropHead() {
	s.found, s.sa = false, view{}
	s.gen, s.term, s.rev, s.wi, s.wc, s.si, s.floors, s.begun = 0, 0, 0, 0, 0, 0, [maxBuckets]uint8{}, [maxNames]sets{}
}
