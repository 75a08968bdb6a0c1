package pggate

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/wal"
)

func readPages(ctx context.Context, conn *pgx.Conn) (p wal.Pages, err error) {
	if err := conn.QueryRow(ctx, `SELECT `+wal.PageSQL+`, `+wal.SegmentSQL).Scan(&p.Page, &p.Segment); err != nil {
		return wal.Pages{}, fmt.Errorf("read the log's page size: %w", err)
	}
	return p, nil
}
