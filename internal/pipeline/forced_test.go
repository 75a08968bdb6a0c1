package pipeline_test

import (
	"testing"

	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// TestOutOfOrderIsForgottenWithTheHistory is T33: behind a commit that hangs, another one is confirmed out of order, and
// Redis then comes back from a dump that is older than the confirm. Its HEAD is just as the daemon left it, since Wc waits
// for the commit that hangs; the value must go once more.
func TestOutOfOrderIsForgottenWithTheHistory(t *testing.T) {
	t.Parallel()
	pg, redis := pgtest.Start(t, pgtest.Options{}), redistest.Start(t)
	r := newRig(t, options{pg: pg, redis: redis})
	d := r.start()
	d.streaming()
	name := r.name("items", 2)
	r.synchronous()
	show := r.hang(`UPDATE items SET v = 'hangs' WHERE id = 1`)
	d.await("holding the hung commit", func(st pipeline.Status) bool { return st.Waiting > 0 })
	saved := r.head()
	for range 10 { // HEAD may still be on its way to the commit that hangs
		name = r.cached("items", 2)
		saved = r.head()
		redisDo(t, redis.URL, "SAVE")
		r.exec(`SET synchronous_commit = local; UPDATE items SET v = 'passes' WHERE id = 2`)
		r.gone(name)
		if r.head().Wc == saved.Wc {
			break
		}
	}
	if wc := r.head().Wc; wc != saved.Wc {
		t.Fatalf("HEAD went from %v to %v past a commit that hangs: this test shows nothing", saved.Wc, wc)
	}
	redis.Kill(t)
	redis.Start(t)
	r.gone(name)
	if got := r.head(); got.Generation != saved.Generation {
		t.Errorf("a new generation began (%s) although the log reaches back", d.Status().LastGap)
	}
	show()
	d.streaming()
}

// TestRevertedChangeHasNamesOfItsOwn is T35: a table is swapped for another one, changed, and swapped back. The plan is the
// old one again, and what was cached under its old name, while nobody confirmed that, is not.
func TestRevertedChangeHasNamesOfItsOwn(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	r.exec(`CREATE TABLE items_new (LIKE items INCLUDING ALL)`, `INSERT INTO items_new SELECT * FROM items`)
	d := r.start()
	d.streaming()
	first := r.cached("items", 1)
	names := map[string]bool{first: true}
	moved := func() {
		t.Helper()
		testkit.Eventually(t, patience, func() error {
			if names[r.name("items", 1)] {
				return errNotYet
			}
			return nil
		})
		d.streaming()
		names[r.cached("items", 1)] = true
	}
	r.exec(`BEGIN; ALTER TABLE items RENAME TO items_old; ALTER TABLE items_new RENAME TO items; COMMIT`)
	moved()
	r.exec(`UPDATE items_old SET v = 'changed while it was away' WHERE id = 1`)
	r.exec(`BEGIN; ALTER TABLE items RENAME TO items_new; ALTER TABLE items_old RENAME TO items; COMMIT`)
	moved()
	record, err := r.store.Get(t.Context(), r.name("items", 1))
	if err != nil || string(record.Payload) != "changed while it was away" {
		t.Errorf("cached is %q, %v", record.Payload, err)
	}
}
