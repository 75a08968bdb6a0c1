package localserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// PgBouncer is a private pooler in transaction mode, before one server at a time. It is for tests.
type PgBouncer struct {
	Dir  string // removed by Close
	Port int

	program    string
	supervisor *supervisor
}

// StartPgBouncer starts a pooler before the server. Every session is the superuser's. The caller closes it.
func StartPgBouncer(ctx context.Context, before *Postgres) (*PgBouncer, error) {
	program, err := FindPgBouncer()
	if err != nil {
		return nil, err
	}
	keeper, err := supervise(ctx, "pgbouncer")
	if err != nil {
		return nil, fmt.Errorf("start PgBouncer: %w", err)
	}
	b := &PgBouncer{Dir: keeper.dir, program: program, supervisor: keeper}
	if err := b.create(ctx, before); err != nil {
		return nil, errors.Join(fmt.Errorf("start PgBouncer: %w", err), b.Close())
	}
	return b, nil
}

func (b *PgBouncer) create(ctx context.Context, before *Postgres) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := b.supervisor.write("users.txt", "\"postgres\" \"\"\n"); err != nil {
		return err
	}
	const attempts = 5
	for attempt := 1; ; attempt++ {
		port, err := FreePort()
		if err != nil {
			return err
		}
		b.Port = port
		if err := b.configure(before); err != nil {
			return err
		}
		run, err := b.supervisor.run(ctx, "KILL", b.program, filepath.Join(b.Dir, "pgbouncer.ini"))
		if err != nil {
			return err
		}
		err = b.supervisor.ready(ctx, run, func() bool { return b.accepts(ctx) })
		// Someone else may have taken the port in between.
		if err == nil || attempt == attempts || run.alive() || ctx.Err() != nil {
			return err
		}
	}
}

func (b *PgBouncer) configure(before *Postgres) error {
	return b.supervisor.write("pgbouncer.ini", fmt.Sprintf(`[databases]
* = host=127.0.0.1 port=%d user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = trust
auth_file = %s
admin_users = postgres
pool_mode = transaction
default_pool_size = 2
`, before.Port, b.Port, filepath.Join(b.Dir, "users.txt")))
}

func (b *PgBouncer) accepts(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(b.Port)))
	if err != nil {
		return false
	}
	_ = conn.Close() // nothing was sent
	return true
}

// URL is the connection string through the pooler for a database.
func (b *PgBouncer) URL(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", b.Port, database)
}

// Lead has the pooler lead to another server from the next transactions on. Its clients notice nothing. That it has
// happened is for the caller to await.
func (b *PgBouncer) Lead(to *Postgres) error {
	if err := b.configure(to); err != nil {
		return err
	}
	if err := syscall.Kill(b.supervisor.pid(), syscall.SIGHUP); err != nil {
		return fmt.Errorf("have PgBouncer read its configuration: %w", err)
	}
	return nil
}

// Log is the end of the pooler's log.
func (b *PgBouncer) Log() string { return b.supervisor.log() }

// Close ends the pooler at once and removes its directory.
func (b *PgBouncer) Close() error {
	if err := b.supervisor.close(); err != nil {
		return fmt.Errorf("close PgBouncer: %w", err)
	}
	return nil
}
