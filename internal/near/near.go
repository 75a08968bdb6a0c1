// Package near holds records in the memory of the process that reads them, each for as long as the connection that it was
// read on would tell that it has changed. It knows nothing of Redis: whoever reads says what it expects to hold (Expect), and
// whoever hears from the server says what is over (Invalidate, Drop).
package near

import (
	"iter"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/maypok86/otter/v2"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
)

// started is when the process was, or little later.
var started = time.Now() //nolint:gochecknoglobals // never changed

// Now is the time since then, by a clock that goes on while the process is stopped, and stands still while the machine is suspended.
func Now() time.Duration { return time.Since(started) }

// overhead is what a record costs beside its bytes: the entry of the table, Held itself, a decoded value's header, and whatever else it is
// found by.
const overhead = 448

// tieOverhead is what one tie of a record costs, when no other record shares it.
const tieOverhead = 160

// Value is a live record as it was read.
type Value struct {
	Name string
	Text []byte
	// Found says whether there is such a row, and Payload is its bytes, in Text.
	Found   bool
	Payload []byte
}

// Held is a record that is held. It is shared and not changed, but for what Decode keeps.
type Held struct {
	Value

	wire    *store.Wire
	ties    []*tie
	until   time.Duration // by Now; a backstop
	dead    atomic.Bool
	decoded atomic.Pointer[any]
	found   atomic.Pointer[ending]
}

// ending is one of those who want to know when a record ends.
type ending struct {
	id   any
	do   func()
	next *ending
}

// mostEndings is how many may want to know that of one record.
const mostEndings = 8

// OnEnd has do called once when the record ends, so that nobody holds on to what counts no more: at once, if it has ended. do must be
// quick, and not use the Store. Who has asked already is not asked for again; it is false when there are too many.
func (h *Held) OnEnd(id any, do func()) bool {
	own := &ending{id: id, do: do}
	for {
		own.next = h.found.Load()
		n := 0
		for e := own.next; e != nil; e = e.next {
			if e.id == id {
				return true
			}
			n++
		}
		if n == mostEndings {
			return false
		}
		if h.found.CompareAndSwap(own.next, own) {
			break
		}
	}
	if h.dead.Load() {
		h.ended()
	}
	return true
}

// ended tells those who want to know.
func (h *Held) ended() {
	for e := h.found.Swap(nil); e != nil; e = e.next {
		e.do()
	}
}

// tie is an epoch that records are tied to. It is over for good when it is pushed; a later one of its name is another tie.
type tie struct {
	name string
	wire *store.Wire
	over atomic.Bool
	uses int
}

// Wire is the connection that the record was read on.
func (h *Held) Wire() *store.Wire { return h.wire }

// Alive reports whether nothing was heard that ends it. It says nothing of when it could last have been heard: that is
// for the reader to judge, who must do so first.
func (h *Held) Alive() bool {
	if h.dead.Load() || h.wire.Lost() {
		return false
	}
	for _, t := range h.ties {
		if t.over.Load() {
			return false
		}
	}
	return true
}

// Over reports whether the record's time is over at now, a time of Now.
func (h *Held) Over(now time.Duration) bool { return now >= h.until }

// Record is all that the record says.
func (h *Held) Record() (fence.Record, error) { return fence.ParseRecord(h.Text) }

// Decoded is what somebody has made of the payload, nil when nobody has. It is a pointer that many share.
func (h *Held) Decoded() any {
	if d := h.decoded.Load(); d != nil {
		return *d
	}
	return nil
}

// Decode keeps what was made of the payload, unless somebody was quicker.
func (h *Held) Decode(value any) { h.decoded.CompareAndSwap(nil, &value) }

// Store holds records up to a number of bytes.
type Store struct {
	cache  *otter.Cache[string, *Held]
	counts counts

	// mu orders what is put in against what is over. It is never held across I/O, and not taken by a hit.
	mu       sync.Mutex
	expected map[string]*expectation
	ties     map[string]*tie

	closed   bool           // under mu
	dropping sync.WaitGroup // of what was read on connections that are lost

	freeing sync.Mutex // under mu, or alone
	freed   []*Held    // with ties that are to be let go
}

// counts are of the Store's own doing.
type counts struct {
	puts, refused, pushed, evicted, dropped atomic.Uint64
}

// Stats are counts since the Store was made, and what it holds now. It has no name of its own, so that what has it can become a type of another
// package.
type Stats = struct {
	Puts    uint64 `json:"puts"`    // records that were taken
	Refused uint64 `json:"refused"` // records that something was heard about while they were read
	Pushed  uint64 `json:"pushed"`  // records, and epochs that records are tied to, that the server has said were over
	Evicted uint64 `json:"evicted"` // records for which there was no room
	Dropped uint64 `json:"dropped"` // records that were dropped with their connection
	Bytes   uint64 `json:"bytes"`   // held, by an estimate that counts decoded values in
	Records uint64 `json:"records"` // held
}

// Events are what has become of records, by name. s may be nil.
func Events(s *Stats) map[string]uint64 {
	if s == nil {
		s = &Stats{}
	}
	return map[string]uint64{"put": s.Puts, "refused": s.Refused, "pushed": s.Pushed, "evicted": s.Evicted, "dropped": s.Dropped}
}

// New makes a Store of so many bytes.
func New(size uint64) *Store {
	s := &Store{expected: map[string]*expectation{}, ties: map[string]*tie{}}
	s.cache = otter.Must(&otter.Options[string, *Held]{
		MaximumWeight: size,
		Weigher: func(_ string, h *Held) uint32 {
			// Twice the bytes: what they are decoded to is as large, or will be.
			weight := overhead + 2*len(h.Name) + 2*cap(h.Text) + tieOverhead*len(h.ties)
			return uint32(min(weight, 1<<31))
		},
		OnAtomicDeletion: s.end,
		// No goroutines: what the cache does beside reading and writing is little, and whoever calls it does it.
		Executor: func(do func()) { do() },
	})
	return s
}

// end makes a record unusable that leaves the table, for whatever reason, for those who have it in hand: what is heard
// about it later would not find it. It is called under the table's own locks, and so takes no other
// but freeing, and those of whoever wanted to know (OnEnd), which come after these.
func (s *Store) end(e otter.DeletionEvent[string, *Held]) {
	e.Value.dead.Store(true)
	e.Value.ended()
	if e.WasEvicted() {
		s.counts.evicted.Add(1)
	}
	if len(e.Value.ties) > 0 {
		s.freeing.Lock()
		s.freed = append(s.freed, e.Value)
		s.freeing.Unlock()
	}
}

// Get finds what is held of a name, or nil.
func (s *Store) Get(name string) *Held {
	h, ok := s.cache.GetIfPresent(name)
	if !ok {
		return nil
	}
	if !h.Alive() || h.Over(Now()) {
		s.forget(h)
		return nil
	}
	return h
}

// GetBytes is Get of a name that is about to be overwritten.
func (s *Store) GetBytes(name []byte) *Held {
	if len(name) == 0 {
		return nil
	}
	return s.Get(unsafe.String(unsafe.SliceData(name), len(name))) //nolint:gosec // looked up, and not kept
}

// Touch notes that a record is used, for whoever has it in hand: otherwise it would be among the first for which there is no room.
func (s *Store) Touch(h *Held) { s.cache.GetIfPresent(h.Name) }

// forget takes a record out that is of no use, unless there is another of its name by now.
func (s *Store) forget(h *Held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now, ok := s.cache.GetEntryQuietly(h.Name); ok && now.Value == h {
		s.cache.Invalidate(h.Name)
	}
	s.release()
}

// Expectation is a record that is being read. It is over with Put or Cancel.
type Expectation struct {
	store *Store
	wire  *store.Wire
	parts []*expectation
	heard bool // something about one of the names, under mu
	wake  chan struct{}
}

// expectation is one name of an Expectation.
type expectation struct {
	of   *Expectation
	name string
	wire *store.Wire
	next *expectation // of the same name
}

// Expect is to be called before the record is asked for, with its name and those of all keys that are read with it, and with
// the connection that it will be asked for on.
func (s *Store) Expect(wire *store.Wire, names ...string) *Expectation {
	return s.expect(wire, names, func(int) *store.Wire { return wire })
}

// Listen is Expect of what is not to be put in, each name with the connection that it will be asked for on.
func (s *Store) Listen(wires []*store.Wire, names []string) *Expectation {
	return s.expect(nil, names, func(i int) *store.Wire { return wires[i] })
}

func (s *Store) expect(wire *store.Wire, names []string, on func(i int) *store.Wire) *Expectation {
	e := &Expectation{store: s, wire: wire, parts: make([]*expectation, len(names)), wake: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, name := range names {
		p := &expectation{of: e, name: name, wire: on(i), next: s.expected[name]}
		s.expected[name], e.parts[i] = p, p
	}
	return e
}

// hear takes note that something was heard. The caller holds mu.
func (e *Expectation) hear() {
	if !e.heard {
		e.heard = true
		close(e.wake)
	}
}

// Heard is closed when something is heard about one of the names.
func (e *Expectation) Heard() <-chan struct{} { return e.wake }

// Cancel ends it: nothing is to be held. It may be called after Put, and more than once.
func (e *Expectation) Cancel() {
	e.store.mu.Lock()
	defer e.store.mu.Unlock()
	e.over()
}

// over is Cancel for who holds mu.
func (e *Expectation) over() {
	for _, p := range e.parts {
		first := e.store.expected[p.name]
		if first == p {
			if p.next == nil {
				delete(e.store.expected, p.name)
			} else {
				e.store.expected[p.name] = p.next
			}
			continue
		}
		for at := first; at != nil; at = at.next {
			if at.next == p {
				at.next = p.next
				break
			}
		}
	}
	e.parts = nil
}

// Put holds the record that was read, for so long at most, and ends the Expectation. It returns nil, and holds nothing, if
// anything was heard about it, or about an epoch that it is tied to, since Expect, if its connection is lost, or if the Expectation is over. Each of
// the epochs must be one of the names that were given to Expect: otherwise nothing would be heard about it.
func (e *Expectation) Put(v Value, epochs []string, longest time.Duration) *Held {
	s := e.store
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.release()
	defer e.over()
	if longest <= 0 { // nothing was heard: it is old
		return nil
	}
	if e.parts == nil || e.heard || e.wire.Lost() {
		s.counts.refused.Add(1)
		return nil
	}
	held := &Held{Value: v, wire: e.wire, until: Now() + longest}
	if len(epochs) > 0 {
		held.ties = make([]*tie, len(epochs))
	}
	for i, name := range epochs {
		t := s.ties[name]
		if t == nil || t.wire != e.wire || t.over.Load() {
			t = &tie{name: name, wire: e.wire}
			s.ties[name] = t
		}
		t.uses++
		held.ties[i] = t
	}
	s.counts.puts.Add(1)
	s.cache.Set(held.Name, held)
	return held
}

// release lets go of ties that no record has any more. The caller holds mu.
func (s *Store) release() {
	s.freeing.Lock()
	freed := s.freed
	s.freed = nil
	s.freeing.Unlock()
	for _, h := range freed {
		for _, t := range h.ties {
			t.uses--
			if t.uses == 0 && s.ties[t.name] == t {
				delete(s.ties, t.name)
			}
		}
	}
}

// Invalidate ends what is held of a name, or is tied to it, and what is being read of it.
func (s *Store) Invalidate(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for at := s.expected[name]; at != nil; at = at.next {
		at.of.hear()
	}
	if t := s.ties[name]; t != nil {
		t.over.Store(true)
		delete(s.ties, name)
		s.counts.pushed.Add(1)
	}
	if _, ok := s.cache.Invalidate(name); ok {
		s.counts.pushed.Add(1)
	}
	s.release()
}

// Drop ends everything that was read on a connection, and all that is being read on it. The connection is lost already.
func (s *Store) Drop(wire *store.Wire) {
	s.endTied(wire)
	// No reader takes what is left (Alive), whose memory is all that this is about. It may be much, and who calls reads a connection that
	// others wait for: nobody waits for this. What was put meanwhile under a name, on another connection, is dropped with the name.
	drop := func() {
		for name := range of(s.cache.All(), wire) {
			s.cache.Invalidate(name)
			s.counts.dropped.Add(1)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.release()
	}
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.dropping.Go(drop)
	}
	s.mu.Unlock()
	if closed { // a connection may notice that it has ended when Close waits already
		drop()
	}
}

// Close waits until what connections that are lost have left behind is gone.
func (s *Store) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.dropping.Wait()
}

// endTied ends what is being read on a connection, and the epochs that were.
func (s *Store) endTied(wire *store.Wire) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, first := range s.expected {
		for at := first; at != nil; at = at.next {
			if at.wire == wire {
				at.of.hear()
			}
		}
	}
	for name, t := range s.ties {
		if t.wire == wire {
			t.over.Store(true)
			delete(s.ties, name)
		}
	}
}

// of are the names of what was read on a connection.
func of(all iter.Seq2[string, *Held], wire *store.Wire) iter.Seq[string] {
	return func(yield func(string) bool) {
		for name, h := range all {
			if h.wire == wire && !yield(name) {
				return
			}
		}
	}
}

// Stats returns the counts.
func (s *Store) Stats() Stats {
	c := &s.counts
	return Stats{
		Puts: c.puts.Load(), Refused: c.refused.Load(), Pushed: c.pushed.Load(), Evicted: c.evicted.Load(), Dropped: c.dropped.Load(),
		Bytes: s.cache.WeightedSize(), Records: uint64(max(s.cache.EstimatedSize(), 0)),
	}
}
