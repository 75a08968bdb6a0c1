package pipeline

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/apply"
	"github.com/freshet/freshet/internal/pggate"
	"github.com/freshet/freshet/internal/pgsource"
	"github.com/freshet/freshet/mvcc"
)

const watchEvery = 2 * time.Second

// watch looks at what the stream does not tell: whether the publication is still the one that was prepared, and what
// the slot costs. It also notices that the stream has caught up.
func (s *session) watch(ctx context.Context) error {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	fast := time.NewTicker(100 * time.Millisecond)
	defer fast.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-fast.C:
			s.caughtUp(fast)
			continue
		case <-ticker.C:
		}
		now, err := pgsource.Fingerprint(ctx, s.conn, s.p.opts.Publication)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // stopping
		}
		if err != nil {
			return fmt.Errorf("watch the publication: %w", err)
		}
		if now != s.prepared.Fingerprint {
			return &gapError{cause: alteredPublication}
		}
		info, err := pgsource.SlotState(ctx, s.conn, s.p.opts.Slot)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // stopping
		}
		if err != nil {
			return fmt.Errorf("watch the slot: %w", err)
		}
		var text string
		err = s.conn.QueryRow(ctx, `SELECT pg_current_wal_insert_lsn()::text`).Scan(&text)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // stopping
		}
		if err != nil {
			return fmt.Errorf("watch the log: %w", err)
		}
		insert, err := mvcc.ParseLSN(text)
		if err != nil {
			return fmt.Errorf("watch the log: %w", err)
		}
		s.p.state.update(func(st *Status) { st.Slot, st.Insert = info, insert })
	}
}

// caughtUp turns catching up into streaming once the applier has come to where the log ended when the slot was last
// looked at, or to the first position that an idle stream reported.
func (s *session) caughtUp(fast *time.Ticker) {
	st := s.p.state.read()
	if st.Phase != CatchingUp || st.Received == 0 {
		return
	}
	if st.Applied+mvcc.LSN(1) >= st.Received && st.Applied > 0 {
		s.p.state.update(func(st *Status) { st.Phase = Streaming })
		s.p.opts.Logger.Info("streaming", slog.String("lsn", st.Applied.String()), slog.String("generation", st.Generation))
		fast.Stop()
	}
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
		for _, name := range s.admit {
			n.Activate(n.Find(name))
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
	s.p.opts.Logger.Info("entries are live", slog.Int("entries", len(s.admit)))
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
