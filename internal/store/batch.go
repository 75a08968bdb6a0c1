package store

import (
	"iter"
	"slices"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/mvcc"
)

// Expected is what the daemon believes HEAD to say. The replication id is the one that its connection found when it
// claimed. Of several lanes, Wc is the lowest; the connection knows that of each.
type Expected struct {
	Generation string
	Term       fence.Term
	Wc         mvcc.LSN
}

// Batch is what one round of the daemon does to the store.
type Batch struct {
	Expect  Expected
	Wi      mvcc.LSN      // at or after the end of every transaction in the batch: where the floors of the names' buckets rise to
	All     bool          // the floors of all buckets rise
	Si      mvcc.Snapshot // the gate's: sees every transaction in the batch
	Names   []string      // keys to confirm by UNLINK
	Keys    []Stamped     // keys to confirm by script
	Epochs  []string      // epochs to end, by UNLINK
	Advance mvcc.LSN      // the new Wc, 0 for none
	Sa      mvcc.Snapshot // the new Sa, zero for none; only with Advance, which may be the old Wc
	Ticks   fence.Ticks   // read before Sa was taken
}

// RaisedAtMost bounds what one INTENT writes: a batch with keys in more buckets raises the floors of all.
const RaisedAtMost = 256

// Raise is what the batch raises where these of its names, epochs and keys are: all of them, or those of a lane.
func (b *Batch) Raise(names, epochs []string, keys []Stamped) fence.Raise {
	r := fence.Raise{To: b.Wi}
	r.Ended, r.AllEnded = buckets(slices.Values(epochs))
	if r.All = b.All; r.All {
		return r
	}
	r.Buckets, r.All = buckets(func(yield func(string) bool) {
		for _, some := range [][]string{names, epochs} {
			for _, name := range some {
				if !yield(name) {
					return
				}
			}
		}
		for i := range keys {
			if !yield(keys[i].Name) {
				return
			}
		}
	})
	return r
}

// buckets are those of names, or all.
func buckets(names iter.Seq[string]) (some []fence.Bucket, all bool) {
	var seen [fence.Buckets]bool
	for name := range names {
		if bucket := fence.BucketOf(name); !seen[bucket] {
			seen[bucket] = true
			some = append(some, bucket)
		}
		if len(some) > RaisedAtMost {
			return nil, true
		}
	}
	return some, false
}

// Stamped is a key and the transactions that affect it.
type Stamped struct {
	Name   string
	Stamps []fence.Stamp
	Live   *bool // set when a live value was found that does not contain them; nil: nobody asks
}

// Result is what was found and done.
type Result struct {
	Removed int64       // records that were unlinked, and live values that were removed from theirs
	Ended   int64       // epochs that were there and were ended
	Kept    int64       // live values that contain what was to be confirmed
	Ticks   fence.Ticks // the readers' counts, as they were during Apply
}

// Count counts what EARLY or CONFIRM answered for one key.
func (r *Result) Count(outcome fence.InvalidateOutcome) {
	switch outcome {
	case fence.Removed:
		r.Removed++
	case fence.Kept:
		r.Kept++
	case fence.Absent, fence.Fenced:
	}
}
