package pipeline_test

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/apply"
	"github.com/freshet/freshet/internal/pggate"
	"github.com/freshet/freshet/internal/pgsource"
	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

func TestEveryKindOfChangeRemovesTheRecord(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	r.start().streaming()
	for _, tt := range []struct {
		change string
		id     int
	}{
		{`UPDATE items SET v = 'changed' WHERE id = 1`, 1},
		{`DELETE FROM items WHERE id = 2`, 2},
		{`INSERT INTO items VALUES (200, 'new')`, 200},
		{`UPDATE items SET id = 300 WHERE id = 3`, 3},
		{`UPDATE items SET id = 400 WHERE id = 4`, 400},
		{`BEGIN; SAVEPOINT a; UPDATE items SET v = 'in a savepoint' WHERE id = 5; RELEASE a; COMMIT`, 5},
	} {
		name := r.cached("items", tt.id)
		untouched := r.cached("items", 50)
		r.exec(tt.change)
		r.gone(name)
		if !r.present(untouched) {
			t.Errorf("%s removed a record that does not depend on it", tt.change)
		}
	}
}

func TestTruncateMovesTheName(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	d := r.start()
	d.streaming()
	old := r.cached("items", 1)
	before := r.head()
	r.exec(`TRUNCATE items`)
	testkit.Eventually(t, patience, func() error {
		// The roster comes first, HEAD names it after.
		if after := r.head(); r.name("items", 1) == old || after.Revision <= before.Revision {
			return errNotYet
		}
		return nil
	})
	if after := r.head(); after.Generation != before.Generation {
		t.Errorf("the generation went from %s to %s", before.Generation, after.Generation)
	}
	if d.Stats().Moves.Load() == 0 {
		t.Error("the move was not counted")
	}
}

// TestRowThatCannotBeMappedMovesTheName changes a row while its key column has another name, within one transaction: nobody can
// say which key that was, and the log has not described the table before. Every name of the entry goes, it is said and counted, and what comes behind is applied.
func TestRowThatCannotBeMappedMovesTheName(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	d := r.start()
	d.streaming()
	old := r.cached("items", 1)
	before, moves := r.head(), d.Stats().Moves.Load()
	r.exec(`BEGIN; ALTER TABLE items RENAME id TO ident; UPDATE items SET v = 'lost' WHERE ident = 1; ALTER TABLE items RENAME ident TO id; COMMIT`)
	testkit.Eventually(t, patience, func() error {
		if after := r.head(); r.name("items", 1) == old || after.Revision <= before.Revision {
			return errNotYet
		}
		return nil
	})
	if n := d.Stats().Moves.Load(); n <= moves {
		t.Errorf("%d moves are counted, and were %d before", n, moves)
	}
	if st := d.Status(); st.Gaps != 0 || r.head().Generation != before.Generation {
		t.Errorf("it was taken for a gap: %+v", st)
	}
	for _, text := range []string{
		"an entry has a new name: a change could not be mapped to its keys", "the log does not carry column id of public.items",
	} {
		if !r.said.contains(text) {
			t.Errorf("the log does not say %q", text)
		}
	}
	for applied := false; !applied; { // the next look at the table may move the name once more, for what was altered
		name := r.cached("items", 2)
		r.exec(`UPDATE items SET v = v || ', after' WHERE id = 2`)
		testkit.Eventually(t, patience, func() error {
			if applied = !r.present(name); !applied && r.name("items", 2) == name {
				return errNotYet
			}
			return nil
		})
	}
}

// TestRestartAppliesWhatHappenedMeanwhile stops the daemon, changes a row, and starts it again: the generation goes on.
func TestRestartAppliesWhatHappenedMeanwhile(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	d := r.start()
	d.streaming()
	changed, kept := r.cached("items", 1), r.cached("items", 2)
	generation := r.head().Generation
	d.stop()
	r.exec(`UPDATE items SET v = 'while nobody looked' WHERE id = 1`)
	d = r.start()
	d.streaming()
	r.gone(changed)
	if !r.present(kept) || r.name("items", 2) != kept {
		t.Error("a restart threw away a record that nothing changed")
	}
	if got := r.head().Generation; got != generation {
		t.Errorf("generation went from %s to %s without a gap", generation, got)
	}
	if st := d.Status(); st.Gaps != 0 {
		t.Errorf("%d gaps: %s", st.Gaps, st.LastGap)
	}
}

// TestGaps breaks the stream in every way that could lose a change: each is a new generation, and service goes on.
func TestGaps(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		running func(r *rig)
		stopped func(r *rig)
		cause   string
	}{
		{
			name:    "the slot is dropped while the daemon is down",
			stopped: func(r *rig) { r.exec(`SELECT pg_drop_replication_slot('` + r.slot + `')`) },
			cause:   "slot was missing",
		},
		{
			name: "the store follows another cluster",
			stopped: func(r *rig) {
				redisDo(r.t, r.redisURL, "HSET", "f:"+r.namespace+":head", "sys", "123", "term", "00000001.00000000ffffffff")
				r.exec(`UPDATE items SET v = 'of this cluster' WHERE id = 1`)
			},
			cause: "another database cluster",
		},
		{
			name: "the store follows another database of the cluster",
			stopped: func(r *rig) {
				key := "f:" + r.namespace + ":roster"
				reply := redisDo(r.t, r.redisURL, "GET", key)
				text, err := reply.ToString()
				const other = `"database":{"oid":1`
				altered := regexp.MustCompile(`"database":{"oid":\d+`).ReplaceAllString(text, other)
				if err != nil || !strings.Contains(altered, other) {
					r.t.Fatalf("the roster does not say of which database it is: %s, %v", text, err)
				}
				redisDo(r.t, r.redisURL, "SET", key, altered)
			},
			cause: "another database of the cluster",
		},
		{
			name: "the store follows a later timeline",
			stopped: func(r *rig) {
				redisDo(r.t, r.redisURL, "HSET", "f:"+r.namespace+":head", "tl", "00000002", "term", "00000002.0000000000000001")
			},
			cause: "another timeline",
		},
		{
			name: "the store was owned under a transaction that the database has not come to",
			stopped: func(r *rig) {
				redisDo(r.t, r.redisURL, "HSET", "f:"+r.namespace+":head", "term", "00000001.00000000ffffffff")
			},
			cause: "does not know of",
		},
		{
			name: "the store has applied more than the log holds",
			stopped: func(r *rig) {
				redisDo(r.t, r.redisURL, "HSET", "f:"+r.namespace+":head", "wc", "00ffffffffffffff")
			},
			cause: "the database was restored",
		},
		{
			name: "another daemon answered the crash recovery, this one did not",
			stopped: func(r *rig) {
				r.exec(`UPDATE freshet.alive SET generation = 'ffffffffffffffff' || substr(generation, 17) WHERE namespace = '` + pggate.Mark(r.namespace, r.slot) + `'`)
			},
			cause: "crash recovery",
		},
		{
			name: "the start position was forwarded",
			stopped: func(r *rig) {
				r.exec(`INSERT INTO items VALUES (900, '')`,
					`SELECT pg_replication_slot_advance('`+r.slot+`', pg_current_wal_insert_lsn())`)
			},
			cause: "no longer reaches back",
		},
		{
			name: "a table is taken out of the publication and put back while the daemon runs",
			running: func(r *rig) {
				r.exec(`ALTER PUBLICATION freshet DROP TABLE items`, `ALTER PUBLICATION freshet ADD TABLE items`)
			},
			cause: "publication was altered",
		},
		{
			name: "the publication is altered and put back while the daemon is down",
			stopped: func(r *rig) {
				r.exec(`ALTER PUBLICATION freshet DROP TABLE items`, `UPDATE items SET v = 'unseen' WHERE id = 1`,
					`ALTER PUBLICATION freshet ADD TABLE items`)
			},
			cause: "publication was altered",
		},
		{
			name: "an operation is taken out of the publication and put back while the daemon is down",
			stopped: func(r *rig) {
				r.exec(`ALTER PUBLICATION freshet SET (publish = 'insert')`, `UPDATE items SET v = 'unseen' WHERE id = 1`,
					`ALTER PUBLICATION freshet SET (publish = 'insert, update, delete, truncate')`)
			},
			cause: "publication was altered",
		},
		{
			name:    "the publication is dropped while the daemon runs",
			running: func(r *rig) { r.exec(`DROP PUBLICATION freshet`, `UPDATE items SET v = 'unseen' WHERE id = 1`) },
			cause:   "the log has a gap: the ", // replication slot or the publication does not exist; from 18 on: server does not send everything
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, options{})
			d := r.start()
			d.streaming()
			old := r.cached("items", 1)
			generation := r.head().Generation
			if tt.running != nil {
				tt.running(r)
			} else {
				d.stop()
				tt.stopped(r)
				d = r.start()
			}
			st := d.await("in a new generation", func(st pipeline.Status) bool {
				return st.Gaps > 0 && st.Generation != generation && st.Phase == pipeline.Streaming
			})
			if !strings.Contains(st.LastGap, tt.cause) {
				t.Errorf("the gap is %q, want %q in it", st.LastGap, tt.cause)
			}
			d.streaming()
			if name := r.name("items", 1); name == old {
				t.Error("the old name is still live")
			}
			name := r.cached("items", 1)
			r.exec(`UPDATE items SET v = 'after the gap' WHERE id = 1`)
			r.gone(name)
		})
	}
}

// TestCrashRecoveryIsAGap kills the postmaster: what was visible may be lost and its transaction ids used again.
func TestCrashRecoveryIsAGap(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t, pgtest.Options{})
	r := newRig(t, options{pg: pg})
	d := r.start()
	d.streaming()
	old := r.cached("items", 1)
	pg.Kill(t)
	pg.Start(t)
	st := d.await("in a new generation", func(st pipeline.Status) bool { return st.Gaps > 0 && st.Phase == pipeline.Streaming })
	if !strings.Contains(st.LastGap, "crash recovery") {
		t.Errorf("the gap is %q", st.LastGap)
	}
	d.streaming()
	if r.name("items", 1) == old {
		t.Error("the old name is still live")
	}
}

// TestCleanRestartOfTheDatabaseIsNoGap is its counterpart: the generation survives, and nothing is missed.
func TestCleanRestartOfTheDatabaseIsNoGap(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t, pgtest.Options{})
	r := newRig(t, options{pg: pg})
	d := r.start()
	d.streaming()
	generation := r.head().Generation
	changed, kept := r.cached("items", 1), r.cached("items", 2)
	pg.Restart(t)
	r.exec(`UPDATE items SET v = 'after the restart' WHERE id = 1`)
	r.gone(changed)
	if r.head().Generation != generation || !r.present(kept) {
		t.Errorf("a clean restart began a new generation: %s", d.Status().LastGap)
	}
}

// TestEmptyRedisIsANewGeneration restarts Redis without its data.
func TestEmptyRedisIsANewGeneration(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	r := newRig(t, options{redis: redis})
	d := r.start()
	generation := d.streaming().Generation
	old := r.cached("items", 1)
	redis.FlushAll(t)
	r.exec(`UPDATE items SET v = 'unconfirmed' WHERE id = 1`)
	d.await("in a new generation", func(st pipeline.Status) bool { return st.Generation != generation && st.Phase == pipeline.Streaming })
	d.streaming()
	if r.name("items", 1) == old {
		t.Error("the old name is still live")
	}
	name := r.cached("items", 1)
	r.exec(`UPDATE items SET v = 'again' WHERE id = 1`)
	r.gone(name)
}

// TestRedisAwayForAWhile kills Redis and brings it back with what it had saved: the daemon catches up.
func TestRedisAwayForAWhile(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	r := newRig(t, options{redis: redis})
	d := r.start()
	generation := d.streaming().Generation
	name := r.cached("items", 1)
	redis.Kill(t)
	r.exec(`UPDATE items SET v = 'while redis was away' WHERE id = 1`)
	d.await("noticing", func(st pipeline.Status) bool { return st.Phase == pipeline.Connecting && st.Problem != "" })
	redis.Start(t)
	r.gone(name)
	d.streaming()
	if got := r.head().Generation; got != generation {
		t.Errorf("generation went from %s to %s although redis kept its history", generation, got)
	}
}

// TestStandbyTakesOver starts two daemons: the second waits for the slot and takes over with a higher term.
func TestStandbyTakesOver(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	first := r.start()
	first.streaming()
	term := r.head().Term
	second := r.start()
	second.await("standby", func(st pipeline.Status) bool {
		return st.Phase == pipeline.Standby && strings.Contains(st.Problem, r.slot)
	})
	name := r.cached("items", 1)
	generation := r.head().Generation
	first.stop()
	r.exec(`UPDATE items SET v = 'second' WHERE id = 1`)
	second.streaming()
	r.gone(name)
	if h := r.head(); h.Term <= term || h.Generation != generation {
		t.Errorf("term went from %s to %s, generation from %s to %s", term, h.Term, generation, h.Generation)
	}
}

// TestIdleDatabaseAdvancesTheSlot writes to another database only: the slot lets go of that log.
func TestIdleDatabaseAdvancesTheSlot(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t, pgtest.Options{})
	r := newRig(t, options{pg: pg, rewind: apply.Rewind{Time: 50 * time.Millisecond}})
	r.start().streaming()
	other := &rig{t: t, url: pg.Database(t)}
	target := r.head().Wc
	other.exec(`CREATE TABLE noise (v text)`, `INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, 1000)`)
	conn := other.connect()
	defer func() { _ = conn.Close(t.Context()) }()
	testkit.Eventually(t, patience, func() error {
		if info := r.slotState(); info.Confirmed <= target {
			return errNotYet
		}
		return nil
	})
}

// TestRewindDepthHoldsConfirmationBack checks that what was applied is not forgotten at once.
func TestRewindDepthHoldsConfirmationBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{rewind: apply.Rewind{Time: time.Hour}})
	d := r.start()
	d.streaming()
	start := r.slotState().Confirmed
	name := r.cached("items", 1)
	r.exec(`UPDATE items SET v = 'kept' WHERE id = 1`)
	r.gone(name)
	applied := r.head().Wc
	d.stop()
	if info := r.slotState(); info.Confirmed != start || applied <= start {
		t.Errorf("confirmed went from %v to %v, applied to %v: redelivery would be impossible", start, info.Confirmed, applied)
	}
}

// TestGapThatCannotBeAnswered alters the publication so that the daemon may not go on: what is cached is out of use at
// once all the same, and when somebody mends the publication service goes on.
func TestGapThatCannotBeAnswered(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	d := r.start()
	d.streaming()
	generation := r.head().Generation
	r.cached("items", 1)
	r.exec(`ALTER TABLE items ADD CONSTRAINT other UNIQUE (v), REPLICA IDENTITY NOTHING`,
		`ALTER PUBLICATION freshet DROP TABLE items`)
	d.await("refused", func(st pipeline.Status) bool {
		return st.Gaps > 0 && strings.Contains(st.Problem, "items") && st.Phase == pipeline.Connecting
	})
	if h := r.head(); h.Generation == generation {
		t.Error("the old generation is still in use")
	}
	r.exec(`ALTER TABLE items REPLICA IDENTITY DEFAULT`)
	d.streaming()
	name := r.cached("items", 1)
	r.exec(`UPDATE items SET v = 'mended' WHERE id = 1`)
	r.gone(name)
}

// TestGapIsCondemnedAgain has Redis come back from before what was cached was taken out of use for a gap that nobody can
// answer yet: the old generation does not come back with it.
func TestGapIsCondemnedAgain(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	r := newRig(t, options{redis: redis})
	d := r.start()
	d.streaming()
	r.cached("items", 1)
	generation := r.head().Generation
	redisDo(t, redis.URL, "SAVE")
	r.exec(`ALTER TABLE items REPLICA IDENTITY NOTHING`, `ALTER PUBLICATION freshet DROP TABLE items`)
	d.await("refused", func(st pipeline.Status) bool {
		return st.Gaps > 0 && strings.Contains(st.Problem, "items") && st.Phase == pipeline.Connecting
	})
	redis.Kill(t)
	redis.Start(t)
	testkit.Eventually(t, patience, func() error {
		switch head, found, err := r.store.Head(t.Context()); {
		case err != nil:
			return err
		case !found || head.Generation == generation:
			return fmt.Errorf("HEAD (there: %t) vouches for generation %s again", found, head.Generation)
		}
		return nil
	})
	r.exec(`ALTER TABLE items REPLICA IDENTITY DEFAULT`)
	d.streaming()
}

// TestGapThatAStartingDaemonCannotAnswer is the same for a daemon that finds the gap when it starts, and gives up: what
// is cached is out of use nevertheless.
func TestGapThatAStartingDaemonCannotAnswer(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	d := r.start()
	d.streaming()
	generation := r.head().Generation
	r.cached("items", 1)
	d.stop()
	r.exec(`SELECT pg_drop_replication_slot('`+r.slot+`')`, `ALTER PUBLICATION freshet DROP TABLE items`,
		`ALTER TABLE items REPLICA IDENTITY NOTHING`, `UPDATE items SET v = 'unseen' WHERE id = 1`)
	failed := r.pipeline(r.tables).Run(t.Context())
	if _, refused := errors.AsType[*pgsource.SetupError](failed); !refused {
		t.Fatalf("Run() = %v, want a refusal", failed)
	}
	if h := r.head(); h.Generation == generation {
		t.Error("the old generation is still in use")
	}
	r.exec(`ALTER TABLE items REPLICA IDENTITY DEFAULT`)
	d = r.start()
	if st := d.streaming(); st.Gaps != 1 {
		t.Errorf("%d gaps after the restart, want 1: %s", st.Gaps, st.LastGap)
	}
}

// TestSwappedTable renames another table into the place of one that an entry reads, which shows in no stream.
func TestSwappedTable(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	r.exec(`CREATE TABLE items_new (LIKE items INCLUDING ALL)`, `INSERT INTO items_new SELECT * FROM items`)
	d := r.start()
	d.streaming()
	old := r.cached("items", 1)
	r.exec(`BEGIN; ALTER TABLE items RENAME TO items_old; ALTER TABLE items_new RENAME TO items; COMMIT`)
	testkit.Eventually(t, patience, func() error {
		if r.name("items", 1) == old {
			return errNotYet
		}
		return nil
	})
	d.streaming()
	name := r.cached("items", 1)
	r.exec(`UPDATE items SET v = 'in the new table' WHERE id = 1`)
	r.gone(name)
	if st := d.Status(); st.Gaps != 0 {
		t.Errorf("a swapped table was taken for a gap: %s", st.LastGap)
	}
}
