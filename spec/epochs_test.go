package spec

import (
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/mvcc"
)

// What follows are epochs (TAG, GROUP and BROAD). A value depends on its key, and on epochs besides: keys of the store that
// hold an id which was never used before. It is live only while each of them is there with the id that the value was filled
// with; so to UNLINK one key is to remove all that depends on it.

const (
	maxEpochs  = 2
	maxBuckets = maxNames * (1 + maxEpochs)
)

// ids are what epochs hold, or a value has of them; 0 for none. An attempt to fill has one id for all that it makes: the
// number of its lease's token.
type ids [maxEpochs]uint8

// sets are S_b of the epochs' buckets: what sees every transaction whose UNLINK was begun.
type sets [maxEpochs]set

// hit is what a writer's change affects: a bit for each epoch, and hitKey. The zero hit is the key alone.
type hit uint8

const hitKey hit = 1 << 7

// lateSet is a SET that is still under way although its sender has given it up.
type lateSet struct{ name, epoch, id uint8 }

// cachedID is that of the epochs that are there from the beginning.
const cachedID = 15

// bucketOf is the bucket of an epoch.
func bucketOf(name, e uint8) fence.Bucket { return fence.Bucket(maxNames + name*maxEpochs + e) }

// epochAt tells which epoch a step that there is for each of them is about.
func epochAt(pc, first uint8) (e uint8, is bool) {
	return pc - first, pc >= first && pc < first+maxEpochs
}

// of reports which epochs a value depends on that contains the transactions. On a path these are the tags: the value is a
// row that leads to another, to the first one's until the first writer has changed that.
func (c *config) of(cov set) (on [maxEpochs]bool) {
	for e := range c.epochs {
		on[e] = !c.path || (e == 1) == cov.has(0)
	}
	if c.without.coarse {
		on[0] = false
	}
	return on
}

// lacks is what a value lacks of the transactions, as far as that makes a difference.
func (c *config) lacks(cov, of set) set {
	if c.path {
		was, had := c.result(cov)
		if now, has := c.result(cov | of); now == was && has == had {
			return 0
		}
	}
	return of &^ cov
}

// result is what a path leads to, and which changes that has.
func (c *config) result(cov set) (to uint8, has set) {
	if cov.has(0) {
		to = 1
	}
	for tx := range c.txs {
		if cov.has(tx) && c.hits[tx]&(1<<to) != 0 {
			has |= 1 << tx
		}
	}
	return to, has
}

// keyed are the transactions that affect the key itself.
func (c *config) keyed(batch set) (keyed set) {
	for tx := range c.txs {
		if batch.has(tx) && (c.hits[tx] == 0 || c.hits[tx]&hitKey != 0) {
			keyed |= 1 << tx
		}
	}
	return keyed
}

// unlinks reports whether a batch affects an epoch.
func (c *config) unlinks(batch set, e uint8) bool {
	for tx := range c.txs {
		if batch.has(tx) && c.hits[tx]&(1<<e) != 0 {
			return true
		}
	}
	return false
}

// holds reports whether a value's epochs are what they were.
func (c *config) holds(pairs, now ids) bool {
	for e := range c.epochs {
		if pairs[e] != 0 && pairs[e] != now[e] && (now[e] != 0 || !c.without.missing) {
			return false
		}
	}
	return true
}

// cache begins with epochs that are there, and a value that depends on them.
func (x *explorer) cache(s *store) {
	for e, on := range x.of(0) {
		if on {
			s.epochs[0][e], s.records[0].pairs[e] = cachedID, cachedID
		}
	}
}

// put stores what was decided of a record. Nobody but a FILL puts another value there, or changes what it depends on.
func (t *tables) put(r *record, v fence.Record) {
	pairs := r.pairs
	if *r = t.stored(v); r.live {
		r.pairs = pairs
	}
}

// What the store and the daemon do.

// evictEpochs has the store evict epochs, or end them.
func (x *explorer) evictEpochs(s *state) {
	for name := range s.redis.epochs {
		for e := range x.epochs {
			if s.redis.epochs[name][e] != 0 {
				n := *s
				n.evictions--
				n.redis.epochs[name][e] = 0
				x.yield(&n, x.say("redis: evicts epoch %d under name %d", e, name), "")
			}
		}
	}
}

// arrive has a SET arrive that its sender has given up.
func (x *explorer) arrive(s *state) {
	if !x.resends {
		return
	}
	for i, late := range s.late {
		if late.id != 0 {
			n := *s
			n.late[i] = lateSet{}
			n.redis.make(late.name, late.epoch, late.id)
			x.yield(&n, x.say("redis: the late SET of epoch %d, id %d, arrives", late.epoch, late.id), "")
		}
	}
}

// another has a fill of another key make an epoch. What is filled with it is not looked at.
func (x *explorer) another(s *state) {
	for e := range x.epochs {
		for name := range s.names {
			if s.others == 0 || s.redis.epochs[name][e] != 0 {
				continue
			}
			n := *s
			n.others--
			id := cachedID + s.others
			if x.without.freshID {
				id = 1
			}
			n.redis.make(name, e, id)
			x.yield(&n, x.say("another key's reader makes epoch %d under name %d: id %d", e, name, id), "")
		}
	}
}

// make is SET with NX and GET.
func (s *store) make(name, e, id uint8) uint8 {
	if s.epochs[name][e] == 0 {
		s.epochs[name][e] = id
	}
	return s.epochs[name][e]
}

// raised are the buckets whose floors a batch raises.
func (x *explorer) raised(d *daemon) []fence.Bucket {
	var all []fence.Bucket
	if x.epochs == 0 || x.keyed(d.batch) != 0 {
		all = append(all, fence.Bucket(d.name))
	}
	for e := range x.epochs {
		if x.unlinks(d.batch, e) {
			all = append(all, bucketOf(d.name, e))
		}
	}
	return all
}

// announce is what INTENT says of epochs. Overwriting does: gates only grow.
func (t *turn) announce(n *state) {
	for e := range t.epochs {
		if t.unlinks(t.d.batch, e) {
			live(t.d.name, t.d.other, func(name uint8) { n.redis.begun[name][e] = t.d.gate })
		}
	}
}

// nextUnlink is the step after the confirms, or after the UNLINK of an epoch.
func (t *turn) nextUnlink(from uint8) uint8 {
	for e := from; e < t.epochs; e++ {
		if t.unlinks(t.d.batch, e) {
			return daemonUnlink + e
		}
	}
	if t.without.intentFirst {
		return daemonIntent
	}
	return daemonAdvance
}

func (t *turn) unlink(e uint8) {
	n, _ := t.to(t.nextUnlink(e + 1))
	live(t.d.name, t.d.other, func(name uint8) { n.redis.epochs[name][e] = 0 })
	t.emit(n, "UNLINKs epoch %d under name %d", e, t.d.name)
}

// What readers do.

// epochFloors raises the floor that a reader has read by those of the epochs' buckets: of one that has read them already, and
// of a waiter, who is given what another has loaded and filled.
func (q *reading) epochFloors(all *fence.Head, m *reader) {
	if !q.kind.before && (!q.kind.joins || q.without.waiterFloor) || q.without.epochFloor {
		return
	}
	for e := range q.epochs {
		m.headWi = max(m.headWi, uint8(all.For(bucketOf(q.r.name, e)).Wi))
	}
}

// got goes on with a live value: to its epochs, or to judging it by those that were read before.
func (q *reading) got(m *reader) {
	if q.epochs == 0 {
		return
	}
	m.over, m.replid = q.at().records[q.r.name].pairs, q.at().replid
	switch {
	case q.without.keyFirst && q.holds(m.over, m.ids):
		m.over, m.ids, m.replid = ids{}, ids{}, 0
	case q.without.keyFirst:
		m.pc, m.cov, m.ids, m.replid = readerLease, 0, ids{}, 0
	default:
		m.pc = readerHolds
	}
}

// promise notes what a standby's row must contain: what the store that is asked had confirmed by then.
func (q *reading) promise(m *reader) {
	if q.epochs > 0 && q.kind.standby {
		m.must, m.replid = q.s.upTo(q.at().promised), q.at().replid
	}
	if q.without.keyFirst {
		m.ids = ids{}
	}
}

// torn reports whether the store that a reader is connected to is not the one that has answered it. Values and rows of keys that
// are confirmed themselves are safe without this question: what takes them takes the lease.
func (q *reading) torn() bool {
	return q.epochs > 0 && q.r.replid != q.at().replid && !q.without.oneConnection
}

// leased goes on to the epochs, for a reader that need not load to know them.
func (q *reading) leased(m *reader) {
	if q.kind.before {
		m.pc = q.nextEpoch(0, 0)
	}
}

// loaded goes on to the epochs after a load.
func (q *reading) loaded(m *reader) (broken string) {
	if q.epochs == 0 || q.kind.before {
		return ""
	}
	m.pc = q.nextEpoch(q.tagged(m), 0)
	if q.without.epochsFirst {
		m.pc = readerAgain
	}
	if q.without.rowFloor && q.lacks(m.cov, q.r.must) != 0 {
		return "a row was handed out without what was confirmed before it was asked for"
	}
	return ""
}

// tagged is the state of the database in which the tags were found.
func (q *reading) tagged(m *reader) set {
	if q.without.sameStatement {
		return m.saw
	}
	return m.cov
}

// nextEpoch is the step after the epochs before one were read.
func (q *reading) nextEpoch(cov set, from uint8) uint8 {
	on := q.of(cov)
	for e := from; e < q.epochs; e++ {
		if on[e] {
			return readerEpochs + e
		}
	}
	switch {
	case q.kind.before:
		return readerHead
	case q.without.epochsFirst:
		return readerFill
	}
	return readerAgain
}

// epochal is a step about epochs.
func (q *reading) epochal() {
	switch q.r.pc {
	case readerHolds:
		q.reads()
	case readerAgain:
		q.again()
	default:
		e, _ := epochAt(q.r.pc, readerEpochs)
		id := uint8(q.i)*4 + q.r.token
		if q.resends && !q.without.sentOnce {
			id += 8 // of the second attempt, which is the one that is answered
		}
		for _, late := range []bool{false, true} {
			if late && !q.resends || q.s.late[q.i].id != 0 {
				continue
			}
			n, m := q.to(q.nextEpoch(q.tagged(&q.r), e+1))
			if q.without.freshID {
				id = 1
			}
			m.ids[e] = n.at(q.i).make(q.r.name, e, id)
			if late {
				n.late[q.i] = lateSet{q.r.name, e, uint8(q.i)*4 + q.r.token}
			}
			q.emit(n, "", "makes or reads epoch %d: id %d%s", e, m.ids[e], map[bool]string{true: "; an earlier attempt is on its way"}[late])
		}
	}
}

// reads is MGET of the epochs.
func (q *reading) reads() {
	now := q.at().epochs[q.r.name]
	if q.without.keyFirst {
		n, m := q.to(readerGet)
		m.ids = now
		q.emit(n, "", "MGET of the epochs: %v", now)
		return
	}
	if q.torn() {
		n, m := q.to(readerGet)
		m.cov, m.over, m.replid = 0, ids{}, 0
		q.emit(n, "", "the connection that the value came by is broken; reads again")
		return
	}
	if q.without.epochsAgain && q.r.ids != (ids{}) {
		now = q.r.ids
	}
	if q.holds(q.r.over, now) {
		n, m := q.to(readerAccept)
		if m.over, m.replid = (ids{}), 0; q.without.epochsAgain {
			m.ids = now
		}
		q.emit(n, "", "MGET of the epochs: %v, as they were", now)
		return
	}
	n, m := q.to(readerLease)
	m.cov, m.claim, m.replid = 0, 0, 0
	if q.kind.early {
		m.cov, m.claim = q.s.visible, q.s.visible
	}
	q.promise(m)
	q.emit(n, "", "MGET of the epochs: %v, the value has %v", now, q.r.over)
}

// vouchHolds is the same for a read with a demand.
func (q *reading) vouchHolds() {
	n, m := q.to(readerIdle)
	now := q.at().epochs[q.r.name]
	if m.have = q.holds(q.r.over, now); m.have {
		m.over = ids{}
	}
	if q.torn() {
		n, _ = q.over()
		q.emit(n, "", "the connection that HEAD came by is broken")
		return
	}
	q.proved(n, q.i)
	q.emit(n, "", "MGET of the epochs: %v, the value has %v", now, q.r.over)
}

// again asks HEAD what has been begun of the epochs, now that their ids are known.
func (q *reading) again() {
	h := q.at()
	if q.without.headOfSets && q.s.failed {
		h = &q.s.replica // the old master
	}
	next := readerFill
	if q.without.epochsFirst {
		next = q.nextEpoch(q.tagged(&q.r), 0)
	}
	if !h.found || h.gen != q.r.gen || !q.fits(h) {
		next = readerRelease
	}
	n, _ := q.to(next)
	q.emit(n, "", "HEAD once more: S_b %03b", h.begun[q.r.name])
}

// fits reports whether the load has what was begun of its epochs.
func (q *reading) fits(h *store) bool {
	cov := q.coverage(q.r.claim, q.r.replay)
	all := fence.Head{Wi: mvcc.LSN(h.wi), Floors: h.buckets()}
	for e, on := range q.of(q.tagged(&q.r)) {
		switch begun := h.begun[q.r.name][e]; {
		case !on:
		case cov.Standby():
			// Positions are one higher, as in floor.
			if floor := all.For(bucketOf(q.r.name, uint8(e))).Wi + 1; cov.Replay < floor && !q.without.epochFloor {
				return false
			}
		case begun != 0 && !cov.Snapshot.Dominates(q.snapshots[begun]) && !q.without.begun:
			return false
		}
	}
	return true
}

// handedOut judges the row that a reader of a standby is given, whether it is stored or not.
func (q *reading) handedOut() (broken string) {
	if q.epochs > 0 && q.kind.standby && q.r.replid == q.at().replid && !q.without.epochFloor && q.lacks(q.r.cov, q.r.must) != 0 {
		return "a row was handed out without what was confirmed before it was asked for"
	}
	return ""
}

// dead reports whether what is stored is what the reader has found dead. A value that is dead once is dead for ever.
func (q *reading) dead() bool {
	r := &q.at().records[q.r.name]
	return q.epochs > 0 && r.live && q.r.over != ids{} && q.r.over == r.pairs
}

// leasable is the record as LEASE judges it: without a value that is dead, which goes with the grant. What that covers is nothing
// that a load would have to be newer than.
func (q *reading) leasable() fence.Record {
	v := q.record(q.at().records[q.r.name])
	if q.dead() && !q.without.overDead {
		v.State, v.Coverage, v.RowVersion = fence.None, fence.Coverage{}, ""
	}
	return v
}

// depends notes what the value that was filled depends on.
func (q *reading) depends(r *record, outcome fence.FillOutcome) {
	if q.epochs > 0 && outcome == fence.Filled {
		r.pairs = q.r.ids
	}
}
