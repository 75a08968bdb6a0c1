package localserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strconv"
)

// StartStandby starts a hot standby of a running server: a copy of its cluster, which then follows its log by
// streaming replication. Settings of the options go over those of the primary. It is ready when it answers queries; how
// far it has replayed by then is for the caller to ask. It is closed like any server, before or after its primary.
func StartStandby(ctx context.Context, primary *Postgres, options PostgresOptions) (*Postgres, error) {
	keeper, err := supervise(ctx, "postgres")
	if err != nil {
		return nil, fmt.Errorf("start standby: %w", err)
	}
	p := &Postgres{Dir: keeper.dir, Bin: primary.Bin, supervisor: keeper, settings: maps.Clone(primary.settings)}
	if p.settings == nil {
		p.settings = map[string]string{}
	}
	p.settings["hot_standby"] = "on"
	maps.Copy(p.settings, options.Settings)
	// What the primary set may be a standby's own to wait for: it has none.
	if _, set := options.Settings["synchronous_standby_names"]; !set {
		delete(p.settings, "synchronous_standby_names")
	}
	if err := p.copyOf(ctx, primary); err != nil {
		return nil, errors.Join(fmt.Errorf("start standby: %w", err), p.Close())
	}
	return p, nil
}

// copyOf makes the cluster by a base backup of the primary and starts it as a standby on a port of its own.
func (p *Postgres) copyOf(ctx context.Context, primary *Postgres) error {
	if err := p.backUp(ctx, primary); err != nil {
		return err
	}
	if err := p.supervisor.write("data/standby.signal", ""); err != nil {
		return err
	}
	p.settings["primary_conninfo"] = fmt.Sprintf("host=127.0.0.1 port=%d user=postgres application_name=standby", primary.Port)
	return p.startOnAFreePort(ctx)
}

// backUp copies the running server's cluster.
func (p *Postgres) backUp(ctx context.Context, of *Postgres) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	run, err := p.supervisor.run(ctx, "KILL", filepath.Join(p.Bin, "pg_basebackup"), "--pgdata="+p.data(),
		"--host=127.0.0.1", "--port="+strconv.Itoa(of.Port), "--username=postgres", "--no-password", "--checkpoint=fast",
		"--wal-method=stream", "--no-sync")
	if err != nil {
		return fmt.Errorf("run pg_basebackup: %w", err)
	}
	if err := p.supervisor.wait(ctx, run); err != nil {
		return fmt.Errorf("run pg_basebackup: %w", err)
	}
	if run.code != 0 {
		return fmt.Errorf("run pg_basebackup: it ended with code %d: %s", run.code, p.supervisor.log())
	}
	return nil
}

// ReplaceBy gives the stopped server the cluster of another one, which is stopped as well, as it stands: a backup that
// is put in its place. It keeps its own port and settings.
func (p *Postgres) ReplaceBy(ctx context.Context, other *Postgres) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	const script = `rm -rf "$1" && cp -a "$2" "$1"`
	run, err := p.supervisor.run(ctx, "KILL", "/bin/sh", "-c", script, "replace", p.data(), other.data())
	if err != nil {
		return fmt.Errorf("replace cluster: %w", err)
	}
	if err := p.supervisor.wait(ctx, run); err != nil {
		return fmt.Errorf("replace cluster: %w", err)
	}
	if run.code != 0 {
		return fmt.Errorf("replace cluster: it ended with code %d: %s", run.code, p.supervisor.log())
	}
	return p.supervisor.write("data/postgresql.conf", postgresConf(p.Port, p.settings))
}
