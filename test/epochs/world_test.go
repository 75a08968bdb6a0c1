package epochs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/internal/sqlparam"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/internal/verify"
	"github.com/freshet/freshet/mvcc"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	accounts, teams, regions = 24, 8, 3
	patience                 = 60 * time.Second
)

// schemaSQL has accounts of teams of regions. A row's n only grows, which is what reads are held against.
var schemaSQL = []string{
	`CREATE TABLE region (id int4 PRIMARY KEY, n int8 NOT NULL)`,
	`CREATE TABLE team (id int4 PRIMARY KEY, region_id int8 NOT NULL, n int8 NOT NULL)`,
	`CREATE TABLE account (id int8 PRIMARY KEY, team_id int4 NOT NULL, n int8 NOT NULL)`,
	`ALTER TABLE team REPLICA IDENTITY FULL`, `ALTER TABLE account REPLICA IDENTITY FULL`,
	fmt.Sprintf(`INSERT INTO region SELECT i, 0 FROM generate_series(1, %d) i`, regions),
	fmt.Sprintf(`INSERT INTO team SELECT i, 1 + i %% %d, 0 FROM generate_series(1, %d) i`, regions, teams),
	fmt.Sprintf(`INSERT INTO account SELECT i, 1 + i %% %d, 0 FROM generate_series(1, %d) i`, teams, accounts),
}

// The entries. A value is an array of objects, each of which names a row and its n: "t" is the row's table.
func declarations() []rule.Declared {
	return []rule.Declared{
		{Name: "path", Key: "path:{id}", Result: rule.Many, Query: `SELECT 'account' AS t, a.id, a.n FROM account a WHERE a.id = @id
			UNION ALL SELECT 'team', t.id, t.n FROM account a JOIN team t ON t.id = a.team_id WHERE a.id = @id
			UNION ALL SELECT 'region', r.id, r.n FROM account a JOIN team t ON t.id = a.team_id JOIN region r ON r.id = t.region_id WHERE a.id = @id`},
		{
			Name: "group", Key: "group:{team}:{least}", Result: rule.Many,
			Query: `SELECT 'account' AS t, a.id, a.n FROM account a WHERE a.team_id = @team AND a.n >= @least ORDER BY 2`,
		},
		{Name: "broad", Key: "broad:{least}", Result: rule.Many, Query: `SELECT 'team' AS t, t.id, t.n FROM team t WHERE t.n >= @least ORDER BY 2`},
	}
}

// entries are what planning makes of them.
func entries() (all []*rule.Entry) {
	eight := func(names ...string) (params []rule.Param) {
		for _, name := range names {
			params = append(params, rule.Param{Name: name, Type: keytext.Int8})
		}
		return params
	}
	tag := func(table string, typ keytext.Type, rank int, sql string) rule.Rule {
		return rule.Rule{Schema: "public", Table: table, Class: rule.Tag, Bind: []string{""}, Tag: &rule.TagQuery{
			SQL: sql, From: []string{"id"}, Types: []keytext.Type{typ}, Rank: rank,
		}}
	}
	for _, d := range declarations() {
		e := &rule.Entry{Name: d.Name, Definition: d.Digest(), Key: d.Key, Result: d.Result}
		switch d.Name {
		case "path":
			e.Params = eight("id")
			e.Rules = []rule.Rule{
				{Schema: "public", Table: "account", Bind: []string{"id"}},
				tag("team", keytext.Int4, 1, `SELECT a.team_id FROM public.account a WHERE a.id = $1`),
				tag("region", keytext.Int4, 2, `SELECT t.region_id FROM public.account a JOIN public.team t ON t.id = a.team_id WHERE a.id = $1`),
			}
		case "group":
			e.Params = eight("team", "least")
			e.Rules = []rule.Rule{{Schema: "public", Table: "account", Class: rule.Group, Bind: []string{"team_id", ""}}}
		case "broad":
			e.Params = eight("least")
			e.Rules = []rule.Rule{{Schema: "public", Table: "team", Class: rule.Broad, Bind: []string{""}}}
		}
		e.SQL = strings.NewReplacer("@id", "$1", "@team", "$1", "@least", "$"+strconv.Itoa(len(e.Params)),
			"account a", "public.account a", "team t", "public.team t", "region r", "public.region r").Replace(d.Query)
		e.Batch = batchOf(e)
		e.Version = e.Hash()
		all = append(all, e)
	}
	return all
}

// batchOf is the form in which one statement loads many keys.
func batchOf(e *rule.Entry) *rule.Batch {
	b := &rule.Batch{SQL: sqlparam.Substitute(e.SQL, rule.BatchColumn)}
	for range e.Params {
		b.Types = append(b.Types, "int8")
	}
	for i := range e.Rules {
		if tag := e.Rules[i].Tag; tag != nil {
			b.Tags = append(b.Tags, sqlparam.Substitute(tag.SQL, rule.BatchColumn))
		}
	}
	return b
}

func compiled(context.Context, *pgx.Conn, []rule.Declared, bool) (*pipeline.Compiled, error) {
	c := &pipeline.Compiled{Entries: entries()}
	for _, table := range []string{"account", "team", "region"} {
		c.Tables = append(c.Tables, schema.Name{Schema: "public", Name: table})
	}
	return c, nil
}

// world is a database, a store, a daemon and two processes that read.
type world struct {
	t         *testing.T
	pg        *pgtest.Server
	url       string
	redisURL  string
	namespace string
	system    string
	store     *redisstore.Store
	loader    *pgload.Loader
	pipeline  *pipeline.Pipeline
	stop      func()
	readers   [2]*fill.Reader
	slot      string
}

func newWorld(t *testing.T, redisURL string) *world {
	t.Helper()
	w := &world{t: t, pg: pgtest.Start(t, pgtest.Options{}), redisURL: redisURL, namespace: redistest.Namespace(t), slot: "epochs"}
	w.url = w.pg.Database(t)
	w.pg.Exec(t, w.url, schemaSQL...)
	w.system = w.pg.Ask(t, w.url, `SELECT system_identifier::text FROM pg_control_system()`)
	w.store = w.open()
	var err error
	if w.loader, err = pgload.Open(t.Context(), w.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.loader.Close)
	w.follow()
	w.readers = [2]*fill.Reader{w.reader(w.loader), w.reader(slow{w.loader})}
	return w
}

func (w *world) open() *redisstore.Store {
	w.t.Helper()
	s, err := redisstore.Open(w.t.Context(), redisstore.Options{URL: w.redisURL, Namespace: w.namespace, Patience: patience})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	return s
}

// slow is the database for a process that is held up between a load and the FILL after it, every other time: for long enough that
// what it has loaded changes meanwhile.
type slow struct{ *pgload.Loader }

func (s slow) Load(ctx context.Context, sql string, result rule.Result, args []keytext.Arg) (pgload.Loaded, error) {
	loaded, err := s.Loader.Load(ctx, sql, result, args)
	return loaded, errors.Join(err, s.hold(ctx))
}

func (s slow) LoadTagged(ctx context.Context, q pgload.Query, args []keytext.Arg) (pgload.Loaded, error) {
	loaded, err := s.Loader.LoadTagged(ctx, q, args)
	return loaded, errors.Join(err, s.hold(ctx))
}

func (s slow) LoadMany(ctx context.Context, q pgload.Query, keys [][]keytext.Arg) pgload.Many {
	m := s.Loader.LoadMany(ctx, q, keys)
	_ = s.hold(ctx) // it ends with the batch
	return m
}

func (s slow) hold(ctx context.Context) error {
	timer := time.NewTimer(time.Duration(rand.IntN(2)) * time.Duration(rand.IntN(20)) * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *world) reader(loader fill.Loader) *fill.Reader {
	w.t.Helper()
	all := map[string]fill.Entry{}
	for _, d := range declarations() {
		all[d.Name] = fill.Entry{Declared: d, TTL: time.Hour, LoadTimeout: 10 * time.Second}
	}
	r, err := fill.New(fill.Options{Namespace: w.namespace, Store: w.open(), Loader: loader, Entries: all, Patience: patience})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(r.Close)
	return r
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

// follow runs a daemon until stop, and waits until its entries are live.
func (w *world) follow() {
	w.t.Helper()
	w.pipeline = pipeline.New(pipeline.Options{
		URL: w.url, Slot: w.slot, Publication: "freshet", Namespace: w.namespace, Store: pipeline.StoreOf(w.store),
		Logger: slog.New(slog.NewTextHandler(testWriter{w.t}, nil)), Compile: compiled,
	})
	p := w.pipeline
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(w.stop)
	testkit.Eventually(w.t, patience, func() error {
		st := p.Status()
		if st.Phase != pipeline.Streaming || len(st.Entries) != len(declarations()) {
			return fmt.Errorf("not live: %+v", st)
		}
		for _, e := range st.Entries {
			if e.Suspended != "" {
				return fmt.Errorf("not live: %+v", e)
			}
		}
		return nil
	})
}

// row is what a value says of one.
type row struct {
	T  string `json:"t"`
	ID int    `json:"id"`
	N  int64  `json:"n"`
}

func rowsOf(v fill.Value) (rows []row, err error) {
	err = json.Unmarshal(v.Payload, &rows)
	return rows, err
}

func args(numbers ...int) (all []keytext.Arg) {
	for _, n := range numbers {
		all = append(all, keytext.Arg{Text: strconv.Itoa(n)})
	}
	return all
}

// commit runs a statement, and returns a token of its transaction.
func (w *world) commit(ctx context.Context, conn *pgx.Conn, statement string, arguments ...any) (token mvcc.Token, n int64, err error) {
	var xid, lsn string
	if err := conn.QueryRow(ctx, statement+` RETURNING pg_current_xact_id()::text, n`, arguments...).Scan(&xid, &n); err != nil {
		return token, 0, err
	}
	if err := conn.QueryRow(ctx, `SELECT pg_current_wal_insert_lsn()::text`).Scan(&lsn); err != nil {
		return token, 0, err
	}
	token.System, token.Timeline = w.system, 1
	if token.XID, err = mvcc.ParseXID(xid); err == nil {
		token.After, err = mvcc.ParseLSN(lsn)
	}
	return token, n, err
}

// verify holds what is cached against the database.
func (w *world) verify() *verify.Report {
	w.t.Helper()
	survey, err := w.store.Survey(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	defer survey.Close()
	report, err := verify.Run(w.t.Context(), verify.Options{Namespace: w.namespace, Store: survey, Truth: w.loader})
	if err != nil || report.Stopped != "" {
		w.t.Fatalf("verify: %v, %+v", err, report)
	}
	return report
}
