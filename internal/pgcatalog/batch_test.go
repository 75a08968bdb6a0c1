package pgcatalog_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/pgcatalog"
	"github.com/freshet/freshet/internal/plan"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/testkit/plantest"
)

const batchTables = `
	CREATE TYPE mood AS ENUM ('good', 'bad');
	CREATE TABLE users (id bigint PRIMARY KEY, name varchar(20), mood mood, team int);
	CREATE TABLE teams (id int PRIMARY KEY, name text);
	CREATE TABLE large (id int, n int, filler text);
	INSERT INTO large SELECT i, i % 100, repeat('x', 100) FROM generate_series(1, 50000) i;
	ALTER TABLE large REPLICA IDENTITY FULL;
	ANALYZE large`

// verified plans an entry and has the database agree.
func verified(t *testing.T, conn *pgx.Conn, key, query string) *rule.Entry {
	t.Helper()
	catalog, err := pgcatalog.Read(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := plantest.CompileAllowed(catalog, &rule.Declared{Name: "e", Key: key, Query: query, Result: rule.Many}, plan.Served()...)
	if err != nil {
		t.Fatal(err)
	}
	if err := pgcatalog.Verify(t.Context(), conn, compiled.Entry, compiled.Ignored...); err != nil {
		t.Fatal(err)
	}
	return compiled.Entry
}

// TestBatchesAreVerified: the form for many keys has the types that PostgreSQL finds, is there for all that it takes, and is not
// there for what it would read otherwise.
func TestBatchesAreVerified(t *testing.T) {
	t.Parallel()
	conn := connect(t, batchTables)
	for _, tt := range []struct {
		name, key, query string
		want             *rule.Batch
	}{
		{
			name: "a key", key: "k:{id}", query: "SELECT name FROM users WHERE id = @id",
			want: &rule.Batch{SQL: "SELECT users.name AS name FROM public.users WHERE users.id = freshet_k.p1", Types: []string{"pg_catalog.int8"}},
		},
		{
			name: "an enum, and a text that is compared with a varchar", key: "k:{mood}:{name}", query: "SELECT id FROM users WHERE mood = @mood AND name = @name ORDER BY 1",
			want: &rule.Batch{
				SQL:   "SELECT users.id AS id FROM public.users WHERE users.mood = freshet_k.p1 AND users.name = freshet_k.p2 ORDER BY 1",
				Types: []string{"public.mood", "pg_catalog.text"},
			},
		},
		{
			name: "an array", key: "k:{ids}", query: "SELECT name FROM users WHERE id = ANY(@ids) ORDER BY id",
			want: &rule.Batch{
				SQL: "SELECT users.name AS name FROM public.users WHERE users.id = ANY((freshet_k.p1)::bigint[]) ORDER BY users.id",
				Tags: []string{
					"SELECT DISTINCT (e1.v)::text AS c1 FROM unnest((freshet_k.p1)::bigint[]::bigint[]) AS e1 (v) WHERE e1.v IS NOT NULL",
				},
				Types: []string{"pg_catalog.text"},
			},
		},
		{
			name: "a path", key: "k:{id}", query: "SELECT t.name FROM users u JOIN teams t ON t.id = u.team WHERE u.id = @id",
			want: &rule.Batch{
				SQL:   "SELECT t.name AS name FROM public.users u JOIN public.teams t ON t.id = u.team WHERE u.id = freshet_k.p1",
				Tags:  []string{"SELECT DISTINCT (q1.team)::text AS c1 FROM public.users q1 WHERE q1.id = freshet_k.p1::bigint AND q1.team IS NOT NULL"},
				Types: []string{"pg_catalog.int8"},
			},
		},
		{name: "an aggregate of the parameter alone", key: "k:{id}", query: "SELECT count(*) AS n, sum(@id) AS s FROM users WHERE id = @id"},
		{name: "a name of ours", key: "k:{id}", query: "SELECT freshet_k.name FROM users freshet_k WHERE freshet_k.id = @id"},
	} {
		if diff := cmp.Diff(tt.want, verified(t, conn, tt.key, tt.query).Batch); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	var left int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_prepared_statements WHERE name = 'freshet_cost'").Scan(&left); err != nil || left != 0 {
		t.Errorf("%d statements are left behind, %v", left, err)
	}
}

// TestBatchesThatAreWorse than loads of one key are not made: here those may use several processes, and a part of a larger
// statement may not.
func TestBatchesThatAreWorse(t *testing.T) {
	t.Parallel()
	conn := connect(t, batchTables)
	const query = "SELECT count(*) AS n FROM large WHERE n = @n AND id > 10"
	if verified(t, conn, "k:{n}", query).Batch == nil {
		t.Error("a batch is refused that is as good as single loads")
	}
	if _, err := conn.Exec(t.Context(), `SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
		SET max_parallel_workers_per_gather = 4; ALTER TABLE large SET (parallel_workers = 4)`); err != nil {
		t.Fatal(err)
	}
	if b := verified(t, conn, "k:{n}", query).Batch; b != nil {
		t.Errorf("a batch is made that is worse than single loads: %+v", b)
	}
}
