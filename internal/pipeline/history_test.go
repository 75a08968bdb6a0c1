package pipeline_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// The tests in this file have PostgreSQL lose history: what was read and cached before may never have happened, and
// what happens now may not be in the stream.

// afterLoss holds that a gap of the given cause was answered, that what was cached before is out of use, and that
// changes are followed again. want is what the first item is now.
func (d *daemon) afterLoss(generation, cause, old, want string) {
	d.r.t.Helper()
	st := d.await("in a new generation", func(st pipeline.Status) bool {
		return st.Gaps > 0 && st.Generation != generation && st.Phase == pipeline.Streaming
	})
	if !strings.Contains(st.LastGap, cause) {
		d.r.t.Errorf("the gap is %q, want %q in it", st.LastGap, cause)
	}
	d.streaming()
	if d.r.name("items", 1) == old {
		d.r.t.Error("the old name is still live")
	}
	name := d.r.cached("items", 1)
	record, err := d.r.store.Get(d.r.t.Context(), name)
	if err != nil || string(record.Payload) != want {
		d.r.t.Errorf("item 1 is cached as %q, %v, want %q", record.Payload, err, want)
	}
	d.r.exec(`UPDATE items SET v = 'after the loss' WHERE id = 1`)
	d.r.gone(name)
}

// value fills the first item and returns what was stored.
func (r *rig) value() (name, v string) {
	r.t.Helper()
	name = r.cached("items", 1)
	record, err := r.store.Get(r.t.Context(), name)
	if err != nil {
		r.t.Fatal(err)
	}
	return name, string(record.Payload)
}

// TestFailoverOfTheDatabase promotes a standby and lets the URL lead there, with and without transactions that the
// standby never got: one that a cached value has must not be served afterwards (T15).
func TestFailoverOfTheDatabase(t *testing.T) {
	t.Parallel()
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("lost=%t", lost), func(t *testing.T) {
			t.Parallel()
			primary := pgtest.Start(t, pgtest.Options{})
			r := newRig(t, options{pg: primary})
			standby := pgtest.Standby(t, primary, pgtest.Options{})
			database := primary.Ask(t, r.url, `SELECT current_database()::text`)
			r.url = fmt.Sprintf("postgres://postgres@127.0.0.1:%d,127.0.0.1:%d/%s?sslmode=disable&target_session_attrs=read-write",
				primary.Port, standby.Port, database)
			d := r.start()
			generation := d.streaming().Generation
			want := "committed"
			if lost {
				standby.CatchUp(t)
				standby.Cut(t)
				want = "v1"
			}
			old := r.cached("items", 1)
			r.exec(`UPDATE items SET v = 'committed' WHERE id = 1`)
			r.gone(old)
			old, v := r.value()
			if v != "committed" {
				t.Fatalf("item 1 is cached as %q before the failover", v)
			}
			if !lost {
				standby.CatchUp(t)
			}
			primary.Kill(t)
			standby.Promote(t)
			d.afterLoss(generation, "another timeline: 2, the store follows 1", old, want)
			if head := r.head(); head.Timeline != 2 {
				t.Errorf("HEAD follows timeline %d, want 2", head.Timeline)
			}
		})
	}
}

// TestLostSlotEndToEnd has the server give up the slot, which keeps more log than it may while the daemon is away.
func TestLostSlotEndToEnd(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t, pgtest.Options{Settings: map[string]string{
		"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB",
	}})
	r := newRig(t, options{pg: pg})
	d := r.start()
	generation := d.streaming().Generation
	old := r.cached("items", 1)
	d.stop()
	r.exec(`UPDATE items SET v = 'never streamed' WHERE id = 1`)
	testkit.Eventually(t, patience, func() error {
		r.exec(`SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1000000))`, `SELECT pg_switch_wal()`, `CHECKPOINT`)
		if info := r.slotState(); !info.Lost {
			return fmt.Errorf("the slot is not lost: %+v", info)
		}
		return nil
	})
	if !r.present(old) {
		t.Fatal("the value is gone before anybody noticed")
	}
	d = r.start()
	d.afterLoss(generation, "slot was missing or lost", old, "never streamed")
}

// TestRestoredBackup puts a backup from before a cached change in the place of the database, on the same port.
func TestRestoredBackup(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, cause string }{
		{"to a point in time, on a new timeline", "another timeline: 2, the store follows 1"},
		{"as it was copied, on the same timeline", "slot was missing or lost"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			pg := pgtest.Start(t, pgtest.Options{})
			r := newRig(t, options{pg: pg})
			d := r.start()
			generation := d.streaming().Generation
			backup := pgtest.Standby(t, pg, pgtest.Options{})
			backup.Cut(t)
			r.exec(`UPDATE items SET v = 'undone' WHERE id = 1`)
			old, v := r.value()
			if v != "undone" {
				t.Fatalf("item 1 is cached as %q before the restore", v)
			}
			if strings.Contains(tt.cause, "timeline") {
				backup.Promote(t)
			}
			backup.Stop(t)
			pg.Stop(t)
			pg.ReplaceBy(t, backup.Server)
			// Without it the copy is a primary from the start.
			if err := os.Remove(filepath.Join(pg.Dir, "data", "standby.signal")); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			pg.Start(t)
			d.afterLoss(generation, tt.cause, old, "v1")
		})
	}
}

// TestCrashLosesAnAsynchronousCommit is T20: a commit that others could see, and cache, is lost by crash recovery, and
// its transaction id is given out again.
func TestCrashLosesAnAsynchronousCommit(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"a backend", "the postmaster"} {
		t.Run("kill -9 of "+what, func(t *testing.T) {
			t.Parallel()
			pg := pgtest.Start(t, pgtest.Options{Settings: map[string]string{
				"wal_writer_delay": "10s", "checkpoint_timeout": "1h", "autovacuum": "off",
			}})
			r := newRig(t, options{pg: pg})
			d := r.start()
			generation := d.streaming().Generation
			before := r.cached("items", 1)
			writer := r.connect()
			defer func() { _ = writer.Close(context.Background()) }()
			var x string
			err := writer.QueryRow(t.Context(), `WITH off AS (SELECT set_config('synchronous_commit', 'off', false))
				UPDATE items SET v = 'phantom' FROM off WHERE id = 1 RETURNING pg_current_xact_id()::text`).Scan(&x)
			if err != nil {
				t.Fatal(err)
			}
			redisDo(t, r.redisURL, "DEL", before) // the log does not have the commit yet, so nobody else removes it
			old, v := r.value()
			if v != "phantom" {
				t.Fatalf("item 1 is cached as %q before the crash", v)
			}
			if what == "a backend" {
				if err := syscall.Kill(int(writer.PgConn().PID()), syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			} else {
				pg.Kill(t)
				pg.Start(t)
			}
			d.afterLoss(generation, "crash recovery", old, "v1")
			again := r.connect()
			defer func() { _ = again.Close(context.Background()) }()
			var next string
			if err := again.QueryRow(t.Context(), `SELECT pg_current_xact_id()::text`).Scan(&next); err != nil {
				t.Fatal(err)
			}
			t.Logf("transaction %s was lost; another one has its id, they are at %s", x, next)
		})
	}
}

// TestColdCopyOfTheDatabase puts a copy of the stopped cluster back, which has the slot and all marks, and writes past
// what the store has applied before the daemon looks: neither timeline nor positions say that anything is wrong.
func TestColdCopyOfTheDatabase(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t, pgtest.Options{})
	r := newRig(t, options{pg: pg})
	d := r.start()
	generation := d.streaming().Generation
	d.stop()
	pg.Stop(t)
	shelf := pgtest.Start(t, pgtest.Options{})
	shelf.Stop(t)
	shelf.ReplaceBy(t, pg)
	pg.Start(t)

	d = r.start()
	d.streaming()
	if r.head().Generation != generation {
		t.Fatalf("a clean restart began a new generation: %s", d.Status().LastGap)
	}
	r.exec(`UPDATE items SET v = 'undone' WHERE id = 1`)
	old, v := r.value()
	if v != "undone" {
		t.Fatalf("item 1 is cached as %q before the restore", v)
	}
	d.stop()
	applied := r.head().Wc
	pg.Stop(t)
	pg.ReplaceBy(t, shelf)
	pg.Start(t)
	testkit.Eventually(t, patience, func() error {
		r.exec(`UPDATE items SET v = repeat('x', 1000) WHERE id > 1`)
		if r.slotState().Confirmed > applied {
			t.Fatal("the copy's slot is past what the store has applied: that alone is a gap")
		}
		if at := pg.Ask(t, r.url, fmt.Sprintf(`SELECT (pg_current_wal_insert_lsn() > '%v')::text`, applied)); at != "true" {
			return errNotYet
		}
		return nil
	})
	d = r.start()
	d.afterLoss(generation, "does not know of", old, "v1")
}
