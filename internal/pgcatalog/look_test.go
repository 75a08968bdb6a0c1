package pgcatalog_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/pgcatalog"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

const looked = `
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE DOMAIN feeling AS mood;
CREATE TYPE place AS (city text, mood feeling);
CREATE TYPE moods AS RANGE (SUBTYPE = mood);
CREATE FUNCTION as_json(place) RETURNS json LANGUAGE sql IMMUTABLE AS $$SELECT '1'::json$$;
CREATE CAST (place AS json) WITH FUNCTION as_json(place);
CREATE EXTENSION hstore VERSION '1.7';
CREATE TABLE plain (id int PRIMARY KEY, a text, b int GENERATED ALWAYS AS (id * 2) STORED);
CREATE TABLE twin (id int PRIMARY KEY, a text, b int GENERATED ALWAYS AS (id * 3) STORED);
CREATE TABLE deep (id int PRIMARY KEY, places place[], kept hstore);
CREATE TABLE ranged (id int PRIMARY KEY, spans moods, many moods_multirange);
CREATE TABLE whole (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);
CREATE TABLE part PARTITION OF whole FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (id);
CREATE TABLE leaf PARTITION OF part FOR VALUES FROM (0) TO (5);
CREATE TABLE apart (id int PRIMARY KEY, a text)`

// What changes values without a row in the log changes the content of the tables that have them, and of no other; what
// planning depends on changes the shape; and what does neither changes nothing.
func TestLooks(t *testing.T) {
	t.Parallel()
	conn := connect(t, looked)
	tables := make([]schema.Name, 0, 5)
	for _, name := range []string{"plain", "deep", "ranged", "whole", "missing"} {
		tables = append(tables, schema.Name{Schema: "public", Name: name})
	}
	look := func() map[schema.Name]pgcatalog.Look {
		t.Helper()
		looks, err := pgcatalog.Looks(t.Context(), conn, tables)
		if err != nil {
			t.Fatal(err)
		}
		return looks
	}
	if got := look(); len(got) != len(tables)-1 {
		t.Fatalf("Looks = %v: not all of the tables, or one that does not exist", got)
	}
	const none = ""
	tests := []struct{ statement, shape, content string }{
		{`ALTER TABLE plain ALTER a TYPE text USING a || '!'`, none, "plain"},
		{`VACUUM FULL plain`, none, "plain"},
		{`TRUNCATE plain`, none, "plain"},
		{`ALTER TABLE plain SET UNLOGGED`, "plain", "plain"},
		{`ALTER TABLE plain SET LOGGED`, "plain", "plain"},
		{`ALTER TABLE plain ALTER a TYPE text COLLATE "C"`, "plain", "plain"},
		{`ALTER TABLE plain ALTER a TYPE varchar COLLATE "C"`, "plain", none},
		{`ALTER TABLE plain RENAME a TO z`, "plain", none},
		{`ALTER TABLE plain ADD c int`, "plain", none},
		{`ALTER TABLE plain ADD d float8 DEFAULT random()`, "plain", "plain"},
		{`ALTER TABLE plain REPLICA IDENTITY FULL`, "plain", none},
		{`ALTER TABLE plain RENAME TO gone; ALTER TABLE twin RENAME TO plain`, "plain", "plain"},
		// SET EXPRESSION of a column that is computed when it is read, which servers from 18 on have.
		{`UPDATE pg_attrdef SET adbin = (SELECT adbin FROM pg_attrdef WHERE adrelid = 'gone'::regclass AND adnum = 3)
		   WHERE adrelid = 'plain'::regclass AND adnum = 3`, none, "plain"},
		{`ALTER TYPE mood RENAME VALUE 'bad' TO 'worse'`, "deep ranged", "deep ranged"},
		{`ALTER TYPE mood ADD VALUE 'best' BEFORE 'good'`, "deep ranged", "deep ranged"},
		{`ALTER TYPE place RENAME ATTRIBUTE city TO town`, "deep", "deep"},
		{`CREATE OR REPLACE FUNCTION as_json(place) RETURNS json LANGUAGE sql IMMUTABLE AS $$SELECT '2'::json$$`, "deep", "deep"},
		{`ALTER EXTENSION hstore UPDATE TO '1.8'`, "deep", "deep"},
		{`ALTER TABLE whole ALTER a TYPE text USING a || '!'`, none, "whole"},
		{`TRUNCATE leaf`, none, "whole"},
		{`CREATE TABLE other PARTITION OF part FOR VALUES FROM (5) TO (10)`, none, "whole"},
		{`ALTER TABLE whole ATTACH PARTITION apart FOR VALUES FROM (10) TO (20)`, none, "whole"},
		{`ALTER TABLE whole DETACH PARTITION apart CONCURRENTLY`, none, "whole"},
		{`ALTER TABLE leaf REPLICA IDENTITY FULL`, "whole", none},
		{`ALTER TABLE leaf SET UNLOGGED`, "whole", "whole"},
		{`INSERT INTO plain (id) VALUES (1); UPDATE plain SET a = 'x'`, none, none},
		{`VACUUM ANALYZE plain`, none, none},
		{`REINDEX TABLE plain`, none, none},
		{`CREATE INDEX ON plain (a); CREATE INDEX ON whole (a)`, none, none},
		{`ALTER DOMAIN feeling SET DEFAULT 'good'`, none, none},
		{`CREATE TYPE unused AS ENUM ('x'); ALTER TYPE unused RENAME VALUE 'x' TO 'y'`, none, none},
		{`GRANT SELECT ON plain TO PUBLIC; COMMENT ON TABLE plain IS 'x'`, none, none},
	}
	before := look()
	for _, tt := range tests {
		for statement := range strings.SplitSeq(tt.statement, ";") {
			if _, err := conn.Exec(t.Context(), statement); err != nil {
				t.Fatalf("%s: %v", statement, err)
			}
		}
		now := look()
		var shape, content []string
		for _, name := range tables {
			if now[name].Shape != before[name].Shape {
				shape = append(shape, name.Name)
			}
			if now[name].Content != before[name].Content {
				content = append(content, name.Name)
			}
		}
		if got := strings.Join(shape, " "); got != tt.shape {
			t.Errorf("%s: the shape of %q changed, want of %q", tt.statement, got, tt.shape)
		}
		if got := strings.Join(content, " "); got != tt.content {
			t.Errorf("%s: the content of %q changed, want of %q", tt.statement, got, tt.content)
		}
		before = now
	}
}

// Whoever looks must not wait for whoever alters a table: that may take hours, and the look is part of what says that the
// daemon is alive.
func TestLooksTakeNoLocks(t *testing.T) {
	t.Parallel()
	conn := connect(t, looked)
	other, err := pgx.ConnectConfig(t.Context(), conn.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close(context.Background()) }()
	const alter = `BEGIN; ALTER TABLE whole ALTER a TYPE text USING a || '!'; ALTER TABLE plain ADD c int`
	if _, err := other.Exec(t.Context(), alter); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tables := []schema.Name{{Schema: "public", Name: "plain"}, {Schema: "public", Name: "whole"}}
	if _, err := pgcatalog.Looks(ctx, conn, tables); err != nil {
		t.Errorf("Looks beside an ALTER TABLE that is not over: %v", err)
	}
}

// BenchmarkLooks looks at a hundred tables, and at one with a thousand partitions.
func BenchmarkLooks(b *testing.B) {
	conn, err := pgx.Connect(b.Context(), pgtest.Shared(b).Database(b))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	tables := make([]schema.Name, 100)
	if _, err := conn.Exec(b.Context(), `CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE TYPE place AS (city text, mood mood)`); err != nil {
		b.Fatal(err)
	}
	for i := range tables {
		tables[i] = schema.Name{Schema: "public", Name: fmt.Sprintf("t%d", i)}
		table := fmt.Sprintf(`CREATE TABLE t%d (id int PRIMARY KEY, a text, b varchar(10), c mood, d place, e numeric, f timestamptz, g text COLLATE "und-x-icu")`, i)
		if _, err := conn.Exec(b.Context(), table); err != nil {
			b.Fatal(err)
		}
	}
	const partitions = 1000
	if _, err := conn.Exec(b.Context(), `CREATE TABLE whole (id int PRIMARY KEY, a text) PARTITION BY RANGE (id)`); err != nil {
		b.Fatal(err)
	}
	for i := range partitions {
		if _, err := conn.Exec(b.Context(), fmt.Sprintf(`CREATE TABLE whole_%d PARTITION OF whole FOR VALUES FROM (%d) TO (%d)`, i, i, i+1)); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := conn.Exec(b.Context(), `ANALYZE`); err != nil {
		b.Fatal(err)
	}
	for name, tables := range map[string][]schema.Name{
		"tables=1": tables[:1], "tables=100": tables, "partitions=1000": {{Schema: "public", Name: "whole"}},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := pgcatalog.Looks(b.Context(), conn, tables); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
