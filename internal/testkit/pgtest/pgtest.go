// Package pgtest gives tests a private PostgreSQL: one server for each test process, with a database for each test, or
// a server of the test's own. A missing PostgreSQL fails the test.
package pgtest

import (
	"context"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/localserver"
	"github.com/freshet/freshet/internal/testkit"
)

// BinVariable names the environment variable that chooses the PostgreSQL to test with, by the folder of its programs.
const BinVariable = "FRESHET_TEST_POSTGRES_BIN"

// Options says how a server differs from the usual one.
type Options struct {
	// Settings go into postgresql.conf, over the defaults of this package.
	Settings map[string]string
	// Env are variables of the server's environment, as NAME=value.
	Env []string
}

// Server is a private PostgreSQL.
type Server struct {
	Dir  string // the server's directory; the cluster is in data
	Port int
	Bin  string // the folder of initdb, postgres, pg_recvlogical

	server   *localserver.Postgres
	isShared bool
}

//nolint:gochecknoglobals // one server for each test process, ended by testkit.Main
var (
	shared = sync.OnceValues(func() (*Server, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		s, err := start(ctx, Options{})
		if err != nil {
			return nil, err
		}
		s.isShared = true
		testkit.AtEnd(s.server.Close)
		return s, nil
	})
	databases atomic.Int64
)

// Shared is the server that all tests of the process use, each with its own database. It is not to be stopped.
func Shared(tb testing.TB) *Server {
	tb.Helper()
	s, err := shared()
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// Start starts a server for this test alone; it ends with the test.
func Start(tb testing.TB, options Options) *Server {
	tb.Helper()
	s, err := start(tb.Context(), options)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("end of PostgreSQL's log:\n%s", s.server.Log())
		}
		if err := s.server.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func start(ctx context.Context, options Options) (*Server, error) {
	settings := map[string]string{
		"wal_level":             "logical",
		"fsync":                 "off", // the machine does not crash, only the server
		"max_connections":       "200",
		"max_wal_senders":       "50",
		"max_replication_slots": "50",
		"shared_buffers":        "32MB",
	}
	maps.Copy(settings, options.Settings)
	server, err := localserver.StartPostgres(ctx, localserver.PostgresOptions{
		Bin: os.Getenv(BinVariable), Settings: settings, Env: options.Env,
	})
	if err != nil {
		return nil, err
	}
	return &Server{Dir: server.Dir, Port: server.Port, Bin: server.Bin, server: server}, nil
}

// URL is the superuser's connection string for a database.
func (s *Server) URL(database string) string { return s.server.URL(database) }

// Database makes an empty database named after the test and returns its URL. On the shared server it is dropped at the
// end of the test, with its replication slots and sessions.
func (s *Server) Database(tb testing.TB) string {
	tb.Helper()
	name := databaseName(tb.Name())
	s.Exec(tb, s.URL("postgres"), "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
	if s.isShared {
		tb.Cleanup(func() {
			ctx, cancel := testkit.Context(tb)
			defer cancel()
			if err := s.drop(ctx, name); err != nil {
				tb.Errorf("drop database %s: %v", name, err)
			}
		})
	}
	return s.URL(name)
}

// databaseName is unique in the process, and says which test it is of.
func databaseName(test string) string {
	const longest = 50 // of the 63 bytes that PostgreSQL has for a name
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		default:
			return '_'
		}
	}, test)
	return fmt.Sprintf("%s_%d", name[:min(len(name), longest)], databases.Add(1))
}

// drop removes a database and what would hold it: its slots, their walsenders, and open sessions.
func (s *Server) drop(ctx context.Context, name string) error {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	for {
		_, err := conn.Exec(ctx, `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
			WHERE database = $1 AND active`, name)
		if err == nil {
			_, err = conn.Exec(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
				WHERE database = $1`, name)
		}
		if err == nil {
			_, err = conn.Exec(ctx, "DROP DATABASE "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)")
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		// A walsender takes a moment to end.
		timer := time.NewTimer(20 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// Exec runs statements, each on its own, over one new connection.
func (s *Server) Exec(tb testing.TB, url string, statements ...string) {
	tb.Helper()
	ctx, cancel := testkit.Context(tb)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		tb.Fatalf("connect to %s: %v", url, err)
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, statement := range statements {
		// Without arguments pgx sends it as a simple query: it may be several statements.
		if _, err := conn.Exec(ctx, statement); err != nil {
			tb.Fatalf("%s: %v", statement, err)
		}
	}
}

// Stop shuts the server down in order.
func (s *Server) Stop(tb testing.TB) {
	tb.Helper()
	s.act(tb, s.server.Stop)
}

// Start starts the stopped server again, on the same data and port.
func (s *Server) Start(tb testing.TB) {
	tb.Helper()
	s.act(tb, s.server.Start)
}

// Restart stops and starts the server.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	s.act(tb, s.server.Restart)
}

// Kill ends the postmaster with SIGKILL.
func (s *Server) Kill(tb testing.TB) {
	tb.Helper()
	s.act(tb, s.server.Kill)
}

func (s *Server) act(tb testing.TB, action func(context.Context) error) {
	tb.Helper()
	if s.isShared {
		tb.Fatal("the shared server is not to be stopped: use pgtest.Start")
	}
	ctx, cancel := testkit.Context(tb)
	defer cancel()
	if err := action(ctx); err != nil {
		tb.Fatal(err)
	}
}
