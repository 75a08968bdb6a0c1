package spec

import (
	"fmt"
	"slices"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/mvcc"
)

// What follows is a third model: of stores that are several servers. A slot, which is what a Redis Cluster moves from one
// server to another, holds a lane: one key and, where HEADs go by lane, its HEAD. It moves record by record, servers fail
// over to older prefixes of what they did, and forget that a slot was moving. A placing says where HEADs are and what is
// compared; the names of entries do not move here, since the protocol's own model has that.

// The bounds of the model's arrays; configurations use less.
const (
	maxServers = 2
	maxSlots   = 2
	maxGens    = 8
)

// placing says where HEADs are, and what keeps them together with what they vouch for.
type placing struct {
	name string
	// perMaster: each master has one HEAD, which stays when slots move. Otherwise each slot has its own, which moves along.
	perMaster bool
	// order is that of a batch: its phases for each slot, or for each master.
	order []phase
	// bound: a generation belongs to the history in which it was begun, and ends with it. Otherwise HEAD is taken up in
	// whatever history it turns up.
	bound bool
	// checked: readers, too, take a HEAD only in the history in which its generation was begun.
	checked bool
	// promoted: a replica that was promoted goes on with the generations of the history that it continues.
	promoted bool
	// follow: the daemon sends what is redirected to where it is redirected.
	follow bool
	// refuses: no HEAD is written while its slot is open.
	refuses bool
	// tallied: nor after its server has moved any record away since the generation was begun.
	tallied bool
	// apart: HEAD vouches for a value that comes from another server.
	apart bool
	// hasty: Wc does not wait after a generation was begun.
	hasty bool
	// spares: a batch without keys of a slot sends it no INTENT, and ADVANCE alone compares its HEAD.
	spares bool
	// silent: nor does one that has keys of it.
	silent bool
	// elsewhere: epochs are in the last lane alone, wherever the values are that depend on them.
	elsewhere bool
	want      string // of each trouble: "w" where HEAD must be found to say what is not so
}

// phase is a step of a batch for a slot, or for a master.
type phase struct{ what, unit uint8 }

const (
	phaseIntent uint8 = iota
	phaseConfirm
	phaseAdvance
)

// trouble bounds what befalls the servers.
type trouble struct {
	name      string
	opens     uint8            // slots that are moved, record by record
	atOnce    bool             // they are moved in one step instead
	failovers [maxServers]bool // one each
	undone    uint8            // moves that are given up half-way
	unseen    bool             // slots come home before any daemon has looked at HEAD
	evictions uint8
}

// clusterConfig bounds an exploration.
type clusterConfig struct {
	name string
	placing
	trouble
	slots   uint8
	spread  bool // the second slot is the second server's from the beginning
	txs     uint8
	daemons int
	readers []readerKind // of slot 0, the second one of the last slot
	script  bool
	touches [maxSlots]set // which transactions affect the slot's key; none given: all
	// sessions: Si is checked as well. A session takes it for all that a standby's value behind Wc has shown it.
	sessions bool
	epoch    bool // what the writers change affects no key, but an epoch
}

// vouch is a HEAD.
type vouch struct {
	found     bool
	gen, term uint8
	wi, wc    uint8
	si        set
	at        uint8 // the history in which its generation was begun
	moved     uint8 // that server's count of moved records then
	begun     set   // S_b, of the epoch's bucket
	promised  uint8 // ghost: hits may be relied upon to have what ends here
}

// holding is what a server holds of a slot.
type holding struct {
	head    vouch
	records [maxGens]record // of the slot's key, by the generation in its name
	epochs  [maxGens]uint8  // the ids of the epoch that it depends on, likewise; 0 for none
}

type server struct {
	history   uint8
	continues uint8 // the history that it was promoted in
	head      vouch // the master's own
	slots     [maxSlots]holding
	migrated  uint8 // so many records were moved away; no replica knows
}

// slot is what the cluster knows.
type slot struct {
	owner uint8
	open  bool // records are being moved to the other server
	seen  bool // since it was opened last, a daemon looked at HEAD, and has done what it does then
}

// believed is what a daemon knows of a slot's HEAD, or of a master's.
type believed struct {
	state   uint8
	gen     uint8
	at, wc  uint8
	done    set
	waiting bool
}

const (
	unclaimed uint8 = iota
	claimed
	lost   // HEAD vouches for nothing any more
	closed // nor can readers find it
)

type clusterDaemon struct {
	pc        uint8
	step      uint8 // of the order
	term      uint8
	delivered uint8
	gate      set
	owners    [maxSlots]uint8 // when the batch began
	units     [maxSlots]believed
}

type clusterReader struct {
	pc      uint8
	runs    uint8
	token   uint8
	gen     uint8 // the cached one
	fresh   bool  // confirmed within T_r
	server  uint8 // that it leased, or read HEAD, from
	history uint8
	cov     set
	claim   set
	replay  uint8
	pairs   ids // of the value that it found; of what it fills
	must    set // a plain read's promise
	si      set // HEAD as read
	wi, wc  uint8
	after   uint8 // the token: a transaction, plus one, and where the log was after its COMMIT
	at      uint8
}

type clusterState struct {
	commits
	servers   [maxServers]server
	replicas  [maxServers]server
	lagging   [maxServers]bool
	failed    [maxServers]bool
	slots     [maxSlots]slot
	opens     uint8
	undone    uint8
	evictions uint8
	histories uint8
	gens      uint8
	daemons   [2]clusterDaemon
	readers   [2]clusterReader
}

// commits is the database.
type commits struct {
	log      [maxTxs]uint8
	flushed  uint8
	visible  set
	replayed uint8
}

func (c *commits) end(tx uint8) uint8 {
	for i := range c.flushed {
		if c.log[i] == tx {
			return i + 1
		}
	}
	return 0
}

func (c *commits) upTo(position uint8) (all set) {
	for i := range min(position, c.flushed) {
		all |= 1 << c.log[i]
	}
	return all
}

type clusterExplorer struct {
	clusterConfig
	*tables
	yield  func(n *clusterState, action, broken string)
	naming bool
}

// affecting are the transactions that affect the key of a slot, or of a master.
func (x *clusterExplorer) affecting(unit uint8) set {
	if x.perMaster || x.touches == [maxSlots]set{} {
		return 1<<maxTxs - 1
	}
	return x.touches[unit]
}

func (x *clusterExplorer) emit(n *clusterState, format string, args ...any) {
	x.wrong(n, "", format, args...)
}

func (x *clusterExplorer) wrong(n *clusterState, broken, format string, args ...any) {
	action := ""
	if x.naming {
		action = fmt.Sprintf(format, args...)
	}
	x.yield(n, action, broken)
}

func (x *clusterExplorer) units() uint8 {
	if x.perMaster {
		return maxServers
	}
	return x.slots
}

// holder is the server that answers for a record of a slot, or for its HEAD: the owner, unless that has it not and the
// slot is open, when it says to ask the other one.
func (s *clusterState) holder(i uint8, has func(h *holding) bool) (at uint8, asked bool) {
	at = s.slots[i].owner
	if s.slots[i].open && !has(&s.servers[at].slots[i]) {
		return 1 - at, true
	}
	return at, false
}

func (s *clusterState) recordAt(i, gen uint8) (at uint8, asked bool) {
	return s.holder(i, func(h *holding) bool { return h.records[gen] != record{} })
}

// headAt is where the HEAD of a slot is, or of a master.
func (x *clusterExplorer) headAt(s *clusterState, unit uint8) (v *server, h *vouch, asked bool) {
	if x.perMaster {
		return &s.servers[unit], &s.servers[unit].head, false
	}
	at, asked := s.holder(unit, func(h *holding) bool { return h.head.found })
	return &s.servers[at], &s.servers[at].slots[unit].head, asked
}

// counts reports whether a reader takes the HEAD that it finds on a server.
func (x *clusterExplorer) counts(v *server, h *vouch) bool {
	return h.found && (!x.checked || h.at == v.history)
}

func (x *clusterExplorer) shard(v *server, h *vouch) fence.Shard {
	if !h.found {
		return fence.Shard{Replid: x.replids[v.history]}
	}
	s := fence.Shard{Found: true, Replid: x.replids[v.history], Head: fence.Head{
		Generation: x.generations[h.gen], Term: x.terms[h.term], Wi: mvcc.LSN(h.wi), Wc: mvcc.LSN(h.wc), Si: x.snapshots[h.si],
	}}
	if x.bound {
		s.Head.Lane, s.Head.At = s.Head.Generation, x.replids[h.at]
	}
	return s
}

// wrote takes over what a script has written of HEAD.
func (h *vouch) wrote(s fence.Shard) {
	h.wi, h.wc, h.si = uint8(s.Head.Wi), uint8(s.Head.Wc), seen(s.Head.Si)
}

func (x *clusterExplorer) initial() clusterState {
	var s clusterState
	s.opens, s.undone, s.evictions = x.opens, x.undone, x.evictions
	first := vouch{found: true, gen: 1, term: 1, at: 1}
	s.histories, s.gens = maxServers, 1
	for i := range s.servers {
		v := &s.servers[i]
		v.history = uint8(i) + 1
		if x.perMaster {
			v.head = first
			v.head.at = v.history
		}
	}
	if !x.perMaster {
		for i := range x.slots {
			if x.spread && i > 0 {
				s.slots[i].owner, first.at = 1, 2
			}
			s.servers[s.slots[i].owner].slots[i].head = first
		}
	}
	d := &s.daemons[0]
	d.pc, d.term = daemonIdle, 1
	for u := range x.units() {
		d.units[u] = believed{state: claimed, gen: 1, at: 1}
		if x.perMaster {
			d.units[u].at = u + 1
		} else {
			d.units[u].at = s.slots[u].owner + 1
		}
	}
	for i, kind := range x.readers {
		s.readers[i].runs = kind.runs
	}
	return s
}

func (x *clusterExplorer) steps(s *clusterState) {
	for tx := range uint8(maxTxs) {
		x.ends[tx] = mvcc.LSN(s.end(tx))
	}
	x.database(s)
	for i := range x.slots {
		x.slot(s, i)
	}
	for i := range uint8(maxServers) {
		x.server(s, i)
	}
	for i := range x.daemons {
		x.daemon(s, i)
	}
	for i := range x.readers {
		x.reader(s, i)
	}
}

func (x *clusterExplorer) database(s *clusterState) {
	for tx := range x.txs {
		n := *s
		switch {
		case s.end(tx) == 0:
			n.log[n.flushed] = tx
			n.flushed++
			x.emit(&n, "writer %d: commit record flushed, readers do not see it", tx+1)
		case !s.visible.has(tx):
			n.visible |= 1 << tx
			x.emit(&n, "writer %d: becomes visible", tx+1)
		}
	}
	for _, kind := range x.readers {
		if kind.standby && s.replayed < s.flushed {
			n := *s
			n.replayed++
			x.emit(&n, "standby: replays up to %d", n.replayed)
			break
		}
	}
}

// items are HEAD, the records and the epochs of a slot that a server holds.
func (h *holding) items() (all []uint8) {
	if h.head.found {
		all = append(all, 0)
	}
	for gen := range h.records {
		if h.records[gen] != (record{}) {
			all = append(all, uint8(gen))
		}
		if h.epochs[gen] != 0 {
			all = append(all, uint8(maxGens+gen))
		}
	}
	return all
}

func (x *clusterExplorer) slot(s *clusterState, i uint8) {
	from, to := s.slots[i].owner, 1-s.slots[i].owner
	if x.atOnce {
		if s.opens > 0 {
			n := *s
			n.opens--
			n.servers[to].slots[i], n.servers[from].slots[i] = s.servers[from].slots[i], holding{}
			n.slots[i].owner = to
			x.emit(&n, "slot %d: moves to server %d", i, to)
		}
		return
	}
	if !s.slots[i].open {
		if s.opens > 0 && (from == 0 || x.unseen || s.slots[i].seen) { // slots begin on server 0
			n := *s
			n.opens--
			n.slots[i].open, n.slots[i].seen = true, false
			x.emit(&n, "slot %d: is opened, to move from server %d to server %d", i, from, to)
		}
		// What is left over on the other server, after a promotion or a move that was given up, may be brought home.
		for _, item := range s.servers[to].slots[i].items() {
			x.move(s, i, to, from, item)
		}
		return
	}
	items := s.servers[from].slots[i].items()
	for _, item := range items {
		x.move(s, i, from, to, item)
	}
	if len(items) == 0 {
		n := *s
		n.slots[i].owner, n.slots[i].open = to, false
		x.emit(&n, "slot %d: is server %d's", i, to)
	}
	if s.undone > 0 && (x.unseen || s.slots[i].seen) {
		n := *s
		n.undone--
		n.slots[i].open, n.slots[i].seen = false, false
		x.emit(&n, "slot %d: is closed, and stays server %d's", i, from)
	}
}

// move moves a record, or HEAD. Where the other server has one too, either may win.
func (x *clusterExplorer) move(s *clusterState, i, from, to, item uint8) {
	source, target := &s.servers[from].slots[i], &s.servers[to].slots[i]
	what := "HEAD"
	if item > 0 {
		what = x.say("the record of generation %d", item)
	}
	if item >= maxGens {
		what = x.say("the epoch of generation %d", item-maxGens)
	}
	moved := func(take bool) *clusterState {
		n := *s
		a, b := &n.servers[from].slots[i], &n.servers[to].slots[i]
		a.drop(item)
		if take {
			b.take(source, item)
		}
		if x.tallied {
			n.servers[from].migrated++
		}
		return &n
	}
	x.emit(moved(true), "slot %d: %s moves to server %d", i, what, to)
	if slices.Contains(target.items(), item) {
		x.emit(moved(false), "slot %d: %s is on server %d already, and goes", i, what, to)
	}
}

func (x *clusterExplorer) say(format string, args ...any) string {
	if !x.naming {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

// server is what befalls one: eviction and failover.
func (x *clusterExplorer) server(s *clusterState, i uint8) {
	if s.evictions > 0 {
		for l := range x.slots {
			for _, item := range s.servers[i].slots[l].items() {
				n := *s
				n.evictions--
				n.servers[i].slots[l].drop(item)
				x.emit(&n, "server %d: evicts item %d of slot %d", i, item, l)
			}
		}
	}
	if !x.failovers[i] || s.failed[i] {
		return
	}
	n := *s
	if !s.lagging[i] {
		n.lagging[i], n.replicas[i] = true, s.servers[i]
		x.emit(&n, "server %d: its replica stops here", i)
		return
	}
	n.histories++
	n.servers[i], n.replicas[i] = s.replicas[i], server{}
	v := &n.servers[i]
	v.continues, v.history, v.migrated = v.history, n.histories, 0
	n.lagging[i], n.failed[i] = false, true
	open := false
	for l := range x.slots {
		open = open || s.slots[l].open && s.slots[l].owner == i
	}
	if open {
		m := n
		x.emit(&m, "server %d: the replica is promoted, and knows that the slot is open", i)
		for l := range x.slots {
			if n.slots[l].owner == i {
				n.slots[l].open, n.slots[l].seen = false, false
			}
		}
	}
	x.emit(&n, "server %d: the replica is promoted", i)
}

// check holds I2 against a state: whatever record a HEAD that counts vouches for contains what HEAD says is confirmed.
func (x *clusterExplorer) check(s *clusterState) string {
	for i := range x.slots {
		unit := i
		if x.perMaster {
			unit = s.slots[i].owner
		}
		v, h, _ := x.headAt(s, unit)
		if !x.counts(v, h) {
			continue
		}
		at, _ := s.recordAt(i, h.gen)
		r := &s.servers[at].slots[i].records[h.gen]
		confirmed := s.upTo(h.wc) & x.affecting(unit)
		if missing := confirmed &^ r.cov; r.live && missing != 0 && x.lives(s, i, h.gen, at, r.pairs) {
			return fmt.Sprintf("I2: Wc is %d, the live value in slot %d lacks %03b", h.wc, i, missing)
		}
		if missing := confirmed &^ h.si; x.sessions && missing != 0 {
			return fmt.Sprintf("Si: Wc of slot %d is %d, and Si does not see %03b", i, h.wc, missing)
		}
		if missing := s.upTo(h.wc) &^ s.visible; missing != 0 {
			return fmt.Sprintf("I1: Wc is %d, but %03b is not visible", h.wc, missing)
		}
	}
	return ""
}

// atEnd is I3.
func (x *clusterExplorer) atEnd(s *clusterState) string {
	for u := range x.units() {
		if v, h, _ := x.headAt(s, u); !x.counts(v, h) || h.wc != x.txs {
			return fmt.Sprintf("I3: nothing more happens, and Wc is %d of %d", h.wc, x.txs)
		}
	}
	return ""
}

func exploreCluster(c clusterConfig, limit int) result {
	x := &clusterExplorer{clusterConfig: c, tables: newTables()}
	return search(x.initial(), limit, func(s *clusterState, naming bool, yield func(n *clusterState, action, broken string)) {
		x.yield, x.naming = yield, naming
		x.steps(s)
	}, x.check, x.atEnd)
}
