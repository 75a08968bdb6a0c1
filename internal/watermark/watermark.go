// Package watermark says how far a log is applied without a hole, when its transactions are finished in another order
// than they were committed in: a transaction that is not yet visible waits alone, and what follows it does not wait.
package watermark

import (
	"fmt"

	"github.com/freshet/freshet/mvcc"
)

// ID names a transaction that was appended: a running number.
type ID uint64

// Tracker holds the transactions behind the oldest unfinished one. The zero Tracker starts at position 0.
type Tracker struct {
	first   ID // of entries[head]
	next    ID
	entries []entry // from head on; a queue whose front is dropped lazily
	head    int
	open    int // unfinished ones
	end     mvcc.LSN
	last    mvcc.LSN // end of the newest transaction
}

type entry struct {
	end  mvcc.LSN
	done bool
}

// New starts a tracker at a position: transactions that end at or before it were applied already.
func New(start mvcc.LSN) *Tracker { return &Tracker{end: start, last: start} }

// Append adds the next transaction of the log, by its end. It reports skip for one that ends at or before the start
// or the end of an earlier one: it was applied, and has no ID.
func (t *Tracker) Append(end mvcc.LSN) (id ID, skip bool) {
	if end <= t.last {
		return 0, true
	}
	t.last = end
	id = t.next
	t.next++
	t.entries = append(t.entries, entry{end: end})
	t.open++
	return id, false
}

// Done marks a transaction as applied and returns the end of the prefix of which everything is. Marking one twice is
// a mistake of the caller, and panics: a watermark that is ahead of the truth loses invalidations.
func (t *Tracker) Done(id ID) mvcc.LSN {
	at := t.head + int(id-t.first) //nolint:gosec // id is one of entries, checked below
	if id < t.first || id >= t.next || t.entries[at].done {
		panic(fmt.Sprintf("watermark: transaction %d is not open", id))
	}
	t.entries[at].done = true
	t.open--
	for t.head < len(t.entries) && t.entries[t.head].done {
		t.end = t.entries[t.head].end
		t.head++
		t.first++
	}
	t.compact()
	return t.end
}

// compact drops the finished front once it is at least half of the slice, so that each entry moves once on average.
func (t *Tracker) compact() {
	if t.head*2 < len(t.entries) {
		return
	}
	n := copy(t.entries, t.entries[t.head:])
	t.entries = t.entries[:n]
	t.head = 0
}

// Last is the end of the newest transaction or position: nothing before it is missing here.
func (t *Tracker) Last() mvcc.LSN { return t.last }

// End is the end of the prefix of which everything is applied.
func (t *Tracker) End() mvcc.LSN { return t.end }

// Advance moves the end forward to a position before which the log holds no further transaction. It has an effect
// only while nothing is open.
func (t *Tracker) Advance(to mvcc.LSN) mvcc.LSN {
	if t.open == 0 && to > t.end {
		t.end = to
		t.last = max(t.last, to)
	}
	return t.end
}

// Open counts the transactions that are not applied yet, and Held those that are remembered: open ones and ones
// behind an open one.
func (t *Tracker) Open() int { return t.open }

// Held counts the remembered transactions: the open ones and the finished ones that wait behind an open one.
func (t *Tracker) Held() int { return len(t.entries) - t.head }
