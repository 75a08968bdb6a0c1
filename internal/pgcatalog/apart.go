package pgcatalog

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/schema"
)

// Apart finds columns of tables whose values may be stored apart from their rows (TOAST), where the log leaves them out of an UPDATE that does
// not touch them. Left out is what cannot be so: columns whose storage or length does not let it, tables that have nothing stored apart, and
// columns all of whose values, by PostgreSQL's statistics, are shorter than what stands in a row instead of them. What the role may not know
// the statistics of may be so.
func Apart(ctx context.Context, conn *pgx.Conn, tables []schema.Name) (map[schema.Name][]string, error) {
	const query = `
SELECT DISTINCT n.nspname::text, c.relname::text, a.attname::text
  FROM unnest($1::text[], $2::text[]) t (nspname, relname)
  JOIN pg_namespace n ON n.nspname = t.nspname JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.relname
 CROSS JOIN LATERAL (SELECT c.oid AS relid UNION SELECT p.relid FROM pg_partition_tree(c.oid) p) m
  JOIN pg_class l ON l.oid = m.relid AND l.reltoastrelid <> 0
  JOIN pg_attribute a ON a.attrelid = l.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attstorage IN ('x', 'e')
 WHERE pg_relation_size(l.reltoastrelid) > 0
   AND NOT (a.atttypid IN ('varchar'::regtype, 'bpchar'::regtype) AND a.atttypmod > 0
            AND (a.atttypmod - 4) * pg_encoding_max_length((SELECT encoding FROM pg_database WHERE datname = current_database())) <= $3)
   AND NOT EXISTS (
       SELECT FROM pg_stats s
        WHERE s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname
          AND s.null_frac + (SELECT coalesce(sum(f), 0) FROM unnest(s.most_common_freqs) f) > 0.9999
          AND NOT EXISTS (SELECT FROM unnest(s.most_common_vals::text::text[]) v WHERE octet_length(v) > $3))
 ORDER BY 1, 2, 3`
	const pointer = 18 // bytes of what stands in the row
	schemas, names := columnsOf(tables)
	rows, err := conn.Query(ctx, query, schemas, names, pointer)
	if err != nil {
		return nil, fmt.Errorf("look for values that are stored apart: %w", err)
	}
	var (
		apart  = map[schema.Name][]string{}
		table  schema.Name
		column string
	)
	if _, err := pgx.ForEachRow(rows, []any{&table.Schema, &table.Name, &column}, func() error {
		apart[table] = append(apart[table], column)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("look for values that are stored apart: %w", err)
	}
	return apart, nil
}
