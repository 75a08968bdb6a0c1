package freshet

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Beginner begins a transaction: a pgx pool or connection does.
type Beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// InTx runs write in a transaction of its own and commits it as Commit does, together with the keys that write returns: for changes that no
// rule can derive, or for options of keys; none are needed where rules do. It returns the transaction's token, and Commit's errors. When write returns
// an error, or panics, the transaction is rolled back, and the error is the one that write returned. write must neither commit nor roll back.
func (c *Cache) InTx(ctx context.Context, db Beginner, write func(tx pgx.Tx) ([]Key, error)) (Token, error) {
	tx, err := db.Begin(ctx)
	if err != nil {
		return Token{}, fmt.Errorf("begin: %w", err)
	}
	if isSavepoint(tx) { // db is itself a transaction
		return Token{}, errors.Join(fmt.Errorf("begin: %w", ErrSavepoint), tx.Rollback(ctx))
	}
	return c.inTx(ctx, pgxTransaction{tx}, func() ([]Key, error) { return write(tx) })
}

// InTxSQL is InTx with database/sql, for any of its PostgreSQL drivers.
func (c *Cache) InTxSQL(ctx context.Context, db *sql.DB, write func(tx *sql.Tx) ([]Key, error)) (Token, error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return Token{}, fmt.Errorf("begin: %w", err)
	}
	return c.inTx(ctx, sqlTransaction{tx}, func() ([]Key, error) { return write(tx) })
}

// CommitSQL is Commit for a transaction of database/sql, of any of its PostgreSQL drivers. What an error of COMMIT means is read from its
// SQLSTATE, if the driver's errors tell it; where they do not, the error is ErrOutcomeUnknown.
func (c *Cache) CommitSQL(ctx context.Context, tx *sql.Tx, keys ...Key) (Token, error) {
	return c.commit(ctx, sqlTransaction{tx}, keys)
}

func (c *Cache) inTx(ctx context.Context, tx transaction, write func() ([]Key, error)) (Token, error) {
	written := false
	defer func() {
		if !written { // it panicked, or ended the goroutine
			_ = abandon(ctx, tx, nil)
		}
	}()
	keys, err := write()
	written = true
	if err != nil {
		_ = abandon(ctx, tx, err) // the connection's own trouble shows with whoever uses it next
		return Token{}, err
	}
	return c.commit(ctx, tx, keys)
}

// transaction is what committing needs of a driver's transaction.
type transaction interface {
	query(ctx context.Context, query string, args []any, into ...any) error
	commit(ctx context.Context) error
	rollback(ctx context.Context) error
	// over reports an error that says that the transaction was ended before, by whoever began it.
	over(err error) bool
	// aborted reports errors of commit after which the transaction is certainly not committed.
	aborted(err error) bool
}

type pgxTransaction struct{ tx pgx.Tx }

func (t pgxTransaction) query(ctx context.Context, query string, args []any, into ...any) error {
	return t.tx.QueryRow(ctx, query, args...).Scan(into...)
}

func (t pgxTransaction) commit(ctx context.Context) error   { return t.tx.Commit(ctx) }
func (t pgxTransaction) rollback(ctx context.Context) error { return t.tx.Rollback(ctx) }
func (pgxTransaction) over(err error) bool                  { return errors.Is(err, pgx.ErrTxClosed) }

// aborted reports errors of COMMIT after which the transaction is certainly not committed: the server refused it. A
// server that ends the session may have committed before. pgconn.SafeToRetry does not do: it also says so of a
// connection that was found closed while the answer to COMMIT was waited for.
func (pgxTransaction) aborted(err error) bool {
	if errors.Is(err, pgx.ErrTxCommitRollback) {
		return true
	}
	answer, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || answer.SeverityUnlocalized != "ERROR" {
		return false
	}
	return refused(answer.Code)
}

type sqlTransaction struct{ tx *sql.Tx }

func (t sqlTransaction) query(ctx context.Context, query string, args []any, into ...any) error {
	return t.tx.QueryRowContext(ctx, query, args...).Scan(into...)
}

func (t sqlTransaction) commit(context.Context) error   { return t.tx.Commit() }
func (t sqlTransaction) rollback(context.Context) error { return t.tx.Rollback() }
func (sqlTransaction) over(err error) bool              { return errors.Is(err, sql.ErrTxDone) }

// aborted goes by the SQLSTATE alone, since database/sql knows no severity: of the classes that a server may end a session with it is not
// known whether it committed before.
func (sqlTransaction) aborted(err error) bool {
	if errors.Is(err, pgx.ErrTxCommitRollback) || errors.Is(err, sql.ErrTxDone) {
		return true
	}
	answer, ok := errors.AsType[interface {
		error
		SQLState() string
	}](err)
	if !ok || answer.SQLState() == "" {
		return false
	}
	const operator, system, internal = "57", "58", "XX"
	code := answer.SQLState()
	return refused(code) && !strings.HasPrefix(code, operator) && !strings.HasPrefix(code, system) && !strings.HasPrefix(code, internal)
}

// refused reports the code of an answer that tells that COMMIT was not done, if it is an error that leaves the session standing.
func refused(code string) bool {
	const connection, completionUnknown = "08", "40003"
	return !strings.HasPrefix(code, connection) && code != completionUnknown
}
