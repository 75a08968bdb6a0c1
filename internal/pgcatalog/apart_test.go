package pgcatalog_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/pgcatalog"
	"github.com/freshet/freshet/internal/schema"
)

// TestApart: of the columns that PostgreSQL could store apart from their rows, those that it may have.
func TestApart(t *testing.T) {
	t.Parallel()
	conn := connect(t, `CREATE TABLE small (id int PRIMARY KEY, a text, b varchar, c jsonb);
		CREATE TABLE large (id int PRIMARY KEY, a text, b varchar(4), c varchar(40), d text, e text, f text, g numeric, h bytea);
		ALTER TABLE large ALTER d SET STORAGE PLAIN, ALTER e SET STORAGE MAIN;
		CREATE TABLE parts (id int, a text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
		CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
		CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (20);
		INSERT INTO small VALUES (1, repeat('x', 100), 'b', '{}');
		INSERT INTO large SELECT i, 'state' || i % 3, 'b', 'c', 'd', 'e', string_agg(md5(j::text || i::text), ''), 1, NULL
		  FROM generate_series(1, 30) i, generate_series(1, 300) j GROUP BY i;
		INSERT INTO parts SELECT 11, string_agg(md5(j::text), '') FROM generate_series(1, 300) j`)
	names := map[string]schema.Name{}
	var tables []schema.Name
	for _, name := range []string{"small", "large", "parts"} {
		names[name] = schema.Name{Schema: "public", Name: name}
		tables = append(tables, names[name])
	}
	look := func(want map[schema.Name][]string) {
		t.Helper()
		got, err := pgcatalog.Apart(t.Context(), conn, tables)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	}
	// Nothing is known of how long values are.
	look(map[schema.Name][]string{names["large"]: {"a", "c", "f", "h"}, names["parts"]: {"a"}})
	if _, err := conn.Exec(t.Context(), "ANALYZE"); err != nil {
		t.Fatal(err)
	}
	look(map[schema.Name][]string{names["large"]: {"f"}, names["parts"]: {"a"}})
}
