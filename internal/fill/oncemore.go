package fill

import (
	"context"
	"sync"
)

// onceMore is what a batch has to read from the beginning: what names have moved under, what came by a load that is too old for it or is not
// shown yet to contain what it has to. It is read together, like the first time, when the rest is done. By themselves, all at a time, such keys
// would each send a statement.
type onceMore struct {
	mu    sync.Mutex
	items []*item
	why   error // what the database does not show yet; nil: nothing is waited for
}

func (o *onceMore) add(it *item, why error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.items = append(o.items, it)
	if why != nil {
		o.why = why
	}
}

// whole reads the batch, and what has to begin anew once more, until it has all of it. What does not have it in as many rounds as a read of one
// key takes is read by itself, a few at a time; what the database has to show first is waited for within the load timeout.
func (b *batch) whole(ctx context.Context, round int) {
	b.read(ctx)
	b.apart.Wait()
	items, why := b.anew.items, b.anew.why
	switch {
	case len(items) == 0:
		return
	case why != nil:
		pause := longestPause
		if round == 1 {
			pause = firstPause
		}
		if err := b.await(ctx, b.since, b.e, b.n, why, pause); err != nil {
			b.fail(items, err)
			return
		}
	case round >= attempts:
		for _, it := range items {
			b.inTurn(it, &turn{read: b.again(it)})
		}
		b.advance(ctx)
		for _, it := range items {
			b.finish(ctx, it, nil)
		}
		b.apart.Wait()
		return
	}
	next := &batch{
		Reader: b.Reader, e: b.e, demand: b.demand, n: b.need(b.e, b.demand), keys: make([]Key, len(items)), answers: make([]Answer, len(items)),
		reading: b.reading, gone: b.gone, since: b.since,
	}
	for i, it := range items {
		next.keys[i] = b.keys[it.places[0]]
	}
	if b.code != nil {
		next.code = func(i int) LoadFunc { return b.code(items[i].places[0]) }
	}
	next.whole(ctx, round+1)
	for i, it := range items {
		b.answer(it, next.answers[i].Value, next.answers[i].Err)
	}
}
