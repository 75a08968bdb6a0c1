package pgtest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/localserver"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/mvcc"
)

// StandbyServer is a hot standby of another server of the test's own.
type StandbyServer struct {
	*Server

	primary *Server
}

// Standby starts a hot standby of primary, a server of the test's own, and waits until it has replayed what primary
// has written so far, unless the options delay it (recovery_min_apply_delay). It ends with the test.
func Standby(tb testing.TB, primary *Server, options Options) *StandbyServer {
	tb.Helper()
	if primary.isShared {
		tb.Fatal("a standby copies everything: give it a primary of the test's own (pgtest.Start)")
	}
	server, err := localserver.StartStandby(tb.Context(), primary.server, localserver.PostgresOptions{Settings: options.Settings})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("end of the standby's log:\n%s", server.Log())
		}
		if err := server.Close(); err != nil {
			tb.Error(err)
		}
	})
	s := &StandbyServer{
		Server: &Server{Dir: server.Dir, Port: server.Port, Bin: server.Bin, server: server}, primary: primary,
	}
	if options.Settings["recovery_min_apply_delay"] == "" {
		s.CatchUp(tb)
	}
	return s
}

// Pause stops replay; the standby goes on receiving. It returns when replay stands still.
func (s *StandbyServer) Pause(tb testing.TB) {
	tb.Helper()
	s.Exec(tb, s.URL("postgres"), `SELECT pg_wal_replay_pause()`)
	testkit.Eventually(tb, patience, func() error {
		if state := s.Ask(tb, s.URL("postgres"), `SELECT pg_get_wal_replay_pause_state()`); state != "paused" {
			return fmt.Errorf("replay is %s", state)
		}
		return nil
	})
}

// Resume lets a paused replay go on.
func (s *StandbyServer) Resume(tb testing.TB) {
	tb.Helper()
	s.Exec(tb, s.URL("postgres"), `SELECT pg_wal_replay_resume()`)
}

// Promote makes the standby a primary, on a timeline of its own, and returns when it takes writes. What it has
// received is replayed first, also when replay was paused.
func (s *StandbyServer) Promote(tb testing.TB) {
	tb.Helper()
	s.Exec(tb, s.URL("postgres"), `SELECT pg_promote(true, 60)`)
	testkit.Eventually(tb, patience, func() error {
		if s.Ask(tb, s.URL("postgres"), `SELECT pg_is_in_recovery()::text`) != "false" {
			return errors.New("the server is in recovery")
		}
		return nil
	})
}

// Replayed is how far the standby has replayed.
func (s *StandbyServer) Replayed(tb testing.TB) mvcc.LSN {
	tb.Helper()
	return position(tb, s.Ask(tb, s.URL("postgres"), `SELECT pg_last_wal_replay_lsn()::text`))
}

// CatchUp returns when the standby has replayed what the primary has written so far.
func (s *StandbyServer) CatchUp(tb testing.TB) {
	tb.Helper()
	written := position(tb, s.primary.Ask(tb, s.primary.URL("postgres"), `SELECT pg_current_wal_flush_lsn()::text`))
	testkit.Eventually(tb, patience, func() error {
		if at := s.Replayed(tb); at < written {
			return fmt.Errorf("the standby is at %v of %v", at, written)
		}
		return nil
	})
}

const patience = 30 * time.Second

func position(tb testing.TB, text string) mvcc.LSN {
	tb.Helper()
	lsn, err := mvcc.ParseLSN(text)
	if err != nil {
		tb.Fatal(err)
	}
	return lsn
}

// Ask runs a query that has one text in its answer.
func (s *Server) Ask(tb testing.TB, url, query string) (answer string) {
	tb.Helper()
	ctx, cancel := testkit.Context(tb)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		tb.Fatalf("connect to %s: %v", url, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := conn.QueryRow(ctx, query).Scan(&answer); err != nil {
		tb.Fatalf("%s: %v", query, err)
	}
	return answer
}

// ReplaceBy puts the cluster of another stopped server in the place of this stopped one: a backup that is restored.
// Port and settings stay.
func (s *Server) ReplaceBy(tb testing.TB, other *Server) {
	tb.Helper()
	s.act(tb, func(ctx context.Context) error { return s.server.ReplaceBy(ctx, other.server) })
}

// Cut ends replication: what the primary writes from now on, the standby never gets.
func (s *StandbyServer) Cut(tb testing.TB) {
	tb.Helper()
	s.Exec(tb, s.URL("postgres"), `ALTER SYSTEM SET primary_conninfo = ''`, `SELECT pg_reload_conf()`)
	testkit.Eventually(tb, patience, func() error {
		if n := s.Ask(tb, s.URL("postgres"), `SELECT count(*)::text FROM pg_stat_wal_receiver`); n != "0" {
			return errors.New("the standby still receives")
		}
		return nil
	})
}
