package daemon_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/pgcatalog"
	"github.com/freshet/freshet/internal/testkit"
)

const tableEntries = `
  every: {key: 'every:{id}', query: 'SELECT * FROM plain WHERE id = @id'}
  named: {key: 'named:{id}', query: 'SELECT name FROM plain WHERE id = @id'}
`

// triggers installs the event triggers, as check --fix does.
func (w *world) triggers() {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	st, err := pgcatalog.DDL(w.t.Context(), conn)
	if err != nil {
		w.t.Fatal(err)
	}
	w.pg.Exec(w.t, w.url, st.Install()...)
}

// told runs statements in one transaction, and returns its token.
func (w *world) told(statements string) (token string) {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	err = pgx.BeginFunc(w.t.Context(), conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(w.t.Context(), statements); err != nil {
			return err
		}
		return tx.QueryRow(w.t.Context(), freshet.TokenSQL).Scan(&token)
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

// TestDDLInLogOrder reads with the token of a transaction that changes values without a row: the first such read has what it did,
// though nothing was looked at before, and plain reads follow. What no event trigger is told of shows within seconds.
func TestDDLInLogOrder(t *testing.T) {
	t.Parallel()
	const (
		person = `{"name":"a","mood":"calm","home":{"city":"Paris","zip":"75"}}`
		plain  = `{"id":1,"name":"one"}`
		events = `[{"what":"one"},{"what":"two"}]`
	)
	for _, tt := range []struct {
		name, path, before, statement, after string
		replans                              bool // the value has other columns, so that the entry is planned anew
		untold                               bool // no event trigger is told of it
	}{
		{
			name: "ALTER TYPE USING", path: "person/1", before: person, statement: `ALTER TABLE people ALTER name TYPE text COLLATE "C" USING name || '!'`,
			after: `{"name":"a!","mood":"calm","home":{"city":"Paris","zip":"75"}}`,
		},
		{
			name: "label", path: "person/1", before: person, statement: `ALTER TYPE mood RENAME VALUE 'calm' TO 'serene'`,
			after: `{"name":"a","mood":"serene","home":{"city":"Paris","zip":"75"}}`,
		},
		{
			name: "ADD COLUMN DEFAULT", path: "every/1", before: plain, statement: `ALTER TABLE plain ADD extra int NOT NULL DEFAULT 7`,
			after: `{"id":1,"name":"one","extra":7}`, replans: true,
		},
		{name: "DETACH", path: "event/1", before: events, statement: `ALTER TABLE events DETACH PARTITION events_2`, after: `[{"what":"one"}]`},
		{name: "DROP of a partition", path: "event/1", before: events, statement: `DROP TABLE events_2`, after: `[{"what":"one"}]`},
		{
			name: "ATTACH", path: "event/1", before: events, statement: `ALTER TABLE events ATTACH PARTITION events_3 FOR VALUES FROM (3) TO (4)`,
			after: `[{"what":"one"},{"what":"two"},{"what":"three"}]`,
		},
		{
			name: "swap by renaming", path: "named/1", before: `{"name":"one"}`,
			statement: `ALTER TABLE plain RENAME TO plain_old; ALTER TABLE plain_new RENAME TO plain`, after: `{"name":"new"}`,
		},
		{name: "TRUNCATE of a partition", path: "event/1", before: events, statement: `TRUNCATE events_2`, after: `[{"what":"one"}]`, untold: true},
		{name: "TRUNCATE CASCADE", path: "event/1", before: events, statement: `TRUNCATE days CASCADE`, after: `[]`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, false)
			w.pg.Exec(t, w.url, strings.Split(moods, ";")...)
			w.pg.Exec(t, w.url, `CREATE TABLE plain (id int8 PRIMARY KEY, name text)`, `INSERT INTO plain VALUES (1, 'one')`,
				`CREATE TABLE plain_new (id int8 PRIMARY KEY, name text)`, `INSERT INTO plain_new VALUES (1, 'new')`,
				`CREATE TABLE days (day int4 PRIMARY KEY)`, `INSERT INTO days VALUES (1), (2), (3)`, `ALTER TABLE events ADD FOREIGN KEY (day) REFERENCES days`)
			w.triggers()
			w.configure(moodEntries + tableEntries)
			w.start()
			w.ready()
			path := "/v1/entries/" + tt.path
			w.until(path, func(a answer) bool { return hit(a) && a.body == tt.before })
			token := w.told(tt.statement)
			if a := w.get(path, "Freshet-After", token); !bodyIs(tt.after)(a) && !tt.replans && !tt.untold {
				t.Errorf("after %s: GET %s = %+v, want %s", tt.statement, path, a, tt.after)
			}
			testkit.Eventually(t, shownWithin, func() error {
				if a := w.get(path); !bodyIs(tt.after)(a) {
					return fmt.Errorf("after %s: GET %s = %+v, want %s", tt.statement, path, a, tt.after)
				}
				return nil
			})
			w.until(path, func(a answer) bool { return hit(a) && a.body == tt.after })
		})
	}
}

// TestDDLTakesOutOneEntry drops a column that one entry reads: it leaves the cache, and says why. The others go on with what
// they have, and come through the log as ever; the entry returns with the column.
func TestDDLTakesOutOneEntry(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.triggers()
	r := w.start()
	w.ready()
	w.until("/v1/entries/product/1", hit)
	w.until("/v1/entries/user_profile/1", hit)
	token := w.told(`ALTER TABLE profiles DROP COLUMN bio`)
	if a := w.get("/v1/entries/user_profile/1", "Freshet-After", token); a.status == http.StatusOK {
		t.Errorf("a value with the column that was dropped: %+v", a)
	}
	out := func(a answer) bool {
		return strings.Contains(a.body, `"name":"user_profile"`) && strings.Contains(a.body, "there is no column bio")
	}
	w.until("/v1/status", out)
	w.until("/v1/entries/product/1", hit)
	w.pg.Exec(t, w.url, `UPDATE products SET price = 1000 WHERE id = 1`)
	w.until("/v1/entries/product/1", bodyIs(`{"id":1,"name":"product 1","price":1000}`))
	if err := r.stop(); err != nil { // the next one never had a plan of it
		t.Fatal(err)
	}
	w.start()
	w.until("/v1/status", out)
	w.ready()
	w.pg.Exec(t, w.url, `ALTER TABLE profiles ADD bio text DEFAULT 'again'`)
	w.until("/v1/entries/user_profile/1", func(a answer) bool { return hit(a) && a.body == `{"id":1,"name":"Ada","bio":"again","city":"London"}` })
	// A table that goes altogether, and comes back.
	w.pg.Exec(t, w.url, `ALTER TABLE profiles RENAME TO elsewhere`)
	w.until("/v1/status", func(a answer) bool {
		return strings.Contains(a.body, "no table profiles") || strings.Contains(a.body, "no table public.profiles")
	})
	w.until("/v1/entries/product/1", hit)
	w.pg.Exec(t, w.url, `ALTER TABLE elsewhere RENAME TO profiles`)
	w.until("/v1/entries/user_profile/1", func(a answer) bool { return hit(a) && strings.Contains(a.body, "again") })
}
