package pgsource

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// wantProblems fails unless err names exactly these things and, for each, a statement.
func wantProblems(t *testing.T, err error, want map[string]string) {
	t.Helper()
	refused, ok := errors.AsType[*SetupError](err)
	if !ok {
		t.Fatalf("error %v, want a SetupError", err)
	}
	got := make(map[string]string)
	for _, p := range refused.Problems {
		got[p.What] = p.Do
		if p.Why == "" || !strings.Contains(err.Error(), p.What) {
			t.Errorf("problem %+v in %q", p, err)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestPrepareIsIdempotent(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), []string{
		`CREATE TABLE a (id int PRIMARY KEY)`, `CREATE TABLE b (id int PRIMARY KEY)`, `CREATE TABLE c (id int PRIMARY KEY)`,
	}, "a", "b", "a")
	first := f.prepared
	if !first.SlotCreated || !first.PublicationCreated || first.Confirmed == 0 || len(first.Fingerprint) != 32 {
		t.Errorf("first Prepare = %+v", first)
	}
	if diff := cmp.Diff(names("a", "b"), first.Added); diff != "" {
		t.Errorf("added (-want +got):\n%s", diff)
	}
	want := first
	want.SlotCreated, want.PublicationCreated, want.Added = false, false, nil
	if diff := cmp.Diff(want, f.prepare(t, "b", "a")); diff != "" {
		t.Errorf("second Prepare (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, f.prepare(t)); diff != "" {
		t.Errorf("Prepare without tables (-want +got):\n%s", diff)
	}
	third := f.prepare(t, "a", "c")
	if diff := cmp.Diff(names("c"), third.Added); diff != "" || third.SlotCreated || third.PublicationCreated || third.Fingerprint == first.Fingerprint {
		t.Errorf("extending Prepare = %+v (-want +got):\n%s", third, diff)
	}
	if got := f.query(t, `SELECT string_agg(tablename, ',' ORDER BY tablename) FROM pg_publication_tables WHERE pubname = $1`, f.publication); got != "a,b,c" {
		t.Errorf("published %q", got)
	}
	for range 2 {
		if err := Drop(t.Context(), f.sql, f.slot, f.publication); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := SlotState(t.Context(), f.sql, f.slot); err != nil || info.Exists {
		t.Errorf("after Drop: %+v, %v", info, err)
	}
	if fingerprint, err := Fingerprint(t.Context(), f.sql, f.publication); err != nil || fingerprint != "" {
		t.Errorf("after Drop: fingerprint %q, %v", fingerprint, err)
	}
}

// A table that was added while a stream runs is in it from then on.
func TestTableIsAddedWhileStreaming(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), []string{`CREATE TABLE a (id int PRIMARY KEY)`, `CREATE TABLE b (id int PRIMARY KEY)`}, "a")
	r := f.run(t, &recorder{})
	f.exec(t, `INSERT INTO a VALUES (1)`, `INSERT INTO b VALUES (1)`)
	if diff := cmp.Diff([]string{"INSERT public.a new('1')"}, rows(f.changes(t, r.recorder))); diff != "" {
		t.Errorf("before (-want +got):\n%s", diff)
	}
	f.prepare(t, "a", "b")
	f.exec(t, `INSERT INTO b VALUES (2)`)
	if diff := cmp.Diff([]string{"INSERT public.b new('2')"}, rows(f.changes(t, r.recorder))); diff != "" {
		t.Errorf("after (-want +got):\n%s", diff)
	}
}

func TestFingerprintMovesWithEveryGap(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), []string{`CREATE TABLE a (id int PRIMARY KEY, n int)`, `CREATE TABLE b (id int PRIMARY KEY)`}, "a", "b")
	p := quoteIdent(f.publication)
	seen := map[string]string{f.prepared.Fingerprint: "at first"}
	for _, statement := range []string{
		`ALTER PUBLICATION ` + p + ` DROP TABLE b`,
		`ALTER PUBLICATION ` + p + ` ADD TABLE b`, // another membership than the one at first
		`ALTER PUBLICATION ` + p + ` SET (publish = 'insert')`,
		`ALTER PUBLICATION ` + p + ` SET (publish = 'insert, update, delete, truncate')`, // as at first, and so is the next
		`ALTER PUBLICATION ` + p + ` SET (publish = 'insert')`,
		`ALTER PUBLICATION ` + p + ` SET (publish_via_partition_root = false)`,
		`ALTER PUBLICATION ` + p + ` SET TABLE a (id), b`,
		`ALTER PUBLICATION ` + p + ` SET TABLE a WHERE (id > 1), b`,
		`ALTER PUBLICATION ` + p + ` ADD TABLES IN SCHEMA public`,
	} {
		f.exec(t, statement)
		got, err := Fingerprint(t.Context(), f.sql, f.publication)
		if err != nil {
			t.Fatal(err)
		}
		if when, twice := seen[got]; twice {
			t.Errorf("after %q the fingerprint is that of %q", statement, when)
		}
		seen[got] = statement
	}
	before, err := Fingerprint(t.Context(), f.sql, f.publication)
	if err != nil {
		t.Fatal(err)
	}
	f.exec(t, `ALTER TABLE a ADD m int`, `CREATE TABLE c (id int)`, `VACUUM (FREEZE) pg_publication`, `VACUUM FULL pg_publication`)
	if after, err := Fingerprint(t.Context(), f.sql, f.publication); err != nil || after != before {
		t.Errorf("the fingerprint moved without need: %q, %q, %v", before, after, err)
	}
}

// All tables whose publication would break the application's writes are named at once, and nothing is done.
func TestPrepareRefusesTables(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), []string{
		`CREATE TABLE good (id int PRIMARY KEY)`,
		`CREATE TABLE "No Key" (id int)`,
		`CREATE TABLE nothing (id int PRIMARY KEY)`, `ALTER TABLE nothing REPLICA IDENTITY NOTHING`,
		`CREATE TABLE dropped (id int NOT NULL)`, `CREATE UNIQUE INDEX i ON dropped (id)`,
		`ALTER TABLE dropped REPLICA IDENTITY USING INDEX i`, `DROP INDEX i`,
		`CREATE TABLE later (id int PRIMARY KEY DEFERRABLE)`, `CREATE TABLE later_nothing (id int PRIMARY KEY DEFERRABLE)`,
		`ALTER TABLE later_nothing REPLICA IDENTITY NOTHING`,
		`CREATE TABLE full_ (id int)`, `ALTER TABLE full_ REPLICA IDENTITY FULL`,
		`CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY)`,
		`CREATE VIEW v AS SELECT 1`,
		`CREATE FOREIGN DATA WRAPPER w`, `CREATE SERVER s FOREIGN DATA WRAPPER w`, `CREATE FOREIGN TABLE far (id int) SERVER s`,
		`CREATE TABLE parts (id int) PARTITION BY LIST (id)`,
		`CREATE TABLE part_good PARTITION OF parts FOR VALUES IN (1)`, `ALTER TABLE part_good ADD PRIMARY KEY (id)`,
		`CREATE TABLE part_bad PARTITION OF parts FOR VALUES IN (2)`,
		`CREATE TABLE whole (id int PRIMARY KEY) PARTITION BY LIST (id)`, `ALTER TABLE whole REPLICA IDENTITY FULL`,
		`CREATE TABLE whole_part PARTITION OF whole FOR VALUES IN (1)`,
		`CREATE TABLE parent (id int PRIMARY KEY)`, `CREATE TABLE child () INHERITS (parent)`,
	})
	f.exec(t, `DROP PUBLICATION `+quoteIdent(f.publication))
	tables := append(names("good", "No Key", "nothing", "dropped", "later", "later_nothing", "full_", "unlogged", "v", "far", "parts", "whole",
		"parent", "absent"), schema.Name{Schema: "pg_catalog", Name: "pg_class"})
	_, err := Prepare(t.Context(), f.sql, PrepareOptions{Slot: f.slot, Publication: f.publication, Tables: tables})
	const (
		or    = ` (or, at the cost of a larger log, REPLICA IDENTITY FULL)`
		again = ` (or make the primary key again without DEFERRABLE)`
	)
	wantProblems(t, err, map[string]string{
		`table "public.No Key" has no primary key`:                                                       `run: ALTER TABLE "public"."No Key" ADD PRIMARY KEY (...)` + or,
		`table "public.nothing" has REPLICA IDENTITY NOTHING`:                                            `run: ALTER TABLE "public"."nothing" REPLICA IDENTITY DEFAULT` + or,
		`table "public.dropped" has a replica identity whose index was dropped`:                          `run: ALTER TABLE "public"."dropped" ADD PRIMARY KEY (...), REPLICA IDENTITY DEFAULT` + or,
		`table "public.later" has a DEFERRABLE primary key`:                                              `run: ALTER TABLE "public"."later" REPLICA IDENTITY FULL` + again,
		`table "public.later_nothing" has REPLICA IDENTITY NOTHING`:                                      `run: ALTER TABLE "public"."later_nothing" REPLICA IDENTITY FULL` + again,
		`table "public.unlogged" is unlogged or temporary`:                                               `run: ALTER TABLE "public"."unlogged" SET LOGGED`,
		`"public.v" is no table but a view`:                                                              `read ordinary or partitioned tables`,
		`"public.far" is no table but a foreign table`:                                                   `read ordinary or partitioned tables`,
		`table "public.part_bad" has no primary key`:                                                     `run: ALTER TABLE "public"."part_bad" ADD PRIMARY KEY (...)` + or,
		`partition "public.whole_part" has another replica identity than "public.whole", which has FULL`: `run: ALTER TABLE "public"."whole_part" REPLICA IDENTITY FULL`,
		`table "public.child" has no primary key`:                                                        `run: ALTER TABLE "public"."child" ADD PRIMARY KEY (...)` + or,
		`table "public.absent" does not exist`:                                                           `create it, or correct the name`,
		`table "pg_catalog.pg_class" belongs to the system`:                                              `leave it out`,
	})
	if got := f.query(t, `SELECT count(*)::text FROM pg_publication WHERE pubname = $1`, f.publication); got != "0" {
		t.Error("the publication was made all the same")
	}

	// The statements mend what they are for: each table can be published, and written to, afterwards.
	f.exec(t, `ALTER TABLE "No Key" ADD PRIMARY KEY (id)`, `ALTER TABLE nothing REPLICA IDENTITY DEFAULT`,
		`ALTER TABLE dropped ADD PRIMARY KEY (id), REPLICA IDENTITY DEFAULT`, `ALTER TABLE unlogged SET LOGGED`,
		`ALTER TABLE part_bad ADD PRIMARY KEY (id)`, `ALTER TABLE whole_part REPLICA IDENTITY FULL`,
		`ALTER TABLE child ADD PRIMARY KEY (id)`, `ALTER TABLE later REPLICA IDENTITY FULL`,
		`ALTER TABLE later_nothing DROP CONSTRAINT later_nothing_pkey, ADD PRIMARY KEY (id), REPLICA IDENTITY DEFAULT`)
	mended := []string{"good", "No Key", "nothing", "dropped", "later", "later_nothing", "full_", "unlogged", "parts", "whole", "parent"}
	f.prepare(t, mended...)
	for _, table := range mended {
		f.exec(t, `INSERT INTO `+quoteIdent(table)+` VALUES (1)`, `UPDATE `+quoteIdent(table)+` SET id = 1`, `DELETE FROM `+quoteIdent(table))
	}
}

// Why such tables are refused: once published, the application's own statements fail.
func TestPublishedTableWithoutIdentityBreaksItsWriters(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), []string{
		`CREATE TABLE t (id int)`, `INSERT INTO t VALUES (1)`, `CREATE TABLE later (id int PRIMARY KEY DEFERRABLE)`, `INSERT INTO later VALUES (1)`,
	})
	f.exec(t, `ALTER PUBLICATION `+quoteIdent(f.publication)+` ADD TABLE t, later`)
	for _, statement := range []string{`UPDATE t SET id = 2`, `DELETE FROM t`, `UPDATE later SET id = 2`, `DELETE FROM later`} {
		if _, err := f.sql.Exec(t.Context(), statement); sqlState(err) != "55000" {
			t.Errorf("%s = %v", statement, err)
		}
	}
}

// Why a partition's identity must be its root's FULL: the whole old row that the stream claims to have is not there.
func TestPartitionWithoutTheRootsIdentitySendsNullForWhatIsNotLogged(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), []string{
		`CREATE TABLE t (id int PRIMARY KEY, n int) PARTITION BY LIST (id)`,
		`CREATE TABLE p PARTITION OF t FOR VALUES IN (1)`,
	}, "t")
	f.exec(t, `ALTER TABLE t REPLICA IDENTITY FULL`)
	r := f.run(t, &recorder{})
	f.exec(t, `INSERT INTO t VALUES (1, 7)`, `DELETE FROM t`)
	f.wantChanges(t, r.recorder, "BEGIN", "INSERT public.t new('1','7')", "COMMIT",
		"BEGIN", "DELETE public.t old('1',null)", "COMMIT")
}

func TestPrepareRefusesPublications(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, statement, what, do string
	}{
		{"all tables", `CREATE PUBLICATION %s FOR ALL TABLES`, "covers tables that are not named in it", "DROP PUBLICATION"},
		{"schema", `CREATE PUBLICATION %s FOR TABLES IN SCHEMA public WITH (publish_via_partition_root = true)`, "covers tables that are not named in it", "DROP PUBLICATION"},
		{"operations", `CREATE PUBLICATION %s FOR TABLE t WITH (publish = 'insert, update, delete', publish_via_partition_root = true)`, "does not publish everything", "SET (publish"},
		{"leaves", `CREATE PUBLICATION %s FOR TABLE t`, "does not publish everything", "publish_via_partition_root"},
		{"row filter", `CREATE PUBLICATION %s FOR TABLE t WHERE (id > 1) WITH (publish_via_partition_root = true)`, "has row filters or column lists, of public.t", "DROP TABLE public.t; "},
		{"column list", `CREATE PUBLICATION %s FOR TABLE t (id), "T 2" WITH (publish_via_partition_root = true)`, "has row filters or column lists, of public.t", "DROP TABLE public.t; "},
		{"both", `CREATE PUBLICATION %s FOR TABLE t (id), "T 2" WHERE (id > 1) WITH (publish_via_partition_root = true)`, "of public.\"T 2\", public.t", "DROP TABLE public.\"T 2\", public.t; "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, pgtest.Shared(t), []string{`CREATE TABLE t (id int PRIMARY KEY, n int)`, `CREATE TABLE "T 2" (id int PRIMARY KEY)`})
			f.exec(t, `DROP PUBLICATION `+quoteIdent(f.publication), fmt.Sprintf(tt.statement, quoteIdent(f.publication)))
			_, err := Prepare(t.Context(), f.sql, PrepareOptions{Slot: f.slot, Publication: f.publication, Tables: names("t")})
			refused, ok := errors.AsType[*SetupError](err)
			if !ok || !strings.Contains(refused.Problems[0].What, tt.what) || !strings.Contains(refused.Problems[0].Do, tt.do) {
				t.Errorf("Prepare = %v", err)
			}
		})
	}
}

func TestPrepareRefusesServers(t *testing.T) {
	t.Parallel()
	t.Run("wal_level", func(t *testing.T) {
		t.Parallel()
		server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"wal_level": "replica"}})
		_, err := Prepare(t.Context(), connect(t, server.URL("postgres")), PrepareOptions{Slot: "s", Publication: "p"})
		wantProblems(t, err, map[string]string{
			"wal_level is replica": "run: ALTER SYSTEM SET wal_level = logical; then restart PostgreSQL",
		})
	})
	t.Run("commits would wait for the stream", func(t *testing.T) {
		t.Parallel()
		server := pgtest.Start(t, pgtest.Options{})
		conn := connect(t, server.URL("postgres"))
		for names, refused := range map[string]bool{
			"*": true, "FIRST 1 (a, *)": true, `ANY 1 (b, "freshet")`: true, "Freshet": true, "nobody": false, "FIRST 1 (a, freshet2)": false, "": false,
		} {
			// Without waiting for the standbys that it names.
			for _, statement := range []string{
				`SET synchronous_commit = local`, `ALTER SYSTEM SET synchronous_standby_names = '` + names + `'`, `SELECT pg_reload_conf()`,
			} {
				if _, err := conn.Exec(t.Context(), statement); err != nil {
					t.Fatal(err)
				}
			}
			testkit.Eventually(t, 10*time.Second, func() error {
				var now string
				if err := conn.QueryRow(t.Context(), `SHOW synchronous_standby_names`).Scan(&now); err != nil || now != names {
					return fmt.Errorf("it is %q, %v", now, err) //nolint:errorlint // shown
				}
				return nil
			})
			err := checkServer(t.Context(), conn)
			if got := err != nil; got != refused {
				t.Errorf("synchronous_standby_names = '%s': %v", names, err)
			}
		}
	})
	t.Run("no free slot", func(t *testing.T) {
		t.Parallel()
		server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"max_replication_slots": "1"}})
		conn := connect(t, server.URL("postgres"))
		if _, err := Prepare(t.Context(), conn, PrepareOptions{Slot: "first", Publication: "p"}); err != nil {
			t.Fatal(err)
		}
		_, err := Prepare(t.Context(), conn, PrepareOptions{Slot: "second", Publication: "p"})
		if refused, ok := errors.AsType[*SetupError](err); !ok || sqlState(err) != "53400" || !strings.Contains(refused.Problems[0].Do, "max_replication_slots") {
			t.Errorf("Prepare = %v", err)
		}
	})
	t.Run("another plugin's slot", func(t *testing.T) {
		t.Parallel()
		f := newFixture(t, pgtest.Shared(t), nil)
		other := f.slot[:40%len(f.slot)] + "_other"
		f.exec(t, `SELECT pg_create_logical_replication_slot('`+other+`', 'test_decoding')`)
		_, err := Prepare(t.Context(), f.sql, PrepareOptions{Slot: other, Publication: f.publication})
		if refused, ok := errors.AsType[*SetupError](err); !ok || !strings.Contains(refused.Problems[0].What, "test_decoding") {
			t.Errorf("Prepare = %v", err)
		}
		o := f.options()
		o.Slot = other
		_, err = Start(t.Context(), o, 0)
		wantGap(t, err, "")
	})
}

// A role that may not do it is told what it lacks, by Prepare and by Start.
func TestMissingPrivileges(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), []string{`CREATE TABLE t (id int PRIMARY KEY)`, `CREATE TABLE u (id int PRIMARY KEY)`}, "t")
	role := f.slot[:min(len(f.slot), 50)] + "_r"
	f.exec(t, `CREATE ROLE `+role+` LOGIN PASSWORD 'secret'`)
	t.Cleanup(func() { f.server.Exec(t, f.url, `DROP ROLE `+role) })
	u, err := url.Parse(f.url)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "secret")
	o := f.options()
	o.URL = u.String()
	conn := connect(t, o.URL)
	_, err = Prepare(t.Context(), conn, PrepareOptions{Slot: f.slot, Publication: f.publication, Tables: names("t")})
	wantProblems(t, err, map[string]string{
		`role "` + role + `" may not replicate`: `run as a superuser: ALTER ROLE "` + role + `" WITH REPLICATION`,
	})
	_, err = Start(t.Context(), o, 0)
	if _, ok := errors.AsType[*SetupError](err); !ok || strings.Contains(err.Error(), "secret") {
		t.Errorf("Start = %v, want a SetupError", err)
	}

	// With the attribute it can use what an administrator made, and is told how to have it extended.
	f.exec(t, `ALTER ROLE `+role+` WITH REPLICATION`)
	if _, err := Prepare(t.Context(), conn, PrepareOptions{Slot: f.slot, Publication: f.publication, Tables: names("t")}); err != nil {
		t.Error(err)
	}
	s, err := Start(t.Context(), o, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	_, err = Prepare(t.Context(), conn, PrepareOptions{Slot: f.slot, Publication: f.publication, Tables: names("t", "u")})
	refused, ok := errors.AsType[*SetupError](err)
	if !ok || !strings.Contains(refused.Problems[0].Do, `ADD TABLE "public"."u"`) {
		t.Errorf("Prepare = %v", err)
	}
}
