package pipeline_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/ddl"
	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// triggers installs the event triggers, as check --fix does.
func (r *rig) triggers() {
	r.t.Helper()
	conn := r.connect()
	defer func() { _ = conn.Close(context.Background()) }()
	var st ddl.State
	if err := conn.QueryRow(r.t.Context(), ddl.StateSQL).Scan(st.Fields()...); err != nil {
		r.t.Fatal(err)
	}
	r.exec(st.Install()...)
	if err := conn.QueryRow(r.t.Context(), ddl.StateSQL).Scan(st.Fields()...); err != nil || !st.Installed() {
		r.t.Fatalf("after %q: %+v, %v", st.Install(), st, err)
	}
}

// TestDDLHoldsHEAD has HEAD vouch for nothing after a statement that changes values without a row, before names have moved for
// it: whenever Wc is past the statement's transaction, the name is another one already.
func TestDDLHoldsHEAD(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{pg: pgtest.Start(t, pgtest.Options{})})
	r.triggers()
	d := r.start()
	d.streaming()
	before := d.Status()
	r.applied()
	for round := range 4 {
		name := r.cached("items", 1)
		r.exec(`ALTER TABLE items ALTER v TYPE text USING v || '!'`)
		end := r.insert()
		r.exec(`SELECT pg_logical_emit_message(true, 'test', 'so that there is something behind it')`)
		testkit.Eventually(t, patience, func() error {
			// HEAD first: names that move between the two do no harm.
			if head := r.head(); head.Wc < end {
				return errNotYet
			}
			if r.name("items", 1) == name {
				t.Errorf("round %d: HEAD is past the statement, and the name from before it is live", round)
			}
			return nil
		})
	}
	if st := d.Status(); st.DDL != 4 || st.Term != before.Term || st.Reconnects != before.Reconnects {
		t.Errorf("status %+v, want 4 statements told of in one session", st)
	}
}

// silent runs statements of which no message is to come: the log itself is read.
func (r *rig) silent(statements string) {
	r.t.Helper()
	conn := r.connect()
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(r.t.Context(), `SELECT pg_create_logical_replication_slot('listener', 'pgoutput', true)`); err != nil {
		r.t.Fatal(err)
	}
	read := func(statements string) (messages int) {
		r.exec(statements)
		const peek = `SELECT count(*) FROM pg_logical_slot_get_binary_changes('listener', NULL::pg_lsn, NULL::int,
			'proto_version', '1', 'publication_names', 'freshet', 'messages', 'true') WHERE position('freshet.ddl'::bytea IN data) > 0`
		if err := conn.QueryRow(r.t.Context(), peek).Scan(&messages); err != nil {
			r.t.Fatal(err)
		}
		return messages
	}
	if n := read(statements); n != 0 {
		r.t.Errorf("%d messages tell of %s", n, statements)
	}
	if n := read(`CREATE TABLE heard (id int)`); n != 1 {
		r.t.Errorf("%d messages tell of a table that is made, want 1", n)
	}
	r.exec(`DROP TABLE heard`)
}

// TestDDLThatConcernsNobody moves nothing, and holds nothing up: temporary tables, tables that no entry reads, and statements
// that change no value.
func TestDDLThatConcernsNobody(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{pg: pgtest.Start(t, pgtest.Options{})})
	r.triggers()
	r.exec(`CREATE TABLE others (id int PRIMARY KEY, v text)`)
	d := r.start()
	before := d.streaming()
	name := r.cached("items", 1)
	r.exec(
		`CREATE TEMPORARY TABLE items (id int)`, `CREATE TABLE more (id int)`, `ALTER TABLE others ADD w text`, `DROP TABLE more`,
		`CREATE MATERIALIZED VIEW seen AS SELECT * FROM others`, `REFRESH MATERIALIZED VIEW seen`, `CREATE INDEX ON others (v)`,
		`COMMENT ON TABLE items IS 'things'`, `GRANT SELECT ON items TO public`,
	)
	r.applied()
	if st := d.Status(); st.DDL != 0 || st.Term != before.Term {
		t.Errorf("status %+v, want that nothing concerned it", st)
	}
	r.silent(`CREATE TEMPORARY TABLE t (id int PRIMARY KEY)`)
	r.silent(`CREATE TEMPORARY TABLE t (id int PRIMARY KEY); ALTER TABLE t ADD v text; CREATE TEMPORARY VIEW w AS SELECT id FROM items; DROP VIEW w; DROP TABLE t`)
	r.exec(`CREATE TYPE mood AS ENUM ('calm')`, `CREATE SEQUENCE items_seq OWNED BY items.id`) // who uses them is not known
	r.applied()
	if got := r.name("items", 1); got != name || !r.present(name) {
		t.Errorf("the name moved from %s to %s, or the value is gone", name, got)
	}
	if st := d.Status(); st.DDL == 0 || st.Term != before.Term {
		t.Errorf("status %+v, want statements that were looked at", st)
	}
}

// each does something to the function of a name that takes a text, whose further arguments are not the same in all versions of PostgreSQL.
func each(name, statement string) string {
	return fmt.Sprintf(`DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT oid::regprocedure FROM pg_proc WHERE proname = '%s' AND proargtypes[2] = 'text'::regtype LOOP EXECUTE format('%s', f); END LOOP; END $$`,
		name, statement)
}

// TestDDLThatCannotBeTold fails nobody's statement: not that of a role which may do nothing but alter its own tables, and not
// where the function fails. What is not told is found by looking.
func TestDDLThatCannotBeTold(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{pg: pgtest.Start(t, pgtest.Options{})})
	r.triggers()
	r.exec(
		`CREATE ROLE maker`, `ALTER TABLE items OWNER TO maker`, `GRANT USAGE, CREATE ON SCHEMA public TO maker`, `REVOKE ALL ON SCHEMA freshet FROM public`,
		`REVOKE EXECUTE ON FUNCTION pg_event_trigger_ddl_commands(), pg_event_trigger_dropped_objects() FROM public`,
		each("pg_logical_emit_message", "REVOKE EXECUTE ON FUNCTION %s FROM public"),
	)
	d := r.start()
	d.streaming()
	name := r.cached("items", 1)
	told := d.Status().DDL
	r.exec(`SET ROLE maker; ALTER TABLE items ALTER v TYPE text USING v || '!'`)
	name = r.moved(name)
	if got := d.Status().DDL - told; got != 1 {
		t.Errorf("%d statements of a role that may write no message were told, want 1", got)
	}
	// Whatever PostgreSQL may lack one day.
	r.exec(each("pg_logical_emit_message", "ALTER FUNCTION %s RENAME TO gone"))
	r.exec(`ALTER TABLE items ALTER v TYPE text USING v || '?'`, `CREATE TABLE more (id int)`, `DROP TABLE more`)
	name = r.moved(name)
	if got := d.Status().DDL - told; got != 1 {
		t.Errorf("%d statements were told without the function that does it, want none more", got)
	}
	r.exec(each("gone", "ALTER FUNCTION %s RENAME TO pg_logical_emit_message"))
	// A session that applies what another server did fires the triggers as well, and one that only reads is let be.
	r.exec(`SET session_replication_role = replica; ALTER TABLE items ALTER v TYPE text USING v || '.'`, `BEGIN READ ONLY; SELECT count(*) FROM items; COMMIT`)
	r.moved(name)
	if got := d.Status().DDL - told; got < 2 {
		t.Errorf("%d statements were told, want that of a session in the replica role too", got)
	}
}

// TestDDLWithRows has a transaction that alters a table and writes to it come out whole, and one whose messages are not what
// they should be taken for one that altered something.
func TestDDLWithRows(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{pg: pgtest.Start(t, pgtest.Options{})})
	r.triggers()
	d := r.start()
	d.streaming()
	name, other := r.cached("items", 1), r.cached("items", 2)
	r.exec(`BEGIN; UPDATE items SET v = 'new' WHERE id = 1; CREATE INDEX ON items (v); UPDATE items SET v = 'newer' WHERE id = 1; COMMIT`)
	r.applied()
	if r.present(name) || !r.present(other) {
		t.Error("the row that changed is still cached, or the one that did not is not")
	}
	told := d.Status().DDL
	for _, message := range []string{"", "{", `{"objects":7}`, `{"tag":"X","objects":null}`, `{"tag":"X","more":true}`} {
		r.exec(fmt.Sprintf(`SELECT pg_logical_emit_message(true, 'freshet.ddl', '%s')`, message))
	}
	// One that is not transactional says nothing about any commit.
	r.exec(`SELECT pg_logical_emit_message(false, 'freshet.ddl', '{')`)
	r.applied()
	if got := d.Status().DDL - told; got != 5 {
		t.Errorf("%d messages were heeded, want 5", got)
	}
	if !r.present(other) || r.name("items", 2) != other {
		t.Error("a message alone moved a name")
	}
	d.await("streaming", func(st pipeline.Status) bool {
		return time.Since(st.Horizon) < time.Second || st.Phase == pipeline.Streaming
	})
}
