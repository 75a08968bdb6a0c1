// Package watermark says how far a log is applied without a hole, when its transactions are finished in another order
// than they were committed in: a transaction that is not yet visible waits alone, and what follows it does not wait.
package watermark

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/freshet/freshet/mvcc"
)

// ID names a transaction that was appended: a running number.
type ID uint64

// Tracker holds the transactions from the oldest unfinished one on, those that are finished in runs: what waits for long
// costs nothing for each transaction that passes it. The zero Tracker starts at position 0.
type Tracker struct {
	next    ID
	entries []entry // from head on; a queue whose front is dropped lazily
	head    int
	limit   int // of entries, when they are squeezed again
	end     mvcc.LSN
	last    mvcc.LSN // end of the newest transaction
}

// entry is an unfinished transaction, or a run of finished ones.
type entry struct {
	first ID
	end   mvcc.LSN // of the run's last transaction
	done  bool
}

// leastLimit is how many entries are not worth squeezing.
const leastLimit = 64

// New starts a tracker at a position: transactions that end at or before it were applied already.
func New(start mvcc.LSN) *Tracker { return &Tracker{end: start, last: start} }

// Append adds the next transaction of the log, by its end. It reports skip for one that ends at or before the start
// or the end of an earlier one: it was applied, and has no ID.
func (t *Tracker) Append(end mvcc.LSN) (id ID, skip bool) {
	if end <= t.last {
		return 0, true
	}
	if len(t.entries) >= max(t.limit, leastLimit) {
		t.squeeze()
	}
	t.last = end
	id = t.next
	t.next++
	t.entries = append(t.entries, entry{first: id, end: end})
	return id, false
}

// Done marks a transaction as applied and returns the end of the prefix of which everything is. Marking one twice is
// a mistake of the caller, and panics: a watermark that is ahead of the truth loses invalidations.
func (t *Tracker) Done(id ID) mvcc.LSN {
	behind := t.entries[t.head:]
	at, found := slices.BinarySearchFunc(behind, id, func(e entry, id ID) int { return cmp.Compare(e.first, id) })
	if !found || behind[at].done {
		panic(fmt.Sprintf("watermark: transaction %d is not open", id))
	}
	behind[at].done = true
	for t.head < len(t.entries) && t.entries[t.head].done {
		t.end = t.entries[t.head].end
		t.head++
	}
	return t.end
}

// squeeze drops the finished front and makes one entry of each run of finished transactions. It is due when there are twice
// as many entries as it left, so that each costs a constant on average, and at most twice as many are left as are unfinished.
func (t *Tracker) squeeze() {
	kept := t.entries[:0]
	for _, e := range t.entries[t.head:] {
		if n := len(kept); n > 0 && e.done && kept[n-1].done {
			kept[n-1].end = e.end
			continue
		}
		kept = append(kept, e)
	}
	t.entries, t.head, t.limit = kept, 0, 2*len(kept)
}

// Last is the end of the newest transaction or position: nothing before it is missing here.
func (t *Tracker) Last() mvcc.LSN { return t.last }

// End is the end of the prefix of which everything is applied.
func (t *Tracker) End() mvcc.LSN { return t.end }
