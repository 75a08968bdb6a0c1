package pipeline_test

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/apply"
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgsource"
	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/mvcc"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	patience = time.Minute
	// answers is how long the store may take for what the test asks it itself.
	answers = 10 * time.Second
)

// rig is a database with one table, a store, and pipelines between them.
type rig struct {
	t         *testing.T
	url       string
	redisURL  string
	namespace string
	slot      string
	store     *redisstore.Store
	daemonURL string            // how daemons reach the database, if otherwise than the test
	daemons   *redisstore.Store // and the store
	tables    []string          // public.<name>(id int primary key, v text), each with an entry of the same name
	rewind    apply.Rewind
	file      string // which file the daemons have: the entries of each are declared differently
	unused    time.Duration
	observe   func(committed time.Time)
	sweep     time.Duration
	planned   func() // when entries have been planned
	said      said
}

type options struct {
	pg     *pgtest.Server
	redis  *redistest.Server
	rewind apply.Rewind
}

func newRig(t *testing.T, o options) *rig {
	t.Helper()
	if o.pg == nil {
		o.pg = pgtest.Shared(t)
	}
	if o.redis == nil {
		o.redis = redistest.Shared(t)
	}
	raw := make([]byte, 6)
	_, _ = rand.Read(raw)
	r := &rig{
		t: t, url: o.pg.Database(t), redisURL: o.redis.URL, namespace: redistest.Namespace(t),
		slot: "s_" + hex.EncodeToString(raw), rewind: o.rewind, tables: []string{"items"},
	}
	r.exec(`CREATE TABLE items (id int PRIMARY KEY, v text)`,
		`INSERT INTO items SELECT g, 'v' || g FROM generate_series(1, 100) g`)
	r.open()
	return r
}

func (r *rig) open() {
	r.t.Helper()
	var err error
	if r.store, err = redisstore.Open(r.t.Context(), redisstore.Options{URL: r.redisURL, Namespace: r.namespace, Patience: answers}); err != nil {
		r.t.Fatal(err)
	}
	store := r.store
	r.t.Cleanup(store.Close)
}

func (r *rig) exec(statements ...string) {
	r.t.Helper()
	conn := r.connect()
	defer func() { _ = conn.Close(context.Background()) }()
	for _, s := range statements {
		if _, err := conn.Exec(r.t.Context(), s); err != nil {
			r.t.Fatalf("%s: %v", s, err)
		}
	}
}

func (r *rig) connect() *pgx.Conn {
	r.t.Helper()
	var conn *pgx.Conn
	testkit.Eventually(r.t, patience, func() (err error) {
		conn, err = pgx.Connect(r.t.Context(), r.url)
		return err
	})
	return conn
}

// synchronous has commits wait for a standby that does not exist, and returns once they do: the server takes a moment to
// read its settings anew.
func (r *rig) synchronous() {
	r.t.Helper()
	r.exec(`ALTER SYSTEM SET synchronous_standby_names = 'nobody'`, `SELECT pg_reload_conf()`)
	probe, look := r.connect(), r.connect()
	defer func() { _, _ = probe.Close(context.Background()), look.Close(context.Background()) }()
	var stop atomic.Bool
	done := make(chan error, 1)
	go func() {
		var err error
		for err == nil && !stop.Load() {
			_, err = probe.Exec(context.Background(), `UPDATE items SET v = 'probe' WHERE id = 100`)
		}
		done <- err
	}()
	testkit.Eventually(r.t, patience, func() error {
		var hangs bool
		err := look.QueryRow(r.t.Context(), `SELECT wait_event IS NOT DISTINCT FROM 'SyncRep' FROM pg_stat_activity WHERE pid = $1`,
			probe.PgConn().PID()).Scan(&hangs)
		if err == nil && !hangs {
			err = errNotYet
		}
		return err
	})
	stop.Store(true)
	if _, err := look.Exec(r.t.Context(), `SELECT pg_cancel_backend($1)`, probe.PgConn().PID()); err != nil {
		r.t.Fatal(err)
	}
	if err := <-done; err != nil {
		r.t.Fatal(err)
	}
	// The last probe is no commit that hangs any more, and the daemon that runs may not take it for one.
	var end string
	if err := look.QueryRow(r.t.Context(), `SELECT pg_current_wal_flush_lsn()::text`).Scan(&end); err != nil {
		r.t.Fatal(err)
	}
	testkit.Eventually(r.t, patience, func() error {
		if reached, err := mvcc.ParseLSN(end); err != nil || r.head().Wc < reached {
			return fmt.Errorf("the probe, before %s, is not applied: %w", end, err)
		}
		return nil
	})
}

// hang begins a statement whose commit hangs in synchronous replication, as synchronous has them. show ends the wait: the
// commit becomes visible.
func (r *rig) hang(statement string) (show func()) {
	r.t.Helper()
	writer := r.connect()
	pid := writer.PgConn().PID()
	committed := make(chan error, 1)
	go func() {
		_, err := writer.Exec(context.Background(), statement)
		committed <- errors.Join(err, writer.Close(context.Background()))
	}()
	return func() {
		r.t.Helper()
		r.exec(fmt.Sprintf(`SELECT pg_cancel_backend(%d)`, pid))
		if err := <-committed; err != nil {
			r.t.Fatal(err)
		}
	}
}

// declaredIn is the entry of a table as a file declares it.
func declaredIn(file, table string) *rule.Declared {
	return &rule.Declared{Name: table, Key: table + ":{id}", Query: "SELECT id, v FROM " + table + " WHERE id = @id" + file, Result: rule.One}
}

func entryOf(d *rule.Declared) *rule.Entry {
	table := d.Name
	e := &rule.Entry{
		Name: table, Definition: d.Digest(), Declared: d, Keep: 1, Key: d.Key, Params: []rule.Param{{Name: "id", Type: keytext.Int4}},
		SQL: "SELECT id, v FROM public." + table + " WHERE id = $1", Result: rule.One,
		Rules: []rule.Rule{{Schema: "public", Table: table, Bind: []string{"id"}, Columns: []string{"id", "v"}}},
	}
	e.Version = e.Hash()
	return e
}

// daemon is a running pipeline.
type daemon struct {
	*pipeline.Pipeline
	r      *rig
	cancel context.CancelFunc
	done   chan error
}

// pipeline makes one over the rig's tables, with the rig's file.
func (r *rig) pipeline(tables []string) *pipeline.Pipeline {
	tables = slices.Clone(tables)
	file := r.file
	planned := func(ctx context.Context, conn *pgx.Conn, d *rule.Declared) (*rule.Entry, error) {
		e := entryOf(d)
		// As the planner does: the version moves with the table behind the name.
		err := conn.QueryRow(ctx, `SELECT $1::text::regclass::oid::text`, d.Name).Scan(&e.Shape)
		e.Version = e.Hash()
		return e, err
	}
	return pipeline.New(pipeline.Options{
		URL: cmp.Or(r.daemonURL, r.url), Slot: r.slot, Publication: "freshet", Namespace: r.namespace,
		Store: pipeline.StoreOf(cmp.Or(r.daemons, r.store)), Rewind: r.rewind,
		Unused: r.unused, SweepAfter: r.sweep, Observe: r.observe,
		Logger: slog.New(slog.NewTextHandler(testWriter{r.t, &r.said}, nil)),
		Compile: func(ctx context.Context, conn *pgx.Conn, retained []rule.Declared, _ bool) (*pipeline.Compiled, error) {
			var c pipeline.Compiled
			own := map[string]bool{}
			for _, name := range tables {
				e, err := planned(ctx, conn, declaredIn(file, name))
				if err != nil {
					return nil, err
				}
				own[e.Definition] = true
				c.Entries = append(c.Entries, e)
				c.Tables = append(c.Tables, schema.Name{Schema: "public", Name: name})
			}
			for i := range retained {
				if own[retained[i].Digest()] {
					continue
				}
				e, err := planned(ctx, conn, &retained[i])
				if err != nil {
					return nil, err
				}
				c.Retained = append(c.Retained, e)
			}
			if r.planned != nil {
				r.planned()
			}
			return &c, nil
		},
	})
}

func (r *rig) start() *daemon {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	d := &daemon{r: r, cancel: cancel, done: make(chan error, 1)}
	d.Pipeline = r.pipeline(r.tables)
	go func() { d.done <- d.Run(ctx) }()
	r.t.Cleanup(func() { d.stop() })
	return d
}

// said is what daemons have logged.
type said struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *said) contains(text string) bool { return s.count(text) > 0 }

func (s *said) count(text string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Count(s.text.String(), text)
}

type testWriter struct {
	t    *testing.T
	said *said
}

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Helper()
	w.said.mu.Lock()
	w.said.text.Write(p)
	w.said.mu.Unlock()
	if w.t.Context().Err() == nil {
		w.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

// stop stops the pipeline as a signal would, and waits.
func (d *daemon) stop() {
	d.cancel()
	if err := <-d.done; err != nil {
		d.r.t.Errorf("Run() = %v, want nil after a stop", err)
	}
	d.done <- nil
}

func (d *daemon) await(what string, check func(st pipeline.Status) bool) pipeline.Status {
	d.r.t.Helper()
	var st pipeline.Status
	testkit.Eventually(d.r.t, patience, func() error {
		if st = d.Status(); !check(st) {
			return fmt.Errorf("not %s: %+v", what, st)
		}
		return nil
	})
	return st
}

// streaming waits until the log is followed and every entry is live.
func (d *daemon) streaming() pipeline.Status {
	d.r.t.Helper()
	return d.await("streaming with live entries", func(st pipeline.Status) bool {
		return st.Phase == pipeline.Streaming && len(st.Entries) > 0 &&
			!slices.ContainsFunc(st.Entries, func(e pipeline.EntryStatus) bool { return e.Suspended != "" })
	})
}

func token() fence.Token {
	raw := make([]byte, 16)
	_, _ = rand.Read(raw)
	return fence.Token(hex.EncodeToString(raw))
}

// name is the live name of a key, as a reader finds it.
func (r *rig) name(table string, id int) string {
	r.t.Helper()
	roster := storedRoster(r.t, r)
	return rule.KeyPrefix(r.namespace, roster.Generation, roster.Entries[table]) + fmt.Sprintf("%s:%d", table, id)
}

// version is the version of a table's entry that a file declares, nil when the roster has none.
func (r *rig) version(file, table string) *rule.Entry {
	r.t.Helper()
	return storedRoster(r.t, r).Version(table, declaredIn(file, table).Digest())
}

// nameIn is the live name of a key, as a reader with that file finds it.
func (r *rig) nameIn(file, table string, id int) string {
	r.t.Helper()
	roster := storedRoster(r.t, r)
	e := roster.Version(table, declaredIn(file, table).Digest())
	if e == nil || e.Suspended != "" {
		r.t.Fatalf("the version of %s in file %q is not live: %+v", table, file, e)
	}
	return rule.KeyPrefix(r.namespace, roster.Generation, e) + fmt.Sprintf("%s:%d", table, id)
}

// load reads the row as a reader does, under its snapshot.
func (r *rig) load(conn *pgx.Conn, table string, id int) (string, fence.Coverage) {
	r.t.Helper()
	var snapshot, v string
	err := conn.QueryRow(r.t.Context(), `SELECT pg_current_snapshot()::text, coalesce((SELECT v FROM `+table+` WHERE id = $1), '')`, id).
		Scan(&snapshot, &v)
	if err != nil {
		r.t.Fatal(err)
	}
	s, err := mvcc.ParseSnapshot(snapshot)
	if err != nil {
		r.t.Fatal(err)
	}
	return v, fence.Coverage{Snapshot: s}
}

// fill loads a key and stores it, and reports what became of it.
func (r *rig) fill(table string, id int) (name string, outcome fence.FillOutcome) {
	r.t.Helper()
	name = r.name(table, id)
	return name, r.fillAs(name, table, id)
}

// fillAs is fill under a given name.
func (r *rig) fillAs(name, table string, id int) fence.FillOutcome {
	r.t.Helper()
	tok := token()
	reply, err := r.store.Lease(r.t.Context(), name, tok, 10*time.Second)
	if err != nil || !reply.Granted {
		r.t.Fatalf("Lease(%s) = %+v, %v", name, reply, err)
	}
	conn := r.connect()
	defer func() { _ = conn.Close(context.Background()) }()
	v, cov := r.load(conn, table, id)
	if !reply.HeadFound || !fence.Floor(reply.Head, cov) {
		r.t.Fatalf("a primary load does not pass the floor: %+v, %+v", reply.Head, cov)
	}
	outcome, err := r.store.Fill(r.t.Context(), name, redisstore.FillRequest{
		Token: tok, Coverage: cov, State: fence.Live, Payload: []byte(v), TTL: time.Hour,
	})
	if err == nil && outcome != fence.Filled {
		err = r.store.Release(r.t.Context(), name, tok)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return outcome
}

// cached fills a key for sure.
func (r *rig) cached(table string, id int) (name string) {
	r.t.Helper()
	testkit.Eventually(r.t, patience, func() error {
		var outcome fence.FillOutcome
		if name, outcome = r.fill(table, id); outcome != fence.Filled {
			return fmt.Errorf("Fill() = %v", outcome)
		}
		return nil
	})
	return name
}

// cachedIn fills a key for sure, under the name that a reader with that file finds.
func (r *rig) cachedIn(file, table string, id int) (name string) {
	r.t.Helper()
	testkit.Eventually(r.t, patience, func() error {
		name = r.nameIn(file, table, id)
		if outcome := r.fillAs(name, table, id); outcome != fence.Filled {
			return fmt.Errorf("Fill() = %v", outcome)
		}
		return nil
	})
	return name
}

// present reports whether the record is there with a value.
func (r *rig) present(name string) bool {
	r.t.Helper()
	record, err := r.store.Get(r.t.Context(), name)
	if err != nil {
		r.t.Fatal(err)
	}
	return record.State != fence.None
}

func (r *rig) gone(name string) {
	r.t.Helper()
	testkit.Eventually(r.t, patience, func() error {
		if r.present(name) {
			return fmt.Errorf("%s is still there", name)
		}
		return nil
	})
}

func (r *rig) head() fence.Head {
	r.t.Helper()
	h, found, err := r.store.Head(r.t.Context())
	if err != nil || !found {
		r.t.Fatalf("Head() = %t, %v", found, err)
	}
	return h
}

func (r *rig) slotState() pgsource.SlotInfo {
	r.t.Helper()
	conn := r.connect()
	defer func() { _ = conn.Close(context.Background()) }()
	info, err := pgsource.SlotState(r.t.Context(), conn, r.slot)
	if err != nil {
		r.t.Fatal(err)
	}
	return info
}

var errNotYet = errors.New("not yet")
