package demo

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// pollPause is the pause between the reads of a measurement.
const pollPause = 500 * time.Microsecond

// reader is one way to read a value, such as the gateway.
type reader struct {
	name string
	read func(ctx context.Context) (string, error)
}

// freshness is what one reader saw after one write.
type freshness struct {
	after time.Duration // from COMMIT returned to the first fresh read's answer
	back  int           // reads after that one that returned something else
}

// freshReads measures, for each reader, how long after COMMIT it gets the new value, and then reads on for a while to see
// whether an older one comes back. All of them read while the write happens, so that the value is cached and wanted.
func freshReads(
	ctx context.Context, readers []reader, write func(context.Context) (want string, committed time.Time, err error),
) ([]freshness, error) {
	ctx, cancel := context.WithTimeout(ctx, freshWithin)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	var (
		mu        sync.Mutex
		want      string
		committed time.Time
	)
	written := func() (string, time.Time) {
		mu.Lock()
		defer mu.Unlock()
		return want, committed
	}
	result := make([]freshness, len(readers))
	ready := make(chan struct{}, len(readers))
	for i, r := range readers {
		group.Go(func() error {
			f, err := r.follow(ctx, ready, written)
			result[i] = f
			return err
		})
	}
	group.Go(func() error {
		for range readers {
			select {
			case <-ready:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		value, at, err := write(ctx)
		mu.Lock()
		defer mu.Unlock()
		want, committed = value, at
		return err
	})
	return result, group.Wait()
}

// follow reads until some time after the first fresh answer.
func (r reader) follow(ctx context.Context, ready chan<- struct{}, written func() (string, time.Time)) (freshness, error) {
	const readsAfter = 10
	var (
		f     freshness
		last  string
		fresh = -1 // reads since the first fresh one
		first time.Time
		once  sync.Once
	)
	for {
		value, err := r.read(ctx)
		answered := time.Now()
		if err != nil {
			want, _ := written()
			return f, fmt.Errorf("read through the %s (last %q, want %q): %w", r.name, last, want, err)
		}
		once.Do(func() { ready <- struct{}{} })
		if value != last {
			first, last = answered, value
		}
		want, committed := written()
		switch {
		case committed.IsZero():
		case fresh >= 0:
			if value != want {
				f.back++
			}
			fresh++
			if fresh >= readsAfter {
				return f, nil
			}
		case value == want:
			// It may have been read while COMMIT was still on its way back to the writer.
			f.after = max(first.Sub(committed), 0)
			fresh = 0
		}
		if !rest(ctx, pollPause) {
			return f, fmt.Errorf("read through the %s: still %q, not %q, after %s", r.name, last, want, freshWithin)
		}
	}
}
