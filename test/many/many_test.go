package many

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgcatalog"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/plan"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/plantest"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// patience is what a machine that is busy with other tests may take for an answer of the store.
const patience = 30 * time.Second

func TestMain(m *testing.M) { testkit.Main(m) }

const tables = `
CREATE TYPE state AS ENUM ('new', 'paid');
CREATE TABLE person (id bigint PRIMARY KEY, team int, name text, born date);
CREATE TABLE team (id int PRIMARY KEY, name text);
CREATE TABLE purchase (id bigint PRIMARY KEY, person bigint, state state, price numeric, at timestamptz);
ALTER TABLE person REPLICA IDENTITY FULL; ALTER TABLE team REPLICA IDENTITY FULL; ALTER TABLE purchase REPLICA IDENTITY FULL;
INSERT INTO team SELECT i, 'team ' || i FROM generate_series(1, 8) i;
INSERT INTO person SELECT i, nullif(i % 9, 0), CASE WHEN i % 5 > 0 THEN 'name "' || i || '" ü' END, '2000-01-01'::date + i FROM generate_series(1, 40) i;
INSERT INTO purchase SELECT i, 1 + i % 30, CASE WHEN i % 3 > 0 THEN 'new' ELSE 'paid' END::state, i / 7.0, '2024-01-01 00:00+00'::timestamptz + i * interval '1 h'
	FROM generate_series(1, 300) i;
ANALYZE`

func text(s string) keytext.Arg { return keytext.Arg{Text: s} }

// shape is a query, and how its arguments are drawn.
type shape struct {
	name, key, query string
	result           rule.Result
	arguments        []func(*rand.Rand) keytext.Arg
	apart            bool // it has no form for many keys
}

func id(random *rand.Rand) keytext.Arg { return text(strconv.Itoa(random.IntN(45))) }

func idOrNull(random *rand.Rand) keytext.Arg {
	if random.IntN(6) == 0 {
		return keytext.Arg{Null: true}
	}
	return id(random)
}

func few(random *rand.Rand) keytext.Arg { return text(strconv.Itoa(random.IntN(5))) }

func state(random *rand.Rand) keytext.Arg { return text([]string{"new", "paid"}[random.IntN(2)]) }

func ids(random *rand.Rand) keytext.Arg {
	return text(fmt.Sprintf("{%d,%d}", random.IntN(10), 10+random.IntN(10)))
}

func shapes() []shape {
	one := func(name, query string, arguments ...func(*rand.Rand) keytext.Arg) shape {
		return shape{name: name, key: name + ":{a}", query: query, result: rule.One, arguments: arguments}
	}
	many := func(name, query string, arguments ...func(*rand.Rand) keytext.Arg) shape {
		s := one(name, query, arguments...)
		if s.result = rule.Many; len(arguments) > 1 {
			s.key += ":{b}"
		}
		return s
	}
	apart := one("apart", "SELECT count(*) AS n, max(@a) AS a FROM person WHERE id = @a", id)
	apart.apart = true
	return []shape{
		one("row", "SELECT id, name, born FROM person WHERE id = @a", id),
		one("nulls", "SELECT name FROM person WHERE id = @a", idOrNull),
		one("joined", "SELECT p.name, t.name AS team FROM person p LEFT JOIN team t ON t.id = p.team WHERE p.id = @a", id),
		many("tagged", "SELECT u.id, t.name FROM person u JOIN team t ON t.id = u.team WHERE u.id = @a", id),
		one("aggregate", "SELECT count(*) AS n, sum(price) AS total, max(at) AS last FROM purchase WHERE person = @a", idOrNull),
		many("grouped", "SELECT state, count(*) AS n FROM purchase WHERE person = @a GROUP BY state ORDER BY state", id),
		many("limited", "SELECT id, price FROM purchase WHERE person = @a ORDER BY at DESC, id LIMIT 3", id),
		many("limit", "SELECT id FROM purchase WHERE person = @a ORDER BY id LIMIT @b", id, few),
		many("enum", "SELECT id FROM purchase WHERE person = @a AND state = @b ORDER BY id", id, state),
		many("with", `WITH mine AS (SELECT * FROM purchase WHERE person = @a), best AS (SELECT max(price) AS price FROM mine)
			SELECT m.id, m.price, b.price AS best FROM mine m, best b ORDER BY m.id`, id),
		many("union", "SELECT id, 'team' AS what FROM team WHERE id = @a UNION ALL SELECT id, name FROM person WHERE id = @a ORDER BY 1, 2", id),
		many("window", "SELECT id, rank() OVER (PARTITION BY person ORDER BY price DESC, id) AS r FROM purchase WHERE person = @a ORDER BY id", id),
		many("derived", "SELECT p.id, s.n FROM person p JOIN (SELECT person, count(*) AS n FROM purchase GROUP BY person) s ON s.person = p.id WHERE p.id = @a", id),
		many("exists", "SELECT id FROM team t WHERE t.id = @a AND EXISTS (SELECT 1 FROM person p WHERE p.team = t.id)", few),
		many("several", "SELECT id, name FROM person WHERE id = ANY(@a) ORDER BY id", ids),
		many("optional", "SELECT id FROM team WHERE id = @a OR @a IS NULL ORDER BY id", idOrNull),
		many("above", "SELECT id FROM purchase WHERE person = @a AND price > @b ORDER BY id", id, few),
		apart,
	}
}

func (s shape) declared() rule.Declared {
	return rule.Declared{Name: s.name, Key: s.key, Query: s.query, Result: s.result}
}

// world is a database, a store, a daemon that plans the entries by itself, and a reader.
type world struct {
	url     string
	entries map[string]*rule.Entry
	store   *redisstore.Store
	loader  *pgload.Loader
	r       *fill.Reader
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Log(string(p))
	}
	return len(p), nil
}

func newWorld(t *testing.T) *world {
	t.Helper()
	pg := pgtest.Start(t, pgtest.Options{})
	w := &world{url: pg.Database(t), entries: map[string]*rule.Entry{}}
	pg.Exec(t, w.url, tables)
	namespace := redistest.Namespace(t)
	redisURL := redistest.Shared(t).URL
	all := map[string]fill.Entry{}
	compile := func(ctx context.Context, conn *pgx.Conn, _ []rule.Declared, _ bool) (*pipeline.Compiled, error) {
		catalog, err := pgcatalog.Read(ctx, conn)
		if err != nil {
			return nil, err
		}
		c := &pipeline.Compiled{}
		for _, s := range shapes() {
			d := s.declared()
			compiled, err := plantest.CompileAllowed(catalog, &d, plan.Served()...)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
			if err := pgcatalog.Verify(ctx, conn, compiled.Entry, compiled.Ignored...); err != nil {
				return nil, err
			}
			w.entries[d.Name] = compiled.Entry
			c.Entries = append(c.Entries, compiled.Entry)
			all[d.Name] = fill.Entry{Declared: d, TTL: time.Hour, LoadTimeout: 20 * time.Second}
		}
		for _, table := range []string{"person", "team", "purchase"} {
			c.Tables = append(c.Tables, schema.Name{Schema: "public", Name: table})
		}
		return c, nil
	}
	open := func() *redisstore.Store {
		s, err := redisstore.Open(t.Context(), redisstore.Options{URL: redisURL, Namespace: namespace, Patience: patience})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		return s
	}
	var err error
	if w.loader, err = pgload.Open(t.Context(), w.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.loader.Close)
	p := pipeline.New(pipeline.Options{
		URL: w.url, Slot: "many", Publication: "freshet", Namespace: namespace, Store: pipeline.StoreOf(open()), Compile: compile,
		Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	testkit.Eventually(t, time.Minute, func() error {
		st := p.Status()
		if st.Phase != pipeline.Streaming || len(st.Entries) != len(shapes()) {
			return fmt.Errorf("not live: %+v", st.Phase)
		}
		for _, e := range st.Entries {
			if e.Suspended != "" {
				return fmt.Errorf("not live: %+v", e)
			}
		}
		return nil
	})
	w.store = open()
	if w.r, err = fill.New(fill.Options{Namespace: namespace, Store: w.store, Loader: w.loader, Entries: all, Patience: patience}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.r.Close)
	return w
}

func (s shape) draw(random *rand.Rand, n int) (keys [][]keytext.Arg) {
	for range n {
		var key []keytext.Arg
		for _, argument := range s.arguments {
			key = append(key, argument(random))
		}
		keys = append(keys, key)
	}
	return keys
}

// TestManyEqualSingles: for random keys of every shape of query, NULLs, rows that are not there and keys that come twice among
// them, GetMany gives what as many reads give, and leaves the records that they would; by one statement, where the shape has that
// form.
func TestManyEqualSingles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	random := rand.New(rand.NewPCG(7, 7))
	for _, s := range shapes() {
		name := s.declared().Name
		if e := w.entries[name]; (e.Batch == nil) != s.apart {
			t.Errorf("%s: the form for many keys is %+v", name, e.Batch)
		}
		keys := s.draw(random, 60)
		before := w.r.Stats()
		together := w.r.GetMany(t.Context(), name, keys, &fill.Demand{})
		after := w.r.Stats()
		distinct := after.Misses - before.Misses
		if loads := after.Loads - before.Loads; distinct < 3 || !s.apart && loads != 1 || s.apart && loads != distinct {
			t.Errorf("%s: %d statements for %d keys", name, loads, distinct)
		}
		if fills := after.Fills - before.Fills; fills != distinct {
			t.Errorf("%s: %d of %d keys are stored: %v", name, fills, distinct, after.Refused)
		}
		for i, key := range keys {
			if together[i].Err != nil {
				t.Fatalf("%s %v: %v", name, key, together[i].Err)
			}
			w.compare(t, name, key, together[i].Value)
		}
	}
}

// compare reads a key by itself, once past the cache and once into it, and compares the values and the records.
func (w *world) compare(t *testing.T, name string, key []keytext.Arg, got fill.Value) {
	t.Helper()
	truth, err := w.r.GetUnder(t.Context(), name, key, nil, &fill.Demand{Past: true})
	if err != nil || truth.Found != got.Found || !bytes.Equal(truth.Payload, got.Payload) {
		t.Fatalf("%s %v: %v %s, and alone %v %s, %v", name, key, got.Found, got.Payload, truth.Found, truth.Payload, err)
	}
	stored, err := w.store.Get(t.Context(), got.Name)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.r.Refresh(t.Context(), name, plainKey(key), nil); err != nil {
		t.Fatal(err)
	}
	again, err := w.store.Get(t.Context(), got.Name)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*fence.Record{&stored, &again} {
		if r.Coverage.Snapshot.IsZero() || r.Filled == 0 || !r.State.Live() {
			t.Fatalf("%s %v: %+v", name, key, r)
		}
		r.Coverage, r.Filled = fence.Coverage{}, 0
	}
	if diff := cmp.Diff(again, stored); diff != "" {
		t.Errorf("%s %v (-alone +together):\n%s", name, key, diff)
	}
}

type plainKey []keytext.Arg

func (k plainKey) Args([]rule.Param) ([]keytext.Arg, error) { return k, nil }

// TestManyUnderWriters: with rows written all the time, nothing that batches leave in the cache is older than what was committed
// once the daemon has applied that.
func TestManyUnderWriters(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	began := time.Now()
	var work sync.WaitGroup
	for n := range 2 {
		work.Go(func() { w.write(ctx, t, rand.New(rand.NewPCG(11, uint64(n)))) })
		work.Go(func() { w.read(ctx, t, rand.New(rand.NewPCG(13, uint64(n)))) })
	}
	enough := func() bool { return w.r.Stats().Fills >= 1000 } // on a busy machine it takes longer
	for time.Since(began) < 6*time.Second || !enough() && time.Since(began) < 2*patience {
		wait(ctx, 100*time.Millisecond)
	}
	cancel()
	work.Wait()
	random := rand.New(rand.NewPCG(17, 17))
	hits := 0
	for _, s := range shapes() {
		name := s.declared().Name
		keys := s.draw(random, 100)
		testkit.Eventually(t, 30*time.Second, func() error {
			truths := w.r.GetMany(t.Context(), name, keys, &fill.Demand{Past: true})
			for i, a := range w.r.GetMany(t.Context(), name, keys, &fill.Demand{}) {
				if a.Err != nil || truths[i].Err != nil || !bytes.Equal(a.Value.Payload, truths[i].Value.Payload) {
					return fmt.Errorf("%s %v: %v %s, %w, and the database has %s, %w", name, keys[i], a.Value.Status, a.Value.Payload, a.Err,
						truths[i].Value.Payload, truths[i].Err)
				}
				if a.Value.Status == fill.Hit {
					hits++
				}
			}
			return nil
		})
	}
	if s := w.r.Stats(); !enough() || hits < 100 {
		t.Errorf("too little has happened: %d hits at the end, %+v", hits, s)
	}
}

func (w *world) write(ctx context.Context, t *testing.T, random *rand.Rand) {
	t.Helper()
	conn, err := pgx.Connect(ctx, w.url)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for ctx.Err() == nil {
		statement, arguments := "UPDATE purchase SET price = price + 1, person = $2 WHERE id = $1", []any{1 + random.IntN(300), 1 + random.IntN(30)}
		switch random.IntN(4) {
		case 0:
			statement, arguments = "UPDATE person SET name = coalesce(name, '') || '.', team = $2 WHERE id = $1", []any{1 + random.IntN(40), 1 + random.IntN(8)}
		case 1:
			statement, arguments = "UPDATE team SET name = name || '.' WHERE id = $1", []any{1 + random.IntN(8)}
		case 2:
			statement, arguments = "WITH gone AS (DELETE FROM purchase WHERE id = $1 RETURNING *) INSERT INTO purchase SELECT id + 1000, $2, state, price, at FROM gone", []any{1 + random.IntN(300), 1 + random.IntN(30)}
		}
		if _, err := conn.Exec(ctx, statement, arguments...); err != nil && ctx.Err() == nil {
			t.Error(err)
			return
		}
		wait(ctx, 2*time.Millisecond)
	}
}

func (w *world) read(ctx context.Context, t *testing.T, random *rand.Rand) {
	t.Helper()
	all := shapes()
	for ctx.Err() == nil {
		s := all[random.IntN(len(all))]
		for _, a := range w.r.GetMany(ctx, s.declared().Name, s.draw(random, 30), &fill.Demand{}) {
			if a.Err != nil && ctx.Err() == nil {
				t.Error(a.Err)
			}
		}
	}
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
