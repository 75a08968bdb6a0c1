// Package pggate asks the primary what has become visible there, and proves that it is still the same database.
//
// The log delivers a commit before other sessions see it (synchronous replication, or mere preemption, lies between).
// A [Gate] is the one SQL connection on which the daemon takes the snapshots that decide when a delivered transaction
// may be applied (D2), makes its term, and watches for crash recovery (4.6).
package pggate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/pgurl"
	"github.com/freshet/freshet/internal/wal"
	"github.com/freshet/freshet/mvcc"
)

// ErrStandby says that the server is a standby, where snapshots do not tell what is visible.
var ErrStandby = errors.New("the server is a standby")

// answerTimeout is for whatever a gate asks, which takes a server no time: an answer that is not there by then comes over a
// connection that leads nowhere, and nothing would be confirmed for as long as TCP hopes.
const answerTimeout = 10 * time.Second

// Gate is one SQL connection to the primary. It may be used by several goroutines, one call at a time. After a
// connection error, and after a call whose context ended, it stays broken: open another.
type Gate struct {
	logger   *slog.Logger
	identity Identity
	pages    wal.Pages

	mu   sync.Mutex
	conn *pgx.Conn
}

// Open connects and shakes hands. A standby is refused with ErrStandby.
func Open(ctx context.Context, url string, logger *slog.Logger) (*Gate, error) {
	config, err := pgurl.Session(url, map[string]string{"search_path": "pg_catalog"})
	if err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect to the primary: %w", err)
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	g := &Gate{logger: logger, conn: conn}
	if err := g.shakeHands(ctx); err != nil {
		return nil, errors.Join(err, g.Close(ctx))
	}
	return g, nil
}

func (g *Gate) shakeHands(ctx context.Context) (err error) {
	ctx, done := g.turn(ctx)
	defer done()
	if g.identity, err = readIdentity(ctx, g.conn); err != nil {
		return err
	}
	if g.pages, err = readPages(ctx, g.conn); err != nil {
		return err
	}
	if _, err := g.conn.Prepare(ctx, snapshotStatement, snapshotQuery); err != nil {
		return fmt.Errorf("prepare to take snapshots: %w", err)
	}
	return nil
}

// turn takes the connection for one question, which has to be answered in time.
func (g *Gate) turn(ctx context.Context) (timed context.Context, done func()) {
	g.mu.Lock()
	timed, cancel := context.WithTimeout(ctx, answerTimeout)
	return timed, func() {
		cancel()
		g.mu.Unlock()
	}
}

const (
	snapshotStatement = "freshet_gate"
	// The snapshot is taken before the statement runs, and the position is read while it runs: after it (D6).
	snapshotQuery = `SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text`
)

// Snapshot tells, in one round trip, what is visible on the primary now, and a position of the log read after that:
// whatever is visible in the snapshot committed before the position.
func (g *Gate) Snapshot(ctx context.Context) (mvcc.Snapshot, mvcc.LSN, error) {
	ctx, done := g.turn(ctx)
	defer done()
	var snapshotText, positionText string
	if err := g.conn.QueryRow(ctx, snapshotStatement).Scan(&snapshotText, &positionText); err != nil {
		return mvcc.Snapshot{}, 0, fmt.Errorf("take snapshot: %w", err)
	}
	snapshot, err := mvcc.ParseSnapshot(snapshotText)
	if err != nil {
		return mvcc.Snapshot{}, 0, fmt.Errorf("take snapshot: %w", err)
	}
	position, err := mvcc.ParseLSN(positionText)
	if err != nil {
		return mvcc.Snapshot{}, 0, fmt.Errorf("take snapshot: %w", err)
	}
	return snapshot, g.pages.RecordEnd(position), nil
}

// LookUp runs the query of a LOOKUP rule for rows of the columns that it takes, given column by column, and returns at most so many
// rows, with nil for NULL, and a position of the log read after that: whatever the query saw committed before the position. refused
// says why the database does not answer it: for want of a table, a column, or a privilege, say.
func (g *Gate) LookUp(ctx context.Context, query string, columns [][]string, most int) (rows [][]*string, read mvcc.LSN, refused string, err error) {
	ctx, done := g.turn(ctx)
	defer done()
	var batch pgconn.Batch
	// For the transaction that the batch is. Somebody's lock on a table, or a query that takes too long, must not hold up what other
	// tables' changes affect: the server says no, well before answerTimeout has the connection end, and everything begin anew.
	batch.ExecParams(`SELECT set_config('lock_timeout', '`+lookUpLock+`', true), set_config('statement_timeout', '`+lookUpTime+`', true)`,
		nil, nil, nil, nil)
	args := make([][]byte, 0, len(columns)+1)
	for _, texts := range columns {
		arg, err := g.conn.TypeMap().Encode(pgtype.TextArrayOID, pgtype.TextFormatCode, texts, nil)
		if err != nil {
			return nil, 0, "", fmt.Errorf("look up keys: %w", err)
		}
		args = append(args, arg)
	}
	limited := fmt.Sprintf("SELECT * FROM (%s) AS freshet_k LIMIT $%d::int8", query, len(columns)+1)
	batch.ExecParams(limited, append(args, strconv.AppendInt(nil, int64(most), 10)), nil, nil, nil)
	batch.ExecParams(`SELECT pg_current_wal_insert_lsn()::text`, nil, nil, nil, nil)
	var answers [3][][]*string
	results := g.conn.PgConn().ExecBatch(ctx, &batch)
	for i := 0; results.NextResult(); i++ {
		for reader := results.ResultReader(); reader.NextRow(); {
			texts := make([]*string, len(reader.Values()))
			for n, value := range reader.Values() {
				if value != nil {
					text := string(value)
					texts[n] = &text
				}
			}
			answers[i] = append(answers[i], texts)
		}
	}
	err = results.Close()
	if server, ok := errors.AsType[*pgconn.PgError](err); ok && server.SeverityUnlocalized == "ERROR" {
		return nil, 0, "the database refuses the look-up: " + server.Message, nil
	}
	if err == nil {
		read, err = mvcc.ParseLSN(*answers[2][0][0])
	}
	if err != nil {
		return nil, 0, "", fmt.Errorf("look up keys: %w", err)
	}
	return answers[1], g.pages.RecordEnd(read), "", nil
}

// lookUpLock is how long a look-up waits for somebody's lock on a table.
const lookUpLock = "250ms"

// lookUpTime is how long a look-up may take.
const lookUpTime = "2s"

// Term makes the term of a daemon that has just acquired the slot: the timeline, and the id of a transaction that is
// committed and flushed here and now. Waiting for a standby would add nothing to that order, and could hang.
func (g *Gate) Term(ctx context.Context) (fence.Term, error) {
	ctx, done := g.turn(ctx)
	defer done()
	var (
		xidText  string
		timeline uint32
	)
	err := pgx.BeginFunc(ctx, g.conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL synchronous_commit = local`); err != nil {
			return err
		}
		// The message makes the transaction one that the log has, and whose commit therefore waits for the disk.
		const query = `
SELECT pg_logical_emit_message(true, 'freshet.term', 'term ' || pg_current_xact_id()::text)::text,
       pg_current_xact_id()::text, ` + wal.TimelineSQL
		var position string
		return tx.QueryRow(ctx, query).Scan(&position, &xidText, &timeline)
	})
	if err != nil {
		return "", fmt.Errorf("make term: %w", err)
	}
	x, err := mvcc.ParseXID(xidText)
	if err != nil {
		return "", fmt.Errorf("make term: %w", err)
	}
	return fence.NewTerm(timeline, x), nil
}

// Idle is for how long the server's process of another session, of the same role, has had nothing to do; 0 while it is at
// work, and an error when there is no such process.
func (g *Gate) Idle(ctx context.Context, pid uint32) (time.Duration, error) {
	ctx, done := g.turn(ctx)
	defer done()
	const query = `
SELECT CASE WHEN state LIKE 'idle%' THEN extract(epoch FROM clock_timestamp() - state_change)::float8 ELSE 0 END
  FROM pg_stat_activity WHERE pid = $1`
	var seconds float64
	if err := g.conn.QueryRow(ctx, query, int32(pid)).Scan(&seconds); err != nil { //nolint:gosec // a process id
		return 0, fmt.Errorf("look at process %d: %w", pid, err)
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

// Close ends the connection.
func (g *Gate) Close(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.conn.Close(ctx); err != nil {
		return fmt.Errorf("close connection to the primary: %w", err)
	}
	return nil
}
