package pgload

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/mvcc"
)

// Replica loads from a hot standby. What it loads is covered by the position up to which the standby had replayed
// before the query began (R3): there, snapshots do not say what they see.
type Replica struct {
	loader *Loader
	pooled atomic.Bool // code cannot load over it: a pooler may lead each transaction to another server
}

// replicaCancelWait is short: whoever gives up a standby goes on to the primary.
const replicaCancelWait = 50 * time.Millisecond

// OpenReplica makes a pool of its own, as Open does.
func OpenReplica(ctx context.Context, url string) (*Replica, error) {
	l, err := open(ctx, url, replicaCancelWait)
	if err != nil {
		return nil, err
	}
	return &Replica{loader: l}, nil
}

// NewReplica uses a caller's pool, as New does.
func NewReplica(pool *pgxpool.Pool) *Replica { return &Replica{loader: New(pool)} }

// Close closes the pool, if it is the replica's own.
func (r *Replica) Close() { r.loader.Close() }

// Most is Loader.Most.
func (r *Replica) Most() int { return r.loader.Most() }

// Host names the standby, for logs.
func (r *Replica) Host() string { return r.loader.pool.Config().ConnConfig.Host }

// positionStatement runs before the query, in a transaction with it. The position moves only after what it stands for
// has become visible, so that a later statement of READ COMMITTED sees all of it; read in the query itself, or under
// REPEATABLE READ, it could be that of changes which the rows do not have yet (T11, T12).
const positionStatement = `SELECT pg_catalog.pg_is_in_recovery()::text, pg_catalog.pg_last_wal_replay_lsn()::text, ` + serverColumns

// Load is Loader.Load on the standby. A server that was promoted answers as the primary that it now is: whether it is
// the one that is followed is for the caller to judge by Server. Everything is judged by what the very transaction says,
// also behind a pooler.
func (r *Replica) Load(ctx context.Context, sql string, result rule.Result, args []keytext.Arg) (Loaded, error) {
	return r.LoadTagged(ctx, Query{SQL: sql, Result: result}, args)
}

// LoadTagged is Loader.LoadTagged on the standby, as Load is Loader.Load.
func (r *Replica) LoadTagged(ctx context.Context, q Query, args []keytext.Arg) (Loaded, error) {
	conn, err := r.loader.connection(ctx)
	if err != nil {
		return Loaded{}, r.loader.unconnected(ctx, err)
	}
	defer conn.Release()
	statements := []statement{{sql: beginReading}, {sql: positionStatement}}
	if !r.loader.owned || r.loader.behind.Load() {
		statements = append(statements, statement{sql: localSettings})
	}
	statements = append(statements, statement{wrap(&q, false), arguments(args)}, statement{sql: "COMMIT"})
	rows, err := exchange(ctx, conn.Conn().PgConn(), statements...)
	if err != nil {
		return Loaded{}, classify(ctx, "load", err)
	}
	const position = 1
	before := rows[position]
	loaded, s, err := single(rows[len(rows)-2])
	if err != nil {
		return Loaded{}, err
	}
	if len(before) != 1 {
		return Loaded{}, errNothing
	}
	row := before[0]
	if loaded.Server, err = newServer(string(row[2]), string(row[3])); err != nil {
		return Loaded{}, err
	}
	loaded.Database = newDatabase(string(row[4]))
	s.judgeReplica(&loaded, string(row[0]) == "true", string(row[1]))
	loaded.Tags, err = s.tags(&q)
	return loaded, err
}

// judgeReplica puts what both statements said beside the value.
func (s *state) judgeReplica(l *Loaded, standby bool, replayed string) {
	switch {
	case !standby:
		s.judge(l)
	case text(s.standby) != "true":
		l.Refuse = "the standby was promoted during the load"
	case !usual(text(s.settings)):
		l.Refuse = s.unusual()
	default:
		position, err := mvcc.ParseLSN(replayed)
		if err != nil || position == 0 {
			l.Refuse = "the standby does not say how far it has replayed: " + replayed
			return
		}
		l.Coverage = fence.Coverage{Replay: position}
	}
}
