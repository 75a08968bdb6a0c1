package pgcatalog_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgcatalog"
	"github.com/freshet/freshet/internal/plan"
	"github.com/freshet/freshet/internal/rule"
)

// Each way in which a plan can differ from what PostgreSQL reads is found, and leaves nothing behind.
func TestVerifyFindsDisagreement(t *testing.T) { //nolint:tparallel // the subtests share a connection
	t.Parallel()
	const ddl = `
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE users (id bigint PRIMARY KEY, name text, mood mood);
CREATE TABLE notes (user_id bigint PRIMARY KEY, text varchar(10));
CREATE FUNCTION never(mood, mood) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';`
	const query = "SELECT u.name, n.text, u.mood FROM users u LEFT JOIN notes n ON n.user_id = u.id WHERE u.id = @id AND u.mood = 'good'"
	tests := []struct {
		name, ddl string
		change    func(*rule.Entry)
		ignored   []string
		want      string // nothing: it agrees
	}{
		{name: "the plan itself", change: func(*rule.Entry) {}},
		{name: "another type", change: func(e *rule.Entry) { e.Params[0].Type = keytext.Int4 }, want: "parameter {id} is bigint, not int4"},
		{name: "an enum", change: func(e *rule.Entry) { e.Params[0].Type = keytext.Enum }, want: "parameter {id} is bigint, not enum"},
		{name: "one parameter more", change: func(e *rule.Entry) { e.Params = append(e.Params, rule.Param{Name: "x", Type: keytext.Int8}) }, want: "it has 1 parameters, not 2"},
		{name: "a column without a rule", change: func(e *rule.Entry) { e.Rules[0].Columns = []string{"id", "mood"} }, want: "it reads column name of table users, which no rule watches"},
		{name: "an ignored column", change: func(e *rule.Entry) { e.Rules[0].Columns = []string{"id", "mood"} }, ignored: []string{"public.users.name"}},
		{name: "all columns", change: func(e *rule.Entry) { e.Rules[0].Columns = nil }},
		{name: "a table without a rule", change: func(e *rule.Entry) { e.Rules = e.Rules[:1] }, want: "which no rule watches"},
		{name: "a table of another schema", change: func(e *rule.Entry) { e.Rules[1].Schema = "other" }, want: "which no rule watches"},
		{
			name: "an operator of a user", ddl: "CREATE OPERATOR public.= (LEFTARG = mood, RIGHTARG = mood, FUNCTION = never)", change: func(*rule.Entry) {},
			want: "it uses the operator =(mood,mood), which is not built in: what it reads and depends on is not known here",
		},
		{
			name: "a function", change: func(e *rule.Entry) {
				e.SQL = strings.Replace(e.SQL, "u.name AS name", "never(u.mood, u.mood) AS name", 1)
			},
			want: "it uses the function never(mood,mood), which is not built in",
		},
		{name: "no such table", change: func(e *rule.Entry) { e.SQL = strings.Replace(e.SQL, "public.notes", "public.gone", 1) }, want: `relation "public.gone" does not exist`},
		{name: "code loads it", change: func(e *rule.Entry) { e.SQL, e.Rules = "", nil }},
	}
	shared := connect(t, ddl+`SET default_transaction_read_only = on`)
	for _, tt := range tests { //nolint:paralleltest // they share a connection
		t.Run(tt.name, func(t *testing.T) {
			conn := shared
			if tt.ddl != "" {
				conn = connect(t, ddl+tt.ddl)
			}
			catalog, err := pgcatalog.Read(t.Context(), conn)
			if err != nil {
				t.Fatal(err)
			}
			compiled, err := plan.Compile(catalog, rule.Declared{Name: "user", Key: "k:{id}", Query: query, Result: rule.One})
			if err != nil {
				t.Fatal(err)
			}
			tt.change(compiled.Entry)
			err = pgcatalog.Verify(t.Context(), conn, compiled.Entry, tt.ignored...)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("Verify: %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("Verify: %v, want %s", err, tt.want)
			}
			if _, disagrees := errors.AsType[*pgcatalog.DisagreementError](err); tt.want != "" && disagrees == strings.Contains(tt.want, "does not exist") {
				t.Errorf("Verify: %v is a disagreement: %t", err, disagrees)
			}
			var left int
			if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_class WHERE relname = 'freshet_verify'`).Scan(&left); err != nil || left != 0 {
				t.Errorf("%d views are left, %v", left, err)
			}
		})
	}
}

// What a view reads is what the query reads, through views of views as well.
func TestVerifyLooksIntoViews(t *testing.T) {
	t.Parallel()
	conn := connect(t, `
CREATE TABLE users (id bigint PRIMARY KEY, name text, active boolean);
CREATE VIEW active AS SELECT id, name FROM users WHERE active;
CREATE VIEW names AS SELECT id, upper(name) AS name FROM active;`)
	catalog, err := pgcatalog.Read(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := plan.Compile(catalog, rule.Declared{Name: "user", Key: "k:{id}", Query: "SELECT name FROM names WHERE id = @id", Result: rule.One})
	if err != nil {
		t.Fatal(err)
	}
	if err := pgcatalog.Verify(t.Context(), conn, compiled.Entry); err != nil {
		t.Errorf("Verify: %v", err)
	}
	compiled.Entry.Rules[0].Columns = []string{"id", "name"}
	const want = "it reads column active of table users, which no rule watches"
	if err := pgcatalog.Verify(t.Context(), conn, compiled.Entry); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Verify: %v, want %s", err, want)
	}
}
