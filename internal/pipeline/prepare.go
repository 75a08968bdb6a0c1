package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/freshet/freshet/internal/pgcatalog"
	"github.com/freshet/freshet/internal/pgsource"
	"github.com/freshet/freshet/internal/schema"
)

// prepare plans the entries, and makes what they need in the database.
func (s *session) prepare(ctx context.Context) error {
	// Where nothing was ever cached, someone is looking who has just written the configuration.
	if err := s.compile(ctx, !s.found && !s.p.followed); err != nil {
		return fmt.Errorf("plan the entries: %w", err)
	}
	if err := s.publish(ctx); err != nil {
		return fmt.Errorf("prepare publication and slot: %w", err)
	}
	return s.retain(ctx)
}

// publish makes publication and slot. A new slot waits for every transaction that is open, anywhere in the cluster, which
// may take as long as it likes: who is in the way is said meanwhile.
func (s *session) publish(ctx context.Context) (err error) {
	var waiting errgroup.Group
	made := make(chan struct{})
	s.prepared, err = pgsource.Prepare(ctx, s.conn, pgsource.PrepareOptions{
		Slot: s.p.opts.Slot, Publication: s.p.opts.Publication, Tables: s.compiled.Tables,
		Creating: func() { waiting.Go(func() error { return s.tellWhoHoldsUp(ctx, made) }) },
	})
	close(made)
	return errors.Join(err, waiting.Wait())
}

// tellWhoHoldsUp makes public which transactions a slot waits for, until it is made.
func (s *session) tellWhoHoldsUp(ctx context.Context, made <-chan struct{}) error {
	s.p.state.update(func(st *Status) { st.Phase, st.Problem = CreatingSlot, "" })
	ticker := time.NewTicker(holdUpEvery)
	defer ticker.Stop()
	told := ""
	for {
		select {
		case <-made:
			return nil
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		pins, err := s.side.Running(ctx)
		if err != nil && ctx.Err() == nil {
			return err
		}
		open := openText(pins)
		if open == told || open == "" {
			continue
		}
		told = open
		s.p.state.update(func(st *Status) { st.Problem = "the slot waits for transactions that are open: " + open })
		s.p.opts.Logger.WarnContext(ctx, "the slot waits for transactions that are open; end them to have it made",
			slog.String("slot", s.p.opts.Slot), slog.String("open", open))
	}
}

// fingerprint notes what the publication is, before this session alters it.
func (s *session) fingerprint(ctx context.Context) error {
	return answered(ctx, func(ctx context.Context) (err error) {
		s.before, err = pgsource.Fingerprint(ctx, s.conn, s.p.opts.Publication)
		return err
	})
}

// planTwice is from how many tables of a database on a first plan is made twice, rather than all of them looked at before it.
const planTwice = 5000

// compile plans the entries, and remembers what the tables looked like: the same before and after, or the plan may be
// of tables that nobody will compare with.
func (s *session) compile(ctx context.Context, strict bool) error {
	tables := s.p.tables
	if len(tables) == 0 { // any may be planned
		var err error
		if tables, err = pgcatalog.Names(ctx, s.conn, planTwice); err != nil {
			return err
		}
	}
	before, err := pgcatalog.Looks(ctx, s.conn, tables)
	if err != nil {
		return err
	}
	for {
		if s.compiled, err = s.p.opts.Compile(ctx, s.conn, s.p.declared(), strict); err != nil {
			return err
		}
		planned := s.compiled.all()
		if len(s.compiled.Refused) > 0 { // one of them may have been there when it was still planned, and may come back
			planned = append(planned, slices.DeleteFunc(slices.Clone(s.p.tables), func(t schema.Name) bool { return slices.Contains(planned, t) })...)
		}
		s.p.tables = planned
		if s.looks, err = pgcatalog.Looks(ctx, s.conn, s.p.tables); err != nil {
			return err
		}
		if sameShapes(s.p.tables, s.looks, before) {
			return s.know(ctx)
		}
		before = s.looks
	}
}
