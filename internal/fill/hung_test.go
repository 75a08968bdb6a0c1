package fill_test

import (
	"context"
	"errors"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/mvcc"
)

// hung is a transaction whose COMMIT hangs in synchronous replication: the log has it, and no other session sees it.
type hung struct {
	w     *world
	stamp fence.Stamp // what the log says of it
	pid   uint32
	done  chan error
}

// hang has a statement's COMMIT hang, and every one after it whose session does not say otherwise.
func (w *world) hang(statement string) *hung {
	w.t.Helper()
	w.pg.Exec(w.t, w.url, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()")
	// The setting has arrived when a commit hangs, which another process of the server decides than any session.
	eventually(w.t, func() error {
		probe := w.commit("SELECT pg_logical_emit_message(true, 'probe', '')")
		if !probe.hangs() {
			return errors.New("a commit does not hang yet")
		}
		probe.shows()
		return nil
	})
	h := w.commit(statement)
	if !h.hangs() {
		w.t.Fatal("COMMIT does not hang")
	}
	_, h.stamp.End = w.gate() // nothing else writes
	return h
}

// commit begins to commit a statement.
func (w *world) commit(statement string) *hung {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	h := &hung{w: w, pid: conn.PgConn().PID(), done: make(chan error, 1)}
	if _, err := conn.Exec(w.t.Context(), "BEGIN"); err != nil {
		w.t.Fatal(err)
	}
	if _, err := conn.Exec(w.t.Context(), statement); err != nil {
		w.t.Fatal(err)
	}
	h.stamp.XID = xid(w.t, conn)
	go func() {
		_, err := conn.Exec(context.WithoutCancel(w.t.Context()), "COMMIT")
		h.done <- errors.Join(err, conn.Close(context.Background()))
	}()
	return h
}

// hangs waits until COMMIT waits for a standby, or has returned.
func (h *hung) hangs() (hangs bool) {
	h.w.t.Helper()
	eventually(h.w.t, func() error {
		select {
		case err := <-h.done:
			return err
		default:
		}
		var waits string
		err := h.w.db.QueryRow(h.w.t.Context(), "SELECT coalesce((SELECT wait_event FROM pg_stat_activity WHERE pid = $1), '')", h.pid).Scan(&waits)
		if hangs = waits == "SyncRep"; err == nil && !hangs {
			err = errors.New("COMMIT neither waits nor returns")
		}
		return err
	})
	return hangs
}

type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// xid is the id of the transaction that a session is in.
func xid(t *testing.T, session querier) mvcc.XID {
	t.Helper()
	var text string
	if err := session.QueryRow(t.Context(), "SELECT pg_current_xact_id()::text").Scan(&text); err != nil {
		t.Fatal(err)
	}
	x, err := mvcc.ParseXID(text)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// shows ends the wait: the transaction becomes visible.
func (h *hung) shows() {
	h.w.t.Helper()
	h.w.pg.Exec(h.w.t, h.w.url, "SELECT pg_cancel_backend("+strconv.FormatUint(uint64(h.pid), 10)+")")
	if err := <-h.done; err != nil {
		h.w.t.Fatal(err)
	}
}

// early is what the daemon does when the log delivers a transaction.
func (w *world) early(name string, stamps ...fence.Stamp) {
	w.t.Helper()
	if _, err := w.daemon.Early(w.t.Context(), []redisstore.Stamped{{Name: name, Stamps: stamps}}); err != nil {
		w.t.Fatal(err)
	}
}

// TestDeliveredBeforeVisible has the log deliver a change that the database does not show yet, and a reader come in
// between, in three ways.
func TestDeliveredBeforeVisible(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownPostgres: true})
	v := newValve()
	slowly, r := w.reader(nil, &slow{Loader: w.loader, after: v.pass}), w.reader(nil, nil)
	h := w.hang("UPDATE product SET price = 11 WHERE id <= 3")

	// T3: the primary's log is flushed past the end of the commit, and the row is the old one, in one statement.
	var past bool
	var row int
	err := w.db.QueryRow(t.Context(), "SELECT pg_current_wal_flush_lsn() >= $1::pg_lsn, price FROM product WHERE id = 1", h.stamp.End.String()).
		Scan(&past, &row)
	if err != nil || !past || row != 10 {
		t.Fatalf("the log is past the commit: %v, and the price %d, %v: this test shows nothing", past, row, err)
	}
	// T2: a load under a lease from after the delivery.
	w.early(w.name("product", "1"), h.stamp)
	old := background(t.Context(), slowly, "1")
	<-v.reached
	// What would come of it if the delivery were taken for the time to confirm: key 2 is confirmed too early.
	w.confirm(w.name("product", "2"))
	read(t, r, 2, fill.Miss, price(2, 20))
	// T7: the fence that was left at the delivery is evicted, and somebody fills.
	w.early(w.name("product", "3"), h.stamp)
	if err := w.raw.Do(t.Context(), w.raw.B().Del().Key(w.name("product", "3")).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	read(t, r, 3, fill.Miss, price(3, 30))
	read(t, r, 3, fill.Hit, price(3, 30))

	h.shows()
	close(v.open)
	if a := <-old; a.err != nil || a.value.Reason != "not_covering" {
		t.Errorf("T2: the load from before the commit was visible got %+v, %v", a.value, a.err)
	}
	read(t, r, 2, fill.Hit, price(2, 20)) // stale, and HEAD says it is not: this is what waiting for visibility prevents
	read(t, r, 3, fill.Hit, price(3, 30)) // not confirmed yet
	w.confirm(w.name("product", "1"), w.name("product", "3"))
	read(t, r, 1, fill.Miss, price(1, 11))
	read(t, r, 3, fill.Miss, price(3, 11))
}

// TestFenceOfOneTransaction is T4 and T5: of two transactions that affect a key, the later one, by id and by its place in
// the log, is visible, and the earlier one is not. A load has to cover both.
func TestFenceOfOneTransaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownPostgres: true})
	r := w.reader(nil, nil)
	first := w.hang("UPDATE product SET price = 100 WHERE id = 1")
	conn, err := pgx.Connect(t.Context(), w.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(t.Context(), "BEGIN; SET LOCAL synchronous_commit = local; UPDATE product SET price = 100 WHERE id = 2"); err != nil {
		t.Fatal(err)
	}
	later := fence.Stamp{XID: xid(t, conn)}
	if _, err := conn.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	snapshot, end := w.gate()
	later.End = end
	if snapshot.Sees(first.stamp.XID) || !snapshot.Sees(later.XID) || later.XID < first.stamp.XID {
		t.Fatalf("%s sees %v and not %v: this test shows nothing", snapshot, first.stamp, later)
	}
	keys := []struct {
		than   string
		fences []fence.Stamp
		reason string
		reads  string // once everything is visible, and nothing confirmed
	}{
		{"25", []fence.Stamp{first.stamp, later}, "not_covering", `[]`},
		{"26", []fence.Stamp{later}, "", `[{"id":1}]`}, // a fence of the highest id, or of the last: it stays stale
	}
	for _, k := range keys {
		w.early(w.name("cheaper", k.than), k.fences...)
		v, err := r.Get(t.Context(), "cheaper", arg(k.than), nil)
		if err != nil || string(v.Payload) != `[{"id":1}]` || v.Reason != k.reason {
			t.Errorf("cheaper than %s: %s %+v, %v", k.than, v.Payload, v, err)
		}
	}
	first.shows()
	for _, k := range keys {
		v, err := r.Get(t.Context(), "cheaper", arg(k.than), nil)
		if err != nil || string(v.Payload) != k.reads {
			t.Errorf("cheaper than %s, all visible: %s %+v, %v", k.than, v.Payload, v, err)
		}
	}
}
