package pggate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet/freshet/internal/fence"
)

// Ensure makes the schema freshet with the unlogged table freshet.alive. Crash recovery empties such a table, and a
// clean restart keeps it: the only trace that visible asynchronous commits may have been lost, and their ids given
// out again, without a new timeline. A table that is there and logged, as a restored dump or an administrator may have made it,
// would survive every crash; it is made unlogged.
//
// Its rows say which generation of which namespace was begun since: one daemon's answer to a recovery is not another's,
// and a store that comes back with an older generation than was marked did not see the answer. Behind the generation
// stand the terms under which daemons claimed the store since.
func (g *Gate) Ensure(ctx context.Context) error {
	ctx, done := g.turn(ctx)
	defer done()
	var there, unlogged bool
	const look = `SELECT count(*) > 0, coalesce(bool_and(relpersistence = 'u'), false) FROM pg_class WHERE oid = to_regclass('freshet.alive')`
	if err := g.conn.QueryRow(ctx, look).Scan(&there, &unlogged); err != nil {
		return fmt.Errorf("look for freshet.alive: %w", err)
	}
	switch {
	case there && unlogged: // so that a role that may not create schemas can work on what an administrator made
		return nil
	case there:
		if _, err := g.conn.Exec(ctx, `ALTER TABLE freshet.alive SET UNLOGGED`); err != nil {
			return &LoggedError{Err: err}
		}
		return nil
	}
	err := pgx.BeginFunc(ctx, g.conn, func(tx pgx.Tx) error {
		// IF NOT EXISTS is not safe against another daemon that does the same.
		for _, statement := range []string{
			`SELECT pg_advisory_xact_lock(hashtextextended('freshet.alive', 0))`,
			// Not IF NOT EXISTS, which asks for the privilege to make one also where it is there.
			`DO $$ BEGIN IF to_regnamespace('freshet') IS NULL THEN CREATE SCHEMA freshet; END IF; END $$`,
			`CREATE UNLOGGED TABLE IF NOT EXISTS freshet.alive (namespace text PRIMARY KEY, generation text NOT NULL)`,
		} {
			if _, err := tx.Exec(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) && pgErr.Code == "42501" { // insufficient_privilege
			return &PermissionError{Err: err}
		}
		return fmt.Errorf("make freshet.alive: %w", err)
	}
	return nil
}

// PermissionError says that the daemon's role may not make, read or write freshet.alive.
type PermissionError struct{ Err error }

// Error says what is missing.
func (e *PermissionError) Error() string {
	return "the database user may not make or use the table freshet.alive, by which crash recovery is noticed: " + e.Err.Error()
}

// Do is what to run.
func (e *PermissionError) Do() string {
	return "run: GRANT CREATE ON DATABASE ... TO the daemon's role; or, as an administrator: CREATE SCHEMA freshet; " +
		"CREATE UNLOGGED TABLE freshet.alive (namespace text PRIMARY KEY, generation text NOT NULL); " +
		"GRANT USAGE ON SCHEMA freshet TO the daemon's role; GRANT SELECT, INSERT, UPDATE ON freshet.alive TO the daemon's role"
}

// Unwrap returns the server's error.
func (e *PermissionError) Unwrap() error { return e.Err }

// LoggedError says that freshet.alive is a logged table, and stays one.
type LoggedError struct{ Err error }

// Error says what is wrong.
func (e *LoggedError) Error() string {
	return "the table freshet.alive is logged, so that no crash recovery would be noticed, and the database user may not alter it: " + e.Err.Error()
}

// Do is what to run.
func (e *LoggedError) Do() string {
	return "run, as the table's owner: ALTER TABLE freshet.alive SET UNLOGGED"
}

// Unwrap returns the server's error.
func (e *LoggedError) Unwrap() error { return e.Err }

// usualSlot is the slot that a daemon has unless its file names another.
const usualSlot = "freshet"

// Mark is what the row of a daemon is called that follows the log through a slot: two daemons of one database, with stores of their own, have a
// row each.
func Mark(namespace, slot string) string {
	if slot == usualSlot {
		return namespace
	}
	return namespace + " " + slot
}

// Alive reports whether the mark is there: the server has not recovered from a crash since this generation was marked
// under the name (Mark). A mark that was never made, or whose table is gone or logged, is not there. claimed tells whether it knows of
// the daemon with this term: it does not where the database is a copy from before that daemon claimed the store.
func (g *Gate) Alive(ctx context.Context, name, generation string, term fence.Term) (alive, claimed bool, err error) {
	ctx, done := g.turn(ctx)
	defer done()
	var mark string
	err = g.conn.QueryRow(ctx, `SELECT coalesce((SELECT generation FROM freshet.alive WHERE namespace = $1), '')
		WHERE (SELECT relpersistence = 'u' FROM pg_class WHERE oid = 'freshet.alive'::regclass)`, name).Scan(&mark)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, false, nil
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pgErr.Code {
		case "42P01", "3F000": // undefined_table, invalid_schema_name
			return false, false, nil
		case "42501": // insufficient_privilege
			return false, false, &PermissionError{Err: err}
		}
	}
	if err != nil {
		return false, false, fmt.Errorf("read freshet.alive: %w", err)
	}
	marked, terms, _ := strings.Cut(mark, " ")
	return marked == generation, slices.Contains(strings.Fields(terms), string(term)), nil
}

// MarkAlive makes the mark, by the daemon with this term. It is for after the new generation was acknowledged, never
// before.
func (g *Gate) MarkAlive(ctx context.Context, name, generation string, term fence.Term) error {
	return g.mark(ctx, `INSERT INTO freshet.alive (namespace, generation) VALUES ($1, $2 || ' ' || $3)
		ON CONFLICT (namespace) DO UPDATE SET generation = excluded.generation`, name, generation, string(term))
}

// MarkClaim adds a term to the mark, if that is there. It is for before the store is claimed under this term: the store then
// never has one that the mark lacks. The last eight are kept, since claims may fail, or be lost by the store.
func (g *Gate) MarkClaim(ctx context.Context, name, generation string, term fence.Term) error {
	return g.mark(ctx, `UPDATE freshet.alive SET generation = array_to_string(w[1:1] || w[greatest(2, cardinality(w) - 6):] || $3::text, ' ')
		FROM (SELECT namespace AS n, string_to_array(generation, ' ') AS w FROM freshet.alive) words
		WHERE namespace = $1 AND n = namespace AND w[1] = $2`, name, generation, string(term))
}

func (g *Gate) mark(ctx context.Context, statement string, args ...any) error {
	ctx, done := g.turn(ctx)
	defer done()
	_, err := g.conn.Exec(ctx, statement, args...)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == "42501" {
		return &PermissionError{Err: err}
	}
	if err != nil {
		return fmt.Errorf("mark freshet.alive: %w", err)
	}
	return nil
}
