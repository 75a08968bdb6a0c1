package plan_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/plan"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/internal/testkit/plantest"
)

var update = flag.Bool("update", false, "write what the planner says into want.txt and stderr.txt; read the difference before committing it")

// TestGolden compiles every case below testdata. No database is needed: catalog.json stands for it, and a test of
// pgcatalog keeps that current and has PostgreSQL confirm every accepted case.
func TestGolden(t *testing.T) {
	t.Parallel()
	folders, err := plantest.Schemas("testdata")
	if err != nil || len(folders) == 0 {
		t.Fatalf("find the schemas: %v, %v", folders, err)
	}
	for _, folder := range folders {
		catalog, err := plantest.ReadCatalog(folder)
		if err != nil {
			t.Fatal(err)
		}
		cases, err := plantest.Cases(folder)
		if err != nil || len(cases) == 0 {
			t.Fatalf("find the cases of %s: %v, %v", folder, cases, err)
		}
		for _, c := range cases {
			t.Run(c.Name, func(t *testing.T) {
				t.Parallel()
				name, got := answer(catalog, c.Declared, c.Classes...)
				if *update {
					rewrite(t, c.Dir, name, got)
					return
				}
				want, err := os.ReadFile(filepath.Join(c.Dir, name))
				if err != nil {
					t.Fatalf("%v; the planner says:\n%s", err, got)
				}
				if diff := cmp.Diff(string(want), got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", name, diff)
				}
			})
		}
	}
}

// answer is what the planner says, and the file that holds it.
func answer(catalog *schema.Catalog, d rule.Declared, classes ...rule.Class) (name, text string) {
	compiled, err := plan.Compile(catalog, d, classes...)
	if err != nil {
		return "stderr.txt", err.Error() + "\n"
	}
	return "want.txt", compiled.Explain().Text()
}

func rewrite(t *testing.T, dir, name, text string) {
	t.Helper()
	for _, old := range []string{"want.txt", "stderr.txt"} {
		if err := os.Remove(filepath.Join(dir, old)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
