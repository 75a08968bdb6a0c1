package chaos

import (
	"context"
	"sync"
	"time"

	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/mvcc"
)

// applied is how far the store has come, by its own word: no read that begins now may miss what ends before it. Where
// names move to a new generation, readers believe the old ones for a second (R0); that time is left out.
type applied struct {
	mu         sync.Mutex
	at         mvcc.LSN
	sa         mvcc.Snapshot // all that it sees had been applied
	generation string
	blind      time.Time // until then nothing is known
	disbelieve bool      // something that was applied may be forgotten
}

// trust is how long a reader believes names that it has confirmed, and a margin.
const trust = 1500 * time.Millisecond

// watch looks at HEAD for as long as ctx lasts.
func (a *applied) watch(ctx context.Context, store *redisstore.Store) {
	for ctx.Err() == nil {
		head, found, err := store.Head(ctx)
		a.mu.Lock()
		switch {
		case err != nil || !found:
		case head.Generation != a.generation:
			a.generation, a.at, a.sa = head.Generation, head.Wc, head.Sa
			a.blind = time.Now().Add(trust)
		default:
			a.at, a.sa = head.Wc, head.Sa
		}
		a.mu.Unlock()
		wait(ctx, 5*time.Millisecond)
	}
}

// position is how far the store has come, 0 when that is not known.
func (a *applied) position() mvcc.LSN {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.unknown() {
		return 0
	}
	return a.at
}

func (a *applied) unknown() bool { return a.disbelieve || time.Now().Before(a.blind) }

// vouched is a snapshot such that all that it sees has been applied, and whether it is to be believed.
func (a *applied) vouched() (mvcc.Snapshot, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sa, !a.unknown()
}

func (a *applied) believed() bool {
	_, believed := a.vouched()
	return believed
}

// believe says whether HEAD is to be believed.
func (a *applied) believe(it bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.disbelieve = !it
}
