package pggate

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/mvcc"
)

// Pin is a transaction that Quiesce waits for.
type Pin struct {
	PID   int32     // of the session; 0 for a prepared transaction
	XID   mvcc.XID  // top-level
	Since time.Time // when it began; zero where the role may not see it
	Query string    // its latest statement, shortened, or the name of the prepared transaction; empty where hidden
}

const (
	firstPoll    = 5 * time.Millisecond
	longestPoll  = 250 * time.Millisecond
	reportEvery  = time.Second
	firstReport  = 100 * time.Millisecond
	shownOfQuery = 120
)

// Quiesce waits until every transaction that could have been running at since is over, and returns a snapshot that
// proves it: its Xmin is at least since's Xmax (D8). While it waits it tells progress, about once a second, who is in
// the way; progress may be nil. The gate stays usable by others meanwhile.
func (g *Gate) Quiesce(ctx context.Context, since mvcc.Snapshot, progress func(pinnedBy []Pin)) (mvcc.Snapshot, error) {
	poll, report := firstPoll, time.Now().Add(firstReport)
	timer := time.NewTimer(poll)
	defer timer.Stop()
	for {
		now, _, err := g.Snapshot(ctx)
		if err != nil {
			return mvcc.Snapshot{}, fmt.Errorf("wait for running transactions: %w", err)
		}
		if now.Xmin >= since.Xmax {
			return now, nil
		}
		if progress != nil && time.Now().After(report) {
			pins, err := g.pins(ctx, now, since)
			if err != nil {
				return mvcc.Snapshot{}, fmt.Errorf("look who is in the way: %w", err)
			}
			progress(pins)
			report = time.Now().Add(reportEvery)
			g.logger.DebugContext(ctx, "waiting for running transactions", slog.String("xid", now.Xmin.String()))
		}
		timer.Reset(poll)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return mvcc.Snapshot{}, fmt.Errorf("wait for running transactions: %w", context.Cause(ctx))
		}
		poll = min(2*poll, longestPoll)
	}
}

// Running tells which transactions that have an id are open now, in any database of the cluster.
func (g *Gate) Running(ctx context.Context) ([]Pin, error) {
	now, _, err := g.Snapshot(ctx)
	if err == nil && len(now.Xip) == 0 {
		return nil, nil
	}
	var pins []Pin
	if err == nil {
		pins, err = g.pins(ctx, now, now)
	}
	if err != nil {
		return nil, fmt.Errorf("look which transactions are open: %w", err)
	}
	return pins, nil
}

// pins finds the sessions behind the ids that now still waits for, below since's Xmax. Every transaction holds a lock
// on its own id, which any role may see.
func (g *Gate) pins(ctx context.Context, now, since mvcc.Snapshot) ([]Pin, error) {
	ctx, done := g.turn(ctx)
	defer done()
	const query = `
SELECT coalesce(l.pid, 0), l.transactionid::text, coalesce(a.xact_start, p.prepared),
       coalesce(left(a.query, $1), 'prepared transaction ' || p.gid, '')
  FROM pg_locks l
  LEFT JOIN pg_stat_activity a ON a.pid = l.pid
  LEFT JOIN pg_prepared_xacts p ON p.transaction = l.transactionid
 WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted`
	rows, err := g.conn.Query(ctx, query, shownOfQuery)
	if err != nil {
		return nil, err
	}
	var (
		pins  []Pin
		pid   int32
		xid   string
		start *time.Time
		text  string
	)
	_, err = pgx.ForEachRow(rows, []any{&pid, &xid, &start, &text}, func() error {
		low, err := strconv.ParseUint(xid, 10, 32)
		if err != nil {
			return fmt.Errorf("xid %q: %w", xid, err)
		}
		full := mvcc.Extend(uint32(low), now.Xmax)
		// Ids of subtransactions are locked too, and are in no snapshot.
		if _, running := slices.BinarySearch(now.Xip, full); !running || full >= since.Xmax {
			return nil
		}
		pin := Pin{PID: pid, XID: full, Query: text}
		if start != nil {
			pin.Since = *start
		}
		pins = append(pins, pin)
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(pins, func(a, b Pin) int { return int(int64(a.XID) - int64(b.XID)) }) //nolint:gosec // ids of one cluster, close together
	return pins, nil
}
