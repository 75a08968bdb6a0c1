package pgtest_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// TestPoolerSwapsTheServerUnderAConnection is what a transaction pooler may do at any time.
func TestPoolerSwapsTheServerUnderAConnection(t *testing.T) {
	t.Parallel()
	first, second := pgtest.Start(t, pgtest.Options{}), pgtest.Start(t, pgtest.Options{})
	pooler := pgtest.Pooler(t, first)
	config, err := pgx.ParseConfig(pooler.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	port := func() (port int) {
		if err := conn.QueryRow(t.Context(), `SELECT inet_server_port()`).Scan(&port); err != nil {
			t.Fatal(err)
		}
		return port
	}
	if got := port(); got != first.Port {
		t.Errorf("server's port %d, want %d", got, first.Port)
	}
	pooler.Lead(t, second)
	if got := port(); got != second.Port {
		t.Errorf("server's port %d, want %d", got, second.Port)
	}
}
