// Package apply makes routed changes true in a region's store: it waits until their transactions are visible on the
// primary, deletes the records that they affect, and only then moves HEAD, the store's own account of how far that
// has come, and what the slot may forget. The rules D2 to D7 that it cites are those of docs/protocol.md.
package apply

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/internal/watermark"
	"github.com/freshet/freshet/mvcc"
)

// Store is the region's store, over one connection that is never silently replaced by another.
type Store interface {
	// Early fences keys for transactions that may not be visible yet. It is a courtesy to readers; nothing rests on it.
	Early(ctx context.Context, keys []store.Stamped) (store.Result, error)
	// Apply records the intent, deletes the named records and, when asked to, advances HEAD. An error means that
	// nothing may be taken as applied. It also reads the readers' counts.
	Apply(ctx context.Context, b store.Batch) (store.Result, error)
	// Ticks reads the counts of readers that bound staleness.
	Ticks(ctx context.Context) (fence.Ticks, error)
	// Move publishes a roster.
	Move(ctx context.Context, e store.Expected, roster []byte, revision uint64, publication string) error
	Lanes
}

// Lanes are the parts that a cluster keeps records in. One may be lost while the others go on; what is applied then is
// applied to those.
type Lanes interface {
	// Closed is how many are lost.
	Closed() int
	// Mend begins lost ones anew, and returns how many. All that was confirmed is visible in the Si of head and ends at or before its Wi.
	Mend(ctx context.Context, head fence.Head, roster []byte) (int, error)
	// Generations are the lanes' own, which their names have; nil for a store that is one server.
	Generations() []string
}

// Gate asks the primary what is visible.
type Gate interface {
	// Snapshot returns a fresh snapshot and a log position read after it was taken.
	Snapshot(ctx context.Context) (mvcc.Snapshot, mvcc.LSN, error)
	// LookUp runs the query of a LOOKUP rule, for rows given column by column, and returns most rows at most, nil for NULL, and a log
	// position read after that. refused says why the database will not answer it, now or ever.
	LookUp(ctx context.Context, query string, columns [][]string, most int) (rows [][]*string, read mvcc.LSN, refused string, err error)
}

// Trail remembers what was done, for whoever asks later.
type Trail interface {
	// Applied is told of a transaction that is, and of which the queue's witness heard.
	Applied(xid mvcc.XID)
	// Found is told of a key of an entry that look-ups of a rule found, for so many different values of rows of transactions that end between
	// two positions, of which xid is the last.
	Found(entry, number int, key []byte, xid mvcc.XID, first, last mvcc.LSN, values int)
}

// Options configure an Applier. Store, Gate, Queue, Names and Head are required.
type Options struct {
	Store     Store
	Gate      Gate
	Queue     *Queue
	Names     *Names
	Head      fence.Head                // as claimed, or as just created
	Confirm   func(p change.Position)   // tells the source what it may forget
	Observe   func(committed time.Time) // called for each transaction once it is applied
	Trail     Trail                     // nil: none
	Published func(r *rule.Roster)      // called on the applier's goroutine when readers can see a new roster
	Logger    *slog.Logger              //
	Rewind    Rewind                    // how far confirmation stays behind (D5)
	Settle    time.Duration             // how long readers may go on under old names after a move (D7): T_r and a margin
	Stats     *Stats                    // counters, shared with whoever shows them
	// DDL is called, on the applier's goroutine, when a transaction has become visible that altered what entries stand on:
	// Wc then stands still until Looked is called. Nil: such transactions are like others.
	DDL       func()
	Refresher Refresher // nil: nothing is loaded again
	// MaxWaiting bounds the memory of what waits for a transaction to become visible, in bytes: beyond it no more is taken from
	// the queue, which then holds the source back. Default 16 MiB.
	MaxWaiting int
}

// Applier applies one stream to one store. It is used by one goroutine, except for Request.
type Applier struct {
	opts     Options
	watched  []watched // keys of the command that is being made
	head     fence.Head
	told     fence.Ticks // the counts that HEAD answers
	prefix   *watermark.Tracker
	pending  []*pendingPart
	waiting  int // memory of pending, in bytes
	backoff  time.Duration
	gateAt   time.Time // when to ask again for what is not visible
	stepped  time.Time // when the last step ended
	settleAt time.Time // until then Wc stands still, after names moved
	mendAt   time.Time // when to try again to begin lost lanes anew
	idleAt   time.Time
	newest   mvcc.LSN      // where the last part ended
	linger   time.Duration // how long the part that is being filled is left alone, 0 when the applier is up to date
	takeAt   time.Time     // the end of that
	horizon  horizon
	asking   asking
	rewind   rewind
	waits    []*hold            // those that are not over, the oldest first
	later    later              // a view that waits for one
	pieces   map[mvcc.XID]*hold // of transactions that have been looked up, of which the last piece has not come yet
	requests chan request
	altered  atomic.Uint64 // how often something was altered that has to be looked at
	looked   uint64        // how much of that has been
}

type pendingPart struct {
	part    *Part
	unseen  int
	started bool
	packed  bool      // part is a copy that has no room for more
	fenced  time.Time // when its keys were fenced early; zero: they are not
	// A transaction of it was not visible yet when a later one was looked up.
	overtaken bool
	hot       []watched // those of its keys that its early fences have found live
}

// request asks the applier's goroutine to change the live names, or tells it what was looked at.
type request struct {
	change func(n *Names) bool
	looked uint64
	done   chan error
}

// New makes an Applier.
func New(opts Options) *Applier {
	if opts.MaxWaiting == 0 {
		opts.MaxWaiting = 16 << 20
	}
	return &Applier{
		opts:     opts,
		head:     opts.Head,
		prefix:   watermark.New(opts.Head.Wc),
		backoff:  firstBackoff,
		rewind:   rewind{Rewind: opts.Rewind},
		pieces:   map[mvcc.XID]*hold{},
		requests: make(chan request),
	}
}

// Request runs a change of the live names in the applier's order of things and returns once readers can see it.
// alter reports whether it changed anything.
func (a *Applier) Request(ctx context.Context, alter func(n *Names) bool) error {
	return a.request(ctx, request{change: alter, done: make(chan error, 1)})
}

// Altered counts the alterations that have become visible. Whoever looks at the tables asks before, and says so by Looked once
// names have moved for what was found.
func (a *Applier) Altered() uint64 { return a.altered.Load() }

// Looked says that what was altered up to a count has been looked at: Wc goes on.
func (a *Applier) Looked(ctx context.Context, count uint64) error {
	return a.request(ctx, request{change: func(*Names) bool { return false }, looked: count, done: make(chan error, 1)})
}

// unseen reports that something was altered which nobody has looked at yet. What is cached may then differ from what is in
// the database by more than the changes that are on their way, so that HEAD must not vouch for it.
func (a *Applier) unseen() bool { return a.looked < a.altered.Load() }

func (a *Applier) request(ctx context.Context, r request) error {
	select {
	case a.requests <- r:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

const (
	// The server sends a commit before the committing session has made it visible, mostly by less than this.
	firstBackoff = 100 * time.Microsecond
	lastBackoff  = 100 * time.Millisecond
	// crowd is how long after a step what is fenced waits for the next one.
	crowd = 10 * time.Millisecond
	// withdrawAfter is how long the database may go on showing an old row until it is cached again.
	withdrawAfter = 100 * time.Millisecond
	// mendEvery is how often lost lanes are tried.
	mendEvery = 250 * time.Millisecond
	// idleEvery bounds how often an idle database moves HEAD.
	idleEvery = 500 * time.Millisecond
	tick      = time.Second
	// So many bytes of the log behind the last part say that the applier is behind. It then lets the next part fill, for
	// no longer than those bytes take to be read at the very least.
	farBehind       = 256 << 10
	lastLinger      = 10 * time.Millisecond
	lastLingerBytes = 640 << 10
)

// Run applies what comes through the queue until the queue is closed and everything in it is applied, or until ctx
// ends or something fails; then the whole stream has to be taken up again from HEAD.
func (a *Applier) Run(ctx context.Context) error {
	timer := time.NewTimer(tick)
	defer timer.Stop()
	for {
		closed := false
		fresh := false
		now := time.Now()
		if !now.Before(a.asking.lookAt) {
			if err := a.listen(ctx, now); err != nil {
				return err
			}
		}
		if a.waiting < a.opts.MaxWaiting && a.ready(now) {
			var part *Part
			if part, closed = a.opts.Queue.take(); part != nil {
				a.adopt(part)
				fresh = true
				if err := a.early(ctx); err != nil {
					return err
				}
			}
		}
		if fresh && !a.onlyIdle() && !a.crowded(now) || a.due(now) {
			if err := a.step(ctx, nil); err != nil {
				return err
			}
			continue
		}
		if closed && !fresh && len(a.pending) == 0 && (a.prefix.End() == a.head.Wc || a.unseen()) {
			a.confirm(now)
			return nil
		}
		timer.Reset(a.next(now))
		select {
		case <-a.opts.Queue.wake:
		case <-timer.C:
			a.confirm(time.Now())
		case r := <-a.requests:
			if err := a.step(ctx, &r); err != nil {
				r.done <- err
				return err
			}
			r.done <- nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// adopt takes a part over: its transactions join the prefix in log order. Only the last piece of a transaction that
// spans parts does: pieces become visible together, so when the last one is sent, those before it are or were too.
func (a *Applier) adopt(part *Part) {
	for i := range part.items {
		it := &part.items[i]
		a.newest = max(a.newest, it.end, mvcc.LSN(it.position))
		if it.position == 0 {
			continue
		}
		id, skip := a.prefix.Append(mvcc.LSN(it.position))
		it.id, it.tracked = id, !skip
	}
	a.pending = append(a.pending, &pendingPart{part: part, unseen: len(part.items)})
	a.holds()
	a.waiting += part.size()
}

// holds says how old what the applier holds is. Parts that a gate was asked about do not count: what it saw of them is
// applied, and the rest nobody can see yet.
func (a *Applier) holds() {
	oldest := int64(0)
	for _, p := range a.pending {
		if oldest = p.part.oldest(); !p.started && oldest != 0 {
			break
		}
		oldest = 0
	}
	a.opts.Stats.Oldest.Store(oldest)
}
