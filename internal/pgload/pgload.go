// Package pgload reads values from PostgreSQL together with what decides whether they may be cached: the snapshot that
// the very statement ran under, and whether the server and the session are ones whose answers can be trusted (R3).
package pgload

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/mvcc"
)

// Loader loads over a pool of connections.
type Loader struct {
	pool  *pgxpool.Pool
	owned bool
	mode  []any // the query mode, as pgx takes it among the arguments; empty: the pool's own
}

// Loaded is what a load found, and how it may be used.
type Loaded struct {
	Found    bool
	Payload  []byte // JSON
	Coverage fence.Coverage
	Server   Server // whom the connection is to
	// Refuse says why the value may be given to its caller only, and not be filled. Empty: it may be filled.
	Refuse string
}

// Open makes a pool of its own, whose sessions have the settings that make a value's text the same everywhere. It
// does not need the database to be there.
func Open(ctx context.Context, url string) (*Loader, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("parse database url: %w", err) // pgconn hides passwords
	}
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = "freshet"
	}
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = connectTimeout
	}
	// A load that is given up is cancelled on the server too; otherwise a slow query would go on without a reader.
	config.ConnConfig.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxWatcher {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: c, DeadlineDelay: time.Second}
	}
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, forceSettings)
		return err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	l := New(pool)
	l.owned = true
	return l, nil
}

const connectTimeout = 5 * time.Second

// New uses a caller's pool. A load in a session with other settings runs in a transaction of its own that changes them
// for itself alone, which costs a little more.
func New(pool *pgxpool.Pool) *Loader {
	l := &Loader{pool: pool}
	if pool.Config().ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeExec {
		// That mode takes every text argument for type text; arguments here are the text of any type.
		l.mode = []any{pgx.QueryExecModeDescribeExec}
	}
	return l
}

// Close closes the pool, if it is the loader's own.
func (l *Loader) Close() {
	if l.owned {
		l.pool.Close()
	}
}

// Pool is the pool that the loader uses.
func (l *Loader) Pool() *pgxpool.Pool { return l.pool }

// Server tells servers apart whose transaction ids have nothing to do with each other: a logical copy has another
// system identifier, a primary that was left behind by a failover another timeline.
type Server struct {
	System   string
	Timeline uint32 // zero on a standby
}

// serverKey is where a connection remembers which server it is to.
const serverKey = "freshet.server"

// acquire takes a connection and finds out which server it leads to.
//
// That is asked once for each connection and not with each load, where it would cost a quarter more: the identifier is
// read from the control file. A pooler that moves a connection between a server and a logical copy of it is therefore
// not noticed, and not supported. Whether the server is a standby is asked with each load.
func (l *Loader) acquire(ctx context.Context) (*pgxpool.Conn, Server, error) {
	conn, err := l.pool.Acquire(ctx)
	if err != nil {
		return nil, Server{}, classify(ctx, "connect", err)
	}
	data := conn.Conn().PgConn().CustomData()
	if server, ok := data[serverKey].(Server); ok {
		return conn, server, nil
	}
	var (
		server   Server
		timeline string
	)
	err = conn.QueryRow(ctx, `SELECT system_identifier::text, CASE WHEN pg_catalog.pg_is_in_recovery() THEN '0'
		ELSE pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8) END
		FROM pg_catalog.pg_control_system()`).Scan(&server.System, &timeline)
	if err != nil {
		conn.Release()
		return nil, Server{}, classify(ctx, "ask which server it is", err)
	}
	number, err := strconv.ParseUint(timeline, 16, 32)
	if err != nil {
		conn.Release()
		return nil, Server{}, fmt.Errorf("ask which server it is: timeline %q: %w", timeline, err)
	}
	server.Timeline = uint32(number)
	if server.Timeline != 0 { // a standby may be promoted under the connection
		data[serverKey] = server
	}
	return conn, server, nil
}

// System asks which server the pool leads to, and the name of the database.
func (l *Loader) System(ctx context.Context) (system, database string, err error) {
	conn, server, err := l.acquire(ctx)
	if err != nil {
		return "", "", err
	}
	defer conn.Release()
	if err := conn.QueryRow(ctx, "SELECT pg_catalog.current_database()").Scan(&database); err != nil {
		return "", "", classify(ctx, "ask for the database", err)
	}
	return server.System, database, nil
}

// Position asks the primary where its log ends: whatever was committed when the call began lies before.
func (l *Loader) Position(ctx context.Context) (Server, mvcc.LSN, error) {
	conn, server, err := l.acquire(ctx)
	if err != nil {
		return Server{}, 0, err
	}
	defer conn.Release()
	var text string
	if err := conn.QueryRow(ctx, "SELECT pg_catalog.pg_current_wal_insert_lsn()::text").Scan(&text); err != nil {
		return Server{}, 0, classify(ctx, "ask where the log ends", err)
	}
	at, err := mvcc.ParseLSN(text)
	if err != nil {
		return Server{}, 0, fmt.Errorf("ask where the log ends: %w", err)
	}
	return server, at, nil
}
