package fill

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// placesShare is the part of the loads that may be under way at a time which one batch's single loads may take.
	placesShare = 2
	// turnTimes bounds how long a turn takes, in load timeouts: a read of a single key has ended long before.
	turnTimes = 2
	// leastLate is how many keys in a row may come too late, where that is more than a batch has places, until it begins no more.
	leastLate = 4
)

// turn is one key's in a line.
type turn struct {
	read    func(ctx context.Context) (Value, error)
	reading *Reading // its own, which is the batch's once somebody has taken the value; nil: nobody observes the read
	leased  bool     // it has the lease, and is begun in any case
	beside  bool     // it is begun also when the caller is gone: he may have been given something stale
	done    chan struct{}
	value   Value
	err     error
}

// line is the keys of a batch that have to be loaded each by itself: those that code loads, comparisons of an entry without a form
// for many keys, and those that a statement for many took too long for. A few of them are at a time, so that the others wait here, and not where
// the reads of other keys wait for their turn (Reader.enter), which a thousand at a time would hold up, and most of them would have used up there
// what time they have for a load. The load timeout of each begins with its turn, and it is the caller's context that bounds them all.
//
// Nothing is leased for a key whose turn has not come. A lease lasts for one load; the fleet would wait for it in vain, and it would be
// over before the load is stored. So a key is read anew in its turn, with a lease of its own, and may be a hit by then. Only those have the leases
// that were asked for together, for whom there is a place at once.
type line struct {
	mu    sync.Mutex
	turns []*turn
	busy  int   // places that are taken
	late  int   // turns in a row that ended without a value since it did not come in time
	why   error // of the last one
}

// places is how many keys of a batch may be loaded by themselves at a time.
func (b *batch) places() int {
	n := cap(b.loads) / placesShare
	if b.e.loads != nil {
		n = min(n, cap(b.e.loads))
	}
	return max(n, 1)
}

// singly gives those their turn who have a lease and for whom there is a place. The others are returned; their leases are to be given back.
func (b *batch) singly(ctx context.Context, items []*item) (rest []*item) {
	vacant := min(b.line.vacant(b.places()), len(items))
	for _, it := range items[:vacant] {
		b.inTurn(it, &turn{read: b.underLease(it), leased: true})
	}
	b.advance(ctx)
	return items[vacant:]
}

// later has items, of which nothing is leased, read anew in their turn.
func (b *batch) later(ctx context.Context, items []*item) {
	for _, it := range items {
		b.stats.misses.Add(^uint64(0)) // it is counted when it is read
		b.inTurn(it, &turn{read: b.again(it), beside: it.ended || it.w.standIn != nil})
	}
	b.advance(ctx)
}

// pastInTurn has items loaded without the cache in their turn.
func (b *batch) pastInTurn(ctx context.Context, items []*item) {
	for _, it := range items {
		b.inTurn(it, &turn{read: b.past(it)})
	}
	b.advance(ctx)
}

// underLease loads under the lease that an item has.
func (b *batch) underLease(it *item) func(ctx context.Context) (Value, error) {
	w := *it.w
	return func(ctx context.Context) (Value, error) {
		w.reading = b.Reader.reading(ctx)
		w.timer = time.NewTimer(b.e.LoadTimeout)
		defer w.timer.Stop()
		return b.loadLeased(ctx, &w, it.token, &it.reply)
	}
}

// again reads an item as a read of it alone does, but gives nothing stale: the batch has found that already, if there was any.
func (b *batch) again(it *item) func(ctx context.Context) (Value, error) {
	d := *b.demand
	d.Fresh = true
	return func(ctx context.Context) (Value, error) {
		return b.ReadUnder(ctx, b.e.name, b.keys[it.places[0]], it.w.load, &d)
	}
}

// past loads an item without the cache.
func (b *batch) past(it *item) func(ctx context.Context) (Value, error) {
	w, why := want{e: b.e, l: b.l, c: b.c, name: it.w.name, args: it.w.args, load: it.w.load, n: b.n, over: it.w.over, came: b.came}, it.why
	return func(ctx context.Context) (Value, error) {
		w.began = time.Now()
		return b.bypass(ctx, &w, why)
	}
}

// inTurn puts an item into the line; advance has it begin.
func (b *batch) inTurn(it *item, t *turn) {
	if t.done = make(chan struct{}); b.reading != nil {
		t.reading = &Reading{}
	}
	it.turn = t
	b.line.mu.Lock()
	defer b.line.mu.Unlock()
	b.line.turns = append(b.line.turns, t)
}

// advance begins the turns that there are places for. They go on without the caller.
func (b *batch) advance(ctx context.Context) {
	for {
		t, there, err := b.line.next(b.places(), b.gone)
		if !there {
			return
		}
		if err == nil {
			err = b.begin(ctx, turnTimes*b.e.LoadTimeout, func(own context.Context) {
				defer b.advance(ctx)
				b.run(own, t)
			})
		}
		if err != nil {
			b.line.leave(t, Value{}, fmt.Errorf("entry %s: %w", b.e.name, err))
		}
	}
}

// run has a turn, of which there is a place.
func (b *batch) run(ctx context.Context, t *turn) {
	v, err := Value{}, errExited // unless it returns
	defer func() {
		b.line.judge(err)
		b.line.leave(t, v, err)
	}()
	reads := ctx
	if t.reading != nil {
		reads = Observe(ctx, t.reading)
	}
	if v, err = t.read(reads); err != nil && ctx.Err() != nil {
		err = fmt.Errorf("entry %s: %w", b.e.name, b.ended(ctx))
	}
}

// vacant is how many places nobody has, or is about to have.
func (l *line) vacant(places int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(places-l.busy-len(l.turns), 0)
}

// next takes a place for the next turn, if there is one. An error says that the turn is over before it has begun.
func (l *line) next(places int, gone func() error) (t *turn, there bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.turns) == 0 || l.busy >= places {
		return nil, false, nil
	}
	t = l.turns[0]
	l.turns = l.turns[1:]
	l.busy++
	switch left := gone(); {
	case t.leased:
	case left != nil && !t.beside:
		return t, true, left
	case l.late >= max(places, leastLate):
		return t, true, fmt.Errorf("%w: not begun, since of the same read %d keys in a row did not come in time; the last one: %w", ErrUnavailable, l.late, l.why)
	}
	return t, true, nil
}

// judge notes what a load says of those to come: where as many in a row as are at a time, and some, do not come in time, none is begun
// any more. Otherwise each of a thousand keys of a database that hangs would have its whole timeout.
func (l *line) judge(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(err, ErrTimeout) || errors.Is(err, ErrUnavailable) || waitable(err) {
		l.late++
		l.why = err
	} else {
		l.late = 0
	}
}

// leave ends a turn, and its place is another's.
func (l *line) leave(t *turn, v Value, err error) {
	t.value, t.err = v, err
	l.mu.Lock()
	l.busy--
	l.mu.Unlock()
	close(t.done)
}

// finish ends an item by what comes of its turn, or when the soft timeout is over that soft is, if there is something stale that stands in
// for a load.
func (b *batch) finish(ctx context.Context, it *item, soft *time.Timer) {
	var over <-chan time.Time
	if soft != nil && it.w.standIn != nil && it.w.standIn.outlives(it.w) {
		over = soft.C
	}
	t := it.turn
	select {
	case <-t.done:
		if t.reading != nil {
			for o := range t.reading.seen {
				it.w.note(o)
			}
		}
		b.settleOr(ctx, it, t.value, t.err)
	case <-over:
		soft.Reset(0) // whatever is waited for next has no time either
		b.settleOr(ctx, it, Value{}, fmt.Errorf("entry %s: %w", b.e.name, ErrTimeout))
	case <-ctx.Done():
		b.fail([]*item{it}, ctx.Err())
	}
}
