package redisstore

import (
	"fmt"
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
	Advance mvcc.LSN      // the new Wc, 0 for none
	Sa      mvcc.Snapshot // the new Sa, zero for none; only with Advance, which may be the old Wc
	Ticks   fence.Ticks   // read before Sa was taken
}

// raisedAtMost bounds what one INTENT writes: a batch with keys in more buckets raises the floors of all.
const raisedAtMost = 256

// raise is whose floors the batch raises in a lane with these of its keys.
func (b *Batch) raise(names []string, keys []Stamped) raise {
	all, some := raise{To: b.Wi, All: true}, raise{To: b.Wi}
	if b.All {
		return all
	}
	var seen [fence.Buckets]bool
	add := func(name string) (fits bool) {
		if bucket := fence.BucketOf(name); !seen[bucket] {
			seen[bucket] = true
			some.Buckets = append(some.Buckets, bucket)
		}
		return len(some.Buckets) <= raisedAtMost
	}
	for _, name := range names {
		if !add(name) {
			return all
		}
	}
	for i := range keys {
		if !add(keys[i].Name) {
			return all
		}
	}
	return some
}

type raise fence.Raise

// fields are the names of the floors among HEAD's fields.
func (r raise) fields() []string {
	if r.All {
		return []string{"wi"}
	}
	fields := make([]string, len(r.Buckets))
	for i, b := range r.Buckets {
		fields[i] = b.Field()
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
	Kept    int64       // live values that contain what was to be confirmed
	Ticks   fence.Ticks // the readers' counts, as they were during Apply
}

// add counts what EARLY, CONFIRM or UNLINK answered.
func (r *Result) add(reply rueidis.RedisResult) error {
	message, err := reply.ToMessage()
	if err != nil {
		return typed(err)
	}
	if message.IsInt64() {
		n, err := message.AsInt64()
		r.Removed += n
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
