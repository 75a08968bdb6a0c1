package pggate

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Ensure makes the schema freshet with the unlogged table freshet.alive. Crash recovery empties such a table, and a
// clean restart keeps it: the only trace that visible asynchronous commits may have been lost, and their ids given
// out again, without a new timeline.
func (g *Gate) Ensure(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var there bool
	if err := g.conn.QueryRow(ctx, `SELECT to_regclass('freshet.alive') IS NOT NULL`).Scan(&there); err != nil {
		return fmt.Errorf("look for freshet.alive: %w", err)
	}
	if there { // so that a role that may not create schemas can work on what an administrator made
		return nil
	}
	err := pgx.BeginFunc(ctx, g.conn, func(tx pgx.Tx) error {
		// IF NOT EXISTS is not safe against another daemon that does the same.
		for _, statement := range []string{
			`SELECT pg_advisory_xact_lock(hashtextextended('freshet.alive', 0))`,
			`CREATE SCHEMA IF NOT EXISTS freshet`,
			`CREATE UNLOGGED TABLE IF NOT EXISTS freshet.alive (one bool PRIMARY KEY DEFAULT true CHECK (one))`,
		} {
			if _, err := tx.Exec(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("make freshet.alive (or run as its owner: CREATE SCHEMA freshet; "+
			"CREATE UNLOGGED TABLE freshet.alive (one bool PRIMARY KEY DEFAULT true CHECK (one)); "+
			"GRANT USAGE ON SCHEMA freshet, SELECT, INSERT ON freshet.alive TO the daemon's role): %w", err)
	}
	return nil
}

// Alive reports whether the mark is there: the server has not recovered from a crash since MarkAlive. A mark that was
// never made, or whose table is gone, is not there.
func (g *Gate) Alive(ctx context.Context) (bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var alive bool
	err := g.conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM freshet.alive)`).Scan(&alive)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && (pgErr.Code == "42P01" || pgErr.Code == "3F000") { // undefined_table, invalid_schema_name
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read freshet.alive: %w", err)
	}
	return alive, nil
}

// MarkAlive makes the mark. It is for after the new generation was acknowledged, never before.
func (g *Gate) MarkAlive(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, err := g.conn.Exec(ctx, `INSERT INTO freshet.alive DEFAULT VALUES ON CONFLICT DO NOTHING`); err != nil {
		return fmt.Errorf("mark freshet.alive: %w", err)
	}
	return nil
}
