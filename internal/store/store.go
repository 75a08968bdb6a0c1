// Package store is what stores and those who use them talk in: the questions, the answers and the errors. Two packages keep
// a store, redisstore in Redis and memstore in the process's own memory; nobody above them needs to know which one it is.
package store

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/freshet/freshet/internal/fence"
)

const (
	// LeaseMargin is how much longer than its lease a record without a value lives, so that the end of a lease is
	// an answer of its own and not the same as its absence.
	LeaseMargin = time.Second
	// FenceLife is how long a fence is kept that belongs to no value and no lease. It spares loads that would miss the
	// transaction; nothing rests on it.
	FenceLife = 5 * time.Second
)

// Every error but ErrUnavailable means that the store answered and did not do what was asked.
var (
	// ErrUnavailable wraps everything that kept an answer from coming: whether the command was done is not known.
	ErrUnavailable = errors.New("redis does not answer")
	// ErrNoPermission is a refusal by the server's access control.
	ErrNoPermission = errors.New("redis refuses the user")
	// ErrOutOfMemory is the answer of a full server.
	ErrOutOfMemory = errors.New("redis is out of memory")
	// ErrTooLarge says that the store keeps no value of that size.
	ErrTooLarge = errors.New("the value is too large for the store")
	// ErrSuperseded says that a later daemon owns the store: whoever gets it steps down.
	ErrSuperseded = errors.New("a later daemon has taken over")
	// ErrRevision says that the store has a roster of a higher revision: an earlier move was not finished. The caller
	// draws a higher one.
	ErrRevision = errors.New("a roster of a higher revision is stored")
	// ErrSplit says that the lanes are of different generations, or publications, although one daemon wrote them last: it
	// was stopped before it was done.
	ErrSplit = errors.New("the lanes of the cluster do not agree: a generation was begun and not finished")
)

// MismatchError says that the store is not as the daemon expected: it lost history, or a new generation began.
// Nothing was applied under the daemon's belief; it rewinds to Head, or begins a generation when there is none.
type MismatchError struct {
	Head   fence.Head
	Found  bool
	Replid string
}

func (e *MismatchError) Error() string {
	if !e.Found {
		return "the store is not as expected: it has no head"
	}
	return fmt.Sprintf("the store is not as expected: generation %s, term %s, confirmed to %s, replication id %s",
		e.Head.Generation, e.Head.Term, e.Head.Wc, e.Replid)
}

// Judged is a write of HEAD as an error: nil when it was applied.
func Judged(outcome fence.HeadOutcome, s fence.Shard) error {
	switch outcome {
	case fence.Applied:
		return nil
	case fence.Superseded:
		return ErrSuperseded
	case fence.Mismatch:
	}
	return &MismatchError{Head: s.Head, Found: s.Found, Replid: s.Replid}
}

// Tied is a record's bytes, nil when it is not there, and what epochs held at that moment.
type Tied struct {
	Text []byte
	IDs  []string // in the order in which they were asked for; empty for those that are not there
}

// Pinned is what a load can be stored with: the ids of its epochs, and HEAD, read after them on the same connection, with what
// it says of their buckets.
type Pinned struct {
	IDs       []string
	Head      fence.Head
	HeadFound bool
}

// LeaseReply is the answer to a LEASE.
type LeaseReply struct {
	Granted   bool
	Holder    fence.Token  // whose lease it is now: the caller's, or another's
	Record    fence.Record // as it is now stored, with value and fences, if there are any
	Head      fence.Head   // read after the grant, on the same connection; its Wi is the floor of the key's bucket
	HeadFound bool
	Now       int64 // the store's clock, in microseconds
}

// Left is for how long the lease lasts from when the answer was sent, never less than nothing.
func (l *LeaseReply) Left() time.Duration {
	return max(time.Duration(l.Record.Lease.End-l.Now)*time.Microsecond, 0)
}

// FillRequest is a value to store.
type FillRequest struct {
	Token      fence.Token
	Coverage   fence.Coverage
	State      fence.State // Live or Negative
	RowVersion string
	Keep       time.Duration // for how long the value is kept, stale, once it is invalidated; 0: it goes
	Epochs     []fence.Epoch
	Payload    []byte
	TTL        time.Duration
	// CompressAbove has a payload of more bytes than that compressed, by a store that does so. 0: none is.
	CompressAbove int
}

// RenewRequest says that the value over which a lease was granted is the one that the database has.
type RenewRequest struct {
	Token      fence.Token
	Coverage   fence.Coverage
	RowVersion string
	Keep       time.Duration // as in FillRequest
	Epochs     []fence.Epoch
	TTL        time.Duration
}

// Listening is until a key changes that was read, or the connection ends that would have told.
type Listening interface {
	// Heard is closed when it does, or may have.
	Heard() <-chan struct{}
	// Cancel ends it. It may be called more than once.
	Cancel()
}

// Wire is a connection as far as what was read on it is concerned: whether it is lost. It never becomes another, nor comes back.
type Wire struct{ lost atomic.Bool }

// Lost reports whether nothing will be heard any more of what was read on the connection.
func (w *Wire) Lost() bool { return w.lost.Load() }

// Lose marks the connection as lost. first is false when it was already.
func (w *Wire) Lose() (first bool) { return w.lost.CompareAndSwap(false, true) }

// LaneHead is what a lane says.
type LaneHead struct {
	Head  fence.Head
	Found bool
	Err   error // it could not be asked
	// Wire is the connection on which it has answered; nil unless the store says on it when something changes that was read on it.
	Wire *Wire
}

// JoinHeads is what the HEADs of all lanes say together. It fails when none answered, or with ErrSplit.
func JoinHeads(heads []LaneHead) (fence.Head, bool, error) {
	if len(heads) == 1 {
		return heads[0].Head, heads[0].Found, heads[0].Err
	}
	said := make([]fence.Head, len(heads))
	var errs []error
	for i, h := range heads {
		if h.Found {
			said[i] = h.Head
		}
		if h.Err != nil {
			errs = append(errs, fmt.Errorf("lane %d: %w", i, h.Err))
		}
	}
	if len(errs) == len(heads) {
		return fence.Head{}, false, errors.Join(errs...)
	}
	joined, found, split := fence.Join(said)
	if split {
		return joined, found, ErrSplit
	}
	return joined, found, nil
}

// Held is what a key holds.
type Held struct {
	Found bool // the key is there
	Other bool // it holds something of another type than was asked for
	Text  []byte
	TTL   time.Duration // until it expires; 0: it does not
}

// Draw returns 64 random bits as 16 hexadecimal digits: a generation, an activation, the name of a count. Never a counter, so that a
// name which was used once is not used again whatever history a store has lost.
func Draw() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
