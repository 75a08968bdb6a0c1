package freshettest

import (
	"bytes"
	"encoding/json"
	"reflect"
)

// Reads are what became of reads.
type Reads struct {
	Hits     uint64 // served from the cache
	Misses   uint64 // nothing live was cached, or nothing that could be shown to be what the read asked for
	Stale    uint64 // of them, those that were given a value that had changed, as their entry allows (on_change: serve_stale, serve_stale_on_error)
	Bypassed uint64 // the cache could not be used
	Loads    uint64 // statements sent to the database
	Compared uint64 // of them, those that asked whether the database still has what is cached
	Stored   uint64 // loaded values that the store took, or confirmed
	Refused  uint64 // loaded values that it did not take, since something had changed
	Ahead    uint64 // loads that were begun beside hits, of values whose time to live was nearly over (eager_refresh); they count among Loads
}

// Reads runs do, and counts what became of the reads meanwhile, whoever made them.
func (w *World) Reads(do func()) Reads {
	before := w.counted()
	do()
	after := w.counted()
	return Reads{
		Hits: after.Hits - before.Hits, Misses: after.Misses - before.Misses, Stale: after.Stale - before.Stale, Bypassed: after.Bypassed - before.Bypassed,
		Loads: after.Loads - before.Loads, Compared: after.Compared - before.Compared, Stored: after.Stored - before.Stored,
		Refused: after.Refused - before.Refused, Ahead: after.Ahead - before.Ahead,
	}
}

func (w *World) counted() Reads {
	s := w.Cache.Stats()
	r := Reads{Hits: s.Hits, Misses: s.Misses, Loads: s.Loads, Compared: s.Revalidations, Stored: s.Fills, Ahead: s.Eager}
	for _, n := range s.Stale {
		r.Stale += n
	}
	for _, n := range s.Bypassed {
		r.Bypassed += n
	}
	for _, n := range s.Refused {
		r.Refused += n
	}
	return r
}

// Hit runs do, and fails the test unless every read in it was served from the cache, and there was one. What is loaded beside reads that are
// served (eager_refresh), or by a writer, does not count.
func (w *World) Hit(do func()) {
	w.tb.Helper()
	if r := w.Reads(do); r.Hits == 0 || r.Misses+r.Bypassed > 0 {
		w.tb.Errorf("freshettest: not served from the cache alone: %+v", r)
	}
}

// Miss runs do, and fails the test unless no read in it was served from the cache alone or given what had changed, and there was one that was
// loaded.
func (w *World) Miss(do func()) {
	w.tb.Helper()
	if r := w.Reads(do); r.Hits+r.Stale > 0 || r.Misses+r.Bypassed == 0 || r.Loads == 0 {
		w.tb.Errorf("freshettest: not loaded from the database: %+v", r)
	}
}

// Fresh fails the test unless a value that was read is what the database has for the key now.
func (w *World) Fresh(entry string, value any, key ...any) {
	w.tb.Helper()
	if got, want, same := w.compare(entry, value, key); !same {
		w.tb.Errorf("freshettest: %s %v is stale: %s was read, and the database has %s", entry, key, got, want)
	}
}

// Stale fails the test unless a value that was read is another one than the database has for the key now.
func (w *World) Stale(entry string, value any, key ...any) {
	w.tb.Helper()
	if got, _, same := w.compare(entry, value, key); same {
		w.tb.Errorf("freshettest: %s %v is fresh: the database has %s as well", entry, key, got)
	}
}

// compare compares what a value says with the row, as JSON values are: fields that the value's type does not have do not count.
func (w *World) compare(entry string, value any, key []any) (got, want string, same bool) {
	w.tb.Helper()
	e, args := w.entry(entry, key)
	if e.SQL == "" {
		w.tb.Fatalf("freshettest: entry %s is loaded by code, so that no row says what is fresh", entry)
	}
	row, found := w.rows.row(e.SQL, e.Result, args)
	read, err := json.Marshal(value)
	if err != nil {
		w.tb.Fatalf("freshettest: %v", err)
	}
	if !found {
		return string(read), "no such row", false
	}
	typed := reflect.New(reflect.TypeOf(value))
	if err := json.Unmarshal(row, typed.Interface()); err != nil {
		w.tb.Fatalf("freshettest: the row of %s %v is no %T: %v", entry, key, value, err)
	}
	has, err := json.Marshal(typed.Elem().Interface())
	if err != nil {
		w.tb.Fatalf("freshettest: %v", err)
	}
	return string(read), string(has), bytes.Equal(read, has)
}
