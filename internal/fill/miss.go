package fill

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/store"
)

const (
	// leaseMargin is how much longer than a load a lease lasts, for the fill after it.
	leaseMargin = 500 * time.Millisecond
	// fillTimeout bounds the wait for a FILL's answer, and for a RELEASE's.
	fillTimeout = 500 * time.Millisecond
	// Between looks at a key that another process loads.
	firstPause, longestPause = 2 * time.Millisecond, 50 * time.Millisecond
	// toldPause is the same where the store says when it has changed, and when nothing will be said any more.
	toldPause = time.Second
)

// flight is a load under a lease that this process holds.
type flight struct {
	ready   chan struct{} // closed when it is loaded, or failed
	sent    time.Duration // by the Reader's clock, before the database was asked
	fences  []fence.Stamp // that the record had when the lease was granted
	loaded  pgload.Loaded
	seen    *watched
	err     error
	reason  refusal       // why it may not be stored
	epochs  []fence.Epoch // that it is stored tied to; set when it is
	floored bool          // failed R4: the row is its own caller's only

	done     chan struct{} // closed when it is stored as well, or was not
	unstored refusal       // why it was not
	took     time.Duration // until it was loaded
}

func newToken() fence.Token {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return fence.Token(hex.EncodeToString(b[:]))
}

// want is a value that a read did not find live: the names that it was looked for under, how it is loaded, and how long
// the read has for that.
type want struct {
	e       *declared
	l       *live // nil: no roster knows the entry
	c       *confirmation
	name    string // of the key, where there is a live entry
	at      *place // of an entry with epochs
	dead    string // what was found there with epochs that do not hold
	args    []keytext.Arg
	load    LoadFunc
	n       *need
	fresh   bool     // nothing stale is wanted
	standIn *standIn // what may be returned instead of an error
	soft    bool     // also instead of a load that takes longer than the soft timeout, which timer is set to

	reading *Reading // nil: nobody observes the read

	over *kept // that a conditional read compares the database's value with; nil: it is not one, or nothing is kept

	came  time.Time   // the value has to be as new as that
	began time.Time   // the read, whose load timeout goes on from there
	timer *time.Timer // ends the wait for a load
}

// missed leases the key and loads it, or waits for whoever does (R2 to R6). again asks to begin anew, since names moved or
// there is another value to judge. A live value that does not meet the need is loaded again.
func (r *Reader) missed(ctx context.Context, w *want) (v Value, again bool, err error) {
	if w.load == nil && w.e.Declared.Query == "" {
		return Value{}, false, fmt.Errorf("entry %s: %w", w.e.name, ErrNoLoader)
	}
	if err := w.recurses(ctx); err != nil {
		return Value{}, false, err
	}
	r.stats.misses.Add(1)
	w.reading = r.reading(ctx)
	w.timer = time.NewTimer(w.e.left(w.began))
	defer w.timer.Stop()
	// A wait for another process's load leaves half of the time for a load of our own, or ends sooner where something stale may be served.
	patient, cancel := context.WithCancel(ctx)
	defer cancel()
	limit := time.AfterFunc(w.e.LoadTimeout/2-time.Since(w.began), cancel)
	defer limit.Stop()
	asking, vain := ctx, false
	for {
		token, reply, err := r.leaseOnce(asking, w)
		hit := false
		if err == nil && reply.Record.State.Live() && r.covered(w.n, w.c, &reply) { // filled between the GET and the LEASE
			if w.n != nil && w.at != nil { // to be judged together with its epochs, by a HEAD that is read before both
				if reply.Granted {
					r.release(ctx, w.name, token)
				}
				return Value{}, true, nil
			}
			hit, err = r.alive(asking, w, &reply.Record)
		}
		switch {
		case err != nil:
			v, err = r.unasked(ctx, asking, w, err)
			return v, false, err
		case hit:
			if reply.Granted {
				r.release(ctx, w.name, token)
			}
			return r.found(w, reply.Record, &reply.Head)
		}
		if v, served := r.serveStale(ctx, w, token, &reply, limit); served {
			return v, false, nil
		}
		w.over = w.n.keeps(w.c, &reply)
		if reply.Granted {
			v, err = r.loadLeased(ctx, w, token, &reply)
			return v, false, err
		}
		if asking == ctx {
			asking = patient //nolint:fatcontext // made above, once
			r.stats.waits.Add(1)
		}
		f := r.flight(reply.Holder)
		if f == nil && w.n != nil && reply.Record.State.Live() { // nothing shows when the other's load is over
			v, err = r.alone(ctx, w, busyElsewhere)
			return v, false, err
		}
		if f == nil {
			var record fence.Record
			record, f, err = r.poll(patient, w, &reply)
			switch {
			case err != nil:
				v, err = r.unasked(ctx, patient, w, err)
				return v, false, err
			case record.State.Live() && w.n != nil:
				return Value{}, true, nil // to be judged by a HEAD that is read before it
			case record.State.Live():
				return r.found(w, record, &reply.Head)
			case f == nil:
				continue
			}
		}
		v, fits, err := r.join(ctx, w, f, &reply)
		switch {
		case err != nil || fits:
			return v, false, err
		case vain || !f.lost():
			v, err = r.alone(ctx, w, notCovered)
			return v, false, err
		}
		vain = true // once: its lease is gone, and one of all who waited for it loads for the others
	}
}

// unasked reads without the store, which did not answer under asking: since the caller went, since the wait for another
// process was over, or since something is wrong with it.
func (r *Reader) unasked(ctx, asking context.Context, w *want, err error) (Value, error) {
	switch {
	case ctx.Err() != nil:
		return Value{}, fmt.Errorf("entry %s: %w", w.e.name, ctx.Err())
	case asking.Err() != nil && w.softOver():
		return Value{}, fmt.Errorf("entry %s: %w", w.e.name, ErrTimeout)
	case asking.Err() != nil:
		return r.alone(ctx, w, busyElsewhere)
	}
	w.timer.Reset(w.e.left(w.began)) // a store that hangs may have taken it all
	return r.alone(ctx, w, r.failed(w.c, r.laneOf(w.name), err))
}

// found is a live value that was not there at first. again when the names under which it is live are not confirmed any more.
func (r *Reader) found(w *want, record fence.Record, head *fence.Head) (v Value, again bool, err error) {
	if !r.stillConfirmed(w.c, r.laneOf(w.name)) {
		r.stats.dropped.Add(1)
		return Value{}, true, nil
	}
	r.stats.hits.Add(1)
	return hit(w.name, record, head), false, nil
}

// loadLeased loads under the lease that was granted, and stores the row if the rules allow it.
func (r *Reader) loadLeased(ctx context.Context, w *want, token fence.Token, reply *store.LeaseReply) (Value, error) {
	f, err := r.take(ctx, w, token, reply)
	if err == nil {
		err = f.wait(ctx, w.timer)
	}
	if err != nil {
		return Value{}, fmt.Errorf("entry %s: %w", w.e.name, err)
	}
	return f.value(w)
}

// flight is this process's load under a lease, if it holds it.
func (r *Reader) flight(holder fence.Token) *flight {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.flights[holder]
}

// join waits for a flight and takes its row, if that is new enough (R6).
func (r *Reader) join(
	ctx context.Context, w *want, f *flight, reply *store.LeaseReply,
) (v Value, fits bool, err error) {
	if !f.knows(reply.Record.Fences) || w.n.precedes(f) {
		return Value{}, false, nil // it may have been under way for long, and most likely misses what was fenced since
	}
	if err := f.wait(ctx, w.timer); err != nil {
		return Value{}, false, fmt.Errorf("entry %s: %w", w.e.name, err)
	}
	if !r.fits(f, w.c, reply) || !w.n.joins(f) || !r.stands(ctx, w, f) {
		return Value{}, false, nil
	}
	r.stats.joins.Add(1)
	v, err = f.value(w)
	return v, true, err
}

// wait waits until the row is stored, so that whoever reads next hits; but not past the time that the reader has, when
// the row is there and only the store hangs.
func (f *flight) wait(ctx context.Context, timer *time.Timer) error {
	select {
	case <-f.done:
		return nil
	case <-timer.C:
		timer.Reset(0) // whatever is waited for next has no time either
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-f.ready:
		return nil
	default:
		return ErrTimeout
	}
}

// over waits until the row is stored, or is not.
func (f *flight) over(ctx context.Context) error {
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lost reports whether the flight is over, and an invalidation kept its row from being stored: its lease is gone.
func (f *flight) lost() bool {
	select {
	case <-f.done:
		return f.unstored == refusedNotCovering || f.unstored == refusedNoLease || f.unstored == refusedEpoch
	default:
		return false
	}
}

// knows reports whether all fences were there before the flight's load began.
func (f *flight) knows(fences []fence.Stamp) bool {
	for _, x := range fences {
		if !slices.ContainsFunc(f.fences, func(y fence.Stamp) bool { return y.XID == x.XID }) {
			return false
		}
	}
	return true
}

// take begins the flight of a lease that was granted. What a need asks for is shown by a snapshot of the primary alone.
func (r *Reader) take(ctx context.Context, w *want, token fence.Token, reply *store.LeaseReply) (*flight, error) {
	f := r.depart(token, reply)
	from := reply
	if w.n != nil {
		from = nil
	}
	end := func() { r.land(ctx, w, token, f) }
	err := r.begin(ctx, w.e.LoadTimeout, func(ctx context.Context) {
		defer end()
		r.fly(ctx, w, f, token, reply, from)
	})
	if err != nil {
		f.err = err
		close(f.ready)
		end()
	}
	return f, err
}

// fly loads under a lease, from a standby only if it is given the lease's answer, and stores the row if that is allowed.
func (r *Reader) fly(ctx context.Context, w *want, f *flight, token fence.Token, reply, from *store.LeaseReply) {
	f.err = errExited                                      // unless it returns
	f.loaded, f.seen, f.err = r.observedLoad(ctx, w, from) // R3: after the grant
	if !r.arrive(w, f, reply) {
		r.release(ctx, w.name, token)
		return
	}
	f.unstored = r.fill(ctx, w, f, token)
}

// arrive judges a load, which its waiters then have. It reports whether it is to be stored.
func (r *Reader) arrive(w *want, f *flight, reply *store.LeaseReply) bool {
	if f.err == nil {
		f.reason = r.judge(w, f, reply)
		r.saw(w.n, f)
	}
	f.took = r.clock() - f.sent
	close(f.ready)
	if f.reason != 0 {
		r.stats.refused[f.reason].Add(1)
	}
	return f.err == nil && f.reason == 0
}

// depart makes the flight of a lease, for those of this process to find.
func (r *Reader) depart(token fence.Token, reply *store.LeaseReply) *flight {
	f := &flight{ready: make(chan struct{}), done: make(chan struct{}), sent: r.clock(), fences: reply.Record.Fences}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flights[token] = f
	return f
}

// land ends a flight whose row is stored, or is not.
func (r *Reader) land(ctx context.Context, w *want, token fence.Token, f *flight) {
	r.note(ctx, w, f)
	r.mu.Lock()
	delete(r.flights, token)
	r.mu.Unlock()
	close(f.done)
}

// strand ends a flight that nobody flies any more, and whose lease is given back: whoever waits for it asks for the lease once more.
func (r *Reader) strand(token fence.Token, f *flight) {
	f.floored, f.unstored = true, refusedNoLease
	r.mu.Lock()
	delete(r.flights, token)
	r.mu.Unlock()
	close(f.ready)
	close(f.done)
}

// judge says why a load may not be stored, under the HEAD that was read after the lease was granted (R3, R4).
func (r *Reader) judge(w *want, f *flight, reply *store.LeaseReply) refusal {
	c, head := w.c, reply.Head
	switch {
	case !c.agrees(r.laneOf(w.name), &head, reply.HeadFound):
		r.expire(c)
		f.floored = true
		return refusedNames
	case f.loaded.Through != "":
		if w.e.told.CompareAndSwap(false, true) {
			r.logger.Warn("values of the entry are not stored: its code reads another entry through the cache, which may be older than the snapshot of its "+
				"transaction: let it read the tables by q alone, or declare covers: none if a value may be as old as its TTL",
				slog.String("entry", w.e.name), slog.String("reads", f.loaded.Through))
		}
		return refusedNested
	case f.loaded.Refuse != "":
		r.logger.Warn("load is not stored", slog.String("reason", f.loaded.Refuse))
		return refusedLoad
	case f.loaded.Server.System != head.System || f.loaded.Server.Timeline != head.Timeline:
		r.logger.Warn("load is not stored: it is from another server than the one whose log is followed",
			slog.String("system", f.loaded.Server.System), slog.String("expected_system", head.System))
		return refusedServer
	case c.elsewhere(f.loaded.Database):
		r.logger.Warn("load is not stored: it is from another database than the one whose log is followed",
			slog.String("database", f.loaded.Database.String()), slog.String("expected_database", c.names.database.String()))
		return refusedDatabase
	case !fence.Floor(head, f.loaded.Coverage):
		f.floored = true
		return refusedFloor
	}
	return 0
}

// fits is R6: a waiter takes a flight's row only if it covers the fences that the waiter saw and passes the floor of
// the HEAD that the waiter read.
func (r *Reader) fits(f *flight, c *confirmation, reply *store.LeaseReply) bool {
	if f.err != nil {
		return true // the database's failure is everybody's, who came while it was asked
	}
	head := &reply.Head
	if f.floored || f.loaded.Refuse != "" || c.elsewhere(f.loaded.Database) || !reply.HeadFound || head.Generation != c.names.generation ||
		f.loaded.Server.System != head.System || f.loaded.Server.Timeline != head.Timeline || !fence.Floor(*head, f.loaded.Coverage) {
		return false
	}
	for _, x := range reply.Record.Fences {
		if !f.loaded.Coverage.Covers(x) {
			return false
		}
	}
	return true
}

// fill stores a load (R5), or says why not. Whatever comes of it, the caller gets its row.
func (r *Reader) fill(ctx context.Context, w *want, f *flight, token fence.Token) (why refusal) {
	if w.tooLarge(f) {
		r.stats.refused[refusedTooLarge].Add(1)
		r.release(ctx, w.name, token)
		return refusedTooLarge
	}
	request := w.request(f, token)
	ctx, cancel := context.WithTimeout(ctx, r.fillWithin)
	defer cancel()
	if request.Epochs, why = r.pin(ctx, w, &f.loaded); why != 0 {
		r.stats.refused[why].Add(1)
		r.release(ctx, w.name, token)
		return why
	}
	f.epochs = request.Epochs
	outcome, err := r.write(ctx, w.name, request, f.loaded.Same != pgload.Different)
	why, held := r.filled(ctx, w, outcome, err)
	if held {
		r.release(ctx, w.name, token) // the next reader would wait for its end
	}
	return why
}

// request stores a load.
func (w *want) request(f *flight, token fence.Token) store.FillRequest {
	request := store.FillRequest{
		Token: token, Coverage: f.loaded.Coverage, State: fence.Live, Payload: f.loaded.Payload, TTL: w.e.shorten(w.e.TTL),
		RowVersion: f.loaded.Version, Keep: w.e.Keep(), CompressAbove: w.e.CompressAbove,
	}
	if !f.loaded.Found {
		request.State, request.Payload, request.TTL = fence.Negative, nil, w.e.shorten(w.e.NegativeTTL)
	}
	return request
}

// filled counts what came of a FILL, and says why the load is not stored, if it is not, and whether the lease is there still.
func (r *Reader) filled(ctx context.Context, w *want, outcome fence.FillOutcome, err error) (why refusal, held bool) {
	switch {
	case errors.Is(err, store.ErrTooLarge):
		r.stats.refused[refusedTooLarge].Add(1)
		return refusedTooLarge, true
	case err != nil:
		why = refusedStore
		r.logger.DebugContext(ctx, "fill failed", slog.String("entry", w.e.name), slog.String("error", err.Error()))
	case outcome == fence.Filled:
		r.stats.fills.Add(1)
		r.dropOwn(w.name)
		return 0, false
	case outcome == fence.NoLease:
		why = refusedNoLease
	case outcome == fence.LeaseEnded:
		why = refusedLeaseEnded
	case outcome == fence.NotCovering:
		why = refusedNotCovering
	case outcome == fence.NotNewer:
		why = refusedNotNewer
	}
	r.stats.refused[why].Add(1)
	return why, err == nil && (outcome == fence.NotCovering || outcome == fence.NotNewer)
}

// release gives a lease back, so that the next reader need not wait for its end.
func (r *Reader) release(ctx context.Context, name string, token fence.Token) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.fillWithin)
	defer cancel()
	if err := r.store.Release(ctx, name, token); err != nil {
		r.logger.DebugContext(ctx, "release failed", slog.String("error", err.Error()))
	}
}

func (f *flight) value(w *want) (Value, error) {
	w.note(f.seen)
	if f.err != nil {
		return Value{}, fmt.Errorf("entry %s: %w", w.e.name, f.err)
	}
	why := f.reason
	if why == 0 {
		select {
		case <-f.done:
			why = f.unstored
		default:
			why = refusedStore // it has not answered in time
		}
	}
	status := Miss
	if f.loaded.Same != pgload.Different {
		status = Revalidated
	}
	return Value{
		Found: f.loaded.Found, Payload: f.loaded.Payload, Status: status, Reason: why.String(),
		coverage: f.loaded.Coverage, server: f.loaded.Server, Name: w.name,
	}, nil
}
