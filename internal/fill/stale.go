package fill

import (
	"context"
	"errors"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/store"
)

// Policy is what is served while a value is loaded, and how it is. The zero Policy serves nothing stale.
type Policy struct {
	StaleFor     time.Duration // after its invalidation a value is served for so long while another is loaded
	StaleOnError time.Duration // and for so long instead of an error, or of what takes longer than SoftTimeout
	SoftTimeout  time.Duration // 0: LoadTimeout
	Eager        float64       // in the last such share of its TTL a value that is read is refreshed; 0: not
	MaxLoads     int           // at a time; 0: as many as of all entries
	MaxValue     int           // bytes; a larger value is not stored. 0: any is
}

// staleCause says why a stale value was served.
type staleCause int

const (
	_           staleCause = iota
	staleChange            // it has just changed, and is loaded beside the read
	staleError             // the load failed
	staleSlow              // the load took longer than the read is to wait
	staleCauses
)

// String is the cause as Value.Reason and metrics spell it.
func (c staleCause) String() string {
	switch c {
	case staleChange:
		return "changed"
	case staleError:
		return "load_failed"
	case staleSlow:
		return "load_slow"
	default:
		return "none"
	}
}

// Keep is for how long the entry's values are kept, stale, once they are invalidated, and may be served.
func (p *Policy) Keep() time.Duration { return max(p.StaleFor, p.StaleOnError) }

// standIn is a stale value that a read may return instead of one that is loaded.
type standIn struct {
	value Value
	age   time.Duration // since it was invalidated, when the store showed it
	shown time.Time     // when that was
}

// serveStale judges what is stale in the answer to a LEASE. It returns a value that the read is to have at once, and has it loaded
// beside the read where the lease was granted: by BUSY another one of the fleet is at it. What may only stand in for a load that
// fails or is slow is remembered in w, and the read's timers are set to when it is.
func (r *Reader) serveStale(ctx context.Context, w *want, token fence.Token, reply *store.LeaseReply, limit *time.Timer) (v Value, served bool) {
	w.standIn = nil
	if w.soft {
		w.soft = false
		w.timer.Reset(w.e.left(w.began))
		limit.Reset(max(w.e.LoadTimeout/2-time.Since(w.began), 0))
	}
	s := r.shown(ctx, w, reply)
	if s == nil {
		return Value{}, false
	}
	if r.atOnce(w, s) {
		if !reply.Granted {
			return r.serve(s, staleChange), true
		}
		if _, err := r.take(ctx, w, token, reply); err == nil {
			return r.serve(s, staleChange), true
		}
	}
	if s.age > w.e.StaleOnError {
		return Value{}, false
	}
	w.standIn = s
	if w.soft = s.outlives(w); w.soft {
		left := w.softLeft()
		w.timer.Reset(left)
		limit.Reset(min(left, max(w.e.LoadTimeout/2-time.Since(w.began), 0)))
	}
	return Value{}, false
}

// softLeft is how long a read is to wait for a load if a stale value may stand in for it.
func (w *want) softLeft() time.Duration { return max(w.e.SoftTimeout-time.Since(w.began), 0) }

// outlives reports whether a stand-in may be served when the soft timeout is over: if it is too old by then, the load is all that there is to
// wait for.
func (s *standIn) outlives(w *want) bool {
	return w.e.SoftTimeout > 0 && s.age+time.Since(s.shown)+w.softLeft() <= w.e.StaleOnError
}

// shown is the value in the answer to a LEASE, if it is stale and the entry may serve it, at once or instead of an error.
//
// How old it is, is told by the store's clock alone, which made the mark and answered the LEASE. A read with a demand gets none:
// no HEAD vouches for a stale value.
func (r *Reader) shown(ctx context.Context, w *want, reply *store.LeaseReply) *standIn {
	r.skew.learn(reply.Now)
	record := &reply.Record
	if w.n != nil || w.fresh || w.e.Keep() == 0 || !record.State.Stale() || record.Marked == 0 {
		return nil
	}
	age := time.Duration(reply.Now-record.Marked) * time.Microsecond
	if age < 0 || age > w.e.Keep() || !r.untouched(ctx, w, record) {
		return nil
	}
	s := &standIn{age: age, shown: time.Now(), value: hit(w.name, *record, &reply.Head)}
	s.value.Found, s.value.Status = record.State == fence.Stale, Stale
	return s
}

// atOnce reports whether a read is to have a stale value without waiting for the load.
func (r *Reader) atOnce(w *want, s *standIn) bool {
	return s.age <= w.e.StaleFor && r.stillConfirmed(w.c, r.laneOf(w.name))
}

// untouched reports whether nothing but what marked it has invalidated a stale value that is tied to epochs: it would have been
// out of use since whatever ended them, and nobody knows since when that is.
func (r *Reader) untouched(ctx context.Context, w *want, record *fence.Record) bool {
	if w.at == nil {
		return len(record.Epochs) == 0
	}
	if !w.at.ties(record.Epochs) {
		return false
	}
	ids, err := r.idsOf(ctx, w.at, record.Epochs)
	return err == nil && fence.Hold(record.Epochs, ids)
}

func (r *Reader) serve(s *standIn, why staleCause) Value {
	r.stats.stale[why].Add(1)
	age := s.age + time.Since(s.shown)
	r.stats.staleAge.Add(uint64(age.Microseconds())) //nolint:gosec // not negative
	s.value.Reason, s.value.StaleBy = why.String(), age
	return s.value
}

// standsIn returns the stale value that a read was shown, if the entry says that it may have it rather than the error.
func (r *Reader) standsIn(ctx context.Context, w *want, err error) (Value, bool) {
	s := w.standIn
	if s == nil || ctx.Err() != nil {
		return Value{}, false
	}
	for _, own := range []error{ErrClosed, ErrArguments, ErrNoLoader, ErrUnknownEntry, pgload.ErrManyRows} {
		if errors.Is(err, own) {
			return Value{}, false
		}
	}
	r.names(ctx) // a load that fails may have taken longer than a confirmation lasts, in which nobody else has read
	if s.age+time.Since(s.shown) > w.e.StaleOnError || !r.stillConfirmed(w.c, r.laneOf(w.name)) {
		return Value{}, false
	}
	if errors.Is(err, ErrTimeout) {
		return r.serve(s, staleSlow), true
	}
	return r.serve(s, staleError), true
}

// miss is missed, with what may stand in for a load that fails.
func (r *Reader) miss(ctx context.Context, w *want) (v Value, again bool, err error) {
	v, again, err = r.missed(ctx, w)
	if err != nil {
		if stale, ok := r.standsIn(ctx, w, err); ok {
			return stale, false, nil
		}
	}
	return v, again, err
}

// tooLarge reports whether a load is larger than what the entry has cached.
func (w *want) tooLarge(f *flight) bool {
	return w.e.MaxValue > 0 && len(f.loaded.Payload) > w.e.MaxValue
}

// softOver reports whether a read that a stand-in is to be served has waited for a load for as long as it is to.
func (w *want) softOver() bool {
	return w.soft && time.Since(w.began) >= w.e.SoftTimeout
}
