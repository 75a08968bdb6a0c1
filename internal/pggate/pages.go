package pggate

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/mvcc"
)

// pages are the units of the write-ahead log, in bytes.
type pages struct{ page, segment mvcc.LSN }

func readPages(ctx context.Context, conn *pgx.Conn) (p pages, err error) {
	const query = `SELECT current_setting('wal_block_size')::bigint, pg_size_bytes(current_setting('wal_segment_size'))`
	if err := conn.QueryRow(ctx, query).Scan(&p.page, &p.segment); err != nil {
		return pages{}, fmt.Errorf("read the log's page size: %w", err)
	}
	return p, nil
}

// The headers of a page of the log, the long one on the first page of a segment.
const shortHeader, longHeader = 24, 40

// recordEnd turns a position at which the next record will begin into the one where the last has ended. They differ
// when the last record fills its page: the next one begins behind the header of a page that nobody reads before it has a
// record, so that a database which then falls silent would never be seen to have come that far. No record ends between
// the two.
func (p pages) recordEnd(next mvcc.LSN) mvcc.LSN {
	switch {
	case p.page == 0:
	case next%p.segment == longHeader:
		return next - longHeader
	case next%p.page == shortHeader && next%p.segment != shortHeader:
		return next - shortHeader
	}
	return next
}
