package pgload

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/fence"
)

// Querier is what code that loads may do: read.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Func is code that loads, with any number of statements. It returns JSON, and whether there is such a thing.
type Func = func(ctx context.Context, q Querier) (payload []byte, found bool, err error)

// beginOneSnapshot begins the transaction of code that loads: all its statements see the snapshot of the first.
const beginOneSnapshot = "BEGIN TRANSACTION READ ONLY, ISOLATION LEVEL REPEATABLE READ"

// LoadFunc runs code that loads, in a read-only transaction in which all of its statements see one snapshot.
func (l *Loader) LoadFunc(ctx context.Context, load Func) (Loaded, error) {
	conn, link, err := l.acquire(ctx)
	if err != nil {
		return Loaded{}, err
	}
	defer conn.Release()
	query := "SELECT 'null', " + stateColumns
	if link.pooled {
		query += ", " + serverColumns
	}
	loaded, s, err := beginCode(ctx, conn.Conn(), query)
	if err == nil && !usual(text(s.settings)) {
		loaded, s, err = adaptCode(ctx, conn.Conn(), query)
	}
	if err == nil {
		loaded, err = s.finish(loaded, link)
	}
	if err != nil {
		return Loaded{}, abandonCode(ctx, conn.Conn(), err)
	}
	return runCode(ctx, conn.Conn(), load, loaded)
}

// beginCode begins the transaction of code that loads, in one go with the statement whose snapshot is that of all the
// others.
func beginCode(ctx context.Context, conn *pgx.Conn, query string) (loaded Loaded, s state, err error) {
	var batch pgx.Batch
	batch.Queue(beginOneSnapshot)
	batch.Queue(query)
	results := conn.SendBatch(ctx, &batch)
	defer func() {
		if closing := results.Close(); err == nil && closing != nil {
			err = classify(ctx, "begin load", closing)
		}
	}()
	if _, err = results.Exec(); err != nil {
		return Loaded{}, state{}, classify(ctx, "begin load", err)
	}
	rows, err := results.Query()
	if err != nil {
		return Loaded{}, state{}, classify(ctx, "begin load", err)
	}
	return collect(ctx, rows)
}

// adaptCode gives the transaction the usual settings, in a session that has others.
func adaptCode(ctx context.Context, conn *pgx.Conn, query string) (loaded Loaded, s state, err error) {
	rows, err := exchange(ctx, conn.PgConn(), statement{sql: localSettings}, statement{sql: query})
	if err != nil {
		return Loaded{}, state{}, classify(ctx, "begin load", err)
	}
	return single(rows[1])
}

// runCode runs the code and ends its transaction. Of the database say its errors something only where they are those of statements that were sent
// to it: what the code itself returns is a CodeError otherwise.
func runCode(ctx context.Context, conn *pgx.Conn, load Func, loaded Loaded) (Loaded, error) {
	q := &reading{conn: conn}
	defer q.end(ctx) // also of code that panics, or ends its goroutine
	var err error
	loaded.Payload, loaded.Found, err = load(ctx, q)
	q.end(ctx)
	if err = q.verdict(ctx, err); err != nil {
		return Loaded{}, abandonCode(ctx, conn, err)
	}
	tag, err := conn.Exec(ctx, "COMMIT")
	if err == nil && tag.String() == "ROLLBACK" {
		err = pgx.ErrTxCommitRollback // the code passed over the failure of a statement
	}
	if err != nil {
		return Loaded{}, classify(ctx, "end load", err)
	}
	return loaded, nil
}

// abandonCode ends the transaction, and returns why.
func abandonCode(ctx context.Context, conn *pgx.Conn, why error) error {
	rollBack(ctx, conn.PgConn())
	return why
}

const behindPooler = "a pooler may lead the connection to another server"

// LoadFunc is Loader.LoadFunc on the standby. The position up to which it has replayed is read before the transaction,
// whose snapshot is taken later and sees all of that; read within it, it could be that of changes which the snapshot does not
// see (T12). So both have to run on one server, and a connection that a pooler may lead elsewhere is refused. The code runs only
// when enough says that what it would load can be stored; and an error of its own is no answer: on the primary it may
// succeed.
func (r *Replica) LoadFunc(ctx context.Context, load Func, enough func(*Loaded) bool) (Loaded, error) {
	if r.pooled.Load() {
		return Loaded{Refuse: behindPooler}, nil
	}
	acquired, err := r.loader.connection(ctx)
	if err != nil {
		return Loaded{}, r.loader.unconnected(ctx, err)
	}
	defer acquired.Release()
	conn := acquired.Conn()
	rows, err := exchange(ctx, conn.PgConn(), statement{sql: positionStatement + ", pg_catalog.pg_backend_pid()::text"})
	if err != nil {
		return Loaded{}, classify(ctx, "load", err)
	}
	if len(rows[0]) != 1 {
		return Loaded{}, errNothing
	}
	before := rows[0][0]
	const query = "SELECT 'null', " + stateColumns
	loaded, s, err := beginCode(ctx, conn, query)
	if err == nil && !usual(text(s.settings)) {
		loaded, s, err = adaptCode(ctx, conn, query)
	}
	if err == nil {
		loaded.Server, err = newServer(string(before[2]), string(before[3]))
		loaded.Database = newDatabase(string(before[4]))
	}
	if err != nil {
		return Loaded{}, abandonCode(ctx, conn, err)
	}
	s.judgeReplica(&loaded, string(before[0]) == "true", string(before[1]))
	if own := text(s.pid); own != string(before[5]) || own != processOf(conn.PgConn()) {
		r.pooled.Store(true)
		loaded.Refuse, loaded.Coverage = behindPooler, fence.Coverage{}
	}
	if loaded.Refuse != "" || !enough(&loaded) {
		return loaded, abandonCode(ctx, conn, nil)
	}
	there := loaded
	if loaded, err = runCode(ctx, conn, load, loaded); err == nil {
		return loaded, nil
	}
	if _, own := errors.AsType[*CodeError](err); !own && (errors.Is(err, ErrUnavailable) || errors.Is(err, ErrTimeout)) {
		return Loaded{}, err
	}
	there.Refuse = "the code that loads failed: " + err.Error()
	return there, nil
}
