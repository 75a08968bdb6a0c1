package pgload

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
)

type ctxWatcher = ctxwatch.Handler

var (
	// ErrUnavailable wraps every error of a database that cannot be reached or does not serve at present.
	ErrUnavailable = errors.New("the database is unavailable")
	// ErrTimeout wraps the error of a load that took longer than its context allows.
	ErrTimeout = errors.New("the load took too long")
	// ErrBusy wraps the error of a load that had to wait for a connection for too long, since all that the pool may have are in use. It
	// comes with ErrTimeout, and says nothing of the database.
	ErrBusy = errors.New("every connection that the pool may have is in use (pool_max_conns)")
	// ErrManyRows is the error of a query that returned several rows where the entry expects at most one.
	ErrManyRows = errors.New("the query returned more than one row; an entry that lists rows needs result: many")
)

// QueryError is the server's answer to a statement that it could not run.
type QueryError struct {
	Code string // SQLSTATE
	Err  error
}

func (e *QueryError) Error() string { return e.Err.Error() }

// Unwrap returns the error of the driver.
func (e *QueryError) Unwrap() error { return e.Err }

// classify tells apart who failed: the caller's patience, the database, or the statement.
func classify(ctx context.Context, verb string, err error) error {
	var (
		answer  *pgconn.PgError
		connect *pgconn.ConnectError
	)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w: %w", verb, ErrTimeout, err)
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", verb, errors.Join(ctx.Err(), err))
	case errors.As(err, &connect):
		return fmt.Errorf("%s: %w: %w", verb, ErrUnavailable, err)
	case errors.As(err, &answer):
		if unavailable(answer.Code) {
			return fmt.Errorf("%s: %w: %w", verb, ErrUnavailable, err)
		}
		return &QueryError{Code: answer.Code, Err: fmt.Errorf("%s: %w", verb, err)}
	case isTransport(err):
		return fmt.Errorf("%s: %w: %w", verb, ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", verb, err)
}

// unconnected classifies the error of a connection that could not be had: whatever it was, a pool that its owner has closed, say, or whose own
// code refuses the connection, there is no database.
func (l *Loader) unconnected(ctx context.Context, err error) error {
	err = classify(ctx, "connect", err)
	if stat := l.pool.Stat(); errors.Is(err, ErrTimeout) && stat.AcquiredConns() >= stat.MaxConns() {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	var answer *QueryError
	if ctx.Err() != nil || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrTimeout) || errors.As(err, &answer) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// unavailable reports error codes that say nothing about the statement: connection exceptions, lack of resources, a
// server that stops, starts or recovers, a standby's conflict with recovery.
func unavailable(code string) bool {
	for _, prefix := range []string{"08", "53", "57P01", "57P02", "57P03", "58", "40001"} {
		if strings.HasPrefix(code, prefix) {
			return true
		}
	}
	return false
}
