package fence

import (
	"fmt"

	"github.com/freshet/freshet/mvcc"
)

// LeaseOutcome is the answer to a LEASE.
type LeaseOutcome uint8

// The answers to a LEASE.
const (
	_       LeaseOutcome = iota
	Granted              // the reader may load, and then fill
	Busy                 // another reader's lease holds
)

// String names the outcome.
func (o LeaseOutcome) String() string {
	switch o {
	case Granted:
		return "granted"
	case Busy:
		return "busy"
	}
	return fmt.Sprintf("LeaseOutcome(%d)", uint8(o))
}

// Acquire is LEASE (R2): granted over anything without a live lease. Value and fences stay, and the caller gets them
// with the answer: a value that came to life meanwhile can be served, and fences say what a load must cover.
func Acquire(r Record, token Token, now, end int64) (Record, LeaseOutcome) {
	if r.Lease.LiveAt(now) {
		return r, Busy
	}
	r.Lease = Lease{Token: token, End: end}
	return r, Granted
}

// FillOutcome is the answer to a FILL.
type FillOutcome uint8

// The answers to a FILL.
const (
	_           FillOutcome = iota
	Filled                  // stored
	NoLease                 // the token's lease is not there: taken away by a confirm, evicted, or another's
	LeaseEnded              // the lease is there and has ended
	NotCovering             // a fence asks for a transaction that the load did not see
	NotNewer                // the live value may be newer than the load
)

// String names the outcome.
func (o FillOutcome) String() string {
	switch o {
	case Filled:
		return "filled"
	case NoLease:
		return "no_lease"
	case LeaseEnded:
		return "lease_ended"
	case NotCovering:
		return "not_covering"
	case NotNewer:
		return "not_newer"
	}
	return fmt.Sprintf("FillOutcome(%d)", uint8(o))
}

// Filling is what a FILL wants to store.
type Filling struct {
	Token      Token
	Coverage   Coverage
	State      State // Live or Negative
	RowVersion string
	Payload    []byte
}

// Fill is FILL (R5): accepted only under the token's own lease, which must not have ended, by a load that covers every
// fence and that is at least as new as the live value that it replaces. What was accepted covers the fences, so they
// go together with the lease.
func Fill(r Record, f Filling, now int64) (Record, FillOutcome) {
	if r.Lease.IsZero() || r.Lease.Token != f.Token {
		return r, NoLease
	}
	if !r.Lease.LiveAt(now) {
		return r, LeaseEnded
	}
	for _, x := range r.Fences {
		if !f.Coverage.Covers(x) {
			return r, NotCovering
		}
	}
	if r.State.Live() && !f.Coverage.Dominates(r.Coverage) {
		return r, NotNewer
	}
	return Record{State: f.State, Coverage: f.Coverage, RowVersion: f.RowVersion, Filled: now, Payload: f.Payload}, Filled
}

// Release gives an unused lease back, so that the next reader need not wait for its end. It reports whether the lease
// was there. Value and fences stay.
func Release(r Record, token Token) (Record, bool) {
	if r.Lease.IsZero() || r.Lease.Token != token {
		return r, false
	}
	r.Lease = Lease{}
	return r, true
}

// Empty reports whether the record says nothing, and so need not be stored.
func (r *Record) Empty() bool { return r.State == None && r.Lease.IsZero() && len(r.Fences) == 0 }

// Confirm is CONFIRM by UNLINK (D3): value, lease and fences go together, so that no load that began before can fill.
func Confirm(Record) Record { return Record{} }

// Floor reports whether a load may be filled as far as HEAD can tell (R4); the HEAD must have been read after the
// lease was granted. A primary's snapshot must see everything that was ever confirmed, a standby must have replayed
// past every confirmed transaction. It is what refuses a load whose lease was granted only after the confirm that it
// misses.
func Floor(h Head, c Coverage) bool {
	if h.Generation == "" || h.Si.IsZero() {
		return false
	}
	if !c.Snapshot.IsZero() {
		return c.Snapshot.Dominates(h.Si)
	}
	return c.Standby() && c.Replay >= h.Wi
}

// Grow returns the snapshot that sees what either of a and b sees.
func Grow(a, b mvcc.Snapshot) mvcc.Snapshot {
	if a.IsZero() {
		return b
	}
	if b.IsZero() {
		return a
	}
	if b.Xmax > a.Xmax {
		a, b = b, a
	}
	// Whatever is invisible to both is invisible to the one with the higher Xmax, so it is in that one's Xip.
	joined := mvcc.Snapshot{Xmin: a.Xmax, Xmax: a.Xmax}
	for _, x := range a.Xip {
		if !b.Sees(x) {
			joined.Xip = append(joined.Xip, x)
		}
	}
	if len(joined.Xip) > 0 {
		joined.Xmin = joined.Xip[0]
	}
	return joined
}
