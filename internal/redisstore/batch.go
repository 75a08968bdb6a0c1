package redisstore

import (
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/mvcc"
)

// namesPerUnlink names go into one UNLINK: enough that the command's own cost does not matter, few enough that the
// server does not pause for one.
const namesPerUnlink = 500

// What is under way before replies are read.
const (
	unlinksPerPipeline = 128
	keysPerPipeline    = 512
)

// fenceLife is how long a fence is kept that belongs to no value and no lease. It spares loads that would miss the
// transaction; nothing rests on it.
const fenceLife = 5 * time.Second

// Expected is what the daemon believes HEAD to say. The replication id is the one that this connection found when it
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

// raisedAtMost bounds what one INTENT writes: a batch with keys in more buckets raises the floors of all.
const raisedAtMost = 256

// raise is what the batch raises in a lane with these of its keys and epochs.
func (b *Batch) raise(s *share) raise {
	r := raise{To: b.Wi}
	r.Ended, r.AllEnded = buckets(slices.Values(s.epochs))
	if r.All = b.All; r.All {
		return r
	}
	r.Buckets, r.All = buckets(func(yield func(string) bool) {
		for _, names := range [][]string{s.names, s.epochs} {
			for _, name := range names {
				if !yield(name) {
					return
				}
			}
		}
		for i := range s.keys {
			if !yield(s.keys[i].Name) {
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
		if len(some) > raisedAtMost {
			return nil, true
		}
	}
	return some, false
}

type raise fence.Raise

// fields are the names of what is raised among HEAD's fields.
func (r raise) fields() []string {
	fields := make([]string, 0, 1+len(r.Buckets)+len(r.Ended))
	if r.All {
		fields = append(fields, "wi")
	}
	for _, b := range r.Buckets {
		fields = append(fields, b.Field())
	}
	if r.AllEnded {
		fields = append(fields, "st")
	}
	for _, b := range r.Ended {
		fields = append(fields, b.EndedField())
	}
	return fields
}

// Stamped is a key and the transactions that affect it.
type Stamped struct {
	Name   string
	Stamps []fence.Stamp
}

// args are those of the scripts that take stamps, behind the given ones.
func (k *Stamped) args(first ...string) []string {
	for _, x := range k.Stamps {
		first = append(first, fence.XIDText(x.XID), fence.LSNText(x.End))
	}
	return first
}

// Result is what was found and done.
type Result struct {
	Removed int64       // records that were unlinked, and live values that were removed from theirs
	Ended   int64       // epochs that were there and were ended
	Kept    int64       // live values that contain what was to be confirmed
	Ticks   fence.Ticks // the readers' counts, as they were during Apply
}

// add counts what EARLY, CONFIRM or UNLINK answered; that of epochs where ends is set.
func (r *Result) add(reply rueidis.RedisResult, ends bool) error {
	message, err := reply.ToMessage()
	if err != nil {
		return typed(err)
	}
	if message.IsInt64() {
		n, err := message.AsInt64()
		if ends {
			r.Ended += n
		} else {
			r.Removed += n
		}
		return typed(err)
	}
	outcome, err := message.ToString()
	if err != nil {
		return typed(err)
	}
	switch outcome {
	case fence.Removed.String():
		r.Removed++
	case fence.Kept.String():
		r.Kept++
	case fence.Absent.String(), fence.Fenced.String():
	default:
		return fmt.Errorf("answer %q: %w", outcome, ErrRefused)
	}
	return nil
}
