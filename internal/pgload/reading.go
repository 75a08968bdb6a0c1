package pgload

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// CodeError is an error of the code that loads: whatever it is about, another service, another database, the code itself, it says
// nothing of the database that the load was sent to, which has answered all that the code asked it.
type CodeError struct{ Err error }

func (e *CodeError) Error() string { return "load: " + e.Err.Error() }

// Unwrap returns what the code returned, or what it did wrong.
func (e *CodeError) Unwrap() error { return e.Err }

// What code can do wrong with the Querier that it is given. Each fails its load, also where the code passes over it.
var (
	errTogether = errors.New("q runs one statement at a time: read its rows to their end, or close them, before the next one, and let one goroutine " +
		"at a time use q")
	errStatementLeft = errors.New("the code that loads returned while another goroutine was in a statement of q: wait for it")
	errTransaction   = errors.New("the code that loads ended its transaction, which is not its own: leave COMMIT, ROLLBACK and BEGIN out of what q is asked")
	errCutOff        = errors.New("a statement of q was cut off by the context that the code gave it, and the connection with it: return its error, " +
		"and give it the time that it needs")
	errLoadOver = errors.New("the load that q was given for is over")
)

// reading keeps code that loads to reading: the connection is not its own. It remembers what the code's statements say of the database, since
// what the code returns need not come from them.
type reading struct {
	conn    *pgx.Conn
	wrong   atomic.Pointer[error] // what the code did wrong first
	severed atomic.Bool           // the connection was closed to end the wait of a goroutine that the code left behind

	mu     sync.Mutex // held while a statement is sent, or something of its rows is read
	over   bool       // the load is
	open   *codeRows  // given out last, until they are closed
	ended  bool       // the transaction is no more
	left   error      // of rows that the code left open
	answer *pgconn.PgError
	silent error // the first error of a statement that the database did not answer, or answered by not serving
	cut    error // the same of one that its own context took the connection from
}

func (q *reading) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if !q.mu.TryLock() {
		q.blame(errTogether)
		return refusedRows{errTogether}, errTogether
	}
	defer q.mu.Unlock()
	if err := q.refuses(); err != nil {
		return refusedRows{err}, err
	}
	inner, err := q.conn.Query(ctx, sql, args...)
	r := &codeRows{Rows: inner, of: q, ctx: ctx, sql: sql}
	if err != nil {
		q.heard(ctx, err)
		return r, err
	}
	q.open = r
	return r, nil
}

func (q *reading) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, _ := q.Query(ctx, sql, args...) // the error is that of the rows too; Scan closes them
	return codeRow{rows}
}

// refuses says why no statement may be sent now.
func (q *reading) refuses() error {
	switch {
	case q.over:
		return errLoadOver
	case q.ended:
		return errTransaction
	case q.open != nil:
		q.blame(errTogether)
		return errTogether
	}
	return nil
}

func (q *reading) blame(err error) { q.wrong.CompareAndSwap(nil, &err) }

// heard remembers what the end of a statement says.
func (q *reading) heard(ctx context.Context, err error) {
	var (
		answer *pgconn.PgError
		scan   pgx.ScanArgError
	)
	switch {
	case q.severed.Load(), errors.As(err, &scan): // of our own doing, or of the type that was to take the value
	case errors.As(err, &answer):
		if q.answer == nil {
			q.answer = answer
		}
		if q.silent == nil && unavailable(answer.Code) {
			q.silent = err
		}
	case !q.conn.IsClosed(): // it was not sent, since its arguments do not fit, say
	case ctx.Err() != nil:
		q.cut = err
	case q.silent == nil:
		q.silent = err
	}
}

// closed takes note of rows that are.
func (q *reading) closed(r *codeRows) {
	if q.open != r {
		return
	}
	q.open = nil
	if err := r.Rows.Err(); err != nil {
		q.heard(r.ctx, err)
	}
	if q.conn.IsClosed() {
		return
	}
	tag := r.Rows.CommandTag().String()
	chained := tag == "COMMIT" || tag == "ROLLBACK" && strings.Contains(strings.ToUpper(r.sql), "CHAIN") // ROLLBACK TO a savepoint has that tag too
	if chained || q.conn.PgConn().TxStatus() == 'I' {
		q.ended = true
		q.blame(errTransaction)
	}
}

// sever closes the connection under whoever waits for something on it. The pool makes another one.
func (q *reading) sever() {
	q.severed.Store(true)
	_ = q.conn.PgConn().Conn().Close()
}

// end ends the use of the connection: the code has returned, and what it has left open is closed. ctx is the load's; the code may have given a
// statement another one.
func (q *reading) end(ctx context.Context) {
	if !q.mu.TryLock() {
		q.blame(errStatementLeft)
		q.sever()
		q.mu.Lock()
	}
	defer q.mu.Unlock()
	if q.over {
		return
	}
	q.over = true
	if r := q.open; r != nil {
		r.left = true
		done := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			defer close(done)
			q.sever()
		})
		r.Rows.Close()
		if !stop() {
			<-done
		}
		q.closed(r)
		q.left = r.Rows.Err()
	}
}

// verdict is the load's error, once it is over: that of the code, or what it passed over.
func (q *reading) verdict(ctx context.Context, err error) error {
	if err == nil {
		err = q.passedOver()
	}
	answer, answered := errors.AsType[*pgconn.PgError](err)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return classify(ctx, "load", err)
	case q.silent != nil && !errors.Is(err, q.silent):
		return fmt.Errorf("load: %w: %w: after %w", ErrUnavailable, err, q.silent)
	case q.silent != nil, q.conn.IsClosed() && q.cut == nil && !q.severed.Load():
		return fmt.Errorf("load: %w: %w", ErrUnavailable, err)
	case answered && answer == q.answer:
		return &QueryError{Code: answer.Code, Err: fmt.Errorf("load: %w", err)}
	}
	return &CodeError{err}
}

// passedOver is why the value of code that has returned without an error cannot be used all the same.
func (q *reading) passedOver() error {
	wrong := q.wrong.Load()
	switch {
	case wrong != nil:
		return *wrong
	case q.left != nil && q.cut == nil:
		return fmt.Errorf("rows that the code left open: %w", q.left)
	case q.conn.IsClosed() && q.cut != nil:
		return fmt.Errorf("%w: %w", errCutOff, q.cut)
	case q.conn.IsClosed():
		return errors.New("the connection is closed")
	case q.conn.PgConn().TxStatus() == 'E' && q.answer != nil:
		return fmt.Errorf("%w, for the code passed over the failure of a statement: %w", pgx.ErrTxCommitRollback, q.answer)
	case q.conn.PgConn().TxStatus() == 'I':
		return errTransaction
	}
	return nil
}

// codeRows are rows of code that loads. A goroutine that outlives the load can do them no harm, nor the connection.
type codeRows struct {
	pgx.Rows
	of   *reading
	ctx  context.Context //nolint:containedctx // of the statement, to tell whose patience was over
	sql  string
	left bool // they were open when the load was over
}

func (r *codeRows) Next() bool {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	if r.Rows.Next() {
		return true
	}
	r.of.closed(r)
	return false
}

func (r *codeRows) Scan(dest ...any) error {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	if r.left {
		return errLoadOver
	}
	err := r.Rows.Scan(dest...)
	if err != nil { // which closes them
		r.of.closed(r)
	}
	return err
}

func (r *codeRows) Values() ([]any, error) {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	if r.left {
		return nil, errLoadOver
	}
	values, err := r.Rows.Values()
	if err != nil {
		r.of.closed(r)
	}
	return values, err
}

func (r *codeRows) RawValues() [][]byte {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	return r.Rows.RawValues()
}

func (r *codeRows) Close() {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	r.Rows.Close()
	r.of.closed(r)
}

func (r *codeRows) Err() error {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	if r.left {
		return errLoadOver
	}
	return r.Rows.Err()
}

func (r *codeRows) CommandTag() pgconn.CommandTag {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	return r.Rows.CommandTag()
}

// Conn is nil once the load is over: the connection is somebody else's.
func (r *codeRows) Conn() *pgx.Conn {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	if r.of.over {
		return nil
	}
	return r.Rows.Conn()
}

// codeRow is the only row that is wanted, as pgx reads it.
type codeRow struct{ rows pgx.Rows }

func (r codeRow) Scan(dest ...any) error {
	if err := r.rows.Err(); err != nil {
		return err
	}
	for _, d := range dest {
		if _, ok := d.(*pgtype.DriverBytes); ok {
			r.rows.Close()
			return errors.New("cannot scan into *pgtype.DriverBytes from QueryRow")
		}
	}
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	_ = r.rows.Scan(dest...) // its error is that of the rows
	r.rows.Close()
	return r.rows.Err()
}

// refusedRows are those of a statement that was not sent.
type refusedRows struct{ err error }

func (refusedRows) Close()                                       {}
func (r refusedRows) Err() error                                 { return r.err }
func (refusedRows) CommandTag() (tag pgconn.CommandTag)          { return tag }
func (refusedRows) FieldDescriptions() []pgconn.FieldDescription { return nil }
func (refusedRows) Next() bool                                   { return false }
func (r refusedRows) Scan(...any) error                          { return r.err }
func (r refusedRows) Values() ([]any, error)                     { return nil, r.err }
func (refusedRows) RawValues() [][]byte                          { return nil }
func (refusedRows) Conn() *pgx.Conn                              { return nil }
func (refusedRows) TypeMap() *pgtype.Map                         { return nil }
