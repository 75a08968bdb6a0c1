package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// lockWithin bounds how long a statement of --fix waits for a table: what comes behind it waits as well.
	lockWithin = 3 * time.Second
	lockTries  = 5
	lockPause  = time.Second
	// fixEvery is how often it is looked whether another --fix has come to its end.
	fixEvery = time.Second
)

// fixLock is what one --fix holds and others wait for. It is the session's: a process that is gone holds it for as long as
// the server is at its last statement, which may be making an index.
const fixLock = `hashtextextended('freshet check --fix', 0)`

// fix applies what check finds to be mended, and prints every statement before it runs. It may be ended at any moment:
// what is left is found the next time.
func (a *app) fix(ctx context.Context) ([]*mending, error) {
	c, err := a.load()
	if err != nil {
		return nil, err
	}
	conn, err := connectSource(ctx, c)
	if err != nil {
		return nil, err
	}
	defer closeConn(ctx, conn)
	if err := a.alone(ctx, conn); err != nil {
		return nil, err
	}
	r := a.look(ctx, c)
	for _, m := range r.Fixes {
		a.printMending(m)
		if err := a.apply(ctx, conn, m); err != nil {
			return r.Fixes, err
		}
	}
	return r.Fixes, nil
}

// alone waits until no other --fix is at work. It asks again and again: a question that waited would be a transaction for
// which the other's index waits.
func (a *app) alone(ctx context.Context, conn *pgx.Conn) error {
	told := false
	ticker := time.NewTicker(fixEvery)
	defer ticker.Stop()
	for {
		var mine bool
		var holder *int32
		const query = `SELECT pg_try_advisory_lock(` + fixLock + `), (SELECT l.pid FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted
			AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
			AND (l.classid::bigint << 32 | l.objid::bigint) = ` + fixLock + ` AND l.pid <> pg_backend_pid() LIMIT 1)`
		if err := conn.QueryRow(ctx, query).Scan(&mine, &holder); err != nil {
			return fmt.Errorf("wait for another freshet check --fix: %w", err)
		}
		if mine {
			return nil
		}
		if !told && holder != nil {
			a.err(fmt.Sprintf("waiting for another freshet check --fix: process %d of the server is at its statement; pg_terminate_backend(%d) ends it\n", *holder, *holder))
			told = true
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// apply runs the statements of a mending one by one. One that does not run leaves out those after it, and nothing else.
func (a *app) apply(ctx context.Context, conn *pgx.Conn, m *mending) error {
	stopped := m.barred != ""
	for _, s := range m.Statements {
		if stopped {
			s.State = leftOut
			if m.barred != "" {
				s.State = denied
				a.tell(sqlText(s.SQL))
			}
			continue
		}
		a.tell(sqlText(s.SQL))
		err := a.exec(ctx, conn, s.SQL)
		var refused *pgconn.PgError
		switch {
		case err == nil:
			s.State = ran
			continue
		case !errors.As(err, &refused):
			s.State, s.Error = failed, err.Error()
			return fmt.Errorf("%s: %w", firstLine(s.SQL), err) // the connection is gone, or the time
		case refused.Code == "42501":
			s.State = denied
		default:
			s.State = failed
		}
		s.Error = refused.Message
		if refused.Detail != "" {
			s.Error += " (" + refused.Detail + ")"
		}
		a.tell("  " + s.State + ": " + s.Error + "\n")
		stopped = true
	}
	return nil
}

// exec runs one statement. An index that is made CONCURRENTLY waits for whoever is at work, and nobody for it; a statement
// that needs the table to itself does not wait for long, since everybody waits behind it, but is tried again.
func (a *app) exec(ctx context.Context, conn *pgx.Conn, sql string) error {
	bound := lockWithin
	if strings.Contains(sql, " CONCURRENTLY ") {
		bound = 0
	}
	if _, err := conn.Exec(ctx, fmt.Sprintf("SET lock_timeout = %d", bound.Milliseconds())); err != nil {
		return err
	}
	for try := 1; ; try++ {
		_, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
		refused, ok := errors.AsType[*pgconn.PgError](err)
		if !ok || refused.Code != "55P03" || try == lockTries { // lock_not_available
			return err
		}
		a.err(fmt.Sprintf("the table is in use; trying again (%d of %d)\n", try+1, lockTries))
		timer := time.NewTimer(lockPause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
	}
}

func firstLine(sql string) string {
	line, _, _ := strings.Cut(sql, "\n")
	return line
}
