// Package trace puts together what happened to one key: what the log did to it, as the daemon remembers that, what readers noted of
// their loads, and what the store has now.
package trace

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/internal/trail"
)

// History is what happened to a key, as GET /v1/trace answers it and `freshet trace --json` prints it. Fields are only ever added.
type History struct {
	Entry string    `json:"entry"`
	Args  []*string `json:"args"` // in canonical text; null is NULL
	Key   string    `json:"key"`
	Name  string    `json:"name,omitempty"` // in the store; absent: nothing of the entry may be cached now
	// Record is what the store has; null: it could not be read, or there is no name to read it by.
	Record *Record `json:"record"`
	// Since is from when on the daemon remembers what it read from the log. Absent: none that follows the log was asked.
	Since *time.Time `json:"since,omitempty"`
	// Problems say what could not be had.
	Problems []string `json:"problems"`
	Events   []Event  `json:"events"` // the oldest first
	More     bool     `json:"more"`   // there are older ones than are listed
}

// Record is a key's record.
type Record struct {
	State  string     `json:"state"`            // none, live, negative, stale or stale_negative
	Ended  bool       `json:"ended"`            // what it is tied to has ended since: the next read loads it
	Stamp  string     `json:"stamp"`            // which transactions the value contains
	Filled *time.Time `json:"filled,omitempty"` // by the store's clock
	Age    float64    `json:"age_seconds"`
	Leased bool       `json:"leased"` // somebody is loading it
	Fences []Fence    `json:"fences"` // changes that a load has to contain to be stored
	Epochs []string   `json:"epochs"` // what the value is tied to besides its record
}

// Fence is a change that a load has to contain.
type Fence struct {
	XID uint64 `json:"xid"`
	End string `json:"lsn"`
}

// Event is one thing that happened.
type Event struct {
	At   time.Time `json:"at"` // by the clock of who says it
	Kind string    `json:"kind"`
	Why  string    `json:"why"` // in words

	// Of what the log did.
	XID       uint64             `json:"xid,omitempty"`
	LSN       string             `json:"lsn,omitempty"`       // where the transaction's commit ends
	Committed *time.Time         `json:"committed,omitempty"` // by the database's clock
	Applied   *time.Time         `json:"applied,omitempty"`   // absent: not yet, as far as is remembered
	Version   string             `json:"version,omitempty"`   // of the entry's plan
	Table     string             `json:"table,omitempty"`
	Op        string             `json:"op,omitempty"`
	Row       map[string]*string `json:"row,omitempty"`   // what names it; null is NULL
	Image     string             `json:"image,omitempty"` // old, new or both
	Rule      int                `json:"rule,omitempty"`  // of the entry, from 1
	Class     string             `json:"class,omitempty"`
	Epoch     string             `json:"epoch,omitempty"`

	// Of a load.
	By       string  `json:"by,omitempty"` // which process
	Outcome  string  `json:"outcome,omitempty"`
	Negative bool    `json:"negative,omitempty"` // there is no such row
	Coverage string  `json:"coverage,omitempty"`
	Took     float64 `json:"took_seconds,omitempty"`
	Bytes    int     `json:"bytes,omitempty"`
	Replica  bool    `json:"replica,omitempty"`
	Error    string  `json:"error,omitempty"`
	Count    int     `json:"count,omitempty"` // of loads that were left out
}

// The kinds of events of loads. Those of the log are trail's.
const (
	Stored  = "stored"
	Renewed = "renewed"
	Refused = "refused"
	Failed  = "failed"
	LeftOut = "left_out"
)

// MostEvents bounds an answer.
const MostEvents = 1000

// Where is a key.
type Where struct {
	Entry  string
	Args   []keytext.Arg
	Key    string   // its text
	Name   string   // of its record; empty: nothing of the entry may be cached now
	Epochs string   // what names of epochs begin with
	Tied   []string // epochs that every value of it is tied to, without that
	Why    string   // there is no name
}

// Store is what is asked of the store.
type Store interface {
	Read(ctx context.Context, name string) ([]byte, error)
	Epochs(ctx context.Context, epochs []string) ([]string, error)
	Notes(ctx context.Context) ([]store.Note, error)
}

// Of puts the history of a key together. log is nil where no daemon is asked.
func Of(ctx context.Context, at Where, s Store, log *trail.Log) *History {
	h := &History{Entry: at.Entry, Args: []*string{}, Key: at.Key, Name: at.Name, Problems: []string{}, Events: []Event{}}
	for i := range at.Args {
		if a := &at.Args[i]; a.Null {
			h.Args = append(h.Args, nil)
		} else {
			h.Args = append(h.Args, &a.Text)
		}
	}
	if at.Name == "" {
		h.Problems = append(h.Problems, "the key has no name in the store now, or it is not known: readers go past the cache ("+at.Why+")")
	} else if err := h.look(ctx, &at, s); err != nil {
		h.Problems = append(h.Problems, "the record could not be read: "+err.Error())
	}
	notes, err := s.Notes(ctx)
	if err != nil {
		h.Problems = append(h.Problems, "what readers noted of their loads could not be read: "+err.Error())
	}
	tied := h.load(&at, notes)
	if log != nil {
		h.follow(ctx, &at, log, tied)
	} else {
		h.Problems = append(h.Problems, "no daemon was asked: what the log did to the key is in the memory of the one that follows it")
	}
	slices.SortStableFunc(h.Events, func(a, b Event) int { return a.At.Compare(b.At) })
	h.Events = joined(h.Events)
	if more := len(h.Events) - MostEvents; more > 0 {
		h.Events, h.More = h.Events[more:], true
	}
	return h
}

// joined makes one of loads that were left out one after the other: they say nothing of this key but that it may be among them.
func joined(events []Event) []Event {
	kept := events[:0]
	for i := range events {
		e := events[i]
		if n := len(kept); n > 0 && e.Kind == LeftOut && kept[n-1].Kind == LeftOut {
			last := &kept[n-1]
			last.At, last.Count = e.At, last.Count+e.Count
			if last.By != e.By {
				last.By = ""
			}
			last.Why = leftOut(last.Count)
			continue
		}
		kept = append(kept, e)
	}
	return kept
}

func leftOut(count int) string {
	return fmt.Sprintf("%d loads, of whatever keys, were not noted one by one: there were too many at a time, or their keys are too long", count)
}

// look reads the record.
func (h *History) look(ctx context.Context, at *Where, s Store) error {
	text, err := s.Read(ctx, at.Name)
	if err != nil {
		return err
	}
	r := &Record{State: fence.None.String(), Stamp: "-", Fences: []Fence{}, Epochs: []string{}}
	h.Record = r
	if text == nil {
		return nil
	}
	record, err := fence.ParseRecord(text)
	if err != nil {
		h.Record = nil
		return fmt.Errorf("%w: the next load puts another in its place", err)
	}
	r.State, r.Leased, r.Stamp = record.State.String(), !record.Lease.IsZero(), record.Coverage.String()
	for _, f := range record.Fences {
		r.Fences = append(r.Fences, Fence{XID: uint64(f.XID), End: f.End.String()})
	}
	if record.Filled > 0 {
		filled := time.UnixMicro(record.Filled)
		r.Filled, r.Age = &filled, max(0, time.Since(filled).Seconds())
	}
	names := make([]string, len(record.Epochs))
	for i, e := range record.Epochs {
		r.Epochs = append(r.Epochs, e.Name)
		names[i] = at.Epochs + e.Name
	}
	if len(names) > 0 {
		ids, err := s.Epochs(ctx, names)
		if err != nil {
			return err
		}
		r.Ended = !fence.Hold(record.Epochs, ids)
	}
	return nil
}

// load adds what readers noted of the key, and returns what its values were tied to.
func (h *History) load(at *Where, notes []store.Note) (tied []string) {
	add := func(names []string) {
		for _, name := range names {
			if !slices.Contains(tied, name) {
				tied = append(tied, name)
			}
		}
	}
	add(at.Tied)
	if h.Record != nil {
		add(h.Record.Epochs)
	}
	for i := range notes {
		n := &notes[i]
		if n.Entry != at.Entry && n.Outcome != store.NoteLeftOut || n.Name != "" && !ofKey(n.Name, at.Key) {
			continue
		}
		e := Event{
			At: n.At, By: n.By, Outcome: n.Outcome, Negative: n.Negative, Coverage: n.Coverage, Took: n.Took.Seconds(), Bytes: n.Bytes,
			Replica: n.Replica, Error: n.Error, Count: n.Count,
		}
		switch n.Outcome {
		case store.NoteStored, store.NoteRenewed, store.NoteFailed, store.NoteLeftOut:
			e.Kind = n.Outcome
		default:
			e.Kind = Refused
		}
		e.Why = words(n)
		add(n.Epochs)
		h.Events = append(h.Events, e)
	}
	return tied
}

// ofKey reports whether a record's name is one that a key has, or had: before the key's text stands the entry's activation.
func ofKey(name, key string) bool {
	prefix, ok := strings.CutSuffix(name, ":"+key)
	const digits = 16
	if !ok || len(prefix) <= digits || prefix[len(prefix)-digits-1] != '.' {
		return false
	}
	return strings.Trim(prefix[len(prefix)-digits:], "0123456789abcdef") == ""
}

// follow adds what the log did.
func (h *History) follow(ctx context.Context, at *Where, log *trail.Log, tied []string) {
	events, since, more, err := log.Read(ctx, trail.Query{Entry: at.Entry, Key: at.Key, Epochs: tied, Most: MostEvents})
	if err != nil {
		h.Problems = append(h.Problems, err.Error())
		return
	}
	if since.IsZero() {
		h.Problems = append(h.Problems, "the daemon that was asked has not followed the log yet: it is starting, or waits as standby for another one, "+
			"which remembers what the log did")
		return
	}
	h.Since, h.More = &since, more
	for i := range events {
		e := &events[i]
		one := Event{
			At: e.At, Kind: string(e.Kind), Why: e.Why, XID: uint64(e.XID), Version: e.Version, Table: e.Table, Op: e.Op, Rule: e.Rule, Class: e.Class,
			Epoch: e.Epoch, Committed: moment(e.Committed), Applied: moment(e.Applied),
		}
		if e.LSN > 0 {
			one.LSN = e.LSN.String()
		}
		if e.Op != "" {
			one.Image, one.Row = e.Image, map[string]*string{}
			for _, f := range e.Row {
				one.Row[f.Column] = f.Value
			}
		}
		h.Events = append(h.Events, one)
	}
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// words say what came of a load.
func words(n *store.Note) string {
	from := "the primary"
	if n.Replica {
		from = "a replica"
	}
	what := fmt.Sprintf("%d bytes", n.Bytes)
	if n.Negative {
		what = "that there is no such row"
	}
	switch n.Outcome {
	case store.NoteStored:
		return fmt.Sprintf("loaded from %s and stored: %s", from, what)
	case store.NoteRenewed:
		return "the database has what was cached, and that was stored anew"
	case store.NoteFailed:
		return "the load failed: " + cmp.Or(n.Error, "the reason was not noted")
	case store.NoteLeftOut:
		return leftOut(n.Count)
	}
	return fmt.Sprintf("loaded from %s and not stored: %s", from, cmp.Or(refusals()[n.Outcome], n.Outcome))
}

// refusals explain why a load is not stored, by the reasons that readers count.
func refusals() map[string]string {
	return map[string]string{
		"load_not_fillable": "what it read is not of one snapshot that can be compared with changes",
		"other_server":      "it is from another server than the one whose log is followed",
		"other_database":    "it is from another database than the one whose log is followed",
		"below_floor":       "its snapshot is older than what the store had confirmed before the load began, so it may lack a change that was applied already",
		"names_moved":       "the entry got another name while it was loaded",
		"lease_lost":        "its lease was taken meanwhile: by an invalidation whose fence is gone again, or by a later load",
		"lease_ended":       "it took longer than its lease",
		"not_covering":      "it lacks a change by which the key was invalidated while it was loaded",
		"not_newer":         "what is cached contains as much, and was loaded later",
		"store_error":       "the store did not answer, or refused",
		"epoch_ended":       "a change ended what the value would have been tied to while it was loaded",
		"too_large":         "it is larger than a value may be",
		"nested_read":       "the code that loads it has read another entry through the cache, whose value may be older than the load",
	}
}
