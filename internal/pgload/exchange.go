package pgload

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet/freshet/internal/keytext"
)

// statement is one of several that are sent in one go. Arguments are the text of whatever type the parameter has; nil
// is NULL.
type statement struct {
	sql  string
	args [][]byte
}

func arguments(args []keytext.Arg) [][]byte {
	values := make([][]byte, len(args))
	for i, a := range args {
		if !a.Null {
			values[i] = []byte(a.Text)
		}
	}
	return values
}

// exchange sends statements in one go and returns the rows of each, as text. None of them gets a name on the server, and
// nothing is asked about them before: behind a transaction pooler the server may be another one by then.
//
// An error ends the exchange; a transaction that one of the statements began is rolled back.
func exchange(ctx context.Context, conn *pgconn.PgConn, statements ...statement) (rows [][][][]byte, err error) {
	pipeline := conn.StartPipeline(ctx)
	for _, s := range statements {
		pipeline.SendQueryParams(s.sql, s.args, nil, nil, nil)
	}
	err = pipeline.Sync()
	for err == nil && len(rows) < len(statements) {
		var results any
		if results, err = pipeline.GetResults(); err != nil {
			break
		}
		reader, ok := results.(*pgconn.ResultReader)
		if !ok {
			err = errors.New("the server answers out of turn")
			break
		}
		result := reader.Read()
		rows, err = append(rows, result.Rows), result.Err
	}
	if closing := pipeline.Close(); err == nil {
		err = closing
	}
	if err == nil {
		return rows, nil
	}
	rollBack(ctx, conn)
	return nil, err
}

// rollBackWithin bounds the end of a transaction that came to nothing: whoever loads keeps its place until then.
const rollBackWithin = time.Second

// rollBack ends a transaction that is open, or else the pool would close the connection; so it does when that takes too long.
func rollBack(ctx context.Context, conn *pgconn.PgConn) {
	if conn.IsClosed() || conn.TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollBackWithin)
	defer cancel()
	_ = conn.Exec(ctx, "ROLLBACK").Close()
}
