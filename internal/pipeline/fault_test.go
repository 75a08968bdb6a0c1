package pipeline_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/apply"
	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// redisDo sends one command.
func redisDo(t *testing.T, url string, words ...string) rueidis.RedisMessage {
	t.Helper()
	option, err := rueidis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	option.ForceSingleClient, option.DisableCache = true, true
	client, err := rueidis.NewClient(option)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	reply, err := client.Do(t.Context(), client.B().Arbitrary(words...).Build()).ToMessage()
	if err != nil && !rueidis.IsRedisNil(err) {
		t.Fatalf("%v: %v", words, err)
	}
	return reply
}

// TestHungCommitWaitsAlone commits one transaction that hangs in synchronous replication: the log delivers it, and the
// database still shows its old row. It is not confirmed, and holds up nobody else (T30).
func TestHungCommitWaitsAlone(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t, pgtest.Options{})
	r := newRig(t, options{pg: pg})
	d := r.start()
	d.streaming()
	r.synchronous()
	hung, free := r.cached("items", 1), r.cached("items", 2)
	show := r.hang(`UPDATE items SET v = 'hangs' WHERE id = 1`)
	d.await("holding the hung commit", func(st pipeline.Status) bool { return st.Waiting > 0 })
	stuck := r.head().Wc
	r.exec(`SET synchronous_commit = local; UPDATE items SET v = 'passes' WHERE id = 2`)
	r.gone(free)
	// Until the commit is visible the database shows the old row. It may be removed when the log delivers the commit, but
	// it can soon be filled again, and then stays until the commit becomes visible.
	if again := r.cached("items", 1); again != hung {
		t.Fatalf("the name moved from %s to %s", hung, again)
	}
	d.await("gating the hung commit once more", func(st pipeline.Status) bool { return st.Waiting > 0 })
	for until := time.Now().Add(300 * time.Millisecond); time.Now().Before(until); { // what would remove it again has its time
		if !r.present(hung) {
			t.Fatal("a record was removed for good although the database still shows the row that it has")
		}
	}
	if wc := r.head().Wc; wc != stuck {
		t.Errorf("HEAD went from %v to %v past a commit that is not confirmed", stuck, wc)
	}
	show()
	r.gone(hung)
	testkit.Eventually(t, patience, func() error {
		if wc := r.head().Wc; wc <= stuck {
			return errNotYet
		}
		return nil
	})
}

// TestNewTableIsAdmittedAfterOpenWriters adds a table while a transaction that wrote to it is open: its commit never
// comes through the stream, so the entry goes live only after it (D8, T21).
func TestNewTableIsAdmittedAfterOpenWriters(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t, pgtest.Options{})
	r := newRig(t, options{pg: pg})
	r.exec(`CREATE TABLE later (id int PRIMARY KEY, v text)`, `INSERT INTO later VALUES (1, 'old')`)
	d := r.start()
	d.streaming()
	kept := r.cached("items", 1)
	d.stop()

	writer := r.connect()
	tx, err := writer.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `UPDATE later SET v = 'new' WHERE id = 1`); err != nil {
		t.Fatal(err)
	}
	r.tables = append(r.tables, "later")
	d = r.start()
	st := d.await("waiting for the writer", func(st pipeline.Status) bool { return st.Admission != "" })
	if pid := fmt.Sprintf("process %d ", writer.PgConn().PID()); !strings.Contains(st.Admission, pid) {
		t.Errorf("admission waits for %q, want %q named", st.Admission, pid)
	}
	for _, e := range st.Entries {
		if suspended := e.Suspended != ""; suspended != (e.Name == "later") {
			t.Errorf("entry %s is suspended: %q", e.Name, e.Suspended)
		}
	}
	if !r.present(kept) || r.name("items", 1) != kept {
		t.Error("the entry that was there before was disturbed")
	}
	// A daemon that takes over still waits, also when the roster that says so is lost.
	for _, lost := range []bool{false, true} {
		d.stop()
		if lost {
			redisDo(t, r.redisURL, "DEL", "f:"+r.namespace+":roster")
		}
		d = r.start()
		st = d.await("waiting for the writer again", func(st pipeline.Status) bool { return st.Admission != "" })
		for _, e := range st.Entries {
			if e.Name == "later" && e.Suspended == "" {
				t.Errorf("the new entry went live under an open writer (roster lost: %t)", lost)
			}
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = writer.Close(t.Context())
	d.streaming()
	name := r.cached("later", 1)
	if record, err := r.store.Get(t.Context(), name); err != nil || string(record.Payload) != "new" {
		t.Errorf("the entry went live with %q, %v", record.Payload, err)
	}
	r.exec(`UPDATE later SET v = 'newer' WHERE id = 1`)
	r.gone(name)
}

// TestChangedTableMovesTheName alters a table: values may have changed without a row in the stream.
func TestChangedTableMovesTheName(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	d := r.start()
	d.streaming()
	r.exec(`UPDATE items SET v = 'before' WHERE id = 2`)
	old := r.cached("items", 1)
	r.exec(`ALTER TABLE items ALTER v TYPE varchar USING v || '!'`, `UPDATE items SET v = 'after' WHERE id = 2`)
	testkit.Eventually(t, patience, func() error {
		if r.name("items", 1) == old {
			return errNotYet
		}
		return nil
	})
	if d.Status().Gaps != 0 {
		t.Errorf("a changed table was taken for a gap: %s", d.Status().LastGap)
	}
}

// TestReadOnlyRedisIsNotApplied turns Redis into a replica and back: nothing counts as applied meanwhile, nothing is
// confirmed, and nothing is lost.
func TestReadOnlyRedisIsNotApplied(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	r := newRig(t, options{redis: redis})
	d := r.start()
	d.streaming()
	name := r.cached("items", 1)
	redisDo(t, redis.URL, "REPLICAOF", "127.0.0.1", "1")
	wc := r.head().Wc
	r.exec(`UPDATE items SET v = 'not yet' WHERE id = 1`)
	d.await("noticing", func(st pipeline.Status) bool {
		return st.Phase == pipeline.Connecting && strings.Contains(st.Problem, "read-only")
	})
	if !r.present(name) || r.head().Wc != wc || r.slotState().Confirmed > wc {
		t.Error("something was applied or confirmed through a read-only server")
	}
	redisDo(t, redis.URL, "REPLICAOF", "NO", "ONE")
	r.gone(name)
	d.streaming()
}

// TestLostRosterIsPublishedAgain deletes the roster by hand.
func TestLostRosterIsPublishedAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	r.start().streaming()
	name := r.cached("items", 1)
	redisDo(t, r.redisURL, "DEL", "f:"+r.namespace+":roster")
	testkit.Eventually(t, patience, func() error {
		if _, found, err := r.store.Roster(t.Context()); err != nil || !found {
			return fmt.Errorf("the roster is missing: %w", err)
		}
		return nil
	})
	if r.name("items", 1) != name {
		t.Error("names moved although only the roster was lost")
	}
	if n := r.said.count(again); n != 1 {
		t.Errorf("it was published again %d times, want once", n)
	}
}

// again is what is said of a roster that the store has lost.
const again = "publishing it again"

// TestRosterThatMovesWhileItIsRead has names move after the watch has read the roster and before it compares it: what it
// read is not the one that was lost.
func TestRosterThatMovesWhileItIsRead(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	applied, goOn := make(chan struct{}), make(chan struct{})
	r.observe = func(time.Time) {
		select {
		case applied <- struct{}{}:
			<-goOn
		default:
		}
	}
	d := r.start()
	d.streaming()
	name := r.name("items", 1)
	r.exec(`UPDATE items SET v = 'holds the applier up' WHERE id = 1`)
	<-applied
	// From here on the applier stands still, as it would in a batch that takes long, and names are about to move.
	r.exec(message(true, `not JSON`))
	end := r.insert()
	d.await("looked around, and so waiting for the applier", func(st pipeline.Status) bool { return st.Insert >= end })
	const reads = 500 * time.Millisecond // what the watch reads after that
	timer := time.NewTimer(reads)
	defer timer.Stop()
	<-timer.C
	close(goOn)
	r.moved(name)
	r.exec(`CREATE TABLE others (id int PRIMARY KEY)`)
	end = r.insert()
	d.await("looked around once more", func(st pipeline.Status) bool { return st.Insert >= end })
	if n := r.said.count(again); n != 0 {
		t.Errorf("a roster that was there was published again %d times", n)
	}
}

// TestRedisFromAnOldBackup brings Redis back from a state before a deletion that was already confirmed: within the
// rewind depth it is delivered again, beyond it a new generation begins. Either way the old value is not read for good.
func TestRedisFromAnOldBackup(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		rewind  apply.Rewind
		survive bool
	}{
		{"within the rewind depth", apply.Rewind{Time: time.Hour}, true},
		{"beyond the rewind depth", apply.Rewind{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			redis := redistest.Start(t)
			r := newRig(t, options{redis: redis, rewind: tt.rewind})
			d := r.start()
			generation := d.streaming().Generation
			name := r.cached("items", 1)
			redisDo(t, redis.URL, "SAVE")
			saved := r.head().Wc
			r.exec(`UPDATE items SET v = 'confirmed' WHERE id = 1`)
			r.gone(name)
			testkit.Eventually(t, patience, func() error {
				if r.head().Wc <= saved {
					return errNotYet
				}
				if !tt.survive && r.slotState().Confirmed <= saved {
					return errNotYet
				}
				return nil
			})
			redis.Kill(t)
			redis.Start(t)
			if !tt.survive {
				d.await("in a new generation", func(st pipeline.Status) bool { return st.Generation != generation && st.Gaps > 0 })
				d.streaming()
				if r.name("items", 1) == name {
					t.Error("the old name is still live")
				}
				return
			}
			r.gone(name)
			d.streaming()
			if got := r.head().Generation; got != generation {
				t.Errorf("a new generation began (%s) although the log reaches back", d.Status().LastGap)
			}
		})
	}
}
