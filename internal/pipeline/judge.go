package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/pggate"
	"github.com/freshet/freshet/internal/pgsource"
	"github.com/freshet/freshet/internal/pgurl"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/internal/wal"
)

// connect opens everything but the stream. The store comes first: without it nothing can be applied, and the slot
// stays free for a daemon that can reach it. Then the slot: a standby needs no more than to see that it is taken.
func (s *session) connect(ctx context.Context) error {
	o := &s.p.opts
	var err error
	if s.store, err = o.Store.Connect(ctx); err != nil {
		return fmt.Errorf("connect to the store: %w", err)
	}
	if s.p.gap != "" && s.p.term != "" {
		if err := s.condemn(ctx, fence.Head{Term: s.p.term}); err != nil {
			return err
		}
	}
	connecting, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	config, err := pgurl.Session(o.URL, nil) // with the role's own search path, which queries are planned with
	if err != nil {
		return err
	}
	if s.conn, err = pgx.ConnectConfig(connecting, config); err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	err = answered(ctx, func(ctx context.Context) (err error) {
		s.slot, err = pgsource.SlotState(ctx, s.conn, o.Slot)
		return err
	})
	if err != nil {
		return err
	}
	if s.slot.ActivePID != 0 {
		return fmt.Errorf("slot %q, held by process %d: %w", o.Slot, s.slot.ActivePID, pgsource.ErrSlotInUse)
	}
	if s.gate, err = pggate.Open(ctx, o.URL, o.Logger); err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	if s.side, err = pggate.Open(ctx, o.URL, o.Logger); err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	s.identity = s.gate.Identity()
	return s.oneServer(ctx)
}

// oneServer holds that the address led to one server each time, as it may not while a database fails over: what one server's log
// says means nothing by another's snapshots.
func (s *session) oneServer(ctx context.Context) error {
	var server string
	err := answered(ctx, func(ctx context.Context) error {
		return s.conn.QueryRow(ctx, `SELECT `+wal.ServerSQL).Scan(&server)
	})
	if err != nil {
		return fmt.Errorf("ask which server it is: %w", err)
	}
	for _, other := range []string{s.identity.Server, s.side.Identity().Server} {
		if other != server {
			return fmt.Errorf("connect to the database: %w: %s and %s", pgsource.ErrOtherServer, server, other)
		}
	}
	return nil
}

// judge looks for a gap before anything is asked of the database that it may refuse: what is cached has to be out of
// use also when the gap cannot be answered now.
func (s *session) judge(ctx context.Context) error {
	o := &s.p.opts
	head, found, err := o.Store.Head(ctx)
	if err != nil && !errors.Is(err, store.ErrSplit) {
		return err
	}
	split := err != nil
	s.found = found
	if s.p.gap != "" {
		if !found {
			return nil
		}
		return s.condemn(ctx, head)
	}
	if err := s.fingerprint(ctx); err != nil {
		return err
	}
	evidence, err := s.evidence(ctx, head, found)
	if err != nil {
		return err
	}
	evidence.SlotCreated = !s.slot.Exists || s.slot.Lost
	evidence.Confirmed = s.slot.Confirmed
	cause := evidence.Gap()
	if split {
		cause = store.ErrSplit.Error()
	}
	if cause == "" {
		return nil
	}
	_ = s.p.declare(&gapError{cause: cause, first: !found && !s.p.followed})
	if !found {
		return nil
	}
	// Under the term that is stored: should another daemon have claimed meanwhile, it will have seen the gap as well.
	return s.condemn(ctx, head)
}

func (s *session) evidence(ctx context.Context, head fence.Head, found bool) (*Evidence, error) {
	_, insert, err := s.gate.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	e := &Evidence{HeadFound: found, Head: head, Identity: s.identity, Insert: insert, Publication: s.before}
	e.Alive, e.Claimed, err = s.gate.Alive(ctx, s.p.opts.mark(), head.Generation, head.Term)
	for _, term := range otherTerms(head) {
		if err != nil || !e.Claimed {
			break
		}
		_, e.Claimed, err = s.gate.Alive(ctx, s.p.opts.mark(), head.Generation, term)
	}
	return e, err
}

// otherTerms are those of lanes that a later daemon did not come to claim.
func otherTerms(head fence.Head) []fence.Term {
	var terms []fence.Term
	for i := range head.Lanes {
		if h := &head.Lanes[i]; h.Generation != "" && h.Term != head.Term && !slices.Contains(terms, h.Term) {
			terms = append(terms, h.Term)
		}
	}
	return terms
}
