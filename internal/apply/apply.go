// Package apply makes routed changes true in a region's store: it waits until their transactions are visible on the
// primary, deletes the records that they affect, and only then moves HEAD, the store's own account of how far that
// has come, and what the slot may forget. The rules D2 to D7 that it cites are those of docs/protocol.md.
package apply

import (
	"context"
	"fmt"
	"log/slog"
	"math/bits"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/watermark"
	"github.com/freshet/freshet/mvcc"
)

// Store is the region's store, over one connection that is never silently replaced by another.
type Store interface {
	// Early fences keys for transactions that may not be visible yet. It is a courtesy to readers; nothing rests on it.
	Early(ctx context.Context, keys []redisstore.Stamped) (redisstore.Result, error)
	// Apply records the intent, deletes the named records and, when asked to, advances HEAD. An error means that
	// nothing may be taken as applied. It also reads the readers' counts.
	Apply(ctx context.Context, b redisstore.Batch) (redisstore.Result, error)
	// Ticks reads the counts of readers that bound staleness.
	Ticks(ctx context.Context) (fence.Ticks, error)
	// Move publishes a roster.
	Move(ctx context.Context, e redisstore.Expected, roster []byte, revision uint64, publication string) error
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

// Options configure an Applier. Store, Gate, Queue, Names and Head are required.
type Options struct {
	Store     Store
	Gate      Gate
	Queue     *Queue
	Names     *Names
	Head      fence.Head                // as claimed, or as just created
	Confirm   func(p change.Position)   // tells the source what it may forget
	Observe   func(committed time.Time) // called for each transaction once it is applied
	Published func(r *rule.Roster)      // called on the applier's goroutine when readers can see a new roster
	Logger    *slog.Logger              //
	Rewind    Rewind                    // how far confirmation stays behind (D5)
	Settle    time.Duration             // how long readers may go on under old names after a move (D7): T_r and a margin
	Stats     *Stats                    // counters, shared with whoever shows them
	// DDL is called, on the applier's goroutine, when a transaction has become visible that altered what entries stand on:
	// Wc then stands still until Looked is called. Nil: such transactions are like others.
	DDL func()
	// MaxWaiting bounds the memory of what waits for a transaction to become visible, in bytes: beyond it no more is taken from
	// the queue, which then holds the source back. Default 16 MiB.
	MaxWaiting int
}

// Applier applies one stream to one store. It is used by one goroutine, except for Request.
type Applier struct {
	opts     Options
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

// pace decides how long the part that is being filled is left alone: not at all, unless the log goes on far behind the
// last one, so that more is coming. Each step costs three round trips however little it carries, at the expense of those
// who produce what it waits for.
func (a *Applier) pace(insert mvcc.LSN) {
	a.linger = 0
	if insert > a.newest+farBehind {
		a.linger = lastLinger
		if behind := insert - a.newest; behind < lastLingerBytes {
			a.linger = time.Duration(behind) * lastLinger / lastLingerBytes
		}
	}
	a.takeAt = time.Now().Add(a.linger)
}

// ready reports whether the next part is to be taken.
func (a *Applier) ready(now time.Time) bool {
	return a.linger == 0 || !now.Before(a.takeAt) || a.opts.Queue.wait()
}

// due reports whether there is something to do although nothing new came.
func (a *Applier) due(now time.Time) bool {
	if a.maimed(now) || a.ripe() {
		return true
	}
	if len(a.pending) > 0 {
		if a.onlyIdle() {
			return !now.Before(a.idleAt)
		}
		return !now.Before(a.gateAt)
	}
	if now.Before(a.settleAt) || a.unseen() {
		return a.opts.Names.restless(now)
	}
	return a.prefix.End() > a.head.Wc || a.asked(now) || a.opts.Names.restless(now)
}

func (a *Applier) next(now time.Time) time.Duration {
	wait := tick
	if len(a.pending) > 0 {
		at := a.gateAt
		if a.onlyIdle() {
			at = a.idleAt
		}
		wait = min(wait, at.Sub(now))
	} else if a.prefix.End() > a.head.Wc && !a.unseen() {
		wait = min(wait, a.settleAt.Sub(now))
	}
	if a.opts.Store.Closed() > 0 {
		wait = min(wait, a.mendAt.Sub(now))
	}
	if a.linger > 0 && now.Before(a.takeAt) {
		wait = min(wait, a.takeAt.Sub(now))
	}
	wait = min(wait, a.asking.lookAt.Sub(now))
	return max(wait, 50*time.Microsecond)
}

// onlyIdle reports that what is pending are positions without transactions, which can wait a little.
func (a *Applier) onlyIdle() bool {
	for _, p := range a.pending {
		if !p.part.Keys.Empty() {
			return false
		}
		for i := range p.part.items {
			if p.part.items[i].xid != 0 {
				return false
			}
		}
	}
	return true
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

// early fences the keys of a small part that has just been taken, before the gate is asked whether its transactions are
// visible (D1): what is cached is gone a round trip earlier, and a reader that comes in between need not load twice. Behind
// a backlog it would only cost time. (To ask the gate at the same time makes both answers later where processors are few.)
func (a *Applier) early(ctx context.Context) error {
	if len(a.pending) == 0 || a.linger > 0 {
		return nil
	}
	p := a.pending[len(a.pending)-1]
	if p.started || p.part.Keys.Len() == 0 || !p.part.small() {
		return nil
	}
	keys := a.stamped(nil, p.part, func(*item) bool { return true })
	if len(keys) == 0 {
		return nil
	}
	result, err := a.opts.Store.Early(ctx, keys)
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	a.opts.Stats.Unlinked.Add(uint64(max(result.Removed, 0)))
	p.fenced = time.Now()
	return nil
}

// withdraw takes back the early fences of transactions that stay invisible. One that hangs in synchronous replication may
// do so for long, and its old row is what the database shows: better cached than loaded by every reader, and stored by none.
func (a *Applier) withdraw(batch *redisstore.Batch, now time.Time) {
	for _, p := range a.pending {
		if p.fenced.IsZero() || p.unseen == 0 || now.Sub(p.fenced) < withdrawAfter {
			continue
		}
		p.fenced = time.Time{}
		for _, k := range a.stamped(nil, p.part, func(it *item) bool { return !it.seen }) {
			batch.Names = append(batch.Names, k.Name)
		}
	}
}

// crowded has a part whose keys are fenced wait a little for others when there was a step just now: three round trips are
// then made for several transactions, and the next one's keys are fenced the sooner.
func (a *Applier) crowded(now time.Time) bool {
	until := a.stepped.Add(crowd)
	if a.pending[len(a.pending)-1].fenced.IsZero() || !now.Before(until) {
		return false
	}
	a.gateAt = until
	return true
}

// stamped appends the keys of a small part under the names that are live now, each with those of its transactions that
// are chosen; keys without any are left out.
func (a *Applier) stamped(keys []redisstore.Stamped, part *Part, choose func(it *item) bool) []redisstore.Stamped {
	for i := range part.Keys.Len() {
		if !part.Keys.Key(i) {
			continue
		}
		var stamps []fence.Stamp
		for marks := part.Keys.Marks(i); marks != 0; marks &= marks - 1 {
			if it := &part.items[bits.TrailingZeros64(marks)]; choose(it) {
				stamps = append(stamps, fence.Stamp{XID: it.xid, End: it.end})
			}
		}
		if len(stamps) == 0 {
			continue
		}
		entry, key := part.Keys.At(i)
		if prefix := a.opts.Names.prefix(entry, key); prefix != "" {
			keys = append(keys, redisstore.Stamped{Name: prefix + string(key), Stamps: stamps})
		}
	}
	return keys
}

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
	batch := redisstore.Batch{
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
	return a.mend(ctx, seen)
}

// maimed reports whether lanes are lost and may be tried now.
func (a *Applier) maimed(now time.Time) bool {
	return a.opts.Store.Closed() > 0 && !now.Before(a.mendAt)
}

// mend begins lost lanes anew after a step, which has confirmed everything that its gate's view shows and that was delivered.
// What is cached in them after that was loaded under a snapshot that sees all of it, or on a standby which has replayed it: so nothing
// need be delivered again. Readers may go on with what was before for as long as after a move of names.
func (a *Applier) mend(ctx context.Context, seen view) error {
	defer func() { a.opts.Stats.Closed.Store(int64(a.opts.Store.Closed())) }()
	if !a.maimed(time.Now()) {
		return nil
	}
	head := fence.Head{
		Generation: a.head.Generation, Term: a.head.Term, Revision: a.head.Revision, System: a.head.System, Timeline: a.head.Timeline,
		Publication: a.head.Publication, Wc: a.head.Wc, Wi: max(seen.insert, a.head.Wc), Si: seen.snapshot,
	}
	opened, err := a.opts.Store.Mend(ctx, head, a.opts.Names.Roster().Text())
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	now := time.Now()
	a.mendAt = now.Add(mendEvery)
	if opened == 0 {
		return nil
	}
	a.opts.Stats.Mended.Add(uint64(opened)) //nolint:gosec // a count
	a.settleAt = now.Add(a.opts.Settle)
	a.opts.Names.Lanes(a.opts.Store.Generations())
	if a.opts.Published != nil {
		a.opts.Published(a.opts.Names.Roster())
	}
	return nil
}

func (a *Applier) expect() redisstore.Expected {
	return redisstore.Expected{Generation: a.head.Generation, Term: a.head.Term, Wc: a.head.Wc}
}

// look asks of each transaction in p that was not visible whether it is now, and reports whether anything has to be
// sent. All keys of a large part are sent again then: they were coalesced over its transactions, and deleting once too
// often costs a load, once too seldom a stale value.
func (a *Applier) look(p *pendingPart, snapshot mvcc.Snapshot, batch *redisstore.Batch) (newly bool) {
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

// keys has the batch confirm the keys of the parts: those of small parts each with the transactions that have just become
// visible, the others by name. Epochs are always ended by name: there is no value in them that could contain a transaction.
func (a *Applier) keys(batch *redisstore.Batch, parts []*pendingPart) {
	var large []*pendingPart
	for _, p := range parts {
		if p.part.small() && !p.overtaken {
			batch.Keys = a.stamped(batch.Keys, p.part, func(it *item) bool { return it.fresh })
		} else {
			large = append(large, p)
		}
		batch.Epochs = a.epochs(batch.Epochs, p.part)
	}
	batch.Names = a.names(large)
}

// epochs appends the epochs that the part ends, under the names that are live now: of a small part those of transactions
// that have just become visible, of a large one all.
func (a *Applier) epochs(names []string, part *Part) []string {
	small := part.small()
	for i := range part.Keys.Len() {
		if part.Keys.Epoch(i) && (!small || part.freshly(part.Keys.Marks(i))) {
			entry, epoch := part.Keys.At(i)
			names = a.opts.Names.appendEpochs(names, entry, epoch)
		}
	}
	return names
}

// names spells the keys of the parts under the names that are live now.
func (a *Applier) names(parts []*pendingPart) []string {
	count, size := 0, 0
	for _, p := range parts {
		count += p.part.Keys.Len()
		size += p.part.Keys.Bytes() + p.part.Keys.Len()*a.opts.Names.longest
	}
	if count == 0 {
		return nil
	}
	var text strings.Builder
	text.Grow(size)
	ends := make([]int, 0, count)
	for _, p := range parts {
		for i := range p.part.Keys.Len() {
			if !p.part.Keys.Key(i) {
				continue
			}
			entry, key := p.part.Keys.At(i)
			if prefix := a.opts.Names.prefix(entry, key); prefix != "" {
				text.WriteString(prefix)
				text.Write(key)
				ends = append(ends, text.Len())
			}
		}
	}
	all := text.String()
	names := make([]string, len(ends))
	from := 0
	for i, end := range ends {
		names[i] = all[from:end]
		from = end
	}
	return names
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
	if a.opts.Observe != nil {
		a.opts.Observe(time.UnixMicro(it.committed))
	}
}

// finish accounts for a batch that was applied.
func (a *Applier) finish(ready []*pendingPart, result redisstore.Result, batch redisstore.Batch) {
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
