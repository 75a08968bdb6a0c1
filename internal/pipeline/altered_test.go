package pipeline_test

import (
	"context"
	"testing"

	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/mvcc"
)

// moved waits until the key of an entry has another name than before, and returns it.
func (r *rig) moved(before string) (name string) {
	r.t.Helper()
	testkit.Eventually(r.t, patience, func() error {
		if name = r.name("items", 1); name == before {
			return errNotYet
		}
		return nil
	})
	return name
}

// insert is where the log ends.
func (r *rig) insert() mvcc.LSN {
	r.t.Helper()
	conn := r.connect()
	defer func() { _ = conn.Close(context.Background()) }()
	var text string
	if err := conn.QueryRow(r.t.Context(), `SELECT pg_current_wal_insert_lsn()::text`).Scan(&text); err != nil {
		r.t.Fatal(err)
	}
	lsn, err := mvcc.ParseLSN(text)
	if err != nil {
		r.t.Fatal(err)
	}
	return lsn
}

// TestRewriteMovesTheNameInPlace has names move for statements that rewrite a table or take its rows away, once each,
// within the session, and though a transaction that wrote is open; a standby that lags fills nothing under the new one.
func TestRewriteMovesTheNameInPlace(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	r.exec(`CREATE TABLE others (id int PRIMARY KEY)`)
	d := r.start()
	before := d.streaming()
	open := r.connect()
	defer func() { _ = open.Close(context.Background()) }()
	if _, err := open.Exec(t.Context(), `BEGIN; INSERT INTO others VALUES (1)`); err != nil {
		t.Fatal(err)
	}
	name := r.cached("items", 1)
	for _, statement := range []string{
		`ALTER TABLE items ALTER v TYPE text USING v || '!'`, `VACUUM FULL items`, `CLUSTER items USING items_pkey`,
	} {
		moves := d.Stats().Moves.Load()
		r.exec(statement)
		end := r.insert()
		name = r.moved(name)
		if head := r.head(); head.Wi < end {
			t.Errorf("%s: a standby that has replayed to %v may fill, which the statement is past: up to %v", statement, head.Wi, end)
		}
		if name != r.cached("items", 1) {
			t.Errorf("%s: the name moved more than once", statement)
		}
		if got := d.Stats().Moves.Load() - moves; got != 1 {
			t.Errorf("%s: %d moves were counted, want 1", statement, got)
		}
	}
	if st := d.Status(); st.Term != before.Term || st.Gaps != 0 || st.Reconnects != 0 || st.Phase != pipeline.Streaming {
		t.Errorf("the stream was taken up again: %+v, before %+v", st, before)
	}
	// What keeps rows where they are moves nothing.
	r.exec(`REINDEX TABLE items`, `VACUUM ANALYZE items`, `ALTER TABLE items ADD other text`, `CREATE INDEX ON items (v)`,
		`COMMENT ON TABLE items IS 'things'`)
	testkit.Eventually(t, patience, func() error { // the added column has the entries planned anew
		if d.Status().Term == before.Term {
			return errNotYet
		}
		return nil
	})
	d.streaming()
	if got := r.name("items", 1); got != name {
		t.Errorf("a name moved although values are what they were: %s, then %s", name, got)
	}
}

// TestRewriteWithoutADaemon rewrites a table while no daemon runs: the next one has names of its own for its entries at
// once, though a transaction that wrote is open, and no standby fills them that lacks the rewrite.
func TestRewriteWithoutADaemon(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	r.exec(`CREATE TABLE others (id int PRIMARY KEY)`)
	d := r.start()
	d.streaming()
	name := r.cached("items", 1)
	d.stop()
	d = r.start()
	d.streaming()
	if got := r.name("items", 1); got != name {
		t.Fatalf("a restart alone moved the name: %s, then %s", name, got)
	}
	d.stop()
	open := r.connect()
	defer func() { _ = open.Close(context.Background()) }()
	if _, err := open.Exec(t.Context(), `BEGIN; INSERT INTO others VALUES (1)`); err != nil {
		t.Fatal(err)
	}
	r.exec(`ALTER TABLE items ALTER v TYPE text USING v || '!'`)
	end := r.insert()
	r.start().streaming()
	if r.name("items", 1) == name {
		t.Error("the name is the one from before the rewrite")
	}
	if head := r.head(); head.Wi < end {
		t.Errorf("a standby that has replayed to %v may fill, which the rewrite is past: up to %v", head.Wi, end)
	}
}

// TestRenamedForAWhileWithoutADaemon writes a table while it has another name, and gives it back its own, while no daemon
// runs: all that the next one sees of it is rows of a table that is no entry's.
func TestRenamedForAWhileWithoutADaemon(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	d := r.start()
	d.streaming()
	name := r.cached("items", 1)
	d.stop()
	r.exec(`ALTER TABLE items RENAME TO aside`, `UPDATE aside SET v = 'unseen' WHERE id = 1`, `ALTER TABLE aside RENAME TO items`)
	end := r.insert()
	d = r.start()
	d.streaming()
	if got := r.moved(name); got == name {
		t.Error("the name is the one from before")
	}
	if head := r.head(); head.Wi < end {
		t.Errorf("a standby that has replayed to %v may fill, which the change is past: up to %v", head.Wi, end)
	}
	if st := d.Status(); st.Gaps != 0 {
		t.Errorf("%d gaps, for what the log shows: %s", st.Gaps, st.LastGap)
	}
}
