package chaos

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/envelope"
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
	if count, texts := w.violations.read(); count != 0 {
		t.Fatalf("violations without a breach: %q", texts)
	}
	w.plantFalseValues()
	w.plantAtRest()
	w.endADaemon()
}

// caught commits a breach again and again, until the violations say all that they should.
func (w *world) caught(breach string, commit func() error, parts ...string) {
	w.t.Helper()
	defer w.violations.forget()
	testkit.Eventually(w.t, recovery, func() error {
		if err := commit(); err != nil {
			w.t.Fatalf("%s: %v", breach, err)
		}
		wait(w.t.Context(), 50*time.Millisecond)
		count, texts := w.violations.read()
		for _, text := range parts {
			if !w.violations.say(text) {
				return fmt.Errorf("%s: %d violations, none of them says %q: %q", breach, count, text, texts[:min(len(texts), 10)])
			}
		}
		return nil
	})
}

// plantFalseValues does what the usual cache-aside does: it has loaded rows, and stores them without asking when they
// have been superseded; and stores them with claims to contain what they do not.
func (w *world) plantFalseValues() {
	w.t.Helper()
	var old planted
	testkit.Eventually(w.t, recovery, func() (err error) { // a deadlock with other writers may undo it
		old, err = w.supersede(w.t.Context(), 1, 2)
		return err
	})
	plant := func(claimed fence.Coverage) func() error {
		return func() error { return w.plant(old, claimed) }
	}
	w.caught("cache-aside, judged by what was applied", plant(fence.Coverage{}), "item:1 through the library: ", "item:1 through the gateway: ",
		"through the application's library: ", " was applied", "item:1, witnessed as a hit: it does not say what it contains")

	w.applied.believe(false)
	w.ledger.mu.Lock()
	w.ledger.bound = 500 * time.Millisecond // and not wait for long
	w.ledger.mu.Unlock()
	now := time.Now()
	w.calm.Store(&now)
	w.caught("cache-aside, judged by a bound", plant(fence.Coverage{}), "nothing was broken")
	w.calm.Store(nil)
	w.applied.believe(true)

	// Values that claim to contain everything, so that no proof keeps them back.
	const all = mvcc.XID(1) << 60
	everything := fence.Coverage{Snapshot: mvcc.Snapshot{Xmin: all, Xmax: all}}
	w.caught("a false claim", plant(everything), "it was asked for by token", "it was asked for by a bound of", "it was a strict commit",
		"is said to contain")
	w.caught("a false claim, seen by a session", func() error {
		err := w.plant(old, everything)
		wait(w.t.Context(), 200*time.Millisecond)
		w.unplant(old)
		return errors.Join(err, w.rest(w.t.Context())) // sessions are judged at rest
	}, "session 0: ")
	w.caught("a replica's false claim", plant(fence.Coverage{Replay: 1 << 60}), "is said to contain")
	w.unplant(old) // or readers would go on reporting it
	w.violations.forget()
}

// plantAtRest plants where nobody writes any more, and what nobody reads with more than a plain read, which would have
// it loaded.
func (w *world) plantAtRest() {
	w.t.Helper()
	wrong := planted{"rate": {1: `{"code":1,"ratio":0}`}}
	w.caught("cache-aside, found at rest", func() error {
		w.writing.Lock()
		err := w.plant(wrong, fence.Coverage{})
		w.writing.Unlock()
		return errors.Join(err, w.rest(w.t.Context())) // unless a writer gets in between
	}, "stale: ", "verify: ")
	w.unplant(wrong)

	name := strings.Replace(w.name("item", 3), "item:3", "item:x", 1) // one that the daemon never deletes
	w.caught("a key that nobody reads", func() error {
		return errors.Join(w.do("SET", name, "f1 V - - - - - 0000000000000001\n{}"), w.rest(w.t.Context()))
	}, "nobody reads it")
}

// endADaemon ends one although nobody asked it to.
func (w *world) endADaemon() {
	w.t.Helper()
	if err := syscall.Kill(w.first().PID(), syscall.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
	w.caught("a daemon that ended", func() error {
		w.diedByThemselves()
		return nil
	}, "ended by itself")
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
func (w *world) name(entry string, id int64) string {
	w.t.Helper()
	roster, err := w.roster(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
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
	old = planted{"item": {}, "coded": {}, "sure": {}}
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
		old["item"][id], old["coded"][id], old["sure"][id] = item, coded, coded
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
	byCode, err := w.enclosing()
	if err != nil {
		return err
	}
	return w.each(rows, func(name, row string) error {
		record.Payload = []byte(row)
		if strings.Contains(name, ":coded:") {
			byCode.Data = record.Payload
			record.Payload = byCode.Append(nil)
		}
		return w.do("SET", name, string(record.Append(nil)), "EX", "3600")
	})
}

// enclosing is the envelope that the library puts a value of code into, without the value.
func (w *world) enclosing() (envelope.Envelope, error) {
	ctx := w.t.Context()
	for id := int64(1); id <= items; id++ {
		if _, err := w.library.read(ctx, "coded", id, &ask{}); err != nil {
			return envelope.Envelope{}, err
		}
		found := envelope.Envelope{}
		if err := w.each(planted{"coded": {id: ""}}, func(name, _ string) error {
			record, err := w.store.Get(ctx, name)
			found, _ = envelope.Open(record.Payload)
			return err
		}); err != nil || found.Codec != "" {
			return found, err
		}
	}
	return envelope.Envelope{}, errors.New("no value of code is cached")
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
