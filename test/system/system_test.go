package system

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/internal/testkit/servetest"
	"github.com/freshet/freshet/mvcc"
)

func TestMain(m *testing.M) {
	if file := os.Getenv(readerVariable); file != "" {
		os.Exit(hotReader(file)) //nolint:forbidigo // this process is a reader, and no test
	}
	testkit.Main(m)
}

const patience = 30 * time.Second

// world is a database, a store and a configuration of the test's own.
type world struct {
	t         *testing.T
	url       string
	slot      string
	namespace string
	redis     string
	file      string
	store     *redisstore.Store
}

func newWorld(t *testing.T, entries string, statements ...string) *world {
	t.Helper()
	pg, redis := pgtest.Shared(t), redistest.Shared(t)
	w := &world{t: t, url: pg.Database(t), namespace: redistest.Namespace(t), redis: redis.URL}
	w.slot = strings.ReplaceAll(w.namespace, "-", "_")
	pg.Exec(t, w.url, statements...)
	w.file = filepath.Join(t.TempDir(), "freshet.yaml")
	config := fmt.Sprintf("namespace: %s\ndatabase: {url: %q}\n"+
		"source: {postgres: {slot: %s, publication: %s, rewind: {time: 1ms, wal: 1B}}}\n"+
		"regions: [{name: local, redis: {url: %q}}]\nlisten: 127.0.0.1:0\nentries:\n%s",
		w.namespace, w.url, w.slot, w.slot, redis.URL, entries)
	if err := os.WriteFile(w.file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.store, err = redisstore.Open(t.Context(), redisstore.Options{URL: redis.URL, Namespace: w.namespace, Patience: patience}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.store.Close)
	return w
}

func (w *world) serve(name string) *servetest.Daemon {
	w.t.Helper()
	return servetest.Start(w.t, name, w.file)
}

func (w *world) live(d *servetest.Daemon) {
	w.t.Helper()
	testkit.Eventually(w.t, patience, func() error { return d.Live(w.t.Context()) })
}

func (w *world) phase(d *servetest.Daemon, want string) servetest.Status {
	w.t.Helper()
	var s servetest.Status
	testkit.Eventually(w.t, patience, func() error {
		var err error
		if s, err = d.Status(w.t.Context()); err == nil && s.Phase != want {
			err = fmt.Errorf("daemon %s: %s (%s), want %s", d.Name, s.Phase, s.Problem, want)
		}
		return err
	})
	return s
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

func (w *world) exec(conn *pgx.Conn, sql string, args ...any) {
	w.t.Helper()
	if _, err := conn.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

// lsn asks for a log position.
func lsn(ctx context.Context, conn *pgx.Conn, sql string, args ...any) (mvcc.LSN, error) {
	var text string
	if err := conn.QueryRow(ctx, sql, args...).Scan(&text); err != nil {
		return 0, fmt.Errorf("%s: %w", sql, err)
	}
	return mvcc.ParseLSN(text)
}

// price reads a product through a daemon's gateway: the body, and where it came from. A daemon that has just begun to
// listen may not be able to answer yet, and says so with 503.
func (w *world) price(d *servetest.Daemon, id int) (body, status string) {
	w.t.Helper()
	testkit.Eventually(w.t, patience, func() error {
		code, header, text, err := d.Get(w.t.Context(), fmt.Sprintf("/v1/entries/product/%d", id))
		if err == nil && code == http.StatusServiceUnavailable {
			err = fmt.Errorf("product %d: %d %s", id, code, text)
		} else if err == nil && code != http.StatusOK {
			w.t.Fatalf("product %d: %d %s", id, code, text)
		}
		body, status = string(text), header.Get("Freshet-Status")
		return err
	})
	return body, status
}

const (
	products = "CREATE TABLE products (id int8 PRIMARY KEY, price int8 NOT NULL)"
	rows     = "INSERT INTO products SELECT g, 0 FROM generate_series(1, 100) g"
	product  = "  product: {key: \"product:{id}\", query: \"SELECT id, price FROM products WHERE id = @id\"}\n"
)

// The first line of the log has the address, so that whoever asked for port 0 finds it.
func TestFirstLogLineHasTheAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t, product, products)
	d := w.serve("first")
	if want := regexp.MustCompile(`"msg":"listening","addr":"127\.0\.0\.1:[1-9]\d*"`); !want.MatchString(d.First) {
		t.Errorf("the first line of the log is %s", d.First)
	}
	// It answers at once, also before it has come to anything.
	if code, _, body, err := d.Get(t.Context(), "/livez"); err != nil || code != http.StatusOK {
		t.Errorf("GET /livez = %d %s, %v", code, body, err)
	}
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
}

// A graceful stop under writes applies everything that was committed before it, confirms it, and exits with 0.
func TestGracefulStop(t *testing.T) {
	t.Parallel()
	w := newWorld(t, product, products, rows)
	d := w.serve("stopped")
	w.live(d)
	conn := w.connect()
	for id := 1; id <= 100; id++ {
		w.price(d, id)
	}
	const writes = 2000
	for n := range writes {
		w.exec(conn, "UPDATE products SET price = price + 1 WHERE id = $1", n%100+1)
	}
	last, err := lsn(t.Context(), conn, "SELECT pg_current_wal_flush_lsn()::text")
	if err != nil {
		t.Fatal(err)
	}
	// The walsender has sent what was committed up to here; the daemon may not have applied it.
	testkit.Eventually(t, patience, func() error {
		sent, err := lsn(t.Context(), conn, "SELECT s.sent_lsn::text FROM pg_stat_replication s JOIN pg_replication_slots r ON r.active_pid = s.pid WHERE r.slot_name = $1", w.slot)
		if err == nil && sent < last {
			err = fmt.Errorf("sent up to %v, written up to %v", sent, last)
		}
		return err
	})
	began := time.Now()
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	t.Logf("stopped within %v", time.Since(began))
	head, found, err := w.store.Head(t.Context())
	if err != nil || !found || head.Wc < last {
		t.Errorf("after the stop HEAD is at %v (%t, %v), the last commit before %v", head.Wc, found, err, last)
	}
	confirmed, err := lsn(t.Context(), conn, "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1", w.slot)
	// The rewind depth of this configuration is one byte.
	if err != nil || confirmed+1 < last || confirmed > head.Wc {
		t.Errorf("the slot's confirmation is at %v (%v), want at least %v less one byte, and at most HEAD's %v", confirmed, err, last, head.Wc)
	}
	var active bool
	if err := conn.QueryRow(t.Context(), "SELECT active FROM pg_replication_slots WHERE slot_name = $1", w.slot).Scan(&active); err != nil || active {
		t.Errorf("the slot is active: %t (%v)", active, err)
	}
	// What the next daemon finds needs no mending: it goes on in the same generation.
	next := w.serve("next")
	w.live(next)
	if s, err := next.Status(t.Context()); err != nil || s.Generation != head.Generation || s.Gaps != 0 {
		t.Errorf("the next daemon is in generation %s after %d gaps (%v), want %s", s.Generation, s.Gaps, err, head.Generation)
	}
	for id := 1; id <= 100; id++ {
		if body, _ := w.price(next, id); body != fmt.Sprintf(`{"id":%d,"price":%d}`, id, writes/100) {
			t.Errorf("product %d = %s", id, body)
		}
	}
}

// A second daemon waits, says so, serves meanwhile, and takes over when the first is killed.
func TestStandbyTakesOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, product, products, rows)
	first := w.serve("first")
	w.live(first)
	second := w.serve("second")
	s := w.phase(second, "standby")
	if !strings.Contains(s.Problem, "replication slot is in use") || !strings.Contains(second.Log(), "another daemon holds the slot; waiting as standby") {
		t.Errorf("the standby's problem is %q, its log\n%s", s.Problem, second.Log())
	}
	if code, _, body, err := second.Get(t.Context(), "/readyz"); err != nil || code != http.StatusServiceUnavailable || !strings.Contains(string(body), "standby") {
		t.Errorf("GET /readyz of the standby = %d %s, %v", code, body, err)
	}
	if code, _, body, err := second.Get(t.Context(), "/livez"); err != nil || code != http.StatusOK {
		t.Errorf("GET /livez of the standby = %d %s, %v", code, body, err)
	}
	// Its gateway reads the same cache.
	conn := w.connect()
	w.price(first, 1)
	if body, status := w.price(second, 1); status != "hit" || body != `{"id":1,"price":0}` {
		t.Errorf("product 1 through the standby = %s, a %s", body, status)
	}
	before := w.phase(first, "streaming")

	// Writes go on while nobody follows the log.
	first.Kill()
	w.exec(conn, "UPDATE products SET price = 1")
	began := time.Now()
	after := w.phase(second, "streaming")
	t.Logf("took over within %v", time.Since(began))
	if after.Generation != before.Generation || after.Gaps != 0 {
		t.Errorf("after taking over: generation %s, %d gaps, want generation %s", after.Generation, after.Gaps, before.Generation)
	}
	for id := 1; id <= 100; id++ {
		if body, _ := w.price(second, id); body != fmt.Sprintf(`{"id":%d,"price":1}`, id) {
			t.Errorf("product %d = %s", id, body)
		}
	}
	third := w.serve("third")
	w.phase(third, "standby")
	// A standby stops as well as any other.
	if err := errors.Join(third.Stop(), second.Stop()); err != nil {
		t.Error(err)
	}
}

// A daemon that is killed while it catches up is followed by one that catches up.
func TestKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, product, products, rows)
	d := w.serve("0")
	w.live(d)
	conn := w.connect()
	for round := 1; round <= 4; round++ {
		for id := 1; id <= 100; id += 7 {
			w.price(d, id)
		}
		for n := range 200 {
			w.exec(conn, "UPDATE products SET price = $2 WHERE id = $1", n%100+1, round*1000+n/100)
		}
		d.Kill()
		d = w.serve(strconv.Itoa(round))
	}
	w.live(d)
	last, err := lsn(t.Context(), conn, "SELECT pg_current_wal_flush_lsn()::text")
	if err != nil {
		t.Fatal(err)
	}
	w.applied(last)
	for id := 1; id <= 100; id++ {
		if body, _ := w.price(d, id); body != fmt.Sprintf(`{"id":%d,"price":4001}`, id) {
			t.Errorf("product %d = %s", id, body)
		}
	}
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
}

// applied waits until the store has everything that ends up to a position.
func (w *world) applied(p mvcc.LSN) {
	w.t.Helper()
	testkit.Eventually(w.t, patience, func() error {
		head, found, err := w.store.Head(w.t.Context())
		if err == nil && (!found || head.Wc < p) {
			err = fmt.Errorf("HEAD is at %v, want %v", head.Wc, p)
		}
		return err
	})
}
