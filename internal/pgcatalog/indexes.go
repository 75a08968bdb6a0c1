package pgcatalog

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/ddl"
	"github.com/freshet/freshet/internal/schema"
)

// Indexes reads the unique indexes of all tables, those that are not valid included. An index of expressions has no
// columns here.
func Indexes(ctx context.Context, conn *pgx.Conn) (map[schema.Name][]schema.Index, error) {
	const query = `
SELECT n.nspname::text, c.relname::text, i.relname::text,
       CASE WHEN x.indexprs IS NULL THEN ARRAY(
           SELECT a.attname::text FROM unnest(x.indkey::int2[]) WITH ORDINALITY k(num, place)
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.num
            WHERE k.place <= x.indnkeyatts ORDER BY k.place) ELSE '{}' END,
       x.indisprimary, x.indisreplident, x.indisvalid AND x.indisready, x.indimmediate, x.indpred IS NOT NULL
  FROM pg_index x JOIN pg_class c ON c.oid = x.indrelid JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE x.indisunique AND c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
   AND n.nspname NOT LIKE 'pg\_toast%' AND n.nspname NOT LIKE 'pg\_temp\_%'
 ORDER BY 1, 2, x.indisprimary DESC, 3`
	all := map[schema.Name][]schema.Index{}
	rows, err := conn.Query(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("read indexes: %w", err)
	}
	var (
		table schema.Name
		x     schema.Index
	)
	into := []any{&table.Schema, &table.Name, &x.Name, &x.Columns, &x.Primary, &x.Identity, &x.Valid, &x.Immediate, &x.Partial}
	if _, err = pgx.ForEachRow(rows, into, func() error {
		all[table] = append(all[table], x)
		x.Columns = nil // the next row gets a slice of its own
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read indexes: %w", err)
	}
	return all, nil
}

// Statistics are what the database has gathered of a table; only of what the role may read.
type Statistics struct {
	Rows     float64            // -1: never gathered
	Width    map[string]int     // bytes that a column's value takes on average
	Distinct map[string]float64 // how many values a column has; absent: never gathered
}

// Stats reads the statistics of tables. A type of a fixed length has its width without any; for others PostgreSQL's own
// guess stands in where nothing was gathered.
func Stats(ctx context.Context, conn *pgx.Conn, tables []schema.Name) (map[schema.Name]Statistics, error) {
	const query = `
SELECT n.nspname::text, c.relname::text, c.reltuples::float8, a.attname::text,
       CASE WHEN a.attlen > 0 THEN a.attlen ELSE coalesce(s.avg_width, 32) END::int,
       CASE WHEN s.n_distinct >= 0 THEN s.n_distinct WHEN c.reltuples >= 0 THEN -s.n_distinct * c.reltuples END::float8
  FROM unnest($1::text[], $2::text[]) t (nspname, relname)
  JOIN pg_namespace n ON n.nspname = t.nspname JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.relname
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN LATERAL (
       SELECT p.avg_width, p.n_distinct FROM pg_stats p
        WHERE p.schemaname = n.nspname AND p.tablename = c.relname AND p.attname = a.attname ORDER BY p.inherited DESC LIMIT 1) s ON true`
	schemas, names := columnsOf(tables)
	rows, err := conn.Query(ctx, query, schemas, names)
	if err != nil {
		return nil, fmt.Errorf("read statistics: %w", err)
	}
	all := map[schema.Name]Statistics{}
	var (
		table    schema.Name
		tuples   float64
		column   string
		width    int
		distinct *float64
	)
	if _, err = pgx.ForEachRow(rows, []any{&table.Schema, &table.Name, &tuples, &column, &width, &distinct}, func() error {
		s, ok := all[table]
		if !ok {
			s = Statistics{Rows: tuples, Width: map[string]int{}, Distinct: map[string]float64{}}
			all[table] = s
		}
		s.Width[column] = width
		if distinct != nil {
			s.Distinct[column] = *distinct
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read statistics: %w", err)
	}
	return all, nil
}

// DDL asks what there is of the event triggers that tell of DDL.
func DDL(ctx context.Context, conn *pgx.Conn) (ddl.State, error) {
	var st ddl.State
	if err := conn.QueryRow(ctx, ddl.StateSQL).Scan(st.Fields()...); err != nil {
		return st, fmt.Errorf("look for the event triggers: %w", err)
	}
	return st, nil
}

// Relations are the names that no new index can have: of tables, sequences, composite types and indexes of any kind.
func Relations(ctx context.Context, conn *pgx.Conn) (map[schema.Name]bool, error) {
	const query = `
SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\_toast%' AND n.nspname NOT LIKE 'pg\_temp\_%'`
	rows, err := conn.Query(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("read names of relations: %w", err)
	}
	all := map[schema.Name]bool{}
	var name schema.Name
	if _, err = pgx.ForEachRow(rows, []any{&name.Schema, &name.Name}, func() error {
		all[name] = true
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read names of relations: %w", err)
	}
	return all, nil
}
