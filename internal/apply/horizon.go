package apply

import (
	"context"
	"fmt"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/mvcc"
)

// view is a gate's snapshot and what has to be known of it: a position of the log read after it, and the readers' counts
// and the time before it.
type view struct {
	snapshot mvcc.Snapshot
	insert   mvcc.LSN
	ticks    fence.Ticks
	taken    time.Time
}

// horizon finds Sa: a snapshot such that everything visible in it has been confirmed (D6). A gate's snapshot becomes one
// as soon as the log was read past the position that was read after it, and the batch that is under way then is applied:
// a transaction that is visible in it committed before the position, so it was delivered, and whatever was delivered is
// confirmed by the first batch whose gate shows it. One that hangs in synchronous replication is not visible, and does not
// hold Sa up as it does Wc.
type horizon struct {
	waiting view
}

// settle takes the view of a batch and how far the log was read without a hole when its gate was asked. It returns the
// newest view that becomes Sa with the batch, or the zero view. Of those that have to wait, the oldest is kept: it is the
// first to have its turn.
func (h *horizon) settle(v view, read mvcc.LSN) (reached view) {
	if read >= v.insert {
		h.waiting = view{}
		return v
	}
	if !h.waiting.snapshot.IsZero() && read >= h.waiting.insert {
		reached, h.waiting = h.waiting, view{}
	}
	if h.waiting.snapshot.IsZero() {
		h.waiting = v
	}
	return reached
}

const (
	// Readers who bound staleness count; while they do the daemon looks often, otherwise as often as an idle daemon
	// writes anyway.
	lookOften, lookSeldom = 50 * time.Millisecond, idleEvery
	// askedFor is how long after the count last moved readers are taken to be still there.
	askedFor = 5 * time.Second
	// idleAsked is idleEvery while readers ask.
	idleAsked = 20 * time.Millisecond
)

// asking is what is known of readers that bound staleness.
type asking struct {
	ticks    fence.Ticks // the counts when last read
	moved    time.Time   // when one last differed
	lookAt   time.Time   // when to read them again
	answered time.Time   // when Sa last moved
}

// saw takes counts that were read from the store.
func (k *asking) saw(ticks fence.Ticks, now time.Time) {
	if ticks != k.ticks {
		k.ticks, k.moved = ticks, now
	}
	k.lookAt = now.Add(lookSeldom)
	if k.lively(now) {
		k.lookAt = now.Add(lookOften)
	}
}

// lively reports whether readers have asked lately.
func (k *asking) lively(now time.Time) bool { return !k.moved.IsZero() && now.Sub(k.moved) < askedFor }

// asked reports whether readers wait for a newer Sa and a step would get them on: by taking the snapshot, or by writing
// the one that was taken. While the log is not being delivered neither does.
func (a *Applier) asked(now time.Time) bool {
	return a.asking.ticks != a.told && now.Sub(a.asking.answered) >= lookOften &&
		(a.horizon.waiting.snapshot.IsZero() || a.prefix.Last() >= a.horizon.waiting.insert)
}

// listen reads the readers' counts. When one moves, what waits because it brings no transaction waits less.
func (a *Applier) listen(ctx context.Context, now time.Time) error {
	ticks, err := a.opts.Store.Ticks(ctx)
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	a.asking.saw(ticks, now)
	if soon := now.Add(idleAsked); a.asking.lively(now) && soon.Before(a.idleAt) {
		a.idleAt = soon
	}
	return nil
}

// advanced takes note of what HEAD says now.
func (a *Applier) advanced(batch store.Batch, horizon view) {
	if batch.Advance > a.head.Wc {
		a.rewind.add(time.Now(), batch.Advance)
	}
	if batch.Advance > 0 {
		a.head.Wc = batch.Advance
		a.opts.Stats.Wc.Store(uint64(batch.Advance))
	}
	if !batch.Sa.IsZero() {
		a.head.Sa, a.told, a.asking.answered = batch.Sa, batch.Ticks, time.Now()
		a.opts.Stats.Horizon.Store(&horizon.taken)
	}
}
