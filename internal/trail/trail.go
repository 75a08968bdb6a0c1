// Package trail remembers what the log did to keys: which row of which transaction invalidated them by which rule, when that was
// applied, and when entries were given other names. It is the daemon's memory for whoever asks why a key was invalidated; nothing
// rests on it. Its size is bounded: the oldest is forgotten first.
package trail

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/route"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/mvcc"
)

// DefaultSize is how many bytes a Log takes where nothing else is said: some 200,000 invalidations of short keys.
const DefaultSize = 8 << 20

const (
	// segmentSize is in how large pieces the oldest is forgotten.
	segmentSize = 64 << 10
	// mostColumns and longestValue bound what is remembered of a row.
	mostColumns  = 8
	longestValue = 128
	longestWhy   = 1 << 10
	// mostPlans bounds the plans of entries that events may be of. With more everything is forgotten.
	mostPlans = 1 << 14
)

// Log is what is remembered, over all sessions of a pipeline. Its methods may be called from any number of goroutines; reading holds
// nobody up, since what is written once is never changed.
type Log struct {
	size int

	mu       sync.Mutex
	segments []*segment // the oldest first
	began    time.Time  // when the oldest began that is remembered whole; zero: nothing was followed yet
	plans    []plan
	planOf   map[string]uint32 // by name, definition and version
	tables   []tableShape
	tableOf  map[string]uint32
	scratch  []byte
	reached  mvcc.LSN // everything up to it was read, or was applied before
	named    bool     // names were published once
	era      int      // how often everything was forgotten with the plans: recorders of before say nothing any more

	readers chan struct{} // one token for each reading under way: they take memory
}

// mostReaders is how many readings there are at a time.
const mostReaders = 2

type segment struct {
	text []byte // never longer than its capacity at first: appending does not move it
	from int64  // when it began, in Unix microseconds
}

// plan is an entry as it was compiled, as far as events name it.
type plan struct {
	name, definition, version string
	rules                     []ruleName
	live                      string // the activation that was published last
	suspended                 string
}

type ruleName struct{ table, class string }

type tableShape struct {
	name    string
	columns []string // those that are remembered of a row
	at      []int    // their places in the relation
}

// New makes a Log of a size in bytes; 0 is DefaultSize.
func New(size int) *Log {
	if size <= 0 {
		size = DefaultSize
	}
	return &Log{
		size: max(size, 2*segmentSize), planOf: map[string]uint32{}, tableOf: map[string]uint32{}, readers: make(chan struct{}, mostReaders),
	}
}

// The kinds of what is written, each followed by its fields.
const (
	aTransaction byte = iota + 1 // xid, end, committed, at
	aHeld                        // kind, plan, text, and the row with the rule
	aSame                        // what was held last is so by the row's other image too
	aMove                        // plan, why, and the row
	aFind                        // plan, rule, xid of the last transaction, positions of the first and the last, values, at, text
	anApplied                    // xid, at
	aName                        // plan, at, why
	aGeneration                  // at, why
	aSession                     // position up to which everything is applied, at
)

// Recorder writes for one session of the pipeline: it knows the entries by the numbers that the router gives them.
type Recorder struct {
	log       *Log
	era       int
	entries   []*rule.Entry
	plans     []uint32
	keys      map[schema.Name][]string // the columns of primary keys, of tables whose old images are whole
	shapes    map[shapeOf]uint32
	lastOf    shapeOf // the last of them
	lastShape uint32
	refused   map[uint32]bool       // plans of entries that could not be planned
	open      map[mvcc.XID]struct{} // transactions of which something was written and that are not applied
	at        begun
	noted     *segment // where at was written last
	last      held
}

// shapeOf is what the columns depend on that are remembered of a row.
type shapeOf struct {
	relation    *change.Relation
	entry, rule int
}

// begun is the transaction that is being routed.
type begun struct {
	xid       mvcc.XID
	end       mvcc.LSN
	committed int64
	at        int64
}

// held is what was written last, so that the two images of a row, or rows one after the other, are not written as often as they come.
type held struct {
	segment *segment
	xid     mvcc.XID
	what    route.Kind
	entry   int
	rule    int
	text    []byte
	row     uint64 // which one; 0: none
	old     bool
}

var _ route.Witness = (*Recorder)(nil)

// Session begins a session with entries in the router's order, where everything up to a position is applied. keys are the columns of the primary
// keys of tables, by which a row is named where the log carries all of it.
func (l *Log) Session(entries []*rule.Entry, keys map[schema.Name][]string, applied mvcc.LSN) *Recorder {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.plans)+len(entries) > mostPlans {
		l.segments, l.plans, l.planOf = nil, nil, map[string]uint32{}
		l.began = time.Time{}
		l.era++
	}
	if l.began.IsZero() || applied > l.reached { // another daemon has applied what was not read here
		l.began = time.Now()
	}
	l.reached = max(l.reached, applied)
	l.append(signed(number(append(l.scratch[:0], aSession), uint64(applied)), time.Now().UnixMicro()))
	r := &Recorder{log: l, era: l.era, entries: entries, keys: keys, shapes: map[shapeOf]uint32{}, refused: map[uint32]bool{}, open: map[mvcc.XID]struct{}{}}
	for _, e := range entries {
		id := e.Name + "\x00" + e.Definition + "\x00" + e.Version
		number, known := l.planOf[id]
		if !known {
			number = uint32(len(l.plans)) //nolint:gosec // bounded by mostPlans
			l.plans, l.planOf[id] = append(l.plans, planned(e)), number
		}
		r.plans = append(r.plans, number)
	}
	return r
}

func planned(e *rule.Entry) plan {
	p := plan{name: e.Name, definition: e.Definition, version: e.Version}
	for i := range e.Rules {
		class := e.Rules[i].Class
		if class == "" {
			class = rule.Exact
		}
		p.rules = append(p.rules, ruleName{table: e.Rules[i].Schema + "." + e.Rules[i].Table, class: string(class)})
	}
	return p
}

// Begin says which transaction what follows is of.
func (r *Recorder) Begin(b change.Begin) {
	r.at = begun{xid: b.XID, end: b.End, committed: b.Committed.UnixMicro(), at: time.Now().UnixMicro()}
	r.noted = nil
}

// Held implements route.Witness.
func (r *Recorder) Held(entry int, what route.Kind, text []byte, c *route.Cause) {
	l := r.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.era != l.era {
		return
	}
	last := &r.last
	if last.segment != nil && last.segment == r.noted && last.xid == r.at.xid && last.what == what && last.entry == entry && last.rule == c.Rule &&
		(last.row != 0) == (c.Row != nil) && bytes.Equal(last.text, text) {
		if c.Row != nil && last.row == c.Number && last.old != c.Old {
			r.write(append(l.scratch[:0], aSame))
			last.segment, last.old = r.noted, c.Old
		}
		return
	}
	b := l.scratch[:0]
	b = append(b, aHeld, byte(what))
	b = number(b, uint64(r.plans[entry]))
	b = r.row(str(b, text), entry, c)
	r.write(b)
	*last = held{segment: r.noted, xid: r.at.xid, what: what, entry: entry, rule: c.Rule, text: append(last.text[:0], text...), old: c.Old}
	if c.Row != nil {
		last.row = c.Number
	}
}

// Moved implements route.Witness.
func (r *Recorder) Moved(entry int, why string, c *route.Cause) {
	l := r.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.era != l.era {
		return
	}
	b := number(append(l.scratch[:0], aMove), uint64(r.plans[entry]))
	r.write(r.row(str(b, cut(why)), entry, c))
}

// Reached says that everything up to a position was read.
func (r *Recorder) Reached(p mvcc.LSN) {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	r.log.reached = max(r.log.reached, p)
}

// write appends what belongs to the transaction that is being routed, after a word on that where there is none in the segment.
func (r *Recorder) write(event []byte) {
	l := r.log
	l.scratch = event[:0]
	const transaction = 1 + 4*binary.MaxVarintLen64
	to := l.room(len(event) + transaction)
	if r.noted != to {
		to.text = append(to.text, aTransaction)
		to.text = number(number(to.text, uint64(r.at.xid)), uint64(r.at.end))
		to.text = signed(signed(to.text, r.at.committed), r.at.at)
		r.noted = to
		r.open[r.at.xid] = struct{}{}
	}
	to.text = append(to.text, event...)
}

// room is the segment to append so many bytes to.
func (l *Log) room(size int) *segment {
	if n := len(l.segments); n > 0 {
		if last := l.segments[n-1]; cap(last.text)-len(last.text) >= size {
			return last
		}
	}
	s := &segment{text: make([]byte, 0, max(segmentSize, size)), from: time.Now().UnixMicro()}
	l.segments = append(l.segments, s)
	held := 0
	for _, s := range l.segments {
		held += cap(s.text)
	}
	for held > l.size && len(l.segments) > 1 {
		held -= cap(l.segments[0].text)
		l.segments = slices.Delete(l.segments, 0, 1)
		l.began = time.UnixMicro(l.segments[0].from)
	}
	return s
}

// row appends by which rule which row did it.
func (r *Recorder) row(b []byte, entry int, c *route.Cause) []byte {
	if c.Row == nil {
		return append(b, 0)
	}
	b = append(b, byte(c.Row.Op))
	old := byte(0)
	if c.Old {
		old = 1
	}
	b = number(append(b, old), uint64(c.Rule)) //nolint:gosec // not negative
	shape := r.shape(shapeOf{c.Row.Relation, entry, c.Rule})
	b = number(b, uint64(shape))
	for _, at := range r.log.tables[shape].at {
		b = value(b, pick(c.Row, at, c.Old))
	}
	return b
}

// pick is a column of the image that did it, as far as the log says it.
func pick(row *change.Row, at int, old bool) change.Value {
	var v change.Value
	if row.New != nil {
		v = row.New[at]
	}
	if row.Old != nil && (old || v.Kind == change.Unchanged) {
		v = row.Old[at]
	}
	return v
}

// shape is what is remembered of rows of a relation that did something by a rule: the primary key, or what the log names a row by. Where that is
// all of the row, it is what the rule looks at: nobody is to be told more of a row than its key, who may ask for that.
func (r *Recorder) shape(of shapeOf) uint32 {
	if r.lastOf == of && r.lastOf.relation != nil {
		return r.lastShape
	}
	if shape, known := r.shapes[of]; known {
		r.lastOf, r.lastShape = of, shape
		return shape
	}
	const enough = 1 << 10
	if len(r.shapes) > enough { // the log describes a relation anew, again and again
		clear(r.shapes)
	}
	relation := of.relation
	s := tableShape{name: relation.Schema + "." + relation.Name}
	keys := r.keys[schema.Name{Schema: relation.Schema, Name: relation.Name}]
	if rules := r.entries[of.entry].Rules; len(keys) == 0 && of.rule < len(rules) {
		keys = rules[of.rule].Needs()
	}
	for i, c := range relation.Columns {
		if len(s.at) == mostColumns {
			break
		}
		if relation.Identity == change.IdentityFull {
			if slices.Contains(keys, c.Name) {
				s.columns, s.at = append(s.columns, c.Name), append(s.at, i)
			}
		} else if c.Key {
			s.columns, s.at = append(s.columns, c.Name), append(s.at, i)
		}
	}
	id := fmt.Sprintf("%q %q %v", s.name, s.columns, s.at)
	shape, known := r.log.tableOf[id]
	if !known {
		shape = uint32(len(r.log.tables)) //nolint:gosec // one for each way that a table ever looked
		r.log.tables, r.log.tableOf[id] = append(r.log.tables, s), shape
	}
	r.shapes[of] = shape
	return shape
}

// Found says which keys look-ups of a rule have found, for so many different values of rows of transactions that end between two positions, of
// which xid is the last.
func (r *Recorder) Found(entry, ruleNumber int, key []byte, xid mvcc.XID, first, last mvcc.LSN, values int) {
	l := r.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.era != l.era {
		return
	}
	b := number(append(l.scratch[:0], aFind), uint64(r.plans[entry]))
	b = number(number(number(b, uint64(ruleNumber)), uint64(xid)), uint64(first)) //nolint:gosec // not negative
	b = number(number(b, uint64(last)), uint64(values))                           //nolint:gosec // a count
	r.open[xid] = struct{}{}
	l.append(str(signed(b, time.Now().UnixMicro()), key))
}

// Applied says that a transaction is: whoever reads from now on sees what it did.
func (r *Recorder) Applied(xid mvcc.XID) {
	l := r.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.era != l.era {
		return
	}
	if _, open := r.open[xid]; !open {
		return
	}
	delete(r.open, xid)
	l.append(signed(number(append(l.scratch[:0], anApplied), uint64(xid)), time.Now().UnixMicro()))
}

// Published says under which names entries are cached from now on, or why not.
func (r *Recorder) Published(entries []*rule.Entry) {
	l := r.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.era != l.era {
		return
	}
	for i, e := range entries {
		p := &l.plans[r.plans[i]]
		if p.live == e.Activation && p.suspended == e.Suspended {
			continue
		}
		why := "the entry has a new name: nothing that was cached under the one before is read any more"
		switch {
		case e.Suspended != "":
			why = "the entry is not cached: " + e.Suspended
		case p.suspended != "":
			why = "the entry is cached, under a new name"
		}
		known := l.named || p.live != "" || e.Suspended != "" // otherwise it may have had the name before this daemon began
		if p.live, p.suspended = e.Activation, e.Suspended; !known {
			continue
		}
		b := signed(number(append(l.scratch[:0], aName), uint64(r.plans[i])), time.Now().UnixMicro())
		l.append(str(b, cut(why)))
	}
	l.named = true
	for i := range l.plans { // of those that can be planned again it is said anew when they cannot once more
		if p := &l.plans[i]; p.definition == refused && p.suspended != "" && !r.refused[uint32(i)] {
			p.suspended = ""
			b := signed(number(append(l.scratch[:0], aName), uint64(i)), time.Now().UnixMicro())
			l.append(str(b, "the entry can be planned again"))
		}
	}
}

// refused stands for the definition of an entry that cannot be planned.
const refused = "refused"

// Refused says that an entry is not cached, since it cannot be planned.
func (r *Recorder) Refused(entry, why string) {
	l := r.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.era != l.era {
		return
	}
	id := entry + "\x00" + refused
	plan_, known := l.planOf[id]
	if !known {
		plan_ = uint32(len(l.plans)) //nolint:gosec // bounded by mostPlans, and by how many entries there are
		l.plans, l.planOf[id] = append(l.plans, plan{name: entry, definition: refused}), plan_
	}
	r.refused[plan_] = true
	if p := &l.plans[plan_]; p.suspended != why {
		p.suspended = why
		b := signed(number(append(l.scratch[:0], aName), uint64(plan_)), time.Now().UnixMicro())
		l.append(str(b, cut("the entry is not cached: "+why)))
	}
}

// Generation says that a new one begins: everything that was cached before is out of use.
func (l *Log) Generation(why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := signed(append(l.scratch[:0], aGeneration), time.Now().UnixMicro())
	l.append(str(b, cut(why)))
}

func (l *Log) append(event []byte) {
	l.scratch = event[:0]
	to := l.room(len(event))
	to.text = append(to.text, event...)
}

func number(b []byte, n uint64) []byte { return binary.AppendUvarint(b, n) }
func signed(b []byte, n int64) []byte  { return binary.AppendVarint(b, n) }

func str[T []byte | string](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func cut(why string) string { return why[:min(len(why), longestWhy)] }

// The kinds of values of a row.
const (
	unknownValue byte = iota
	nullValue
	textValue
	cutValue // the text goes on
)

func value(b []byte, v change.Value) []byte {
	switch {
	case v.Kind == change.Null:
		return append(b, nullValue)
	case v.Kind != change.Text:
		return append(b, unknownValue)
	case len(v.Text) > longestValue:
		return str(append(b, cutValue), v.Text[:longestValue])
	}
	return str(append(b, textValue), v.Text)
}
