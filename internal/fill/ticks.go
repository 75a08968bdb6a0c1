package fill

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/freshet/freshet/internal/fence"
)

const (
	// tickEvery is how often a process that bounds staleness has the store count.
	tickEvery = 250 * time.Millisecond
	// maxMoments is how many counts are remembered: those that HEAD has reached, for readers that hold an older HEAD; and
	// when the daemon stands still, those pile up that it has not.
	maxMoments = 64
)

// moment is a count and a time, by the Reader's clock, before it was asked for: once HEAD has reached the count, its Sa
// was taken after that time.
type moment struct {
	tick fence.Tick
	sent time.Duration
}

// ticks are the moments of this process, oldest first.
type ticks struct {
	mu      sync.Mutex
	moments []moment
	head    fence.Tick    // HEAD's, when last looked at
	asked   time.Duration // when the last count was asked for
	began   bool
}

// due reports whether to have the store count now, and takes the caller for who does.
func (k *ticks) due(now time.Duration) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.began && now-k.asked < tickEvery {
		return false
	}
	k.began, k.asked = true, now
	return true
}

func (k *ticks) add(m moment) {
	k.mu.Lock()
	defer k.mu.Unlock()
	// Answers may overtake each other.
	at, _ := slices.BinarySearchFunc(k.moments, m, func(a, b moment) int { return cmp.Compare(a.sent, b.sent) })
	k.moments = slices.Insert(k.moments, at, m)
	if len(k.moments) > maxMoments {
		oldest := 0
		if !k.head.Reaches(k.moments[1].tick) {
			oldest = 1 // the first may be the only one that HEAD has reached
		}
		k.moments = slices.Delete(k.moments, oldest, oldest+1)
	}
}

// prove reports whether everything that was visible on the primary longest ago is confirmed under a HEAD with this tick:
// whether it has reached a count that was asked for within that time.
func (k *ticks) prove(head fence.Tick, now, longest time.Duration) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if head.ID != k.head.ID || head.N > k.head.N {
		k.head = head
	}
	for _, m := range slices.Backward(k.moments) {
		if head.Reaches(m.tick) {
			return now-m.sent <= longest
		}
	}
	return false
}

// count has the store count in a lane, if that is due, without waiting for it.
func (r *Reader) count(ctx context.Context, lane int) {
	now := r.clock()
	if !r.ticks[lane].due(now) {
		return
	}
	// An error means that the Reader is closed.
	_ = r.begin(ctx, r.confirmWithin, func(ctx context.Context) {
		sent := r.clock()
		tick, err := r.store.Tick(ctx, lane)
		if err != nil {
			r.logger.DebugContext(ctx, "the store does not count", slog.String("error", err.Error()))
			return
		}
		r.ticks[lane].add(moment{tick: tick, sent: sent})
	})
}
