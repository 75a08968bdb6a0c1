// Package freshettest is a cache for unit tests: the same API as in production, without PostgreSQL, Redis or a daemon. A test sets
// the rows that a database would have, reads through a [freshet.Cache], and decides when changes arrive.
//
// It is no imitation of freshet. Reads take the real read path; the store in memory decides by the rules that the scripts in Redis
// obey; a change goes through INTENT, CONFIRM and ADVANCE as one from the log does. What is simulated is the database: rows that
// are looked up by their key, with transaction ids, snapshots and positions of a log. SQL is not run. So it shows how code behaves
// when a value is cached, invalidated, late, refused or not to be had, and not which changes affect which keys: that is what
// freshet explain and freshet verify are for.
//
// Nor does anybody know the types of parameters here, which a daemon finds in the catalog. A key's parts are given in the Go types with which the
// code under test reads them: to a World "042" is another key than 42, and a time in one zone another than the same in another zone.
//
// What the code under test invalidates by hand arrives too. [freshet.Cache.AllReading] means the entries that name the table, in depends_on, in functions or in
// the text of their query: one that reads it through a view is not among them.
package freshettest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/intent"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/memstore"
	"github.com/freshet/freshet/internal/parts"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/sqlparam"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/mvcc"
)

const (
	namespace  = "test"
	generation = "00000000000000aa"
	system     = "7000000000000000001"
	timeline   = 1
	revision   = 1
)

// Options say what New makes. The zero Options read ./freshet.yaml.
type Options struct {
	// Config is the path of the configuration file, of which only defaults and entries matter: servers need not be there, nor
	// the variables that name them be set. Default: freshet.yaml in the current directory.
	Config string
	// Logger gets what the cache says. Default: none.
	Logger *slog.Logger
}

// World is a cache, the rows that it reads, and the way by which changes of these come to it. Its methods may be called from any
// number of goroutines; those that fail a test are called by the test's own.
type World struct {
	// Cache is what the code under test is given.
	Cache *freshet.Cache

	tb      testing.TB
	file    *config.Config
	roster  *rule.Roster
	rows    *rows
	store   *keeper
	mu      sync.Mutex // of what follows: one change is delivered at a time
	conn    *memstore.Conn
	wc      mvcc.LSN
	late    bool
	pending []change
}

// change is a committed transaction that affects keys.
type change struct {
	stamp  fence.Stamp
	names  []string
	epochs []string
	whole  []*rule.Entry // of which every key is affected
}

// New makes a World without rows, in which changes arrive at once. It ends with the test.
func New(tb testing.TB, o Options) *World {
	tb.Helper()
	file, err := config.LoadForTests(cmp.Or(o.Config, config.DefaultFile), os.LookupEnv)
	if err != nil {
		tb.Fatalf("freshettest: %v", err)
	}
	memory := memstore.New(memstore.Options{Namespace: namespace})
	conn, err := memory.Connect(tb.Context())
	if err != nil {
		tb.Fatalf("freshettest: %v", err)
	}
	w := &World{tb: tb, file: file, conn: conn, rows: newRows(), roster: &rule.Roster{
		Format: rule.RosterFormat, Generation: generation, Term: string(term()), Revision: revision, Entries: map[string]*rule.Entry{},
	}}
	w.store = &keeper{Store: memory, world: w}
	w.rows.emit = w.emitted
	if err := w.begin(tb.Context()); err != nil {
		tb.Fatalf("freshettest: %v", err)
	}
	ctx := parts.With(tb.Context(), parts.Parts{Config: file, Namespace: namespace, Store: w.store, Loader: w.rows})
	if w.Cache, err = freshet.Open(ctx, freshet.Options{Logger: o.Logger}); err != nil {
		tb.Fatalf("freshettest: %v", err)
	}
	tb.Cleanup(w.Cache.Close)
	return w
}

func term() fence.Term { return fence.NewTerm(timeline, 1) }

// begin does what a daemon does that starts: a generation, and a roster with every entry live.
func (w *World) begin(ctx context.Context) error {
	for _, declared := range w.file.Declared() {
		template, err := rule.ParseTemplate(declared.Key)
		if err != nil {
			return fmt.Errorf("entry %s: %w", declared.Name, err)
		}
		e := &rule.Entry{
			Name: declared.Name, Definition: declared.Digest(), Activation: store.Draw(), Key: declared.Key, Result: declared.Result, Declared: &declared,
			Tags: declared.Tags,
		}
		for _, name := range template.Params() {
			e.Params = append(e.Params, rule.Param{Name: name}) // without a type: no catalog says one
		}
		if declared.Query != "" {
			rewritten, err := sqlparam.Rewrite(declared.Query, template.Params())
			if err != nil {
				return fmt.Errorf("entry %s: %w", declared.Name, err)
			}
			e.SQL = rewritten.SQL
		}
		e.Version = e.Hash()
		w.roster.Entries[e.Name] = e
	}
	snapshot, _, end := w.rows.now()
	w.wc = end
	head := fence.Head{
		Generation: generation, Term: term(), System: system, Timeline: timeline, Publication: "test",
		Wi: end, Wc: end, Si: snapshot, Sa: snapshot,
	}
	if err := w.conn.NewGeneration(ctx, head); err != nil {
		return err
	}
	if err := w.conn.DrawTick(ctx); err != nil {
		return err
	}
	return w.conn.Move(ctx, w.expected(), w.roster.Text(), revision, "test")
}

func (w *World) expected() store.Expected {
	return store.Expected{Generation: generation, Term: term(), Wc: w.wc}
}

// entry is an entry and the arguments of one of its keys.
func (w *World) entry(name string, key []any) (*rule.Entry, []keytext.Arg) {
	w.tb.Helper()
	e := w.roster.Entries[name]
	if e == nil {
		w.tb.Fatalf("freshettest: the configuration declares no entry %q", name)
	}
	if len(key) != len(e.Params) {
		w.tb.Fatalf("freshettest: entry %s has %d parameters in its key %s, and %d were given", name, len(e.Params), e.Key, len(key))
	}
	args := make([]keytext.Arg, len(key))
	for i := range key {
		args[i] = keytext.Untyped(key[i])
	}
	return e, args
}

// name is the name of a key in the store.
func (w *World) name(e *rule.Entry, args []keytext.Arg) string {
	w.tb.Helper()
	template, err := rule.ParseTemplate(e.Key)
	if err != nil {
		w.tb.Fatalf("freshettest: entry %s: %v", e.Name, err)
	}
	return string(template.Append([]byte(rule.KeyPrefix(namespace, generation, e)), args))
}

// Set is a transaction that commits a row: what loading the key finds from now on, as JSON. The key's parts are in the order of the
// entry's key template, and of the types with which it is read: "042" is another key than 42. The change arrives at the cache at once, or when it is late (see [World.Late]) later. The token names the
// transaction.
//
// Of an entry that application code loads, the code says what is found; Set is then a change that affects the key.
func (w *World) Set(entry string, value any, key ...any) freshet.Token {
	w.tb.Helper()
	payload, err := json.Marshal(value)
	if err != nil {
		w.tb.Fatalf("freshettest: entry %s: %v", entry, err)
	}
	return w.change(entry, payload, key)
}

// Delete is a transaction that removes a row: loading the key finds nothing from now on, or an empty array.
func (w *World) Delete(entry string, key ...any) freshet.Token {
	w.tb.Helper()
	return w.change(entry, nil, key)
}

func (w *World) change(entry string, payload []byte, key []any) freshet.Token {
	w.tb.Helper()
	e, args := w.entry(entry, key)
	stamp := w.rows.set(e.SQL, args, payload)
	return w.committed(change{stamp: stamp, names: []string{w.name(e, args)}})
}

// Invalidate is a transaction that affects a key and leaves what loading it finds: as one that writes a table which the key depends
// on, or names the key itself.
func (w *World) Invalidate(entry string, key ...any) freshet.Token {
	w.tb.Helper()
	e, args := w.entry(entry, key)
	return w.committed(change{stamp: w.rows.commit(), names: []string{w.name(e, args)}})
}

// emitted is a transaction of the cache's own, which names keys, tags, and what is more than single keys.
func (w *World) emitted(messages []byte) (mvcc.Token, error) {
	w.tb.Helper()
	var all []json.RawMessage
	if err := json.Unmarshal(messages, &all); err != nil {
		return mvcc.Token{}, fmt.Errorf("freshettest: intents: %w", err)
	}
	var names, epochs []string
	var whole []*rule.Entry
	for _, text := range all {
		m, err := intent.Parse(text)
		if err != nil {
			return mvcc.Token{}, fmt.Errorf("freshettest: intent: %w", err)
		}
		if m.Scope == intent.OfTags {
			some, err := w.tagged(&m)
			if err != nil {
				return mvcc.Token{}, fmt.Errorf("freshettest: intent %s: %w", text, err)
			}
			epochs = append(epochs, some...)
			continue
		}
		entries, all, err := w.named(&m)
		if err != nil {
			return mvcc.Token{}, fmt.Errorf("freshettest: intent %s: %w", text, err)
		}
		if whole = append(whole, entries...); all {
			continue
		}
		e := w.roster.Entries[m.Entry]
		if e == nil {
			return mvcc.Token{}, fmt.Errorf("freshettest: intent %s: the configuration declares no entry %q", text, m.Entry)
		}
		for args, err := range m.Keys() {
			if err != nil {
				return mvcc.Token{}, fmt.Errorf("freshettest: intent %s: %w", text, err)
			}
			names = append(names, w.name(e, args))
		}
	}
	return w.committed(change{stamp: w.rows.commit(), names: names, epochs: epochs, whole: whole}), nil
}

func (w *World) committed(c change) freshet.Token {
	w.tb.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending = append(w.pending, c)
	if !w.late {
		w.deliver()
	}
	return freshet.Token{System: system, Timeline: timeline, XID: c.stamp.XID, After: c.stamp.End}
}

// Late holds changes back from now on: they are committed, and loads see them, but the cache does not know of them yet. Until
// [World.Deliver] a cached value stays a hit, unless the read asks for more than that: a token, a session or a bound.
func (w *World) Late() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.late = true
}

// Deliver has what was held back arrive, in the order of the commits, and changes arrive at once again.
func (w *World) Deliver() {
	w.tb.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.late = false
	w.deliver()
}

// deliver applies what is pending as the daemon does: the floors rise, the keys are confirmed, and then HEAD advances.
func (w *World) deliver() {
	w.tb.Helper()
	for _, c := range w.pending {
		snapshot, _, _ := w.rows.now()
		b := store.Batch{Expect: w.expected(), Wi: c.stamp.End, Si: snapshot, Advance: c.stamp.End, Epochs: c.epochs}
		names := slices.Clone(c.names)
		for _, e := range c.whole {
			names = append(names, w.held(e)...)
		}
		slices.Sort(names)
		for _, name := range slices.Compact(names) {
			b.Keys = append(b.Keys, store.Stamped{Name: name, Stamps: []fence.Stamp{c.stamp}})
		}
		if _, err := w.conn.Apply(context.Background(), b); err != nil {
			w.tb.Errorf("freshettest: deliver a change: %v", err)
		}
		w.wc = c.stamp.End
	}
	w.pending = nil
}

// vouch has HEAD vouch for all that is committed, as of a count of the readers', unless something is held back.
func (w *World) vouch(ctx context.Context, tick fence.Tick) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.late {
		return nil
	}
	snapshot, _, _ := w.rows.now()
	_, err := w.conn.Apply(ctx, store.Batch{
		Expect: w.expected(), Wi: w.wc, Si: snapshot, Advance: w.wc, Sa: snapshot, Ticks: fence.Ticks{tick},
	})
	return err
}

// DuringLoad has do run during the next load, once that has read its row and before the row is stored: what do changes overtakes
// the load, whose value is then given to its reader and not stored.
func (w *World) DuringLoad(do func()) { w.rows.overtake(do) }

// DatabaseDown has every load fail, or not any more.
func (w *World) DatabaseDown(down bool) { w.rows.down.Store(down) }

// StoreDown has the store not answer, or answer again: then reads go to the database. Changes that come while it is down arrive
// all the same.
func (w *World) StoreDown(down bool) { w.store.down.Store(down) }
