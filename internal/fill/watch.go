package fill

import (
	"context"
	"time"
)

// watch looks at keys that other processes are loading, at all of them at a time, until they are there. As a read of one key does, it
// leaves half of the load timeout for a load of our own. What comes differently begins anew, alone. Of what nobody is loading any more, the
// lease being over or given back, the first time the keys are leased and loaded together again, and after that each by itself in its turn.
func (b *batch) watch(ctx context.Context, items []*item) {
	pause, began := firstPause, time.Now()
	look := time.NewTimer(pause)
	defer look.Stop()
	over := time.NewTimer(max(leastLeft(items), firstPause))
	defer over.Stop()
	limit := time.NewTimer(b.e.LoadTimeout/2 - time.Since(b.began))
	defer limit.Stop()
	var told *listener
	defer func() { told.cancel() }()
	var free, turns []*item
	defer func() {
		for _, it := range turns {
			b.finish(ctx, it, nil)
		}
	}()
	for {
		select {
		case <-look.C:
		case <-told.heard():
			// One of them is there; the others of its load are so soon.
			told.cancel()
			told = nil
			look.Reset(firstPause)
			continue
		case <-over.C:
		case <-limit.C:
			for _, it := range items {
				it.why = busyElsewhere
			}
			b.inherit(ctx, free)
			b.bypassMany(ctx, items)
			return
		case <-ctx.Done():
			b.fail(items, ctx.Err())
			b.fail(free, ctx.Err())
			return
		}
		var rest []*item
		known, begun := len(free), len(turns)
		told.cancel()
		told = b.listen(ctx, namesOf(items)...)
		for i, f := range b.readFor(ctx, told, readings(items)) {
			it := items[i]
			p, others := b.peeked(it, f.Tied)
			switch {
			case b.flight(it.reply.Holder) != nil:
				b.alone(ctx, it)
			case f.Err != nil:
				b.anew.add(it, nil)
			case others != nil:
				it.asked = others
				rest = append(rest, it)
			case p.hit:
				b.hit(ctx, it, &f, &p)
			case p.record.Lease.Token == it.reply.Holder && time.Since(began) < it.reply.Left():
				rest = append(rest, it)
			case it.inherited:
				turns = append(turns, it.heir())
			default:
				it.w.dead = p.dead
				free = append(free, it.heir())
			}
		}
		for _, it := range turns[begun:] {
			b.inTurn(it, &turn{read: b.again(it)})
		}
		b.advance(ctx)
		if len(rest) == 0 || len(free) == known { // whatever is given back with them is so by now
			b.inherit(ctx, free)
			free = nil
		}
		if items = rest; len(items) == 0 {
			return
		}
		switch pause = min(2*pause, longestPause); {
		case len(free) > 0:
			pause = firstPause
		case told != nil:
			pause = toldPause
		}
		look.Reset(pause)
		over.Reset(max(leastLeft(items)-time.Since(began), firstPause))
	}
}

// heir is an item that nobody is loading any more, to be leased anew. The one before is still in the hands of whoever collects the flights.
func (it *item) heir() *item {
	w := *it.w
	return &item{places: it.places, w: &w, lane: it.lane, asked: it.asked, inherited: true}
}

// inherit leases and loads together what nobody is loading any more, beside the caller.
func (b *batch) inherit(ctx context.Context, items []*item) {
	if len(items) == 0 {
		return
	}
	b.apart.Go(func() {
		granted, lost := b.lease(ctx, items)
		b.launch(ctx, granted)
		b.bypassMany(ctx, lost)
		b.collect(ctx, items)
	})
}

// leastLeft is when the first of the items' leases is over, from when they were answered for.
func leastLeft(items []*item) time.Duration {
	least := items[0].reply.Left()
	for _, it := range items[1:] {
		least = min(least, it.reply.Left())
	}
	return least
}

func namesOf(items []*item) []string {
	names := make([]string, len(items))
	for i, it := range items {
		names[i] = it.w.name
	}
	return names
}
