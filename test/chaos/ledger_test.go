package chaos

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/freshet/freshet"
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
	strict  bool      // it was fenced before its COMMIT and after it
}

// commit is a committed transaction.
type commit struct {
	token freshet.Token
	wrote map[int64]change
}

// ledger is what the writers know about the items. Changes of one item are made under a lock that is held until the
// commit, so their versions are in the order of the commits.
type ledger struct {
	bound   time.Duration
	mu      sync.Mutex
	items   map[int64]*history
	commits []commit
}

type history struct {
	changes  []change
	deleting int       // transactions under way that deleted it
	doubtful time.Time // when the last of those was over of which nobody knows what became of it
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

// outcome is what became of a transaction.
type outcome struct {
	committed bool
	unknown   bool // nobody can tell
	token     freshet.Token
	end       mvcc.LSN
	strict    bool
}

// over notes the end of a transaction: what it was about to delete, and what it changed.
func (l *ledger) over(deleted []int64, changed map[int64]change, o outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for _, id := range deleted {
		h := l.of(id)
		h.deleting--
		if o.unknown {
			h.doubtful = now
		}
	}
	if !o.committed || len(changed) == 0 {
		return
	}
	c := commit{token: o.token, wrote: map[int64]change{}}
	for id, made := range changed {
		made.at, made.xid, made.end, made.strict = now, o.token.XID, o.end, o.strict
		h := l.of(id)
		h.changes = append(h.changes, made)
		c.wrote[id] = made
	}
	l.commits = append(l.commits, c)
}

// recent is one of the last commits; false when there is none yet.
func (l *ledger) recent(back int) (commit, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.commits) == 0 {
		return commit{}, false
	}
	return l.commits[max(0, len(l.commits)-1-back)], true
}

// reset forgets everything and begins with what the database has. A crash may have undone commits.
func (l *ledger) reset(t truth) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.items)
	l.commits = nil
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

// promise is what a read that began then was promised, by what it asked and by what was known.
type promise struct {
	at      time.Time
	applied mvcc.LSN      // everything that ends up to here had been applied; 0: not known
	whole   time.Time     // since when nothing has been broken; zero: something was
	strict  bool          // strict commits that had returned
	after   int64         // this version of the item, which the transaction of a token made
	bounded bool          // what was committed longer before than stale
	stale   time.Duration // 0: everything that was committed
	again   bool          // since it was compared with the database
	memory  bool          // what was applied need be known for as long as processes may hold values
}

// sees reports whether the read must see the change, and by which promise.
func (p *promise) sees(c *change, bound time.Duration) (by string, must bool) {
	latest := p.at.Add(-bound)
	switch {
	case c.version <= p.after:
		return "it was asked for by token", true
	case p.bounded && !c.at.After(p.at.Add(-p.stale)):
		return fmt.Sprintf("it was asked for by a bound of %v (compared with the database: %v)", p.stale, p.again), true
	case p.strict && c.strict && c.at.Before(p.at):
		return "it was a strict commit", true
	case c.end != 0 && c.end <= p.applied:
		return fmt.Sprintf("it ended at %v, and all up to %v was applied", c.end, p.applied), true
	case !p.whole.IsZero() && !latest.Before(p.whole) && !c.at.After(latest):
		return "nothing was broken", true
	}
	return "", false
}

// judge says what is wrong with a value that has an item's version (empty: absent); empty when nothing is.
func (l *ledger) judge(id int64, value string, p *promise) (string, error) {
	version := int64(0)
	if value != "" {
		var err error
		if version, err = versionOf(value); err != nil {
			return "", err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.of(id)
	var (
		last change // of those that it must see
		why  string
	)
	for i := range h.changes {
		c := &h.changes[i]
		if c.version <= last.version {
			continue
		}
		if by, must := p.sees(c, l.bound); must {
			last, why = *c, by
		}
	}
	since := p.at.Sub(last.at).Round(time.Microsecond)
	switch {
	case value != "" && version < last.version:
		return fmt.Sprintf("version %d was read %v after version %d was committed by %d: %s", version, since, last.version, last.xid, why), nil
	case value == "" && last.exists && !h.mayLack(last):
		return fmt.Sprintf("it was missing %v after version %d was committed by %d: %s", since, last.version, last.xid, why), nil
	}
	return "", nil
}

// underWay reports whether a deletion that nobody has noted yet, or will, explains that the item is missing.
func (h *history) underWay(last change) bool { return h.deleting > 0 || h.doubtful.After(last.at) }

// mayLack reports whether a deletion that came after the change, or may have come, does.
func (h *history) mayLack(last change) bool {
	return h.underWay(last) || slices.ContainsFunc(h.changes, func(c change) bool { return c.version > last.version && !c.exists })
}
