// Package fence is the safety rule: which value may be stored, and when a store's word may be believed. It is pure.
// Every decision is a function of (what is stored, what is asked, the store's clock) to (what is stored then, the
// answer); the scripts of internal/redisstore do the same to real records and are tested to be equal, and spec
// explores these very functions. docs/protocol.md says why they are as they are (R0 to R6, D1 to D8), docs/redis.md
// has the bytes.
package fence

import (
	"fmt"
	"strings"

	"github.com/freshet/freshet/mvcc"
)

// Token identifies one lease: 128 random bits in 32 hexadecimal digits, drawn anew for every attempt. A token that
// was sent once is never sent with a second LEASE: the first might still be under way, and be granted after the load.
type Token string

// Valid reports whether t has the form of a token.
func (t Token) Valid() bool { return len(t) == 32 && isHex(string(t)) }

// Term orders daemons: the timeline and the id of a transaction that the daemon had flushed after it acquired the
// slot. Terms are compared as strings; the empty term is lower than all others.
type Term string

// NewTerm is the term of a daemon.
func NewTerm(timeline uint32, x mvcc.XID) Term {
	return Term(fmt.Sprintf("%08x.%016x", timeline, uint64(x)))
}

// XID is the transaction whose commit the term is, 0 of one that is not in the form of NewTerm.
func (t Term) XID() mvcc.XID {
	_, low, ok := strings.Cut(string(t), ".")
	x, good := parseHex(low)
	if !ok || !good {
		return 0
	}
	return mvcc.XID(x)
}

// Stamp is what the log says about a transaction: its id, and e, the position up to which a standby must have
// replayed to contain it.
type Stamp struct {
	XID mvcc.XID
	End mvcc.LSN
}

// Coverage says which transactions a value contains: those visible under a primary's Snapshot, or, for a value read
// on a standby, those that end at or before Replay. The zero Coverage covers nothing.
type Coverage struct {
	Snapshot mvcc.Snapshot
	Replay   mvcc.LSN
}

// IsZero reports whether the coverage says nothing.
func (c Coverage) IsZero() bool { return c.Snapshot.IsZero() && c.Replay == 0 }

// Standby reports whether the coverage is a standby's position. A coverage that has a snapshot is judged by it alone.
func (c Coverage) Standby() bool { return c.Snapshot.IsZero() && c.Replay != 0 }

// Covers reports whether a value of this coverage contains what the transaction did.
func (c Coverage) Covers(x Stamp) bool {
	if !c.Snapshot.IsZero() {
		return c.Snapshot.Sees(x.XID)
	}
	return c.Standby() && x.End <= c.Replay
}

// Dominates reports whether a value of this coverage is at least as new as one of the other. Snapshots and replay
// positions cannot be compared; then it is false.
func (c Coverage) Dominates(d Coverage) bool {
	switch {
	case d.IsZero():
		return true
	case !c.Snapshot.IsZero() && !d.Snapshot.IsZero():
		return c.Snapshot.Dominates(d.Snapshot)
	case c.Standby() && d.Standby():
		return c.Replay >= d.Replay
	}
	return false
}

// State says what a record holds.
type State uint8

// The states of a record. A negative record says that there is no such row; it is a value like any other.
const (
	None          State = iota // no value; perhaps a lease or fences
	Live                       // a value that may be served
	Negative                   // live, "no such row"
	Stale                      // a value that may be served only where staleness is tolerated
	StaleNegative              // stale, "no such row"
)

// String names the state.
func (s State) String() string {
	switch s {
	case None:
		return "none"
	case Live:
		return "live"
	case Negative:
		return "negative"
	case Stale:
		return "stale"
	case StaleNegative:
		return "stale negative"
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// Live reports whether the state is a hit.
func (s State) Live() bool { return s == Live || s == Negative }

// Stale reports whether the state is a value that was invalidated and is kept.
func (s State) Stale() bool { return s == Stale || s == StaleNegative }

// Record is everything that is stored for one key, in one string, so that a value, its lease and its fences come and
// go together.
type Record struct {
	State      State
	Lease      Lease
	Fences     []Stamp
	Coverage   Coverage
	RowVersion string // the entry's own version of the row, empty for none
	Filled     int64  // the store's clock when the value was filled, in microseconds
	Keep       int64  // of a live value: for how long it is kept, stale, once it is invalidated, in microseconds; 0: it goes
	Marked     int64  // of a stale value: the store's clock when it was marked
	Epochs     []Epoch
	Payload    []byte
}

// Lease is a reader's right to fill a key.
type Lease struct {
	Token Token
	End   int64 // the store's clock, in microseconds. No safety rests on it.
}

// IsZero reports whether there is no lease.
func (l Lease) IsZero() bool { return l.Token == "" }

// LiveAt reports whether the lease holds at the given time of the store's clock.
func (l Lease) LiveAt(now int64) bool { return !l.IsZero() && now < l.End }

// Head is what the daemon vouches for in one store. Only the daemon writes it; readers test their loads against it.
type Head struct {
	Generation  string // 16 hexadecimal digits, random: the lineage of everything stored
	Term        Term   // of the daemon that may write
	Revision    uint64 // of the roster
	System      string // PostgreSQL's system identifier
	Timeline    uint32
	Publication string        // fingerprint of the publication
	Wi          mvcc.LSN      // intent: the floor of every bucket that has no higher one of its own
	Wc          mvcc.LSN      // every transaction that ends at or before it is confirmed
	Si          mvcc.Snapshot // intent: sees every transaction that was ever confirmed
	Sa          mvcc.Snapshot // everything visible in it is confirmed
	St          mvcc.Snapshot // intent: the Ended of every bucket of epochs that has none of its own
	Lt          mvcc.LSN      // of no meaning any more
	Tick        Tick          // read before the snapshot that is Sa was taken
	// Floors are the buckets' own: no transaction that ends after its bucket's, and after Wi, was confirmed for a key of
	// the bucket.
	Floors map[Bucket]mvcc.LSN
	// Ended are snapshots, each of which sees every transaction for which an epoch of the bucket was ended, or is about to be,
	// unless St does.
	Ended map[Bucket]mvcc.Snapshot
	// Of a lane in a cluster:
	Lane string // the lane's own generation, 16 hexadecimal digits: its names have it in the place of the Generation of all
	At   string // the history in which this HEAD was begun. In another one it is no HEAD: the lane was moved, or lost history

	Lanes []Head // by lane, of a HEAD that stands for several (Join); without generation where it says nothing of the lane
}
