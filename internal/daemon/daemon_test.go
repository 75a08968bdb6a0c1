package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/daemon"
	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const patience = 30 * time.Second

// world is a shop, a store, and the configuration for them.
type world struct {
	t     *testing.T
	pg    *pgtest.Server
	redis *redistest.Server
	url   string
	file  string
	base  string // the running daemon

	namespace string
	unused    time.Duration
}

const shop = `
CREATE TABLE products (id int8 PRIMARY KEY, name text NOT NULL, price int8 NOT NULL);
INSERT INTO products SELECT g, 'product ' || g, g FROM generate_series(1, 100) g;
CREATE TABLE users (id int8 PRIMARY KEY, name text NOT NULL);
CREATE TABLE profiles (user_id int8 PRIMARY KEY REFERENCES users, bio text);
CREATE TABLE addresses (user_id int8 PRIMARY KEY REFERENCES users, city text);
INSERT INTO users VALUES (1, 'Ada'); INSERT INTO profiles VALUES (1, 'bio'); INSERT INTO addresses VALUES (1, 'London')`

const entries = `
defaults: {ttl: 1h, load_timeout: 2s}
entries:
  product:
    key: product:{id}
    query: SELECT id, name, price FROM products WHERE id = @id
  user_profile:
    key: user:{id}:profile
    query: |
      SELECT u.id, u.name, p.bio, a.city
      FROM users u
      JOIN profiles p ON p.user_id = u.id
      LEFT JOIN addresses a ON a.user_id = u.id
      WHERE u.id = @id
`

func newWorld(t *testing.T, own bool, redisArgs ...string) *world {
	t.Helper()
	w := &world{t: t}
	if own {
		w.pg, w.redis = pgtest.Start(t, pgtest.Options{}), redistest.Start(t, redisArgs...)
	} else {
		w.pg, w.redis = pgtest.Shared(t), redistest.Shared(t)
	}
	w.url = w.pg.Database(t)
	w.pg.Exec(t, w.url, strings.Split(shop, ";")...)
	w.configure(entries)
	return w
}

func (w *world) configure(entries string) {
	w.t.Helper()
	w.namespace = redistest.Namespace(w.t)
	w.rewrite(entries)
}

// rewrite has the next daemon find another file of the same namespace.
func (w *world) rewrite(entries string) {
	w.t.Helper()
	w.file = filepath.Join(w.t.TempDir(), "freshet.yaml")
	text := fmt.Sprintf("namespace: %s\ndatabase: {url: %q}\nsource: {postgres: {slot: %q}}\n"+
		"regions: [{name: local, redis: {url: %q}}]\nlisten: 127.0.0.1:0\n%s",
		w.namespace, w.url, strings.ReplaceAll(w.namespace, "-", "_"), w.redis.URL, entries)
	if err := os.WriteFile(w.file, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

type running struct {
	w      *world
	cancel context.CancelFunc
	done   chan error
}

// start runs the daemon until the end of the test and waits until it listens.
func (w *world) start() *running {
	w.t.Helper()
	c, err := config.Load(w.file, os.LookupEnv)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.serve(daemon.Options{Config: c, Logger: slog.New(slog.NewTextHandler(logTo{w.t}, nil)), Unused: w.unused})
}

func (w *world) serve(o daemon.Options) *running {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	addr := make(chan string, 1)
	r := &running{w: w, cancel: cancel, done: make(chan error, 1)}
	o.Ready = func(a string) { addr <- a }
	go func() { r.done <- daemon.Run(ctx, o) }()
	w.t.Cleanup(func() { _ = r.stop() })
	select {
	case a := <-addr:
		w.base = "http://" + a
	case err := <-r.done:
		w.t.Fatalf("Run() = %v", err)
	}
	return r
}

func (r *running) stop() error {
	r.cancel()
	err := <-r.done
	r.done <- err
	return err
}

type logTo struct{ t *testing.T }

func (l logTo) Write(p []byte) (int, error) {
	if l.t.Context().Err() == nil {
		l.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

type answer struct {
	status      int
	cache, body string
	etag, retry string
	caching     string
}

func (w *world) get(path string, header ...string) answer {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.base+path, http.NoBody)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.send(req, header...)
}

func (w *world) send(req *http.Request, header ...string) answer {
	w.t.Helper()
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return answer{body: err.Error()}
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header.Get("Freshet-Status"), strings.TrimSpace(string(body)), resp.Header.Get("ETag"), resp.Header.Get("Retry-After"), resp.Header.Get("Cache-Control")}
}

// until polls a path until the answer is as wanted.
func (w *world) until(path string, want func(a answer) bool) answer {
	w.t.Helper()
	var a answer
	testkit.Eventually(w.t, patience, func() error {
		if a = w.get(path); !want(a) {
			return fmt.Errorf("GET %s = %+v", path, a)
		}
		return nil
	})
	return a
}

func hit(a answer) bool { return a.status == http.StatusOK && a.cache == "hit" }

func bodyIs(body string) func(a answer) bool {
	return func(a answer) bool { return a.status == http.StatusOK && a.body == body }
}

func (w *world) ready() {
	w.t.Helper()
	w.until("/readyz", func(a answer) bool { return a.status == http.StatusOK })
}

// TestCommittedChangeIsServedFresh is the main job: every entry that depends on what a transaction changed is fresh.
func TestCommittedChangeIsServedFresh(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	r := w.start()
	w.ready()
	w.until("/v1/entries/product/7", hit)
	if a := w.get("/v1/entries/product/007"); a.cache != "hit" || a.body != `{"id":7,"name":"product 7","price":7}` {
		t.Errorf("another spelling of the key: %+v", a)
	}
	w.pg.Exec(t, w.url, `UPDATE products SET price = 70 WHERE id = 7`)
	w.until("/v1/entries/product/7", bodyIs(`{"id":7,"name":"product 7","price":70}`))

	w.until("/v1/entries/user_profile/1", hit)
	w.pg.Exec(t, w.url, `UPDATE addresses SET city = 'Paris' WHERE user_id = 1`)
	w.until("/v1/entries/user_profile/1", bodyIs(`{"id":1,"name":"Ada","bio":"bio","city":"Paris"}`))
	w.until("/v1/entries/user_profile/1", hit)
	w.pg.Exec(t, w.url, `DELETE FROM addresses WHERE user_id = 1`)
	w.until("/v1/entries/user_profile/1", bodyIs(`{"id":1,"name":"Ada","bio":"bio","city":null}`))

	// No such row is cached too, and goes when the row comes.
	w.until("/v1/entries/product/500", func(a answer) bool { return a.status == http.StatusNotFound && a.cache == "hit" })
	w.pg.Exec(t, w.url, `INSERT INTO products VALUES (500, 'new', 5)`)
	w.until("/v1/entries/product/500", bodyIs(`{"id":500,"name":"new","price":5}`))

	// Whoever does not take the cache's word has the database's.
	a := w.until("/v1/entries/product/7", hit)
	for _, demand := range []string{"no-cache", "max-age=0", "no-cache, max-age=60"} {
		if b := w.get("/v1/entries/product/7", "Cache-Control", demand); b.cache != "revalidated" || b.body != a.body || b.etag != a.etag {
			t.Errorf("Cache-Control: %s: %+v, cached %+v", demand, b, a)
		}
		if b := w.get("/v1/entries/product/7", "Cache-Control", demand, "If-None-Match", a.etag); b.status != http.StatusNotModified || b.body != "" {
			t.Errorf("Cache-Control: %s, If-None-Match: %+v", demand, b)
		}
	}
	if m := w.get("/metrics").body; !strings.Contains(m, "freshet_revalidations_total 6\n") || !strings.Contains(m, "freshet_revalidations_unchanged_total 6\n") {
		t.Error("the metrics do not count revalidations")
	}
	a = w.until("/v1/entries/product/7", hit)
	if b := w.get("/v1/entries/product/7", "If-None-Match", a.etag); b.status != http.StatusNotModified || b.body != "" {
		t.Errorf("If-None-Match: %+v", b)
	}
	for path, want := range map[string]int{
		"/v1/entries/product/seven": 400, "/v1/entries/nothing/1": 404, "/v1/entries/product/501": 404,
		"/livez": 200, "/v1/status": 200, "/metrics": 200,
	} {
		if got := w.get(path); got.status != want {
			t.Errorf("GET %s = %d %s, want %d", path, got.status, got.body, want)
		}
	}
	if m := w.get("/metrics").body; !strings.Contains(m, "freshet_streaming 1") || !strings.Contains(m, "freshet_commit_to_applied_seconds_count") {
		t.Error("the metrics lack the pipeline's")
	}
	if err := r.stop(); err != nil {
		t.Errorf("Run() = %v after a stop", err)
	}
}

// TestQueriesThatNestAreServedFresh serves entries with subqueries, views, alternatives, groups and set operations.
func TestQueriesThatNestAreServedFresh(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.pg.Exec(t, w.url,
		`CREATE TABLE orders (id int8 PRIMARY KEY, user_id int8 NOT NULL, status text NOT NULL)`,
		`CREATE UNIQUE INDEX orders_freshet ON orders (id, user_id)`, `ALTER TABLE orders REPLICA IDENTITY USING INDEX orders_freshet`,
		`INSERT INTO orders VALUES (1, 1, 'new'), (2, 1, 'paid'), (3, 2, 'new')`,
		`ALTER TABLE profiles REPLICA IDENTITY FULL`, `ALTER TABLE addresses REPLICA IDENTITY FULL`,
		`CREATE VIEW paid AS SELECT user_id, count(*) AS n FROM orders WHERE status = 'paid' GROUP BY user_id`)
	w.configure(`
defaults: {ttl: 1h, load_timeout: 2s}
entries:
  summary:
    key: summary:{id}
    query: |
      SELECT u.name, p.n AS paid, (SELECT max(o.id) FROM orders o WHERE o.user_id = u.id) AS latest
      FROM users u LEFT JOIN paid p ON p.user_id = u.id WHERE u.id = @id
  buyer:
    key: buyer:{id}
    query: SELECT name FROM users WHERE id = @id AND EXISTS (SELECT * FROM orders WHERE user_id = users.id)
  around:
    key: around:{id}
    query: SELECT id FROM orders WHERE id = @id OR user_id = @id ORDER BY id
    result: many
  words:
    key: words:{id}:{only}
    query: |
      WITH all_words AS (SELECT user_id AS id, bio AS word FROM profiles UNION ALL SELECT user_id, city FROM addresses)
      SELECT word FROM all_words WHERE id = @id AND (@only IS NULL OR word = @only) ORDER BY word DESC
    result: many
`)
	w.start()
	w.ready()
	w.until("/v1/entries/summary/1", hit)
	w.until("/v1/entries/summary/1", bodyIs(`{"name":"Ada","paid":1,"latest":2}`))
	w.until("/v1/entries/buyer/1", hit)
	w.until("/v1/entries/around/1", bodyIs(`[{"id":1},{"id":2}]`))
	w.until("/v1/entries/around/1", hit)
	w.until("/v1/entries/words?id=1", bodyIs(`[{"word":"bio"},{"word":"London"}]`))
	w.until("/v1/entries/words?id=1", hit)
	w.until("/v1/entries/words?id=1&only=London", hit)

	w.pg.Exec(t, w.url, `UPDATE orders SET status = 'paid' WHERE id = 1`, `INSERT INTO orders VALUES (9, 1, 'new')`)
	w.until("/v1/entries/summary/1", bodyIs(`{"name":"Ada","paid":2,"latest":9}`))
	w.until("/v1/entries/around/1", bodyIs(`[{"id":1},{"id":2},{"id":9}]`))
	w.pg.Exec(t, w.url, `UPDATE addresses SET city = 'Paris'`)
	w.until("/v1/entries/words?id=1", bodyIs(`[{"word":"bio"},{"word":"Paris"}]`))
	w.until("/v1/entries/words?id=1&only=London", bodyIs(`[]`))
	w.pg.Exec(t, w.url, `DELETE FROM orders WHERE user_id = 1`)
	w.until("/v1/entries/buyer/1", func(a answer) bool { return a.status == http.StatusNotFound })
	w.until("/v1/entries/around/1", bodyIs(`[]`))
	w.until("/v1/entries/summary/1", bodyIs(`{"name":"Ada","paid":null,"latest":null}`))

	// A view that is replaced leaves nothing in the log.
	w.until("/v1/entries/summary/1", hit)
	w.pg.Exec(t, w.url, `CREATE OR REPLACE VIEW paid AS SELECT id AS user_id, 100 + id AS n FROM users`)
	w.until("/v1/entries/summary/1", bodyIs(`{"name":"Ada","paid":101,"latest":null}`))
	w.pg.Exec(t, w.url, `UPDATE users SET name = 'Ada L.' WHERE id = 1`)
	w.until("/v1/entries/summary/1", bodyIs(`{"name":"Ada L.","paid":101,"latest":null}`))
}

// TestStartsWhileEverythingIsDown starts the daemon before its servers: it answers 503, and works once they are there.
func TestStartsWhileEverythingIsDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	w.pg.Stop(t)
	w.redis.Stop(t)
	w.start()
	if a := w.get("/v1/entries/product/1"); a.status != http.StatusServiceUnavailable || a.retry == "" {
		t.Errorf("with nothing there: %+v", a)
	}
	if a := w.get("/readyz"); a.status != http.StatusServiceUnavailable {
		t.Errorf("readyz: %+v", a)
	}
	if a := w.get("/livez"); a.status != http.StatusOK {
		t.Errorf("livez: %+v: a database that is down must not cause restarts", a)
	}
	w.pg.Start(t)
	w.until("/v1/entries/product/1", func(a answer) bool { return a.status == http.StatusOK && a.cache == "bypass" })
	w.redis.Start(t)
	w.ready()
	w.until("/v1/entries/product/1", hit)
}

// TestDatabaseGoesAway stops PostgreSQL: what is cached is served, the rest is 503, and afterwards nothing was missed.
func TestDatabaseGoesAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	w.start()
	w.ready()
	w.until("/v1/entries/product/1", hit)
	w.pg.Stop(t)
	if a := w.get("/v1/entries/product/1"); !hit(a) {
		t.Errorf("cached: %+v", a)
	}
	w.until("/v1/entries/product/2", func(a answer) bool { return a.status == http.StatusServiceUnavailable && a.retry != "" })
	w.until("/readyz", func(a answer) bool { return a.status == http.StatusServiceUnavailable })
	w.pg.Start(t)
	w.pg.Exec(t, w.url, `UPDATE products SET price = 10 WHERE id = 1`)
	w.until("/v1/entries/product/1", bodyIs(`{"id":1,"name":"product 1","price":10}`))
	w.ready()
}

// TestRedisGoesAway stops Redis: everything is served from the database, and nothing stale is served afterwards.
func TestRedisGoesAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true, "--appendonly", "yes", "--appendfsync", "always")
	w.start()
	w.ready()
	w.until("/v1/entries/product/1", hit)
	w.redis.Kill(t)
	w.until("/v1/entries/product/1", func(a answer) bool { return a.status == http.StatusOK && a.cache == "bypass" })
	w.pg.Exec(t, w.url, `UPDATE products SET price = 10 WHERE id = 1`)
	if a := w.get("/v1/entries/product/1"); a.body != `{"id":1,"name":"product 1","price":10}` {
		t.Errorf("past the cache: %+v", a)
	}
	w.redis.Start(t)
	w.ready()
	w.until("/v1/entries/product/1", hit)
	if a := w.get("/v1/entries/product/1"); a.body != `{"id":1,"name":"product 1","price":10}` {
		t.Errorf("after Redis came back: %+v", a)
	}
}

// TestFullRedisStillInvalidates fills Redis up: fills fail, reads go on, and an invalidation goes through.
func TestFullRedisStillInvalidates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	first := w.start()
	w.ready()
	w.until("/v1/entries/product/1", hit)
	w.until("/v1/entries/product/3", hit)
	option, err := rueidis.ParseURL(w.redis.URL)
	if err != nil {
		t.Fatal(err)
	}
	option.ForceSingleClient, option.DisableCache = true, true
	client, err := rueidis.NewClient(option)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Do(t.Context(), client.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", "1").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	w.until("/v1/entries/product/2", func(a answer) bool { return a.status == http.StatusOK && a.cache == "bypass" })
	w.pg.Exec(t, w.url, `UPDATE products SET price = 10 WHERE id = 1`)
	w.until("/v1/entries/product/1", bodyIs(`{"id":1,"name":"product 1","price":10}`))
	// A daemon that starts on a full Redis has as much to write there before it follows the log.
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.pg.Exec(t, w.url, `UPDATE products SET price = 10 WHERE id = 3`)
	w.until("/v1/entries/product/3", bodyIs(`{"id":3,"name":"product 3","price":10}`))
	if err := client.Do(t.Context(), client.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", "0").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	w.until("/v1/entries/product/2", hit)
}

// TestOneRefusedEntryLeavesTheOthers takes a column away that one entry reads: the others go on, also after a restart,
// since nobody else would invalidate what is cached of them.
func TestOneRefusedEntryLeavesTheOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	r := w.start()
	w.ready()
	w.until("/v1/entries/product/1", hit)
	w.pg.Exec(t, w.url, `ALTER TABLE profiles DROP COLUMN bio`)
	suspended := func(a answer) bool {
		return strings.Contains(a.body, `"name":"user_profile"`) && strings.Contains(a.body, "bio")
	}
	w.until("/v1/status", suspended)
	for round := range 2 {
		w.ready()
		w.until("/v1/entries/product/1", hit)
		w.pg.Exec(t, w.url, fmt.Sprintf(`UPDATE products SET price = %d WHERE id = 1`, 1000+round))
		w.until("/v1/entries/product/1", bodyIs(fmt.Sprintf(`{"id":1,"name":"product 1","price":%d}`, 1000+round)))
		if round == 0 {
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}
			r = w.start()
			w.until("/v1/status", suspended)
		}
	}
}

// TestRefusals starts the daemon where it cannot work: it stops with an error that says what to do.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, entries string
		settings      map[string]string
		statement     string
		role          bool
		want          []string
		refused       bool
	}{
		{
			name: "a query that is refused", refused: true,
			entries: "\nentries:\n  total:\n    key: total:{id}\n    query: SELECT id, now() AS at FROM products WHERE id = @id\n",
			want:    []string{"total", "now"},
		},
		{name: "wal_level", settings: map[string]string{"wal_level": "replica"}, want: []string{"wal_level", "logical"}},
		{
			name: "no free slot", settings: map[string]string{"max_replication_slots": "1"},
			statement: `SELECT pg_create_logical_replication_slot('other', 'pgoutput')`,
			want:      []string{"max_replication_slots"},
		},
		{
			name: "no privilege", role: true,
			statement: `CREATE ROLE plain LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO plain; GRANT CREATE ON DATABASE %DB% TO plain`,
			want:      []string{"REPLICATION"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := &world{t: t, redis: redistest.Shared(t)}
			w.pg = pgtest.Start(t, pgtest.Options{Settings: tt.settings})
			w.url = w.pg.Database(t)
			w.pg.Exec(t, w.url, strings.Split(shop, ";")...)
			if tt.statement != "" {
				name := w.url[strings.LastIndex(w.url, "/")+1:]
				name, _, _ = strings.Cut(name, "?")
				w.pg.Exec(t, w.url, strings.ReplaceAll(tt.statement, "%DB%", `"`+name+`"`))
			}
			if tt.role {
				w.url = strings.Replace(w.url, "postgres@", "plain@", 1)
			}
			if tt.entries == "" {
				tt.entries = entries
			}
			w.configure(tt.entries)
			r := w.start()
			select {
			case err := <-r.done:
				r.done <- err
				if err == nil {
					t.Fatal("Run() = nil")
				}
				for _, want := range tt.want {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("Run() = %v, want %q in it", err, want)
					}
				}
				if got := errors.Is(err, pipeline.ErrRefused); got != tt.refused {
					t.Errorf("ErrRefused: %t, want %t", got, tt.refused)
				}
			case <-time.After(patience):
				t.Fatal("the daemon goes on")
			}
		})
	}
}
