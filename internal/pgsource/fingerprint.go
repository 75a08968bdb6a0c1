package pgsource

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// querier is what both a connection and a transaction can do.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Fingerprint digests everything about a publication whose alteration is a gap: its operations, how it publishes
// partitions, and the identity of every membership with its row filter and column list. A table that was removed and
// added again has another membership, although the publication reads the same; and the transaction that last wrote the
// publication itself is part of it, or operations that were taken away and given back while nobody looked would be
// missing from the stream unnoticed. A publication that does not exist has the empty fingerprint.
func Fingerprint(ctx context.Context, conn *pgx.Conn, publication string) (string, error) {
	// Another owner matters to nobody here, but cannot be told from operations that were given back: it costs a generation.
	const query = `
SELECT p.xmin::text || ' ' || (to_jsonb(p) - 'pubowner')::text, p.oid FROM pg_publication p WHERE pubname = $1`
	rows, err := conn.Query(ctx, query, publication)
	if err != nil {
		return "", fmt.Errorf("read publication: %w", err)
	}
	type head struct {
		Text string
		OID  uint32
	}
	heads, err := pgx.CollectRows(rows, pgx.RowToStructByPos[head])
	if err != nil {
		return "", fmt.Errorf("read publication: %w", err)
	}
	if len(heads) == 0 {
		return "", nil
	}
	const members = `SELECT to_jsonb(r)::text FROM pg_publication_rel r WHERE prpubid = $1 ORDER BY oid`
	rows, err = conn.Query(ctx, members, heads[0].OID)
	if err != nil {
		return "", fmt.Errorf("read publication's tables: %w", err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return "", fmt.Errorf("read publication's tables: %w", err)
	}
	schemas, err := publishedSchemas(ctx, conn, heads[0].OID)
	if err != nil {
		return "", err
	}
	digest := sha256.New()
	for _, line := range append(append([]string{heads[0].Text}, lines...), schemas...) {
		_, _ = fmt.Fprintf(digest, "%d:%s\n", len(line), line) // a hash takes every write
	}
	return hex.EncodeToString(digest.Sum(nil)[:16]), nil
}

// publishedSchemas lists FOR TABLES IN SCHEMA memberships, of which servers before 15 have none.
func publishedSchemas(ctx context.Context, conn querier, publicationOID uint32) ([]string, error) {
	rows, err := conn.Query(ctx, `SELECT to_regclass('pg_catalog.pg_publication_namespace') IS NOT NULL`)
	if err != nil {
		return nil, fmt.Errorf("read catalog: %w", err)
	}
	there, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[bool])
	if err != nil || !there {
		return nil, err
	}
	rows, err = conn.Query(ctx, `SELECT to_jsonb(n)::text FROM pg_publication_namespace n WHERE pnpubid = $1 ORDER BY oid`, publicationOID)
	if err != nil {
		return nil, fmt.Errorf("read publication's schemas: %w", err)
	}
	schemas, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read publication's schemas: %w", err)
	}
	return schemas, nil
}
