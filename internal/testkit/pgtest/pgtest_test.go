package pgtest_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var errNotYet = errors.New("not yet")

func ask(t *testing.T, url, query string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	var answer string
	if err := conn.QueryRow(t.Context(), query).Scan(&answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestDatabasesAreApart(t *testing.T) {
	t.Parallel()
	s := pgtest.Shared(t)
	for i := range 2 {
		url := s.Database(t)
		s.Exec(t, url, "CREATE TABLE mine (n int)", fmt.Sprintf("INSERT INTO mine VALUES (%d); INSERT INTO mine VALUES (7)", i))
		if got, want := ask(t, url, "SELECT string_agg(n::text, ',') FROM mine"), fmt.Sprintf("%d,7", i); got != want {
			t.Errorf("rows = %s, want %s", got, want)
		}
	}
}

// What would hold a database goes with it: a slot, and a session that stays open.
//
//nolint:tparallel // the subtest has to end first
func TestDatabaseIsDroppedWithItsSlots(t *testing.T) {
	t.Parallel()
	s := pgtest.Shared(t)
	var url string
	t.Run("Uses it", func(t *testing.T) {
		url = s.Database(t)
		s.Exec(t, url, "SELECT pg_create_logical_replication_slot('pgtest_leftover', 'pgoutput')")
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := testkit.Context(t)
			defer cancel()
			_ = conn.Close(ctx)
		})
	})
	if conn, err := pgx.Connect(t.Context(), url); err == nil {
		_ = conn.Close(t.Context())
		t.Errorf("%s still exists", url)
	}
	const slots = "SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = 'pgtest_leftover'"
	if got := ask(t, s.URL("postgres"), slots); got != "0" {
		t.Errorf("slots left = %s, want 0", got)
	}
}

func TestOwnServer(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"max_replication_slots": "3"}})
	if s.Port == pgtest.Shared(t).Port {
		t.Error("the test's own server is the shared one")
	}
	url := s.Database(t)
	s.Exec(t, url, "CREATE UNLOGGED TABLE u AS SELECT 1", "CREATE TABLE l AS SELECT 1")
	const counts = "SELECT (SELECT count(*) FROM u) || ' ' || (SELECT count(*) FROM l) || ' ' || current_setting('max_replication_slots')"
	s.Restart(t)
	if got := ask(t, url, counts); got != "1 1 3" {
		t.Errorf("after a restart = %s, want 1 1 3", got)
	}
	s.Kill(t)
	s.Start(t)
	if got := ask(t, url, counts); got != "0 1 3" {
		t.Errorf("after a crash = %s, want 0 1 3", got)
	}
	s.Stop(t)
	if _, err := pgx.Connect(t.Context(), url); err == nil {
		t.Error("a stopped server answers")
	}
}
