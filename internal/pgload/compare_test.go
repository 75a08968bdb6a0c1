package pgload_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// declared is a query of products with a row version that their writers keep.
func declared(result rule.Result) pgload.Query {
	const sql = `SELECT product.name AS name, product.made AS "a ""strange"" name" FROM public.product WHERE product.id >= $1 ORDER BY product.id`
	return pgload.Query{SQL: sql, Result: result, Version: &rule.RowVersion{
		SQL:     strings.Replace(sql, " FROM", ", (product.price)::text AS freshet_version FROM", 1),
		Columns: []string{"name", `a "strange" name`},
	}}
}

func changed(t *testing.T, l *pgload.Loader, q pgload.Query, arg string, known pgload.Known) pgload.Loaded {
	t.Helper()
	got, err := l.LoadChanged(t.Context(), q, texts(arg), known)
	if err != nil {
		t.Fatal(err)
	}
	if got.Refuse != "" || got.Coverage.Snapshot.IsZero() || got.Server.System == "" {
		t.Fatalf("LoadChanged = %+v, want it to be fillable", got)
	}
	if got.Same != pgload.Different && len(got.Payload) > 0 {
		t.Fatalf("LoadChanged = %+v: a value that is known was sent", got)
	}
	return got
}

// TestLoadChanged: a value is returned if and only if it is not the known one, and is then byte for byte what Load returns.
func TestLoadChanged(t *testing.T) {
	t.Parallel()
	l, server, url := open(t)
	queries := map[string]struct {
		q   pgload.Query
		arg string
	}{
		"one":                    {pgload.Query{SQL: "SELECT id, name, price, made, raw FROM public.product WHERE id = $1 -- by key", Result: rule.One}, "1"},
		"all null":               {pgload.Query{SQL: "SELECT name, price FROM public.product WHERE id = $1;", Result: rule.One}, "2"},
		"many":                   {pgload.Query{SQL: "SELECT id, name FROM public.product WHERE id >= $1 ORDER BY id DESC", Result: rule.Many}, "0"},
		"none of many":           {pgload.Query{SQL: "SELECT id, name FROM public.product WHERE id >= $1", Result: rule.Many}, "9"},
		"declared, one":          {declared(rule.One), "2"},
		"declared, many":         {declared(rule.Many), "0"},
		"declared, none of many": {declared(rule.Many), "9"},
	}
	for name, tt := range queries {
		want, err := l.Load(t.Context(), tt.q.SQL, tt.q.Result, texts(tt.arg))
		if err != nil || !want.Found {
			t.Fatalf("%s: Load = %+v, %v", name, want, err)
		}
		for range 2 { // the second run is with the cached statement
			if got := changed(t, l, tt.q, tt.arg, pgload.Known{Digest: pgload.DigestOf(want.Payload)}); got.Same != pgload.SameDigest || !got.Found {
				t.Errorf("%s: LoadChanged of what is there = %+v", name, got)
			}
			for _, other := range []string{"", "null", string(want.Payload) + " "} {
				got := changed(t, l, tt.q, tt.arg, pgload.Known{Digest: pgload.DigestOf([]byte(other))})
				if got.Same != pgload.Different || !got.Found || !bytes.Equal(got.Payload, want.Payload) {
					t.Errorf("%s: LoadChanged of %q = %s %+v, want %s", name, other, got.Payload, got, want.Payload)
				}
			}
		}
	}
	for _, q := range []pgload.Query{queries["one"].q, declared(rule.One)} {
		if got := changed(t, l, q, "9", pgload.Known{Digest: pgload.DigestOf([]byte("{}"))}); got.Found || got.Same != pgload.Different || got.Payload != nil {
			t.Errorf("LoadChanged of a row that is not there = %+v", got)
		}
	}
	server.Exec(t, url, "INSERT INTO product (id) VALUES (3)")
	for _, q := range []pgload.Query{{SQL: "SELECT id FROM public.product WHERE id >= $1", Result: rule.One}, declared(rule.One)} {
		if _, err := l.LoadChanged(t.Context(), q, texts("2"), pgload.Known{}); !errors.Is(err, pgload.ErrManyRows) {
			t.Errorf("several rows: %v", err)
		}
	}
}

// TestDeclaredVersions: a version that is the same is enough, whatever the bytes are; one that is not leaves it to them.
func TestDeclaredVersions(t *testing.T) {
	t.Parallel()
	l, server, url := open(t)
	server.Exec(t, url, "UPDATE product SET price = 1 WHERE id = 2")
	for _, result := range []rule.Result{rule.One, rule.Many} {
		q, arg := declared(result), "2"
		if result == rule.Many {
			arg = "1"
		}
		first := changed(t, l, q, arg, pgload.Known{})
		if first.Same != pgload.Different || first.Version == "" {
			t.Fatalf("%s: LoadChanged = %+v", result, first)
		}
		known := pgload.Known{Digest: pgload.DigestOf(first.Payload), Version: first.Version}
		if got := changed(t, l, q, arg, known); got.Same != pgload.SameVersion || got.Version != first.Version {
			t.Errorf("%s, unchanged: %+v", result, got)
		}
		server.Exec(t, url, "UPDATE product SET name = 'against what was declared' WHERE id = 2")
		if got := changed(t, l, q, arg, known); got.Same != pgload.SameVersion {
			t.Errorf("%s, the version did not change: %+v", result, got)
		}
		server.Exec(t, url, "UPDATE product SET price = price + 1 WHERE id = 2")
		second := changed(t, l, q, arg, known)
		if second.Same != pgload.Different || second.Version == first.Version || !bytes.Contains(second.Payload, []byte("declared")) {
			t.Errorf("%s, changed: %s %+v", result, second.Payload, second)
		}
		server.Exec(t, url, "UPDATE product SET price = price + 1 WHERE id = 2")
		third := changed(t, l, q, arg, pgload.Known{Digest: pgload.DigestOf(second.Payload), Version: second.Version})
		if third.Same != pgload.SameDigest || third.Version == second.Version {
			t.Errorf("%s, only the version changed: %+v", result, third)
		}
		// A version that is NULL is none, of one row or among several.
		server.Exec(t, url, "UPDATE product SET price = NULL WHERE id = 2")
		if got := changed(t, l, q, arg, pgload.Known{Digest: pgload.DigestOf(second.Payload), Version: third.Version}); got.Same != pgload.SameDigest || got.Version != "" {
			t.Errorf("%s, without a version: %+v", result, got)
		}
		server.Exec(t, url, "UPDATE product SET price = 1, name = NULL WHERE id = 2")
	}
}

// TestVersionsOfSeveralRows: neither an order, nor a number of rows, nor what their versions contain makes two lists one.
func TestVersionsOfSeveralRows(t *testing.T) {
	t.Parallel()
	l, server, url := open(t)
	server.Exec(t, url, "CREATE TABLE item (id int PRIMARY KEY, rank int NOT NULL, version text)")
	const sql = "SELECT 1 AS one FROM public.item WHERE item.id > $1::int ORDER BY item.rank"
	q := pgload.Query{SQL: sql, Result: rule.Many, Version: &rule.RowVersion{
		SQL: strings.Replace(sql, " FROM", ", item.version AS freshet_version FROM", 1), Columns: []string{"one"},
	}}
	seen := map[string]string{}
	for _, rows := range []string{
		"(1, 1, 'a'), (2, 2, 'b')", "(1, 2, 'a'), (2, 1, 'b')", "(1, 1, 'a,b')", `(1, 1, 'a"'), (2, 2, 'b')`, `(1, 1, 'a","b')`,
		"(1, 1, 'a'), (2, 2, ''), (3, 3, 'b')", "(1, 1, ''), (2, 2, '')", "(1, 1, '')", "(1, 1, repeat('a', 64))", "(1, 1, repeat('a', 65))",
		"(1, 1, repeat('a', 66))", "(1, 1, '#' || encode(sha256(repeat('a', 67)::bytea), 'hex'))",
	} {
		server.Exec(t, url, "TRUNCATE item", "INSERT INTO item VALUES "+rows)
		got := changed(t, l, q, "0", pgload.Known{})
		if other, again := seen[got.Version]; again || got.Version == "" || len(got.Version) > 65 {
			t.Errorf("%s has version %q, as %s has", rows, got.Version, other)
		}
		seen[got.Version] = rows
	}
	server.Exec(t, url, "TRUNCATE item", "INSERT INTO item VALUES (1, 1, repeat('a', 65))")
	single := q
	single.Result = rule.One
	long := changed(t, l, single, "0", pgload.Known{})
	server.Exec(t, url, "UPDATE item SET version = encode(sha256(repeat('a', 65)::bytea), 'hex')")
	if short := changed(t, l, single, "0", pgload.Known{}); short.Version == long.Version || short.Version == "" {
		t.Errorf("a long version and its digest are both %q", short.Version)
	}
	server.Exec(t, url, "INSERT INTO item VALUES (9, 9, NULL)")
	if got := changed(t, l, q, "0", pgload.Known{}); got.Version != "" {
		t.Errorf("with one that is NULL, the version is %q", got.Version)
	}
}

// TestComparisonsInEverySession: sessions with other settings and protocols, and a pooler, compare the same bytes.
func TestComparisonsInEverySession(t *testing.T) {
	t.Parallel()
	plain, server, url := open(t)
	want := changed(t, plain, declared(rule.One), "2", pgload.Known{})
	server.Exec(t, url, "UPDATE product SET made = '2024-01-01 10:00+02', price = 3 WHERE id = 2")
	want = changed(t, plain, declared(rule.One), "2", pgload.Known{Digest: pgload.DigestOf(want.Payload)})
	pooler := pgtest.Pooler(t, server)
	through, err := pgload.Open(t.Context(), pooler.URL(server.Ask(t, url, "SELECT current_database()::text")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(through.Close)
	loaders := map[string]*pgload.Loader{"a pooler": through, "Tokyo": pool(t, url, "SET TimeZone = 'Asia/Tokyo'; SET bytea_output = 'escape'")}
	for _, mode := range []string{"exec", "describe_exec", "cache_describe", "simple_protocol"} {
		loaders[mode] = pool(t, url+"&default_query_exec_mode="+mode)
	}
	var all sync.WaitGroup
	for name, l := range loaders {
		all.Go(func() {
			if err := compareIn(t.Context(), l, want); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	all.Wait()
}

func compareIn(ctx context.Context, l *pgload.Loader, want pgload.Loaded) error {
	q := declared(rule.One)
	for range 3 {
		for i, known := range []pgload.Known{{Digest: pgload.DigestOf(want.Payload)}, {Version: want.Version}, {Digest: pgload.DigestOf([]byte("{}")), Version: "=1"}} {
			for _, version := range []*rule.RowVersion{q.Version, nil} {
				got, err := l.LoadChanged(ctx, pgload.Query{SQL: q.SQL, Result: q.Result, Version: version}, texts("2"), known)
				expected := []pgload.Sameness{pgload.SameDigest, pgload.SameVersion, pgload.Different}[i]
				if version == nil && i > 0 {
					expected = pgload.Different
				}
				if err != nil || got.Same != expected || got.Refuse != "" || got.Server != want.Server || got.Coverage.Snapshot.IsZero() ||
					expected == pgload.Different && !bytes.Equal(got.Payload, want.Payload) {
					return fmt.Errorf("LoadChanged of %+v = %s %+v, %w", known, got.Payload, got, err)
				}
			}
		}
	}
	return nil
}

// TestComparisonInAnotherEncoding: the digest is of the bytes that a client is sent, not of those that the database keeps.
func TestComparisonInAnotherEncoding(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t)
	for _, encoding := range []string{"LATIN1", "SQL_ASCII", "UTF8"} {
		name := "compare_" + strings.ToLower(encoding)
		server.Exec(t, server.URL("postgres"), "CREATE DATABASE "+name+" ENCODING '"+encoding+"' LOCALE 'C' TEMPLATE template0")
		t.Cleanup(func() {
			server.Exec(t, server.URL("postgres"), "DROP DATABASE "+name+" WITH (FORCE)")
		})
		url := server.URL(name)
		server.Exec(t, url, "SET client_encoding = 'UTF8'", "CREATE TABLE word (id int8 PRIMARY KEY, text text)",
			"INSERT INTO word VALUES (1, 'caf\u00e9 \u00fc')")
		l, err := pgload.Open(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.Close)
		const sql = "SELECT word.text AS text FROM public.word WHERE word.id = $1"
		got, err := l.Load(t.Context(), sql, rule.One, texts("1"))
		if err != nil || string(got.Payload) != "{\"text\":\"caf\u00e9 \u00fc\"}" {
			t.Fatalf("%s: Load = %s, %v", encoding, got.Payload, err)
		}
		theirs := pool(t, url) // whose encoding is the database's
		raw, err := theirs.Load(t.Context(), sql, rule.One, texts("1"))
		if err != nil || encoding == "LATIN1" && string(raw.Payload) != "{\"text\":\"caf\xe9 \xfc\"}" {
			t.Fatalf("%s: Load = %q, %v", encoding, raw.Payload, err)
		}
		q := pgload.Query{SQL: sql, Result: rule.One}
		for name, same := range map[string]pgload.Loaded{
			"owned":  changed(t, l, q, "1", pgload.Known{Digest: pgload.DigestOf(got.Payload)}),
			"theirs": changed(t, theirs, q, "1", pgload.Known{Digest: pgload.DigestOf(raw.Payload)}),
		} {
			if same.Same != pgload.SameDigest {
				t.Errorf("%s, %s: LoadChanged = %+v", encoding, name, same)
			}
		}
	}
}
