package promises_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/daemon"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// keys is how many rows there are. Each has a version, which every transaction that writes the row makes one higher. The
// last ones are read with bounds only: a read with a token brings what is cached up to date, and with it hides what a
// bound would have let pass.
const keys, bounded = 8, 3

type item struct {
	ID int64 `json:"id"`
	V  int64 `json:"v"`
}

// commit is a transaction that was committed: which version it gave to which row, and when COMMIT had returned.
type commit struct {
	token   freshet.Token
	wrote   map[int64]int64
	settled time.Time
}

// world is a database, a store, a daemon that is restarted, and what was committed.
type world struct {
	t         *testing.T
	db        *pgxpool.Pool
	redis     rueidis.Client
	namespace string
	file      string

	mu      sync.Mutex
	commits []commit
}

func newWorld(t *testing.T) *world {
	t.Helper()
	pg, redis := pgtest.Shared(t), redistest.Shared(t)
	w := &world{t: t, namespace: redistest.Namespace(t)}
	url := pg.Database(t)
	pg.Exec(t, url, `CREATE TABLE items (id int8 PRIMARY KEY, v int8 NOT NULL)`,
		fmt.Sprintf(`INSERT INTO items SELECT g, 0 FROM generate_series(1, %d) g`, keys))
	var err error
	if w.db, err = pgxpool.New(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.db.Close)
	if w.redis, err = rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{redis.Addr}, DisableCache: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.redis.Close)
	w.file = filepath.Join(t.TempDir(), "freshet.yaml")
	text := fmt.Sprintf("namespace: %s\ndatabase: {url: %q}\nsource: {postgres: {slot: %q}}\nregions: [{name: local, redis: {url: %q}}]\n"+
		"listen: 127.0.0.1:0\nentries:\n  item: {key: \"item:{id}\", query: \"SELECT id, v FROM items WHERE id = @id\"}\n",
		w.namespace, url, strings.ReplaceAll(w.namespace, "-", "_"), redis.URL)
	if err := os.WriteFile(w.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

// reads opens one of the processes that read.
func (w *world) reads() *freshet.Typed[int64, item] {
	w.t.Helper()
	cache, err := freshet.Open(w.t.Context(), freshet.Options{Config: w.file})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(cache.Close)
	items, err := freshet.Entry[int64, item](cache, "item")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { w.t.Logf("%+v", cache.Stats()) })
	return items
}

// follow runs the daemon until ctx ends.
func (w *world) follow(ctx context.Context) error {
	c, err := config.Load(w.file, os.LookupEnv)
	if err != nil {
		return err
	}
	return daemon.Run(ctx, daemon.Options{Config: c, Logger: slog.New(slog.DiscardHandler)})
}

// lose takes one of the daemon's keys out of the store.
func (w *world) lose(ctx context.Context, name string) error {
	return w.redis.Do(ctx, w.redis.B().Del().Key("f:"+w.namespace+":"+name).Build()).Error()
}

// stall stops the server's process that sends the log, for a while.
func (w *world) stall(ctx context.Context, d time.Duration) error {
	var pid *int
	err := w.db.QueryRow(context.WithoutCancel(ctx), `SELECT max(active_pid) FROM pg_replication_slots WHERE database = current_database()`).Scan(&pid)
	if err != nil || pid == nil {
		return err
	}
	if err := syscall.Kill(*pid, syscall.SIGSTOP); err != nil {
		return nil //nolint:nilerr // the daemon has just left it
	}
	rest(ctx, d)
	_ = syscall.Kill(*pid, syscall.SIGCONT)
	return nil
}

var errRolledBack = errors.New("rolled back, as it was meant to be")

// write gives the rows their next versions, in one transaction.
func (w *world) write(ctx context.Context, ids []int64, savepoint, roll bool) error {
	c := commit{wrote: map[int64]int64{}}
	err := pgx.BeginFunc(ctx, w.db, func(tx pgx.Tx) error {
		for i, id := range ids { // ascending, so that writers do not wait for each other in a circle
			if savepoint && i > 0 {
				if _, err := tx.Exec(ctx, "SAVEPOINT s"); err != nil {
					return err
				}
			}
			var v int64
			if err := tx.QueryRow(ctx, "UPDATE items SET v = v + 1 WHERE id = $1 RETURNING v", id).Scan(&v); err != nil {
				return err
			}
			c.wrote[id] = v
		}
		var text string
		const token = `SELECT system_identifier || '.' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || '.' || pg_current_xact_id()
			FROM pg_control_system()`
		if err := tx.QueryRow(ctx, token).Scan(&text); err != nil {
			return err
		}
		if roll {
			return errRolledBack
		}
		var err error
		c.token, err = freshet.ParseToken(text)
		return err
	})
	if errors.Is(err, errRolledBack) {
		return nil
	}
	if err != nil {
		return err
	}
	c.settled = time.Now()
	w.mu.Lock()
	w.commits = append(w.commits, c)
	w.mu.Unlock()
	return nil
}

// recent is one of the last commits; false when there is none yet.
func (w *world) recent(back int) (commit, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.commits) == 0 {
		return commit{}, false
	}
	return w.commits[max(0, len(w.commits)-1-back)], true
}

// settledBefore is the highest version of a row whose COMMIT had returned at a time.
func (w *world) settledBefore(id int64, at time.Time) (v int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.commits {
		if c := &w.commits[i]; c.settled.Before(at) {
			v = max(v, c.wrote[id])
		}
	}
	return v
}
