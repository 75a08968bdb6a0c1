package pgload

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/freshet/freshet/internal/intent"
	"github.com/freshet/freshet/internal/wal"
	"github.com/freshet/freshet/mvcc"
)

var (
	// ErrReadOnly is the error of a message for a server that writes no log of its own.
	ErrReadOnly = errors.New("the database is a standby, and writes no log")
	// ErrMayNotEmit is the error of a message from a role that may not put any into the log.
	ErrMayNotEmit = errors.New("the role may not execute pg_logical_emit_message")
)

// emitSQL takes a JSON array of messages. A role that does not wait for its commits to be flushed waits for this one: what was
// said to be invalidated is not to be forgotten by a crash.
const emitSQL = `SELECT system_identifier::text, ` + wal.TimelineHexSQL + `, pg_catalog.pg_current_xact_id()::text,
	(SELECT count(pg_catalog.pg_logical_emit_message(true, '` + intent.Prefix + `', pg_catalog.convert_to(m::text, 'UTF8')))
	   FROM pg_catalog.json_array_elements($1::json) AS m),
	pg_catalog.set_config('synchronous_commit', CASE pg_catalog.current_setting('synchronous_commit')
		WHEN 'off' THEN 'local' ELSE pg_catalog.current_setting('synchronous_commit') END, true)
	FROM pg_catalog.pg_control_system()`

// Emit puts intents into the log, in a transaction of their own, and returns its token when it has committed.
func (l *Loader) Emit(ctx context.Context, messages []byte) (mvcc.Token, error) {
	const what = "put an intent into the log"
	conn, _, err := l.acquire(ctx)
	if err != nil {
		return mvcc.Token{}, err
	}
	defer conn.Release()
	rows, err := exchange(ctx, conn.Conn().PgConn(), statement{sql: emitSQL, args: [][]byte{messages}})
	if err != nil {
		return mvcc.Token{}, emitError(classify(ctx, what, err))
	}
	if len(rows[0]) != 1 {
		return mvcc.Token{}, errNothing
	}
	row := rows[0][0]
	token, err := mvcc.ParseToken(strings.Join([]string{string(row[0]), string(row[1]), string(row[2])}, "."))
	if err != nil {
		return mvcc.Token{}, fmt.Errorf("%s: %w", what, err)
	}
	return token, nil
}

func emitError(err error) error {
	const notAllowed, readOnly, wrongState = "42501", "25006", "55000"
	refused, ok := errors.AsType[*QueryError](err)
	switch {
	case ok && refused.Code == notAllowed:
		return fmt.Errorf("%w: %w", ErrMayNotEmit, err)
	case ok && (refused.Code == readOnly || refused.Code == wrongState):
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	}
	return err
}
