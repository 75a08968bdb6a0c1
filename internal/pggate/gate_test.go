package pggate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/mvcc"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const patience = 20 * time.Second

func open(t *testing.T, url string) *Gate {
	t.Helper()
	g, err := Open(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := testkit.Context(t)
		defer cancel()
		_ = g.Close(ctx)
	})
	return g
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := testkit.Context(t)
		defer cancel()
		_ = conn.Close(ctx)
	})
	return conn
}

func exec(t *testing.T, conn *pgx.Conn, statement string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), statement, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func ask[T any](t *testing.T, conn *pgx.Conn, query string) T {
	t.Helper()
	var answer T
	if err := conn.QueryRow(t.Context(), query).Scan(&answer); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return answer
}

// writer opens a transaction that has an id, and returns that.
func writer(t *testing.T, conn *pgx.Conn) mvcc.XID {
	t.Helper()
	exec(t, conn, `BEGIN`)
	x, err := mvcc.ParseXID(ask[string](t, conn, `SELECT pg_current_xact_id()::text`))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestSnapshotSeesWhatIsCommittedAndNotWhatIsOpen(t *testing.T) {
	t.Parallel()
	url := pgtest.Shared(t).Database(t)
	g, first, second := open(t, url), connect(t, url), connect(t, url)
	open := writer(t, first)
	committed := writer(t, second)
	exec(t, second, `COMMIT`)
	snapshot, position, err := g.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !snapshot.Sees(committed) || snapshot.Sees(open) {
		t.Errorf("%s sees committed %s: %t, open %s: %t", snapshot, committed, snapshot.Sees(committed), open, snapshot.Sees(open))
	}
	exec(t, first, `COMMIT`)
	later, laterPosition, err := g.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !later.Sees(open) || !later.Dominates(snapshot) || laterPosition < position {
		t.Errorf("after COMMIT %s at %s does not follow %s at %s", later, laterPosition, snapshot, position)
	}
}

// A commit that hangs in synchronous replication is in the log, flushed, and the insert position is past it. Only the
// snapshot tells that nobody sees it.
func TestSnapshotDoesNotSeeACommitThatHangsInSynchronousReplication(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"synchronous_standby_names": "nobody"}})
	url := server.URL("postgres")
	sql := connect(t, url)
	exec(t, sql, `SET synchronous_commit = local`)
	exec(t, sql, `CREATE TABLE t (id int PRIMARY KEY, v text)`)
	exec(t, sql, `INSERT INTO t VALUES (1, 'old')`)
	exec(t, sql, `SELECT pg_create_logical_replication_slot('peek', 'test_decoding')`)
	g := open(t, url)

	hanging := connect(t, url)
	pid := int32(hanging.PgConn().PID())
	x := writer(t, hanging)
	exec(t, hanging, `UPDATE t SET v = 'new' WHERE id = 1`)
	done := make(chan error, 1)
	go func() {
		_, err := hanging.Exec(context.WithoutCancel(t.Context()), `COMMIT`)
		done <- err
	}()
	testkit.Eventually(t, patience, func() error {
		if ask[string](t, sql, fmt.Sprintf(`SELECT coalesce(wait_event, '') FROM pg_stat_activity WHERE pid = %d`, pid)) != "SyncRep" {
			return errors.New("COMMIT does not wait yet")
		}
		return nil
	})
	if got := ask[int](t, sql, `SELECT count(*)::int FROM pg_logical_slot_peek_changes('peek', NULL, NULL) WHERE data LIKE 'COMMIT%'`); got == 0 {
		t.Error("the log does not deliver the commit, so this test shows nothing")
	}
	snapshot, _, err := g.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if snapshot.Sees(x) {
		t.Errorf("%s sees %s, which hangs", snapshot, x)
	}
	if got := ask[string](t, sql, `SELECT v FROM t`); got != "old" {
		t.Errorf("a reader sees %q", got)
	}
	// A daemon's term must not hang with it.
	if _, err := g.Term(t.Context()); err != nil {
		t.Error(err)
	}
	exec(t, sql, fmt.Sprintf(`SELECT pg_cancel_backend(%d)`, pid))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if snapshot, _, err = g.Snapshot(t.Context()); err != nil || !snapshot.Sees(x) {
		t.Errorf("after the wait: %s sees %s: %t, %v", snapshot, x, snapshot.Sees(x), err)
	}
}

// The role's own asynchronous commits do not make a term that a crash could take back and give out again.
func TestTermGrowsAndIsFlushed(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{
		"synchronous_commit": "off",
		"wal_writer_delay":   "10s", // nobody else flushes meanwhile
	}})
	url := server.URL("postgres")
	g, sql := open(t, url), connect(t, url)
	flushed := func() bool {
		return ask[bool](t, sql, `SELECT pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()`)
	}
	testkit.Eventually(t, patience, func() error {
		exec(t, sql, `SELECT pg_logical_emit_message(true, 'test', 'asynchronous')`)
		if flushed() {
			return errors.New("asynchronous commits are flushed at once, so this test shows nothing")
		}
		return nil
	})
	var last fence.Term
	for range 3 {
		exec(t, sql, `SELECT pg_logical_emit_message(true, 'test', 'asynchronous')`)
		term, err := g.Term(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !flushed() {
			t.Errorf("term %s is not on disk", term)
		}
		if term <= last || !strings.HasPrefix(string(term), "00000001.") {
			t.Errorf("term %q after %q", term, last)
		}
		last = term
	}
}

func TestAliveSurvivesARestartAndNotACrash(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	url := server.URL("postgres")
	g := open(t, url)
	mustAlive := func(g *Gate, want bool, when string) {
		t.Helper()
		got, _, err := g.Alive(t.Context(), "shop", "g1", "t1")
		if err != nil || got != want {
			t.Fatalf("Alive %s = %t, %v, want %t", when, got, err, want)
		}
	}
	mustAlive(g, false, "without the table")
	for range 2 { // the second time finds it made
		if err := g.Ensure(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	mustAlive(g, false, "before the mark")
	for range 2 {
		if err := g.MarkAlive(t.Context(), "shop", "g1", "t1"); err != nil {
			t.Fatal(err)
		}
	}
	mustAlive(g, true, "after the mark")
	for _, other := range [][2]string{{"shop", "g0"}, {"blog", "g1"}} {
		if alive, _, err := g.Alive(t.Context(), other[0], other[1], "t1"); err != nil || alive {
			t.Errorf("Alive(%v) = %t, %v: the mark of another generation or namespace counts", other, alive, err)
		}
	}
	if err := g.Close(t.Context()); err != nil {
		t.Fatal(err)
	}

	server.Restart(t)
	g = open(t, url)
	mustAlive(g, true, "after a clean restart")

	// SIGKILL of any backend makes the server recover, without a new timeline.
	victim := connect(t, url)
	if err := syscall.Kill(int(victim.PgConn().PID()), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var after *Gate
	testkit.Eventually(t, patience, func() error {
		if _, _, err := g.Snapshot(t.Context()); err == nil {
			return errors.New("the server has not noticed yet")
		}
		var err error
		after, err = Open(t.Context(), url, nil)
		return err
	})
	defer func() { _ = after.Close(context.WithoutCancel(t.Context())) }()
	mustAlive(after, false, "after a crash")
	if g.Identity() != after.Identity() {
		t.Errorf("the crash shows in the identity (%+v, then %+v), so freshet.alive would not be needed", g.Identity(), after.Identity())
	}
}

// TestMarkKnowsTheTerms holds that a term counts as claimed from MarkClaim on, under its generation alone, and that the
// last ones are kept.
func TestMarkKnowsTheTerms(t *testing.T) {
	t.Parallel()
	g := open(t, pgtest.Shared(t).Database(t))
	if err := g.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	claimed := func(generation string, term fence.Term, want bool) {
		t.Helper()
		alive, got, err := g.Alive(t.Context(), "shop", generation, term)
		if err != nil || (alive && got) != want {
			t.Errorf("Alive(%s, %s) = %t, %t, %v, want %t", generation, term, alive, got, err, want)
		}
	}
	mark := func(generation string, term fence.Term) {
		t.Helper()
		if err := g.MarkClaim(t.Context(), "shop", generation, term); err != nil {
			t.Fatal(err)
		}
	}
	mark("g1", "t0")
	claimed("g1", "t0", false) // there is no mark to add it to
	if err := g.MarkAlive(t.Context(), "shop", "g1", "t1"); err != nil {
		t.Fatal(err)
	}
	mark("g0", "t2")
	claimed("g1", "t1", true)
	claimed("g1", "t2", false)
	for i := range 8 {
		mark("g1", fence.Term(fmt.Sprintf("u%d", i)))
		for j := range i + 1 {
			claimed("g1", fence.Term(fmt.Sprintf("u%d", j)), true)
		}
	}
	claimed("g1", "t1", false)
	if err := g.MarkAlive(t.Context(), "shop", "g2", "v1"); err != nil {
		t.Fatal(err)
	}
	claimed("g2", "v1", true)
	claimed("g2", "u7", false)
}

func TestQuiesceWaitsForAnOpenWriterAndNamesIt(t *testing.T) {
	t.Parallel()
	url := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"max_prepared_transactions": "2"}}).URL("postgres")
	g, sql := open(t, url), connect(t, url)
	exec(t, sql, `CREATE TABLE t (id int)`)
	x := writer(t, sql)
	exec(t, sql, `SAVEPOINT a`)
	exec(t, sql, `INSERT INTO t VALUES (1)`) // under an id of its own, which is nobody to wait for

	prepared := connect(t, url)
	y := writer(t, prepared)
	exec(t, prepared, `PREPARE TRANSACTION 'two phases'`)

	later := connect(t, url)
	writer(t, later)
	exec(t, later, `COMMIT`) // so that the snapshot's end is past both
	since, _, err := g.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	younger := writer(t, later) // not running at since

	var reports [][]Pin
	type result struct {
		snapshot mvcc.Snapshot
		err      error
	}
	reported, results := make(chan []Pin, 100), make(chan result, 1)
	go func() {
		snapshot, err := g.Quiesce(t.Context(), since, func(pins []Pin) { reported <- pins })
		results <- result{snapshot, err}
	}()
	reports = append(reports, <-reported)
	want := fmt.Sprintf("%d:%s,0:%s", sql.PgConn().PID(), x, y)
	got := make([]string, len(reports[0]))
	for i, pin := range reports[0] {
		got[i] = fmt.Sprintf("%d:%s", pin.PID, pin.XID)
		if pin.Since.IsZero() || pin.Query == "" {
			t.Errorf("pin %d says nothing: %+v", i, pin)
		}
	}
	if strings.Join(got, ",") != want {
		t.Errorf("pinned by %v, want %s", got, want)
	}
	exec(t, prepared, `COMMIT PREPARED 'two phases'`)
	exec(t, sql, `COMMIT`)
	r := <-results
	if r.err != nil {
		t.Fatal(r.err)
	}
	if r.snapshot.Xmin < since.Xmax || !r.snapshot.Sees(x) || !r.snapshot.Sees(y) || r.snapshot.Sees(younger) {
		t.Errorf("Quiesce(%s) = %s", since, r.snapshot)
	}

	// Nothing to wait for: at once, and silent.
	if _, err := g.Quiesce(t.Context(), since, func([]Pin) { t.Error("progress without need") }); err != nil {
		t.Error(err)
	}
}

func TestQuiesceEndsWithItsContext(t *testing.T) {
	t.Parallel()
	url := pgtest.Start(t, pgtest.Options{}).URL("postgres")
	g, sql, other := open(t, url), connect(t, url), connect(t, url)
	writer(t, sql)
	writer(t, other)
	exec(t, other, `COMMIT`)
	since, _, err := g.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := g.Quiesce(ctx, since, func([]Pin) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("Quiesce = %v, want context.Canceled", err)
	}
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t)
	url := server.Database(t)
	g, sql := open(t, url), connect(t, url)
	id := g.Identity()
	if want := ask[string](t, sql, `SELECT system_identifier::text FROM pg_control_system()`); id.SystemID != want {
		t.Errorf("system %q, want %q", id.SystemID, want)
	}
	if want := ask[string](t, sql, `SELECT current_database()::text`); id.Database != want || id.Timeline != 1 || id.ServerVersion < 140000 {
		t.Errorf("identity %+v", id)
	}
	if other := open(t, server.URL("postgres")).Identity(); other == id || other.SystemID != id.SystemID {
		t.Errorf("identity %+v, and of another database %+v", id, other)
	}
}

// A standby is refused, also one that was the primary before; after its promotion it is another life of the same
// database.
func TestStandbyIsRefusedAndPromotionShows(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	url := server.URL("postgres")
	g := open(t, url)
	if err := g.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.Stop(t)
	signal := filepath.Join(server.Dir, "data", "standby.signal")
	owner, err := os.Stat(filepath.Dir(signal))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if stat, ok := owner.Sys().(*syscall.Stat_t); ok { // the server's own user, which need not be ours
		if err := os.Chown(signal, int(stat.Uid), int(stat.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	server.Start(t)
	if _, err := Open(t.Context(), url, nil); !errors.Is(err, ErrStandby) {
		t.Fatalf("Open on a standby = %v, want ErrStandby", err)
	}
	sql := connect(t, url)
	if !ask[bool](t, sql, `SELECT pg_promote()`) {
		t.Fatal("not promoted")
	}
	if promoted := open(t, url).Identity(); promoted.SystemID != g.Identity().SystemID || promoted.Timeline != 2 {
		t.Errorf("identity %+v, and after a promotion %+v", g.Identity(), promoted)
	}
}

func TestBrokenConnectionStaysBroken(t *testing.T) {
	t.Parallel()
	url := pgtest.Shared(t).Database(t)
	g, sql := open(t, url), connect(t, url)
	exec(t, sql, fmt.Sprintf(`SELECT pg_terminate_backend(%d, 10000)`, g.conn.PgConn().PID()))
	for range 2 {
		if _, _, err := g.Snapshot(t.Context()); err == nil {
			t.Error("Snapshot on a terminated connection succeeds")
		}
	}
}
