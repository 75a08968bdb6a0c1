package pgcatalog_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet/freshet/internal/pgcatalog"
	"github.com/freshet/freshet/internal/plan"
	"github.com/freshet/freshet/internal/rule"
)

// TestRowVersionsAreVerified: what the database would not answer as planned is found when the entry is planned, not by readers.
func TestRowVersionsAreVerified(t *testing.T) {
	t.Parallel()
	conn := connect(t, `CREATE TABLE users (id bigint PRIMARY KEY, name text, seen timestamptz)`)
	catalog, err := pgcatalog.Read(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	compile := func(t *testing.T, version string) *rule.Entry {
		t.Helper()
		compiled, err := plan.Compile(catalog, rule.Declared{
			Name: "e", Key: "k:{id}", Query: "SELECT name FROM users WHERE id = @id", Result: rule.One, RowVersion: version,
		})
		if err != nil {
			t.Fatal(err)
		}
		return compiled.Entry
	}
	for version, code := range map[string]string{
		"seen": "", "extract(epoch FROM seen)": "", "md5(name)": "", "": "",
		"max(seen)": "42803", "nothing(seen)": "42883", "seen + 1": "42883", "name::no_such_type": "42704",
	} {
		err := pgcatalog.Verify(t.Context(), conn, compile(t, version))
		var server *pgconn.PgError
		if (code == "") != (err == nil) || code != "" && (!errors.As(err, &server) || server.Code != code) {
			t.Errorf("row_version %q: %v, want %s", version, err, code)
		}
	}
	for name, change := range map[string]func(*rule.RowVersion){
		"no version":      func(v *rule.RowVersion) { v.SQL = strings.ReplaceAll(v.SQL, "freshet_version", "other") },
		"no text":         func(v *rule.RowVersion) { v.SQL = strings.Replace(v.SQL, "seen::text", "seen", 1) },
		"another column":  func(v *rule.RowVersion) { v.Columns = []string{"id"} },
		"one column more": func(v *rule.RowVersion) { v.Columns = append(v.Columns, "id") },
	} {
		e := compile(t, "seen")
		change(e.RowVersion)
		var disagrees *pgcatalog.DisagreementError
		if err := pgcatalog.Verify(t.Context(), conn, e); !errors.As(err, &disagrees) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRowsThatAreNotInAHeap have no stored versions that mean what those of PostgreSQL's own tables do.
func TestRowsThatAreNotInAHeap(t *testing.T) {
	t.Parallel()
	conn := connect(t, `CREATE ACCESS METHOD elsewhere TYPE TABLE HANDLER heap_tableam_handler;
		CREATE TABLE users (id bigint PRIMARY KEY, name text);
		CREATE TABLE others (id bigint PRIMARY KEY, name text) USING elsewhere`)
	catalog, err := pgcatalog.Read(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]bool{
		"SELECT name FROM users WHERE id = @id":                                    true,
		"SELECT name FROM others WHERE id = @id":                                   false,
		"SELECT u.name FROM users u JOIN others o ON o.id = u.id WHERE u.id = @id": false,
	} {
		compiled, err := plan.Compile(catalog, rule.Declared{Name: "e", Key: "k:{id}", Query: query, Result: rule.One})
		if err != nil {
			t.Fatal(err)
		}
		if err := pgcatalog.Verify(t.Context(), conn, compiled.Entry); err != nil {
			t.Fatal(err)
		}
		if got := compiled.Entry.RowVersion != nil; got != want {
			t.Errorf("%s: row versions %v, want %v", query, got, want)
		}
	}
}
