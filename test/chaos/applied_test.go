package chaos

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/mvcc"
)

// applied is how far the store had come at each moment, by its own word: no read that began later may miss what ended
// before that. Where names move to a new generation, readers believe the old ones for a second (R0); that time is left
// out.
type applied struct {
	mu         sync.Mutex
	looks      []look // the latest, in order
	generation string
	moved      time.Time // when names were last seen to move, or to be gone
	believed   time.Time // since when nothing that was applied can have been forgotten
	disbelieve bool      // something that was applied may be forgotten
}

// look is what HEAD said.
type look struct {
	at     time.Time // when its answer was there
	wc     mvcc.LSN
	sa     mvcc.Snapshot // all that it sees had been applied
	steady bool          // names had not moved lately
}

const (
	// trust is how long a reader believes names that it has confirmed, and a margin.
	trust = 1500 * time.Millisecond
	// memory is for how long a process may hold in its memory what something that was applied has superseded.
	memory = time.Second
	// remembered is how long looks are kept, for reads of processes that stood still in the midst of them.
	remembered = 30 * time.Second
)

// watch looks at HEAD for as long as ctx lasts.
func (a *applied) watch(ctx context.Context, store *redisstore.Store) {
	for ctx.Err() == nil {
		head, found, err := store.Head(ctx)
		if err == nil {
			now := time.Now()
			a.mu.Lock()
			generation := generations(&head)
			// What is applied is said of the lanes that are there.
			found = found && whole(&head) == nil
			if !found || generation != a.generation {
				a.moved, a.generation = now, generation
			}
			if n := len(a.looks); n > 0 && now.Sub(a.looks[0].at) > 2*remembered {
				a.looks = slices.DeleteFunc(a.looks, func(l look) bool { return now.Sub(l.at) > remembered })
			}
			a.looks = append(a.looks, look{at: now, wc: head.Wc, sa: head.Sa, steady: found && now.Sub(a.moved) > trust})
			a.mu.Unlock()
		}
		wait(ctx, 5*time.Millisecond)
	}
}

// generations are that of all, and in a cluster those of the lanes behind it.
func generations(head *fence.Head) string {
	all := []string{head.Generation}
	for _, h := range head.Lanes {
		all = append(all, h.Lane)
	}
	return strings.Join(all, " ")
}

// before is the last look before the moment; false when what it says is not to be believed, or was not until now.
func (a *applied) before(moment time.Time) (look, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n, _ := slices.BinarySearchFunc(a.looks, moment, func(l look, t time.Time) int { return l.at.Compare(t) })
	if n == 0 || a.disbelieve || moment.Before(a.believed) {
		return look{}, false
	}
	l := a.looks[n-1]
	return l, l.steady
}

// still reports, by a look that began later than this call, whether names stood where they were at the moment. Without
// such a look nobody knows.
func (a *applied) still(ctx context.Context, moment time.Time) bool {
	const patience = 500 * time.Millisecond
	for called := time.Now(); time.Since(called) < patience && ctx.Err() == nil; wait(ctx, 5*time.Millisecond) {
		a.mu.Lock()
		n := len(a.looks)
		fresh := n > 1 && a.looks[n-2].at.After(called) // the last one began after that
		steady := !a.disbelieve && a.moved.Before(moment)
		a.mu.Unlock()
		if fresh {
			return steady
		}
	}
	return false
}

// believe says whether HEAD is to be believed.
func (a *applied) believe(it bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.disbelieve = !it; it {
		a.believed = time.Now()
	}
}
