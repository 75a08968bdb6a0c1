package fill

import (
	"context"
	"log/slog"

	"github.com/freshet/freshet/internal/store"
)

// lease asks for the right to fill what is missing (R2). What is granted and can be loaded together is returned, as is what has to be
// loaded past the cache; what has to be loaded by itself waits for its turn to be.
func (b *batch) lease(ctx context.Context, missing []*item) (granted, lost []*item) {
	if len(missing) == 0 {
		return nil, nil
	}
	if b.code == nil && b.e.Declared.Query == "" {
		b.fail(missing, ErrNoLoader)
		return nil, nil
	}
	leasings := make([]store.Leasing, len(missing))
	for i, it := range missing {
		it.token = newToken()
		leasings[i] = store.Leasing{Name: it.w.name, Dead: it.w.dead, Token: it.token, Lasts: b.e.LoadTimeout + leaseMargin}
	}
	var back, busy, gone, single []*item
	for i, leased := range b.batches.LeaseMany(ctx, leasings) {
		it := missing[i]
		it.reply = leased.LeaseReply
		record := &it.reply.Record
		switch {
		case leased.Err != nil && ctx.Err() != nil:
			gone = append(gone, it)
			b.fail([]*item{it}, ctx.Err())
		case leased.Err != nil:
			it.why = b.failed(b.c, it.lane, leased.Err)
			lost = append(lost, it)
		case record.State.Live() && b.covered(b.n, b.c, &it.reply) && (it.w.at != nil || len(record.Epochs) == 0):
			// Filled between the GET and the LEASE.
			if it.reply.Granted {
				back = append(back, it)
			}
			b.filledBefore(it)
		case b.stale(ctx, it) && !it.reply.Granted:
		case !it.reply.Granted && b.n != nil:
			if it.why = b.busy(ctx, it); it.why != 0 {
				lost = append(lost, it)
			}
		case !it.reply.Granted:
			switch it.flight = b.flight(it.reply.Holder); {
			case it.flight != nil && !it.flight.knows(record.Fences):
				it.flight, it.why = nil, notCovered
				lost = append(lost, it)
			case it.flight != nil:
				it.joined = true
			case it.w.standIn != nil:
				b.alone(ctx, it) // which knows how long to wait for it
				continue
			default:
				busy = append(busy, it)
			}
			b.stats.waits.Add(1)
		default:
			if it.w.over = b.n.keeps(b.c, &it.reply); b.together(it.w) {
				granted = append(granted, it)
			} else {
				single = append(single, it)
			}
		}
	}
	rest := b.singly(ctx, single)
	b.giveBack(ctx, append(back, rest...))
	b.later(ctx, rest)
	b.abandon(ctx, gone)
	if len(busy) > 0 {
		b.apart.Go(func() { b.watch(ctx, busy) })
	}
	return granted, lost
}

// busy decides about an item with a need, whose lease is another's: it waits for a load of this process that may do, or is read alone; or
// else it is to be loaded past the cache, for the reason that is returned, with all those that are.
func (b *batch) busy(ctx context.Context, it *item) (why bypassReason) {
	record := &it.reply.Record
	f := b.flight(it.reply.Holder)
	if f == nil && !record.State.Live() {
		b.alone(ctx, it) // it shows when it is there
		return 0
	}
	b.stats.waits.Add(1)
	it.w.over = b.n.keeps(b.c, &it.reply)
	switch {
	case f == nil: // nothing shows when the other's load is over
		return busyElsewhere
	case !f.knows(record.Fences) || b.n.precedes(f):
		return notCovered
	}
	it.flight, it.joined = f, true
	return 0
}

// filledBefore ends an item that somebody else has filled. One with epochs is to be read together with them.
func (b *batch) filledBefore(it *item) {
	if it.w.at == nil {
		if v, again, err := b.found(it.w, it.reply.Record, &it.reply.Head); !again {
			b.settle(it, v, err)
			return
		}
	}
	b.anew.add(it, nil)
}

// giveBack releases leases that will not be used.
func (b *batch) giveBack(ctx context.Context, items []*item) {
	if len(items) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.fillWithin)
	defer cancel()
	names, tokens := leases(items)
	if err := b.batches.ReleaseMany(ctx, names, tokens); err != nil {
		b.logger.DebugContext(ctx, "release failed", slog.String("error", err.Error()))
	}
}
