package apply

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/route"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/mvcc"
)

// members are users of teams of firms. The entry i:{id} reads a user's team, and its firm.
type members struct {
	*rig
	conn  *pgx.Conn
	teams *change.Relation // LOOKUP, over users
	firms *change.Relation // LOOKUP, over teams and users
	users *change.Relation // EXACT
}

func newMembers(t *testing.T) *members {
	t.Helper()
	r := newRig(t, pgtest.Start(t, pgtest.Options{}), 0)
	m := &members{rig: r}
	var err error
	if m.conn, err = pgx.Connect(t.Context(), r.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.conn.Close(context.WithoutCancel(t.Context())) })
	m.exec(`CREATE TABLE firms (id int8 PRIMARY KEY)`, `CREATE TABLE teams (id int8 PRIMARY KEY, firm_id int8, name text)`,
		`CREATE TABLE users (id text PRIMARY KEY, team_id int8)`,
		`INSERT INTO firms VALUES (1)`, `INSERT INTO teams VALUES (7, 1, 'seven'), (8, 1, 'eight')`,
		`INSERT INTO users VALUES ('a', 7), ('b', 7), ('c', 8)`)
	relation := func(oid uint32, name string, columns ...string) *change.Relation {
		rel := &change.Relation{OID: oid, Schema: "public", Name: name, Identity: change.IdentityFull}
		for _, c := range columns {
			rel.Columns = append(rel.Columns, change.Column{Name: c, TypeOID: 25, Key: true})
		}
		return rel
	}
	m.teams, m.firms, m.users = relation(2, "teams", "id", "firm_id"), relation(3, "firms", "id"), relation(4, "users", "id", "team_id")
	look := func(table string, rank int, sql string) rule.Rule {
		return rule.Rule{
			Schema: "public", Table: table, Class: rule.Lookup, Bind: []string{""},
			Lookup: &rule.LookupQuery{SQL: sql, From: []string{"id"}, Types: []keytext.Type{keytext.Int8}, Rank: rank},
		}
	}
	r.entry.Rules = []rule.Rule{
		{Schema: "public", Table: "users", Bind: []string{"id"}},
		look("teams", 1, `SELECT DISTINCT u.id::text FROM unnest($1::text[]) AS k (c1), public.users u WHERE u.team_id = k.c1::int8`),
		look("firms", 2, `SELECT DISTINCT u.id::text FROM unnest($1::text[]) AS k (c1), public.teams t, public.users u
			WHERE t.firm_id = k.c1::int8 AND u.team_id = t.id`),
	}
	r.router = route.New([]*rule.Entry{r.entry})
	r.settled()
	return m
}

func (m *members) exec(statements ...string) {
	m.t.Helper()
	for _, s := range statements {
		if _, err := m.conn.Exec(m.t.Context(), s); err != nil {
			m.t.Fatal(err)
		}
	}
}

// commits runs a statement, and returns its transaction.
func (m *members) commits(statement string) (x mvcc.XID) {
	m.t.Helper()
	tx, err := m.conn.Begin(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	var text string
	if err := tx.QueryRow(m.t.Context(), `SELECT pg_current_xact_id()::text`).Scan(&text); err != nil {
		m.t.Fatal(err)
	}
	if _, err := tx.Exec(m.t.Context(), statement); err != nil {
		m.t.Fatal(err)
	}
	if err := tx.Commit(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	if x, err = mvcc.ParseXID(text); err != nil {
		m.t.Fatal(err)
	}
	return x
}

// sees delivers a transaction that changed a row, whose columns say the same before and after or what is given as "old>new", at a
// position where the log is by now, and has the applier take it.
func (m *members) sees(x mvcc.XID, relation *change.Relation, columns ...string) (end mvcc.LSN) {
	m.t.Helper()
	m.end = m.insert()
	row := &change.Row{Op: change.Update, Relation: relation}
	for _, c := range columns {
		before, after, changed := strings.Cut(c, ">")
		if !changed {
			after = before
		}
		row.Old = append(row.Old, change.Value{Kind: change.Text, Text: []byte(before)})
		row.New = append(row.New, change.Value{Kind: change.Text, Text: []byte(after)})
	}
	if len(row.New[0].Text) == 0 {
		row.Op, row.New = change.Delete, nil
	}
	ctx := m.t.Context()
	if err := m.opts.Queue.Begin(ctx, change.Begin{XID: x, End: m.end, Committed: time.Now()}); err != nil {
		m.t.Fatal(err)
	}
	part, err := m.opts.Queue.Acquire(ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	m.router.Row(row, part.Keys)
	m.opts.Queue.Release()
	if err := m.opts.Queue.Commit(ctx, change.Commit{Position: change.Position(m.end)}); err != nil {
		m.t.Fatal(err)
	}
	m.takes()
	return m.end
}

// reads has the applier hear that the log is read up to where it ends.
func (m *members) reads() {
	m.t.Helper()
	if err := m.opts.Queue.Idle(m.t.Context(), change.Position(m.insert())); err != nil {
		m.t.Fatal(err)
	}
	m.takes()
}

func (m *members) insert() mvcc.LSN {
	m.t.Helper()
	_, insert, err := m.opts.Gate.Snapshot(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	return insert
}

// TestLookUpFindsKeys: those of the changed row's team, and no others.
func TestLookUpFindsKeys(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	m.cached("a", "b", "c")
	end := m.sees(m.commits(`UPDATE teams SET name = 'VII' WHERE id = 7`), m.teams, "7", "1")
	m.steps()
	for id, want := range map[string]bool{"a": false, "b": false, "c": true} {
		if got := m.record(id); (got == "live") != want {
			t.Errorf("the record of %s is %q", id, got)
		}
	}
	if got := m.opts.Stats.LookUps.Load(); got != 1 {
		t.Errorf("%d look-ups", got)
	}
	// All that the look-up can have seen has to be delivered first.
	if wc := m.stored().Wc; wc >= end || !m.stored().Sa.IsZero() {
		t.Errorf("Wc is %v, %v is held up; Sa %v", wc, end, m.stored().Sa)
	}
	m.reads()
	if !m.ripe() || !m.due(time.Now()) {
		t.Error("no step is due")
	}
	m.steps()
	if wc := m.stored().Wc; wc < end || m.stored().Sa.IsZero() {
		t.Errorf("after everything was read Wc is %v, want %v; Sa %v", wc, end, m.stored().Sa)
	}
}

// TestLookUpComesLate is C4: the way to the key is gone when the look-up comes. HEAD may not vouch for the change of the team before the
// transaction that took the way apart is applied, whose own row leads to the key.
func TestLookUpComesLate(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	m.cached("a", "b")
	renamed := m.commits(`UPDATE teams SET name = 'VII' WHERE id = 7`)
	end := m.sees(renamed, m.teams, "7", "1")
	left := m.commits(`UPDATE users SET team_id = 8 WHERE id = 'a'`)
	m.steps()
	if got := m.record("a"); got != "live" {
		t.Fatalf("the record of the user who left is %q: the test does not show what it is for", got)
	}
	head := m.stored()
	if head.Wc >= end || head.Sa.Sees(renamed) {
		t.Errorf("HEAD vouches for %v with Wc %v and Sa %v, though a value lacks it", end, head.Wc, head.Sa)
	}
	m.steps() // a step with nothing new changes nothing about that
	if head := m.stored(); head.Wc >= end || head.Sa.Sees(renamed) {
		t.Errorf("HEAD vouches for %v with Wc %v and Sa %v before the log was read on", end, head.Wc, head.Sa)
	}
	m.sees(left, m.users, "a", "7>8")
	m.reads()
	m.steps()
	if got := m.record("a"); got == "live" {
		t.Errorf("the record is %q", got)
	}
	if head := m.stored(); head.Wc < end || !head.Sa.Sees(renamed) {
		t.Errorf("HEAD has Wc %v, Sa %v, and nothing is open", head.Wc, head.Sa)
	}
}

// TestLookUpOverTwoTables: the way of a firm has two tables. The transaction that moves the team away is looked up in turn, and
// comes too late itself: only the row of the user who left tells.
func TestLookUpOverTwoTables(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	m.cached("a")
	sold := m.commits(`UPDATE firms SET id = 2 WHERE id = 1`)
	end := m.sees(sold, m.firms, "1>2")
	moved := m.commits(`UPDATE teams SET firm_id = 3 WHERE id = 7`)
	m.steps() // too late: team 7 is not the firm's any more
	m.sees(moved, m.teams, "7", "1>3")
	m.reads()
	left := m.commits(`UPDATE users SET team_id = 8 WHERE id = 'a'`)
	m.steps() // too late: the user is not in team 7 any more
	if got := m.record("a"); got != "live" {
		t.Fatalf("the record is %q: the test does not show what it is for", got)
	}
	if head := m.stored(); head.Wc >= end || head.Sa.Sees(sold) {
		t.Errorf("after one round HEAD vouches for %v with Wc %v and Sa %v", end, head.Wc, head.Sa)
	}
	m.sees(left, m.users, "a", "7>8")
	m.reads()
	m.steps()
	if got := m.record("a"); got == "live" {
		t.Errorf("the record is %q", got)
	}
	if head := m.stored(); head.Wc < end || !head.Sa.Sees(sold) {
		t.Errorf("after two rounds HEAD has Wc %v, Sa %v", head.Wc, head.Sa)
	}
}

// TestHorizonGetsOnBesideLookUps: where something is looked up in every step, Sa follows all the same, one round behind.
func TestHorizonGetsOnBesideLookUps(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	var before mvcc.XID
	for i := range 6 {
		x := m.commits(`UPDATE teams SET name = name || '.' WHERE id = 7`)
		m.sees(x, m.teams, "7", "1")
		m.reads()
		m.steps()
		head := m.stored()
		if head.Sa.Sees(x) {
			t.Errorf("step %d: Sa sees what is held up", i)
		}
		if i >= 3 && !head.Sa.Sees(before) {
			t.Errorf("step %d: Sa %v does not see %d, of three steps ago", i, head.Sa, before)
		}
		if i%3 == 0 {
			before = x
		}
	}
}

// TestLookUpThatFails: the entry gets another name, and HEAD vouches for the change: under that name nothing lacks it.
func TestLookUpThatFails(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(m *members){
		"the table is gone": func(m *members) { m.exec(`ALTER TABLE users RENAME TO people`) },
		"somebody locks it": func(m *members) {
			other, err := pgx.Connect(m.t.Context(), m.url)
			if err != nil {
				m.t.Fatal(err)
			}
			m.t.Cleanup(func() { _ = other.Close(context.WithoutCancel(m.t.Context())) })
			if _, err := other.Exec(m.t.Context(), `BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE`); err != nil {
				m.t.Fatal(err)
			}
		},
		"it takes too long": func(m *members) {
			m.entry.Rules[1].Lookup.SQL = `SELECT pg_catalog.pg_sleep(60)::text FROM unnest($1::text[]) AS k (c1)`
		},
		"too many keys": func(m *members) {
			m.exec(fmt.Sprintf(`INSERT INTO users SELECT 'many ' || i, 7 FROM generate_series(1, %d) i`, mostFound))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMembers(t)
			x := m.commits(`UPDATE teams SET name = 'VII' WHERE id = 7`)
			prepare(m)
			m.sees(x, m.teams, "7", "1")
			was := m.name("a")
			m.steps()
			if m.name("a") == was || m.opts.Stats.Moves.Load() != 1 || len(m.waits) != 0 {
				t.Errorf("the name is %s, %d moves, %d holds", m.name("a"), m.opts.Stats.Moves.Load(), len(m.waits))
			}
			m.settled()
			m.reads()
			m.steps()
			if head := m.stored(); !head.Sa.Sees(x) {
				t.Errorf("Sa is %v", head.Sa)
			}
		})
	}
}
