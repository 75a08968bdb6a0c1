package fill

import (
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/mvcc"
)

// ForgetSights has the reader prove bounds by the store's counts alone, until its next load.
func (r *Reader) ForgetSights() {
	r.sights.mu.Lock()
	defer r.sights.mu.Unlock()
	r.sights.all = nil
}

// Size is how many tokens a session holds.
func (s *Session) Size() int { return len(s.tokens) }

// Sights are what a process has seen, of snapshots that see everything below an id.
type Sights struct{ s sights }

// Add remembers a snapshot.
func (s *Sights) Add(below uint64, sent time.Duration) {
	s.s.add(sight{snapshot: mvcc.Snapshot{Xmin: mvcc.XID(below), Xmax: mvcc.XID(below)}, sent: sent})
}

// Prove asks whether a value that covers what is below an id is within a bound.
func (s *Sights) Prove(below uint64, now, longest time.Duration) bool {
	c := fence.Coverage{Snapshot: mvcc.Snapshot{Xmin: mvcc.XID(below), Xmax: mvcc.XID(below)}}
	return s.s.prove(pgload.Server{}, c, now, longest)
}

// Len is how many there are.
func (s *Sights) Len() int { return len(s.s.all) }
