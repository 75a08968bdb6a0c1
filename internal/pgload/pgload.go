// Package pgload reads values from PostgreSQL together with what decides whether they may be cached: the snapshot that
// the very statement ran under, and whether the server and the session are ones whose answers can be trusted (R3).
package pgload

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/wal"
	"github.com/freshet/freshet/mvcc"
)

// Loader loads over a pool of connections.
type Loader struct {
	pool    *pgxpool.Pool
	owned   bool
	unnamed bool        // statements are to be sent without names
	behind  atomic.Bool // a pooler, as the first connection found: of an owned pool
}

// Loaded is what a load found, and how it may be used.
type Loaded struct {
	Found    bool
	Payload  []byte // JSON
	Coverage fence.Coverage
	Server   Server        // whom the connection is to
	Database rule.Database // in which it is; zero: that is not known
	Same     Sameness      // of a comparison (LoadChanged)
	Version  string        // of a comparison: the row version, of the known value too where that is the same; empty: there is none
	Tags     []Tags        // one for each that the Query asked for
	ByHand   []string      // of code that loads: the tags that it gave, as its caller has gathered them; each once
	Through  string        // of code that loads: an entry that it has read through the cache, as its caller knows; empty: none
	// Refuse says why the value may be given to its caller only, and not be filled. Empty: it may be filled. The coverage
	// may be known all the same.
	Refuse string
}

// Open makes a pool of its own, whose sessions have the settings that make a value's text the same everywhere. It
// does not need the database to be there.
//
// Behind a transaction pooler sessions are left as they are, since they are not ours alone, and no statement is given a
// name on the server; unless the URL says default_query_exec_mode, for a pooler that knows named statements.
func Open(ctx context.Context, url string) (*Loader, error) { return open(ctx, url, cancelWait) }

// cancelWait is how long a load that is given up waits for the server to cancel it, before the connection is closed.
const cancelWait = time.Second

func open(ctx context.Context, url string, cancelWait time.Duration) (*Loader, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("parse database url: %w", err) // pgconn hides passwords
	}
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = "freshet"
	}
	if config.ConnConfig.RuntimeParams["client_encoding"] == "" {
		config.ConnConfig.RuntimeParams["client_encoding"] = "UTF8" // JSON is; a database need not be
	}
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = connectTimeout
	}
	// A load that is given up is cancelled on the server too; otherwise a slow query would go on without a reader.
	config.ConnConfig.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxWatcher {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: c, DeadlineDelay: cancelWait}
	}
	l := &Loader{owned: true}
	chosen := strings.Contains(url, "default_query_exec_mode")
	config.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
		if l.behind.Load() && !chosen {
			c.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
		}
		return nil
	}
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		link, err := ask(ctx, conn.PgConn())
		if err != nil {
			return err
		}
		if link.pooled {
			l.behind.Store(true)
			if conn.Config().DefaultQueryExecMode == pgx.QueryExecModeCacheStatement && !chosen {
				return errPooler
			}
			return nil
		}
		_, err = conn.Exec(ctx, forceSettings)
		return err
	}
	if l.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	return l.init(), nil
}

// errPooler ends a connection that found a pooler and was not made for one; the next one is.
var errPooler = errors.New("there is a pooler between")

const connectTimeout = 5 * time.Second

// New uses a caller's pool. A load in a session with other settings runs in a transaction of its own that changes them
// for itself alone, which costs a little more.
func New(pool *pgxpool.Pool) *Loader { return (&Loader{pool: pool}).init() }

func (l *Loader) init() *Loader {
	// That mode takes every text argument for type text; arguments here are the text of any type.
	l.unnamed = l.pool.Config().ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeExec
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

// Most is how many loads can run at a time: each has a connection of the pool's.
func (l *Loader) Most() int { return int(l.pool.Config().MaxConns) }

// Server tells servers apart whose transaction ids have nothing to do with each other: a logical copy has another
// system identifier, a primary that was left behind by a failover, and its standbys, another timeline.
type Server struct {
	System   string
	Timeline uint32
}

// link is what is known of one connection.
type link struct {
	server   Server        // whom it leads to; of no meaning where pooled
	database rule.Database // likewise
	pid      string        // of the server's process
	// pooled: a pooler stands between, which may lead to another server with each transaction. The process that answered
	// is not the one that the connection was introduced to.
	pooled bool
	adapt  bool // the session's settings are not the usual ones
}

// linkKey is where a connection remembers its link.
const linkKey = "freshet.link"

// acquire takes a connection and finds out where it leads.
//
// Which server that is, is asked once for each connection and not with each load, where it would cost a quarter more:
// the identifier is read from the control file. Behind a pooler it is asked within each statement. Whether the server
// is a standby, and which of its processes answers, is asked with each load.
func (l *Loader) acquire(ctx context.Context) (*pgxpool.Conn, *link, error) {
	conn, err := l.connection(ctx)
	if err != nil {
		return nil, nil, l.unconnected(ctx, err)
	}
	data := conn.Conn().PgConn().CustomData()
	if known, ok := data[linkKey].(*link); ok && !known.standby() {
		return conn, known, nil
	}
	known, err := ask(ctx, conn.Conn().PgConn())
	if err != nil {
		conn.Release()
		return nil, nil, classify(ctx, "ask which server it is", err)
	}
	data[linkKey] = known
	return conn, known, nil
}

// connection takes a connection, which is made for a pooler if there is one.
func (l *Loader) connection(ctx context.Context) (*pgxpool.Conn, error) {
	conn, err := l.pool.Acquire(ctx)
	for range 3 { // several connections may be in the making
		if !errors.Is(err, errPooler) {
			break
		}
		conn, err = l.pool.Acquire(ctx)
	}
	return conn, err
}

// standby reports that the connection led to a standby when that was asked, which may have been promoted since.
func (l *link) standby() bool { return !l.pooled && l.server == Server{} }

// ask finds out where a connection leads. A standby is no server that ordinary loads are stored from.
func ask(ctx context.Context, conn *pgconn.PgConn) (*link, error) {
	rows, err := exchange(ctx, conn, statement{sql: `SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery()::text, ` + serverColumns})
	if err != nil {
		return nil, err
	}
	if len(rows[0]) != 1 {
		return nil, errNothing
	}
	row := rows[0][0]
	known := &link{pid: string(row[0]), pooled: string(row[0]) != processOf(conn), database: newDatabase(string(row[4]))}
	if string(row[1]) == "false" {
		known.server, err = newServer(string(row[2]), string(row[3]))
	}
	return known, err
}

// processOf is the process that a connection was introduced to.
func processOf(conn *pgconn.PgConn) string { return strconv.FormatUint(uint64(conn.PID()), 10) }

// System asks which server the pool leads to, and the name of the database.
func (l *Loader) System(ctx context.Context) (system, database string, err error) {
	conn, _, err := l.acquire(ctx)
	if err != nil {
		return "", "", err
	}
	defer conn.Release()
	rows, err := exchange(ctx, conn.Conn().PgConn(), statement{
		sql: "SELECT system_identifier::text, pg_catalog.current_database() FROM pg_catalog.pg_control_system()",
	})
	if err != nil {
		return "", "", classify(ctx, "ask for the database", err)
	}
	if len(rows[0]) != 1 {
		return "", "", errNothing
	}
	return string(rows[0][0][0]), string(rows[0][0][1]), nil
}

// Database asks which database of its server the pool leads to.
func (l *Loader) Database(ctx context.Context) (rule.Database, error) {
	conn, _, err := l.acquire(ctx)
	if err != nil {
		return rule.Database{}, err
	}
	defer conn.Release()
	rows, err := exchange(ctx, conn.Conn().PgConn(), statement{sql: "SELECT " + databaseSQL})
	if err != nil {
		return rule.Database{}, classify(ctx, "ask for the database", err)
	}
	if len(rows[0]) != 1 {
		return rule.Database{}, errNothing
	}
	return newDatabase(string(rows[0][0][0])), nil
}

// Visible asks the server for a snapshot: what is visible there now. That of a standby is zero, since it does not tell.
func (l *Loader) Visible(ctx context.Context) (mvcc.Snapshot, Server, error) {
	text, server, standby, err := l.tell(ctx, "take snapshot", "pg_catalog.pg_current_snapshot()::text")
	if err != nil || standby {
		return mvcc.Snapshot{}, server, err
	}
	snapshot, err := mvcc.ParseSnapshot(text)
	if err != nil {
		return mvcc.Snapshot{}, Server{}, fmt.Errorf("take snapshot: %w", err)
	}
	return snapshot, server, nil
}

// tell has the server compute an expression, and say in the same statement who it is: behind a pooler the next one may
// run elsewhere.
func (l *Loader) tell(ctx context.Context, what, expression string) (text string, server Server, standby bool, err error) {
	conn, _, err := l.acquire(ctx)
	if err != nil {
		return "", Server{}, false, err
	}
	defer conn.Release()
	rows, err := exchange(ctx, conn.Conn().PgConn(), statement{
		sql: "SELECT " + expression + ", pg_catalog.pg_is_in_recovery()::text, " + serverColumns,
	})
	if err != nil {
		return "", Server{}, false, classify(ctx, what, err)
	}
	if len(rows[0]) != 1 {
		return "", Server{}, false, errNothing
	}
	row := rows[0][0]
	if server, err = newServer(string(row[2]), string(row[3])); err != nil {
		return "", Server{}, false, fmt.Errorf("%s: %w", what, err)
	}
	return string(row[0]), server, string(row[1]) == "true", nil
}

// positionSQL says where the next record begins, and what has to be known to tell where the last has ended.
const positionSQL = `pg_catalog.pg_current_wal_insert_lsn()::text || ' ' || ` + wal.PageSQL + ` || ' ' || ` + wal.SegmentSQL

// Position asks the primary where its log ends: whatever was committed when the call began lies before.
func (l *Loader) Position(ctx context.Context) (Server, mvcc.LSN, error) {
	text, server, _, err := l.tell(ctx, "ask where the log ends", positionSQL)
	if err != nil {
		return Server{}, 0, err
	}
	next, sizes, _ := strings.Cut(text, " ")
	at, err := mvcc.ParseLSN(next)
	var pages wal.Pages
	if err == nil {
		_, err = fmt.Sscan(sizes, (*uint64)(&pages.Page), (*uint64)(&pages.Segment))
	}
	if err != nil {
		return Server{}, 0, fmt.Errorf("ask where the log ends: %w", err)
	}
	return server, pages.RecordEnd(at), nil
}
