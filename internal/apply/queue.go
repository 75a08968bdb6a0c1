package apply

import (
	"context"
	"errors"
	"math/bits"
	"sync"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/route"
	"github.com/freshet/freshet/internal/watermark"
	"github.com/freshet/freshet/mvcc"
)

// Bounds of a Part. They bound the daemon's memory: at most two parts are being filled or sent at a time, and what waits
// for a transaction to become visible is bounded by Options.MaxWaiting.
const (
	maxPartKeys  = 8 << 10
	maxPartBytes = 1 << 20
	maxPartItems = 16 << 10
	// wakeKeys wakes the applier inside a transaction; a smaller one wakes it with its commit. A patient applier is
	// woken by as many transactions, or by these keys.
	wakeKeys  = 2 << 10
	wakeItems = 2 << 10
	// smallKeys and smallItems bound what is done key by key.
	smallKeys  = 64
	smallItems = 64 // no more than a mark has bits
	// itemBytes are those of an item and of its place in the watermark.
	itemBytes = 128
)

// errClosed ends a source that hands over after the queue was closed.
var errClosed = errors.New("the applying side has stopped")

// item is a transaction, or a piece of one, within a Part.
type item struct {
	xid       mvcc.XID
	end       mvcc.LSN        // e of the transaction; for an idle item, the position up to which nothing was left out
	position  change.Position // what may be confirmed when this item and all before it are done; 0 for all but the last piece
	id        watermark.ID    // of an item with a position
	tracked   bool
	committed int64 // Unix microseconds by the writer's clock; 0 when unknown
	seen      bool  // visible on the primary at an earlier gate
	fresh     bool  // and not before the last one
	held      *hold // its keys were looked up; nil: they were not
}

// Part is a stretch of the log, already routed: the keys that its transactions affect, and the transactions. The
// source's side fills one while the applier works on the previous one.
type Part struct {
	Keys  *route.Keys
	items []item
	open  bool // the last item's transaction has not ended in this part
	ddl   bool // a transaction of it altered what entries stand on
	bulk  bool // it was not small before items were taken out
}

func newPart(w route.Witness) *Part {
	keys := route.NewKeys(maxPartKeys, maxPartBytes)
	keys.Watch(w)
	return &Part{Keys: keys}
}

// begin opens a transaction, and marks the keys that follow with its place among the items; beyond the bits of a mark they
// are not marked any more, and the part is not small.
func (p *Part) begin(it item) {
	p.Keys.Mark(1 << len(p.items))
	p.items = append(p.items, it)
	p.open = true
}

// small reports whether there is so little to do that it is done key by key: then it is known which transaction affects
// which key, and what contains it already may stay. In bulk one UNLINK of many keys costs a fifth of as many scripts.
func (p *Part) small() bool {
	return !p.bulk && p.Keys.Len() <= smallKeys && len(p.items) <= smallItems
}

// DDL says that the transaction at hand altered what entries stand on, so that it has to be looked at once it is visible.
func (p *Part) DDL() { p.ddl = true }

// freshly reports whether one of the transactions that a key of a small part is marked with has just become visible.
func (p *Part) freshly(marks uint64) bool {
	for ; marks != 0; marks &= marks - 1 {
		if p.items[bits.TrailingZeros64(marks)].fresh {
			return true
		}
	}
	return false
}

func (p *Part) full() bool { return p.Keys.Full() || len(p.items) >= maxPartItems }

// empty reports that there is nothing to do yet: no transaction, or one that has only begun.
func (p *Part) empty() bool {
	return len(p.items) == 0 || len(p.items) == 1 && p.open && p.Keys.Empty()
}

// size is the memory that the part takes, in bytes.
func (p *Part) size() int { return p.Keys.Size() + cap(p.items)*itemBytes }

// oldest is the commit time of the first transaction, 0 when there is none.
func (p *Part) oldest() int64 {
	for i := range p.items {
		if p.items[i].committed != 0 {
			return p.items[i].committed
		}
	}
	return 0
}

func (p *Part) reset() {
	p.Keys.Reset()
	p.items = p.items[:0]
	p.open, p.ddl = false, false
}

// Queue joins the source's goroutine and the applier's: one Part is being filled, and the applier takes it whenever
// it is free, however little is in it. So a single change waits for nobody, and a backlog is applied in large batches.
type Queue struct {
	witness  route.Witness
	mu       sync.Mutex
	part     *Part
	spare    *Part
	begun    item // the open transaction, to be repeated in the next part
	inside   bool
	patient  bool // the applier comes by itself: wake it only for a part that has filled
	signaled bool
	closed   bool
	wake     chan struct{} // capacity 1, carries nothing: the part is the truth
	space    chan struct{} // capacity 1, likewise
}

// NewQueue makes an empty queue. A witness hears of what is routed into it; nil: none does.
func NewQueue(w route.Witness) *Queue {
	return &Queue{witness: w, part: newPart(w), wake: make(chan struct{}, 1), space: make(chan struct{}, 1)}
}

// Acquire locks the part that is being filled, waiting while it is full; the caller fills it and calls Release.
func (q *Queue) Acquire(ctx context.Context) (*Part, error) {
	for {
		q.mu.Lock()
		if q.closed {
			q.mu.Unlock()
			return nil, errClosed
		}
		if !q.part.full() {
			return q.part, nil
		}
		q.signal()
		q.mu.Unlock()
		select {
		case <-q.space:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Release gives the part back after Acquire.
func (q *Queue) Release() {
	if q.part.Keys.Len() >= wakeKeys {
		q.signal()
	}
	q.mu.Unlock()
}

// ended wakes the applier for what has come to an end.
func (q *Queue) ended() {
	if !q.patient || len(q.part.items) >= wakeItems {
		q.signal()
	}
}

// Begin opens a transaction.
func (q *Queue) Begin(ctx context.Context, b change.Begin) error {
	part, err := q.Acquire(ctx)
	if err != nil {
		return err
	}
	q.begun, q.inside = item{xid: b.XID, end: b.End, committed: b.Committed.UnixMicro()}, true
	part.begin(q.begun)
	q.mu.Unlock()
	return nil
}

// Commit closes it.
func (q *Queue) Commit(ctx context.Context, c change.Commit) error {
	part, err := q.Acquire(ctx)
	if err != nil {
		return err
	}
	last := &part.items[len(part.items)-1]
	last.position = c.Position
	part.open = false
	q.inside = false
	q.ended()
	q.mu.Unlock()
	return nil
}

// Idle hands over that nothing before p was left out.
func (q *Queue) Idle(ctx context.Context, p change.Position) error {
	part, err := q.Acquire(ctx)
	if err != nil {
		return err
	}
	if n := len(part.items); n > 0 && part.items[n-1].xid == 0 {
		part.items[n-1].position = max(part.items[n-1].position, p)
	} else {
		part.items = append(part.items, item{position: p, seen: true})
	}
	q.ended()
	q.mu.Unlock()
	return nil
}

// Oldest is the commit time, in Unix microseconds, of the first transaction that was not handed to the applier yet; 0 when
// there is none.
func (q *Queue) Oldest() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.part.oldest()
}

// Close tells the applier that nothing more comes: it finishes what is there and stops.
func (q *Queue) Close() {
	q.mu.Lock()
	q.closed = true
	q.signal()
	q.mu.Unlock()
}

func (q *Queue) signal() {
	if q.signaled {
		return
	}
	q.signaled = true
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// wait makes the queue let the applier be until there is much to do, or it takes what there is. It reports whether
// there is much already, or nothing more to come.
func (q *Queue) wait() (ready bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.patient = true
	// What it was woken for before is known to it.
	q.signaled = false
	return q.closed || q.part.Keys.Len() >= wakeKeys || len(q.part.items) >= wakeItems || q.part.full()
}

// take hands the part over, nil when it is empty, and reports whether the queue was closed.
func (q *Queue) take() (part *Part, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.signaled, q.patient = false, false
	if q.part.empty() {
		return nil, q.closed
	}
	part = q.part
	if q.spare != nil {
		q.part, q.spare = q.spare, nil
	} else {
		q.part = newPart(q.witness)
	}
	if q.inside {
		q.part.begin(q.begun)
	}
	select {
	case q.space <- struct{}{}:
	default:
	}
	return part, q.closed
}

// giveBack returns a part that is done with, for its memory.
func (q *Queue) giveBack(p *Part) {
	p.reset()
	q.mu.Lock()
	if q.spare == nil {
		q.spare = p
	}
	q.mu.Unlock()
}
