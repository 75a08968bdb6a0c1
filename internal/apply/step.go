package apply

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/mvcc"
)

// step gates what is pending and sends what is visible: intent, confirms and the advance of HEAD (D2 to D4). With a
// request, or when rows asked for it, it then moves names (D7).
func (a *Applier) step(ctx context.Context, req *request) error {
	seen := view{ticks: a.asking.ticks, taken: time.Now()}
	snapshot, insert, err := a.opts.Gate.Snapshot(ctx)
	if err != nil {
		return fmt.Errorf("gate: %w", err)
	}
	seen.snapshot, seen.insert = snapshot, insert
	a.pace(insert)
	now := time.Now()
	batch := store.Batch{
		Expect: a.expect(),
		Si:     snapshot,
	}
	var (
		ready []*pendingPart
		moved bool
	)
	for _, p := range a.pending {
		if newly := a.look(p, snapshot, &batch); !newly {
			continue
		}
		ready = append(ready, p)
		if p.overtaken {
			batch.Wi = max(batch.Wi, insert)
		}
		moved = a.move(p) || moved
		if p.part.ddl && a.opts.DDL != nil {
			a.altered.Add(1)
			a.opts.DDL()
		}
	}
	a.keys(&batch, ready)
	found, err := a.lookUp(ctx, ready, &batch)
	if err != nil {
		return err
	}
	moved = moved || found.moved
	a.wait(a.prefix.Last(), max(insert, found.until))
	a.holdUp(ready, found)
	a.withdraw(&batch, now)
	if req != nil {
		moved = req.change(a.opts.Names) || moved
		a.looked = max(a.looked, req.looked)
	}
	moved = a.opts.Names.revive(now) || moved
	if moved {
		// What moves names affects keys that are not spelled out, or may be of a transaction that the stream lacks: under
		// the new names no standby may fill that has not seen everything which is visible now.
		batch.All, batch.Wi = true, max(batch.Wi, insert)
	}
	a.settle(ready)
	var horizon view
	if !moved && !now.Before(a.settleAt) && !a.unseen() {
		horizon = a.honest(a.horizon.settle(seen, a.prefix.Last()))
		batch.Sa, batch.Ticks = horizon.snapshot, horizon.ticks
		if end := a.prefix.End(); end > a.head.Wc || !batch.Sa.IsZero() {
			batch.Advance = end
		}
	}
	result, err := a.opts.Store.Apply(ctx, batch)
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	a.asking.saw(result.Ticks, time.Now())
	a.advanced(batch, horizon)
	if moved {
		if err := a.Publish(ctx); err != nil {
			return err
		}
	}
	a.finish(ready, result, batch)
	a.refresh(ready)
	return a.mend(ctx, seen)
}

func (a *Applier) expect() store.Expected {
	return store.Expected{Generation: a.head.Generation, Term: a.head.Term, Wc: a.head.Wc}
}

// look asks of each transaction in p that was not visible whether it is now, and reports whether anything has to be
// sent. All keys of a large part are sent again then: they were coalesced over its transactions, and deleting once too
// often costs a load, once too seldom a stale value.
func (a *Applier) look(p *pendingPart, snapshot mvcc.Snapshot, batch *store.Batch) (newly bool) {
	for i := range p.part.items {
		it := &p.part.items[i]
		it.fresh = false
		if it.seen && p.started {
			continue
		}
		if !it.seen && !snapshot.Sees(it.xid) {
			continue
		}
		it.seen, it.fresh = true, true
		p.unseen--
		if it.xid != 0 {
			newly = true
			batch.Wi = max(batch.Wi, it.end)
		}
	}
	first := !p.started
	p.started = true
	return newly || first && p.unseen == 0
}

// move draws new names for the entries whose rows in p could not be mapped to keys.
func (a *Applier) move(p *pendingPart) (moved bool) {
	for _, m := range p.part.Keys.Moves() {
		if !a.opts.Names.Move(m.Entry, m.Cause, time.Now()) {
			continue
		}
		moved = true
		a.opts.Stats.Moves.Add(1)
		a.opts.Logger.Warn("an entry has a new name: a change could not be mapped to its keys, all of them may be affected",
			slog.String("entry", a.opts.Names.Entry(m.Entry)), slog.String("cause", m.Cause))
	}
	return moved
}

// settle takes the parts that wait for nothing any more off the pending list and counts their transactions as done.
// It runs before the batch is sent, whose advance includes them; should the batch fail, nothing of this survives it.
func (a *Applier) settle(ready []*pendingPart) {
	for _, p := range ready {
		if p.unseen > 0 {
			continue
		}
		for i := range p.part.items {
			a.done(&p.part.items[i])
		}
	}
	kept := a.pending[:0]
	for _, p := range a.pending {
		if p.unseen > 0 {
			kept = append(kept, p)
		}
	}
	clear(a.pending[len(kept):])
	a.pending = kept
}

// pack has a part that stays take no more memory than it needs: the room that a backlog left, and the transactions that it
// was gated with, would otherwise be held by a single one that hangs. In a small part keys know transactions by their place.
func (a *Applier) pack(p *pendingPart) {
	if p.packed {
		return
	}
	roomy := p.part
	p.part, p.packed = &Part{Keys: roomy.Keys.Packed(), bulk: !roomy.small(), ddl: roomy.ddl}, true
	if roomy.small() {
		p.part.items = slices.Clone(roomy.items)
	} else {
		p.part.items = make([]item, 0, p.unseen)
		for i := range roomy.items {
			if it := &roomy.items[i]; it.seen {
				a.done(it)
				a.count(it)
			} else {
				p.part.items = append(p.part.items, *it)
			}
		}
	}
	a.opts.Queue.giveBack(roomy)
}

// done takes note that all of the log up to the end of a transaction is applied, when what is before it is.
func (a *Applier) done(it *item) {
	switch {
	case !it.tracked:
	case it.held != nil && it.held.rounds > 0:
		it.held.ids = append(it.held.ids, it.id)
	default:
		a.prefix.Done(it.id)
	}
}

// count accounts for a transaction that was applied.
func (a *Applier) count(it *item) {
	if it.xid == 0 || it.position == 0 {
		return
	}
	a.opts.Stats.Transactions.Add(1)
	if a.opts.Trail != nil {
		a.opts.Trail.Applied(it.xid)
	}
	if a.opts.Observe != nil {
		a.opts.Observe(time.UnixMicro(it.committed))
	}
}

// finish accounts for a batch that was applied.
func (a *Applier) finish(ready []*pendingPart, result store.Result, batch store.Batch) {
	now := time.Now()
	stats := a.opts.Stats
	stats.Batches.Add(1)
	stats.Keys.Add(uint64(len(batch.Names) + len(batch.Keys)))
	stats.Kept.Add(uint64(max(result.Kept, 0)))
	stats.Unlinked.Add(uint64(max(result.Removed, 0)))
	stats.Epochs.Add(uint64(len(batch.Epochs)))
	stats.Ended.Add(uint64(max(result.Ended, 0)))
	a.holds()
	stats.Applied.Store(now.UnixMicro())
	for _, p := range ready {
		if p.unseen > 0 {
			continue
		}
		for i := range p.part.items {
			a.count(&p.part.items[i])
		}
		if !p.packed {
			a.opts.Queue.giveBack(p.part)
		}
	}
	a.waiting = 0
	for _, p := range a.pending {
		a.pack(p)
		a.waiting += p.part.size()
	}
	stats.Waiting.Store(int64(len(a.pending)))
	if len(a.pending) == 0 || len(ready) > 0 {
		a.backoff = firstBackoff
	} else {
		a.backoff = min(2*a.backoff, lastBackoff)
	}
	a.stepped = now
	a.gateAt = now.Add(a.backoff)
	a.idleAt = now.Add(idleEvery)
	if a.asking.lively(now) {
		a.idleAt = now.Add(idleAsked)
	}
	a.confirm(now)
}

// Publish writes the roster with the moved names, before Run or within it. Readers may go on under the old names for as long as their last
// confirmation of the roster holds, so Wc stands still until that has passed (D7).
func (a *Applier) Publish(ctx context.Context) error {
	roster := a.opts.Names.next()
	err := a.opts.Store.Move(ctx, a.expect(), roster.Text(), roster.Revision, a.head.Publication)
	if err != nil {
		return fmt.Errorf("publish roster: %w", err)
	}
	a.head.Revision = roster.Revision
	a.settleAt = time.Now().Add(a.opts.Settle)
	if a.opts.Published != nil {
		a.opts.Published(roster)
	}
	return nil
}

// confirm tells the source what it may forget: what was applied, less the depth to which a store that loses its own
// history can be brought up to date again (D5).
func (a *Applier) confirm(now time.Time) {
	if p := a.rewind.position(now); p > 0 && a.opts.Confirm != nil {
		a.opts.Confirm(change.Position(p))
		a.opts.Stats.Confirmed.Store(uint64(p))
	}
}
