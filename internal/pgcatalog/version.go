package pgcatalog

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/freshet/freshet/internal/rule"
)

// verifyRowVersion asks the database for its reading of the query that has row versions.
func verifyRowVersion(ctx context.Context, conn *pgx.Conn, e *rule.Entry) error {
	v := e.RowVersion
	if v == nil {
		return nil
	}
	if v.Physical() {
		const heaps = `SELECT bool_and(m.amname = 'heap') FROM pg_class c LEFT JOIN pg_am m ON m.oid = c.relam WHERE c.oid = ANY($1::text[]::regclass[])`
		var all bool
		if err := conn.QueryRow(ctx, heaps, v.Tables).Scan(&all); err != nil {
			return fmt.Errorf("ask how the tables of entry %s are stored: %w", e.Name, err)
		}
		if !all {
			e.RowVersion = nil
			return nil
		}
	}
	statement, err := conn.PgConn().Prepare(ctx, "", v.SQL, nil)
	if err != nil {
		return fmt.Errorf("prepare the query of entry %s with row_version: %w", e.Name, err)
	}
	var names []string
	types := map[string]uint32{}
	for _, f := range statement.Fields {
		names = append(names, f.Name)
		types[f.Name] = f.DataTypeOID
	}
	want := append(slices.Clone(v.Columns), "freshet_version")
	if v.Physical() {
		want = append(want, "freshet_xids")
	}
	if !slices.Equal(names, want) || types["freshet_version"] != pgtype.TextOID || v.Physical() && types["freshet_xids"] != pgtype.Int8ArrayOID {
		return &DisagreementError{Entry: e.Name, Problem: fmt.Sprintf("with row versions it returns the columns %q, not %q", names, want)}
	}
	return nil
}
