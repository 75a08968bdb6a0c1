package pgsource

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// whats are the first halves of what an inspection has to say.
func whats(problems []Problem) []string {
	list := make([]string, len(problems))
	for i, p := range problems {
		list[i] = p.What
	}
	return list
}

// as is a connection string of another role.
func as(t *testing.T, address, role string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	return u.String()
}

func TestInspectSeesWhatPrepareDoes(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"max_replication_slots": "1"}})
	address := server.Database(t)
	server.Exec(t, address, `CREATE TABLE good (id int PRIMARY KEY)`, `CREATE TABLE bad (id int)`)
	conn := connect(t, address)
	good, bad := schema.Name{Schema: "public", Name: "good"}, schema.Name{Schema: "public", Name: "bad"}
	o := PrepareOptions{Slot: "inspected", Publication: "inspected", Tables: []schema.Name{good}}

	before, err := Inspect(t.Context(), conn, o)
	if err != nil {
		t.Fatal(err)
	}
	want := Inspection{Unpublished: []schema.Name{good}, FreeSlots: 1}
	if diff := cmp.Diff(want, before); diff != "" {
		t.Errorf("Inspect before (-want +got):\n%s", diff)
	}
	if slot, err := SlotState(t.Context(), conn, o.Slot); err != nil || slot.Exists {
		t.Errorf("Inspect made a slot: %+v, %v", slot, err)
	}
	if _, err := Prepare(t.Context(), conn, o); err != nil {
		t.Fatal(err)
	}
	after, err := Inspect(t.Context(), conn, o)
	if err != nil {
		t.Fatal(err)
	}
	if len(after.Problems) > 0 || !after.Published || len(after.Unpublished) > 0 || !after.Slot.Exists || after.FreeSlots != 0 {
		t.Errorf("Inspect after Prepare = %+v", after)
	}

	// What Prepare refuses is found, together with what is missing for another slot.
	found, err := Inspect(t.Context(), conn, PrepareOptions{Slot: "another", Publication: "inspected", Tables: []schema.Name{good, bad}})
	if err != nil {
		t.Fatal(err)
	}
	wantProblems := []string{`table "public.bad" has no primary key`, `replication slot "another" cannot be created`}
	if diff := cmp.Diff(wantProblems, whats(found.Problems)); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestInspectNamesMissingPrivileges(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	address := server.Database(t)
	server.Exec(t, address, `CREATE ROLE weak LOGIN`, `CREATE TABLE t (id int PRIMARY KEY)`)
	o := PrepareOptions{Slot: "weak", Publication: "weak", Tables: []schema.Name{{Schema: "public", Name: "t"}}}
	inspect := func() Inspection {
		t.Helper()
		found, err := Inspect(t.Context(), connect(t, as(t, address, "weak")), o)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	found := inspect()
	want := []string{
		`role "weak" may not replicate`, `role "weak" may not make the schema freshet`,
		`role "weak" may not make publication "weak"`, `role "weak" does not own table "public.t" and cannot publish it`,
	}
	if diff := cmp.Diff(want, whats(found.Problems)); diff != "" {
		t.Fatalf("problems (-want +got):\n%s", diff)
	}
	// The statements that the problems name mend them, and then Prepare works.
	conn := connect(t, address)
	for _, p := range found.Problems {
		_, statement, ok := strings.Cut(p.Do, ": ")
		if !ok {
			t.Fatalf("no statement in %q", p.Do)
		}
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	if found := inspect(); len(found.Problems) > 0 {
		t.Errorf("problems after mending: %q", whats(found.Problems))
	}
	if _, err := Prepare(t.Context(), connect(t, as(t, address, "weak")), o); err != nil {
		t.Errorf("Prepare after mending: %v", err)
	}
}

// TestInspectLooksAtTheTableThatIsThere: a role that may not make freshet.alive can do with one that was made for it.
func TestInspectLooksAtTheTableThatIsThere(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	address := server.Database(t)
	server.Exec(t, address, `CREATE ROLE weak LOGIN REPLICATION`, `CREATE TABLE t (id int PRIMARY KEY)`, `CREATE PUBLICATION weak FOR TABLE t WITH (publish_via_partition_root = true)`,
		`CREATE SCHEMA freshet`)
	o := PrepareOptions{Slot: "weak", Publication: "weak", Tables: []schema.Name{{Schema: "public", Name: "t"}}}
	for _, tt := range []struct {
		statement string
		want      []string
	}{
		{`SELECT`, []string{`role "weak" may not make tables in the schema freshet`}},
		{`GRANT CREATE ON SCHEMA freshet TO weak`, []string{`role "weak" may not make tables in the schema freshet`}},
		{`GRANT USAGE ON SCHEMA freshet TO weak`, []string{}},
		{`REVOKE CREATE ON SCHEMA freshet FROM weak`, []string{`role "weak" may not make tables in the schema freshet`}},
		{`CREATE UNLOGGED TABLE freshet.alive (namespace text PRIMARY KEY, generation text NOT NULL)`, []string{`role "weak" may not use the table freshet.alive`}},
		{`GRANT SELECT, INSERT ON freshet.alive TO weak`, []string{`role "weak" may not use the table freshet.alive`}},
		{`GRANT UPDATE ON freshet.alive TO weak`, []string{}},
		{`ALTER TABLE freshet.alive SET LOGGED`, []string{`the table freshet.alive is logged`}},
		{`ALTER TABLE freshet.alive SET UNLOGGED`, []string{}},
		{`REVOKE USAGE ON SCHEMA freshet FROM weak`, []string{`role "weak" may not use the table freshet.alive`}},
	} {
		server.Exec(t, address, tt.statement)
		found, err := Inspect(t.Context(), connect(t, as(t, address, "weak")), o)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, whats(found.Problems)); diff != "" {
			t.Errorf("after %s: problems (-want +got):\n%s", tt.statement, diff)
		}
	}
}

func TestInspectServer(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"wal_level": "replica"}})
	conn := connect(t, server.Database(t))
	found, err := Inspect(t.Context(), conn, PrepareOptions{Slot: "s", Publication: "p"})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(whats(found.Problems), "wal_level is replica") {
		t.Errorf("problems %q, want wal_level among them", whats(found.Problems))
	}
	if _, err := conn.Exec(t.Context(), `CREATE PUBLICATION p FOR ALL TABLES WITH (publish = 'insert')`); err != nil {
		t.Fatal(err)
	}
	if found, err = Inspect(t.Context(), conn, PrepareOptions{Slot: "s", Publication: "p"}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`publication "p" covers tables that are not named in it`, `publication "p" does not publish everything`} {
		if !slices.Contains(whats(found.Problems), want) {
			t.Errorf("problems %q lack %q", whats(found.Problems), want)
		}
	}
	if _, err := Inspect(t.Context(), conn, PrepareOptions{Slot: "Not a slot", Publication: "p"}); err == nil {
		t.Error("Inspect accepts a slot name that PostgreSQL does not")
	}
}
