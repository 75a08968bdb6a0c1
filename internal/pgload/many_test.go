package pgload_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/sqlparam"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// inBatch gives a query the form for many keys, of parameters with these types.
func inBatch(q pgload.Query, types ...string) pgload.Query {
	columns := func(sql string) string { return sqlparam.Substitute(strings.TrimRight(sql, "; "), rule.BatchColumn) }
	q.Batch = &rule.Batch{SQL: columns(q.SQL), Types: types}
	for _, tag := range q.Tags {
		q.Batch.Tags = append(q.Batch.Tags, columns(tag.SQL))
	}
	return q
}

// alone is what loading a key by itself gives.
func alone(t *testing.T, l *pgload.Loader, q pgload.Query, key []keytext.Arg) pgload.One {
	t.Helper()
	loaded, err := l.LoadTagged(t.Context(), q, key)
	return pgload.One{Loaded: loaded, Err: err}
}

// sameValue fails where two loads of a key differ in anything but their snapshots.
func sameValue(t *testing.T, what string, got, want pgload.One) {
	t.Helper()
	plain := func(one pgload.One) string {
		if one.Err != nil {
			return "error " + one.Err.Error()
		}
		l := one.Loaded
		return fmt.Sprintf("%v %s %v %v %q %v", l.Found, l.Payload, l.Server, l.Tags, l.Refuse, l.Coverage.Standby())
	}
	if diff := cmp.Diff(plain(want), plain(got)); diff != "" {
		t.Errorf("%s (-alone +together):\n%s", what, diff)
	}
}

// sessions are the ways in which a pool may be made.
func sessions(t *testing.T, url string) map[string]*pgload.Loader {
	t.Helper()
	all := map[string]*pgload.Loader{}
	owned, err := pgload.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(owned.Close)
	all["owned"] = owned
	for name, change := range map[string]func(*pgxpool.Config){
		"theirs":         func(*pgxpool.Config) {},
		"other settings": func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["TimeZone"] = "Asia/Tokyo" },
		"no names":       func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec },
	} {
		config, err := pgxpool.ParseConfig(url)
		if err != nil {
			t.Fatal(err)
		}
		change(config)
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		all[name] = pgload.New(pool)
	}
	return all
}

// TestLoadMany gives for each key what loading it alone gives, byte for byte, in every kind of session, by one statement and by
// pipelined ones: among them keys without a row, with a row of NULLs only, and NULL itself.
func TestLoadMany(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t)
	url := server.Database(t)
	server.Exec(t, url, tables, `INSERT INTO product SELECT i, 'p"' || i || E'\\', i, '2024-01-01 10:00+02' FROM generate_series(3, 40) i`)
	member := &rule.TagQuery{SQL: "SELECT id % 3 FROM public.product WHERE id <= $1", From: []string{"id"}, Types: []keytext.Type{keytext.Int8}}
	queries := map[string]pgload.Query{
		"one":        inBatch(pgload.Query{SQL: "SELECT id, name, price, made FROM public.product WHERE id = $1;", Result: rule.One}, "int8"),
		"nulls only": inBatch(pgload.Query{SQL: "SELECT name, price FROM public.product WHERE id = $1 -- which", Result: rule.One}, "int8"),
		"limited":    inBatch(pgload.Query{SQL: "SELECT id FROM public.product WHERE id > $1 ORDER BY id LIMIT 3", Result: rule.Many}, "int8"),
		"limit":      inBatch(pgload.Query{SQL: "SELECT id FROM public.product ORDER BY id DESC LIMIT $1", Result: rule.Many}, "int8"),
		"aggregate":  inBatch(pgload.Query{SQL: "SELECT count(*) AS n, max(made) AS m FROM public.product WHERE id < $1", Result: rule.One}, "int8"),
		"is null":    inBatch(pgload.Query{SQL: "SELECT id FROM public.product WHERE id = $1 OR $1 IS NULL AND id < 3 ORDER BY 1", Result: rule.Many}, "int8"),
		"tagged":     inBatch(pgload.Query{SQL: "SELECT id FROM public.product WHERE id = $1", Result: rule.One, Tags: []*rule.TagQuery{member}}, "int8"),
	}
	random := rand.New(rand.NewPCG(1, 2))
	var keys [][]keytext.Arg
	for range 60 {
		keys = append(keys, texts(strconv.Itoa(random.IntN(50))))
	}
	keys = append(keys, []keytext.Arg{{Null: true}})
	for session, l := range sessions(t, url) {
		for name, q := range queries {
			apart := q
			apart.Batch = nil
			if session == "no names" {
				// In that mode a parameter whose type has to be found out is of no use to loads of any kind.
				q.SQL = strings.ReplaceAll(q.SQL, "$1", "$1::int8")
				apart.SQL = q.SQL
			}
			together, pipelined := l.LoadMany(t.Context(), q, keys), l.LoadMany(t.Context(), apart, keys)
			if most := 2; together.Statements > most || pipelined.Statements < len(keys) || together.Refused != nil {
				t.Errorf("%s, %s: %d statements, and %d apart; %v", session, name, together.Statements, pipelined.Statements, together.Refused)
			}
			snapshot := together.Ones[0].Loaded.Coverage
			for i, key := range keys {
				want := alone(t, l, q, key)
				what := fmt.Sprintf("%s, %s, key %v", session, name, key)
				sameValue(t, what+" together", together.Ones[i], want)
				sameValue(t, what+" pipelined", pipelined.Ones[i], want)
				if got := together.Ones[i].Loaded.Coverage; !cmp.Equal(got, snapshot) || got.Snapshot.IsZero() {
					t.Errorf("%s: covered by %v, and the first key by %v: not one snapshot", what, got, snapshot)
				}
			}
		}
	}
}

// TestLoadManyOfSeveralTypes passes arguments as what they are: texts with all that arrays have to escape, enums, times.
func TestLoadManyOfSeveralTypes(t *testing.T) {
	t.Parallel()
	l, _, _ := open(t)
	q := inBatch(pgload.Query{
		SQL:    `SELECT $1::text AS a, $2::stage AS b, $3::timestamptz AS c, $4::bytea AS d, $5::numeric AS e, (SELECT count(*) FROM public.product WHERE stage = $2) AS n`,
		Result: rule.One,
	}, "text", "public.stage", "timestamptz", "bytea", "numeric")
	var keys [][]keytext.Arg
	for _, text := range []string{"", "NULL", `a"b`, `c\d`, "{,}", " x ", "ü\n", `\N`} {
		keys = append(keys, texts(text, "new", "2024-02-03 04:05:06+00", `\x00ff`, "1.50"))
	}
	keys = append(keys, make([]keytext.Arg, 5))
	for i := range keys[len(keys)-1] {
		keys[len(keys)-1][i].Null = true
	}
	m := l.LoadMany(t.Context(), q, keys)
	for i, key := range keys {
		sameValue(t, fmt.Sprint(key), m.Ones[i], alone(t, l, q, key))
	}
	if m.Statements != 1 {
		t.Errorf("%d statements", m.Statements)
	}
}

// TestLoadManyHalves: what fails for one key is that key's error alone, found in a number of statements that grows with its
// logarithm; several rows where one is expected are the key's own as well.
func TestLoadManyHalves(t *testing.T) {
	t.Parallel()
	l, server, url := open(t)
	server.Exec(t, url, `INSERT INTO product (id) SELECT generate_series(3, 200)`)
	failing := inBatch(pgload.Query{SQL: "SELECT id, 100 / (id - 77) AS n FROM public.product WHERE id = $1", Result: rule.One}, "int8")
	severalOf := inBatch(pgload.Query{SQL: "SELECT id FROM public.product WHERE id IN ($1, 76 + $1 % 2)", Result: rule.One}, "int8")
	var keys [][]keytext.Arg
	for i := range 200 {
		keys = append(keys, texts(strconv.Itoa(i+1)))
	}
	for name, q := range map[string]pgload.Query{"together": failing, "apart": {SQL: failing.SQL, Result: rule.One}} {
		m := l.LoadMany(t.Context(), q, keys)
		for i, one := range m.Ones {
			var refused *pgload.QueryError
			switch {
			case i+1 == 77:
				if !errors.As(one.Err, &refused) || refused.Code != "22012" {
					t.Errorf("%s: key 77: %+v", name, one)
				}
			case one.Err != nil || !one.Loaded.Found || one.Loaded.Refuse != "" || !strings.HasPrefix(string(one.Loaded.Payload), fmt.Sprintf(`{"id":%d,`, i+1)):
				t.Errorf("%s: key %d: %+v", name, i+1, one)
			}
		}
		if name == "together" && m.Statements > 17 {
			t.Errorf("%d statements", m.Statements)
		}
	}
	for i, one := range l.LoadMany(t.Context(), severalOf, keys).Ones {
		if several := i+1 != 76 && i+1 != 77; errors.Is(one.Err, pgload.ErrManyRows) != several {
			t.Errorf("key %d: %+v", i+1, one)
		}
	}
}

// TestLoadManyRefused: a database that does not take the statement for many keys says so once, and is asked for each of them.
func TestLoadManyRefused(t *testing.T) {
	t.Parallel()
	l, _, _ := open(t)
	q := inBatch(pgload.Query{SQL: "SELECT sum($1::int8) AS n FROM public.product", Result: rule.One}, "int8")
	m := l.LoadMany(t.Context(), q, [][]keytext.Arg{texts("1"), texts("2")})
	var refused *pgload.QueryError
	if !errors.As(m.Refused, &refused) || refused.Code != "42803" || m.Statements != 3 {
		t.Errorf("%d statements, refused: %v", m.Statements, m.Refused)
	}
	for i, want := range []string{`{"n":2}`, `{"n":4}`} {
		if one := m.Ones[i]; one.Err != nil || string(one.Loaded.Payload) != want {
			t.Errorf("key %d: %s, %v", i, one.Loaded.Payload, one.Err)
		}
	}
}

// TestLoadManyForgottenStatements: a pool that somebody else uses too may have forgotten what was prepared over it.
func TestLoadManyForgottenStatements(t *testing.T) {
	t.Parallel()
	_, _, url := open(t)
	pool, err := pgxpool.New(t.Context(), url+"&pool_max_conns=1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	l := pgload.New(pool)
	for range 3 {
		m := l.LoadMany(t.Context(), pgload.Query{SQL: "SELECT id FROM public.product WHERE id = $1", Result: rule.One}, [][]keytext.Arg{texts("1"), texts("2")})
		for i, one := range m.Ones {
			if one.Err != nil || !one.Loaded.Found {
				t.Fatalf("key %d: %+v", i, one)
			}
		}
		if _, err := pool.Exec(t.Context(), "DEALLOCATE ALL", pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLoadManyEnds when its context does, and leaves the pool usable. A statement that is given up is cancelled on the server, which
// may answer those behind it.
func TestLoadManyEnds(t *testing.T) {
	t.Parallel()
	l, _, _ := open(t)
	for name, q := range map[string]pgload.Query{
		"together": inBatch(pgload.Query{SQL: "SELECT id, pg_sleep($1) IS NULL AS slept FROM public.product WHERE id = 1", Result: rule.One}, "float8"),
		"apart":    {SQL: "SELECT id, pg_sleep($1) IS NULL AS slept FROM public.product WHERE id = 1", Result: rule.One},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second) // for the one that is answered, on a busy machine
		m := l.LoadMany(ctx, q, [][]keytext.Arg{texts("0"), texts("30"), texts("0")})
		cancel()
		for i, one := range m.Ones {
			if hung := name == "together" || i == 1; hung && !errors.Is(one.Err, pgload.ErrTimeout) || !hung && i == 0 && one.Err != nil {
				t.Errorf("%s: key %d: %+v", name, i, one)
			}
		}
	}
	if one := alone(t, l, pgload.Query{SQL: "SELECT 1 AS a", Result: rule.One}, nil); one.Err != nil {
		t.Error(one.Err)
	}
}

// TestLoadManyFromAStandby is covered for every key by the position before the statement.
func TestLoadManyFromAStandby(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	stamp := p.rename(t, "renamed")
	r := p.replica(t, p.there)
	primary, err := pgload.Open(t.Context(), p.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(primary.Close)
	tag := &rule.TagQuery{SQL: "SELECT id FROM public.product WHERE id = $1", From: []string{"id"}, Types: []keytext.Type{keytext.Int8}}
	q := inBatch(pgload.Query{SQL: "SELECT id, name FROM public.product WHERE id = $1", Result: rule.One, Tags: []*rule.TagQuery{tag}}, "int8")
	apart := q
	apart.Batch = nil
	keys := [][]keytext.Arg{texts("1"), texts("2"), texts("3")}
	eventually(t, func() error {
		for name, q := range map[string]pgload.Query{"together": q, "apart": apart} {
			all, err := r.LoadMany(t.Context(), q, keys)
			if err != nil {
				return err
			}
			for i, key := range keys {
				want := alone(t, primary, q, key).Loaded
				got := all[i]
				if !got.Coverage.Covers(stamp) {
					return errNotYet
				}
				if got.Found != want.Found || !bytes.Equal(got.Payload, want.Payload) || got.Server != want.Server || got.Refuse != "" ||
					!got.Coverage.Standby() || !cmp.Equal(got.Tags, want.Tags) {
					t.Fatalf("%s, key %d: %+v, want %+v", name, i, got, want)
				}
			}
		}
		return nil
	})
	failing := inBatch(pgload.Query{SQL: "SELECT 1 / ($1 - 2) AS n", Result: rule.One}, "int8")
	if _, err := r.LoadMany(t.Context(), failing, keys); err == nil {
		t.Error("a key that fails is no error of a standby's load")
	}
}

// TestLoadManyThroughAPooler asks which server it is within the statement.
func TestLoadManyThroughAPooler(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"timezone": "Asia/Tokyo"}})
	url := server.Database(t)
	server.Exec(t, url, tables)
	pooler := pgtest.Pooler(t, server)
	l, err := pgload.Open(t.Context(), pooler.URL(server.Ask(t, url, "SELECT current_database()::text")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	q := inBatch(pgload.Query{SQL: "SELECT id, made FROM public.product WHERE id = $1", Result: rule.One}, "int8")
	apart := q
	apart.Batch = nil
	keys := [][]keytext.Arg{texts("1"), texts("2"), texts("3")}
	for name, q := range map[string]pgload.Query{"together": q, "apart": apart} {
		m := l.LoadMany(t.Context(), q, keys)
		for i, key := range keys {
			sameValue(t, fmt.Sprintf("%s, key %d", name, i), m.Ones[i], alone(t, l, q, key))
			if m.Ones[i].Loaded.Refuse != "" {
				t.Errorf("%s, key %d: %s", name, i, m.Ones[i].Loaded.Refuse)
			}
		}
	}
}
