package chaos

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/mvcc"
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
				t.Errorf("%s: %d violations, none of them says %q: %q", breach, count, text, texts[:min(len(texts), 10)])
			}
		}
		w.violations.forget()
	}
	if count, texts := w.violations.read(); count != 0 {
		t.Fatalf("violations without a breach: %q", texts)
	}

	// The usual cache-aside: readers that have loaded rows, and store them without asking when they have been superseded.
	var old planted
	testkit.Eventually(t, recovery, func() (err error) { // a deadlock with other writers may undo it
		old, err = w.supersede(t.Context(), 1, 2)
		return err
	})
	w.plantWhile(old, fence.Coverage{}, func() {})
	want("cache-aside, judged by what was applied", "item:1 through the ", "item:1, witnessed as a hit: it does not say what it contains")
	w.plantWhile(old, fence.Coverage{}, func() {
		w.applied.believe(false)
		w.ledger.mu.Lock()
		w.ledger.bound = 500 * time.Millisecond // and not wait for long
		w.ledger.mu.Unlock()
		now := time.Now()
		w.calm.Store(&now)
	})
	w.calm.Store(nil)
	w.applied.believe(true)
	want("cache-aside, judged by a bound", "item:1 through the ")

	// Values that claim to contain everything, which no proof would let pass otherwise.
	const all = mvcc.XID(1) << 60
	w.plantWhile(old, fence.Coverage{Snapshot: mvcc.Snapshot{Xmin: all, Xmax: all}}, func() {})
	w.unplant(old)
	if err := w.rest(t.Context()); err != nil {
		t.Fatal(err)
	}
	want("a false claim", "it was asked for by token", "it was asked for by a bound of", "it was a strict commit", "session ", "is said to contain")
	w.plantWhile(old, fence.Coverage{Replay: 1 << 60}, func() {})
	want("a replica's false claim", "is said to contain")

	// The same, where nobody writes any more, to what nobody reads with more than a plain read: that would have it loaded.
	w.unplant(old)
	w.violations.forget()
	old = planted{"rate": {1: `{"code":1,"ratio":0}`}}
	const tries = 5 // a writer may get in between
	for range tries {
		w.writing.Lock()
		err := w.plant(old, fence.Coverage{})
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
	w.unplant(old) // or readers would go on reporting it
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

// plantWhile stores rows again and again for a while, as many such readers would.
func (w *world) plantWhile(rows planted, claimed fence.Coverage, begin func()) {
	w.t.Helper()
	const while = 2 * time.Second
	begin()
	for end := time.Now().Add(while); time.Now().Before(end); {
		if err := w.plant(rows, claimed); err != nil {
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

// planted are rows to be stored, by entry and item.
type planted map[string]map[int64]string

// supersede returns items as they were before a change that is then committed.
func (w *world) supersede(ctx context.Context, ids ...int64) (old planted, err error) {
	conn, err := w.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback(ctx)
	old = planted{"item": {}, "coded": {}}
	changed := map[int64]change{}
	for _, id := range ids {
		for _, sql := range []string{
			"SELECT pg_advisory_xact_lock($1)", "INSERT INTO items VALUES ($1, 'planted', 1, 1, nextval('versions')) ON CONFLICT DO NOTHING",
		} {
			if _, err := tx.Exec(ctx, sql, id); err != nil {
				return nil, err
			}
		}
		var item, coded string
		if err := tx.QueryRow(ctx, `SELECT row_to_json(q)::text, '{"id":' || id || ',"v":' || v || '}' FROM
			(SELECT id, name, price, v FROM items WHERE id = $1) q`, id).Scan(&item, &coded); err != nil {
			return nil, err
		}
		old["item"][id], old["coded"][id] = item, coded
		var version int64
		if err := tx.QueryRow(ctx, "UPDATE items SET v = nextval('versions') WHERE id = $1 RETURNING v", id).Scan(&version); err != nil {
			return nil, err
		}
		changed[id] = change{version: version, exists: true}
	}
	var text string
	if err := tx.QueryRow(ctx, freshet.TokenSQL).Scan(&text); err != nil {
		return nil, err
	}
	o := outcome{committed: true, strict: true}
	if o.token, err = freshet.ParseToken(text); err != nil {
		return nil, err
	}
	if err := tx.Commit(ctx); err != nil {
		return nil, err
	}
	if o.end, err = endOfLog(ctx, conn); err != nil {
		return nil, err
	}
	w.ledger.over(nil, changed, o)
	return old, nil
}

// plant stores rows under live names, against the protocol.
func (w *world) plant(rows planted, claimed fence.Coverage) error {
	record := fence.Record{State: fence.Live, Filled: time.Now().UnixMicro(), Coverage: claimed}
	return w.each(rows, func(name, row string) error {
		record.Payload = []byte(row)
		return w.do("SET", name, string(record.Append(nil)), "EX", "3600")
	})
}

// unplant takes them away.
func (w *world) unplant(rows planted) {
	w.t.Helper()
	if err := w.each(rows, func(name, _ string) error { return w.do("UNLINK", name) }); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) each(rows planted, do func(name, row string) error) error {
	roster, err := w.roster(w.t.Context())
	if err != nil {
		return err
	}
	for entry, byID := range rows {
		for id, row := range byID {
			if err := do(rule.KeyPrefix(namespace, roster.Generation, roster.Entries[entry])+keyOf(entry, id), row); err != nil {
				return err
			}
		}
	}
	return nil
}
