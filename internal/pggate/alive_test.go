package pggate

import (
	"errors"
	"strings"
	"testing"

	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// TestMarkInALoggedTable: a mark that would survive a crash is none, whoever made its table so, and when; and the table is made
// what it has to be, by whom it belongs to.
func TestMarkInALoggedTable(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	url := server.URL("postgres")
	server.Exec(t, url, `CREATE SCHEMA freshet`, `CREATE TABLE freshet.alive (namespace text PRIMARY KEY, generation text NOT NULL)`,
		`CREATE ROLE weak LOGIN`, `GRANT USAGE ON SCHEMA freshet TO weak`, `GRANT SELECT, INSERT, UPDATE ON freshet.alive TO weak`)
	g := open(t, url)
	alive := func(want bool, when string) {
		t.Helper()
		if got, _, err := g.Alive(t.Context(), "shop", "g1", "t1"); err != nil || got != want {
			t.Errorf("%s: Alive = %t, %v, want %t", when, got, err, want)
		}
	}
	mark := func() {
		t.Helper()
		if err := g.MarkAlive(t.Context(), "shop", "g1", "t1"); err != nil {
			t.Fatal(err)
		}
	}
	mark()
	alive(false, "in a logged table")

	weak, err := Open(t.Context(), strings.Replace(url, "postgres://postgres", "postgres://weak", 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	var logged *LoggedError
	if err := errors.Join(weak.Ensure(t.Context()), weak.Close(t.Context())); !errors.As(err, &logged) || logged.Do() == "" {
		t.Errorf("Ensure by a role that may not alter it = %v", err)
	}
	alive(false, "after a role that may not alter it")

	if err := g.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	mark()
	alive(true, "once it is unlogged")
	server.Exec(t, url, `ALTER TABLE freshet.alive SET LOGGED`)
	alive(false, "made logged while a daemon runs")
}
