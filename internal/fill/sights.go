package fill

import (
	"slices"
	"sync"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/mvcc"
)

const (
	// sightEvery is how far apart two sights are at least.
	sightEvery = 20 * time.Millisecond
	// maxSights is how many are remembered; the older they are, the farther apart.
	maxSights = 64
)

// sight is a snapshot that a load of this process ran under, and a time, by the Reader's clock, before it began: what contains
// all that the snapshot sees misses nothing that was committed before that time.
type sight struct {
	snapshot mvcc.Snapshot
	server   pgload.Server
	sent     time.Duration
}

// sights prove bounds while the daemon cannot: a value that was loaded, or found to be right, lately says so by what it covers.
// Without them every bounded read would ask the database for as long as the log is not delivered.
type sights struct {
	mu  sync.Mutex
	all []sight // oldest first
}

func (s *sights) add(x sight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.all); n > 0 && x.sent < s.all[n-1].sent+sightEvery {
		return // one that is a little older proves nearly as much
	}
	if s.all = append(s.all, x); len(s.all) > maxSights {
		s.thin()
	}
}

// thin forgets the sight that is missed least: the one whose neighbours are closest, for their age.
func (s *sights) thin() {
	newest, least, drop := s.all[len(s.all)-1].sent, 0.0, 0
	for i := 1; i < len(s.all)-1; i++ {
		before, after := s.all[i-1].sent, s.all[i+1].sent
		if missed := float64(after-before) / float64(newest-after+sightEvery); drop == 0 || missed < least {
			least, drop = missed, i
		}
	}
	s.all = slices.Delete(s.all, drop, drop+1)
}

// prove reports whether a value of the given coverage misses nothing that was committed more than longest before now.
func (s *sights) prove(server pgload.Server, c fence.Coverage, now, longest time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.all) - 1; i >= 0 && now-s.all[i].sent <= longest; i-- {
		if s.all[i].server == server && !c.Snapshot.IsZero() && c.Snapshot.Dominates(s.all[i].snapshot) {
			return true
		}
	}
	return false
}

// saw remembers what a load has seen, for the bounds of later reads, if the read that it was for had one: the others pay
// nothing for it.
func (r *Reader) saw(n *need, f *flight) {
	if n == nil || !n.bounded || f.reason != 0 || f.loaded.Coverage.Snapshot.IsZero() {
		return
	}
	r.sights.add(sight{snapshot: f.loaded.Coverage.Snapshot, server: f.loaded.Server, sent: f.sent})
}
