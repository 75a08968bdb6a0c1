package pipeline

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/freshet/freshet/internal/apply"
	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/ddl"
	"github.com/freshet/freshet/internal/intent"
	"github.com/freshet/freshet/internal/route"
	"github.com/freshet/freshet/internal/trail"
	"github.com/freshet/freshet/mvcc"
)

// sink routes each change as it comes and leaves the keys in the applier's queue. It runs on the source's goroutine,
// so that decoding and routing go on beside applying.
type sink struct {
	router   *route.Router
	queue    *apply.Queue
	recorder *trail.Recorder
	after    mvcc.LSN // transactions up to here are confirmed in the store (D5)
	skipping bool     // the current transaction is one of them
	received *atomic.Uint64
	rows     *atomic.Uint64
	intents  *intents
	logger   *slog.Logger
	strange  map[string]bool // entries and tables that intents named and that there are not, as far as was logged
	known    *atomic.Pointer[ddl.Known]
	altered  *atomic.Uint64 // statements that altered what entries stand on
}

var _ change.Sink = (*sink)(nil)

// Begin opens a transaction, or skips it when the store already has it.
func (s *sink) Begin(ctx context.Context, b change.Begin) error {
	if s.skipping = b.End <= s.after; s.skipping {
		return nil
	}
	s.recorder.Begin(b)
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

// intents counts what transactions said themselves.
type intents struct {
	read        atomic.Uint64
	undecodable atomic.Uint64
	unknown     atomic.Uint64 // of an entry that there is not
}

// Message routes an intent, or takes note of DDL. Only what committed counts: anybody may put a message that is not transactional into the
// log, also from a transaction that is rolled back.
func (s *sink) Message(ctx context.Context, m *change.Message) error {
	switch {
	case !m.Transactional || s.skipping:
		return nil
	case m.Prefix == ddl.Prefix:
		return s.ddl(ctx, m)
	case m.Prefix != intent.Prefix:
		return nil
	}
	s.intents.read.Add(1)
	read, err := intent.Parse(m.Content)
	if err != nil {
		return s.undecodable(ctx, m, read.Entry, err)
	}
	switch read.Scope {
	case intent.OfKeys:
	case intent.OfTags:
		return s.tags(ctx, m, &read)
	default:
		return s.scope(ctx, m, &read)
	}
	for args, err := range read.Keys() {
		if err != nil {
			return s.undecodable(ctx, m, read.Entry, err)
		}
		part, err := s.queue.Acquire(ctx)
		if err != nil {
			return err
		}
		known := s.router.Key(read.Entry, args, part.Keys)
		s.queue.Release()
		if !known {
			s.unknown(ctx, m, read.Entry)
			return nil
		}
	}
	return nil
}

// scope routes what means more than single keys.
func (s *sink) scope(ctx context.Context, m *change.Message, read *intent.Message) error {
	part, err := s.queue.Acquire(ctx)
	if err != nil {
		return err
	}
	known, name := true, read.Entry
	switch read.Scope {
	case intent.OfEntry:
		known = s.router.Whole(read.Entry, part.Keys)
	case intent.OfTable:
		known, name = s.router.Reading(read.Table.Schema, read.Table.Name, part.Keys), read.Table.Schema+"."+read.Table.Name
	default:
		s.router.Everything(part.Keys)
	}
	s.queue.Release()
	if !known {
		s.unknown(ctx, m, name)
	}
	return nil
}

// ddl has the tables looked at, once the transaction is visible, before anything after it counts as applied. What a message
// says only decides whether that is worth it: what cannot be read is.
func (s *sink) ddl(ctx context.Context, m *change.Message) error {
	if read, err := ddl.Parse(m.Content); err == nil && !read.Concerns(s.known.Load()) {
		return nil
	}
	part, err := s.queue.Acquire(ctx)
	if err != nil {
		return err
	}
	part.DDL()
	s.queue.Release()
	s.altered.Add(1)
	return nil
}

// undecodable makes everything uncertain that such an intent may have meant.
func (s *sink) undecodable(ctx context.Context, m *change.Message, entry string, why error) error {
	s.intents.undecodable.Add(1)
	part, err := s.queue.Acquire(ctx)
	if err != nil {
		return err
	}
	known := s.router.Undecodable(entry, why.Error(), part.Keys)
	s.queue.Release()
	if !known {
		s.unknown(ctx, m, entry)
	}
	return nil
}

// unknown notes an intent for an entry that there is not, and of which therefore nothing is cached.
func (s *sink) unknown(ctx context.Context, m *change.Message, entry string) {
	s.intents.unknown.Add(1)
	const enough = 100
	if s.strange[entry] || len(s.strange) == enough {
		return
	}
	s.strange[entry] = true
	s.logger.WarnContext(ctx, "an intent names an entry that this daemon does not have, or a table that none reads; nothing of it is cached",
		slog.String("named", fmt.Sprintf("%.100s", entry)), slog.String("lsn", m.LSN.String()))
}

// Commit closes the transaction.
func (s *sink) Commit(ctx context.Context, c change.Commit) error {
	s.received.Store(uint64(c.Position))
	s.recorder.Reached(mvcc.LSN(c.Position))
	if s.skipping {
		return nil
	}
	return s.queue.Commit(ctx, c)
}

// Idle passes on how far the log was read without finding anything.
func (s *sink) Idle(ctx context.Context, p change.Position) error {
	s.received.Store(uint64(p))
	s.recorder.Reached(mvcc.LSN(p))
	if mvcc.LSN(p) <= s.after {
		return nil
	}
	return s.queue.Idle(ctx, p)
}
