package daemon_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/testkit"
)

// moods is a schema whose values DDL can change in every way that leaves no row in the log, and keeps every type's name.
const moods = `
CREATE TYPE mood AS ENUM ('calm', 'cross');
CREATE TYPE place AS (city text, zip text);
CREATE TABLE people (id int8 PRIMARY KEY, team int8 NOT NULL, name text COLLATE "C" NOT NULL, mood mood, home place);
ALTER TABLE people REPLICA IDENTITY FULL;
INSERT INTO people VALUES (1, 1, 'a', 'calm', ('Paris', '75')), (2, 1, 'B', 'cross', NULL);
CREATE TABLE events (id int8, day int4, what text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (1) TO (2);
CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (2) TO (3);
INSERT INTO events VALUES (1, 1, 'one'), (1, 2, 'two');
CREATE TABLE events_3 (id int8, day int4, what text, PRIMARY KEY (id, day));
INSERT INTO events_3 VALUES (1, 3, 'three');
CREATE FUNCTION greeting(whom text) RETURNS text LANGUAGE sql STABLE AS 'SELECT ''hello '' || whom'`

const moodEntries = `
defaults: {ttl: 1h, load_timeout: 2s}
entries:
  person: {key: 'person:{id}', query: 'SELECT name, mood, home FROM people WHERE id = @id'}
  team: {key: 'team:{team}', result: many, query: 'SELECT name FROM people WHERE team = @team ORDER BY name'}
  event: {key: 'event:{id}', result: many, query: 'SELECT what FROM events WHERE id = @id ORDER BY day'}
  greeted: {key: 'greeted:{id}', query: 'SELECT greeting(name) AS said FROM people WHERE id = @id', functions: {greeting: {reads: []}}}
`

// replaced has what moodEntries say of a person otherwise.
const replaced = `CREATE OR REPLACE FUNCTION greeting(whom text) RETURNS text LANGUAGE sql STABLE AS 'SELECT ''bye '' || whom'`

// shownWithin is how soon a schema change shows at the latest.
const shownWithin = 10 * time.Second

// TestValuesThatDDLChanges changes what is read by DDL alone: no row of it comes through the log, and no column's type gets
// another name or number.
func TestValuesThatDDLChanges(t *testing.T) {
	t.Parallel()
	const (
		person = `{"name":"a","mood":"calm","home":{"city":"Paris","zip":"75"}}`
		events = `[{"what":"one"},{"what":"two"}]`
	)
	tests := []struct {
		name, path, before, statement, after string
		down                                 bool // while the daemon is stopped
	}{
		{
			name: "rewrite", path: "person/1", before: person, statement: `ALTER TABLE people ALTER name TYPE text COLLATE "C" USING name || '!'`,
			after: `{"name":"a!","mood":"calm","home":{"city":"Paris","zip":"75"}}`,
		},
		{
			name: "label", path: "person/1", before: person, statement: `ALTER TYPE mood RENAME VALUE 'calm' TO 'serene'`,
			after: `{"name":"a","mood":"serene","home":{"city":"Paris","zip":"75"}}`,
		},
		{
			name: "attribute", path: "person/1", before: person, statement: `ALTER TYPE place RENAME ATTRIBUTE city TO town`,
			after: `{"name":"a","mood":"calm","home":{"town":"Paris","zip":"75"}}`,
		},
		{
			name: "collation", path: "team/1", before: `[{"name":"B"},{"name":"a"}]`,
			statement: `ALTER TABLE people ALTER name TYPE text COLLATE "und-x-icu"`, after: `[{"name":"a"},{"name":"B"}]`,
		},
		{
			name: "rewrite of partitions", path: "event/1", before: events,
			statement: `ALTER TABLE events ALTER what TYPE text USING what || '!'`, after: `[{"what":"one!"},{"what":"two!"}]`,
		},
		{
			name: "ATTACH", path: "event/1", before: events,
			statement: `ALTER TABLE events ATTACH PARTITION events_3 FOR VALUES FROM (3) TO (4)`,
			after:     `[{"what":"one"},{"what":"two"},{"what":"three"}]`,
		},
		{
			name: "DETACH", path: "event/1", before: events, statement: `ALTER TABLE events DETACH PARTITION events_2`,
			after: `[{"what":"one"}]`,
		},
		{
			name: "TRUNCATE of a partition", path: "event/1", before: events, statement: `TRUNCATE events_2`,
			after: `[{"what":"one"}]`,
		},
		{name: "function", path: "greeted/1", before: `{"said":"hello a"}`, statement: replaced, after: `{"said":"bye a"}`},
		{name: "function without a daemon", path: "greeted/1", down: true, before: `{"said":"hello a"}`, statement: replaced, after: `{"said":"bye a"}`},
		{
			name: "rewrite without a daemon", path: "person/1", down: true, before: person,
			statement: `ALTER TABLE people ALTER name TYPE text COLLATE "C" USING name || '?'`,
			after:     `{"name":"a?","mood":"calm","home":{"city":"Paris","zip":"75"}}`,
		},
		{
			name: "label without a daemon", path: "person/1", down: true, before: person,
			statement: `ALTER TYPE mood RENAME VALUE 'calm' TO 'still'`,
			after:     `{"name":"a","mood":"still","home":{"city":"Paris","zip":"75"}}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, false)
			w.pg.Exec(t, w.url, strings.Split(moods, ";")...)
			w.configure(moodEntries)
			r := w.start()
			w.ready()
			path := "/v1/entries/" + tt.path
			w.until(path, func(a answer) bool { return hit(a) && a.body == tt.before })
			if tt.down {
				if err := r.stop(); err != nil {
					t.Fatal(err)
				}
			}
			w.pg.Exec(t, w.url, tt.statement)
			if tt.down {
				w.start()
				w.ready()
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

// TestFunctionsThatChange: an entry that calls a function leaves the cache when the function is not what it must be any more, says
// why, and returns with it; the others stay.
func TestFunctionsThatChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.pg.Exec(t, w.url, strings.Split(moods, ";")...)
	w.configure(moodEntries)
	w.start()
	w.ready()
	const path = "/v1/entries/greeted/1"
	w.until(path, hit)
	for _, tt := range []struct{ statement, problem string }{
		{`ALTER FUNCTION greeting(text) VOLATILE`, "greeting() is VOLATILE"},
		{`ALTER FUNCTION greeting(text) RENAME TO greetings`, "the function greeting()"},
	} {
		w.pg.Exec(t, w.url, tt.statement)
		w.until("/v1/status", func(a answer) bool { return strings.Contains(a.body, tt.problem) })
		w.until("/v1/entries/person/1", hit)
		w.pg.Exec(t, w.url, `DROP FUNCTION IF EXISTS greetings`, replaced)
		w.until(path, func(a answer) bool { return hit(a) && a.body == `{"said":"bye a"}` })
	}
}
