package soundness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgcatalog"
	"github.com/freshet/freshet/internal/pgsource"
	"github.com/freshet/freshet/internal/plan"
	"github.com/freshet/freshet/internal/route"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/internal/sqlparam"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/plantest"
)

const (
	marker         = "soundness"
	shortRun       = 8 * time.Second
	round          = 20 * time.Second // then other random queries are watched
	grace          = 90 * time.Second // for a slow machine to notice the planted mistakes
	randomAccepted = 24               // random queries in a round
	canonicalEvery = 16               // transactions
	patience       = 30 * time.Second
)

// TestSoundness compares the result of every watched key before and after each of many random transactions with what
// the rules say of the real log. Every key whose result changed has to be named. The planted mistakes, which route the
// same log, have to miss some: otherwise the test would not notice them in the product either.
//
// SOUNDNESS=long makes it run for SOUNDNESS_TIME; SEED repeats a run.
func TestSoundness(t *testing.T) {
	t.Parallel()
	seed, limit := settings(t)
	totals := &tally{missed: map[string]int{}}
	t.Cleanup(func() { totals.report(t, seed) })
	for i, identity := range []struct{ name, ddl string }{{"full", identityFull}, {"minimal", identityMinimal}} {
		t.Run("identity "+identity.name, func(t *testing.T) {
			t.Parallel()
			end := time.Now().Add(limit)
			for n := uint64(0); n == 0 || time.Now().Before(end); n++ {
				t.Run(fmt.Sprintf("round %d", n), func(t *testing.T) {
					h := newHarness(t, identity.ddl, rand.New(rand.NewPCG(seed, n<<1|uint64(i))))
					h.run(min(round, time.Until(end)))
					totals.add(t, h)
				})
			}
		})
	}
}

func settings(t *testing.T) (seed uint64, limit time.Duration) {
	t.Helper()
	seed, limit = rand.Uint64(), shortRun
	var err error
	if s := os.Getenv("SEED"); s != "" {
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("SEED: %v", err)
		}
	}
	if s := os.Getenv("SOUNDNESS_TIME"); s != "" && os.Getenv("SOUNDNESS") == "long" {
		if limit, err = time.ParseDuration(s); err != nil {
			t.Fatalf("SOUNDNESS_TIME: %v", err)
		}
	}
	return seed, limit
}

// tally counts what all rounds saw.
type tally struct {
	mu                                                   sync.Mutex
	entries, refused, transactions, changed, named, hits int
	missed                                               map[string]int // by variant
}

func (c *tally) add(t *testing.T, h *harness) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries += len(h.entries)
	c.refused += h.refused
	c.transactions += h.transactions
	c.changed += h.changed
	c.named += h.named
	c.hits += h.hits
	for i, v := range h.variants {
		c.missed[v.name] += h.missed[i]
	}
	for _, e := range h.examples {
		t.Errorf("missed: %s", e)
	}
}

// report writes the last lines. It is the end of the test, after all rounds.
func (c *tally) report(t *testing.T, seed uint64) {
	t.Helper()
	for name, missed := range c.missed {
		if name == product {
			continue
		}
		t.Logf("planted: %s: missed %d", name, missed)
		if missed == 0 {
			t.Errorf("the planted mistake %q was not noticed", name)
		}
	}
	if c.changed == 0 {
		t.Error("no result changed: nothing was tested")
	}
	if c.missed[product] > 0 {
		t.Errorf("repeat with SEED=%d", seed)
	}
	t.Logf("%d entries, %d random queries refused, seed %d, transactions %d, changed %d, invalidated %d, precision %.1f%%\nmissed %d",
		c.entries, c.refused, seed, c.transactions, c.changed, c.named, 100*float64(c.hits)/float64(max(1, c.named)), c.missed[product])
}

// product names the variant that is no mistake.
const product = "product"

const absentMistake = "absent old columns read as NULL"

type harness struct {
	t        *testing.T
	random   writer
	write    func() string // a random statement
	conn     *pgx.Conn
	watched  []watched
	entries  []*rule.Entry
	truths   []string   // reads the results of all keys of an entry
	same     []string   // the same by the canonical query
	keys     [][]string // of each entry
	variants []*variant
	routed   <-chan routed
	failed   <-chan error

	minimal                        bool // the identity carries no more than the rules need
	transactions, changed, refused int
	classes                        []rule.Class
	missed                         []int    // by variant
	named, hits                    int      // keys that the product named, and those of them that had changed
	examples                       []string // of what the product missed
}

func newHarness(t *testing.T, identity string, random *rand.Rand) *harness {
	t.Helper()
	h, url, catalog := openHarness(t, tables+identity, random)
	for _, w := range slices.Concat(fixed(), classes()) {
		if err := h.watch(catalog, w); err != nil && !h.needsFull(err) {
			t.Error(err)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	h.watchRandom(catalog)
	h.plant(catalog)
	h.stream(url, catalog)
	return h
}

// openHarness makes the database.
func openHarness(t *testing.T, ddl string, random *rand.Rand) (*harness, string, *schema.Catalog) {
	t.Helper()
	url := pgtest.Shared(t).Database(t)
	h := &harness{t: t, random: writer{random}, minimal: ddl == tables+identityMinimal}
	h.write = h.random.statement
	conn := h.connect(url)
	h.conn = conn
	if _, err := conn.Exec(t.Context(), ddl); err != nil {
		t.Fatal(err)
	}
	catalog, err := pgcatalog.Read(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	return h, url, catalog
}

func (h *harness) connect(url string) *pgx.Conn {
	h.t.Helper()
	conn, err := pgx.Connect(h.t.Context(), url)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := conn.Close(context.WithoutCancel(h.t.Context())); err != nil {
			h.t.Error(err)
		}
	})
	return conn
}

// watchRandom watches random queries.
func (h *harness) watchRandom(catalog *schema.Catalog) {
	h.t.Helper()
	for random, tries := 0, 0; random < randomAccepted; tries++ {
		if tries == 100*randomAccepted {
			h.t.Fatalf("of %d random queries only %d were accepted", tries, random)
		}
		query := h.random.query
		if random%3 > 0 {
			query = h.random.nested
		}
		if err := h.watch(catalog, query()); err == nil {
			random++
		} else {
			h.refused++
		}
	}
}

// needsFull reports a fixed query that is refused for its replica identity, which only the full one grants.
func (h *harness) needsFull(err error) bool {
	e, ok := errors.AsType[*plan.Error](err)
	return ok && h.minimal && strings.Contains(e.What, "old rows of")
}

// watch compiles an entry, has the database confirm it, and prepares reading its keys.
func (h *harness) watch(catalog *schema.Catalog, w watched) error {
	h.t.Helper()
	declared := w.declared(len(h.entries))
	compile := func() (*plan.Compiled, error) { return plan.Compile(catalog, declared) }
	if len(h.classes) > 0 {
		compile = func() (*plan.Compiled, error) { return plantest.CompileAllowed(catalog, &declared, h.classes...) }
	}
	compiled, err := compile()
	if err != nil {
		if _, ok := errors.AsType[*plan.Error](err); !ok {
			h.t.Fatalf("%s: %v", w.query, err)
		}
		return err
	}
	if err := pgcatalog.Verify(h.t.Context(), h.conn, compiled.Entry); err != nil {
		h.t.Fatalf("%s: %v", w.query, err)
	}
	template, err := rule.ParseTemplate(w.key)
	if err != nil {
		h.t.Fatal(err)
	}
	rewritten, err := sqlparam.Rewrite(w.query, template.Params())
	if err != nil {
		h.t.Fatal(err)
	}
	tuples := combinations(w.domains)
	keys := make([]string, len(tuples))
	for i, tuple := range tuples {
		args := make([]keytext.Arg, len(tuple))
		for j, text := range tuple {
			if text == "NULL" {
				args[j] = keytext.Arg{Null: true}
				continue
			}
			canonical, err := keytext.Canonical(compiled.Entry.Params[j].Type, text)
			if err != nil {
				h.t.Fatal(err)
			}
			args[j] = keytext.Arg{Text: canonical}
		}
		keys[i] = string(template.Append(nil, args))
	}
	h.watched = append(h.watched, w)
	h.entries = append(h.entries, compiled.Entry)
	h.keys = append(h.keys, keys)
	// The truth is the user's own text. The canonical one, which readers execute, has to say the same.
	h.truths = append(h.truths, readAll(rewritten.SQL, w, tuples))
	h.same = append(h.same, readAll(compiled.Entry.SQL, w, tuples))
	return nil
}

func combinations(domains []domain) [][]string {
	tuples := [][]string{nil}
	for _, d := range domains {
		var longer [][]string
		for _, tuple := range tuples {
			for _, v := range d.values {
				longer = append(longer, append(slices.Clone(tuple), v))
			}
		}
		tuples = longer
	}
	return tuples
}

// readAll is a statement that yields the result of every key, as text, in one snapshot.
func readAll(query string, w watched, tuples [][]string) string {
	query, keys := keyed(query, w, tuples)
	order := " ORDER BY __q::text"
	if w.ordered {
		order = ""
	}
	return "SELECT (SELECT coalesce(string_agg(md5(__q::text), ','" + order + "), '') FROM (" + query + ") __q) FROM " + keys + " ORDER BY ord"
}

// keyed is a query that takes its parameters from the rows of an item of FROM, one for every key.
func keyed(query string, w watched, tuples [][]string) (substituted, keys string) {
	rows := make([]string, len(tuples))
	names := []string{"ord"}
	for i, tuple := range tuples {
		rows[i] = "(" + strconv.Itoa(i)
		for j, text := range tuple {
			if text != "NULL" {
				text = "'" + strings.ReplaceAll(text, "'", "''") + "'"
			}
			rows[i] += ", " + text + "::" + w.domains[j].cast
		}
		rows[i] += ")"
	}
	for j := range w.domains {
		names = append(names, "p"+strconv.Itoa(j+1))
	}
	query = sqlparam.Substitute(strings.TrimSuffix(query, ";"), func(n int) string { return "__k.p" + strconv.Itoa(n) })
	return query, "(VALUES " + strings.Join(rows, ", ") + ") __k (" + strings.Join(names, ", ") + ")"
}

// plant adds the product's way to route and the mistaken ones.
func (h *harness) plant(catalog *schema.Catalog) {
	h.t.Helper()
	h.variants = []*variant{
		{name: product, entries: h.entries},
		{name: "old image ignored", entries: h.entries, rewrite: forgetOld},
		{name: absentMistake, entries: h.entries, rewrite: absentAsNull},
		{name: onRestricts, entries: h.mistaken(func(i int, e *rule.Entry) {
			d := h.watched[i].declared(i)
			d.Query = strings.NewReplacer("LEFT JOIN", "JOIN", "RIGHT JOIN", "JOIN", "FULL JOIN", "JOIN").Replace(d.Query)
			if inner, err := plan.Compile(catalog, d); err == nil {
				e.Rules = inner.Entry.Rules
			}
		})},
		{name: "one rule for a self join", entries: h.mistaken(func(_ int, e *rule.Entry) {
			seen := map[string]bool{}
			e.Rules = slices.DeleteFunc(slices.Clone(e.Rules), func(r rule.Rule) bool {
				again := seen[r.Table]
				seen[r.Table] = true
				return again
			})
		})},
	}
	for _, name := range mistakes() {
		h.variants = append(h.variants, &variant{name: name, entries: h.mistaken(func(i int, e *rule.Entry) {
			d := h.watched[i].declared(i)
			if d.Query = h.watched[i].naive[name]; d.Query == "" {
				return
			}
			other, err := plan.Compile(catalog, d)
			if err != nil {
				h.t.Fatalf("planted query %s: %v", d.Query, err)
			}
			e.Rules = other.Entry.Rules
		})})
	}
	h.missed = make([]int, len(h.variants))
	for _, v := range h.variants {
		v.router = route.New(v.entries)
		v.keys = route.NewKeys(1<<20, 1<<26)
	}
}

func (h *harness) mistaken(change func(i int, e *rule.Entry)) []*rule.Entry {
	out := make([]*rule.Entry, len(h.entries))
	for i, e := range h.entries {
		made := *e
		change(i, &made)
		out[i] = &made
	}
	return out
}

// stream starts reading the log.
func (h *harness) stream(url string, catalog *schema.Catalog) {
	h.t.Helper()
	var published []schema.Name
	for name, table := range catalog.Tables {
		if !table.IsPartition && table.Kind != schema.View {
			published = append(published, name)
		}
	}
	slot := "soundness_" + strconv.FormatUint(h.random.Uint64(), 36)
	if _, err := pgsource.Prepare(h.t.Context(), h.conn, pgsource.PrepareOptions{Slot: slot, Publication: "soundness", Tables: published}); err != nil {
		h.t.Fatal(err)
	}
	stream, err := pgsource.Start(h.t.Context(), pgsource.Options{URL: url, Slot: slot, Publication: "soundness"}, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	out, failed := make(chan routed), make(chan error, 1)
	h.routed, h.failed = out, failed
	ctx, cancel := context.WithCancel(h.t.Context())
	go func() {
		failed <- stream.Run(ctx, &routing{variants: h.variants, out: out})
		close(failed)
	}()
	h.t.Cleanup(func() {
		cancel()
		if err := <-failed; err != nil && !errors.Is(err, context.Canceled) {
			h.t.Errorf("the stream ended: %v", err)
		}
		ctx := context.WithoutCancel(h.t.Context())
		if err := stream.Close(ctx); err != nil && !errors.Is(err, context.Canceled) {
			h.t.Error(err)
		}
		if err := pgsource.Drop(ctx, h.conn, slot, "soundness"); err != nil {
			h.t.Error(err)
		}
	})
}

// read returns the results of all keys of all entries.
func (h *harness) read(statements []string) [][]string {
	h.t.Helper()
	batch := &pgx.Batch{}
	for _, s := range statements {
		batch.Queue(s)
	}
	results := h.conn.SendBatch(h.t.Context(), batch)
	all := make([][]string, 0, len(statements))
	for _, s := range statements {
		rows, err := results.Query()
		if err != nil {
			h.t.Fatalf("%s: %v", s, err)
		}
		texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			h.t.Fatalf("%s: %v", s, err)
		}
		all = append(all, texts)
	}
	if err := results.Close(); err != nil {
		h.t.Fatal(err)
	}
	return all
}

// compareCanonical checks that what readers execute has the results of what the user wrote.
func (h *harness) compareCanonical(results [][]string) {
	h.t.Helper()
	for i, same := range h.read(h.same) {
		if !slices.Equal(results[i], same) {
			h.t.Fatalf("%s\nand its canonical form\n%s\nhave different results", h.watched[i].query, h.entries[i].SQL)
		}
	}
}

// run goes on after its time for a while when a mistake was not noticed yet.
func (h *harness) run(limit time.Duration) {
	h.t.Helper()
	begun := time.Now()
	before := h.read(h.truths)
	for elapsed := time.Duration(0); elapsed < limit || elapsed < limit+grace && h.unnoticed(); elapsed = time.Since(begun) {
		number := strconv.Itoa(h.transactions)
		statements := h.statements()
		if !h.commit(number, statements) {
			continue // a constraint refused it
		}
		h.transactions++
		after := h.read(h.truths)
		h.judge(before, after, h.next(number), statements)
		if h.transactions%canonicalEvery == 0 {
			h.compareCanonical(after)
		}
		before = after
	}
}

// unnoticed reports a planted mistake that missed nothing yet. Absent columns exist only under a minimal identity, and
// which columns an update changed is known only under the full one.
func (h *harness) unnoticed() bool {
	for i, v := range h.variants[1:] {
		if v.name == absentMistake && !h.minimal || h.minimal && (v.name == viewUnread || v.name == caseUnread) {
			continue
		}
		if h.missed[i+1] == 0 {
			return true
		}
	}
	return false
}

// statements are those of a random transaction.
func (h *harness) statements() []string {
	statements := make([]string, 1+h.random.IntN(4))
	for i := range statements {
		statements[i] = h.write()
	}
	return statements
}

// commit runs a transaction, marked so that it is found in the log. It reports whether no constraint refused it.
func (h *harness) commit(number string, statements []string) bool {
	h.t.Helper()
	err := pgx.BeginFunc(h.t.Context(), h.conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(h.t.Context(), `SELECT pg_logical_emit_message(true, $1, $2)`, marker, number); err != nil {
			return err
		}
		for _, s := range statements {
			if _, err := tx.Exec(h.t.Context(), s, pgx.QueryExecModeSimpleProtocol); err != nil {
				return err
			}
		}
		return nil
	})
	return err == nil
}

// next waits for the transaction in the log.
func (h *harness) next(number string) routed {
	h.t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case r := <-h.routed:
		if r.number != number {
			h.t.Fatalf("the log has transaction %q, want %q", r.number, number)
		}
		return r
	case err := <-h.failed:
		h.t.Fatalf("the stream ended: %v", err)
	case <-timeout.C:
		h.t.Fatalf("transaction %s did not come in the log", number)
	}
	panic("unreachable")
}

func (h *harness) judge(before, after [][]string, r routed, statements []string) {
	h.t.Helper()
	for i := range h.entries {
		for j, key := range h.keys[i] {
			differs := before[i][j] != after[i][j]
			if differs {
				h.changed++
			}
			for n := range h.variants {
				if differs && !r.verdicts[n].keys[i][key] && !r.verdicts[n].moved[i] {
					h.missed[n]++
				}
			}
			named := r.verdicts[0].keys[i][key]
			if named {
				h.named++
			}
			if named && differs {
				h.hits++
			}
			const enough = 3
			if differs && !named && !r.verdicts[0].moved[i] && len(h.examples) < enough {
				h.examples = append(h.examples, fmt.Sprintf("key %s of %s\nafter\n%s", key, h.watched[i].query, strings.Join(statements, ";\n")))
			}
		}
	}
}
