package pgtest

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/localserver"
	"github.com/freshet/freshet/internal/testkit"
)

// PoolerServer is a PgBouncer in transaction mode.
type PoolerServer struct {
	bouncer *localserver.PgBouncer
}

// Pooler starts a PgBouncer in transaction mode before a server. It ends with the test.
func Pooler(tb testing.TB, before *Server) *PoolerServer {
	tb.Helper()
	b, err := localserver.StartPgBouncer(tb.Context(), before.server)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("end of PgBouncer's log:\n%s", b.Log())
		}
		if err := b.Close(); err != nil {
			tb.Error(err)
		}
	})
	return &PoolerServer{bouncer: b}
}

// URL is a connection string through the pooler.
func (p *PoolerServer) URL(database string) string { return p.bouncer.URL(database) }

// Lead has the pooler lead to another server, under the connections that its clients have, and returns when it does.
func (p *PoolerServer) Lead(tb testing.TB, to *Server) {
	tb.Helper()
	if err := p.bouncer.Lead(to.server); err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := testkit.Context(tb)
	defer cancel()
	config, err := pgx.ParseConfig(p.URL("postgres"))
	if err != nil {
		tb.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	testkit.Eventually(tb, patience, func() error {
		conn, err := pgx.ConnectConfig(ctx, config)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(ctx) }()
		var port string
		if err := conn.QueryRow(ctx, `SELECT inet_server_port()::text`).Scan(&port); err != nil {
			return err
		}
		if port != strconv.Itoa(to.Port) {
			return fmt.Errorf("the pooler leads to port %s, not %d", port, to.Port)
		}
		return nil
	})
}
