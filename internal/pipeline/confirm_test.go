package pipeline_test

import (
	"context"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/mvcc"
)

// applied waits until everything that was committed so far is confirmed.
func (r *rig) applied() {
	r.t.Helper()
	conn := r.connect()
	defer func() { _ = conn.Close(context.Background()) }()
	var text string
	if err := conn.QueryRow(r.t.Context(), `SELECT pg_current_wal_insert_lsn()::text`).Scan(&text); err != nil {
		r.t.Fatal(err)
	}
	end, err := mvcc.ParseLSN(text)
	if err != nil {
		r.t.Fatal(err)
	}
	r.exec(`SELECT pg_logical_emit_message(true, 'test', 'so that there is something behind it')`)
	testkit.Eventually(r.t, patience, func() error {
		if r.head().Wc < end {
			return errNotYet
		}
		return nil
	})
}

// TestConfirmKeepsWhatContainsTheChange changes two rows while no daemon runs, and caches one of them anew. The change
// that is confirmed afterwards is in that value already.
func TestConfirmKeepsWhatContainsTheChange(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	d := r.start()
	d.streaming()
	renewed, old := r.cached("items", 1), r.cached("items", 2)
	d.stop()
	r.exec(`UPDATE items SET v = 'changed' WHERE id IN (1, 2)`)
	if again := r.cached("items", 1); again != renewed {
		t.Fatalf("the name moved from %s to %s", renewed, again)
	}
	d = r.start()
	d.streaming()
	r.applied()
	r.gone(old)
	if !r.present(renewed) {
		t.Error("a value that contains the change was removed")
	}
	if kept := d.Stats().Kept.Load(); kept == 0 {
		t.Error("it was not counted as kept")
	}
}

// TestLeaseOutlivesAConfirm has a load begin before a change and another one after it, both under one lease: the first
// cannot be stored, the second can.
func TestLeaseOutlivesAConfirm(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	r.start().streaming()
	name, tok := r.name("items", 1), token()
	reply, err := r.store.Lease(t.Context(), name, tok, 10*time.Second)
	if err != nil || !reply.Granted {
		t.Fatalf("Lease() = %+v, %v", reply, err)
	}
	conn := r.connect()
	defer func() { _ = conn.Close(context.Background()) }()
	before, old := r.load(conn, "items", 1)
	r.exec(`UPDATE items SET v = 'changed' WHERE id = 1`)
	r.applied()
	after, young := r.load(conn, "items", 1)
	for _, load := range []struct {
		value string
		seen  fence.Coverage
		want  fence.FillOutcome
	}{{before, old, fence.NotCovering}, {after, young, fence.Filled}} {
		got, err := r.store.Fill(t.Context(), name, redisstore.FillRequest{
			Token: tok, Coverage: load.seen, State: fence.Live, Payload: []byte(load.value), TTL: time.Hour,
		})
		if err != nil || got != load.want {
			t.Errorf("Fill(%q) = %v, %v, want %v", load.value, got, err, load.want)
		}
	}
}

// TestBulkTakesLeasesAway is the same for a transaction of many rows, whose keys are unlinked: no load that began before
// it can be stored, whatever it saw.
func TestBulkTakesLeasesAway(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	d := r.start()
	d.streaming()
	r.exec(`INSERT INTO items SELECT g, 'many' FROM generate_series(1000, 1200) g`)
	r.applied()
	conn := r.connect()
	defer func() { _ = conn.Close(context.Background()) }()
	name := r.name("items", 1000)
	for range 10 {
		cached, tok := r.cached("items", 1001), token()
		reply, err := r.store.Lease(t.Context(), name, tok, 10*time.Second)
		if err != nil || !reply.Granted {
			t.Fatalf("Lease() = %+v, %v", reply, err)
		}
		r.exec(`UPDATE items SET v = v || 'changed' WHERE id >= 1000`)
		r.applied()
		r.gone(cached)
		value, seen := r.load(conn, "items", 1000)
		got, err := r.store.Fill(t.Context(), name, redisstore.FillRequest{
			Token: tok, Coverage: seen, State: fence.Live, Payload: []byte(value), TTL: time.Hour,
		})
		if err == nil && got == fence.NoLease {
			return
		}
		// The applier may have come by when the first few rows had been delivered, which are not many.
		if err != nil || got != fence.Filled {
			t.Fatalf("Fill() = %v, %v, want %v", got, err, fence.NoLease)
		}
	}
	t.Error("what many rows affect was never done in bulk")
}
