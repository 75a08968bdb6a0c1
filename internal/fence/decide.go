package fence

import (
	"fmt"
	"slices"

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

// AcquireOver is Acquire by a reader that has found a live value with epochs that do not hold. If it is there still, as its
// epochs tell, it goes: it is nobody's any more, and what it covers is nothing that a load would have to be newer than.
func AcquireOver(r Record, dead string, token Token, now, end int64) (Record, LeaseOutcome) {
	if !r.Lease.LiveAt(now) && dead != "" && r.State != None && EpochsText(r.Epochs) == dead {
		r = Record{Lease: r.Lease, Fences: r.Fences}
	}
	return Acquire(r, token, now, end)
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
	Renewed                 // of a RENEW: the live value has the load's coverage now
	NoValue                 // of a RENEW: the lease is there, and the value over which it was granted is not
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
	case Renewed:
		return "renewed"
	case NoValue:
		return "no_value"
	}
	return fmt.Sprintf("FillOutcome(%d)", uint8(o))
}

// Filling is what a FILL wants to store.
type Filling struct {
	Token      Token
	Coverage   Coverage
	State      State // Live or Negative
	RowVersion string
	Keep       int64
	Epochs     []Epoch
	Payload    []byte
}

// Fill is FILL (R5): accepted only under the token's own lease, which must not have ended, by a load that covers every
// fence and that is at least as new as the live value that it replaces. What was accepted covers the fences, so they
// go together with the lease.
func Fill(r Record, f Filling, now int64) (Record, FillOutcome) {
	if refused := refuse(&r, f.Token, f.Coverage, now); refused != 0 {
		return r, refused
	}
	return Record{
		State: f.State, Coverage: f.Coverage, RowVersion: f.RowVersion, Filled: now, Keep: f.Keep, Epochs: f.Epochs, Payload: f.Payload,
	}, Filled
}

// refuse says why a load may not decide what the record's value is, 0 when it may.
func refuse(r *Record, token Token, c Coverage, now int64) FillOutcome {
	if r.Lease.IsZero() || r.Lease.Token != token {
		return NoLease
	}
	if !r.Lease.LiveAt(now) {
		return LeaseEnded
	}
	for _, x := range r.Fences {
		if !c.Covers(x) {
			return NotCovering
		}
	}
	if r.State.Live() && !c.Dominates(r.Coverage) {
		return NotNewer
	}
	return 0
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

// MaxFences bounds the fences of one record.
const MaxFences = 16

// InvalidateOutcome says what an EARLY or a CONFIRM found and did.
type InvalidateOutcome uint8

// What an EARLY or a CONFIRM did.
const (
	_       InvalidateOutcome = iota
	Absent                    // nothing was stored
	Kept                      // a live value contains the transaction, and stays
	Removed                   // a live value did not, and is gone, or stale from now on
	Fenced                    // there was no live value; what else there is was dealt with
)

// String names the outcome as the scripts answer it.
func (o InvalidateOutcome) String() string {
	switch o {
	case Absent:
		return "absent"
	case Kept:
		return "kept"
	case Removed:
		return "removed"
	case Fenced:
		return "fenced"
	}
	return fmt.Sprintf("InvalidateOutcome(%d)", uint8(o))
}

// Gone is for the clock of an EARLY that leaves no value behind which does not contain the transaction, also none that
// would be kept.
const Gone int64 = 0

// Early is EARLY (D1), for a transaction that was delivered and may not be visible yet: a value that does not contain
// it is removed, or marked, and whoever fills next has to contain it. A lease stays, so that a load which began late enough can
// still fill. Nothing rests on an EARLY being done, or on what it left staying there.
//
// Beyond MaxFences the lease goes as well as the oldest fence, which might have been meant for it.
func Early(r Record, x Stamp, create bool, now int64) (Record, InvalidateOutcome) {
	if r.Empty() && !create {
		return Record{}, Absent
	}
	r, outcome := without(r, x, now)
	if outcome == Kept && r.Lease.IsZero() {
		return r, Kept
	}
	r.fence(x)
	if len(r.Fences) > MaxFences {
		r.Lease = Lease{}
		r.Fences = r.Fences[1:]
		if outcome == Kept {
			r.Fences = nil // they were for the lease: the value contains what it contains
		}
	}
	return r, outcome
}

// Confirm is CONFIRM by script (D3), for a transaction that is visible on the primary. A value that contains it stays; a
// lease stays too, ended or not, and whatever is filled under it has to contain the transaction. Leases granted later
// meet the floor, so without one the fence has done its work. Beyond MaxFences everything goes.
func Confirm(r Record, x Stamp, now int64) (Record, InvalidateOutcome) {
	if r.Empty() {
		return Record{}, Absent
	}
	r, outcome := without(r, x, now)
	if r.Lease.IsZero() {
		r.Fences = slices.DeleteFunc(slices.Clone(r.Fences), func(f Stamp) bool { return f.XID == x.XID })
		return r, outcome
	}
	r.fence(x)
	if len(r.Fences) > MaxFences {
		if outcome == Kept {
			outcome = Removed
		}
		return Record{}, outcome
	}
	return r, outcome
}

// Unlink is CONFIRM by UNLINK (D3): value, lease and fences go together, so that no load that began before can fill.
func Unlink(Record) Record { return Record{} }

// without is the record less a live value that does not contain x. One that is to be kept is marked, once: later
// transactions find it stale, and do not make it younger.
func without(r Record, x Stamp, now int64) (Record, InvalidateOutcome) {
	switch {
	case r.State == None, r.State.Stale() && now != Gone:
		return r, Fenced
	case r.State.Live() && r.Coverage.Covers(x):
		return r, Kept
	case now == Gone || r.Keep == 0:
		return Record{Lease: r.Lease, Fences: r.Fences}, Removed
	}
	if r.State == Live {
		r.State = Stale
	} else {
		r.State = StaleNegative
	}
	r.Keep, r.Marked = 0, now
	return r, Removed
}

// fence adds a fence. Where there is one for the transaction, the lower position holds: a writer that fences before its
// COMMIT does not know where that will end.
func (r *Record) fence(x Stamp) {
	r.Fences = slices.Clone(r.Fences)
	for i := range r.Fences {
		if r.Fences[i].XID == x.XID {
			r.Fences[i].End = min(r.Fences[i].End, x.End)
			return
		}
	}
	r.Fences = append(r.Fences, x)
}

// Floor reports whether a load may be filled as far as HEAD can tell (R4); the HEAD must have been read after the
// lease was granted, for the key's bucket (Head.For). A primary's snapshot must see everything that was ever confirmed, a
// standby must have replayed past every transaction that was confirmed for a key of the bucket. It is what refuses a load whose lease was granted only after the confirm that it
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
