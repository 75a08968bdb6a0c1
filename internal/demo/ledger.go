package demo

import (
	"slices"
	"sync"
	"time"
)

// ledger knows every value that a row of the shop has had and when COMMIT returned for the one after it, so that each
// read can be judged when it was made: fresh, stale by so much, or never true.
type ledger struct {
	mu   sync.Mutex
	rows map[string][]version
}

type version struct {
	value     string
	committed time.Time // zero: COMMIT has not returned yet, though readers may see the value
}

func newLedger() *ledger { return &ledger{rows: map[string][]version{}} }

// know notes the value that a row starts with.
func (l *ledger) know(row, value string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rows[row] = []version{{value: value, committed: time.Now()}}
}

// write notes the value around the statement that writes it. Writers of one row take turns.
func (l *ledger) write(row, value string, statement func() error) (committed time.Time, err error) {
	l.mu.Lock()
	at := len(l.rows[row])
	l.rows[row] = append(l.rows[row], version{value: value})
	l.mu.Unlock()
	if err := statement(); err != nil {
		return time.Time{}, err // it may be committed all the same: the value stays possible
	}
	committed = time.Now()
	l.mu.Lock()
	l.rows[row][at].committed = committed
	l.mu.Unlock()
	return committed, nil
}

// last is the value that the row has now.
func (l *ledger) last(row string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	versions := l.rows[row]
	if len(versions) == 0 {
		return ""
	}
	return versions[len(versions)-1].value
}

// judge says by how much a read that started at the given time was stale; true is false when the row never had the
// value. A value that came back is taken for the last time that the row had it.
func (l *ledger) judge(row, value string, started time.Time) (stale time.Duration, isTrue bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	versions := l.rows[row]
	for at, v := range slices.Backward(versions) {
		if v.value != value {
			continue
		}
		for _, next := range versions[at+1:] {
			if !next.committed.IsZero() {
				return max(started.Sub(next.committed), 0), true
			}
		}
		return 0, true
	}
	return 0, false
}
