package demo

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// permanentError is one that trying again does not mend.
type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

func permanent(err error) error { return &permanentError{err: err} }

// until tries with a pause between tries until there is no error, and returns the last one when the time is over.
func until(ctx context.Context, limit, pause time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if final, ok := errors.AsType[*permanentError](err); ok {
			return final.err
		}
		if !rest(ctx, pause) {
			return fmt.Errorf("not within %s: %w", limit, err)
		}
	}
}

// rest waits; false means that the context has ended.
func rest(ctx context.Context, d time.Duration) bool {
	if ctx.Err() != nil {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
