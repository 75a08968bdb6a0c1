package spec

import (
	"fmt"
	"slices"
)

// What follows is a second, smaller model: of the schemes by which caches are usually kept fresh, and of those that were
// weighed for this one. One key, two writers, a few reads that each load once on a miss. It shares no code with the
// protocol's model, and is meant to be read in one go.

// scheme says how a cache is kept fresh.
type scheme struct {
	name string
	when when
	// What a fill asks for.
	lease, counter, fences, floor bool
	claim                         claim
	// fence adds a transaction to a record's fences; nil for a scheme without.
	fence func(fences set, tx uint8) set
	// window refuses every fill for a while after an invalidation.
	window bool
	// carried fences stay with the value that was filled under them.
	carried bool
	// script confirms let a value be that contains the transaction, and fence a lease; otherwise everything goes.
	script bool
	// head compares what the store says was confirmed, and confirms it again after the store lost history.
	head bool
	want [columns]verdict
}

// when is the moment at which a key is invalidated.
type when uint8

const (
	byWriter   when = iota // by the writer, once its COMMIT has returned
	onDelivery             // by whoever reads the log, at once
	onVisible              // by the same, once the primary shows the transaction
	atBoth                 // fenced on delivery, confirmed when visible
)

// claim is what a load is believed to contain.
type claim uint8

const (
	bySnapshot  claim = iota // a primary's snapshot, or the position that a standby had before
	byHorizon                // what is older than everything that runs
	byPosition               // what ends before the position of the primary's log before the read
	byAnyServer              // a snapshot, also a standby's, which lists nothing as running
)

type verdict uint8

const (
	fine      verdict = iota
	stale             // a value lacks a change, and nothing will ever remove it
	watermark         // HEAD says that a change is confirmed, and a value lacks it
)

func (v verdict) String() string { return [...]string{"ok", "stale for ever", "watermark"}[v] }

// schemeColumn is what may go wrong besides the order of things.
type schemeColumn struct {
	name                string
	standbys            [3]bool // which reads are of a standby
	evictions, failover bool
}

const columns = 4

const schemeWriters = 2

type cell struct {
	live    bool
	value   set // what the value contains
	claim   set // what it is believed to contain
	lease   uint8
	counter uint8
	fences  set
	closed  bool // no fill is taken
}

type schemeStore struct {
	cell    cell
	history uint8
	floor   set   // HEAD: transactions whose confirm was announced
	wc      uint8 // HEAD: so many commits of the log are confirmed
}

type schemeRead struct {
	pc       uint8
	counter  uint8
	floor    set
	position uint8
	value    set
	claim    set
}

// The steps of a read, and of a confirm under HEAD.
const (
	readBegins uint8 = iota
	readHead
	readPosition
	readLoads
	readFills
	readOver
)

const (
	confirmIdle uint8 = iota
	confirmAnnounced
	confirmSent
)

type schemeState struct {
	log             [schemeWriters]uint8
	flushed         uint8
	visible         set
	replayed        uint8
	store, replica  schemeStore
	lagging, failed bool
	evicted         bool
	early           uint8 // so many commits were fenced on delivery
	done            set   // invalidated
	wc, history     uint8 // what the daemon believes of the store
	confirm, tx     uint8
	reads           [3]schemeRead
}

func (s *schemeState) upTo(position uint8) (all set) {
	for _, tx := range s.log[:position] {
		all |= 1 << tx
	}
	return all
}

type schemeExplorer struct {
	scheme
	schemeColumn
	reads  uint8
	naming bool // actions are wanted in words, which costs more than taking them
	yield  func(n schemeState, action string)
}

func (x *schemeExplorer) emit(n schemeState, format string, args ...any) {
	action := ""
	if x.naming {
		action = fmt.Sprintf(format, args...)
	}
	x.yield(n, action)
}

// steps yields what happens by itself; what is left when nothing does stays for ever.
func (x *schemeExplorer) steps(s schemeState) {
	for tx := range uint8(schemeWriters) {
		n := s
		switch {
		case !slices.Contains(s.log[:s.flushed], tx):
			n.log[n.flushed] = tx
			n.flushed++
			x.emit(n, "writer %d: commit record flushed, readers do not see it", tx+1)
		case !s.visible.has(tx):
			n.visible |= 1 << tx
			x.emit(n, "writer %d: becomes visible", tx+1)
		}
	}
	if s.replayed < s.flushed && x.standbys != [3]bool{} {
		n := s
		n.replayed++
		x.emit(n, "standby: replays up to %d", n.replayed)
	}
	x.invalidate(s)
	if n := s; s.store.cell.closed {
		n.store.cell.closed = false
		x.emit(n, "redis: the window ends")
	}
	for i := range x.reads {
		x.read(s, i)
	}
}

func (x *schemeExplorer) faults(s schemeState) {
	n := s
	if x.evictions && !s.evicted && s.store.cell != (cell{}) {
		n.evicted, n.store.cell = true, cell{}
		x.emit(n, "redis: evicts the key")
	}
	if n = s; x.failover && !s.lagging && !s.failed {
		n.lagging, n.replica = true, s.store
		x.emit(n, "redis: the replica stops here")
	}
	if n = s; s.lagging {
		n.store, n.replica, n.lagging, n.failed = s.replica, schemeStore{}, false, true
		n.store.history++
		x.emit(n, "redis: the replica is promoted")
	}
}

// invalidate is the step of whoever invalidates.
func (x *schemeExplorer) invalidate(s schemeState) {
	if x.when == onDelivery || x.when == atBoth {
		x.deliver(s)
	}
	if x.when == onDelivery {
		return
	}
	if x.head && s.confirm != confirmIdle {
		x.goOn(s)
		return
	}
	if x.head && (s.store.wc != s.wc || s.store.history != s.history) {
		x.rewind(s)
		return
	}
	for tx := range uint8(schemeWriters) {
		if s.done.has(tx) || !s.visible.has(tx) {
			continue
		}
		n := s
		if x.head {
			n.confirm, n.tx = confirmAnnounced, tx
			n.store.floor |= 1 << tx
			x.emit(n, "daemon: announces writer %d in HEAD", tx+1)
			continue
		}
		n.done |= 1 << tx
		n.store.cell = x.confirmed(s.store.cell, tx)
		x.emit(n, "%s invalidates for writer %d", [...]string{"writer:", "", "daemon:", "daemon:"}[x.when], tx+1)
	}
}

// deliver invalidates, or fences, what the log hands over next.
func (x *schemeExplorer) deliver(s schemeState) {
	n := s
	if x.head && x.when == onDelivery && (s.store.wc != s.wc || s.store.history != s.history) {
		x.rewind(s)
		return
	}
	if s.early == s.flushed {
		return
	}
	tx := s.log[s.early]
	n.early++
	if n.store.cell = x.delivered(s.store.cell, tx); x.when == onDelivery && x.head {
		n.wc, n.store.wc = n.early, n.early
	}
	x.emit(n, "daemon: is handed writer %d, and invalidates", tx+1)
}

// goOn is the second and the third step of a confirm under HEAD.
func (x *schemeExplorer) goOn(s schemeState) {
	n := s
	if s.confirm == confirmAnnounced {
		n.confirm = confirmSent
		n.store.cell = x.confirmed(s.store.cell, s.tx)
		x.emit(n, "daemon: confirms writer %d", s.tx+1)
		return
	}
	n.confirm, n.done = confirmIdle, s.done|1<<s.tx
	if s.store.wc != s.wc || s.store.history != s.history {
		x.rewind(n)
		return
	}
	for n.wc < s.flushed && n.done.has(s.log[n.wc]) {
		n.wc++
	}
	n.store.wc = n.wc
	x.emit(n, "daemon: advances HEAD to %d", n.wc)
}

// rewind takes the log up again where the store's own HEAD is.
func (x *schemeExplorer) rewind(n schemeState) {
	n.wc, n.history = n.store.wc, n.store.history
	n.done, n.early = n.upTo(n.wc), n.wc
	x.emit(n, "daemon: HEAD is not as expected, everything after %d is done again", n.wc)
}

// delivered is a record after a transaction was delivered.
func (x *schemeExplorer) delivered(c cell, tx uint8) cell {
	if x.fence == nil {
		return cell{counter: x.counted(c)}
	}
	if !c.claim.has(tx) {
		c.live, c.value, c.claim = false, 0, 0
	}
	c.fences = x.fence(c.fences, tx)
	return c
}

// confirmed is a record after a transaction that is visible was invalidated.
func (x *schemeExplorer) confirmed(c cell, tx uint8) cell {
	if !x.script {
		return cell{counter: x.counted(c), closed: x.window}
	}
	if !c.claim.has(tx) {
		c.live, c.value, c.claim = false, 0, 0
	}
	if c.lease != 0 {
		c.fences |= 1 << tx
	} else {
		c.fences &^= 1 << tx
	}
	return c
}

func (x *schemeExplorer) counted(c cell) uint8 {
	if !x.counter {
		return 0
	}
	return c.counter + 1
}

func (x *schemeExplorer) read(s schemeState, i uint8) {
	n := s
	r := &n.reads[i]
	say := func(format string, args ...any) { x.emit(n, "reader %d: "+format, append([]any{i + 1}, args...)...) }
	standby := x.standbys[i]
	// A position has to be read before the row, by those that believe in one.
	load := readLoads
	if x.claim == byPosition || standby && x.claim != byAnyServer {
		load = readPosition
	}
	switch r.pc {
	case readBegins:
		c := &n.store.cell
		if c.live || x.lease && c.lease != 0 {
			*r = schemeRead{pc: readOver}
			say("a hit, or another's lease")
			return
		}
		r.counter = c.counter
		if x.lease {
			c.lease = i + 1
		}
		if r.pc = load; x.floor {
			r.pc = readHead
		}
		say("a miss")
	case readHead:
		r.pc, r.floor = load, s.store.floor
		say("HEAD's floor is %02b", r.floor)
	case readPosition:
		r.pc, r.position = readLoads, s.flushed
		if standby {
			r.position = s.replayed
		}
		say("the server is at %d", r.position)
	case readLoads:
		r.pc = readFills
		r.value = s.visible
		if standby {
			r.value = s.upTo(s.replayed)
		}
		r.claim = x.claimed(&s, r, standby)
		say("loads what contains %02b, taken for %02b", r.value, r.claim)
	case readFills:
		filled := x.fills(s.store.cell, r, i)
		if filled {
			c := cell{live: true, value: r.value, claim: r.claim, counter: s.store.cell.counter}
			if x.carried {
				c.fences = s.store.cell.fences
			}
			n.store.cell = c
		} else if s.store.cell.lease == i+1 {
			n.store.cell.lease = 0
		}
		value := r.value
		*r = schemeRead{pc: readOver}
		say("fills with what contains %02b: %v", value, filled)
	}
}

// claimed is what the load is believed to contain.
func (x *schemeExplorer) claimed(s *schemeState, r *schemeRead, standby bool) set {
	switch {
	case x.claim == byAnyServer && standby:
		all := r.value
		for tx := range uint8(schemeWriters) { // everything below the highest that was replayed
			if r.value>>tx != 0 {
				all |= 1 << tx
			}
		}
		return all
	case x.claim == byPosition, standby:
		return s.upTo(r.position)
	case x.claim == byHorizon:
		older := set(0)
		for tx := range uint8(schemeWriters) {
			if !r.value.has(tx) {
				break
			}
			older |= 1 << tx
		}
		return older
	}
	return r.value
}

// fills reports whether the store takes a load.
func (x *schemeExplorer) fills(c cell, r *schemeRead, i uint8) bool {
	switch {
	case c.closed,
		x.lease && c.lease != i+1,
		x.counter && c.counter != r.counter,
		x.fences && c.fences&^r.claim != 0,
		x.fences && c.live && c.claim&^r.claim != 0,
		x.floor && r.floor&^r.claim != 0:
		return false
	}
	return true
}

// judge holds a state against what is asked of every scheme; over says that nothing more happens by itself.
func (x *schemeExplorer) judge(s *schemeState, over bool) verdict {
	c := &s.store.cell
	switch {
	case x.head && c.live && s.upTo(s.store.wc)&^c.value != 0:
		return watermark
	case over && c.live && s.visible&^c.value != 0:
		return stale
	}
	return fine
}
