package fill

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/freshet/freshet/internal/pgload"
)

// patience is the part of a load timeout for which a load waits for the one before it.
const patience = 4

// left is how much of a read's load timeout is left. The first readers of a store that hangs may have little: they get
// a part of it all the same, in which a database that is well does answer.
func (e *declared) left(began time.Time) time.Duration {
	return max(e.LoadTimeout-time.Since(began), e.LoadTimeout/patience)
}

// lane is the loads of one key without a lease: the one under way, and the one that begins after it. A reader joins
// only a load that begins after it came, since an earlier one may miss what was written before.
type lane struct {
	key       string
	now, next *trip
}

// trip is a load of a lane. Whoever ends it takes it from that lane, which the Reader may have given up meanwhile: others may have come
// into it, and ended before.
type trip struct {
	on     *lane
	began  time.Time // before the database was asked; zero until then
	done   chan struct{}
	loaded pgload.Loaded
	seen   *watched
	err    error
}

// bypass loads without the cache.
func (r *Reader) bypass(ctx context.Context, w *want, why bypassReason) (Value, error) {
	if why == callerGone {
		r.stats.bypassed[why].Add(1)
		return Value{}, fmt.Errorf("entry %s: %w", w.e.name, ctx.Err())
	}
	w.timer = time.NewTimer(w.e.left(w.began))
	defer w.timer.Stop()
	return r.alone(ctx, w, why)
}

// alone loads past a cache that cannot be used, for why, and stores nothing; together with readers that came before the
// load began.
func (r *Reader) alone(ctx context.Context, w *want, why bypassReason) (Value, error) {
	r.stats.bypassed[why].Add(1)
	w.reading = r.reading(ctx)
	if w.load == nil && w.e.Declared.Query == "" {
		return Value{}, fmt.Errorf("entry %s: %w", w.e.name, ErrNoLoader)
	}
	if err := w.recurses(ctx); err != nil {
		return Value{}, fmt.Errorf("entry %s: %w", w.e.name, err)
	}
	for {
		t, err := r.board(ctx, w)
		if err != nil {
			return Value{}, fmt.Errorf("entry %s: %w", w.e.name, err)
		}
		// A statement for many keys that took too long for this one says nothing of it.
		if v, err := t.value(ctx, w, why); !errors.Is(err, errSlow) {
			return v, err
		}
	}
}

// value waits for a trip.
func (t *trip) value(ctx context.Context, w *want, why bypassReason) (Value, error) {
	select {
	case <-t.done:
	case <-w.timer.C:
		return Value{}, fmt.Errorf("entry %s: %w", w.e.name, ErrTimeout)
	case <-ctx.Done():
		return Value{}, fmt.Errorf("entry %s: %w", w.e.name, ctx.Err())
	}
	if !errors.Is(t.err, errSlow) { // then nothing came by it
		w.note(t.seen)
	}
	if t.err != nil {
		return Value{}, fmt.Errorf("entry %s: %w", w.e.name, t.err)
	}
	status := Bypass
	if t.loaded.Same != pgload.Different {
		status = Revalidated
	}
	return Value{
		Found: t.loaded.Found, Payload: t.loaded.Payload, Status: status, Reason: why.String(),
		coverage: t.loaded.Coverage, server: t.loaded.Server,
	}, nil
}

// board joins the load of the key that began after the reader came, or has yet to, or makes one. Whatever that compares
// with, it ends with the value that there is.
func (r *Reader) board(ctx context.Context, w *want) (*trip, error) {
	key := w.lane()
	r.mu.Lock()
	on := r.lanes[key]
	if on == nil {
		on = &lane{key: key}
		r.lanes[key] = on
	}
	t := on.next
	if on.now != nil && on.now.began.After(w.came) {
		t = on.now
	}
	if t != nil {
		r.mu.Unlock()
		return t, nil
	}
	t = &trip{on: on, done: make(chan struct{})}
	before := on.now
	if before == nil {
		on.now, t.began = t, time.Now()
	} else {
		on.next = t
	}
	r.mu.Unlock()
	loose := *w
	loose.at = nil // nothing is stored
	// A load that hangs does not hold up those behind it for its whole time.
	err := r.begin(ctx, w.e.LoadTimeout+w.e.LoadTimeout/patience, func(ctx context.Context) {
		if before != nil {
			r.follow(ctx, t, before, w.e.LoadTimeout/patience)
		}
		ctx, cancel := context.WithTimeout(ctx, w.e.LoadTimeout)
		defer cancel()
		defer func() {
			r.leave(t)
			close(t.done)
		}()
		t.err = errExited // unless it returns
		t.loaded, t.seen, t.err = r.observedLoad(ctx, &loose, nil)
	})
	if err != nil {
		t.err = err
		r.leave(t)
		close(t.done)
	}
	return t, err
}

// lane names the key among loads without a lease.
func (w *want) lane() string {
	key := w.e.name + "\x00"
	if w.l != nil {
		key += w.l.prefix
	}
	key = string(w.e.template.Append([]byte(key), w.args))
	if w.load != nil && w.n != nil { // code may have to read otherwise then (nests)
		key += "\x00"
	}
	return key
}

func (r *Reader) follow(ctx context.Context, t, before *trip, longest time.Duration) {
	timer := time.NewTimer(longest)
	defer timer.Stop()
	select {
	case <-before.done:
	case <-timer.C:
	case <-ctx.Done():
	}
	r.mu.Lock()
	t.on.next, t.on.now, t.began = nil, t, time.Now()
	r.mu.Unlock()
}

func (r *Reader) leave(t *trip) {
	r.mu.Lock()
	defer r.mu.Unlock()
	on := t.on
	if on.now == t {
		on.now = nil
	}
	if on.next == t {
		on.next = nil
	}
	if on.now == nil && on.next == nil && r.lanes[on.key] == on {
		delete(r.lanes, on.key)
	}
}
