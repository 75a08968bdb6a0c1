package fill

import (
	"context"
	"time"

	"github.com/freshet/freshet/internal/pgload"
)

// stale judges what is stale in the answer to an item's LEASE, as serveStale does. It reports whether that ended the item; what may
// only stand in for a load is remembered.
func (b *batch) stale(ctx context.Context, it *item) (ended bool) {
	s := b.shown(ctx, it.w, &it.reply)
	switch {
	case s == nil:
	case b.atOnce(it.w, s):
		it.ended = true
		b.settle(it, b.serve(s, staleChange), nil)
	case s.age <= b.e.StaleOnError:
		it.w.standIn = s
	}
	return it.ended
}

// patience are the timers of the items that have to wait for a load, and of those that a stale value may stand in for.
func (b *batch) patience() (hard, soft *time.Timer) {
	hard = time.NewTimer(b.e.left(b.began))
	if b.e.SoftTimeout == 0 {
		return hard, hard
	}
	return hard, time.NewTimer(max(b.e.SoftTimeout-time.Since(b.began), 0))
}

// settleOr is settle by what came of a load, or by what may stand in for it.
func (b *batch) settleOr(ctx context.Context, it *item, v Value, err error) {
	if err != nil {
		if stale, ok := b.standsIn(ctx, it.w, err); ok {
			v, err = stale, nil
		}
	}
	b.settle(it, v, err)
}

// refresh has a value that was hit loaded again beside the read, if its time is nearly over.
func (b *batch) refresh(ctx context.Context, it *item, text []byte) {
	if b.e.Eager > 0 && b.n == nil {
		b.ahead(ctx, &want{e: b.e, l: b.l, c: b.c, name: it.w.name, at: it.w.at, args: it.w.args, load: it.w.load}, text)
	}
}

// storable are the items whose loads are not too large to be stored; held are the others, whose leases are there still.
func (b *batch) storable(items []*item) (small, held []*item) {
	for _, it := range items {
		if it.w.tooLarge(it.flight) {
			b.stats.refused[refusedTooLarge].Add(1)
			it.flight.unstored = refusedTooLarge
			held = append(held, it)
		} else {
			small = append(small, it)
		}
	}
	return small, held
}

// answered is what loads of many keys together say of the database, for its breaker: that it answers, if it has answered about any
// of them. That it took too long for all of them says nothing: each is asked about alone next.
func answered(ones []pgload.One) (err error) {
	for i := range ones {
		if err = ones[i].Err; err == nil || !silent(err) {
			return err
		}
	}
	return err
}
