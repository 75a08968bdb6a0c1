package pggate

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Identity says which database this is. Transaction ids and log positions mean something only within one.
type Identity struct {
	SystemID      string // of the cluster and of all its physical copies
	Timeline      uint32 // moves with each promotion
	Database      string
	ServerVersion int // server_version_num, 150018 for 15.18
}

// IdentityError says that a connection leads to another database, or to another life of the same.
type IdentityError struct {
	Was, Is Identity
}

// Error shows both.
func (e *IdentityError) Error() string {
	return fmt.Sprintf("the database changed: it was system %s, timeline %d, database %q, and is system %s, timeline %d, database %q",
		e.Was.SystemID, e.Was.Timeline, e.Was.Database, e.Is.SystemID, e.Is.Timeline, e.Is.Database)
}

// timelineExpression reads the timeline that the primary writes on; control data lags behind a promotion.
const timelineExpression = `('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint`

func readIdentity(ctx context.Context, conn *pgx.Conn) (Identity, error) {
	var (
		id      Identity
		standby bool
	)
	const query = `
SELECT pg_is_in_recovery(), (SELECT system_identifier::text FROM pg_control_system()), current_database()::text,
       current_setting('server_version_num')::int,
       CASE WHEN pg_is_in_recovery() THEN 0 ELSE ` + timelineExpression + ` END`
	err := conn.QueryRow(ctx, query).Scan(&standby, &id.SystemID, &id.Database, &id.ServerVersion, &id.Timeline)
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

// Check asks again and compares with what Open found: an *IdentityError when that differs, ErrStandby when the server
// became one.
func (g *Gate) Check(ctx context.Context) error {
	ctx, done := g.turn(ctx)
	defer done()
	now, err := readIdentity(ctx, g.conn)
	if err != nil {
		return err
	}
	return g.identity.Compare(now)
}

// Compare returns an *IdentityError unless other is the same life of the same database. The server's version may
// differ: a minor upgrade changes nothing.
func (i Identity) Compare(other Identity) error {
	if i.SystemID != other.SystemID || i.Timeline != other.Timeline || i.Database != other.Database {
		return &IdentityError{Was: i, Is: other}
	}
	return nil
}
