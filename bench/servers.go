package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/localserver"
	"github.com/jackc/pgx/v5"
)

// servers are the private servers that everything is measured against.
type servers struct {
	pg    *localserver.Postgres
	redis *localserver.Redis
}

func startServers(ctx context.Context) (*servers, error) {
	pg, err := localserver.StartPostgres(ctx, localserver.PostgresOptions{Settings: map[string]string{
		// The disk is not what is measured: the same for both sides of every comparison.
		"fsync":                 "off",
		"shared_buffers":        "256MB",
		"max_wal_size":          "8GB",
		"checkpoint_timeout":    "1h",
		"autovacuum":            "off", // it would run beside some rounds and not beside others
		"max_wal_senders":       "20",
		"max_replication_slots": "20",
	}})
	if err != nil {
		return nil, err
	}
	redis, err := localserver.StartRedis(ctx, localserver.RedisOptions{})
	if err != nil {
		return nil, errors.Join(err, pg.Close())
	}
	return &servers{pg: pg, redis: redis}, nil
}

func (s *servers) close() {
	_ = s.redis.Close() // best effort: the supervisor ends them with this process in any case
	_ = s.pg.Close()
}

// database makes an empty database and returns its URL.
func (s *servers) database(ctx context.Context, name string) (string, error) {
	return s.pg.URL(name), s.exec(ctx, s.pg.URL("postgres"), "CREATE DATABASE "+name)
}

// exec runs statements over a new connection.
func (s *servers) exec(ctx context.Context, url string, statements ...string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}

// describe says on what the figures were measured.
func (s *servers) describe(ctx context.Context) (string, error) {
	conn, err := pgx.Connect(ctx, s.pg.URL("postgres"))
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(ctx) }()
	var version string
	if err := conn.QueryRow(ctx, "SHOW server_version").Scan(&version); err != nil {
		return "", err
	}
	redis, err := exec.CommandContext(ctx, s.redis.Program, "--version").Output() //nolint:gosec // a server's own program
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", s.redis.Program, err)
	}
	return fmt.Sprintf("%s\n%s, %d cores, %s/%s, %s, load %s\nPostgreSQL %s (fsync off), %s (nothing persisted)",
		time.Now().UTC().Format(time.DateOnly), processor(), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH,
		runtime.Version(), loadAverage(), version, strings.TrimSpace(string(redis))), nil
}

// processor is the processor's name where the system tells it.
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown processor"
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown processor"
}

func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

// program is one of the programs beside the PostgreSQL server's.
func (s *servers) program(name string) string { return filepath.Join(s.pg.Bin, name) }

// pause waits, and says whether ctx ended meanwhile.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// until polls a condition.
func until(ctx context.Context, limit time.Duration, what string, check func() (bool, error)) error {
	deadline := time.Now().Add(limit)
	for {
		ok, err := check()
		if err != nil {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		if ok {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("wait for %s: not so after %v", what, limit)
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
}
