package chaos

import (
	"fmt"
	"sync"
	"time"

	"github.com/freshet/freshet/mvcc"
)

// bound is how long after a commit readers may still be given what it superseded, while nothing is broken. The usual
// time is some milliseconds, and up to 0.6 s more for a commit that does not wait for its flush; the rest is for busy
// machines.
const bound = 3 * time.Second

// change is one committed change of an item.
type change struct {
	version int64
	exists  bool
	at      time.Time // when the writer knew of the commit: at or after it
	xid     mvcc.XID  // the transaction; 0: one from before the run
	end     mvcc.LSN  // a position at or after the commit's end; 0: not known
}

// ledger is what the writers know about the items. Changes of one item are made under a lock that is held until the
// commit, so their versions are in the order of the commits.
type ledger struct {
	bound time.Duration
	mu    sync.Mutex
	items map[int64]*history
}

type history struct {
	changes  []change
	deleting int       // transactions under way that deleted it
	deleted  time.Time // when the last of those was over, whatever became of it
}

func newLedger() *ledger { return &ledger{bound: bound, items: map[int64]*history{}} }

func (l *ledger) of(id int64) *history {
	h := l.items[id]
	if h == nil {
		h = &history{}
		l.items[id] = h
	}
	return h
}

// deletes notes that a transaction is about to delete the item.
func (l *ledger) deletes(id int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of(id).deleting++
}

// over notes the end of a transaction: what it deleted, and, if it is known to be committed, what it changed.
func (l *ledger) over(deleted []int64, changed map[int64]change, xid mvcc.XID, end mvcc.LSN) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for _, id := range deleted {
		h := l.of(id)
		h.deleting--
		h.deleted = now
	}
	for id, c := range changed {
		c.at, c.xid, c.end = now, xid, end
		h := l.of(id)
		h.changes = append(h.changes, c)
	}
}

// reset forgets everything and begins with what the database has. A crash may have undone commits.
func (l *ledger) reset(t truth) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.items)
	now := time.Now()
	for id := int64(1); id <= items; id++ {
		text := t[keyOf("item", id)]
		if text == "" {
			continue
		}
		version, err := versionOf(text)
		if err != nil {
			return err
		}
		l.of(id).changes = []change{{version: version, exists: true, at: now}}
	}
	return nil
}

// began is what was known when a read began.
type began struct {
	at      time.Time
	applied mvcc.LSN   // everything that ends up to here had been applied; 0: not known
	whole   *time.Time // since when nothing was broken; nil: something was
}

// seen reports whether a read that began so must see the change: the store had it, or it was committed long ago.
func (b *began) seen(c *change, bound time.Duration) bool {
	if c.end != 0 && c.end <= b.applied {
		return true
	}
	latest := b.at.Add(-bound)
	return b.whole != nil && !latest.Before(*b.whole) && !c.at.After(latest)
}

// judge says what is wrong with a value that has an item's version (empty: absent); empty when nothing is.
func (l *ledger) judge(id int64, value string, b *began) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.of(id)
	if value != "" {
		version, err := versionOf(value)
		if err != nil {
			return "", err
		}
		for _, c := range h.changes {
			if c.version > version && b.seen(&c, l.bound) {
				return fmt.Sprintf("version %d was read %v after version %d was committed (at %v, applied %v)",
					version, b.at.Sub(c.at), c.version, c.end, b.applied), nil
			}
		}
		return "", nil
	}
	if h.deleting > 0 {
		return "", nil
	}
	var last change
	for _, c := range h.changes {
		if b.seen(&c, l.bound) && c.version > last.version {
			last = c
		}
	}
	// A deletion that came later, or that may have, explains it.
	for _, c := range h.changes {
		if c.version > last.version && !c.exists {
			return "", nil
		}
	}
	if last.exists && !h.deleted.After(last.at) {
		return fmt.Sprintf("it was missing %v after version %d was committed (at %v, applied %v)",
			b.at.Sub(last.at), last.version, last.end, b.applied), nil
	}
	return "", nil
}
