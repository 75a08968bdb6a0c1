package pgcatalog_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freshet/freshet/internal/pgcatalog"
	"github.com/freshet/freshet/internal/plan"
	"github.com/freshet/freshet/internal/testkit/plantest"
)

// A refusal that ends in a statement is mended by that statement: after it the entry is accepted and verified.
func TestStatementsOfRefusalsMend(t *testing.T) {
	t.Parallel()
	folder := filepath.Join("..", "plan", "testdata", "shop")
	ddl, err := os.ReadFile(filepath.Join(folder, "schema.sql"))
	if err != nil {
		t.Fatal(err)
	}
	conn := connect(t, string(ddl))
	cases, err := plantest.Cases(folder)
	if err != nil {
		t.Fatal(err)
	}
	mended := 0
	for _, c := range cases {
		catalog, err := pgcatalog.Read(t.Context(), conn)
		if err != nil {
			t.Fatal(err)
		}
		_, err = plan.Compile(catalog, c.Declared)
		refused, ok := errors.AsType[*plan.Error](err)
		if !ok || !strings.HasSuffix(refused.Do, ";") || strings.Contains(refused.Do, "...") {
			continue
		}
		for statement := range strings.SplitSeq(strings.TrimSuffix(refused.Do, ";"), ";") {
			if _, err := conn.Exec(t.Context(), statement); err != nil { // one by one: CONCURRENTLY wants no transaction
				t.Fatalf("%s: %s: %v", c.Name, statement, err)
			}
		}
		if catalog, err = pgcatalog.Read(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
		compiled, err := plan.Compile(catalog, c.Declared, c.Classes...)
		if err != nil {
			t.Errorf("%s is still refused after %s: %v", c.Name, refused.Do, err)
			continue
		}
		if err := pgcatalog.Verify(t.Context(), conn, compiled.Entry); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
		mended++
	}
	const least = 8
	if mended < least {
		t.Errorf("%d refusals were mended by their statements, want at least %d", mended, least)
	}
}
