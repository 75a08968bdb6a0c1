package pgcatalog

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/schema"
)

const foreignKeysQuery = `
SELECT n.nspname::text, c.relname::text, fn.nspname::text, f.relname::text,
       ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(num, place)
             JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num ORDER BY u.place),
       EXISTS (SELECT FROM pg_index x
               WHERE x.indrelid = k.conrelid AND x.indisvalid AND x.indpred IS NULL
                 AND (x.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey)
FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class f ON f.oid = k.confrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0
ORDER BY n.nspname, c.relname, k.conkey::text, k.conname`

// ForeignKeys reads which columns refer to which table, those of partitions left out, and whether an index begins with them.
func ForeignKeys(ctx context.Context, conn *pgx.Conn) ([]schema.ForeignKey, error) {
	rows, err := conn.Query(ctx, foreignKeysQuery)
	if err != nil {
		return nil, fmt.Errorf("read foreign keys: %w", err)
	}
	keys, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (k schema.ForeignKey, err error) {
		err = row.Scan(&k.Table.Schema, &k.Table.Name, &k.References.Schema, &k.References.Name, &k.Columns, &k.Indexed)
		return k, err
	})
	if err != nil {
		return nil, fmt.Errorf("read foreign keys: %w", err)
	}
	return keys, nil
}

// Keywords reads the words that have to be quoted as names of tables and columns.
func Keywords(ctx context.Context, conn *pgx.Conn) (map[string]bool, error) {
	rows, err := conn.Query(ctx, `SELECT word::text FROM pg_get_keywords() WHERE catcode <> 'U'`)
	if err != nil {
		return nil, fmt.Errorf("read keywords: %w", err)
	}
	words, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read keywords: %w", err)
	}
	all := make(map[string]bool, len(words))
	for _, word := range words {
		all[word] = true
	}
	return all, nil
}
