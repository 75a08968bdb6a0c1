package pgcatalog_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/pgcatalog"
	"github.com/freshet/freshet/internal/plan"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/plantest"
)

var update = flag.Bool("update", false, "write what the adapter reads into the catalog.json of the planner's cases")

// connect opens a database in which the schema exists.
func connect(t *testing.T, ddl string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), pgtest.Shared(t).Database(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if _, err := conn.Exec(t.Context(), ddl); err != nil {
		t.Fatalf("create the schema: %v", err)
	}
	return conn
}

// TestGoldenCases keeps the catalogs that the planner's tests use equal to what this package reads of PostgreSQL, and
// has PostgreSQL confirm every plan that they accept: types of the parameters and columns that are read.
func TestGoldenCases(t *testing.T) {
	t.Parallel()
	folders, err := plantest.Schemas("../plan/testdata")
	if err != nil || len(folders) == 0 {
		t.Fatalf("find the schemas: %v, %v", folders, err)
	}
	for _, folder := range folders {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			t.Parallel()
			ddl, err := os.ReadFile(filepath.Join(folder, "schema.sql"))
			if err != nil {
				t.Fatal(err)
			}
			conn := connect(t, string(ddl))
			catalog, err := pgcatalog.Read(t.Context(), conn)
			if err != nil {
				t.Fatal(err)
			}
			text, err := plantest.Format(catalog)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(folder, "catalog.json")
			if *update {
				if err := os.WriteFile(file, text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			stored, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(stored), string(text)); diff != "" {
				t.Errorf("catalog.json is not current, run go test ./internal/pgcatalog -update (-stored +read):\n%s", diff)
			}
			cases, err := plantest.Cases(folder)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range cases {
				if c.Refused {
					continue
				}
				compiled, err := plan.Compile(catalog, c.Declared, c.Classes...)
				if err != nil {
					t.Errorf("%s: %v", c.Name, err)
					continue
				}
				if err := pgcatalog.Verify(t.Context(), conn, compiled.Entry, compiled.Ignored...); err != nil {
					t.Errorf("%s: %v", c.Name, err)
				}
			}
		})
	}
}
