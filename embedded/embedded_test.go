package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/embedded"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

func TestMain(m *testing.M) {
	if err := openExample(context.Background()); err != nil {
		panic(err)
	}
	testkit.Main(m)
}

const patience = 30 * time.Second

type product struct {
	Name  string
	Price int64
}

// world is a database and a file.
type world struct {
	t    *testing.T
	pg   *pgtest.Server
	url  string
	slot string
	file string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, pg: pgtest.Shared(t), file: filepath.Join(t.TempDir(), "freshet.yaml")}
	w.url = w.pg.Database(t)
	w.slot = strings.ReplaceAll(redistest.Namespace(t), "-", "_")
	w.pg.Exec(t, w.url, "CREATE TABLE products (id int8 PRIMARY KEY, name text NOT NULL, price int8 NOT NULL)",
		"INSERT INTO products SELECT g, 'product ' || g, g FROM generate_series(1, 20) g")
	w.configure("")
	return w
}

// configure writes the file, with a line more or less.
func (w *world) configure(line string) {
	w.t.Helper()
	text := fmt.Sprintf("database: {url: %q}\nsource: {postgres: {slot: %s, publication: %s}}\nlisten: 127.0.0.1:0\n%s\nentries:\n"+
		"  product: {key: 'product:{id}', query: 'SELECT name, price FROM products WHERE id = @id'}\n", w.url, w.slot, w.slot, line)
	if err := os.WriteFile(w.file, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// service is what an application does with freshet: nothing in it depends on where values are kept.
func (w *world) service() (*freshet.Cache, *freshet.Typed[int64, product], *embedded.Daemon) {
	w.t.Helper()
	cache, daemon, err := embedded.Open(w.t.Context(), freshet.Options{Config: w.file})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := daemon.Stop(); err != nil {
			w.t.Errorf("Stop: %v", err)
		}
	})
	products, err := freshet.Entry[int64, product](cache, "product")
	if err != nil {
		w.t.Fatal(err)
	}
	testkit.Eventually(w.t, patience, daemon.Ready)
	return cache, products, daemon
}

// cached reads a key until it is a hit.
func (w *world) cached(cache *freshet.Cache, products *freshet.Typed[int64, product], id int64) {
	w.t.Helper()
	testkit.Eventually(w.t, patience, func() error {
		before := cache.Stats().Hits
		if _, err := products.Get(w.t.Context(), id); err != nil {
			return err
		}
		if cache.Stats().Hits == before {
			return errors.New("it is no hit: " + fmt.Sprintf("%+v", cache.Stats()))
		}
		return nil
	})
}

// story is what the same service sees wherever values are kept: hits, a change by somebody else that shows, a token that holds.
func (w *world) story() {
	w.t.Helper()
	cache, products, daemon := w.service()
	w.cached(cache, products, 7)
	if p, err := products.Get(w.t.Context(), 7); err != nil || p != (product{Name: "product 7", Price: 7}) {
		w.t.Errorf("Get = %+v, %v", p, err)
	}
	w.pg.Exec(w.t, w.url, "UPDATE products SET price = 70 WHERE id = 7")
	testkit.Eventually(w.t, patience, func() error {
		p, err := products.Get(w.t.Context(), 7)
		if err == nil && p.Price != 70 {
			err = fmt.Errorf("%+v", p)
		}
		return err
	})
	if _, err := products.Get(w.t.Context(), 8, freshet.MaxStale(time.Minute)); err != nil {
		w.t.Error(err)
	}
	if _, err := products.Get(w.t.Context(), 99); !errors.Is(err, freshet.ErrNotFound) {
		w.t.Errorf("Get of what is not there = %v", err)
	}
	if err := daemon.Stop(); err != nil {
		w.t.Errorf("Stop: %v", err)
	}
	select {
	case <-daemon.Done():
	default:
		w.t.Error("the daemon is stopped, and not done")
	}
	if _, err := products.Get(w.t.Context(), 7); err == nil {
		w.t.Error("a cache whose daemon was stopped answers")
	}
	w.pg.Exec(w.t, w.url, "UPDATE products SET price = id")
}

// TestMoveToRedis runs one service without Redis, and then with it: the file is another, and nothing else. Back again works as well:
// what was in Redis is not believed once another store was kept.
func TestMoveToRedis(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.story()
	inRedis := fmt.Sprintf("regions: [{name: local, redis: {url: %q}}]", redistest.Shared(t).URL)
	w.configure(inRedis)
	w.story()
	w.configure("")
	w.story()
	w.configure(inRedis)
	w.story()
}

// TestWithoutTheDaemon: a library that finds no regions and runs no daemon says what to do.
func TestWithoutTheDaemon(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := freshet.Open(t.Context(), freshet.Options{Config: w.file})
	if err == nil {
		t.Fatal("a library alone opens a file without regions")
	}
	for _, want := range []string{"regions", "github.com/freshet/freshet/embedded", "over HTTP", "Redis"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

// TestCommitWithoutRedis: a writer that names a key has its value gone, and its token is honoured.
func TestCommitWithoutRedis(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache, products, _ := w.service()
	pool := w.pool()
	for price := int64(100); price < 110; price++ {
		w.cached(cache, products, 3)
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), "UPDATE products SET price = $1 WHERE id = 3", price); err != nil {
			t.Fatal(err)
		}
		token, err := cache.Commit(t.Context(), tx, products.Key(3))
		if err != nil {
			t.Fatal(err)
		}
		if p, err := products.Get(t.Context(), 3, freshet.After(token)); err != nil || p.Price != price {
			t.Fatalf("after the commit of price %d: %+v, %v", price, p, err)
		}
	}
}

// TestStandby: of two instances of a service on one database one follows the log. The other reads from the database, so that it is
// never stale, and takes over when the first is gone.
func TestStandby(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache, products, first := w.service()
	w.cached(cache, products, 5)
	second, daemon, err := embedded.Open(t.Context(), freshet.Options{Config: w.file})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = daemon.Stop() }()
	other, err := freshet.Entry[int64, product](second, "product")
	if err != nil {
		t.Fatal(err)
	}
	for price := range int64(20) {
		w.pg.Exec(t, w.url, "UPDATE products SET price = "+strconv.FormatInt(price, 10)+" WHERE id = 5")
		if p, err := other.Get(t.Context(), 5); err != nil || p.Price != price {
			t.Fatalf("the standby reads %+v, %v; the price is %d", p, err, price)
		}
	}
	if err := daemon.Ready(); err == nil {
		t.Error("the standby vouches for what it serves")
	}
	if err := first.Stop(); err != nil {
		t.Error(err)
	}
	testkit.Eventually(t, patience, daemon.Ready)
	w.cached(second, other, 5)
}

// TestOpenThatFails leaves nothing behind: no goroutine, no listener.
func TestOpenThatFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, _, daemon := w.service()
	w.configure("namespace: other")
	text, err := os.ReadFile(w.file)
	if err != nil {
		t.Fatal(err)
	}
	taken := strings.Replace(string(text), "127.0.0.1:0", daemon.Addr(), 1)
	if err := os.WriteFile(w.file, []byte(taken), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := embedded.Open(t.Context(), freshet.Options{Config: w.file}); err == nil || !strings.Contains(err.Error(), "listen") {
		t.Errorf("Open on an address that is taken = %v", err)
	}
	if _, _, err := embedded.Open(t.Context(), freshet.Options{Config: "nowhere.yaml"}); err == nil {
		t.Error("Open without a file succeeds")
	}
	w.configure("")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := embedded.Open(ctx, freshet.Options{Config: w.file}); err == nil {
		t.Error("Open under a context that has ended succeeds")
	}
}

func (w *world) pool() *pgxpool.Pool {
	w.t.Helper()
	pool, err := pgxpool.New(w.t.Context(), w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(pool.Close)
	return pool
}
