package pgsource

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/mvcc"
)

func TestOldImages(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		table string
		want  []string // of: change a plain column, change the key, delete
	}{
		{
			"default", `CREATE TABLE t (id int PRIMARY KEY, a text, b text)`,
			[]string{"UPDATE public.t new('1','x',null)", "UPDATE public.t old('1',-,-) new('2','x',null)", "DELETE public.t old('2',-,-)"},
		},
		{
			"full", `CREATE TABLE t (id int PRIMARY KEY, a text, b text); ALTER TABLE t REPLICA IDENTITY FULL`,
			[]string{"UPDATE public.t old('1','a',null) new('1','x',null)", "UPDATE public.t old('1','x',null) new('2','x',null)", "DELETE public.t old('2','x',null)"},
		},
		{
			"full without a key", `CREATE TABLE t (id int, a text, b text); ALTER TABLE t REPLICA IDENTITY FULL`,
			[]string{"UPDATE public.t old('1','a',null) new('1','x',null)", "UPDATE public.t old('1','x',null) new('2','x',null)", "DELETE public.t old('2','x',null)"},
		},
		{
			"index", `CREATE TABLE t (id int PRIMARY KEY, a text NOT NULL, b text); CREATE UNIQUE INDEX i ON t (a); ALTER TABLE t REPLICA IDENTITY USING INDEX i`,
			[]string{"UPDATE public.t old(-,'a',-) new('1','x',null)", "UPDATE public.t new('2','x',null)", "DELETE public.t old(-,'x',-)"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, pgtest.Shared(t), strings.Split(tt.table, ";"), "t")
			r := f.run(t, &recorder{})
			f.exec(t, `INSERT INTO t VALUES (1, 'a', NULL)`)
			f.changes(t, r.recorder)
			f.exec(t, `BEGIN; UPDATE t SET a = 'x'; UPDATE t SET id = 2; DELETE FROM t; COMMIT`)
			f.wantChanges(t, r.recorder, append(append([]string{"BEGIN"}, tt.want...), "COMMIT")...)
		})
	}
}

func TestLargeUnchangedValue(t *testing.T) {
	t.Parallel()
	const insert = `INSERT INTO t VALUES (1, repeat('x', 9000), 1)`
	ddl := []string{`CREATE TABLE t (id int PRIMARY KEY, large text, n int)`, `ALTER TABLE t ALTER large SET STORAGE EXTERNAL`}
	t.Run("default", func(t *testing.T) {
		t.Parallel()
		f := newFixture(t, pgtest.Shared(t), ddl, "t")
		r := f.run(t, &recorder{})
		f.exec(t, insert, `UPDATE t SET n = 2`, `UPDATE t SET id = 2`, `UPDATE t SET large = NULL`)
		f.wantChanges(t, r.recorder,
			"BEGIN", "INSERT public.t new('1','xxxx...9000','1')", "COMMIT",
			"BEGIN", "UPDATE public.t new('1',~,'2')", "COMMIT",
			"BEGIN", "UPDATE public.t old('1',-,-) new('2',~,'2')", "COMMIT",
			"BEGIN", "UPDATE public.t new('2',null,'2')", "COMMIT")
	})
	// A column of the identity may be large as well, as far as an index takes it. The row then comes with its old image, whatever is updated.
	for name, identity := range map[string]string{
		"key":   `ALTER TABLE k ADD PRIMARY KEY (slug)`,
		"index": `ALTER TABLE k ADD PRIMARY KEY (n); CREATE UNIQUE INDEX i ON k (slug); ALTER TABLE k REPLICA IDENTITY USING INDEX i`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, pgtest.Shared(t), append([]string{
				`CREATE TABLE k (n int, slug text NOT NULL, other text)`, `ALTER TABLE k ALTER slug SET STORAGE EXTERNAL`,
			}, strings.Split(identity, ";")...), "k")
			r := f.run(t, &recorder{})
			f.exec(t, `INSERT INTO k VALUES (1, repeat('x', 2500), 'a')`, `UPDATE k SET other = 'b'`)
			f.wantChanges(t, r.recorder,
				"BEGIN", "INSERT public.k new('1','xxxx...2500','a')", "COMMIT",
				"BEGIN", "UPDATE public.k old(-,'xxxx...2500',-) new('1','xxxx...2500','b')", "COMMIT")
		})
	}
	t.Run("full", func(t *testing.T) {
		t.Parallel()
		f := newFixture(t, pgtest.Shared(t), append(ddl, `ALTER TABLE t REPLICA IDENTITY FULL`), "t")
		r := f.run(t, &recorder{})
		f.exec(t, insert, `UPDATE t SET n = 2`)
		f.wantChanges(t, r.recorder,
			"BEGIN", "INSERT public.t new('1','xxxx...9000','1')", "COMMIT",
			"BEGIN", "UPDATE public.t old('1','xxxx...9000','1') new('1','xxxx...9000','2')", "COMMIT")
	})
}

func TestTableWithoutColumns(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), []string{`CREATE TABLE t ()`, `ALTER TABLE t REPLICA IDENTITY FULL`}, "t")
	r := f.run(t, &recorder{})
	f.exec(t, `INSERT INTO t DEFAULT VALUES`, `DELETE FROM t`)
	f.wantChanges(t, r.recorder, "BEGIN", "INSERT public.t new()", "COMMIT", "BEGIN", "DELETE public.t old()", "COMMIT")
}

func TestTruncate(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), []string{
		`CREATE TABLE a (id int PRIMARY KEY)`,
		`CREATE TABLE b (id int PRIMARY KEY REFERENCES a)`,
		`CREATE TABLE c (id int PRIMARY KEY)`,
		`CREATE TABLE unpublished (id int REFERENCES a)`,
	}, "a", "b", "c")
	r := f.run(t, &recorder{})
	f.exec(t, `TRUNCATE a, c, b, unpublished RESTART IDENTITY`, `TRUNCATE a CASCADE`, `TRUNCATE c`)
	f.wantChanges(t, r.recorder,
		"BEGIN", "TRUNCATE public.a,public.c,public.b cascade=false restart=true", "COMMIT",
		"BEGIN", "TRUNCATE public.a,public.b cascade=true restart=false", "COMMIT",
		"BEGIN", "TRUNCATE public.c cascade=false restart=false", "COMMIT")
}

// Partitions come under their root's name, also those that are made later. A row that moves comes as a DELETE and an
// INSERT. What does not come at all is the TRUNCATE of a single partition.
func TestPartitions(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), []string{
		`CREATE TABLE t (id int, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region)`,
		`CREATE TABLE t_a PARTITION OF t FOR VALUES IN ('a')`,
		`CREATE TABLE t_b (region text NOT NULL, id int NOT NULL)`, // columns in another order
		`ALTER TABLE t ATTACH PARTITION t_b FOR VALUES IN ('b')`,
	}, "t")
	r := f.run(t, &recorder{})
	f.exec(t,
		`INSERT INTO t VALUES (1, 'a')`,
		`UPDATE t SET region = 'b'`,
		`CREATE TABLE t_c PARTITION OF t FOR VALUES IN ('c')`,
		`INSERT INTO t_c VALUES (2, 'c')`,
		`TRUNCATE t_c`,
		`TRUNCATE t`)
	f.wantChanges(t, r.recorder,
		"BEGIN", "INSERT public.t new('1','a')", "COMMIT",
		"BEGIN", "DELETE public.t old('1','a')", "INSERT public.t new('1','b')", "COMMIT",
		"BEGIN", "INSERT public.t new('2','c')", "COMMIT",
		"BEGIN", "TRUNCATE public.t cascade=false restart=false", "COMMIT")
}

func TestMessages(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), []string{`CREATE TABLE t (id int PRIMARY KEY)`}, "t")
	r := f.run(t, &recorder{})
	f.exec(t,
		`BEGIN; INSERT INTO t VALUES (1); SELECT pg_logical_emit_message(true, 'p', 'in order'); INSERT INTO t VALUES (2); COMMIT`,
		`SELECT pg_logical_emit_message(true, 'binary', '\xff00fe'::bytea)`,
		`BEGIN; SELECT pg_logical_emit_message(true, 'p', 'rolled back'); ROLLBACK`,
		`BEGIN; SELECT pg_logical_emit_message(false, 'p', 'rolled back, and sent'); ROLLBACK`)
	f.wantChanges(t, r.recorder,
		"BEGIN", "INSERT public.t new('1')", "MESSAGE p in order transactional=true", "INSERT public.t new('2')", "COMMIT",
		"BEGIN", "MESSAGE binary \xff\x00\xfe transactional=true", "COMMIT",
		"MESSAGE p rolled back, and sent transactional=false")
}

// The top-level id, in 64 bits, whatever subtransactions the rows were written under.
func TestBeginCarriesTheWritersTransactionID(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), []string{`CREATE TABLE t (id int PRIMARY KEY)`}, "t")
	r := f.run(t, &recorder{})
	f.exec(t, `BEGIN`, `SAVEPOINT a`, `INSERT INTO t VALUES (1)`, `SAVEPOINT b`, `INSERT INTO t VALUES (2)`,
		`ROLLBACK TO b`, `INSERT INTO t VALUES (3)`)
	want := f.query(t, `SELECT pg_current_xact_id()::text`)
	f.exec(t, `COMMIT`)
	after := f.insertLSN(t)
	f.wantChanges(t, r.recorder, "BEGIN", "INSERT public.t new('1')", "INSERT public.t new('3')", "COMMIT")
	r.mu.Lock()
	defer r.mu.Unlock()
	begin, commit := r.begins[0], r.commits[0]
	if begin.XID.String() != want {
		t.Errorf("xid %s, want %s", begin.XID, want)
	}
	if begin.End > mvcc.LSN(commit.Position) || mvcc.LSN(commit.Position) > after || begin.Committed.IsZero() {
		t.Errorf("begin %+v, commit %s, log %s", begin, mvccLSN(commit.Position), after)
	}
	for i := 1; i < len(r.commits); i++ {
		if r.commits[i].Position <= r.commits[i-1].Position || r.begins[i].End <= mvcc.LSN(r.commits[i-1].Position) {
			t.Errorf("transaction %d does not follow the one before", i)
		}
	}
}

// A prepared transaction comes when it is committed, under its own id, after younger ones.
func TestTwoPhaseCommit(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"max_prepared_transactions": "2"}})
	f := newFixture(t, server, []string{`CREATE TABLE t (id int PRIMARY KEY)`}, "t")
	r := f.run(t, &recorder{})
	f.exec(t, `BEGIN`, `INSERT INTO t VALUES (1)`)
	want := f.query(t, `SELECT pg_current_xact_id()::text`)
	f.exec(t, `PREPARE TRANSACTION 'one'`, `INSERT INTO t VALUES (2)`)
	f.wantChanges(t, r.recorder, "BEGIN", "INSERT public.t new('2')", "COMMIT")
	f.exec(t, `COMMIT PREPARED 'one'`)
	f.wantChanges(t, r.recorder, "BEGIN", "INSERT public.t new('1')", "COMMIT")
	r.mu.Lock()
	defer r.mu.Unlock()
	younger, prepared := r.begins[0], r.begins[2] // a mark lies between
	if prepared.XID.String() != want || prepared.XID >= younger.XID || prepared.End <= younger.End {
		t.Errorf("prepared %+v (want xid %s) after younger %+v", prepared, want, younger)
	}
}

// The text of values is the same whatever the database's settings are.
func TestTextDoesNotDependOnTheDatabasesSettings(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), []string{
		`CREATE TABLE t (id int PRIMARY KEY, d date, ts timestamptz, i interval, f float8, b bytea, z text)`,
		`DO $$ DECLARE s text; BEGIN
		   FOREACH s IN ARRAY ARRAY['DateStyle = ''SQL, DMY''', 'IntervalStyle = sql_standard', 'extra_float_digits = -5',
		     'TimeZone = ''Asia/Tokyo''', 'bytea_output = escape', 'client_encoding = LATIN1', 'standard_conforming_strings = off'] LOOP
		     EXECUTE format('ALTER DATABASE %I SET %s', current_database(), s);
		   END LOOP; END $$`,
	}, "t")
	r := f.run(t, &recorder{})
	f.exec(t, `INSERT INTO t VALUES (1, '2026-02-03', '2026-02-03 04:05:06.7+00', '1 day 2 hours', 0.1::float8 + 0.2::float8, '\x00ff', 'é')`)
	f.wantChanges(t, r.recorder, "BEGIN",
		`INSERT public.t new('1','2026-02-03','2026-02-03 04:05:06.7+00','1 day 02:00:00','0.30000000000000004','\x00ff','é')`, "COMMIT")
}

// The table is described anew after every change of its definition, by another pointer.
func TestRelationIsReplaced(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), []string{
		`CREATE TABLE t (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id * 2) STORED, v varchar(7))`,
	}, "t")
	r := f.run(t, &recorder{})
	f.exec(t, `INSERT INTO t VALUES (1, DEFAULT, 'a')`, `INSERT INTO t VALUES (2, DEFAULT, 'b')`,
		`ALTER TABLE t ADD w bool DEFAULT true`, // rewrites no row that the stream would show
		`ALTER TABLE t REPLICA IDENTITY FULL`,
		`INSERT INTO t (id) VALUES (3)`)
	f.wantChanges(t, r.recorder, // stored generated columns are not sent
		"BEGIN", "INSERT public.t new('1','a')", "COMMIT",
		"BEGIN", "INSERT public.t new('2','b')", "COMMIT",
		"BEGIN", "INSERT public.t new('3',null,'t')", "COMMIT")
	r.mu.Lock()
	defer r.mu.Unlock()
	first, second, third := r.relations[0], r.relations[1], r.relations[2]
	// The server may describe a table anew at any time, when something reset its cache; then nothing about it has changed.
	if diff := cmp.Diff(first, second); diff != "" || second == third || first.OID != third.OID {
		t.Errorf("relations %p %p %p (-first +second):\n%s", first, second, third, diff)
	}
	const int4, boolean, varchar = 23, 16, 1043
	want := change.Relation{OID: first.OID, Schema: "public", Name: "t", Identity: change.IdentityDefault, Columns: []change.Column{
		{Name: "id", TypeOID: int4, TypeMod: -1, Key: true}, {Name: "v", TypeOID: varchar, TypeMod: 7 + 4},
	}}
	if diff := cmp.Diff(&want, first); diff != "" {
		t.Errorf("first (-want +got):\n%s", diff)
	}
	want.Identity = change.IdentityFull
	want.Columns = append(want.Columns, change.Column{Name: "w", TypeOID: boolean, TypeMod: -1})
	for i := range want.Columns {
		want.Columns[i].Key = true
	}
	if diff := cmp.Diff(&want, third); diff != "" {
		t.Errorf("third (-want +got):\n%s", diff)
	}
}

// What changes data without a word in the stream: nothing may be promised about it.
func TestWhatTheStreamDoesNotCarry(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), []string{
		`CREATE TABLE t (id int PRIMARY KEY, n int)`, `INSERT INTO t VALUES (1, 1)`,
		`CREATE SEQUENCE s`, `CREATE MATERIALIZED VIEW m AS SELECT * FROM t`, `CREATE UNLOGGED TABLE u (id int)`,
	}, "t")
	r := f.run(t, &recorder{})
	f.exec(t, `SELECT nextval('s')`, `REFRESH MATERIALIZED VIEW m`, `INSERT INTO u VALUES (1)`,
		`CREATE TEMP TABLE tt (id int)`, `INSERT INTO tt VALUES (1)`,
		`DROP MATERIALIZED VIEW m`,
		`ALTER TABLE t ADD w int DEFAULT 7`,
		`ALTER TABLE t ALTER n TYPE text USING 'rewritten'`)
	if got := rows(f.changes(t, r.recorder)); len(got) != 0 {
		t.Errorf("changes %q", got)
	}
	f.exec(t, `UPDATE t SET w = 8`)
	if diff := cmp.Diff([]string{"UPDATE public.t new('1','rewritten','8')"}, rows(f.changes(t, r.recorder))); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

// rows leaves out BEGIN and COMMIT, which servers before 15 send for transactions without any change too.
func rows(lines []string) []string {
	var found []string
	for _, line := range lines {
		if line != "BEGIN" && line != "COMMIT" {
			found = append(found, line)
		}
	}
	return found
}

// Commits that nobody waits for arrive too, once the server has flushed them.
func TestAsynchronousCommit(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), []string{`CREATE TABLE t (id int PRIMARY KEY)`}, "t")
	r := f.run(t, &recorder{})
	f.exec(t, `SET synchronous_commit = off`)
	for i := range 20 {
		f.exec(t, fmt.Sprintf(`INSERT INTO t VALUES (%d)`, i))
		f.wantLater(t, r.recorder, fmt.Sprintf("INSERT public.t new('%d')", i))
	}
}
