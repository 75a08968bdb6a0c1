package pgload

import (
	"context"
	"fmt"

	"github.com/freshet/freshet/mvcc"
)

// Position is where the primary's log ends now. Whatever a statement that is over has seen committed before it. It
// fails on a standby.
func (l *Loader) Position(ctx context.Context) (mvcc.LSN, error) {
	var text string
	err := l.pool.QueryRow(ctx, "SELECT pg_catalog.pg_current_wal_insert_lsn()::text", l.mode...).Scan(&text)
	if err != nil {
		return 0, classify(ctx, "ask for the end of the log", err)
	}
	position, err := mvcc.ParseLSN(text)
	if err != nil {
		return 0, fmt.Errorf("ask for the end of the log: %w", err)
	}
	return position, nil
}
