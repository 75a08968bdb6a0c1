package fill

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/redisstore"
)

const (
	// leaseMargin is how much longer than a load a lease lasts, for the fill after it.
	leaseMargin = 500 * time.Millisecond
	// fillTimeout bounds the wait for a FILL's answer, and for a RELEASE's.
	fillTimeout = 500 * time.Millisecond
	// Between looks at a key that another process loads.
	firstPause, longestPause = 2 * time.Millisecond, 50 * time.Millisecond
)

// flight is a load under a lease that this process holds.
type flight struct {
	ready   chan struct{} // closed when it is loaded, or failed
	sent    time.Duration // by the Reader's clock, before the database was asked
	fences  []fence.Stamp // that the record had when the lease was granted
	loaded  pgload.Loaded
	err     error
	reason  refusal // why it may not be stored
	floored bool    // failed R4: the row is its own caller's only

	done     chan struct{} // closed when it is stored as well, or was not
	unstored refusal       // why it was not
}

func newToken() fence.Token {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return fence.Token(hex.EncodeToString(b[:]))
}

// miss leases the key and loads it, or waits for whoever does (R2 to R6). again asks to begin anew, since names moved or
// there is another value to judge. A live value that does not meet the need is loaded again.
func (r *Reader) miss(
	ctx context.Context, began time.Time, e *declared, l *live, c *confirmation, name string, args []keytext.Arg, load LoadFunc,
	n *need,
) (v Value, again bool, err error) {
	if load == nil && e.Declared.Query == "" {
		return Value{}, false, fmt.Errorf("entry %s: %w", e.name, ErrNoLoader)
	}
	r.stats.misses.Add(1)
	timer := time.NewTimer(e.left(began))
	defer timer.Stop()
	alone := func(why bypassReason) (Value, bool, error) {
		r.stats.bypassed[why].Add(1)
		v, err := r.loadAlone(ctx, timer, e, l, args, load, why)
		return v, false, err
	}
	broken := func(err error) (Value, bool, error) {
		timer.Reset(e.left(began)) // a store that hangs may have taken it all
		return alone(r.failed(c, err))
	}
	// A wait for another process's load leaves half of the time for a load of our own. It ends by being cancelled: upon a
	// deadline the store's client would close the connection, which is everybody's.
	patient, cancel := context.WithCancel(ctx)
	defer cancel()
	limit := time.AfterFunc(e.LoadTimeout/2-time.Since(began), cancel)
	defer limit.Stop()
	asking := ctx
	waiting := false
	for {
		token := newToken()
		reply, err := r.store.Lease(asking, name, token, e.LoadTimeout+leaseMargin)
		switch {
		case err != nil && ctx.Err() != nil:
			return Value{}, false, fmt.Errorf("entry %s: %w", e.name, ctx.Err())
		case err != nil && asking.Err() != nil:
			return alone(busyElsewhere)
		case err != nil:
			return broken(err)
		}
		if reply.Record.State.Live() && r.covered(n, c, &reply) { // filled between the GET and the LEASE
			if reply.Granted {
				r.release(ctx, name, token)
			}
			if !r.stillConfirmed(c) {
				r.stats.dropped.Add(1)
				return Value{}, true, nil
			}
			r.stats.hits.Add(1)
			return hit(name, reply.Record, &reply.Head), false, nil
		}
		if reply.Granted {
			f, err := r.take(ctx, e, l, c, name, token, &reply, args, load, n)
			if err != nil {
				return Value{}, false, fmt.Errorf("entry %s: %w", e.name, err)
			}
			if err := f.wait(ctx, timer); err != nil {
				return Value{}, false, fmt.Errorf("entry %s: %w", e.name, err)
			}
			v, err := f.value(name, e)
			return v, false, err
		}
		if !waiting {
			waiting = true
			r.stats.waits.Add(1)
			asking = patient //nolint:fatcontext // made above, once
		}
		r.mu.Lock()
		f := r.flights[reply.Holder]
		r.mu.Unlock()
		if f != nil && !f.knows(reply.Record.Fences) {
			return alone(notCovered) // it may have been under way for long, and most likely misses what was fenced since
		}
		if f != nil {
			if err := f.wait(ctx, timer); err != nil {
				return Value{}, false, fmt.Errorf("entry %s: %w", e.name, err)
			}
			if r.fits(f, c, &reply) && n.joins(f) {
				r.stats.joins.Add(1)
				v, err := f.value(name, e)
				return v, false, err
			}
			return alone(notCovered)
		}
		if reply.Record.State.Live() {
			return alone(busyElsewhere)
		}
		record, err := r.poll(patient, name, reply.Holder)
		switch {
		case err != nil && ctx.Err() != nil:
			return Value{}, false, fmt.Errorf("entry %s: %w", e.name, ctx.Err())
		case err != nil && patient.Err() != nil:
			return alone(busyElsewhere)
		case err != nil:
			return broken(err)
		case record.State.Live():
			if n != nil {
				return Value{}, true, nil // to be judged by a HEAD that is read before it
			}
			if !r.stillConfirmed(c) {
				r.stats.dropped.Add(1)
				return Value{}, true, nil
			}
			r.stats.hits.Add(1)
			return hit(name, record, &reply.Head), false, nil
		}
	}
}

// wait waits until the row is stored, so that whoever reads next hits; but not past the time that the reader has, when
// the row is there and only the store hangs.
func (f *flight) wait(ctx context.Context, timer *time.Timer) error {
	select {
	case <-f.done:
		return nil
	case <-timer.C:
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

// knows reports whether all fences were there before the flight's load began.
func (f *flight) knows(fences []fence.Stamp) bool {
	for _, x := range fences {
		if !slices.ContainsFunc(f.fences, func(y fence.Stamp) bool { return y.XID == x.XID }) {
			return false
		}
	}
	return true
}

// poll looks at the key until it is live, or until its holder's lease is gone: then the next LEASE may be granted.
func (r *Reader) poll(ctx context.Context, name string, holder fence.Token) (fence.Record, error) {
	pause := firstPause
	look := time.NewTimer(pause)
	defer look.Stop()
	for {
		select {
		case <-look.C:
		case <-ctx.Done():
			return fence.Record{}, ctx.Err()
		}
		text, err := r.store.Read(ctx, name)
		if err != nil {
			return fence.Record{}, err
		}
		record, err := fence.ParseRecord(text)
		if err != nil {
			record = fence.Record{} // not there, or not a record: the next LEASE is granted
		}
		if record.State.Live() || record.Lease.Token != holder {
			return record, nil
		}
		pause = min(2*pause, longestPause)
		look.Reset(pause)
	}
}

// take begins the flight of a lease that was granted. What a need asks for is shown by a snapshot of the primary alone.
func (r *Reader) take(
	ctx context.Context, e *declared, l *live, c *confirmation, name string, token fence.Token, reply *redisstore.LeaseReply,
	args []keytext.Arg, load LoadFunc, n *need,
) (*flight, error) {
	f := &flight{ready: make(chan struct{}), done: make(chan struct{}), fences: reply.Record.Fences}
	r.mu.Lock()
	r.flights[token] = f
	r.mu.Unlock()
	head, headFound := reply.Head, reply.HeadFound
	from := reply
	if n != nil {
		from = nil
	}
	end := func() {
		r.mu.Lock()
		delete(r.flights, token)
		r.mu.Unlock()
		close(f.done)
	}
	err := r.begin(ctx, e.LoadTimeout, func(ctx context.Context) {
		defer end()
		f.sent = r.clock()
		f.loaded, f.err = r.load(ctx, e, l, from, args, load) // R3: after the grant
		if f.err == nil {
			f.reason = r.judge(f, c, head, headFound)
		}
		close(f.ready)
		if f.reason != 0 {
			r.stats.refused[f.reason].Add(1)
		}
		if f.err != nil || f.reason != 0 {
			r.release(ctx, name, token)
			return
		}
		f.unstored = r.fill(ctx, e, f, name, token)
	})
	if err != nil {
		f.err = err
		close(f.ready)
		end()
	}
	return f, err
}

// judge says why a load may not be stored, under the HEAD that was read after the lease was granted (R3, R4).
func (r *Reader) judge(f *flight, c *confirmation, head fence.Head, headFound bool) refusal {
	switch {
	case !headFound || head.Generation != c.names.generation || head.Revision != c.names.revision:
		r.expire(c)
		f.floored = true
		return refusedNames
	case f.loaded.Refuse != "":
		r.logger.Warn("load is not stored", slog.String("reason", f.loaded.Refuse))
		return refusedLoad
	case f.loaded.Server.System != head.System || f.loaded.Server.Timeline != head.Timeline:
		r.logger.Warn("load is not stored: it is from another server than the one whose log is followed",
			slog.String("system", f.loaded.Server.System), slog.String("expected_system", head.System))
		return refusedServer
	case !fence.Floor(head, f.loaded.Coverage):
		f.floored = true
		return refusedFloor
	}
	return 0
}

// fits is R6: a waiter takes a flight's row only if it covers the fences that the waiter saw and passes the floor of
// the HEAD that the waiter read.
func (r *Reader) fits(f *flight, c *confirmation, reply *redisstore.LeaseReply) bool {
	if f.err != nil {
		return true // the database's failure is everybody's, who came while it was asked
	}
	head := &reply.Head
	if f.floored || f.loaded.Refuse != "" || !reply.HeadFound || head.Generation != c.names.generation ||
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
func (r *Reader) fill(ctx context.Context, e *declared, f *flight, name string, token fence.Token) (why refusal) {
	request := redisstore.FillRequest{
		Token: token, Coverage: f.loaded.Coverage, State: fence.Live, Payload: f.loaded.Payload, TTL: e.shorten(e.TTL),
	}
	if !f.loaded.Found {
		request.State, request.Payload, request.TTL = fence.Negative, nil, e.shorten(e.NegativeTTL)
	}
	ctx, cancel := context.WithTimeout(ctx, fillTimeout)
	defer cancel()
	outcome, err := r.store.Fill(ctx, name, request)
	switch {
	case err != nil:
		why = refusedStore
		r.logger.DebugContext(ctx, "fill failed", slog.String("entry", e.name), slog.String("error", err.Error()))
	case outcome == fence.Filled:
		r.stats.fills.Add(1)
		return 0
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
	if outcome == fence.NotCovering || outcome == fence.NotNewer {
		r.release(ctx, name, token) // it is there still, and the next reader would wait for its end
	}
	return why
}

// release gives a lease back, so that the next reader need not wait for its end.
func (r *Reader) release(ctx context.Context, name string, token fence.Token) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fillTimeout)
	defer cancel()
	if err := r.store.Release(ctx, name, token); err != nil {
		r.logger.DebugContext(ctx, "release failed", slog.String("error", err.Error()))
	}
}

func (f *flight) value(name string, e *declared) (Value, error) {
	if f.err != nil {
		return Value{}, fmt.Errorf("entry %s: %w", e.name, f.err)
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
	return Value{
		Found: f.loaded.Found, Payload: f.loaded.Payload, Status: Miss, Reason: why.String(),
		coverage: f.loaded.Coverage, server: f.loaded.Server, Name: name,
	}, nil
}
