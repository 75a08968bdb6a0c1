package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/apply"
	"github.com/freshet/freshet/internal/pggate"
	"github.com/freshet/freshet/internal/pgsource"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/mvcc"
)

const (
	watchEvery = 2 * time.Second
	lookEvery  = 100 * time.Millisecond
	// lookWithin bounds one look: a connection that answers nothing for so long leads nowhere.
	lookWithin = 10 * time.Second
)

// watch looks at what the stream does not tell: whether the publication is still the one that was prepared, whether
// the store still has the roster, and what the slot costs.
func (s *session) watch(ctx context.Context, applier *apply.Applier) error {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		err := s.lookAround(ctx)
		if err == nil {
			err = s.keepRoster(ctx, applier)
		}
		if err == nil {
			err = s.keepUsed(ctx, applier)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// errShape ends a session whose tables are not those that were planned any more.
var errShape = errors.New("the tables that entries read have changed")

// shapes is a digest of the tables that entries read: which table has each name, its columns and its replica identity.
// A table that was swapped for another by renaming never shows in the stream.
func (s *session) shapes(ctx context.Context, tables []schema.Name) (string, error) {
	var schemas, names []string
	for _, t := range tables {
		schemas, names = append(schemas, t.Schema), append(names, t.Name)
	}
	const query = `
SELECT coalesce(md5(string_agg(concat_ws(' ', c.oid, n.nspname, c.relname, c.relkind, c.relpersistence, c.relreplident,
         c.relrowsecurity, c.relhassubclass, c.relispartition,
         (SELECT string_agg(concat_ws(' ', attnum, attname, atttypid, atttypmod, attcollation, attnotnull, attgenerated), ',' ORDER BY attnum)
            FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped),
         (SELECT string_agg(concat_ws(' ', indexrelid, indisprimary, indisreplident, indkey), ',' ORDER BY indexrelid)
            FROM pg_index WHERE indrelid = c.oid AND (indisprimary OR indisreplident))), ';' ORDER BY c.oid)), '')
  FROM unnest($1::text[], $2::text[]) AS t (nspname, relname)
  JOIN pg_namespace n ON n.nspname = t.nspname
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.relname`
	var digest string
	if err := s.conn.QueryRow(ctx, query, schemas, names).Scan(&digest); err != nil {
		return "", fmt.Errorf("look at the tables: %w", err)
	}
	return digest, nil
}

// lookAround looks at the database and at where the store's address leads, within bounds.
func (s *session) lookAround(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	if err := s.look(ctx); err != nil {
		return err
	}
	return s.together(ctx)
}

func (s *session) look(ctx context.Context) error {
	now, err := pgsource.Fingerprint(ctx, s.conn, s.p.opts.Publication)
	if err != nil {
		return fmt.Errorf("watch the publication: %w", err)
	}
	if now != s.prepared.Fingerprint {
		return &gapError{cause: alteredPublication}
	}
	shape, err := s.shapes(ctx, s.p.tables)
	if err != nil {
		return err
	}
	if shape != s.shape {
		return errShape
	}
	info, err := pgsource.SlotState(ctx, s.conn, s.p.opts.Slot)
	if err != nil {
		return fmt.Errorf("watch the slot: %w", err)
	}
	insert, err := s.position(ctx, "pg_current_wal_insert_lsn")
	if err != nil {
		return err
	}
	s.p.state.update(func(st *Status) { st.Slot, st.Insert = info, insert })
	return nil
}

// position asks one of the server's functions for a log position.
func (s *session) position(ctx context.Context, function string) (mvcc.LSN, error) {
	var text string
	if err := s.conn.QueryRow(ctx, `SELECT `+function+`()::text`).Scan(&text); err != nil {
		return 0, fmt.Errorf("look at the log: %w", err)
	}
	lsn, err := mvcc.ParseLSN(text)
	if err != nil {
		return 0, fmt.Errorf("look at the log: %w", err)
	}
	return lsn, nil
}

// errApart ends a session whose store is not the one that readers are led to.
var errApart = errors.New("readers are led to another redis than the daemon: a failover, or an address that leads to several servers")

// together compares the history that the store's address leads to with the daemon's. Its connection may outlive a
// failover for as long as the old master answers: an address that moves to another server leaves it where it is.
func (s *session) together(ctx context.Context) error {
	if s.replid == "" {
		return nil // in a cluster each lane's connection is held against its owner
	}
	theirs, err := s.p.opts.Store.Replid(ctx)
	if err != nil {
		return fmt.Errorf("watch the store: %w", err)
	}
	if theirs != s.replid {
		return fmt.Errorf("%w (%s, not %s)", errApart, theirs, s.replid)
	}
	return nil
}

// keepRoster publishes the roster again when the store has lost it, or has another one than was published, to eviction,
// to a failover or to somebody's hand: without it readers load everything from the database. And it has HEAD compared,
// which may have changed while no write came along that would have shown it (D4).
func (s *session) keepRoster(ctx context.Context, applier *apply.Applier) error {
	text, found, err := s.p.opts.Store.Roster(ctx)
	if err != nil {
		return fmt.Errorf("watch the roster: %w", err)
	}
	var stored rule.Roster
	if found {
		if parsed, err := rule.ParseRoster(text); err == nil {
			stored = *parsed
		}
	}
	return applier.Request(ctx, func(n *apply.Names) bool {
		ours := n.Roster()
		if stored.Generation == ours.Generation && stored.Revision == ours.Revision {
			return false
		}
		s.p.opts.Logger.WarnContext(ctx, "the store does not have the roster that was published; publishing it again")
		return true
	})
}

// catchUp waits until the applier has come to where the log ended when the session began, and keeps up with what is
// read: then the pipeline is streaming.
func (s *session) catchUp(ctx context.Context, target mvcc.LSN) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		read := mvcc.LSN(s.p.state.received.Load())
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		applied := mvcc.LSN(s.p.state.apply.Wc.Load())
		if applied >= target && applied >= read {
			break
		}
	}
	s.p.state.update(func(st *Status) { st.Phase = Streaming })
	s.p.opts.Logger.InfoContext(ctx, "streaming", slog.String("generation", s.head.Generation), slog.String("slot", s.p.opts.Slot))
	return nil
}

// admission waits until every transaction is over that was open when the stream's tables were settled, and then makes
// the waiting entries live (D8): what such a transaction wrote may never come through the stream.
func (s *session) admission(ctx context.Context, applier *apply.Applier) error {
	since, _, err := s.side.Snapshot(ctx)
	if err == nil {
		_, err = s.side.Quiesce(ctx, since, s.pinned)
	}
	if ctx.Err() != nil {
		return nil //nolint:nilerr // stopping
	}
	if err != nil {
		return fmt.Errorf("wait for open transactions: %w", err)
	}
	err = applier.Request(ctx, func(n *apply.Names) bool {
		for _, i := range s.admit {
			n.Activate(i)
		}
		return true
	})
	if ctx.Err() != nil {
		return nil //nolint:nilerr // stopping
	}
	if err != nil {
		return err
	}
	s.p.state.update(func(st *Status) { st.Admission = "" })
	s.p.opts.Logger.InfoContext(ctx, "entries are live", slog.Int("entries", len(s.admit)))
	return nil
}

// pinned says who keeps new tables waiting.
func (s *session) pinned(pins []pggate.Pin) {
	var b strings.Builder
	for i, p := range pins {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "process %d since %s", p.PID, p.Since.Format(time.RFC3339))
	}
	s.p.state.update(func(st *Status) { st.Admission = b.String() })
	s.p.opts.Logger.Warn("entries wait for transactions that began before their tables were in the stream",
		slog.Int("entries", len(s.admit)), slog.String("open", b.String()))
}
