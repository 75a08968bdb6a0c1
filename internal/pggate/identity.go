package pggate

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/wal"
)

// Identity says which database this is. Transaction ids and log positions mean something only within one.
type Identity struct {
	SystemID      string // of the cluster and of all its physical copies
	Timeline      uint32 // moves with each promotion
	Database      string
	DatabaseOID   uint32 // of all databases of the cluster only this one's log is followed
	ServerVersion int    // server_version_num, 150018 for 15.18
	Server        string // which running server, for comparison only (wal.ServerSQL)
}

func readIdentity(ctx context.Context, conn *pgx.Conn) (Identity, error) {
	var (
		id      Identity
		standby bool
	)
	const query = `
SELECT pg_is_in_recovery(), (SELECT system_identifier::text FROM pg_control_system()), current_database()::text,
       (SELECT oid FROM pg_database WHERE datname = current_database()),
       current_setting('server_version_num')::int,
       CASE WHEN pg_is_in_recovery() THEN 0 ELSE ` + wal.TimelineSQL + ` END, ` + wal.ServerSQL
	err := conn.QueryRow(ctx, query).Scan(&standby, &id.SystemID, &id.Database, &id.DatabaseOID, &id.ServerVersion, &id.Timeline, &id.Server)
	if err != nil {
		return Identity{}, fmt.Errorf("read identity: %w", err)
	}
	if standby {
		return Identity{}, fmt.Errorf("read identity: %w", ErrStandby)
	}
	return id, nil
}

// Identity is what Open found.
func (g *Gate) Identity() Identity { return g.identity }
