package trail

import (
	"encoding/binary"
	"fmt"
	"slices"
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
	XID       mvcc.XID  // 0: it is no transaction's
	LSN       mvcc.LSN  // where its commit ends
	Committed time.Time // by the writer's clock
	Applied   time.Time // zero: it is not, as far as is remembered
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
	Most   int      // events, the last ones
}

// Read returns what is remembered of a key, the oldest first, and since when anything is: the zero time where no log was followed yet. more
// says that there are more than were asked for.
func (l *Log) Read(q Query) (events []Event, since time.Time, more bool) {
	r := reading{query: q, plans: map[uint32]plan{}, waiting: map[mvcc.XID][]int{}}
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
		r.segment(text)
	}
	if q.Most > 0 && len(r.events) > q.Most {
		return r.events[len(r.events)-q.Most:], since, true
	}
	return r.events, since, false
}

// reading goes through segments, from the oldest on.
type reading struct {
	query   Query
	plans   map[uint32]plan
	tables  []tableShape
	events  []Event
	waiting map[mvcc.XID][]int // events of transactions that are not applied yet
	lookUps []Event            // rows by which keys of the entry were looked up
	last    *Event             // what was held last, where it is among those
	at      begun
	rest    []byte
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
		case aHeld:
			r.held()
		case aSame:
			if r.last != nil {
				r.last.Image = "both"
				r.last.Why = r.last.words()
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
			xid, at := mvcc.XID(r.number()), r.moment()
			for _, i := range r.waiting[xid] {
				r.events[i].Applied = at
			}
			delete(r.waiting, xid)
		case aName:
			p, ours := r.plan()
			at, why := r.moment(), string(r.text())
			if ours {
				r.events = append(r.events, Event{At: at, Kind: Renamed, Version: p.version, Why: why})
			}
		case aGeneration:
			at, why := r.moment(), string(r.text())
			r.events = append(r.events, Event{At: at, Kind: Generation, Why: "a new generation began, with nothing cached: " + why})
		default:
			panic("trail: a segment is not as it was written")
		}
	}
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
// versions of the entry have the key.
func (r *reading) add(e Event) (index int) {
	for _, i := range r.waiting[e.XID] {
		if r.events[i].like(&e) {
			return i
		}
	}
	index = len(r.events)
	r.waiting[e.XID] = append(r.waiting[e.XID], index)
	r.events = append(r.events, e)
	return index
}

func (e *Event) like(o *Event) bool {
	return e.Kind == o.Kind && e.Table == o.Table && e.Op == o.Op && e.Rule == o.Rule && e.Class == o.Class && e.Epoch == o.Epoch && named(e.Row) == named(o.Row) &&
		(e.Op != "" || e.Why == o.Why)
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
	switch e.Why = e.words(); {
	case !ours:
	case what == route.ALookUp:
		r.lookUps = append(r.lookUps, e)
		r.last = &r.lookUps[len(r.lookUps)-1]
	default:
		r.last = &r.events[r.add(e)]
	}
}

// find reads a key that a look-up found: for the one row of those transactions that may have led to it, or for one of several.
func (r *reading) find() {
	p, ours := r.plan()
	number, first, last := int(r.number())+1, mvcc.LSN(r.number()), mvcc.LSN(r.number()) //nolint:gosec // written from them
	rows, at := r.number(), r.moment()
	if text := r.text(); !ours || string(text) != r.query.Key {
		return
	}
	var found []Event
	for _, e := range r.lookUps {
		if e.Rule == number && e.Version == p.version && first <= e.LSN && e.LSN <= last {
			found = append(found, e)
		}
	}
	e := Event{At: at, Kind: LookedUp, LSN: last, Version: p.version, Rule: number, Table: p.rules[number-1].table, Class: p.rules[number-1].class}
	if len(found) == 1 {
		e = found[0]
	}
	e.Why = e.words() + ": the database was asked which keys that affects"
	if len(found) != 1 {
		e.Why = fmt.Sprintf("one of %d changed rows of %s: the database was asked which keys they affect together", rows, e.Table)
	}
	if e.XID != 0 {
		r.add(e)
		return
	}
	e.Applied = at
	r.events = append(r.events, e)
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
		switch kind := r.byte(); kind {
		case nullValue:
			e.Row = append(e.Row, Field{Column: column})
		case textValue, cutValue:
			text := strings.ToValidUTF8(string(r.text()), "\uFFFD")
			if kind == cutValue {
				text += "…"
			}
			e.Row = append(e.Row, Field{Column: column, Value: &text})
		}
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
