package verify

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/freshet/freshet/internal/envelope"
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/mvcc"
)

// likeness is how a cached value compares with its truth.
type likeness uint8

const (
	equal      likeness = iota + 1
	otherOrder          // the same rows in another order, under a query that orders them
	different
)

// compare holds a live record against what the database has.
func compare(r *fence.Record, found bool, payload []byte, e *rule.Entry) likeness {
	cached := r.State == fence.Live
	switch {
	case cached != found:
		return different
	case !cached || bytes.Equal(r.Payload, payload):
		return equal
	case e.Result != rule.Many || !sameRows(r.Payload, payload):
		return different
	case ordered(e.SQL):
		return otherOrder
	}
	return equal // without ORDER BY the order means nothing
}

// ordered reports whether a query says in which order its rows come.
func ordered(sql string) bool { return strings.Contains(strings.ToLower(sql), "order by") }

// compare is that for a value that code loaded.
func (s *shape) compare(r *fence.Record, found bool, row []byte) likeness {
	if r.State != fence.Live || !found {
		if (r.State == fence.Live) != found {
			return different
		}
		return equal
	}
	cached, err := envelope.JSONOf(r.Payload)
	if err != nil {
		return different
	}
	same, err := s.same(string(cached), found, row)
	if err == nil && !same && !s.bag {
		bag := *s
		bag.bag = true
		if same, err = bag.same(string(cached), found, row); err == nil && same {
			return otherOrder
		}
	}
	if err != nil || !same {
		return different
	}
	return equal
}

// sameRows compares two arrays as bags of rows. Rows are texts that PostgreSQL built in one and the same way.
func sameRows(a, b []byte) bool {
	first, ok := rows(a)
	second, alsoOK := rows(b)
	return ok && alsoOK && slices.Equal(first, second)
}

func rows(text []byte) ([]string, bool) {
	var parts []json.RawMessage
	if err := json.Unmarshal(text, &parts); err != nil {
		return nil, false
	}
	sorted := make([]string, len(parts))
	for i, p := range parts {
		sorted[i] = string(p)
	}
	slices.Sort(sorted)
	return sorted, true
}

// needs is what HEAD must vouch for before a value that differs can be judged.
type needs struct {
	snapshot mvcc.Snapshot // that the truth was read under
	position mvcc.LSN      // where the last record of the log ended after that
	replay   mvcc.LSN      // of the standby that the value was loaded on; 0: it was the primary
}

// readable reports whether what code has stored can be compared with anything: whether it is JSON.
func readable(r *fence.Record) bool {
	_, err := envelope.JSONOf(r.Payload)
	return err == nil
}

// met reports whether HEAD vouches for it: every transaction that the snapshot sees is confirmed, and so is all that a
// standby may have shown before the primary did.
func (n *needs) met(h *fence.Head) bool {
	confirmed := h.Wc >= n.position || !h.Sa.IsZero() && h.Sa.Dominates(n.snapshot)
	return confirmed && h.Wc >= n.replay
}

// sameValue reports whether a record holds the value that was seen before: the one of that fill, and live. Leases and
// fences come and go over it.
func sameValue(seen *fence.Record, text []byte) bool {
	r, err := fence.ParseRecord(text)
	return err == nil && r.State == seen.State && r.Filled == seen.Filled && r.Coverage.String() == seen.Coverage.String() &&
		bytes.Equal(r.Payload, seen.Payload)
}

// rounds is how often the truth is loaded before a violation is reported.
const rounds = 2

// second is what a second look at a value that differed has found.
type second struct {
	round   int
	same    bool // the very value is still there, and live
	live    bool // its name was live before and after the record was read
	moving  bool // no roster was in force, or it changed in between: nothing can be said of the name
	met     bool // HEAD, read before the record, vouches for what the value lacks
	expired bool // it has taken as long as it may
}

// step is what to do about a value that differed.
type step uint8

const (
	wait     step = iota + 1
	again         // load the truth anew, and go through another round
	inFlight      // it is gone, or out of use
	undecided
	stale // nobody will remove it
)

// judge decides.
func judge(s second) step {
	switch {
	case !s.same, !s.moving && !s.live:
		return inFlight
	case !s.moving && s.met && s.round < rounds:
		return again
	case !s.moving && s.met:
		return stale
	case s.expired:
		return undecided
	}
	return wait
}

// Cause is why a value is stale, as far as it can be told.
type Cause string

// The causes.
const (
	// NoCoverage: the record does not say what it contains. Something wrote it past the protocol.
	NoCoverage Cause = "no_coverage"
	// OtherHistory: it contains transactions that the database has not come to. They were of another history.
	OtherHistory Cause = "other_history"
	// ClaimsToContain: it says that it contains everything that the truth does, and differs. Its payload was changed past
	// the protocol, or is not a function of the data.
	ClaimsToContain Cause = "claims_to_contain"
	// NotRemoved: it is older than a change that is confirmed. A deletion was missed, or a fill let in that should not.
	NotRemoved Cause = "not_removed"
)

func causeOf(c fence.Coverage, n *needs) Cause {
	switch {
	case c.IsZero():
		return NoCoverage
	case c.Standby():
		if c.Replay >= n.position {
			return ClaimsToContain
		}
	case !n.snapshot.Dominates(c.Snapshot): // what was visible stays visible
		return OtherHistory
	case c.Snapshot.Dominates(n.snapshot):
		return ClaimsToContain
	}
	return NotRemoved
}
