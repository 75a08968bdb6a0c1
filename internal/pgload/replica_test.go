package pgload_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/mvcc"
)

// pair is a primary with one database, and its standby.
type pair struct {
	primary *pgtest.Server
	standby *pgtest.StandbyServer
	url     string // of the database on the primary
	there   string // on the standby
	name    string
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{primary: pgtest.Start(t, pgtest.Options{Settings: map[string]string{"wal_keep_size": "256MB"}})}
	p.url = p.primary.Database(t)
	p.primary.Exec(t, p.url, tables)
	p.standby = pgtest.Standby(t, p.primary, pgtest.Options{})
	p.name = p.primary.Ask(t, p.url, "SELECT current_database()::text")
	p.there = p.standby.URL(p.name)
	return p
}

func (p *pair) replica(t *testing.T, url string) *pgload.Replica {
	t.Helper()
	r, err := pgload.OpenReplica(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// rename writes and returns the transaction's stamp.
func (p *pair) rename(t *testing.T, name string) fence.Stamp {
	t.Helper()
	x, err := mvcc.ParseXID(p.primary.Ask(t, p.url, "UPDATE product SET name = '"+name+"' WHERE id = 1 RETURNING pg_current_xact_id()::text"))
	if err != nil {
		t.Fatal(err)
	}
	end, err := mvcc.ParseLSN(p.primary.Ask(t, p.url, "SELECT pg_current_wal_insert_lsn()::text"))
	if err != nil {
		t.Fatal(err)
	}
	return fence.Stamp{XID: x, End: end}
}

type loader interface {
	Load(ctx context.Context, sql string, result rule.Result, args []textArg) (pgload.Loaded, error)
}

func loadName(t *testing.T, l loader) pgload.Loaded {
	t.Helper()
	got, err := l.Load(t.Context(), "SELECT name FROM public.product WHERE id = $1", rule.One, texts("1"))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestReplica loads from a standby that is paused, resumed, restarted and promoted: what it says of itself decides.
func TestReplica(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	r := p.replica(t, p.there)
	primary, err := pgload.Open(t.Context(), p.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(primary.Close)
	server := loadName(t, primary).Server
	first := p.rename(t, "first")
	p.standby.CatchUp(t)
	got := loadName(t, r)
	if string(got.Payload) != `{"name":"first"}` || got.Refuse != "" || !got.Coverage.Covers(first) || !got.Coverage.Standby() || got.Server != server {
		t.Errorf("Load = %s %+v, want it to cover %+v from %+v", got.Payload, got, first, server)
	}
	p.standby.Pause(t)
	second := p.rename(t, "second")
	if got := loadName(t, r); string(got.Payload) != `{"name":"first"}` || got.Coverage.Covers(second) {
		t.Errorf("paused: Load = %s %+v", got.Payload, got)
	}
	p.standby.Restart(t)
	p.standby.CatchUp(t)
	eventually(t, func() error {
		_, err := r.Load(t.Context(), "SELECT 1 AS one", rule.One, nil)
		return err
	})
	if got := loadName(t, r); string(got.Payload) != `{"name":"second"}` || !got.Coverage.Covers(second) || got.Server != server {
		t.Errorf("restarted: Load = %s %+v", got.Payload, got)
	}
	// An ordinary load that finds itself on a standby is its caller's alone.
	ordinary, err := pgload.Open(t.Context(), p.there)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ordinary.Close)
	for range 2 {
		if got := loadName(t, ordinary); !strings.Contains(got.Refuse, "standby") || !got.Coverage.IsZero() {
			t.Errorf("ordinary load from a standby: %+v", got)
		}
	}
	p.standby.Promote(t)
	if got := loadName(t, r); got.Refuse != "" || got.Coverage.Standby() || got.Server.System != server.System || got.Server.Timeline != server.Timeline+1 {
		t.Errorf("promoted: Load = %+v, want a primary's, of another timeline than %+v", got, server)
	}
	if got := loadName(t, ordinary); got.Refuse != "" || got.Server.Timeline != server.Timeline+1 {
		t.Errorf("promoted: ordinary load = %+v", got)
	}
}

// TestReplicaRunsCode: the position is one from before the code's snapshot, whatever is replayed while the code runs
// (T12); code does not run where nobody could use what it loads, and its own error is no answer.
func TestReplicaRunsCode(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	r := p.replica(t, p.there)
	first := p.rename(t, "first")
	p.standby.CatchUp(t)
	var later fence.Stamp
	names := func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
		var before, after string
		if err := q.QueryRow(ctx, "SELECT name FROM product WHERE id = 1").Scan(&before); err != nil {
			return nil, false, err
		}
		later = p.rename(t, "later") //nolint:contextcheck // the writer's is not the load's
		p.standby.CatchUp(t)         //nolint:contextcheck // likewise
		err := q.QueryRow(ctx, "SELECT name FROM product WHERE id = 1").Scan(&after)
		return []byte(before + ", " + after), true, err
	}
	every := func(*pgload.Loaded) bool { return true }
	got, err := r.LoadFunc(t.Context(), names, every)
	if err != nil || string(got.Payload) != "first, first" || !got.Found || got.Refuse != "" || got.Server.Timeline != 1 {
		t.Fatalf("LoadFunc = %s %+v, %v", got.Payload, got, err)
	}
	if !got.Coverage.Standby() || !got.Coverage.Covers(first) || got.Coverage.Covers(later) {
		t.Errorf("coverage %v, want %v and not %v in it", got.Coverage, first, later)
	}
	ran := false
	got, err = r.LoadFunc(t.Context(), func(context.Context, pgload.Querier) ([]byte, bool, error) {
		ran = true
		return nil, true, nil
	}, func(l *pgload.Loaded) bool { return !l.Coverage.Covers(later) })
	if err != nil || ran || !got.Coverage.Covers(later) {
		t.Errorf("not enough: LoadFunc = %+v, %v, and the code ran: %v", got, err, ran)
	}
	fails := func(context.Context, pgload.Querier) ([]byte, bool, error) { return nil, false, errNotYet }
	if got, err = r.LoadFunc(t.Context(), fails, every); err != nil || !strings.Contains(got.Refuse, errNotYet.Error()) {
		t.Errorf("code that fails: LoadFunc = %+v, %v", got, err)
	}
	forgives := func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
		var one int
		_ = q.QueryRow(ctx, "SELECT 1 / 0").Scan(&one)
		return []byte("1"), true, nil
	}
	if got, err = r.LoadFunc(t.Context(), forgives, every); err != nil || !strings.Contains(got.Refuse, "rollback") {
		t.Errorf("code that passes over a failure: LoadFunc = %+v, %v", got, err)
	}
	// A caller's pool with other settings, which code must not see either.
	tokyo := pgload.NewReplica(pool(t, p.there, "SET TimeZone = 'Asia/Tokyo'").Pool())
	made := func(ctx context.Context, q pgload.Querier) (text []byte, found bool, err error) {
		err = q.QueryRow(ctx, "SELECT made::text FROM product WHERE id = 1").Scan(&text)
		return text, true, err
	}
	if got, err = tokyo.LoadFunc(t.Context(), made, every); err != nil || string(got.Payload) != "2024-01-01 08:00:00+00" || !got.Coverage.Standby() {
		t.Errorf("other settings: LoadFunc = %s %+v, %v", got.Payload, got, err)
	}
	p.standby.Promote(t)
	if got, err = r.LoadFunc(t.Context(), made, every); err != nil || got.Coverage.Standby() || got.Refuse != "" || got.Server.Timeline != 2 {
		t.Errorf("promoted: LoadFunc = %+v, %v", got, err)
	}
}

// TestReplicaOfAnotherTimeline has two standbys of one primary, of which one is promoted and the other stays behind:
// the one that follows the new primary says so, the other does not.
func TestReplicaOfAnotherTimeline(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	left := pgtest.Standby(t, p.primary, pgtest.Options{})
	left.Cut(t) // or it would get log of the old timeline past the promotion, and could not follow any more
	p.primary.Exec(t, p.url, "UPDATE product SET name = 'before' WHERE id = 1")
	p.standby.CatchUp(t)
	p.standby.Promote(t)
	follower := pgtest.Standby(t, p.standby.Server, pgtest.Options{})
	for _, tt := range []struct {
		name string
		url  string
		want uint32
	}{
		{"left behind", left.URL(p.name), 1}, {"follows", follower.URL(p.name), 2},
	} {
		if got := loadName(t, p.replica(t, tt.url)); got.Server.Timeline != tt.want || got.Refuse != "" {
			t.Errorf("%s: Load = %+v, want timeline %d", tt.name, got, tt.want)
		}
	}
	// The other one changes sides while it runs. Who may see the receiver need not wait for a restart point.
	left.Exec(t, left.URL("postgres"), `ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=`+port(p.standby.Server)+` user=postgres'`, `SELECT pg_reload_conf()`)
	r := p.replica(t, left.URL(p.name))
	p.standby.Exec(t, p.standby.URL(p.name), "UPDATE product SET name = 'after' WHERE id = 1")
	eventually(t, func() error {
		if got := loadName(t, r); string(got.Payload) != `{"name":"after"}` || got.Server.Timeline != 2 {
			return errNotYet
		}
		return nil
	})
}

// TestPositionReadInTheQueryClaimsTooMuch shows T11 and T12 on a server: a position that the query itself reads, or one
// that a transaction reads whose snapshot is older, is past what the rows have. Replay goes on between the two.
func TestPositionReadInTheQueryClaimsTooMuch(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.rename(t, "old")
	p.standby.CatchUp(t)
	conn, err := pgx.Connect(t.Context(), p.there)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	behind := func(name string) (x fence.Stamp) {
		x = p.rename(t, name)
		p.standby.CatchUp(t)
		return x
	}
	for _, tt := range []struct {
		name, level string
		unsafe      bool
	}{
		{"a statement of REPEATABLE READ fixed the snapshot (T12)", "REPEATABLE READ", true},
		{"each statement has a snapshot of its own", "READ COMMITTED", false},
	} {
		tx, err := conn.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.TxIsoLevel(strings.ToLower(tt.level)), AccessMode: pgx.ReadOnly})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), "SELECT 1"); err != nil {
			t.Fatal(err)
		}
		x := behind("new under " + tt.level)
		var name, position string
		if err := tx.QueryRow(t.Context(), "SELECT pg_last_wal_replay_lsn()::text").Scan(&position); err != nil {
			t.Fatal(err)
		}
		if err := tx.QueryRow(t.Context(), "SELECT name FROM product WHERE id = 1").Scan(&name); err != nil {
			t.Fatal(err)
		}
		_ = tx.Rollback(t.Context())
		at, err := mvcc.ParseLSN(position)
		if err != nil {
			t.Fatal(err)
		}
		claims := (fence.Coverage{Replay: at}).Covers(x)
		if has := name == "new under "+tt.level; claims && !has != tt.unsafe {
			t.Errorf("%s: the position claims the change: %v, the row has it: %v", tt.name, claims, has)
		}
	}
	// T11: the statement's snapshot is taken, then it waits while replay goes on, then it reads the position.
	var waited fence.Stamp
	done := make(chan struct{})
	reader, err := pgx.Connect(t.Context(), p.there)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close(context.Background()) }()
	var name, position string
	go func() {
		defer close(done)
		err = reader.QueryRow(t.Context(), `SELECT (SELECT name FROM product WHERE id = 1), pg_last_wal_replay_lsn()::text FROM pg_sleep(1)`).Scan(&name, &position)
	}()
	eventually(t, func() error {
		if p.standby.Ask(t, p.there, "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event = 'PgSleep'") != "1" {
			return errNotYet
		}
		return nil
	})
	waited = behind("while it waits")
	<-done
	if err != nil {
		t.Fatal(err)
	}
	at, err := mvcc.ParseLSN(position)
	if err != nil {
		t.Fatal(err)
	}
	if !(fence.Coverage{Replay: at}).Covers(waited) || name == "while it waits" {
		t.Errorf("position %v of a row %q: the test did not come between", at, name)
	}
}

// TestReplicaReadsItsPositionFirst is T11 and T12 of the loader itself: replay goes on while its query runs, and what it says of
// the value is the position from before; and each of its statements has a snapshot of its own, so that the one of the query
// is not older than the position.
func TestReplicaReadsItsPositionFirst(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.rename(t, "old")
	p.standby.CatchUp(t)
	r := p.replica(t, p.there)
	type answer struct {
		loaded pgload.Loaded
		err    error
	}
	done := make(chan answer, 1)
	go func() {
		const slow = "SELECT name, current_setting('transaction_isolation') AS level FROM public.product, pg_sleep(1) WHERE id = $1"
		loaded, err := r.Load(context.Background(), slow, rule.One, texts("1"))
		done <- answer{loaded, err}
	}()
	eventually(t, func() error {
		if p.standby.Ask(t, p.there, "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event = 'PgSleep'") != "1" {
			return errNotYet
		}
		return nil
	})
	x := p.rename(t, "new")
	p.standby.CatchUp(t)
	select {
	case <-done:
		t.Fatal("the load was over before the change was replayed: this test shows nothing")
	default:
	}
	a := <-done
	if a.err != nil || a.loaded.Refuse != "" || string(a.loaded.Payload) != `{"name":"old","level":"read committed"}` {
		t.Fatalf("Load = %s %+v, %v", a.loaded.Payload, a.loaded, a.err)
	}
	if !a.loaded.Coverage.Standby() || a.loaded.Coverage.Covers(x) {
		t.Errorf("the old row is said to contain the change: %+v, which ends at %v", a.loaded.Coverage, x.End)
	}
}

// TestStandbySnapshotClaimsTooMuch is T6 on a server: a standby's snapshot lists nothing as running, and so claims a
// transaction that is open on the primary.
func TestStandbySnapshotClaimsTooMuch(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	conn, err := pgx.Connect(t.Context(), p.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var open string
	if err := tx.QueryRow(t.Context(), "UPDATE product SET name = 'open' WHERE id = 1 RETURNING pg_current_xact_id()::text").Scan(&open); err != nil {
		t.Fatal(err)
	}
	x, err := mvcc.ParseXID(open)
	if err != nil {
		t.Fatal(err)
	}
	later := p.primary.Ask(t, p.url, "UPDATE product SET name = 'later' WHERE id = 2 RETURNING pg_current_xact_id()::text")
	if later <= open {
		t.Fatalf("transaction %s is not after %s", later, open)
	}
	p.standby.CatchUp(t)
	snapshot, err := mvcc.ParseSnapshot(p.standby.Ask(t, p.there, "SELECT pg_current_snapshot()::text"))
	if err != nil {
		t.Fatal(err)
	}
	if !snapshot.Sees(x) {
		t.Errorf("the standby's snapshot %v does not claim the open transaction %v: it could be used", snapshot, x)
	}
	if got := loadName(t, p.replica(t, p.there)); !got.Coverage.Snapshot.IsZero() || got.Coverage.Replay == 0 {
		t.Errorf("Load = %+v, want a position and no snapshot", got)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}
