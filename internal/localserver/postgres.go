package localserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// PostgresOptions says how a private PostgreSQL differs from the usual one.
type PostgresOptions struct {
	// Bin is the folder with postgres and initdb. Default: FindPostgres.
	Bin string
	// Settings go into postgresql.conf, over the defaults: wal_level logical, UTC, everything else PostgreSQL's own.
	Settings map[string]string
}

// Postgres is a private PostgreSQL server. Its superuser is postgres, and it trusts every local connection. Its methods
// are for one goroutine at a time.
type Postgres struct {
	Dir  string // removed by Close
	Port int
	Bin  string

	settings   map[string]string
	supervisor *supervisor
	killed     bool // the orphans of a killed postmaster may still be there
}

// StartPostgres makes a new database cluster and starts its server. The caller closes it.
func StartPostgres(ctx context.Context, options PostgresOptions) (*Postgres, error) {
	bin := options.Bin
	if bin == "" {
		found, err := FindPostgres(ctx)
		if err != nil {
			return nil, err
		}
		bin = found
	}
	keeper, err := supervise(ctx, "postgres")
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	p := &Postgres{Dir: keeper.dir, Bin: bin, settings: options.Settings, supervisor: keeper}
	if err := p.create(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start PostgreSQL: %w", err), p.Close())
	}
	return p, nil
}

// create makes the cluster and starts it on a port of its own.
func (p *Postgres) create(ctx context.Context) error {
	if err := p.initdb(ctx); err != nil {
		return err
	}
	return p.startOnAFreePort(ctx)
}

// startOnAFreePort writes the configuration and starts the server.
func (p *Postgres) startOnAFreePort(ctx context.Context) error {
	const attempts = 5
	for attempt := 1; ; attempt++ {
		port, err := FreePort()
		if err != nil {
			return err
		}
		p.Port = port
		if err := p.supervisor.write("data/postgresql.conf", postgresConf(port, p.settings)); err != nil {
			return err
		}
		err = p.Start(ctx)
		// Someone else may have taken the port in between.
		if err == nil || attempt == attempts || p.supervisor.current().alive() || ctx.Err() != nil {
			return err
		}
	}
}

func (p *Postgres) initdb(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	run, err := p.supervisor.run(ctx, "KILL", filepath.Join(p.Bin, "initdb"), "--pgdata="+p.data(), "--username=postgres",
		"--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
	if err != nil {
		return fmt.Errorf("run initdb: %w", err)
	}
	if err := p.supervisor.wait(ctx, run); err != nil {
		return fmt.Errorf("run initdb: %w", err)
	}
	if run.code != 0 {
		return fmt.Errorf("run initdb: it ended with code %d: %s", run.code, p.supervisor.log())
	}
	return nil
}

func postgresConf(port int, settings map[string]string) string {
	all := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"port":                    strconv.Itoa(port),
		"unix_socket_directories": "", // nothing that another server's socket could clash with
		"wal_level":               "logical",
		"timezone":                "UTC",
		"log_timezone":            "UTC",
	}
	maps.Copy(all, settings)
	var conf strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&conf, "%s = '%s'\n", name, strings.ReplaceAll(all[name], "'", "''"))
	}
	return conf.String()
}

func (p *Postgres) data() string { return filepath.Join(p.Dir, "data") }

// URL is the connection string of the superuser for a database.
func (p *Postgres) URL(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", p.Port, database)
}

// PID is the process id of the postmaster, or 0.
func (p *Postgres) PID() int { return p.supervisor.pid() }

// Log is the end of the server's log.
func (p *Postgres) Log() string { return p.supervisor.log() }

// Start starts the stopped server again, on the same data and port, and returns when it accepts connections.
func (p *Postgres) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		run, err := p.supervisor.run(ctx, "QUIT", filepath.Join(p.Bin, "postgres"), "-D", p.data())
		if err != nil {
			return fmt.Errorf("start PostgreSQL: %w", err)
		}
		err = p.supervisor.ready(ctx, run, func() bool { return p.accepts(run.pid) })
		if err == nil {
			p.killed = false
			return nil
		}
		// The backends of a killed postmaster hold its shared memory until they notice, and it refuses to start until
		// then.
		if !p.killed || run.alive() || ctx.Err() != nil {
			return fmt.Errorf("start PostgreSQL: %w", err)
		}
	}
}

// accepts reads the server's state from its lock file, as pg_ctl does.
func (p *Postgres) accepts(pid int) bool {
	const firstLine, statusLine = 0, 7
	text, err := os.ReadFile(filepath.Join(p.data(), "postmaster.pid"))
	if err != nil {
		return false
	}
	lines := strings.Split(string(text), "\n")
	return len(lines) > statusLine && lines[firstLine] == strconv.Itoa(pid) &&
		strings.TrimSpace(lines[statusLine]) == "ready"
}

// Stop shuts the server down in order, ending its sessions.
func (p *Postgres) Stop(ctx context.Context) error {
	if err := p.supervisor.end(ctx, syscall.SIGINT); err != nil {
		return fmt.Errorf("stop PostgreSQL: %w", err)
	}
	return nil
}

// Kill ends the postmaster with SIGKILL: the next Start is a crash recovery.
func (p *Postgres) Kill(ctx context.Context) error {
	p.killed = true
	if err := p.supervisor.end(ctx, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill PostgreSQL: %w", err)
	}
	return nil
}

// Restart stops and starts the server.
func (p *Postgres) Restart(ctx context.Context) error {
	if err := p.Stop(ctx); err != nil {
		return err
	}
	return p.Start(ctx)
}

// Close ends the server at once and removes its directory.
func (p *Postgres) Close() error {
	if err := p.supervisor.close(); err != nil {
		return fmt.Errorf("close PostgreSQL: %w", err)
	}
	return nil
}
