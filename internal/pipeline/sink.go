package pipeline

import (
	"context"
	"sync/atomic"

	"github.com/freshet/freshet/internal/apply"
	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/route"
	"github.com/freshet/freshet/mvcc"
)

// sink routes each change as it comes and leaves the keys in the applier's queue. It runs on the source's goroutine,
// so that decoding and routing go on beside applying.
type sink struct {
	router   *route.Router
	queue    *apply.Queue
	after    mvcc.LSN // transactions up to here are confirmed in the store (D5)
	skipping bool     // the current transaction is one of them
	received *atomic.Uint64
	rows     *atomic.Uint64
}

var _ change.Sink = (*sink)(nil)

// Begin opens a transaction, or skips it when the store already has it.
func (s *sink) Begin(ctx context.Context, b change.Begin) error {
	if s.skipping = b.End <= s.after; s.skipping {
		return nil
	}
	return s.queue.Begin(ctx, b)
}

// Row routes a row.
func (s *sink) Row(ctx context.Context, r *change.Row) error {
	if s.skipping {
		return nil
	}
	part, err := s.queue.Acquire(ctx)
	if err != nil {
		return err
	}
	s.router.Row(r, part.Keys)
	s.queue.Release()
	s.rows.Add(1)
	return nil
}

// Truncate routes a TRUNCATE.
func (s *sink) Truncate(ctx context.Context, t *change.Truncate) error {
	if s.skipping {
		return nil
	}
	part, err := s.queue.Acquire(ctx)
	if err != nil {
		return err
	}
	s.router.Truncate(t, part.Keys)
	s.queue.Release()
	return nil
}

// Message has nothing to route: messages written by freshet itself only mark a term.
func (s *sink) Message(context.Context, *change.Message) error { return nil }

// Commit closes the transaction.
func (s *sink) Commit(ctx context.Context, c change.Commit) error {
	s.received.Store(uint64(c.Position))
	if s.skipping {
		return nil
	}
	return s.queue.Commit(ctx, c)
}

// Idle passes on how far the log was read without finding anything.
func (s *sink) Idle(ctx context.Context, p change.Position) error {
	s.received.Store(uint64(p))
	if mvcc.LSN(p) <= s.after {
		return nil
	}
	return s.queue.Idle(ctx, p)
}
