package history

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/envelope"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/internal/testkit/servetest"
)

// TestMain has more tests run side by side than there are processors: they wait much more than they work.
func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", "6"); err != nil { // what the command line says comes later, and counts
		panic(err)
	}
	testkit.Main(m)
}

const (
	namespace = "history"
	items     = 60
	// patience is how long it may take until everything is whole again.
	patience = 45 * time.Second
)

// item is a row. pad makes it large enough that some of them fill a small Redis.
type item struct {
	ID  int64  `json:"id"`
	V   int64  `json:"v"`
	Pad string `json:"pad"`
}

// world is a database, a Redis, a daemon of its own process, and a library in this one.
type world struct {
	t       *testing.T
	url     string
	redis   *redistest.Server // the present master
	slot    string
	daemon  *servetest.Daemon
	pool    *pgxpool.Pool
	cache   *freshet.Cache
	queried *freshet.Typed[int64, item]
	coded   *freshet.Typed[int64, item]
	slow    atomic.Pointer[gate] // when set, loads by code wait in it
	writes  atomic.Int64
	quiet   atomic.Bool // nobody writes to the upper half of the items any more: what is stale there stays
}

// gate holds up loads that have their row already.
type gate struct {
	reached chan struct{} // one for each load that waits
	open    chan struct{} // closed to let them go
}

type options struct {
	pg      *pgtest.Server // default: the shared one
	rewind  time.Duration  // default: 10 s
	timeout time.Duration  // of loads by code; default: 3 s
	redis   string         // as everybody reaches the Redis; default: its own address
	// daemon and library are other ways to the servers; they get the usual ones.
	daemon, library way
}

// way changes the addresses of database and Redis.
type way func(database, redis string) (string, string)

func newWorld(t *testing.T, redis *redistest.Server, o options) *world {
	t.Helper()
	if o.pg == nil {
		o.pg = pgtest.Shared(t)
	}
	w := &world{t: t, redis: redis, url: o.pg.Database(t)}
	if o.redis == "" {
		o.redis = redis.URL
	}
	o.rewind, o.timeout = cmp.Or(o.rewind, 10*time.Second), cmp.Or(o.timeout, 3*time.Second)
	o.pg.Exec(t, w.url, "CREATE SEQUENCE versions",
		"CREATE TABLE items (id int8 PRIMARY KEY, v int8 NOT NULL, pad text NOT NULL DEFAULT repeat('x', 2000))",
		fmt.Sprintf("INSERT INTO items SELECT g, nextval('versions') FROM generate_series(1, %d) g", items))
	// A slot is the whole server's.
	w.slot = fmt.Sprintf("%s_%d", namespace, rand.Uint32())
	var err error
	w.daemon = servetest.Start(t, "daemon", w.config("daemon.yaml", o, o.daemon))
	t.Cleanup(func() { // the slot goes before its database does
		if err := w.daemon.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", w.daemon.Log())
		}
	})
	if w.pool, err = pgxpool.New(t.Context(), w.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.pool.Close)
	if w.cache, err = freshet.Open(t.Context(), freshet.Options{Config: w.config("library.yaml", o, o.library), Database: w.pool}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.cache.Close)
	if w.queried, err = freshet.Entry[int64, item](w.cache, "item"); err != nil {
		t.Fatal(err)
	}
	if w.coded, err = freshet.Entry(w.cache, "coded", freshet.Load(w.load)); err != nil {
		t.Fatal(err)
	}
	w.live()
	return w
}

// config writes a configuration.
func (w *world) config(name string, o options, via way) string {
	w.t.Helper()
	database, redis := w.url, o.redis
	if via != nil {
		database, redis = via(database, redis)
	}
	text := fmt.Sprintf(`namespace: %s
database: {url: %q}
source: {postgres: {slot: %s, publication: history, rewind: {time: %s}}}
regions: [{name: local, redis: {url: %q}}]
listen: 127.0.0.1:0
defaults: {ttl: 1h, negative_ttl: 1h, load_timeout: 3s}
entries:
  item: {key: "item:{id}", query: "SELECT id, v, pad FROM items WHERE id = @id"}
  coded: {key: "coded:{id}", depends_on: [{table: items, key: "{id}"}], load_timeout: %s}
`, namespace, database, w.slot, o.rewind, redis, o.timeout)
	file := filepath.Join(w.t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return file
}

// load is an application's code: it reads the row, and takes its time before it returns.
func (w *world) load(ctx context.Context, q freshet.Querier, id int64) (item, error) {
	value := item{ID: id}
	if err := q.QueryRow(ctx, "SELECT v, pad FROM items WHERE id = $1", id).Scan(&value.V, &value.Pad); err != nil {
		return item{}, fmt.Errorf("load: %w", err)
	}
	if g := w.slow.Load(); g != nil {
		g.reached <- struct{}{}
		select {
		case <-g.open:
		case <-ctx.Done(): // a failed test ends all the same
		}
		return value, nil
	}
	wait(ctx, rand.N(15*time.Millisecond))
	return value, nil
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// live waits until the daemon streams and every entry is live.
func (w *world) live() servetest.Status {
	w.t.Helper()
	testkit.Eventually(w.t, patience, func() error { return w.daemon.Live(w.t.Context()) })
	s, err := w.daemon.Status(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// under runs a fault under random writers, and readers that fill all the time; the load goes on a while before it and
// after it, but for writes to half of the items: a value that the fault left stale must not be mended by the next write.
func (w *world) under(fault func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	var working sync.WaitGroup
	for range 2 {
		working.Go(func() { w.write(ctx) })
	}
	for n := range 4 {
		entry := w.queried
		if n%2 == 1 {
			entry = w.coded
		}
		working.Go(func() { read(ctx, entry) })
	}
	const around = 300 * time.Millisecond
	wait(ctx, around)
	fault()
	w.quiet.Store(true)
	defer w.quiet.Store(false)
	wait(ctx, around)
	w.live()
	wait(ctx, around)
	cancel()
	working.Wait()
}

func (w *world) write(ctx context.Context) {
	for ctx.Err() == nil {
		among := int64(items)
		if w.quiet.Load() {
			among /= 2
		}
		// Not ended by ctx: a statement that is given up may commit later.
		_, err := w.pool.Exec(context.WithoutCancel(ctx), "UPDATE items SET v = nextval('versions') WHERE id = ANY ($1)",
			[]int64{1 + rand.Int64N(among), 1 + rand.Int64N(among)})
		if err == nil {
			w.writes.Add(1)
		}
		wait(ctx, rand.N(30*time.Millisecond))
	}
}

func read(ctx context.Context, entry *freshet.Typed[int64, item]) {
	for ctx.Err() == nil {
		_, err := entry.Get(ctx, 1+rand.Int64N(items))
		pause := rand.N(3 * time.Millisecond)
		if err != nil {
			pause += 10 * time.Millisecond
		}
		wait(ctx, pause)
	}
}

// settle waits until everything that was committed is applied, and compares everything that is cached with the database:
// first what the load left, then each key as a reader gets it, then what those reads have filled.
func (w *world) settle(after string) servetest.Status {
	w.t.Helper()
	w.live()
	conn, err := pgx.Connect(w.t.Context(), w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	expected := map[int64]item{}
	rows, err := conn.Query(w.t.Context(), "SELECT id, v, pad FROM items")
	if err != nil {
		w.t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[item])
	if err != nil {
		w.t.Fatal(err)
	}
	for _, row := range all {
		expected[row.ID] = row
	}
	w.applied(conn)
	status := w.live()
	left := w.compareRecords(after+", left by the load", expected)
	wait(w.t.Context(), time.Second) // for so long a process may hold in its memory what is over
	for name, entry := range map[string]*freshet.Typed[int64, item]{"item": w.queried, "coded": w.coded} {
		for id := range int64(items) {
			got, err := entry.Get(w.t.Context(), id+1)
			if err != nil || got != expected[id+1] {
				w.t.Errorf("%s: %s:%d is read as version %d, %v; the database has %d", after, name, id+1, got.V, err, expected[id+1].V)
			}
		}
	}
	filled := w.compareRecords(after+", filled at rest", expected)
	w.t.Logf("%s: %d values compared as the load left them, %d after each was read; generation %s, gaps %d",
		after, left, filled, status.Generation, status.Gaps)
	return status
}

// applied waits until the present master's HEAD is past everything that was committed.
func (w *world) applied(conn *pgx.Conn) {
	w.t.Helper()
	if _, err := conn.Exec(w.t.Context(), "SELECT pg_logical_emit_message(true, 'history', '')"); err != nil {
		w.t.Fatal(err)
	}
	var end string
	const query = `SELECT lpad(to_hex((pg_current_wal_insert_lsn() - '0/0')::int8), 16, '0')`
	if err := conn.QueryRow(w.t.Context(), query).Scan(&end); err != nil {
		w.t.Fatal(err)
	}
	testkit.Eventually(w.t, patience, func() error {
		if wc := w.wc(); wc < end {
			return fmt.Errorf("HEAD is at %q, the last commit before %s", wc, end)
		}
		return nil
	})
}

// wc is HEAD's Wc, empty without a HEAD.
func (w *world) wc() string {
	w.t.Helper()
	wc, err := w.redis.Ask(w.t, "HGET", "f:"+namespace+":head", "wc").ToString()
	if err != nil && !rueidis.IsRedisNil(err) {
		w.t.Fatal(err)
	}
	return wc
}

// compareRecords compares every live record under a live name, of the present master.
func (w *world) compareRecords(when string, expected map[int64]item) (compared int) {
	w.t.Helper()
	r := w.roster()
	for name, record := range w.values(w.records()...) {
		entry, id, ok := r.key(name)
		if !ok {
			continue
		}
		compared++
		var got item
		payload, err := envelope.JSONOf(record.Payload)
		if err == nil {
			err = json.Unmarshal(payload, &got)
		}
		if err != nil || got != expected[id] {
			w.t.Errorf("%s: stale for good: %s:%d is cached as version %d (%v, %v), the database has %d",
				when, entry, id, got.V, record.Coverage, err, expected[id].V)
		}
	}
	return compared
}
