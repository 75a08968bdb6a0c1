package localserver_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/localserver"
	"github.com/freshet/freshet/internal/testkit"
)

func startPostgres(t *testing.T, settings map[string]string) *localserver.Postgres {
	t.Helper()
	p, err := localserver.StartPostgres(t.Context(), localserver.PostgresOptions{Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func startRedis(t *testing.T, args ...string) *localserver.Redis {
	t.Helper()
	r, err := localserver.StartRedis(t.Context(), localserver.RedisOptions{Args: args})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// ask runs a query with one text in its answer.
func ask(t *testing.T, p *localserver.Postgres, query string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), p.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	var answer string
	if err := conn.QueryRow(t.Context(), query).Scan(&answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestPostgresIsPrivate(t *testing.T) {
	t.Parallel()
	p := startPostgres(t, map[string]string{"application_name": "it's quoted"})
	for query, want := range map[string]string{
		"SHOW listen_addresses":        "127.0.0.1",
		"SHOW unix_socket_directories": "",
		"SHOW data_directory":          filepath.Join(p.Dir, "data"),
		"SHOW server_encoding":         "UTF8",
		"SHOW lc_collate":              "C",
		"SHOW wal_level":               "logical",
		"SHOW application_name":        "it's quoted",
		"SELECT current_user":          "postgres",
	} {
		if query == "SHOW lc_collate" {
			query = "SELECT datcollate FROM pg_database WHERE datname = current_database()"
		}
		if got := ask(t, p, query); got != want {
			t.Errorf("%s = %q, want %q", query, got, want)
		}
	}
	info, err := os.Stat(filepath.Join(p.Dir, "data"))
	if err != nil {
		t.Fatal(err)
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); !ok || owner.Uid == 0 {
		t.Errorf("the cluster belongs to root")
	}
}

func TestPostgresKeepsItsDataAndPort(t *testing.T) {
	t.Parallel()
	p := startPostgres(t, nil)
	ask(t, p, "WITH made AS (SELECT pg_advisory_lock(1)) SELECT 'ok' FROM made")
	url := p.URL("postgres")
	write(t, url, "CREATE TABLE kept (n int)")

	for name, again := range map[string]func() error{
		"restart": func() error { return p.Restart(t.Context()) },
		"crash": func() error {
			write(t, url, "INSERT INTO kept SELECT generate_series(1, 1000)")
			return errors.Join(p.Kill(t.Context()), p.Start(t.Context()))
		},
		"stop twice, start": func() error {
			return errors.Join(p.Stop(t.Context()), p.Stop(t.Context()), p.Start(t.Context()))
		},
	} {
		before := p.PID()
		if err := again(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if p.PID() == before || p.PID() == 0 {
			t.Errorf("%s: postmaster %d, was %d", name, p.PID(), before)
		}
		if got := p.URL("postgres"); got != url {
			t.Errorf("%s: URL = %s, want %s", name, got, url)
		}
		ask(t, p, "SELECT count(*)::text FROM kept")
	}
	if got := ask(t, p, "SELECT count(*)::text FROM kept"); got != "1000" {
		t.Errorf("rows = %s, want 1000", got)
	}
	if err := p.Start(t.Context()); err == nil {
		t.Error("a running server was started a second time")
	}
}

func write(t *testing.T, url, statement string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	if _, err := conn.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

// A backend that is busy or stopped outlives a killed postmaster for a while, and the next one refuses to start
// beside it.
func TestPostgresStartsBesideTheOrphansOfAKill(t *testing.T) {
	t.Parallel()
	p := startPostgres(t, nil)
	conn, err := pgx.Connect(t.Context(), p.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	busy := make(chan error, 1)
	go func() {
		// Never looks at its postmaster while it computes.
		_, err := conn.Exec(t.Context(), "SET statement_timeout = '1s'; SELECT sum(sqrt(n)) FROM generate_series(1, 1e9) n")
		busy <- err
	}()
	testkit.Eventually(t, 10*time.Second, func() error {
		if n := ask(t, p, "SELECT count(*)::text FROM pg_stat_activity WHERE query LIKE '%sqrt%' AND pid <> pg_backend_pid()"); n != "1" {
			return fmt.Errorf("%s busy backends", n)
		}
		return nil
	})
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-busy; err == nil {
		t.Error("the busy backend ended well")
	}
}

func TestPostgresSaysWhyItDoesNotStart(t *testing.T) {
	t.Parallel()
	_, err := localserver.StartPostgres(t.Context(), localserver.PostgresOptions{
		Settings: map[string]string{"no_such_setting": "1"},
	})
	if err == nil || !strings.Contains(err.Error(), `unrecognized configuration parameter "no_such_setting"`) {
		t.Errorf("StartPostgres = %v, want the server's own words", err)
	}
}

func TestRedisIsEmptyAgainOrPersists(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"nothing is kept":     {want: "$-1"},
		"append-only is kept": {args: []string{"--appendonly", "yes", "--appendfsync", "always"}, want: "$1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startRedis(t, tt.args...)
			addr := r.Addr()
			for _, again := range []func() error{
				func() error { return r.Restart(t.Context()) },
				func() error { return errors.Join(r.Kill(t.Context()), r.Start(t.Context())) },
			} {
				if reply, err := r.Command(t.Context(), "SET", "k", "v"); err != nil || reply != "+OK" {
					t.Fatalf("SET = %s, %v", reply, err)
				}
				if err := again(); err != nil {
					t.Fatal(err)
				}
				if reply, err := r.Command(t.Context(), "GET", "k"); err != nil || reply != tt.want {
					t.Errorf("GET = %s, %v, want %s", reply, err, tt.want)
				}
			}
			if r.Addr() != addr {
				t.Errorf("Addr = %s, want %s", r.Addr(), addr)
			}
		})
	}
}

func TestCloseRemovesTheDirectory(t *testing.T) {
	t.Parallel()
	p := startPostgres(t, nil)
	r := startRedis(t)
	for range 2 {
		if err := errors.Join(p.Close(), r.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{p.Dir, r.Dir} {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v, want it gone", dir, err)
		}
	}
	if err := p.Start(t.Context()); err == nil {
		t.Error("a closed server was started")
	}
}

// The parent gets no chance to clean up: a kill -9, whether its servers run, are stopped, or stand still.
func TestNothingIsLeftOfAKilledParent(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(t *testing.T, pid int){
		"running": func(*testing.T, int) {},
		"frozen": func(t *testing.T, pid int) {
			t.Helper()
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		},
		"killed": func(t *testing.T, pid int) {
			t.Helper()
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parent, said := startChild(t)
			for _, pid := range said.PIDs {
				harm(t, pid)
			}
			kill(t, parent)
			testkit.Eventually(t, 30*time.Second, func() error { return remains(said) })
		})
	}
}

// Nor when it is killed while the cluster is being made.
func TestNothingIsLeftOfAParentKilledEarly(t *testing.T) {
	t.Parallel()
	tmp := t.TempDir()
	// The servers' account has to reach it when this is root.
	for dir := tmp; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for delay := 10 * time.Millisecond; delay < 2*time.Second; delay *= 2 {
		parent := childCommand(t)
		parent.Env = append(parent.Env, "TMPDIR="+tmp)
		if err := parent.Start(); err != nil {
			t.Fatal(err)
		}
		<-time.After(delay)
		kill(t, parent)
		testkit.Eventually(t, 30*time.Second, func() error {
			left, err := os.ReadDir(tmp)
			if err != nil {
				return err
			}
			if len(left) > 0 {
				return fmt.Errorf("after %v: %v left", delay, left)
			}
			return remains(child{Dirs: []string{tmp}})
		})
	}
}

func childCommand(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"=1")
	return cmd
}

// startChild returns a process whose servers run.
func startChild(t *testing.T) (*exec.Cmd, child) {
	t.Helper()
	cmd := childCommand(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said child
	if err := json.NewDecoder(stdout).Decode(&said); err != nil {
		kill(t, cmd)
		t.Fatalf("read the child's servers: %v: %s", err, stderr.String())
	}
	if err := remains(said); err == nil {
		t.Fatal("the child's servers cannot be seen: this test cannot fail")
	}
	return cmd, said
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // says that it was killed
}

// remains tells what is left of a child: its servers, any process that names its directories, the directories.
func remains(said child) error {
	for _, pid := range said.PIDs {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("process %d: %w", pid, errors.Join(err, errors.New("still there")))
		}
	}
	lines, err := exec.Command("ps", "-A", "-o", "args=").Output()
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(lines)) {
		for _, dir := range said.Dirs {
			if strings.Contains(line, dir) {
				return fmt.Errorf("still running: %s", line)
			}
		}
	}
	for _, dir := range said.Dirs {
		if _, err := os.Stat(dir); len(said.PIDs) > 0 && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("directory %s is still there", dir)
		}
	}
	return nil
}
