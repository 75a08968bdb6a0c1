package pgload_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/mvcc"
)

const tables = ` -- two products, the second with nothing but its key and stage
	CREATE TYPE stage AS ENUM ('new', 'paid');
	CREATE TABLE product (id int8 PRIMARY KEY, name text, price numeric, made timestamptz, stage stage, ref uuid, day date, raw bytea, ok bool);
	INSERT INTO product VALUES (1, 'a "quoted" é', 1.50, '2024-01-01 10:00+02', 'new', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '2024-01-02', '\xff', true);
	INSERT INTO product (id, stage) VALUES (2, 'paid')`

func open(t *testing.T) (*pgload.Loader, *pgtest.Server, string) {
	t.Helper()
	server := pgtest.Shared(t)
	url := server.Database(t)
	server.Exec(t, url, tables)
	l, err := pgload.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l, server, url
}

func texts(args ...string) []keytext.Arg {
	var list []keytext.Arg
	for _, a := range args {
		list = append(list, keytext.Arg{Text: a})
	}
	return list
}

func TestLoad(t *testing.T) {
	t.Parallel()
	l, _, _ := open(t)
	tests := []struct {
		name   string
		sql    string
		result rule.Result
		args   []keytext.Arg
		want   string
	}{
		{"one", "SELECT id, name, price, made, ok FROM public.product WHERE id = $1 -- by key", rule.One, texts("1"), `{"id":1,"name":"a \"quoted\" é","price":1.50,"made":"2024-01-01T08:00:00+00:00","ok":true}`},
		{"all null", "SELECT name, price FROM public.product WHERE id = $1;", rule.One, texts("2"), `{"name":null,"price":null}`},
		{"a null alone", "SELECT name FROM public.product WHERE id = $1", rule.One, texts("2"), `{"name":null}`},
		{"not there", "SELECT id FROM public.product WHERE id = $1", rule.One, texts("3"), ""},
		{"null argument", "SELECT id FROM public.product WHERE id = $1", rule.One, []keytext.Arg{{Null: true}}, ""},
		{"many in order", "SELECT id FROM public.product WHERE id > $1 ORDER BY id DESC", rule.Many, texts("0"), `[{"id":2},{"id":1}]`},
		{"many limited", "SELECT id FROM public.product WHERE id > $1 ORDER BY id DESC LIMIT 1", rule.Many, texts("0"), `[{"id":2}]`},
		{"none of many", "SELECT id FROM public.product WHERE id = $1", rule.Many, texts("3"), `[]`},
		{"aggregate", "SELECT count(*) AS n, $1::int8 AS k FROM public.product", rule.One, texts("5"), `{"n":2,"k":5}`},
		{"enum", "SELECT id FROM public.product WHERE stage = $1", rule.One, texts("paid"), `{"id":2}`},
		{"uuid", "SELECT id FROM public.product WHERE ref = $1", rule.One, texts("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), `{"id":1}`},
		{"date", "SELECT id FROM public.product WHERE day = $1", rule.One, texts("2024-01-02"), `{"id":1}`},
		{"timestamptz", "SELECT id FROM public.product WHERE made = $1", rule.One, texts("2024-01-01 08:00:00+00"), `{"id":1}`},
		{"bytea", "SELECT id FROM public.product WHERE raw = $1", rule.One, texts(`\xff`), `{"id":1}`},
		{"bool", "SELECT id FROM public.product WHERE ok = $1", rule.One, texts("t"), `{"id":1}`},
		{"numeric", "SELECT id FROM public.product WHERE price = $1", rule.One, texts("1.5"), `{"id":1}`},
		{"text", "SELECT id FROM public.product WHERE name = $1", rule.One, texts(`a "quoted" é`), `{"id":1}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for range 2 { // the second run is with the cached statement
				got, err := l.Load(t.Context(), tt.sql, tt.result, tt.args)
				if err != nil {
					t.Fatal(err)
				}
				if string(got.Payload) != tt.want || got.Found != (tt.want != "") {
					t.Errorf("Load = %v %s, want %s", got.Found, got.Payload, tt.want)
				}
				if got.Refuse != "" || got.Coverage.Snapshot.IsZero() || got.Server.System == "" || got.Server.Timeline != 1 {
					t.Errorf("Load = %+v, want it to be fillable", got)
				}
			}
		})
	}
}

func TestLoadErrors(t *testing.T) {
	t.Parallel()
	l, server, url := open(t)
	if _, err := l.Load(t.Context(), "SELECT id FROM public.product", rule.One, nil); !errors.Is(err, pgload.ErrManyRows) {
		t.Errorf("two rows: %v", err)
	}
	var query *pgload.QueryError
	if _, err := l.Load(t.Context(), "SELECT nothing FROM public.product", rule.One, nil); !errors.As(err, &query) || query.Code != "42703" {
		t.Errorf("unknown column: %v", err)
	}
	if _, err := l.Load(t.Context(), "SELECT id FROM public.product WHERE stage = $1", rule.One, texts("lost")); !errors.As(err, &query) || query.Code != "22P02" {
		t.Errorf("unknown label: %v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := l.Load(short, "SELECT pg_sleep(30)::text AS s", rule.One, nil); !errors.Is(err, pgload.ErrTimeout) || errors.Is(err, pgload.ErrUnavailable) {
		t.Errorf("slow query: %v", err)
	}
	server.Exec(t, url, "DROP TABLE product")
	if _, err := l.Load(t.Context(), "SELECT id FROM public.product", rule.Many, nil); !errors.As(err, &query) {
		t.Errorf("dropped table: %v", err)
	}
}

// TestCancelledLoadEndsOnTheServer gives a load up and looks for its query.
func TestCancelledLoadEndsOnTheServer(t *testing.T) {
	t.Parallel()
	l, _, url := open(t)
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := l.Load(short, "SELECT pg_sleep(60)::text AS marked_to_be_found", rule.One, nil); !errors.Is(err, pgload.ErrTimeout) {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	eventually(t, func() error {
		var running int
		err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
			WHERE state = 'active' AND query LIKE '%marked_to_be_found%' AND pid <> pg_backend_pid() AND datname = current_database()`).Scan(&running)
		if err == nil && running != 0 {
			err = fmt.Errorf("%d queries run on", running)
		}
		return err
	})
}

// TestSnapshotIsTheStatements reads while a transaction is open: the row and the snapshot agree about it.
func TestSnapshotIsTheStatements(t *testing.T) {
	t.Parallel()
	l, _, url := open(t)
	writer, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = writer.Close(context.Background()) }()
	tx, err := writer.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var text string
	if err := tx.QueryRow(t.Context(), "SELECT pg_current_xact_id()::text").Scan(&text); err != nil {
		t.Fatal(err)
	}
	x, err := mvcc.ParseXID(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "UPDATE product SET name = 'new' WHERE id = 1"); err != nil {
		t.Fatal(err)
	}
	load := func() pgload.Loaded {
		got, err := l.Load(t.Context(), "SELECT name FROM public.product WHERE id = $1", rule.One, texts("1"))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := load(); got.Coverage.Covers(fence.Stamp{XID: x}) || strings.Contains(string(got.Payload), "new") {
		t.Errorf("before the commit: %s %+v", got.Payload, got.Coverage)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := load(); !got.Coverage.Covers(fence.Stamp{XID: x}) || !strings.Contains(string(got.Payload), "new") {
		t.Errorf("after the commit: %s %+v", got.Payload, got.Coverage)
	}
}

// pool is a user's pool of one connection, which is prepared whenever it is acquired.
func pool(t *testing.T, url string, prepare ...string) *pgload.Loader {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 1
	config.PrepareConn = func(ctx context.Context, conn *pgx.Conn) (bool, error) {
		for _, s := range append([]string{"SET TimeZone = 'UTC'; SET DateStyle = 'ISO, MDY'"}, prepare...) {
			if _, err := conn.Exec(ctx, s); err != nil {
				return false, err
			}
		}
		return true, nil
	}
	p, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return pgload.New(p)
}

// TestRefusals has sessions whose values must not be cached; the row is returned all the same.
func TestRefusals(t *testing.T) {
	t.Parallel()
	_, _, url := open(t)
	tests := []struct{ name, prepare, refuse string }{
		{"as it should be", "SELECT 1", ""},
		{"exact floats", "SET extra_float_digits = 3", ""},
		{"time zone", "SET TimeZone = 'Europe/Berlin'", ""},
		{"date style", "SET DateStyle = 'German'", ""},
		{"date order", "SET DateStyle = 'ISO, DMY'", ""},
		{"interval style", "SET IntervalStyle = 'iso_8601'", ""},
		{"float digits", "SET extra_float_digits = 0", ""},
		{"bytea", "SET bytea_output = 'escape'", ""},
		{"transaction that wrote (T24)", "BEGIN; UPDATE product SET name = 'dirty' WHERE id = 1", "which has written"},
		{"transaction that only read", "BEGIN; SELECT FROM product", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := pool(t, url, tt.prepare).Load(t.Context(), "SELECT id FROM public.product WHERE id = $1", rule.One, texts("1"))
			if err != nil || string(got.Payload) != `{"id":1}` {
				t.Fatalf("Load = %s, %v", got.Payload, err)
			}
			if tt.refuse == "" && got.Refuse != "" || !strings.Contains(got.Refuse, tt.refuse) {
				t.Errorf("Refuse = %q, want %q", got.Refuse, tt.refuse)
			}
			if (got.Refuse == "") == got.Coverage.IsZero() {
				t.Errorf("Refuse = %q with coverage %v", got.Refuse, got.Coverage)
			}
		})
	}
}

// TestSettingsAreAdapted loads values whose text depends on the session's settings, and looks at the settings after it.
func TestSettingsAreAdapted(t *testing.T) {
	t.Parallel()
	_, _, url := open(t)
	const sql = "SELECT made, day::text AS day, raw::text AS raw, '90 minutes'::interval AS i, (1.1::float4)::text AS f FROM public.product WHERE id = $1"
	const want = `{"made":"2024-01-01T08:00:00+00:00","day":"2024-01-02","raw":"\\xff","i":"01:30:00","f":"1.1"}`
	odd := "SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'; SET IntervalStyle = 'iso_8601'; SET bytea_output = 'escape'; SET extra_float_digits = -3"
	l := pool(t, url, odd)
	for range 3 {
		got, err := l.Load(t.Context(), sql, rule.One, texts("1"))
		if err != nil || string(got.Payload) != want || got.Refuse != "" {
			t.Errorf("Load = %s %q, %v, want %s", got.Payload, got.Refuse, err, want)
		}
	}
	var query *pgload.QueryError
	if _, err := l.Load(t.Context(), "SELECT 1/(id - $1) AS x FROM public.product WHERE id = 1", rule.One, texts("1")); !errors.As(err, &query) || query.Code != "22012" {
		t.Errorf("a failing query: %v", err)
	}
	if _, err := l.Load(t.Context(), "SELECT id FROM public.product WHERE $1 = 1", rule.One, texts("1")); !errors.Is(err, pgload.ErrManyRows) {
		t.Errorf("two rows: %v", err)
	}
	if got, err := l.Load(t.Context(), sql, rule.One, texts("1")); err != nil || got.Refuse != "" {
		t.Errorf("after failures: %+v, %v", got, err)
	}
	got, err := l.LoadFunc(t.Context(), func(ctx context.Context, q pgload.Querier) (text []byte, found bool, err error) {
		err = q.QueryRow(ctx, "SELECT made::text FROM product WHERE id = 1").Scan(&text)
		return text, true, err
	})
	if err != nil || string(got.Payload) != "2024-01-01 08:00:00+00" || got.Refuse != "" {
		t.Errorf("LoadFunc = %s %q, %v", got.Payload, got.Refuse, err)
	}
	if n := l.Pool().Stat().NewConnsCount(); n != 1 {
		t.Errorf("%d connections were made: failures must not cost the pool its own", n)
	}
}

// TestSettingsThatCannotBeAdapted: a session that is in a transaction cannot be given one of the load's own. The row is
// returned, with what it covers, and not cached.
func TestSettingsThatCannotBeAdapted(t *testing.T) {
	t.Parallel()
	_, _, url := open(t)
	for _, setting := range []string{"TimeZone = 'Asia/Tokyo'", "DateStyle = 'German'", "IntervalStyle = 'iso_8601'", "bytea_output = 'escape'", "extra_float_digits = 0"} {
		l := pool(t, url, "BEGIN; SET "+setting)
		got, err := l.Load(t.Context(), "SELECT id FROM public.product WHERE id = $1", rule.One, texts("1"))
		if err != nil || string(got.Payload) != `{"id":1}` || !strings.Contains(got.Refuse, "settings") || got.Coverage.Snapshot.IsZero() {
			t.Errorf("%s: Load = %s %q, %v", setting, got.Payload, got.Refuse, err)
		}
	}
}

func TestExecModeTakesTextForAnyType(t *testing.T) {
	t.Parallel()
	_, _, url := open(t)
	for _, mode := range []string{"exec", "describe_exec", "cache_describe", "simple_protocol", "cache_statement"} {
		for _, setting := range []string{"SELECT 1", "SET TimeZone = 'Asia/Tokyo'"} {
			l := pool(t, url+"&default_query_exec_mode="+mode, setting)
			got, err := l.Load(t.Context(), "SELECT id FROM public.product WHERE id = $1", rule.One, texts("1"))
			if err != nil || string(got.Payload) != `{"id":1}` || got.Refuse != "" {
				t.Errorf("%s, %s: Load = %s %q, %v", mode, setting, got.Payload, got.Refuse, err)
			}
		}
	}
}

func TestLoadFunc(t *testing.T) {
	t.Parallel()
	l, server, url := open(t)
	// A write between the statements is in neither: the snapshot is the first statement's.
	got, err := l.LoadFunc(t.Context(), func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
		server.Exec(t, url, "UPDATE product SET name = 'later' WHERE id = 1") //nolint:contextcheck // the writer's is not the load's
		var name string
		err := q.QueryRow(ctx, "SELECT name FROM product WHERE id = 1").Scan(&name)
		return []byte(name), true, err
	})
	if err != nil || string(got.Payload) != `a "quoted" é` || got.Refuse != "" || !got.Found || got.Server.System == "" || got.Server.Timeline != 1 {
		t.Fatalf("LoadFunc = %+v, %v", got, err)
	}
	after, err := l.Load(t.Context(), "SELECT name FROM public.product WHERE id = $1", rule.One, texts("1"))
	if err != nil || !after.Coverage.Dominates(got.Coverage) || got.Coverage.Dominates(after.Coverage) {
		t.Errorf("coverage %v is not before %v (%v)", got.Coverage, after.Coverage, err)
	}
	var query *pgload.QueryError
	_, err = l.LoadFunc(t.Context(), func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
		var id int
		return nil, false, q.QueryRow(ctx, "DELETE FROM product RETURNING id").Scan(&id)
	})
	if !errors.As(err, &query) || query.Code != "25006" {
		t.Errorf("a load that writes: %v", err)
	}
	own := errors.New("no such thing")
	_, err = l.LoadFunc(t.Context(), func(context.Context, pgload.Querier) ([]byte, bool, error) { return nil, false, own })
	if !errors.Is(err, own) || errors.Is(err, pgload.ErrUnavailable) || errors.As(err, &query) {
		t.Errorf("the code's own error: %v", err)
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	l, server, url := open(t)
	server.Exec(t, url, "CREATE DOMAIN code AS varchar(9)")
	const sql = "SELECT 1 WHERE $1 = 1::int8 AND $2 = 'new'::stage AND $3 = 'x'::code AND $4 = 1.5::float8 AND $5 = 'a'::varchar"
	types, err := l.Types(t.Context(), sql)
	if err != nil || !slices.Equal(types, []keytext.Type{keytext.Int8, keytext.Enum, keytext.String, "", keytext.String}) {
		t.Errorf("Types = %q, %v", types, err)
	}
	oids, err := l.Describe(t.Context(), "SELECT $1::int8, $2::text")
	if diff := cmp.Diff([]uint32{20, 25}, oids); diff != "" || err != nil {
		t.Errorf("Describe: %v (-want +got):\n%s", err, diff)
	}
	var query *pgload.QueryError
	if _, err := l.Describe(t.Context(), "SELECT FROM nowhere"); !errors.As(err, &query) {
		t.Errorf("Describe of a bad query: %v", err)
	}
	system, database, err := l.System(t.Context())
	if err != nil || len(system) < 15 || !strings.Contains(url, database) {
		t.Errorf("System = %q, %q, %v", system, database, err)
	}
}

func TestDatabaseGoesAway(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	url := server.Database(t)
	server.Exec(t, url, tables)
	l, err := pgload.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	load := func() error {
		_, err := l.Load(t.Context(), "SELECT id FROM public.product WHERE id = $1", rule.One, texts("1"))
		return err
	}
	if err := load(); err != nil {
		t.Fatal(err)
	}
	server.Stop(t)
	for range 2 { // the first on the broken connection, the second without any
		if err := load(); !errors.Is(err, pgload.ErrUnavailable) {
			t.Errorf("with the server stopped: %v", err)
		}
	}
	server.Start(t)
	eventually(t, load)
}

func BenchmarkLoad(b *testing.B) {
	server := pgtest.Shared(b)
	url := server.Database(b)
	server.Exec(b, url, tables)
	l, err := pgload.Open(b.Context(), url)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	const sql = "SELECT id, name, price FROM public.product WHERE id = $1"
	args := texts("1")
	plain := func() error {
		rows, err := l.Pool().Query(b.Context(), sql, "1")
		if err != nil {
			return err
		}
		for rows.Next() {
			rows.RawValues()
		}
		return rows.Err()
	}
	wrapped := func() error {
		_, err := l.Load(b.Context(), sql, rule.One, args)
		return err
	}
	var took [2][]time.Duration // interleaved, so that the machine's moods meet both
	for b.Loop() {
		for i, run := range []func() error{plain, wrapped} {
			start := time.Now()
			if err := run(); err != nil {
				b.Fatal(err)
			}
			took[i] = append(took[i], time.Since(start))
		}
	}
	median := func(d []time.Duration) float64 {
		slices.Sort(d)
		return float64(d[len(d)/2].Microseconds())
	}
	b.ReportMetric(median(took[0]), "plain-us")
	b.ReportMetric(median(took[1]), "load-us")
	b.ReportMetric(median(took[1])/median(took[0]), "ratio")
}
