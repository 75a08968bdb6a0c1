package pgload_test

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/mvcc"
)

const goods = `CREATE TABLE good (id int8 PRIMARY KEY, name text, other text, views int NOT NULL DEFAULT 0);
	CREATE TABLE part (id int8 PRIMARY KEY, good int8 NOT NULL, name text);
	INSERT INTO good VALUES (1, 'kettle', 'x'), (2, 'pan', 'y');
	INSERT INTO part VALUES (1, 1, 'lid'), (2, 1, 'handle'), (3, 2, 'lid')`

// one and many are queries as the planner writes them, with the versions of the rows as they are stored.
func one() pgload.Query {
	const from = ` FROM public.good WHERE good.id = $1`
	return pgload.Query{SQL: `SELECT good.id AS id, good.name AS name` + from, Result: rule.One, Version: &rule.RowVersion{
		SQL: `SELECT good.id AS id, good.name AS name, CASE WHEN good.ctid IS NULL THEN '-' WHEN good.tableoid = 'public.good'::regclass` +
			` THEN (good.ctid::text || '/') || good.xmin::text END AS freshet_version, ARRAY[good.xmin::text::int8] AS freshet_xids` + from,
		Columns: []string{"id", "name"}, Tables: []string{"public.good"},
	}}
}

func many() pgload.Query {
	const from = ` FROM public.good g LEFT JOIN public.part p ON p.good = g.id WHERE g.id = $1 ORDER BY p.name`
	return pgload.Query{SQL: `SELECT g.name AS name, p.name AS part` + from, Result: rule.Many, Version: &rule.RowVersion{
		SQL: `SELECT g.name AS name, p.name AS part, (CASE WHEN g.ctid IS NULL THEN '-' WHEN g.tableoid = 'public.good'::regclass` +
			` THEN (g.ctid::text || '/') || g.xmin::text END || ';') || CASE WHEN p.ctid IS NULL THEN '-' WHEN p.tableoid = 'public.part'::regclass` +
			` THEN (p.ctid::text || '/') || p.xmin::text END AS freshet_version, ARRAY[g.xmin::text::int8, p.xmin::text::int8] AS freshet_xids` + from,
		Columns: []string{"name", "part"}, Tables: []string{"public.good", "public.part"},
	}}
}

// counter reads a value again and again, as somebody who keeps it.
type counter struct {
	t     *testing.T
	l     *pgload.Loader
	q     pgload.Query
	known pgload.Known
	value []byte // what it keeps
}

// ask compares, and keeps what there is. The horizon is the end of what had ended when the value was last seen to be right.
func (c *counter) ask() pgload.Loaded {
	c.t.Helper()
	got := changed(c.t, c.l, c.q, "1", c.known)
	whole, err := c.l.Load(c.t.Context(), c.q.SQL, c.q.Result, texts("1"))
	if err != nil {
		c.t.Fatal(err)
	}
	if got.Same == pgload.Different {
		c.value, c.known.Digest = got.Payload, pgload.DigestOf(got.Payload)
	}
	if !bytes.Equal(c.value, whole.Payload) || got.Found != whole.Found {
		c.t.Fatalf("LoadChanged said %d of %s, and there is %s", got.Same, c.value, whole.Payload)
	}
	c.known.Version, c.known.Horizon = got.Version, got.Coverage.Snapshot.Xmin
	return got
}

// settled returns when no transaction is under way that holds the horizon back.
func (c *counter) settled() {
	c.t.Helper()
	c.known.Version = ""
	c.ask()
	eventually(c.t, func() error {
		if got := c.ask(); got.Same != pgload.SameVersion {
			return fmt.Errorf("LoadChanged = %+v", got)
		}
		return nil
	})
}

// TestStoredVersions: what is said to be the same is the same, whatever was done to the rows, the tables and their columns; and
// where nothing was done to the rows, nothing else is looked at.
func TestStoredVersions(t *testing.T) { //nolint:tparallel // the subtests share a database
	t.Parallel()
	const d, b, v = pgload.Different, pgload.SameDigest, pgload.SameVersion
	swap := func(x, y string) string {
		return fmt.Sprintf("ALTER TABLE good RENAME %s TO z; ALTER TABLE good RENAME %s TO %s; ALTER TABLE good RENAME z TO %s", x, y, x, y)
	}
	tests := []struct {
		name      string
		do        []string
		one, many pgload.Sameness
	}{
		{"nothing", nil, v, v},
		{"another row", []string{"UPDATE good SET name = 'other' WHERE id = 2", "INSERT INTO part VALUES (9, 2, 'lid')"}, v, v},
		{"a change", []string{"UPDATE good SET name = 'jug' WHERE id = 1"}, d, d},
		{"the same once more", []string{"UPDATE good SET name = 'kettle' WHERE id = 1"}, b, b},
		{"there and back", []string{"UPDATE good SET name = 'jug' WHERE id = 1", "UPDATE good SET name = 'kettle' WHERE id = 1"}, b, b},
		{"a column that is not read", []string{"UPDATE good SET views = views + 1 WHERE id = 1"}, b, b},
		{"rolled back", []string{"BEGIN; UPDATE good SET name = 'jug' WHERE id = 1; ROLLBACK"}, v, v},
		{"a savepoint rolled back", []string{"BEGIN; SAVEPOINT a; UPDATE good SET name = 'jug' WHERE id = 1; ROLLBACK TO a; UPDATE good SET views = 3; COMMIT"}, b, b},
		{"locked", []string{"BEGIN; SELECT FROM good WHERE id = 1 FOR UPDATE; COMMIT"}, v, v},
		{"a row more in the list", []string{"INSERT INTO part VALUES (4, 1, 'base')"}, v, d},
		{"a row less", []string{"DELETE FROM part WHERE id = 2"}, v, d},
		{"one for another", []string{"DELETE FROM part WHERE id = 2", "UPDATE part SET good = 1 WHERE id = 3"}, v, d},
		{"the outer join finds nothing", []string{"DELETE FROM part WHERE good = 1"}, v, d},
		{"another order", []string{"UPDATE part SET name = CASE id WHEN 1 THEN 'handle' ELSE 'lid' END WHERE good = 1"}, v, b},
		{"frozen", []string{"VACUUM (FREEZE) good", "VACUUM (FREEZE) part"}, v, v},
		{"written anew", []string{"VACUUM FULL good"}, b, b},
		{"sorted", []string{"CLUSTER part USING part_pkey"}, v, b},
		{"its place taken by another", []string{"DELETE FROM good WHERE id = 1", "VACUUM good", "INSERT INTO good VALUES (1, 'jug')"}, d, d},
		{"its place taken by the like of it", []string{"DELETE FROM good WHERE id = 1", "VACUUM good", "INSERT INTO good VALUES (1, 'kettle')"}, b, b},
		{"emptied and filled again", []string{"BEGIN; TRUNCATE good; INSERT INTO good VALUES (1, 'kettle'); COMMIT"}, b, b},
		{"columns change places", []string{swap("name", "other")}, d, d},
		{"a column of another", []string{"ALTER TABLE good DROP COLUMN name; ALTER TABLE good ADD COLUMN name text DEFAULT 'jug'"}, d, d},
		{"a column that is not read, added", []string{"ALTER TABLE good ADD COLUMN more int DEFAULT 7"}, b, b},
		{"another type without a rewrite", []string{"ALTER TABLE good ALTER COLUMN name TYPE varchar(40)"}, b, b},
		{"another type with one", []string{"ALTER TABLE good ALTER COLUMN name TYPE text USING upper(name)"}, d, d},
		{"another table", []string{"CREATE TABLE good2 (LIKE good); INSERT INTO good2 VALUES (1, 'jug', 'x', 0); ALTER TABLE good RENAME TO good3; ALTER TABLE good2 RENAME TO good"}, d, d},
		{"a child with the row", []string{"CREATE TABLE child () INHERITS (good); INSERT INTO child VALUES (1, 'jug', 'x'); DELETE FROM ONLY good WHERE id = 1"}, d, d},
		{"unlogged and back", []string{"ALTER TABLE good SET UNLOGGED; ALTER TABLE good SET LOGGED"}, b, b},
		{"gone", []string{"DELETE FROM good WHERE id = 1"}, d, d},
		{"analyzed, indexed, commented", []string{"ANALYZE good", "CREATE INDEX ON good (name)", "COMMENT ON TABLE good IS 'x'", "VACUUM good"}, v, v},
	}
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"autovacuum": "off"}})
	url := server.URL("postgres")
	l, err := pgload.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, tt := range tests { //nolint:paralleltest // others' transactions would hold back what VACUUM may remove
		t.Run(tt.name, func(t *testing.T) {
			server.Exec(t, url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public", goods)
			of, list := &counter{t: t, l: l, q: one()}, &counter{t: t, l: l, q: many()}
			of.settled()
			list.settled()
			server.Exec(t, url, tt.do...)
			if got := of.ask(); got.Same != tt.one {
				t.Errorf("one: LoadChanged = %+v, want %d", got, tt.one)
			}
			if got := list.ask(); got.Same != tt.many {
				t.Errorf("many: LoadChanged = %+v, want %d", got, tt.many)
			}
		})
	}
}

// TestStoredVersionsAcrossARewrite: a rewrite of the table moves a row, which the query did not return before and returns now
// without having been written, to the very place of the one that it returned.
func TestStoredVersionsAcrossARewrite(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"autovacuum": "off"}})
	url := server.URL("postgres")
	server.Exec(t, url, goods)
	l, err := pgload.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const from = ` FROM public.good g LEFT JOIN public.part p ON p.good = g.id WHERE g.views = $1 AND p.id IS NULL`
	q := pgload.Query{SQL: `SELECT g.name AS name` + from, Result: rule.Many, Version: &rule.RowVersion{
		SQL:     `SELECT g.name AS name, g.ctid::text || '/' || g.xmin::text || ';-' AS freshet_version, ARRAY[g.xmin::text::int8, p.xmin::text::int8] AS freshet_xids` + from,
		Columns: []string{"name"}, Tables: []string{"public.good", "public.part"},
	}}
	server.Exec(t, url, "DELETE FROM part WHERE good = 1", "VACUUM FULL good", "UPDATE good SET views = 1", "VACUUM FULL good")
	c := &counter{t: t, l: l, q: q}
	c.settled()
	before := server.Ask(t, url, "SELECT ctid::text || xmin::text FROM good WHERE id = 1")
	server.Exec(t, url, "DELETE FROM good WHERE id = 1", "DELETE FROM part", "VACUUM FULL good")
	if after := server.Ask(t, url, "SELECT ctid::text || xmin::text FROM good WHERE id = 2"); after != before {
		t.Fatalf("the test means nothing: the row is at %s, and was at %s", after, before)
	}
	if got := c.ask(); got.Same != pgload.Different || string(got.Payload) != `[{"name":"pan"}]` {
		t.Errorf("LoadChanged = %s %+v", got.Payload, got)
	}
}

// TestStoredVersionsBesideOpenTransactions: what a transaction writes that was open when the value was read is not taken for
// what was there, and one that stays open costs no more than a digest.
func TestStoredVersionsBesideOpenTransactions(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"autovacuum": "off"}})
	url := server.URL("postgres")
	server.Exec(t, url, goods)
	l, err := pgload.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	begin := func() pgx.Tx {
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		tx, err := conn.Begin(t.Context())
		if err == nil {
			_, err = tx.Exec(t.Context(), "SELECT pg_current_xact_id()")
		}
		if err != nil {
			t.Fatal(err)
		}
		return tx
	}
	exec := func(tx pgx.Tx, sql string) {
		if _, err := tx.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	c := &counter{t: t, l: l, q: one()}
	c.settled()
	// It has its id, and has written under a savepoint's, whose id no snapshot lists.
	early := begin()
	exec(early, "SAVEPOINT a; UPDATE good SET name = 'jug' WHERE id = 1; RELEASE a")
	if got := c.ask(); got.Same != pgload.SameVersion {
		t.Errorf("beside an open transaction: %+v", got)
	}
	if err := early.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := c.ask(); got.Same != pgload.Different {
		t.Errorf("after its commit: %+v", got)
	}
	// The horizon stands still behind one that writes nothing here: a row that was written since is compared by its digest.
	idle := begin()
	server.Exec(t, url, "UPDATE good SET name = 'pot' WHERE id = 1")
	for _, want := range []pgload.Sameness{pgload.Different, pgload.SameDigest, pgload.SameDigest} {
		if got := c.ask(); got.Same != want {
			t.Errorf("behind an idle transaction: %+v, want %d", got, want)
		}
	}
	if err := idle.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.settled()
}

// TestStoredVersionsOfAnotherEpoch: a row has 32 bits of the id of its transaction, and 4,294,967,296 transactions later the
// same bits come again, and may come to the same place.
func TestStoredVersionsOfAnotherEpoch(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"autovacuum": "off"}})
	url := server.URL("postgres")
	// The table is older than all that is done later, so that nothing but the row can tell.
	server.Exec(t, url, "CREATE TABLE good (id int8 PRIMARY KEY, name text, other text, views int NOT NULL DEFAULT 0)")
	made, err := strconv.ParseUint(server.Ask(t, url, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	server.BurnXIDs(t, url, made+60)
	server.Exec(t, url, "INSERT INTO good VALUES (1, 'old')")
	old, err := strconv.ParseUint(server.Ask(t, url, "SELECT xmin::text FROM good"), 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	for _, database := range []string{"postgres", "template1"} {
		server.Exec(t, server.URL(database), "VACUUM (FREEZE)")
	}
	server.Stop(t)
	server.ResetXIDs(t, 1, uint32(old)-30)
	server.Start(t)
	l, err := pgload.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := &counter{t: t, l: l, q: one()}
	c.settled()
	before := c.known
	if before.Horizon < 1<<32 || before.Horizon > mvcc.XID(1<<32+old) {
		t.Fatalf("the horizon is %v, of a row of %d", before.Horizon, old)
	}
	server.Exec(t, url, "DELETE FROM good", "VACUUM good")
	server.BurnXIDs(t, url, 1<<32+old)
	server.Exec(t, url, "INSERT INTO good VALUES (1, 'new')")
	c.known.Version = "" // makes one anew
	c.ask()
	if c.known.Version != before.Version {
		t.Fatalf("the test means nothing: row versions %s and %s differ", before.Version, c.known.Version)
	}
	c.known = before
	if got := c.ask(); got.Same != pgload.Different || !bytes.Contains(got.Payload, []byte("new")) {
		t.Errorf("LoadChanged = %+v", got)
	}
}

// TestStoredVersionsAfterACrash: crash recovery loses a commit that others have seen, gives its id out again, and the row of
// the second one comes to the place of the first. So the horizon of a value is also that of what is known to be in the log on disk.
func TestStoredVersionsAfterACrash(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{
		"autovacuum": "off", "wal_writer_delay": "10s", "checkpoint_timeout": "1h",
	}})
	url := server.URL("postgres")
	server.Exec(t, url, goods)
	l, err := pgload.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := &counter{t: t, l: l, q: one()}
	c.settled()
	onDisk := c.known.Horizon
	lost := server.Ask(t, url, `WITH off AS (SELECT set_config('synchronous_commit', 'off', false))
		UPDATE good SET name = 'phantom' FROM off WHERE id = 1 RETURNING pg_current_xact_id()::text`)
	if got := c.ask(); got.Same != pgload.Different || !strings.Contains(string(got.Payload), "phantom") {
		t.Fatalf("before the crash: %+v", got)
	}
	phantom := c.known
	server.Kill(t)
	server.Start(t)
	eventually(t, func() error {
		_, err := l.Load(t.Context(), c.q.SQL, c.q.Result, texts("1"))
		return err
	})
	next := server.Ask(t, url, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
	if again := server.Ask(t, url, "UPDATE good SET name = 'real' WHERE id = 1 RETURNING pg_current_xact_id()::text"); again != lost {
		t.Fatalf("the test means nothing: transaction %s was lost, the next one was %s and is %s", lost, next, again)
	}
	// What was known before the crash, taken at its word, is what is there now.
	if got := changed(t, l, c.q, "1", phantom); got.Same != pgload.SameVersion {
		t.Fatalf("the test means nothing: %+v", got)
	}
	phantom.Horizon = min(phantom.Horizon, onDisk)
	c.known = phantom
	if got := c.ask(); got.Same != pgload.Different || !strings.Contains(string(got.Payload), "real") {
		t.Errorf("after the crash: %+v", got)
	}
}

// TestHorizons: without a horizon, or with one from another history, digests decide.
func TestHorizons(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"autovacuum": "off"}})
	url := server.URL("postgres")
	server.Exec(t, url, goods)
	l, err := pgload.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := &counter{t: t, l: l, q: one()}
	c.settled()
	now := c.known.Horizon
	for horizon, want := range map[mvcc.XID]pgload.Sameness{
		0: pgload.SameDigest, 3: pgload.SameDigest, now: pgload.SameVersion, now + 1: pgload.SameDigest, now + 1<<32: pgload.SameDigest, 1<<63 - 1: pgload.SameDigest,
	} {
		known := c.known
		known.Horizon = horizon
		if got := changed(t, l, c.q, "1", known); got.Same != want {
			t.Errorf("horizon %v: %+v, want %d", horizon, got, want)
		}
	}
}
