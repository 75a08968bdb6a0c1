package fill

import (
	"context"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/near"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/store"
)

const (
	// glimpse is for how long a hit in memory takes it, by near.Ticks, that a confirmation is fresh which a clock has shown to be that then:
	// to ask the clock costs more than all the rest of a hit. Ticks are at least so many in that time.
	glimpse = 100 * time.Microsecond
	// stripes of the counter of hits in memory, which are more than one counter can take.
	stripes = 64
	// touchOneOf hits that were found without the store of what is held tells it of its use.
	touchOneOf = 128
)

// Tells is a Store that says, of what was read on a connection, when it changes. One that is in this process's memory does not: nothing is
// gained by holding its records twice.
type Tells interface {
	// Wire is the connection on which a lane's records are read now, set when it is lost, and nil when nothing is to be held of them.
	Wire(lane int) *store.Wire
	// HeadOn reads what HEAD vouches for, and says on which Wire: what was said of records before has been heard when it returns.
	HeadOn(ctx context.Context, lane int) (head fence.Head, found bool, wire *store.Wire, err error)
}

type striped [stripes]struct {
	n atomic.Uint64
	_ [56]byte // a cache line each
}

// add counts one, where the goroutine's stack is: to count where another processor has just counted costs more than all the rest of a hit.
func (s *striped) add() {
	var here byte
	//nolint:gosec // the address is a number here; stacks are of two kilobytes at least
	s[uint64(uintptr(unsafe.Pointer(&here))>>11)*0x9E3779B97F4A7C15>>32%stripes].n.Add(1)
}

// draw spreads what is read one after the other.
func draw(ticks uint64) uint32 { return uint32(ticks * 0x9E3779B97F4A7C15 >> 32) }

func (s *striped) load() (n uint64) {
	for i := range s {
		n += s[i].n.Load()
	}
	return n
}

// holding is a record that is being read, to be held in memory if nothing is heard of it meanwhile. A nil one is not to be held.
type holding struct {
	r    *Reader
	e    *declared
	lane int
	wire *store.Wire
	x    *near.Expectation
}

// expect is called before a record is asked for, with its name and those of the epochs that are asked for with it.
func (r *Reader) expect(e *declared, name string, epochs ...string) *holding {
	if r.near == nil || e == nil || !e.Near {
		return nil
	}
	lane := r.laneOf(name)
	wire := r.tells.Wire(lane)
	if wire == nil {
		return nil
	}
	return &holding{r: r, e: e, lane: lane, wire: wire, x: r.near.Expect(wire, append(slices.Clip(epochs), name)...)}
}

// cancel ends the expectation, unless the record is held.
func (h *holding) cancel() {
	if h != nil {
		h.x.Cancel()
	}
}

// keep holds a live record that was read since expect. Its epochs held at that moment.
func (h *holding) keep(name string, text []byte, record *fence.Record, epochs []string) *near.Held {
	if h == nil {
		return nil
	}
	if h.r.tells.Wire(h.lane) != h.wire {
		h.x.Cancel() // it may have come over another connection
		return nil
	}
	ttl := h.e.TTL
	if record.State == fence.Negative {
		ttl = h.e.NegativeTTL
	}
	if h.e.Eager > 0 { // from then on reads of it have it refreshed (due)
		ttl = time.Duration(float64(ttl) * (1 - h.e.Jitter) * (1 - h.e.Eager))
	}
	// The store ends it, and says so. This is for when it takes its time, and only as exact as is known of its clock.
	age := min(max(time.Duration(h.r.skew.now()-record.Filled)*time.Microsecond, 0), ttl)
	return h.x.Put(near.Value{Name: name, Text: text, Found: record.State == fence.Live, Payload: record.Payload}, epochs, ttl-age)
}

// keepPlain is keep of a record that is a hit, and has no epochs.
func (h *holding) keepPlain(name string, text []byte) *near.Held {
	if h == nil {
		return nil
	}
	record, err := fence.ParseRecord(text)
	if err != nil {
		h.x.Cancel()
		return nil
	}
	return h.keep(name, text, &record, nil)
}

// wiresOf are the connections by which HEADs were confirmed.
func wiresOf(heads []store.LaneHead) []*store.Wire {
	wires := make([]*store.Wire, len(heads))
	for lane := range heads {
		wires[lane] = heads[lane].Wire
	}
	return wires
}

// glance is when a clock last showed a confirmation to be fresh for a glimpse at least.
type glance struct {
	ticks atomic.Uint64
	clock atomic.Int64 // of near.Now
}

// newGlance is one of which nothing is known yet.
func newGlance() *glance {
	g := &glance{}
	g.ticks.Store(near.Ticks() - uint64(glimpse))
	return g
}

// fresh reports whether a confirmation is within T_r at ticks, which were read by this very read (R0).
func (r *Reader) fresh(c *confirmation, ticks uint64) bool {
	// A counter that began anew is far behind, which as a difference is far ahead.
	return ticks-c.seen.ticks.Load() < uint64(glimpse) || r.freshByClock(c, ticks)
}

func (r *Reader) freshByClock(c *confirmation, ticks uint64) bool {
	now := store.Awake()
	age := now - c.sent
	if age >= refreshAfter {
		r.refresh()
	}
	if age >= trust {
		return false
	}
	c.seen.clock.Store(int64(near.Now()))
	if age < trust-glimpse && r.gauge.Holds(ticks, now) {
		c.seen.ticks.Store(ticks)
	}
	return true
}

// over reports whether the time of what is held is over, as far as is known without asking a clock.
func (c *confirmation) over(h *near.Held) bool { return h.Over(time.Duration(c.seen.clock.Load())) }

// upholds reports whether a record that is held is a hit under names that are confirmed: what is held is as the server had it when the
// confirmation was asked for, or later, since what the server had said by then was heard before its answer. So the confirmation comes
// first, and what was heard after it.
func (r *Reader) upholds(c *confirmation, h *near.Held, lane int) bool {
	now := r.confirmed.Load()
	if len(now.wires) <= lane || now.wires[lane] == nil || now.wires[lane] != h.Wire() || !c.same(now) || !now.agreesOn(c, lane) {
		return false
	}
	return r.fresh(now, near.Ticks()) && !now.over(h) && h.Alive()
}

// ground is the same for confirmations that agree in their names, in those of every lane, and in their wires.
type ground struct{ _ byte }

// settle gives a confirmation its ground: that of the one before, if that is the same.
func (c *confirmation) settle(before *confirmation) {
	switch {
	case c.names == nil || c.wires == nil:
		c.ground = nil
	case before != nil && before.names == c.names && slices.Equal(before.wires, c.wires) && c.agreesOnAll(before):
		c.ground = before.ground
	default:
		c.ground = &ground{}
	}
}

func (c *confirmation) agreesOnAll(d *confirmation) bool {
	if c.parts == nil || d.parts == nil {
		return c.parts == d.parts
	}
	return c.parts.prefixes == d.parts.prefixes
}

// agreesOn reports whether a lane's names are the same in two confirmations of one roster.
func (c *confirmation) agreesOn(d *confirmation, lane int) bool {
	if c.parts == nil || d.parts == nil {
		return c.parts == d.parts
	}
	return c.parts.prefixes[lane] == d.parts.prefixes[lane]
}

// recall finds a record in memory that is a hit for a read without a demand.
func (r *Reader) recall(c *confirmation, e *declared, name []byte, lane int) (Value, bool) {
	if r.near == nil || !e.Near {
		return Value{}, false
	}
	h := r.near.GetBytes(name)
	if h == nil || !r.upholds(c, h, lane) {
		return Value{}, false
	}
	r.counted(h)
	return c.value(h, lane), true
}

// value is what is held, as a hit.
func (c *confirmation) value(h *near.Held, lane int) Value {
	return Value{Found: h.Found, Payload: h.Payload, Status: Hit, Name: h.Name, record: h.Text, held: h, under: c, lane: lane}
}

// Memory is a hit that is held in memory, to be had again without its name.
type Memory struct {
	held   *near.Held
	ground *ground
}

// Memory is what a value can be had by again, if it is held.
func (v *Value) Memory() (m Memory, ok bool) {
	if v.held == nil || v.under == nil || v.under.ground == nil || v.under.wires[v.lane] != v.held.Wire() {
		return Memory{}, false
	}
	return Memory{held: v.held, ground: v.under.ground}, true
}

// Alive reports whether it is not known to be over.
func (m *Memory) Alive() bool { return m.held.Alive() }

// Same reports whether both are of one record as it was read once.
func (m *Memory) Same(other *Memory) bool { return m.held == other.held }

// Held is what a value is held as; nil when it is not.
func (v *Value) Held() *near.Held { return v.held }

// Again reports whether a hit would be one now, for a read without a demand that begins with this call, and counts it as one if so: it is
// upholds, of a value of whose ground it need only be known that it is the same.
func (r *Reader) Again(m *Memory) bool {
	now := r.confirmed.Load()
	if now == nil || now.ground != m.ground {
		return false
	}
	ticks := near.Ticks()
	if !r.fresh(now, ticks) || now.over(m.held) || !m.held.Alive() {
		return false
	}
	r.stats.near.add()
	if draw(ticks)%touchOneOf == 0 {
		r.near.Touch(m.held)
	}
	return true
}

// consult judges what is held by a read's need. What a record covers itself proves what it proves, wherever it is held. Otherwise HEAD is
// asked, on the connection that the record was read on: what HEAD vouches for was heard of before its answer, so a record that is held still
// is one that HEAD speaks of. seen is nil when nothing is held, and found then says nothing.
func (r *Reader) consult(ctx context.Context, c *confirmation, n *need, e *declared, name string, lane int) (
	head fence.Head, found bool, seen *peeked, err error,
) {
	if r.near == nil || !e.Near {
		return fence.Head{}, false, nil, nil
	}
	h := r.near.Get(name)
	if h == nil || !r.upholds(c, h, lane) {
		return fence.Head{}, false, nil, nil
	}
	record, err := h.Record()
	if err != nil {
		return fence.Head{}, false, nil, nil //nolint:nilerr // as if it were not held
	}
	own := c.names.head
	if !record.Coverage.Standby() && r.vouched(n, lane, &own, record.Coverage) && r.upholds(c, h, lane) {
		return own, true, &peeked{text: h.Text, record: record, hit: true, held: h, proved: true}, nil
	}
	head, found, wire, err := r.tells.HeadOn(ctx, lane)
	if err != nil || wire == nil || wire != h.Wire() || !h.Alive() {
		return fence.Head{}, false, nil, err
	}
	return head, found, &peeked{text: h.Text, record: record, hit: true, held: h}, nil
}

// counted counts a hit, by where it was found.
func (r *Reader) counted(h *near.Held) {
	if h != nil {
		r.stats.near.add()
		return
	}
	r.stats.hits.Add(1)
}

// headOf is what is known of HEAD without asking it again: whose it is.
func headOf(h *fence.Head) fence.Head {
	return fence.Head{Generation: h.Generation, Revision: h.Revision, System: h.System, Timeline: h.Timeline}
}

// dropOwn drops what this process holds of a key that it has changed itself, before it hears of that.
func (r *Reader) dropOwn(name string) {
	if r.near != nil {
		r.near.Invalidate(name)
	}
}

// recallMany ends the items that are hits in memory, and returns the others. Under a demand these are the ones that show by themselves what
// is asked for: the others are asked for together with HEAD anyway.
func (b *batch) recallMany(items []*item) (rest []*item) {
	if b.near == nil || !b.e.Near {
		return items
	}
	for _, it := range items {
		h := b.near.Get(it.w.name)
		if h == nil || !b.showsAlone(it, h) || !b.upholds(b.c, h, it.lane) {
			rest = append(rest, it)
			continue
		}
		b.counted(h)
		v := b.c.value(h, it.lane)
		if b.n != nil {
			record, _ := h.Record() // which showsAlone has read
			v.coverage, v.server = record.Coverage, pgload.Server{System: b.c.names.head.System, Timeline: b.c.names.head.Timeline}
		}
		b.settle(it, v, nil)
	}
	return rest
}

// showsAlone reports whether what is held meets the need by what it covers itself.
func (b *batch) showsAlone(it *item, h *near.Held) bool {
	if b.n == nil {
		return true
	}
	record, err := h.Record()
	own := b.c.names.head
	return err == nil && !record.Coverage.Standby() && b.vouched(b.n, it.lane, &own, record.Coverage)
}

// expectMany is expect for what is asked for of items. forget ends it for those that are not held by then.
func (b *batch) expectMany(items []*item, all []store.Reading) (forget func()) {
	if b.near == nil || !b.e.Near {
		return func() {}
	}
	for i, it := range items {
		it.holding = b.expect(b.e, it.w.name, all[i].Epochs...)
	}
	return func() {
		for _, it := range items {
			it.holding.cancel()
			it.holding = nil
		}
	}
}

// keep holds what was read of an item, if it was read to be held.
func (it *item) keep(p *peeked) *near.Held {
	if it.holding == nil {
		return nil
	}
	if p.record.Filled == 0 { // only its payload was looked for
		return it.holding.keepPlain(it.w.name, p.text)
	}
	epochs := make([]string, len(p.record.Epochs))
	for i := range epochs {
		epochs[i] = it.w.at.base + p.record.Epochs[i].Name
	}
	return it.holding.keep(it.w.name, p.text, &p.record, epochs)
}
