package fill

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/freshet/freshet/internal/pgload"
)

var (
	// ErrOverloaded is the error of a value that would have to be loaded, when as many are loaded already as may be. It comes with
	// ErrUnavailable.
	ErrOverloaded = errors.New("too many loads are under way")
	// ErrPanic is the error of a value whose loader panicked. Its text has the stack.
	ErrPanic = errors.New("the loader panicked")
	// errExited is that of a loader that ended its goroutine.
	errExited = errors.New("the loader ended its goroutine (runtime.Goexit)")
)

// queuePerLoad bounds how many loads wait for the end of another, for each that Options let be under way. Beyond it a read is told at once
// that it will not have its value: whoever waits behind so many would not have it in time either, and each takes memory.
const queuePerLoad = 64

// enter waits until a load may be sent to the database, as one of a limited number: of the entry's, and of all. It does so for
// half of the load timeout at most, which leaves the other half for the load.
func (r *Reader) enter(ctx context.Context, e *declared) (leave func(), err error) {
	if waiting := r.waiting.Add(1); waiting > r.mayWait {
		r.waiting.Add(-1)
		r.stats.overloaded.Add(1)
		return nil, fmt.Errorf("%w: %w: %d wait for %d", ErrUnavailable, ErrOverloaded, waiting-1, cap(r.loads))
	}
	defer r.waiting.Add(-1)
	timer := time.NewTimer(e.LoadTimeout / 2)
	defer timer.Stop()
	slot := func(slots chan struct{}) error {
		if slots == nil {
			return nil
		}
		select {
		case slots <- struct{}{}:
			return nil
		case <-timer.C:
			r.stats.overloaded.Add(1)
			return fmt.Errorf("%w: %w: %d, and there was no turn within %s", ErrUnavailable, ErrOverloaded, cap(slots), e.LoadTimeout/2)
		case <-ctx.Done():
			return fmt.Errorf("wait for a load: %w", r.ended(ctx))
		}
	}
	own := e.placesOf(ctx)
	if err := slot(own); err != nil {
		return nil, err
	}
	places, err := r.takes(ctx, e, slot)
	if err != nil {
		if own != nil {
			<-own
		}
		return nil, err
	}
	return func() {
		for range places {
			<-r.loads
		}
		if own != nil {
			<-own
		}
	}, nil
}

// guarded is a loader whose panic is an error of its load. It runs in a goroutine that is everybody's who waits for the value.
func guarded(load LoadFunc) LoadFunc {
	return func(ctx context.Context, q pgload.Querier) (payload []byte, found bool, err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("%w: %v\n%s", ErrPanic, p, debug.Stack())
			}
		}()
		return load(ctx, q)
	}
}
