// Package pgcatalog asks a database what planning needs to know of it, and whether it agrees with what was planned.
package pgcatalog

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/schema"
)

// The old image that the log carries of a row is its replica identity: under DEFAULT the primary key, unless it is
// deferrable, which PostgreSQL then ignores. A partitioned table with a foreign or an unlogged partition counts as
// such itself: not all of its changes are in the log. The log of a partition follows the identity of the partition, while the
// publication describes the partitioned table; only DEFAULT on all of them is known to agree, also for partitions that
// are created later.
const tablesQuery = `
SELECT c.oid, n.nspname::text, c.relname::text,
       CASE WHEN c.relkind = 'p' AND EXISTS (
           SELECT FROM pg_partition_tree(c.oid) t JOIN pg_class l ON l.oid = t.relid WHERE l.relkind = 'f') THEN 'f' ELSE c.relkind::text END,
       CASE WHEN c.relkind = 'p' THEN (
           SELECT max(l.relpersistence::text) FROM pg_partition_tree(c.oid) t JOIN pg_class l ON l.oid = t.relid)
         ELSE c.relpersistence::text END,
       c.relrowsecurity,
       EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid), c.relispartition, c.relreplident::text,
       ARRAY(SELECT a.attname::text
             FROM pg_index x CROSS JOIN LATERAL unnest(x.indkey::int2[]) WITH ORDINALITY k(num, place)
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.num
             WHERE x.indrelid = c.oid AND x.indisprimary AND k.place <= x.indnkeyatts ORDER BY k.place),
       EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisprimary AND NOT x.indimmediate),
       CASE
         WHEN c.relkind = 'p' AND (c.relreplident <> 'd' OR EXISTS (
             SELECT FROM pg_partition_tree(c.oid) t JOIN pg_class l ON l.oid = t.relid WHERE t.isleaf AND l.relreplident <> 'd'))
           THEN '{}'
         WHEN c.relreplident = 'f' THEN ARRAY(
             SELECT a.attname::text FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum)
         WHEN c.relreplident IN ('d', 'i') THEN ARRAY(
             SELECT a.attname::text
             FROM pg_index x CROSS JOIN LATERAL unnest(x.indkey::int2[]) WITH ORDINALITY k(num, place)
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.num
             WHERE x.indrelid = c.oid AND x.indisvalid AND x.indimmediate AND k.place <= x.indnkeyatts
               AND CASE c.relreplident WHEN 'd' THEN x.indisprimary ELSE x.indisreplident END
             ORDER BY k.place)
         ELSE '{}'
       END,
       coalesce(CASE c.relkind WHEN 'v' THEN pg_get_viewdef(c.oid) END, '') -- NULL when it was dropped since
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\_toast%'
  AND n.nspname NOT LIKE 'pg\_temp\_%'
ORDER BY n.nspname, c.relname`

// A domain is followed down to the type that it is made of.
const columnsQuery = `
WITH RECURSIVE base (domain, oid) AS (
    SELECT t.oid, t.typbasetype FROM pg_type t WHERE t.typtype = 'd'
  UNION ALL
    SELECT b.domain, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.oid WHERE t.typtype = 'd'
)
SELECT a.attrelid, a.attname::text, a.attnum, a.atttypid, format_type(a.atttypid, a.atttypmod),
       coalesce(u.typname, t.typname)::text, n.nspname::text, t.typtype::text,
       coalesce(l.collisdeterministic, true), a.attnotnull, a.attgenerated <> ''
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_namespace cn ON cn.oid = c.relnamespace
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN base b ON b.domain = t.oid AND EXISTS (SELECT FROM pg_type p WHERE p.oid = b.oid AND p.typtype <> 'd')
LEFT JOIN pg_type u ON u.oid = b.oid
JOIN pg_namespace n ON n.oid = coalesce(u.typnamespace, t.typnamespace)
LEFT JOIN pg_collation l ON l.oid = a.attcollation
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND cn.nspname NOT IN ('pg_catalog', 'information_schema') AND cn.nspname NOT LIKE 'pg\_toast%'
  AND cn.nspname NOT LIKE 'pg\_temp\_%'
ORDER BY a.attrelid, a.attnum`

// Functions of one name are taken together: which of them a call means depends on its arguments. $1 are names without their
// schemas; NULL are all.
const functionsQuery = `
SELECT n.nspname::text, p.proname::text, max(p.provolatile::text),
       md5(string_agg(concat_ws(' ', p.oid, p.proargtypes, p.prolang, p.provolatile, p.prosrc, p.probin, p.proconfig, p.prosqlbody), ',' ORDER BY p.oid))
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE p.prokind = 'f' AND NOT p.proretset AND ($1::text[] IS NULL OR p.proname = ANY ($1::text[]))
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\_toast%' AND n.nspname NOT LIKE 'pg\_temp\_%'
GROUP BY 1, 2`

// Read reads the catalog in one snapshot.
func Read(ctx context.Context, conn *pgx.Conn) (*schema.Catalog, error) {
	var catalog *schema.Catalog
	err := pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var err error
		catalog, err = read(ctx, tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the catalog: %w", err)
	}
	return catalog, nil
}

func read(ctx context.Context, tx pgx.Tx) (*schema.Catalog, error) {
	catalog := &schema.Catalog{Tables: map[schema.Name]*schema.Table{}}
	const settings = `SELECT current_setting('server_version_num')::int, current_schemas(false)::text[]`
	if err := tx.QueryRow(ctx, settings).Scan(&catalog.ServerVersion, &catalog.SearchPath); err != nil {
		return nil, err
	}
	byOID := map[uint32]*schema.Table{}
	rows, err := tx.Query(ctx, tablesQuery)
	if err != nil {
		return nil, err
	}
	var t schema.Table
	var kind, persistence, identity string
	_, err = pgx.ForEachRow(rows, []any{
		&t.OID, &t.Schema, &t.Name.Name, &kind, &persistence, &t.RowSecurity, &t.HasChildren, &t.IsPartition, &identity, &t.PrimaryKey, &t.DeferrableKey, &t.IdentityCols,
		&t.Definition,
	}, func() error {
		made := t
		made.Kind, made.Persistence, made.Identity = schema.Kind(kind[0]), persistence[0], change.Identity(identity[0])
		catalog.Tables[made.Name] = &made
		byOID[made.OID] = &made
		t.PrimaryKey, t.IdentityCols = nil, nil // the next row gets slices of its own
		return nil
	})
	if err != nil {
		return nil, err
	}
	if rows, err = tx.Query(ctx, columnsQuery); err != nil {
		return nil, err
	}
	var c schema.Column
	var table uint32
	var category string
	_, err = pgx.ForEachRow(rows, []any{
		&table, &c.Name, &c.Num, &c.TypeOID, &c.Type, &c.TypeName, &c.TypeSchema, &category, &c.Deterministic, &c.NotNull, &c.Generated,
	}, func() error {
		made := c
		made.Category = category[0]
		if t := byOID[table]; t != nil {
			t.Columns = append(t.Columns, made)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	catalog.Functions, err = readFunctions(ctx, tx, nil)
	return catalog, err
}
