package verify_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/internal/verify"
	"github.com/freshet/freshet/mvcc"
)

const items = `
  item:
    key: item:{id}
    query: SELECT id, v FROM items WHERE id = @id
  group:
    key: group:{g}
    query: SELECT id, v FROM items WHERE g = @g
    result: many
`

func itemTables() []string {
	return []string{
		"CREATE TABLE items (id int8 PRIMARY KEY, g int4, v text)", "ALTER TABLE items REPLICA IDENTITY FULL",
		"INSERT INTO items SELECT n, n % 5, 'v' || n FROM generate_series(1, 50) n",
	}
}

// TestEveryKindOfArgument fills values under keys of every type and with every kind of text, some of them for rows that
// are not there, and finds each of them fresh: the arguments were read back from the keys as they were.
func TestEveryKindOfArgument(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Shared(t), []string{
		"CREATE TYPE mood AS ENUM ('so-so', 'très bien')",
		"CREATE TABLE things (a text, b int8, c uuid, d timestamptz, e numeric, f bytea, g date, h bool, i timestamp, j mood, PRIMARY KEY (a, b))",
		"ALTER TABLE things REPLICA IDENTITY FULL",
		`INSERT INTO things VALUES ('a:b%/{}*?[]é ~', -9223372036854775808, '00000000-0000-0000-0000-0000000000aB', '2026-11-01 10:00:00.123456+02',
			'-12.50', '\x00ff25', '0044-03-15 BC', true, 'infinity', 'très bien')`,
		"INSERT INTO things (a, b) VALUES ('', 0)",
		`INSERT INTO things (a, b, e, f, h, j) VALUES (E'\n\t', 7, 0, '', false, 'so-so')`,
	}, `
  pair: {key: "pair:{a}/{b}", query: SELECT * FROM things WHERE a = @a AND b = @b}
  back: {key: "{b}:pair:{a}:x", query: SELECT * FROM things WHERE a = @a AND b = @b}
  c: {key: "c:{c}", query: SELECT a FROM things WHERE c = @c, result: many}
  d: {key: "d:{d}", query: SELECT a FROM things WHERE d = @d, result: many}
  e: {key: "e:{e}", query: SELECT a FROM things WHERE e = @e, result: many}
  f: {key: "f:{f}", query: SELECT a FROM things WHERE f = @f, result: many}
  g: {key: "g:{g}", query: SELECT a FROM things WHERE g = @g, result: many}
  h: {key: "h:{h}", query: SELECT a FROM things WHERE h = @h, result: many}
  i: {key: "i:{i}", query: SELECT a FROM things WHERE i = @i, result: many}
  j: {key: "j:{j}", query: SELECT a FROM things WHERE j = @j, result: many}
`)
	count := 0
	for _, a := range []string{"a:b%/{}*?[]é ~", "", "\n\t", "NULL", "%-", "none"} {
		for _, b := range []string{"-9223372036854775808", "0", "7", "NULL"} {
			r.fill("pair", a, b)
			r.fill("back", b, a)
			count += 2
		}
	}
	for entry, texts := range map[string][]string{
		"c": {"00000000-0000-0000-0000-0000000000ab", "NULL"},
		"d": {"2026-11-01 08:00:00.123456+00", "NULL"},
		"e": {"-12.5", "0", "NULL"},
		"f": {`\x00ff25`, `\x`, "NULL"},
		"g": {"0044-03-15 BC", "NULL"},
		"h": {"t", "f", "NULL"},
		"i": {"infinity", "NULL"},
		"j": {"très bien", "so-so", "NULL"},
	} {
		for _, text := range texts {
			r.fill(entry, text)
			count++
		}
	}
	report := r.verify(nil)
	total(t, report, verify.Counts{Checked: count, Fresh: count})
	if report.Nines != nil || report.FreshShare == nil || *report.FreshShare != 1 || len(report.Entries) != 10 {
		t.Errorf("nines %v, share %v, %d entries", report.Nines, report.FreshShare, len(report.Entries))
	}
}

// TestPlantedStaleValueIsFound stores what the protocol keeps out.
func TestPlantedStaleValueIsFound(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Start(t, pgtest.Options{}), itemTables(), items) // where nobody else's transactions are open
	names := map[string]string{}
	var old []fence.Record
	for id := range 10 {
		key := strconv.Itoa(id + 1)
		names[key] = r.fill("item", key)
		old = append(old, r.record(names[key]))
	}
	group := r.fill("group", "1")
	inGroup := r.record(group)
	negative := r.fill("item", "777")
	none := r.record(negative)
	r.exec("UPDATE items SET v = 'new' WHERE id <= 5", "INSERT INTO items VALUES (777, 9, 'there')", "DELETE FROM items WHERE id = 6")
	r.quiet()
	newer := r.record(r.fill("item", "11")).Coverage

	r.plant(names["1"], old[0])
	r.plant(names["2"], fence.Record{State: fence.Live, Payload: old[1].Payload, Filled: time.Now().Add(-time.Hour).UnixMicro()})
	r.plant(names["3"], fence.Record{State: fence.Live, Payload: old[2].Payload, Coverage: newer, Filled: time.Now().UnixMicro()})
	r.plant(names["4"], fence.Record{State: fence.Live, Payload: old[3].Payload, Filled: 1, Coverage: fence.Coverage{
		Snapshot: mvcc.Snapshot{Xmin: 1 << 40, Xmax: 1 << 40},
	}})
	r.plant(names["6"], old[5])
	r.plant(group, inGroup)
	r.plant(negative, none)
	report := r.verify(nil)
	total(t, report, verify.Counts{Checked: 12, Fresh: 5, Violations: 7}) // 7 to 11 are fresh, and 5 is gone
	for cause, n := range map[verify.Cause]int{
		verify.NotRemoved: 4, verify.NoCoverage: 1, verify.ClaimsToContain: 1, verify.OtherHistory: 1,
	} {
		if report.Causes[cause] != n {
			t.Errorf("%s causes %d violations, want %d", cause, report.Causes[cause], n)
		}
	}
	if report.Ages[len(report.Ages)-1].Count != 1 || report.Ages[3].Count != 1 {
		t.Errorf("the ages are %+v", report.Ages)
	}
	for _, f := range report.Findings {
		switch f.Key {
		case names["1"]:
			if *f.Cached != `{"id":1,"v":"v1"}` || *f.Database != `{"id":1,"v":"new"}` || f.TTL == nil || *f.TTL > 60 || !strings.HasPrefix(f.Stamp, "s:") {
				t.Errorf("a stale value is described as %+v", f)
			}
		case names["6"]:
			if f.Database != nil || f.Cached == nil {
				t.Errorf("a deleted row is described as %+v", f)
			}
		case negative:
			if f.Database == nil || f.Cached != nil {
				t.Errorf("a row that is there is described as %+v", f)
			}
		}
	}
	only := r.verify(func(o *verify.Options) { o.Entries = []string{"group"} })
	total(t, only, verify.Counts{Checked: 1, Violations: 1})
	if _, err := r.tryVerify(func(o *verify.Options) { o.Entries = []string{"grupo"} }); !errors.Is(err, verify.ErrNoEntry) {
		t.Errorf("an entry that is not there: %v", err)
	}
}

// TestOnlyWhatReadersTakeIsCompared plants records that no reader would be given.
func TestOnlyWhatReadersTakeIsCompared(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Shared(t), append(itemTables(), "CREATE TABLE others (id int8 PRIMARY KEY)"),
		items+"  coded: {key: \"coded:{id}\", depends_on: [{table: items, key: \"{id}\"}]}\n  other: {key: \"other:{id}\", query: SELECT id FROM others WHERE id = @id}\n")
	live := r.fill("item", "1")
	record := fence.Record{State: fence.Live, Payload: []byte(`{"id":1,"v":"never"}`), Filled: 1}
	roster, err := r.roster()
	if err != nil {
		t.Fatal(err)
	}
	swap := func(old, text string) string { return strings.Replace(live, old, text, 1) }
	// Names that are not live.
	r.plant(swap(roster.Generation, "00000000000000aa"), record)
	r.plant(swap(roster.Entries["item"].Activation, "00000000000000aa"), record)
	r.plant(swap(":item.", ":thing."), record)
	r.plant("f:"+r.config.Namespace+":short", record)
	// No values: a lease alone, a stale value, no record at all.
	r.plant(swap("item:1", "item:2"), fence.Record{Lease: fence.Lease{Token: fence.Token(strings.Repeat("a", 32)), End: 1}})
	r.plant(swap("item:1", "item:3"), fence.Record{State: fence.Stale, Payload: record.Payload})
	r.do("SET", swap("item:1", "item:4"), "text")
	r.do("HSET", swap("item:1", "item:5"), "a", "b")
	// Keys that nobody asks for.
	r.plant(swap("item:1", "item:007"), record)
	r.plant(swap("item:1", "item:x"), record)
	r.plant(swap("item:1", "itemized"), record)
	// An entry that code loads.
	coded := rule.KeyPrefix(r.config.Namespace, roster.Generation, roster.Entries["coded"]) + "coded:1"
	r.plant(coded, record)
	want := verify.Counts{Checked: 1, Fresh: 1, Unverifiable: 1, Unreadable: 5}
	total(t, r.verify(nil), want)

	// An entry whose table is gone is out of the cache.
	other := r.fill("other", "5")
	r.exec("ALTER TABLE others RENAME TO elsewhere")
	testkit.Eventually(t, patience, func() error {
		roster, err := r.roster()
		if err == nil && roster.Entries["other"] != nil && roster.Entries["other"].Suspended == "" {
			err = errors.New("the entry is live")
		}
		return err
	})
	r.plant(other, record)
	r.do("PERSIST", live)
	want.WithoutTTL = 1
	testkit.Eventually(t, patience, func() error {
		if got := r.verify(nil).Total; got != want {
			return fmt.Errorf("the counts are %+v, want %+v", got, want)
		}
		return nil
	})
}

// readThen calls a function after the first read of records.
type readThen struct {
	verify.Reader
	once sync.Once
	then func()
}

func (r *readThen) Read(ctx context.Context, names []string) ([]redisstore.Held, error) {
	held, err := r.Reader.Read(ctx, names)
	if len(names) > 0 {
		r.once.Do(r.then)
	}
	return held, err
}

// TestInFlightIsNoViolation changes rows after their records were read: they differ, and are removed.
func TestInFlightIsNoViolation(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Shared(t), itemTables(), items)
	for id := range 20 {
		r.fill("item", strconv.Itoa(id+1))
	}
	change := func(then func()) func(o *verify.Options) {
		return func(o *verify.Options) { o.Store = &readThen{Reader: o.Store, then: then} }
	}
	report := r.verify(change(func() { r.exec("UPDATE items SET v = 'new' WHERE id <= 5") }))
	total(t, report, verify.Counts{Checked: 20, Fresh: 15, InFlight: 5})
	if lasted := report.Differed[0].Count + report.Differed[1].Count + report.Differed[2].Count + report.Differed[3].Count; lasted != 5 || report.Nines == nil {
		t.Errorf("in flight for %+v, nines %v", report.Differed, report.Nines)
	}

	// While no daemon runs it cannot be told what becomes of them.
	for id := range 20 {
		r.fill("item", strconv.Itoa(id+1))
	}
	r.stop()
	r.exec("UPDATE items SET v = 'newer' WHERE id <= 5")
	report = r.verify(func(o *verify.Options) { o.Wait = 50 * time.Millisecond })
	total(t, report, verify.Counts{Checked: 20, Fresh: 15, Undecided: 5})
	if len(report.Reasons) != 1 {
		t.Errorf("the reasons are %v", report.Reasons)
	}
	// Until it runs again: the daemon starts while verify waits.
	report = r.verify(change(r.serve))
	total(t, report, verify.Counts{Checked: 20, Fresh: 15, InFlight: 5})
}

// TestMovedNamesAreNoViolation has a table truncated after its records were read: these stay, under names that are dead.
func TestMovedNamesAreNoViolation(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Shared(t), itemTables(), items)
	name := r.fill("item", "1")
	report := r.verify(func(o *verify.Options) {
		o.Store = &readThen{Reader: o.Store, then: func() { r.exec("TRUNCATE items") }}
	})
	total(t, report, verify.Counts{Checked: 1, InFlight: 1})
	testkit.Eventually(t, patience, func() error { // readers go on under the old name for up to a second
		if r.fill("item", "1") == name {
			return errors.New("the name did not move")
		}
		return nil
	})
	total(t, r.verify(nil), verify.Counts{Checked: 1, Fresh: 1})
}

// write begins to run a statement on a connection of its own.
func (r *rig) write(statement string) (conn *pgx.Conn, ended <-chan error) {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.url)
	if err != nil {
		r.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), statement)
		done <- err
	}()
	return conn, done
}

// hangs reports whether a connection's commit waits for a standby.
func (r *rig) hangs(conn *pgx.Conn) (waits bool, err error) {
	err = r.loader.Pool().QueryRow(r.t.Context(), "SELECT coalesce(wait_event, '') = 'SyncRep' FROM pg_stat_activity WHERE pid = $1", conn.PgConn().PID()).Scan(&waits)
	return waits, err
}

// TestHungCommit has one commit hang in synchronous replication. Its key's old value is what everybody sees. HEAD stands
// still, so a stale value of another key is left undecided, and found when the commit is through.
func TestHungCommit(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t, pgtest.Options{})
	r := newRig(t, pg, itemTables(), items)
	r.fill("item", "1")
	passes := r.fill("item", "2")
	old := r.record(passes)
	r.exec("ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()")
	// The setting has arrived when a commit hangs, which another process of the server decides than any session.
	testkit.Eventually(t, patience, func() error {
		probe, ended := r.write("SELECT pg_logical_emit_message(true, 'probe', '')")
		defer func() { _ = probe.Close(context.Background()) }()
		for {
			select {
			case err := <-ended:
				return errors.Join(errors.New("a commit does not hang yet"), err)
			case <-time.After(5 * time.Millisecond):
			}
			if hangs, err := r.hangs(probe); err != nil || hangs {
				r.exec(fmt.Sprintf("SELECT pg_cancel_backend(%d)", probe.PgConn().PID())) // it is over then, and done
				return errors.Join(err, <-ended)
			}
		}
	})
	writer, committed := r.write("UPDATE items SET v = 'hangs' WHERE id = 1")
	defer func() { _ = writer.Close(context.Background()) }()
	testkit.Eventually(t, patience, func() error {
		hangs, err := r.hangs(writer)
		if err == nil && !hangs {
			err = errors.New("it does not hang")
		}
		return err
	})
	r.exec("SET synchronous_commit = local; UPDATE items SET v = 'passes' WHERE id = 2")
	r.fill("item", "1") // the old row, which is cached again once the daemon finds that the commit hangs
	// The daemon may remove what is planted once more, for the change that passes.
	planted := func(wait time.Duration, want verify.Counts) {
		t.Helper()
		testkit.Eventually(t, patience, func() error {
			r.plant(passes, old)
			if got := r.verify(func(o *verify.Options) { o.Wait = wait }).Total; got != want {
				return fmt.Errorf("the counts are %+v, want %+v", got, want)
			}
			return nil
		})
	}
	planted(300*time.Millisecond, verify.Counts{Checked: 2, Fresh: 1, Undecided: 1})
	if _, err := r.loader.Pool().Exec(t.Context(), "SELECT pg_cancel_backend($1)", int(writer.PgConn().PID())); err != nil {
		t.Fatal(err)
	}
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
	r.exec("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
	planted(patience, verify.Counts{Checked: 1, Violations: 1})
}

// TestConcurrentWrites has writers and readers at work while verify runs again and again: it never reports a violation.
func TestConcurrentWrites(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Shared(t), itemTables(), items)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var working sync.WaitGroup
	defer working.Wait()
	defer cancel()
	for n := range 2 {
		working.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(n)))
			for ctx.Err() == nil {
				id := random.IntN(50) + 1
				_, _ = r.loader.Pool().Exec(ctx, "UPDATE items SET v = $1, g = $2 WHERE id = $3", strconv.Itoa(random.Int()), random.IntN(5), id)
			}
		})
		working.Go(func() {
			random := rand.New(rand.NewPCG(2, uint64(n)))
			for ctx.Err() == nil {
				_, _ = r.reader.Get(ctx, "item", args(strconv.Itoa(random.IntN(50)+1)), nil)
				_, _ = r.reader.Get(ctx, "group", args(strconv.Itoa(random.IntN(5))), nil)
			}
		})
	}
	var sum verify.Counts
	const enough = 100
	for begun := time.Now(); time.Since(begun) < 2*time.Second || sum.Checked < enough && time.Since(begun) < patience; {
		report := r.verify(nil)
		if report.Total.Violations > 0 || report.Total.Undecided > 0 {
			t.Fatalf("%+v: %+v", report.Total, report.Findings)
		}
		sum.Checked += report.Total.Checked
		sum.InFlight += report.Total.InFlight
	}
	t.Logf("checked %d, in flight %d", sum.Checked, sum.InFlight)
	if sum.Checked < enough {
		t.Errorf("only %d values were checked", sum.Checked)
	}
}

func TestSampleIsReproducible(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Shared(t), itemTables(), items)
	for id := range 50 {
		name := r.fill("item", strconv.Itoa(id+1))
		record := r.record(name)
		record.Payload = []byte(`{}`)
		r.plant(name, record)
	}
	r.quiet()
	keys := func(seed uint64) string {
		var list []string
		report := r.verify(func(o *verify.Options) { o.Sample = verify.Sample{Count: 10, Seed: seed} })
		total(t, report, verify.Counts{Checked: 10, Violations: 10})
		for _, f := range report.Findings {
			list = append(list, f.Key)
		}
		slices.Sort(list) // keys are compared some at a time
		return strings.Join(list, " ")
	}
	if a, b, other := keys(1), keys(1), keys(2); a != b || a == other {
		t.Errorf("samples of 10: %q, again %q, with another seed %q", a, b, other)
	}
	began := time.Now()
	report := r.verify(func(o *verify.Options) { o.Rate = 100; o.Sample = verify.Sample{Share: 0.999} })
	if took := time.Since(began); report.Total.Violations < 40 || len(report.Findings) != 20 {
		t.Errorf("%+v in %v", report.Total, took)
	}
}

// lyingTruth is a database that is not the one that the store follows, or whose answers cannot be used.
type lyingTruth struct {
	verify.Truth
	change func(l *pgload.Loaded) error
}

func (f *lyingTruth) Load(ctx context.Context, sql string, result rule.Result, a []keytext.Arg) (pgload.Loaded, error) {
	l, err := f.Truth.Load(ctx, sql, result, a)
	err = errors.Join(err, f.change(&l))
	return l, err
}

func TestWhatCannotBeCompared(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Shared(t), itemTables(), items)
	r.fill("item", "1")
	for want, change := range map[string]func(l *pgload.Loaded) error{
		"not the one whose log the store follows: its system": func(l *pgload.Loaded) error { l.Server.System = "1"; return nil },
		"its timeline is 9":                           func(l *pgload.Loaded) error { l.Server.Timeline = 9; return nil },
		"cannot be compared: the server is a standby": func(l *pgload.Loaded) error { l.Refuse = "the server is a standby"; return nil },
		"the database is unavailable":                 func(*pgload.Loaded) error { return pgload.ErrUnavailable },
	} {
		report, err := r.tryVerify(func(o *verify.Options) { o.Truth = &lyingTruth{Truth: o.Truth, change: change} })
		if err != nil || !strings.Contains(report.Stopped, want) || report.Total.Violations > 0 {
			t.Errorf("Run() = %+v, %v, want that it stopped since %q", report, err, want)
		}
	}
	report := r.verify(func(o *verify.Options) {
		o.Truth = &lyingTruth{Truth: o.Truth, change: func(*pgload.Loaded) error { return pgload.ErrTimeout }}
	})
	total(t, report, verify.Counts{Checked: 1, Undecided: 1})

	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	survey, err := r.store.Survey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer survey.Close()
	report, err = verify.Run(ctx, verify.Options{
		Namespace: r.config.Namespace, Store: &readThen{Reader: survey, then: func() { cancel(enough) }}, Truth: r.loader,
	})
	if err != nil || report.Stopped != "enough" {
		t.Errorf("Run() = %+v, %v, want what ended its context", report, err)
	}

	empty, err := redisstore.Open(t.Context(), redisstore.Options{URL: redistest.Shared(t).URL, Namespace: redistest.Namespace(t), Patience: patience})
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	nothing, err := empty.Survey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer nothing.Close()
	_, err = r.tryVerify(func(o *verify.Options) { o.Store, o.Namespace, o.Wait = nothing, "empty", time.Millisecond })
	if !errors.Is(err, verify.ErrNoStore) {
		t.Errorf("an empty store: %v", err)
	}
}
