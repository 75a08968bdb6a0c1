package memory

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/servetest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	patience = 30 * time.Second
	// within is how soon a change has to show. It is much longer than that takes (milliseconds), for a machine that has other
	// things to do.
	within = 5 * time.Second
	keys   = 40
)

// world is a database and a file without regions.
type world struct {
	t    *testing.T
	url  string
	file string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	pg := pgtest.Shared(t)
	w := &world{t: t, url: pg.Database(t), file: filepath.Join(t.TempDir(), "freshet.yaml")}
	pg.Exec(t, w.url, "CREATE TABLE products (id int8 PRIMARY KEY, shop int8 NOT NULL, price int8 NOT NULL)",
		fmt.Sprintf("INSERT INTO products SELECT g, g %% 5, 0 FROM generate_series(1, %d) g", keys),
		"ALTER TABLE products REPLICA IDENTITY FULL")
	slot := "memory_" + strconv.FormatUint(rand.Uint64(), 36)
	w.write(fmt.Sprintf(`
database: {url: %q}
source: {postgres: {slot: %s, publication: %s}}
listen: 127.0.0.1:0
defaults: {load_timeout: 20s} # a machine that stands still is no database that does not answer
entries:
  product: {key: 'product:{id}', query: 'SELECT id, price FROM products WHERE id = @id'}
  shop: {key: 'shop:{shop}', result: many, query: 'SELECT id, price FROM products WHERE shop = @shop ORDER BY id'}
  ranked: {key: 'ranked:{least}', result: many, query: 'SELECT id, price FROM products WHERE price >= @least ORDER BY id', allow_broad: [products]}
`, w.url, slot, slot))
	return w
}

func (w *world) write(text string) {
	w.t.Helper()
	if err := os.WriteFile(w.file, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// serve runs a daemon until it streams.
func (w *world) serve(name string) *servetest.Daemon {
	w.t.Helper()
	d := servetest.Start(w.t, name, w.file)
	testkit.Eventually(w.t, patience, func() error { return d.Live(w.t.Context()) })
	return d
}

func (w *world) connect() *pgx.Conn {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ctx, cancel := testkit.Context(w.t)
		defer cancel()
		_ = conn.Close(ctx)
	})
	return conn
}

// read reads an entry over HTTP.
func read(ctx context.Context, d *servetest.Daemon, path string) (body, status string, err error) {
	code, header, text, err := d.Get(ctx, "/v1/entries/"+path)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("%s: %d %s", path, code, text)
	}
	return strings.TrimSpace(string(text)), header.Get("Freshet-Status"), err
}

// run runs the program with a file that leads to the daemon.
func (w *world) run(d *servetest.Daemon, args ...string) (stdout []byte, code int) {
	w.t.Helper()
	text, err := os.ReadFile(w.file)
	if err != nil {
		w.t.Fatal(err)
	}
	file := filepath.Join(w.t.TempDir(), "freshet.yaml")
	if err := os.WriteFile(file, bytes.Replace(text, []byte("127.0.0.1:0"), []byte(d.Addr), 1), 0o600); err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command(servetest.Binary(w.t), append(args, "--config", file)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	stdout, err = cmd.Output()
	if exit := (&exec.ExitError{}); errors.As(err, &exit) {
		w.t.Logf("%v: %v\n%s", args, err, errs.Bytes())
		return stdout, exit.ExitCode()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return stdout, 0
}

// verified has freshet verify compare everything, and returns how many values it checked.
func (w *world) verified(d *servetest.Daemon) int {
	w.t.Helper()
	out, code := w.run(d, "verify", "--json", "--rate", "0")
	var report struct {
		Total struct {
			Checked    int `json:"checked"`
			Fresh      int `json:"fresh"`
			Violations int `json:"violations"`
			Undecided  int `json:"undecided"`
		} `json:"total"`
	}
	if err := json.Unmarshal(out, &report); err != nil {
		w.t.Fatalf("verify exits with %d and says %s: %v", code, out, err)
	}
	if code != 0 || report.Total.Violations != 0 || report.Total.Undecided != 0 || report.Total.Checked == 0 {
		w.t.Fatalf("verify exits with %d: %s", code, out)
	}
	return report.Total.Checked
}

// write changes rows at random, and keeps in prices what every product's price is at least: each price is higher than the one
// before it, and an entry is put after its COMMIT.
func write(ctx context.Context, conn *pgx.Conn, prices *[keys + 1]atomic.Int64, until time.Time) (writes int, err error) {
	for n := int64(1); time.Now().Before(until); n++ {
		id := 1 + rand.IntN(keys)
		if _, err := conn.Exec(ctx, "UPDATE products SET price = $2 WHERE id = $1", id, n); err != nil {
			return writes, err
		}
		prices[id].Store(n)
		writes++
	}
	return writes, nil
}

// TestRandomWrites has two readers read every kind of entry over HTTP while one writer changes rows at random, and looks that
// no read shows a price that was replaced longer ago than within; then everything that is cached is compared.
func TestRandomWrites(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.serve("memory")
	conn := w.connect()
	var (
		prices      [keys + 1]atomic.Int64
		hits, reads atomic.Int64
		running     sync.WaitGroup
	)
	until := time.Now().Add(6 * time.Second)
	failed := make(chan error, 3)
	running.Go(func() {
		if _, err := write(t.Context(), conn, &prices, until); err != nil {
			failed <- err
		}
	})
	for range 2 {
		running.Go(func() {
			for time.Now().Before(until) {
				id := 1 + rand.IntN(keys)
				for _, path := range []string{fmt.Sprintf("product/%d", id), fmt.Sprintf("shop/%d", id%5), "ranked/3"} {
					_, status, err := read(t.Context(), d, path)
					if err != nil {
						failed <- err
						return
					}
					reads.Add(1)
					if status == "hit" {
						hits.Add(1)
					}
				}
			}
		})
	}
	// A third reader waits for each price that it has seen committed, whose successor may come first.
	running.Go(func() {
		for time.Now().Before(until) {
			id := 1 + rand.IntN(keys)
			if err := shows(t.Context(), d, id, prices[id].Load()); err != nil {
				failed <- err
				return
			}
		}
	})
	running.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	if reads.Load() < 100 || hits.Load() == 0 {
		t.Errorf("%d reads with %d hits: the test shows nothing", reads.Load(), hits.Load())
	}
	t.Logf("%d reads, %d hits", reads.Load(), hits.Load())
	for id := 1; id <= keys; id++ {
		if err := shows(t.Context(), d, id, prices[id].Load()); err != nil {
			t.Error(err)
		}
	}
	if checked := w.verified(d); checked < keys {
		t.Errorf("verify checked %d values", checked)
	}
}

// shows reads a product until it has a price at least, and fails when that takes too long.
func shows(ctx context.Context, d *servetest.Daemon, id int, price int64) error {
	for began := time.Now(); ; {
		body, status, err := read(ctx, d, fmt.Sprintf("product/%d", id))
		if err != nil {
			return err
		}
		var row struct {
			Price int64 `json:"price"`
		}
		if err := json.Unmarshal([]byte(body), &row); err != nil {
			return err
		}
		if row.Price >= price {
			return nil
		}
		if since := time.Since(began); since > within {
			return fmt.Errorf("%v after the COMMIT product %d is %s (%s), its price %d", since, id, body, status, price)
		}
	}
}

// TestHotKey has many readers read one key while it is written all the time: each sees a price that it knows committed soon after,
// and the last one shows.
func TestHotKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.serve("memory")
	conn := w.connect()
	until := time.Now().Add(3 * time.Second)
	var (
		running sync.WaitGroup
		last    atomic.Int64
	)
	failed := make(chan error, 9)
	running.Go(func() {
		for n := int64(1); time.Now().Before(until); n++ {
			if _, err := conn.Exec(t.Context(), "UPDATE products SET price = $1 WHERE id = 7", n); err != nil {
				failed <- err
				return
			}
			last.Store(n)
		}
	})
	for range 8 {
		running.Go(func() {
			for time.Now().Before(until) {
				if err := shows(t.Context(), d, 7, last.Load()); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	running.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	if err := shows(t.Context(), d, 7, last.Load()); err != nil || last.Load() < 10 {
		t.Errorf("after %d writes: %v", last.Load(), err)
	}
	w.verified(d)
}

// TestKilled kills the daemon with a full cache, changes rows, and starts another: it has nothing, begins a generation, and
// serves what is true.
func TestKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.serve("first")
	conn := w.connect()
	for id := 1; id <= keys; id++ {
		testkit.Eventually(t, patience, func() error {
			_, status, err := read(t.Context(), d, fmt.Sprintf("product/%d", id))
			if err == nil && status != "hit" {
				err = fmt.Errorf("product %d is a %s", id, status)
			}
			return err
		})
	}
	before, err := d.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d.Kill()
	if _, err := conn.Exec(t.Context(), "UPDATE products SET price = 1000 + id"); err != nil {
		t.Fatal(err)
	}
	d = w.serve("second")
	after, err := d.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if before.Generation == "" || after.Generation == before.Generation {
		t.Errorf("generation %q follows %q", after.Generation, before.Generation)
	}
	for id := 1; id <= keys; id++ {
		body, status, err := read(t.Context(), d, fmt.Sprintf("product/%d", id))
		if want := fmt.Sprintf(`{"id":%d,"price":%d}`, id, 1000+id); err != nil || body != want || status != "miss" {
			t.Errorf("after the restart: %s, a %s, %v; want %s, a miss", body, status, err, want)
		}
	}
	if _, err := conn.Exec(t.Context(), "UPDATE products SET price = 7 WHERE id = 3"); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, within, func() error {
		body, _, err := read(t.Context(), d, "product/3")
		if err == nil && body != `{"id":3,"price":7}` {
			err = errors.New(body)
		}
		return err
	})
	w.verified(d)
}

// TestVerifyFindsABreach: what verify reads through the daemon is what the daemon serves, and it finds what is stale there. The
// breach is a rule of the file's that is not true.
func TestVerifyFindsABreach(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text, err := os.ReadFile(w.file)
	if err != nil {
		t.Fatal(err)
	}
	w.write(strings.Replace(string(text), "WHERE id = @id'}", "WHERE id = @id', unsafe_ignore: [products.price]}", 1))
	d := w.serve("memory")
	conn := w.connect()
	testkit.Eventually(t, patience, func() error {
		_, status, err := read(t.Context(), d, "product/7")
		if err == nil && status != "hit" {
			err = errors.New(status)
		}
		return err
	})
	if _, err := conn.Exec(t.Context(), "UPDATE products SET price = 9 WHERE id = 7"); err != nil {
		t.Fatal(err)
	}
	if out, code := w.run(d, "verify", "--entry", "product"); code != 3 || !strings.Contains(string(out), "product:7") {
		t.Errorf("verify exits with %d and says %s", code, out)
	}
}
