package spec

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/mvcc"
)

// The bounds of the model's arrays; configurations use less.
const (
	maxTxs   = 3
	maxNames = 8
	noName   = 255
)

// set is a set of transactions, one bit for each. Transaction i has the id i+1.
type set uint8

func (s set) has(i uint8) bool { return s&(1<<i) != 0 }

// record is fence.Record for the model's one key under one name. Values are what their load saw.
type record struct {
	live   bool
	cov    set   // what the value contains
	claim  set   // what its coverage says: a snapshot,
	replay uint8 // or a standby's position, plus one
	pairs  ids   // of the epochs that the value depends on
	token  uint8
	end    uint8 // of the lease, by Redis' clock
	fences set
}

// tick is a count that readers have the store keep, under an id.
type tick struct{ id, n uint8 }

// view is a gate's snapshot, where the log ended after it, and the count before it (D6).
type view struct {
	taken  bool
	seen   set
	insert uint8
	tick   tick
}

// position is v once it does not matter where the log ended.
func (v view) position() view {
	v.insert = 0
	return v
}

func (v view) String() string {
	if !v.taken {
		return ""
	}
	return fmt.Sprintf(", Sa %03b, count %d of id %d", uint8(v.seen), v.tick.n, v.tick.id)
}

// store is everything in Redis: what a replica may have an older copy of.
type store struct {
	found                 bool // HEAD
	gen, term, rev        uint8
	wi, wc                uint8             // positions: the n-th commit in the log ends at n
	floors                [maxBuckets]uint8 // each name is in a bucket of its own, and so is each epoch
	si                    set
	replid                uint8
	rosterGen, rosterTerm uint8
	rosterRev, rosterName uint8
	rosterOther           uint8 // the second live name, plus one; 0: there is none
	suspended             bool  // D8: the roster has no live name yet
	records               [maxNames]record
	epochs                [maxNames]ids
	begun                 [maxNames]sets // S_b, of each epoch's bucket
	sa                    view           // what of it HEAD says
	count                 tick
	epoch                 uint8 // ghost: of the database that HEAD's daemon follows
	confirmed             set   // ghost: CONFIRM went to this history while the transaction was visible
	promised              uint8 // ghost: readers of any name may rely on the transactions up to here
}

type daemon struct {
	pc             uint8
	term           uint8
	gen, rev, name uint8
	other          uint8 // the second live name, plus one; 0: there is none
	retiring       bool  // the move under way takes it out of the roster
	admits         bool  // D8: it waits until the transactions are over that
	open           uint8 // had begun, the first so many, when the table was in the publication
	admitted       bool  // and now they are
	wc, replid     uint8
	done           set // confirmed, perhaps out of order
	early          set // fenced early
	batch, gate    set
	wi, advance    uint8
	again          bool  // publishes the names that it found
	epoch          uint8 // of the database that it has a session with
	count          tick  // as last read
	waits, reached view  // for its turn, and with the batch
}

type reader struct {
	pc             uint8
	runs           uint8 // reads left
	token          uint8 // the last one drawn
	gen, rev, name uint8 // the cached roster, gen 0: none; name noName: it has not the reader's version
	fresh          bool  // confirmed within T_r
	behind         bool  // it is connected to the old master, which goes on answering
	cov            set   // what the load saw, or the value that a GET found
	must           set   // what the promise of this read is about, or of a whole session
	headFound      bool  // HEAD as read
	headSi         set
	headWi         uint8
	replay         uint8 // the standby's position as read, plus one
	claim          set   // what the load's coverage says
	flight         uint8 // the reader whose load it waits for, plus one
	have           bool  // that is there
	fences         set   // that LEASE handed out
	after, at      uint8 // the token: a transaction, plus one, and where the log was after its COMMIT; 0 for none
	headWc, replid uint8
	headSa         view
	asked          tick
	ids            ids  // of its epochs, as made or read
	over           ids  // those of a value that it found dead
	saw            set  // a session: what it has seen,
	seen           bool // if anything
}

// state is a node of the graph. It is comparable, and holds nothing by reference.
type state struct {
	visible          set
	flushed          uint8 // length of log
	log              [maxTxs]uint8
	slot             uint8 // what PostgreSQL may have forgotten
	replayed         uint8 // how much of the log the standby has replayed
	redis            store
	replica          store // an older state of redis, once lagging, or the old master after a failover
	lagging, failed  bool
	evictions, moves uint8
	retires          uint8
	clock, clocks    uint8 // Redis' clock, and how often it can still change
	epoch            uint8 // of the database: it lost history so many times
	begun            uint8 // the generations that were begun in this epoch, one bit for each
	ids              uint8 // of counts
	counts           uint8 // by readers that do nothing else, still to come
	names, gens      uint8 // drawn so far; never drawn again
	fenced, sure     set   // strict commits: before COMMIT, and after it
	published        bool  // D8: the table is in the publication,
	began            uint8 // so many transactions have begun,
	missed           set   // and these are not in the log, as far as the table goes
	revs             uint8
	others           uint8 // makings of epochs by fills of other keys, still to come
	late             [2]lateSet
	daemons          [2]daemon
	readers          [2]reader
}

// live calls f with both live names of a roster.
func live(name, other uint8, f func(name uint8)) {
	f(name)
	if other != 0 {
		f(other - 1)
	}
}

// at is the store that a reader is connected to.
func (s *state) at(reader int) *store {
	if s.readers[reader].behind {
		return &s.replica
	}
	return &s.redis
}

// end is e of the transaction: its place in the log, 0 while it is not there.
func (s *state) end(tx uint8) uint8 {
	for i := range s.flushed {
		if s.log[i] == tx {
			return i + 1
		}
	}
	return 0
}

// upTo is the set of transactions that end at or before a position.
func (s *state) upTo(position uint8) set {
	var all set
	for i := range min(position, s.flushed) {
		all |= 1 << s.log[i]
	}
	return all
}

// What follows translates to and from the types of fence, which decides.

// tables are the translations that would otherwise be computed a million times.
type tables struct {
	snapshots   [1 << maxTxs]mvcc.Snapshot
	terms       [8]fence.Term
	generations [16]string
	replids     [8]string
	tokens      [16]fence.Token
	ends        [maxTxs]mvcc.LSN    // of the transactions in the state that is being looked at
	contents    [1 << maxTxs]string // a value's contents, as its row version
}

func newTables() *tables {
	t := &tables{}
	for m := range t.snapshots {
		// As PostgreSQL reports it: nothing from xmax on had ended, xip lists what was running below.
		s := mvcc.Snapshot{Xmax: 1}
		for i := range mvcc.XID(maxTxs) {
			if set(m).has(uint8(i)) {
				s.Xmax = i + 2
			}
		}
		for i := range mvcc.XID(maxTxs) {
			if !set(m).has(uint8(i)) && i+1 < s.Xmax {
				s.Xip = append(s.Xip, i+1)
			}
		}
		s.Xmin = s.Xmax
		if len(s.Xip) > 0 {
			s.Xmin = s.Xip[0]
		}
		t.snapshots[m] = s
	}
	for m := range t.contents {
		t.contents[m] = strconv.Itoa(m)
	}
	for i := range t.terms {
		t.terms[i] = fence.NewTerm(1, mvcc.XID(i))
	}
	for i := range t.generations {
		t.generations[i] = fmt.Sprintf("%016x", i)
	}
	for i := range t.replids {
		t.replids[i] = fmt.Sprintf("history %d", i)
	}
	for i := range t.tokens {
		if i > 0 {
			t.tokens[i] = fence.Token(fmt.Sprintf("%032x", i))
		}
	}
	return t
}

func seen(s mvcc.Snapshot) set {
	var m set
	for i := range uint8(maxTxs) {
		if s.Sees(mvcc.XID(i) + 1) {
			m |= 1 << i
		}
	}
	return m
}

func (t *tables) shard(s *store) fence.Shard {
	if !s.found {
		return fence.Shard{Replid: t.replids[s.replid]}
	}
	return fence.Shard{Found: true, Replid: t.replids[s.replid], Head: fence.Head{
		Generation: t.generations[s.gen], Term: t.terms[s.term], Revision: uint64(s.rev),
		Wi: mvcc.LSN(s.wi), Wc: mvcc.LSN(s.wc), Si: t.snapshots[s.si], Sa: t.horizon(s.sa), Tick: t.tick(s.sa.tick), Floors: s.buckets(),
	}}
}

// horizon is Sa.
func (t *tables) horizon(v view) mvcc.Snapshot {
	if !v.taken {
		return mvcc.Snapshot{}
	}
	return t.snapshots[v.seen]
}

// tick is a count as HEAD has it.
func (t *tables) tick(c tick) fence.Tick {
	if c.id == 0 {
		return fence.Tick{}
	}
	return fence.Tick{ID: t.generations[c.id], N: uint64(c.n)}
}

func (t *tables) counted(c fence.Tick) tick {
	if c.ID == "" {
		return tick{}
	}
	return tick{id: uint8(slices.Index(t.generations[:], c.ID)), n: uint8(c.N)}
}

// buckets are the floors that were ever raised.
func (s *store) buckets() map[fence.Bucket]mvcc.LSN {
	var floors map[fence.Bucket]mvcc.LSN
	for name, floor := range s.floors {
		if floor != 0 {
			if floors == nil {
				floors = map[fence.Bucket]mvcc.LSN{}
			}
			floors[fence.Bucket(name)] = mvcc.LSN(floor)
		}
	}
	return floors
}

func (t *tables) write(s *store, f fence.Shard) {
	s.found = f.Found
	s.rev, s.wi, s.wc, s.si = uint8(f.Head.Revision), uint8(f.Head.Wi), uint8(f.Head.Wc), seen(f.Head.Si)
	s.floors = [maxBuckets]uint8{}
	for bucket, floor := range f.Head.Floors {
		s.floors[bucket] = uint8(floor)
	}
	s.sa = view{}
	if !f.Head.Sa.IsZero() {
		s.sa = view{taken: true, seen: seen(f.Head.Sa), tick: t.counted(f.Head.Tick)}
	}
	for i, g := range t.generations {
		if g == f.Head.Generation {
			s.gen = uint8(i)
		}
	}
	for i, term := range t.terms {
		if term == f.Head.Term {
			s.term = uint8(i)
		}
	}
}

func (t *tables) record(r record) fence.Record {
	var f fence.Record
	if r.live {
		f.State, f.Coverage, f.RowVersion = fence.Live, t.coverage(r.claim, r.replay), t.contents[r.cov]
	}
	if r.token != 0 {
		f.Lease = fence.Lease{Token: t.tokens[r.token], End: int64(r.end)}
	}
	for tx := range uint8(maxTxs) {
		if r.fences.has(tx) {
			f.Fences = append(f.Fences, t.stamp(tx))
		}
	}
	return f
}

// stamp has positions as coverages of standbys do: one higher.
func (t *tables) stamp(tx uint8) fence.Stamp {
	return fence.Stamp{XID: mvcc.XID(tx) + 1, End: t.ends[tx] + 1}
}

// coverage is a standby's, if there is a position, or a snapshot.
func (t *tables) coverage(claim set, replay uint8) fence.Coverage {
	if replay != 0 {
		return fence.Coverage{Replay: mvcc.LSN(replay)}
	}
	return fence.Coverage{Snapshot: t.snapshots[claim]}
}

func (t *tables) stored(f fence.Record) record {
	r := record{live: f.State.Live(), replay: uint8(f.Coverage.Replay)}
	if r.live {
		r.cov = set(slices.Index(t.contents[:], f.RowVersion))
		if r.replay == 0 {
			r.claim = seen(f.Coverage.Snapshot)
		}
	}
	for i, token := range t.tokens {
		if token == f.Lease.Token {
			r.token, r.end = uint8(i), uint8(f.Lease.End)
		}
	}
	for _, x := range f.Fences {
		r.fences |= 1 << (x.XID - 1)
	}
	return r
}

func (t *tables) expected(d *daemon) fence.Expected {
	return fence.Expected{Generation: t.generations[d.gen], Term: t.terms[d.term], Wc: mvcc.LSN(d.wc), Replid: t.replids[d.replid]}
}
