package trail

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/route"
	"github.com/freshet/freshet/mvcc"
)

// Kind is what an Event is.
type Kind string

// The kinds of Events.
const (
	Invalidated Kind = "invalidated" // a transaction affects the key
	EpochEnded  Kind = "epoch_ended" // a transaction affects all keys that are tied to something that this one was tied to
	LookedUp    Kind = "looked_up"   // the database was asked which keys a row affects, and this one was among them
	Everything  Kind = "everything"  // a transaction affects every key of the entry
	Renamed     Kind = "renamed"     // the entry has another name in the store, or none
	Generation  Kind = "generation"  // nothing that was cached before is read any more
)

// Event is one thing that happened to a key.
type Event struct {
	At        time.Time // when the daemon read it from the log, or did it
	Kind      Kind
	XID       mvcc.XID  // 0: it is no transaction's, or not of one that is known
	LSN       mvcc.LSN  // where its commit ends
	Committed time.Time // by the writer's clock
	Applied   time.Time // when it was, at the latest; zero: it is not, as far as is remembered
	Version   string    // of the entry's plan
	Table     string
	Op        string  // INSERT, UPDATE or DELETE; empty where it is not one row that did it
	Row       []Field // what names it
	Image     string  // the row as it was (old), as it is (new), or either (both)
	Rule      int     // of the entry, from 1; 0: none
	Class     string
	Epoch     string
	Why       string // in words
}

// Field is a column of a row. Value is nil for NULL.
type Field struct {
	Column string
	Value  *string
}

// Query says what to read.
type Query struct {
	Entry  string
	Key    string   // the key's text
	Epochs []string // what values of it were tied to, from the tilde on
	Most   int      // events, the last ones; 0: DefaultMost
}

// DefaultMost is how many events are read where nothing else is said.
const DefaultMost = 1000

// mostLookUps bounds the rows by which keys were looked up that a reading keeps.
const mostLookUps = 10_000

// Read returns what is remembered of a key, the oldest first, and since when nothing was missed: the zero time where no log was followed yet.
// more says that there are more events than were asked for. It takes its turn among those who read, and gives up with ctx.
func (l *Log) Read(ctx context.Context, q Query) (events []Event, since time.Time, more bool, err error) {
	if ctx.Err() != nil {
		return nil, time.Time{}, false, fmt.Errorf("read what the log did: %w", ctx.Err())
	}
	select {
	case l.readers <- struct{}{}:
		defer func() { <-l.readers }()
	case <-ctx.Done():
		return nil, time.Time{}, false, fmt.Errorf("read what the log did: %w", ctx.Err())
	}
	if q.Most <= 0 {
		q.Most = DefaultMost
	}
	r := reading{query: q, plans: map[uint32]plan{}, waiting: map[mvcc.XID][]int{}, seen: map[likeness]int{}, lookUps: map[lookUp][]Event{}, looked: map[likeness]int{}}
	l.mu.Lock()
	since = l.began
	texts := make([][]byte, len(l.segments))
	for i, s := range l.segments {
		texts[i] = s.text
	}
	for i := range l.plans {
		if l.plans[i].name == q.Entry {
			r.plans[uint32(i)] = l.plans[i]
		}
	}
	r.tables = slices.Clip(l.tables)
	l.mu.Unlock()
	for _, text := range texts {
		if ctx.Err() != nil {
			return nil, time.Time{}, false, fmt.Errorf("read what the log did: %w", ctx.Err())
		}
		r.segment(text)
	}
	if len(r.events) > q.Most {
		return r.events[len(r.events)-q.Most:], since, true, nil
	}
	return r.events, since, r.first > 0, nil
}

// reading goes through segments, from the oldest on. Events are known by how many were before them, since the first ones are dropped when there
// are too many.
type reading struct {
	query   Query
	plans   map[uint32]plan
	tables  []tableShape
	events  []Event
	first   int                // how many were dropped
	waiting map[mvcc.XID][]int // events of transactions that are not applied yet
	seen    map[likeness]int   // the same
	lookUps map[lookUp][]Event // rows by which keys of the entry were looked up, in the order of the log
	looked  map[likeness]int   // their places
	gaveUp  bool               // there were too many of them, and the first ones are not kept
	oldest  mvcc.LSN           // where the first transaction ends that is remembered; others may have been before
	last    func() *Event      // what was held last, where it is among those
	at      begun
	rest    []byte
}

// likeness is what events have in common that are one.
type likeness struct {
	xid                           mvcc.XID
	kind                          Kind
	rule                          int
	table, op, class, epoch, what string
}

type lookUp struct {
	version string
	rule    int
}

func (r *reading) number() uint64 {
	n, size := binary.Uvarint(r.rest)
	r.rest = r.rest[max(size, 0):]
	return n
}

func (r *reading) signed() int64 {
	n, size := binary.Varint(r.rest)
	r.rest = r.rest[max(size, 0):]
	return n
}

func (r *reading) moment() time.Time { return time.UnixMicro(r.signed()) }

func (r *reading) byte() byte {
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *reading) text() []byte {
	n := r.number()
	text := r.rest[:n]
	r.rest = r.rest[n:]
	return text
}

func (r *reading) segment(text []byte) {
	r.rest, r.last = text, nil // an event that is forgotten may have been before
	for len(r.rest) > 0 {
		switch r.byte() {
		case aTransaction:
			r.at.xid, r.at.end = mvcc.XID(r.number()), mvcc.LSN(r.number())
			r.at.committed, r.at.at = r.signed(), r.signed()
			if r.oldest == 0 {
				r.oldest = r.at.end
			}
		case aHeld:
			r.held()
		case aSame:
			if r.last == nil {
				continue
			}
			if e := r.last(); e != nil {
				e.Image = "both"
				e.Why = e.words()
			}
		case aMove:
			p, ours := r.plan()
			why := string(r.text())
			e := r.event(Everything, &p)
			r.row(&e, &p, true)
			if e.Why = "every key of the entry may be affected: " + why; ours {
				r.add(e)
			}
		case aFind:
			r.find()
		case anApplied:
			r.applied(mvcc.XID(r.number()), r.moment())
		case aSession:
			applied, at := mvcc.LSN(r.number()), r.moment()
			for xid, all := range r.waiting {
				if e := r.numbered(all[len(all)-1]); e == nil || e.LSN <= applied {
					r.applied(xid, at)
				}
			}
		case aName:
			p, ours := r.plan()
			at, why := r.moment(), string(r.text())
			if ours {
				r.append(Event{At: at, Kind: Renamed, Version: p.version, Why: why})
			}
		case aGeneration:
			at, why := r.moment(), string(r.text())
			r.append(Event{At: at, Kind: Generation, Why: "a new generation began, with nothing cached: " + why})
		default:
			panic("trail: a segment is not as it was written")
		}
	}
}

// numbered is one by how many were before it; nil when it was dropped.
func (r *reading) numbered(number int) *Event {
	if number < r.first {
		return nil
	}
	return &r.events[number-r.first]
}

// append adds an event. Of too many the older half goes.
func (r *reading) append(e Event) (number int) {
	if len(r.events) >= 2*r.query.Most {
		drop := len(r.events) - r.query.Most
		r.first += drop
		r.events = slices.Clone(r.events[drop:])
		for xid, all := range r.waiting {
			if all[len(all)-1] < r.first {
				delete(r.waiting, xid)
			}
		}
		for what, number := range r.seen {
			if number < r.first {
				delete(r.seen, what)
			}
		}
	}
	r.events = append(r.events, e)
	return r.first + len(r.events) - 1
}

// applied says when a transaction was.
func (r *reading) applied(xid mvcc.XID, at time.Time) {
	for _, number := range r.waiting[xid] {
		if e := r.numbered(number); e != nil {
			e.Applied = at
		}
	}
	delete(r.waiting, xid)
}

func (r *reading) plan() (plan, bool) {
	p, ours := r.plans[uint32(r.number())] //nolint:gosec // written from one
	return p, ours
}

// event is one of the transaction at hand.
func (r *reading) event(kind Kind, p *plan) Event {
	return Event{
		At: time.UnixMicro(r.at.at), Kind: kind, XID: r.at.xid, LSN: r.at.end, Committed: time.UnixMicro(r.at.committed), Version: p.version,
	}
}

// add takes an event of a transaction, unless it has one like it: the log was read again before the transaction was applied, or several
// versions of the entry have the key. What did it by the row's other image is the same.
func (r *reading) add(e Event) (number int) {
	like := likeness{xid: e.XID, kind: e.Kind, rule: e.Rule, table: e.Table, op: e.Op, class: e.Class, epoch: e.Epoch, what: named(e.Row)}
	if e.Op == "" {
		like.what = e.Why
	}
	if number, seen := r.seen[like]; seen && number >= r.first && r.events[number-r.first].Applied.IsZero() {
		if known := r.numbered(number); known.Image != e.Image && known.Kind != LookedUp {
			known.Image = "both"
			known.Why = known.words()
		}
		return number
	}
	number = r.append(e)
	r.seen[like] = number
	r.waiting[e.XID] = append(r.waiting[e.XID], number)
	return number
}

// held reads what a row, or a transaction's own word, invalidates.
func (r *reading) held() {
	what := route.Kind(r.byte())
	p, ours := r.plan()
	text := r.text()
	e := r.event(Invalidated, &p)
	switch what {
	case route.AnEpoch:
		e.Kind, e.Epoch = EpochEnded, string(text)
		ours = ours && slices.Contains(r.query.Epochs, e.Epoch)
	case route.ALookUp:
		e.Kind = LookedUp
	default:
		ours = ours && string(text) == r.query.Key
	}
	r.row(&e, &p, ours)
	r.last = nil
	if !ours {
		return
	}
	e.Why = e.words()
	if what == route.ALookUp {
		r.look(e)
		return
	}
	number := r.add(e)
	r.last = func() *Event { return r.numbered(number) }
}

// look keeps a row by which keys are looked up. One that was read again has its place already, so that they are in the order of the log.
func (r *reading) look(e Event) {
	if len(r.looked) >= mostLookUps {
		clear(r.lookUps)
		clear(r.looked)
		r.gaveUp = true
	}
	key := lookUp{e.Version, e.Rule}
	like := likeness{xid: e.XID, rule: e.Rule, table: e.Version, op: e.Op, what: named(e.Row)}
	at, seen := r.looked[like]
	if !seen {
		at = len(r.lookUps[key])
		r.lookUps[key] = append(r.lookUps[key], e)
		r.looked[like] = at
	}
	r.last = func() *Event {
		if at >= len(r.lookUps[key]) {
			return nil
		}
		return &r.lookUps[key][at]
	}
}

// find reads a key that a look-up found: for the one row that it was asked by, or for one of several, as far as they are remembered.
func (r *reading) find() {
	p, ours := r.plan()
	number, xid, first, last := int(r.number())+1, mvcc.XID(r.number()), mvcc.LSN(r.number()), mvcc.LSN(r.number()) //nolint:gosec // written from them
	values, at := r.number(), r.moment()
	if text := r.text(); !ours || string(text) != r.query.Key {
		return
	}
	all := r.lookUps[lookUp{p.version, number}]
	from := sort.Search(len(all), func(i int) bool { return all[i].LSN >= first })
	to := sort.Search(len(all), func(i int) bool { return all[i].LSN > last })
	const images = 2          // of a row, each with values to look up
	rows := uint64(to - from) //nolint:gosec // to is not before from, or there are none
	whole := from < to && r.oldest <= first && !r.gaveUp && values <= images*rows
	if whole && rows == 1 {
		e := all[from]
		e.Why += ": the database was asked which keys that affects"
		r.add(e)
		return
	}
	e := Event{At: at, Kind: LookedUp, LSN: last, Version: p.version, Rule: number, Table: p.rules[number-1].table, Class: p.rules[number-1].class}
	if e.Why = fmt.Sprintf("rows of %s changed: the database was asked which keys they affect", e.Table); whole {
		e.Why = fmt.Sprintf("one of %d changed rows of %s: the database was asked which keys they affect together", rows, e.Table)
	}
	if first == last { // all of one transaction
		if e.XID = xid; from < to {
			e.At, e.Committed = all[from].At, all[from].Committed
		}
	}
	like := likeness{xid: xid, kind: e.Kind, rule: number, what: e.Why}
	if number, seen := r.seen[like]; seen && number >= r.first && r.events[number-r.first].Applied.IsZero() {
		return
	}
	r.seen[like] = r.append(e)
	r.waiting[xid] = append(r.waiting[xid], r.seen[like])
}

// row reads by which rule which row did it.
func (r *reading) row(e *Event, p *plan, wanted bool) {
	op := change.Op(r.byte())
	if op == 0 {
		return
	}
	image, number, shape := [...]string{"new", "old"}[r.byte()], int(r.number()), r.tables[r.number()] //nolint:gosec // written from one
	if wanted && number < len(p.rules) {
		e.Op, e.Image, e.Table, e.Rule, e.Class = op.String(), image, shape.name, number+1, p.rules[number].class
	}
	for _, column := range shape.columns {
		kind := r.byte()
		var text []byte
		if kind == textValue || kind == cutValue {
			text = r.text()
		}
		if !wanted || kind == unknownValue {
			continue
		}
		f := Field{Column: column}
		if kind != nullValue {
			value := strings.ToValidUTF8(string(text), "\uFFFD")
			if kind == cutValue {
				value += "…"
			}
			f.Value = &value
		}
		e.Row = append(e.Row, f)
	}
}

// words say what did it.
func (e *Event) words() string {
	if e.Op == "" {
		return "a transaction named it itself: a write-through, or somebody by hand"
	}
	image := ""
	switch {
	case e.Op != change.Update.String():
	case e.Image == "old":
		image = ", as the row was before"
	case e.Image == "new":
		image = ", as the row is now"
	}
	why := fmt.Sprintf("%s of %s%s%s", e.Op, e.Table, named(e.Row), image)
	if e.Kind == EpochEnded {
		why += ": every key that is tied to " + e.Epoch
	}
	return why
}

func named(row []Field) string {
	if len(row) == 0 {
		return ""
	}
	parts := make([]string, len(row))
	for i, f := range row {
		parts[i] = f.Column + " NULL"
		if f.Value != nil {
			parts[i] = f.Column + " = " + *f.Value
		}
	}
	return " where " + strings.Join(parts, ", ")
}

// Size is how many bytes are taken by what is remembered.
func (l *Log) Size() (bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.segments {
		bytes += cap(s.text)
	}
	return bytes
}
