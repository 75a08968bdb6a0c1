package chaos

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/testkit"
)

// TestChaosCatchesBreaches plants what the protocol is there to prevent, and wants each check to report it.
//
//nolint:paralleltest // it measures times, and needs the machine for itself
func TestChaosCatchesBreaches(t *testing.T) {
	w := newWorld(t, seedOf(t))
	w.serve()
	if err := w.whole(t.Context()); err != nil {
		t.Fatalf("the daemon does not start: %v", err)
	}
	stop := w.load()
	defer stop()
	if err := w.rest(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := func(breach string, parts ...string) {
		t.Helper()
		count, texts := w.violations.read()
		for _, text := range parts {
			if !w.violations.say(text) {
				t.Errorf("%s: %d violations, none of them says %q: %q", breach, count, text, texts)
			}
		}
		w.violations.forget()
	}
	if count, texts := w.violations.read(); count != 0 {
		t.Fatalf("violations without a breach: %q", texts)
	}

	// The usual cache-aside: a reader that has loaded a row, and stores it without asking when it has been superseded.
	old, err := w.supersede(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	w.plantWhile(old, func() {})
	want("cache-aside, judged by what was applied", "item:1 through the ", "item:1, witnessed as a hit: it does not say what it contains")
	w.plantWhile(old, func() {
		w.applied.believe(false)
		w.ledger.mu.Lock()
		w.ledger.bound = 500 * time.Millisecond // and not wait for long
		w.ledger.mu.Unlock()
		now := time.Now()
		w.calm.Store(&now)
	})
	w.calm.Store(nil)
	want("cache-aside, judged by a bound", "item:1 through the ")

	// The same, where nobody writes any more.
	const tries = 5 // a writer may get in between
	for range tries {
		w.writing.Lock()
		err := w.plant(1, old)
		w.writing.Unlock()
		if err == nil {
			err = w.rest(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		if w.violations.say("stale: ") {
			break
		}
	}
	if err := w.do("UNLINK", w.name(t, "item", 1)); err != nil { // or readers would go on reporting it
		t.Fatal(err)
	}
	want("cache-aside, found at rest", "stale: ", "verify: ")

	// A record under a name that the daemon never deletes, and a daemon that ends.
	if err := w.do("SET", strings.Replace(w.name(t, "item", 3), "item:3", "item:x", 1), "f1 V - - - - - 0000000000000001\n{}"); err != nil {
		t.Fatal(err)
	}
	if err := w.rest(t.Context()); err != nil {
		t.Fatal(err)
	}
	want("a key that nobody reads", "nobody reads it")
	// Nobody of the test asked for this one's end.
	if err := syscall.Kill(w.first().PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, recovery, func() error {
		w.diedByThemselves()
		// Readers may still be reporting what was planted before.
		if !w.violations.say("ended by itself") {
			return errors.New("the daemon's end was not noticed")
		}
		return nil
	})
	want("a daemon that ended", "ended by itself")
}

// plantWhile stores a row again and again for a while, as many such readers would.
func (w *world) plantWhile(row string, begin func()) {
	w.t.Helper()
	const while = 2 * time.Second
	begin()
	for end := time.Now().Add(while); time.Now().Before(end); {
		if err := w.plant(1, row); err != nil {
			w.t.Fatal(err)
		}
		wait(w.t.Context(), 50*time.Millisecond)
	}
}

// say reports whether a text is in the list.
func (v *violations) say(text string) bool {
	_, texts := v.read()
	return strings.Contains(strings.Join(texts, "\n"), text)
}

// forget makes the list empty.
func (v *violations) forget() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.count, v.texts = 0, nil
	clear(v.said)
}

// name is the name of a record.
func (w *world) name(t *testing.T, entry string, id int64) string {
	t.Helper()
	roster, err := w.roster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return rule.KeyPrefix(namespace, roster.Generation, roster.Entries[entry]) + keyOf(entry, id)
}

// supersede returns an item as it was before a change that is then committed.
func (w *world) supersede(ctx context.Context, id int64) (old string, err error) {
	conn, err := w.connect(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(ctx) }()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return "", err
	}
	defer tx.Rollback(ctx)
	for _, sql := range []string{
		"SELECT pg_advisory_xact_lock($1)", "INSERT INTO items VALUES ($1, 'planted', 1, 1, nextval('versions')) ON CONFLICT DO NOTHING",
	} {
		if _, err := tx.Exec(ctx, sql, id); err != nil {
			return "", err
		}
	}
	if err := tx.QueryRow(ctx, `SELECT row_to_json(q)::text FROM (SELECT id, name, price, v FROM items WHERE id = $1) q`, id).Scan(&old); err != nil {
		return "", err
	}
	var version int64
	if err := tx.QueryRow(ctx, "UPDATE items SET v = nextval('versions') WHERE id = $1 RETURNING v", id).Scan(&version); err != nil {
		return "", err
	}
	xid, err := transactionID(ctx, tx)
	if err != nil {
		return "", err
	}
	if err := tx.Commit(ctx); err != nil {
		return "", err
	}
	end, err := endOfLog(ctx, conn)
	if err != nil {
		return "", err
	}
	w.ledger.over(nil, map[int64]change{id: {version: version, exists: true}}, xid, end)
	return old, nil
}

// plant stores a row under an item's live name, against the protocol.
func (w *world) plant(id int64, row string) error {
	roster, err := w.roster(w.t.Context())
	if err != nil {
		return err
	}
	record := fence.Record{State: fence.Live, Filled: time.Now().UnixMicro(), Payload: []byte(row)}
	return w.do("SET", rule.KeyPrefix(namespace, roster.Generation, roster.Entries["item"])+keyOf("item", id), string(record.Append(nil)))
}
