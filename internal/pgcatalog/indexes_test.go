package pgcatalog_test

import (
	"testing"

	"github.com/freshet/freshet/internal/pgcatalog"
	"github.com/freshet/freshet/internal/schema"
)

// TestRelations: an index is refused every name that a relation of any kind has.
func TestRelations(t *testing.T) {
	t.Parallel()
	conn := connect(t, `CREATE TABLE one (id int8 PRIMARY KEY, name text);
		CREATE SEQUENCE one_freshet; CREATE TYPE one_freshet_2 AS (a int); CREATE INDEX one_freshet_3 ON one (name); CREATE VIEW one_freshet_4 AS SELECT 1 AS a`)
	taken, err := pgcatalog.Relations(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "one_pkey", "one_freshet", "one_freshet_2", "one_freshet_3", "one_freshet_4"} {
		if !taken[schema.Name{Schema: "public", Name: name}] {
			t.Errorf("%s is not among the names that are taken", name)
		}
		if _, err := conn.Exec(t.Context(), "CREATE INDEX "+name+" ON one (id)"); err == nil {
			t.Errorf("an index could have the name %s", name)
		}
	}
	if taken[schema.Name{Schema: "public", Name: "one_freshet_5"}] {
		t.Error("a name that nothing has is taken")
	}
}
