package fill

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/mvcc"
)

// togetherShare is the part of a load timeout that a statement for many keys may take. A key that holds it up costs the others
// that, and then has only itself to wait for it.
const togetherShare = 2

// launch begins the flights of leases that were granted. They outlive the caller.
func (b *batch) launch(ctx context.Context, items []*item) {
	for some := range slices.Chunk(items, rule.MaxBatch) {
		for _, it := range some {
			it.flight = b.depart(it.token, &it.reply)
		}
		err := b.begin(ctx, b.e.LoadTimeout, func(ctx context.Context) { b.flyTogether(ctx, some) })
		if err == nil {
			continue
		}
		for _, it := range some {
			it.flight.err = err
			close(it.flight.ready)
			b.land(ctx, it.w, it.token, it.flight)
		}
	}
}

// flyTogether loads and stores. Whoever was not loaded in time with the others is read by itself, in its turn: its lease, half of which is
// over, is given back, and who waits for its flight here sees that it is lost.
func (b *batch) flyTogether(ctx context.Context, items []*item) {
	var landing, stored, back, late []*item
	ones, seen := b.observed(ctx, items, b.askLeased)
	b.compareAll(items, ones)
	for i, one := range ones {
		it := items[i]
		if errors.Is(one.Err, errSlow) {
			late = append(late, it)
			continue
		}
		landing = append(landing, it)
		it.flight.loaded, it.flight.seen, it.flight.err = one.Loaded, seen, one.Err
		if b.arrive(it.w, it.flight, &it.reply) {
			stored = append(stored, it)
		} else {
			back = append(back, it)
		}
	}
	back = append(back, b.store(ctx, stored)...)
	b.giveBack(ctx, append(back, late...))
	b.later(ctx, late)
	for _, it := range late {
		b.strand(it.token, it.flight)
	}
	for _, it := range landing {
		b.land(ctx, it.w, it.token, it.flight)
	}
}

// errSlow is the error of a key that is to be loaded alone: the statement took too long for all of them.
var errSlow = errors.New("the statement for many keys took too long")

// slow reports errors after which that is so.
func slow(err error) bool {
	var refused *pgload.QueryError
	return errors.Is(err, pgload.ErrTimeout) || errors.As(err, &refused) && refused.Code == pgload.Cancelled
}

// askLeased loads under leases: from a standby what may be stored from there, the rest from the primary.
func (b *batch) askLeased(ctx context.Context, items []*item) []pgload.One {
	ones := make([]pgload.One, len(items))
	free, err := b.enter(ctx, b.e)
	if err != nil {
		for i := range ones {
			ones[i].Err = err
		}
		return ones
	}
	defer free()
	q, err := b.query(items[0].w)
	if err != nil {
		for i := range ones {
			ones[i].Err = err
		}
		return ones
	}
	at := make([]int, 0, len(items)) // what the primary is asked for
	used := b.fromReplicas(ctx, q, items)
	var rest []*want
	for i, it := range items {
		if len(used) > i && used[i] != nil {
			ones[i].Loaded = *used[i]
			continue
		}
		at, rest = append(at, i), append(rest, it.w)
	}
	if len(rest) == 0 {
		b.stats.loads.Add(1)
		return ones
	}
	for n, one := range b.ask(ctx, q, rest) {
		ones[at[n]] = one
	}
	return ones
}

// query is what one of the keys, and so each, is loaded by.
func (b *batch) query(w *want) (pgload.Query, error) {
	sql, err := b.e.sql(b.l)
	return pgload.Query{SQL: sql, Result: b.e.Declared.Result, Tags: w.tags(), Batch: b.form()}, err
}

// form is that of the entry's query for many keys; nil: it has none that the database takes.
func (b *batch) form() *rule.Batch {
	switch {
	case b.l == nil: // while the store is away the database is to be spared more than ever
		return b.e.batch.Load()
	case !b.l.apart.Load():
		return b.l.entry.Batch
	}
	return nil
}

// together reports whether what is missing, or is to be compared, is loaded by one statement with the others. Of a query without a form for
// many keys, comparisons are statements of their own, which have the database send only what has changed.
func (b *batch) together(w *want) bool {
	return w.load == nil && (w.over == nil || b.form() != nil)
}

// compareAll compares what was loaded together with what conditional reads keep: the statement for many keys sends every value, so that
// it is compared here, by its bytes. It is stored by a FILL, not a RENEW, and without a row version: the next conditional read of it alone makes it once more.
func (b *batch) compareAll(items []*item, ones []pgload.One) {
	for i, it := range items {
		loaded := &ones[i].Loaded
		if it.w.over == nil || ones[i].Err != nil {
			continue
		}
		b.stats.revalidations.Add(1)
		if it.w.over.equals(loaded) {
			b.stats.unchanged.Add(1)
			loaded.Same, loaded.Payload = pgload.SameDigest, it.w.over.record.Payload
		}
	}
}

// ask asks the primary.
func (b *batch) ask(ctx context.Context, q pgload.Query, wants []*want) []pgload.One {
	keys := make([][]keytext.Arg, len(wants))
	for i, w := range wants {
		keys[i] = w.args
	}
	timed, cancel := context.WithTimeout(ctx, b.e.LoadTimeout/togetherShare)
	defer cancel()
	done, err := b.breaker.ask()
	if err != nil {
		ones := make([]pgload.One, len(wants))
		for i := range ones {
			ones[i].Err = err
		}
		return ones
	}
	m := b.many.LoadMany(timed, q, keys)
	b.stats.loads.Add(uint64(m.Statements)) //nolint:gosec // not negative
	if m.Refused != nil && b.refusedMany(q.Batch) {
		b.logger.WarnContext(ctx, "keys are loaded by statements of their own: the database refuses the query for many",
			slog.String("entry", b.e.name), slog.String("error", m.Refused.Error()))
	}
	for i := range m.Ones {
		one := &m.Ones[i]
		if ctx.Err() == nil && slow(one.Err) {
			one.Err = errSlow
		} else {
			one.Err = b.failure(wants[i], one.Err)
		}
		b.learn(one.Loaded.Database)
	}
	done(answered(m.Ones))
	return m.Ones
}

// refusedMany notes that the database has refused the query for many keys. first is false when that was known.
func (b *batch) refusedMany(form *rule.Batch) (first bool) {
	first = b.e.batch.CompareAndSwap(form, nil)
	if b.l != nil {
		first = b.l.apart.CompareAndSwap(false, true)
	}
	return first
}

// fromReplicas loads from a standby, if there is one that can be recent enough, what the rules allow to be stored from there.
// For the others there is nil.
func (b *batch) fromReplicas(ctx context.Context, q pgload.Query, items []*item) []*pgload.Loaded {
	if len(b.standbys) == 0 || b.n != nil { // what a need asks for is shown by a snapshot of the primary alone
		return nil
	}
	needs := make([]requirement, len(items))
	least := mvcc.LSN(0)
	for i, it := range items {
		if !it.reply.HeadFound {
			return nil
		}
		needs[i] = requirement{head: &it.reply.Head, fences: it.reply.Record.Fences, names: it.w.c}
		if at := needs[i].position(); i == 0 || at < least {
			least = at
		}
	}
	for _, it := range items {
		if !b.isFollowed(ctx, it.lane, &it.reply.Head) {
			b.stats.replicas[replicaUnfollowed].Add(uint64(len(items)))
			return nil
		}
	}
	s, outcome := b.choose(least)
	if s == nil {
		b.stats.replicas[outcome].Add(uint64(len(items)))
		return nil
	}
	replica, ok := s.replica.(ManyReplica)
	if !ok {
		return nil
	}
	keys := make([][]keytext.Arg, len(items))
	for i, it := range items {
		keys[i] = it.w.args
	}
	limited, cancel := context.WithTimeout(ctx, b.e.LoadTimeout/replicaShare)
	defer cancel()
	loaded, err := replica.LoadMany(limited, q, keys)
	if err != nil {
		b.stats.replicas[replicaFailed].Add(uint64(len(items)))
		b.hear(ctx, s, replicaFailed, &pgload.Loaded{}, err)
		return nil
	}
	used := make([]*pgload.Loaded, len(items))
	for i := range items {
		if outcome = s.judge(&needs[i], &loaded[i], nil); outcome == replicaUsed {
			used[i] = &loaded[i]
		}
	}
	b.hear(ctx, s, outcome, &loaded[len(items)-1], nil) // one server has answered for all
	b.dropEnded(limited, items, used)
	for i := range items {
		if used[i] != nil {
			outcome = replicaUsed
		} else if outcome = s.judge(&needs[i], &loaded[i], nil); outcome == replicaUsed {
			outcome = replicaBehind
		}
		b.stats.replicas[outcome].Add(1)
	}
	return used
}

// dropEnded drops rows of a standby that lack what one of their epochs was ended for: that raised the floor of the epoch's
// bucket, which the lease's answer does not tell.
func (b *batch) dropEnded(ctx context.Context, items []*item, used []*pgload.Loaded) {
	var of []int
	var some []*item
	var loads []*pgload.Loaded
	for i, it := range items {
		if it.w.at != nil && used[i] != nil && used[i].Coverage.Standby() {
			of, some, loads = append(of, i), append(some, it), append(loads, used[i])
		}
	}
	for n, pin := range b.pinAll(ctx, some, loads) {
		if pin.why != 0 {
			used[of[n]] = nil
		}
	}
}

// pin is what a load is to be tied to, or why it cannot be stored.
type pin struct {
	epochs []fence.Epoch
	why    refusal
}

// pinAll is Reader.pin for many loads.
func (b *batch) pinAll(ctx context.Context, items []*item, loads []*pgload.Loaded) []pin {
	pins := make([]pin, len(items))
	var (
		of          []int
		names, full [][]string
	)
	for i, it := range items {
		if it.w.at == nil {
			continue
		}
		some, err := it.w.l.ties.of(it.w.args, loads[i])
		if err != nil {
			b.logger.ErrorContext(ctx, "load is not stored", slog.String("entry", b.e.name), slog.String("error", err.Error()))
			pins[i].why = refusedLoad
			continue
		}
		of, names, full = append(of, i), append(names, some), append(full, it.w.at.full(some))
	}
	if len(of) == 0 {
		return pins
	}
	for n, p := range b.batches.PinMany(ctx, full, b.e.epochLife()) {
		i := of[n]
		pins[i].epochs, pins[i].why = b.pinned(ctx, items[i].w, loads[i], names[n], full[n], &p.Pinned, p.Err)
	}
	return pins
}

// store stores loads (R5), and returns those whose leases are there still.
func (b *batch) store(ctx context.Context, items []*item) (held []*item) {
	items, held = b.storable(items)
	if len(items) == 0 {
		return held
	}
	ctx, cancel := context.WithTimeout(ctx, b.fillWithin)
	defer cancel()
	loads := make([]*pgload.Loaded, len(items))
	for i, it := range items {
		loads[i] = &it.flight.loaded
	}
	var fillings []store.Filling
	var of []*item
	for i, pin := range b.pinAll(ctx, items, loads) {
		it := items[i]
		if pin.why != 0 {
			b.stats.refused[pin.why].Add(1)
			it.flight.unstored = pin.why
			held = append(held, it)
			continue
		}
		it.flight.epochs = pin.epochs
		request := it.w.request(it.flight, it.token)
		request.Epochs = pin.epochs
		fillings, of = append(fillings, store.Filling{Name: it.w.name, FillRequest: request}), append(of, it)
	}
	if len(fillings) == 0 {
		return held
	}
	for i, filled := range b.batches.FillMany(ctx, fillings) {
		it := of[i]
		var there bool
		if it.flight.unstored, there = b.filled(ctx, it.w, filled.Outcome, filled.Err); there {
			held = append(held, it)
		}
	}
	return held
}

// bypassMany loads past a cache that cannot be used, for the items' own reasons, and ends the items. Keys that somebody is
// loading so already are waited for, or loaded after that, as by reads of them alone, in their turn.
func (b *batch) bypassMany(ctx context.Context, items []*item) {
	var own, turns []*item
	for _, it := range items {
		it.w.at = nil // nothing is stored
		switch {
		case it.why == callerGone:
			b.stats.bypassed[it.why].Add(1)
			b.fail([]*item{it}, ctx.Err())
		case b.code != nil || b.e.Declared.Query == "" || !b.boardFirst(it):
			turns = append(turns, it)
		default:
			b.stats.bypassed[it.why].Add(1)
			own = append(own, it)
		}
	}
	b.pastInTurn(ctx, turns)
	for some := range slices.Chunk(own, rule.MaxBatch) {
		err := b.begin(ctx, b.e.LoadTimeout, func(ctx context.Context) { b.travel(ctx, some) })
		if err != nil {
			for _, it := range some {
				b.arrived(it, pgload.One{Err: err}, nil)
			}
		}
	}
	for _, it := range own {
		it.w.timer = time.NewTimer(b.e.left(b.began))
		v, err := it.trip.value(ctx, it.w, it.why)
		it.w.timer.Stop()
		if errors.Is(err, errSlow) {
			turns = append(turns, it)
			continue
		}
		b.settle(it, v, err)
	}
	if len(turns) > 0 {
		b.apart.Go(func() {
			for _, it := range turns {
				b.finish(ctx, it, nil)
			}
		})
	}
}

// boardFirst makes the load of a key that nobody is loading without a lease.
func (b *batch) boardFirst(it *item) bool {
	key := it.w.lane()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lanes[key] != nil {
		return false
	}
	on := &lane{key: key}
	it.trip = &trip{on: on, began: time.Now(), done: make(chan struct{})}
	on.now, b.lanes[key] = it.trip, on
	return true
}

// arrived ends a trip.
func (b *batch) arrived(it *item, one pgload.One, seen *watched) {
	it.trip.loaded, it.trip.seen, it.trip.err = one.Loaded, seen, one.Err
	b.leave(it.trip)
	close(it.trip.done)
}

// travel loads the keys of trips. One that was not loaded in time with the others ends with that: whoever waits for it makes a trip of its own.
func (b *batch) travel(ctx context.Context, items []*item) {
	ones, seen := b.observed(ctx, items, b.askAll)
	b.compareAll(items, ones)
	var late []*item
	for i, one := range ones {
		if errors.Is(one.Err, errSlow) {
			b.stats.bypassed[items[i].why].Add(^uint64(0)) // it is counted in its turn
			late = append(late, items[i])
		}
	}
	b.pastInTurn(ctx, late)
	for i, one := range ones {
		b.arrived(items[i], one, seen)
	}
}

func (b *batch) askAll(ctx context.Context, items []*item) []pgload.One {
	wants := make([]*want, len(items))
	for i, it := range items {
		wants[i] = it.w
	}
	free, err := b.enter(ctx, b.e)
	var q pgload.Query
	if err == nil {
		defer free()
		q, err = b.query(wants[0])
	}
	if err != nil {
		ones := make([]pgload.One, len(items))
		for i := range ones {
			ones[i].Err = err
		}
		return ones
	}
	return b.ask(ctx, q, wants)
}
