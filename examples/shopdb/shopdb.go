// Package shopdb is what sqlc makes of two statements, with sql_package: pgx/v5:
//
//	-- name: Rename :execrows
//	UPDATE products SET name = $2 WHERE id = $1;
//
//	-- name: Category :many
//	SELECT id FROM products WHERE category = $1 ORDER BY id;
package shopdb

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// DBTX is a pool, a connection or a transaction.
type DBTX interface {
	Exec(ctx context.Context, query string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, query string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, query string, args ...any) pgx.Row
}

// New makes the statements run on db.
func New(db DBTX) *Queries { return &Queries{db: db} }

// Queries are the statements.
type Queries struct{ db DBTX }

const rename = `UPDATE products SET name = $2 WHERE id = $1`

// RenameParams are the arguments of Rename.
type RenameParams struct {
	ID   int64
	Name string
}

// Rename renames a product, and returns how many there were.
func (q *Queries) Rename(ctx context.Context, arg RenameParams) (int64, error) {
	result, err := q.db.Exec(ctx, rename, arg.ID, arg.Name)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected(), nil
}

const category = `SELECT id FROM products WHERE category = $1 ORDER BY id`

// Category is the ids of a category's products.
func (q *Queries) Category(ctx context.Context, name string) ([]int64, error) {
	rows, err := q.db.Query(ctx, category, name)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}
