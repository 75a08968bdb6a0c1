package demo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	writers    = 4
	writePause = 8 * time.Millisecond
	warmRows   = 1000 // the rows that the writers write, and that are cached before
	plainRows  = 500  // those of them that the plain code has cached, too
)

// load is writers that go on until they are stopped.
type load struct {
	writes atomic.Int64
	cancel context.CancelFunc
	group  *errgroup.Group
}

// startWriters writes prices and addresses in sessions of their own.
func (s *stage) startWriters(ctx context.Context) *load {
	running, cancel := context.WithCancel(ctx)
	l := &load{cancel: cancel, group: &errgroup.Group{}}
	for n := range int64(writers) {
		l.group.Go(func() error {
			for rest(running, writePause) {
				// Each writer has rows of its own: the order of the values is the order of the commits.
				id := 1 + n + writers*rand.Int64N(warmRows/writers) //nolint:gosec // which row is written is no secret
				var err error
				if hasAddress(id) && rand.IntN(2) == 0 { //nolint:gosec // neither is what
					_, _, err = s.move(ctx, id)
				} else {
					_, _, err = s.raisePrice(ctx, id)
				}
				if err != nil {
					return err
				}
				l.writes.Add(1)
			}
			return nil
		})
	}
	return l
}

// stop returns when the last write has ended.
func (l *load) stop() error {
	l.cancel()
	return l.group.Wait()
}

// warm reads what the writers are going to write, so that all of it is cached.
func (s *stage) warm(ctx context.Context, plain *cacheAside) error {
	group, ctx := errgroup.WithContext(ctx)
	const atOnce = 8
	for n := range int64(atOnce) {
		group.Go(func() error {
			for id := 1 + n; id <= warmRows; id += atOnce {
				if _, err := s.library.price(ctx, id); err != nil {
					return fmt.Errorf("warm product %d: %w", id, err)
				}
				if _, err := s.library.profile(ctx, id); err != nil {
					return fmt.Errorf("warm profile %d: %w", id, err)
				}
				if id <= plainRows {
					if _, err := plain.Get(ctx, id, nil); err != nil {
						return err
					}
				}
				if id < 250 {
					if _, err := s.gateway.get(ctx, fmt.Sprintf("/v1/entries/category_page/%d", id)); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// countStale says how many of the plain code's values differ from the database.
func countStale(ctx context.Context, plain *cacheAside) (int, error) {
	n := 0
	for id := int64(1); id <= plainRows; id++ {
		stale, err := plain.isStale(ctx, id)
		if err != nil {
			return n, err
		}
		if stale {
			n++
		}
	}
	return n, nil
}

// settle waits until everything that was written so far is applied. The write that it makes is the last one, so that
// the log goes on past what was asked for.
func (s *stage) settle(ctx context.Context) error {
	position, err := s.position(ctx)
	if err != nil {
		return err
	}
	if _, _, err := s.raisePrice(ctx, 1); err != nil {
		return err
	}
	return s.applied(ctx, position)
}
