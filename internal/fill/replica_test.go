package fill_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// withStandby is a world whose database has a hot standby, and a reader that uses it.
type withStandby struct {
	*world

	standby *pgtest.StandbyServer
	replica *pgload.Replica
	r       *fill.Reader
}

func newStandby(t *testing.T) *withStandby {
	t.Helper()
	w := &withStandby{world: newWorld(t, options{ownPostgres: true})}
	w.attach(t)
	w.r = w.readerWith(nil, w.replica)
	return w
}

// attach makes the standby.
func (w *withStandby) attach(t *testing.T) {
	t.Helper()
	w.standby = pgtest.Standby(t, w.pg, pgtest.Options{})
	var err error
	if w.replica, err = pgload.OpenReplica(t.Context(), w.standby.URL(w.pg.Ask(t, w.url, "SELECT current_database()::text"))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.replica.Close)
}

// readerWith is a reader that takes the daemon to follow, which here is the test's own hand.
func (w *withStandby) readerWith(store fill.Store, replicas ...fill.Replica) *fill.Reader {
	w.t.Helper()
	return w.readerFollowed(store, -1, time.Minute, replicas...)
}

func (w *withStandby) readerFollowed(store fill.Store, followed, ttl time.Duration, replicas ...fill.Replica) *fill.Reader {
	w.t.Helper()
	entries := map[string]fill.Entry{}
	for name, d := range declarations() {
		entries[name] = fill.Entry{Declared: d, TTL: ttl, NegativeTTL: min(ttl, 10*time.Second)}
	}
	return w.open(fill.Options{Store: store, Entries: entries, Replicas: replicas, Followed: followed})
}

// stored reads product id, which is a miss, and returns what was stored for it.
func (w *withStandby) stored(id, p int) fence.Record {
	w.t.Helper()
	v := read(w.t, w.r, id, fill.Miss, price(id, p))
	record, _ := w.record(w.name("product", strconv.Itoa(id)))
	if record.State != fence.Live || !bytes.Equal(record.Payload, v.Payload) {
		w.t.Fatalf("product %d: stored %+v, reason %q", id, record, v.Reason)
	}
	return record
}

func (w *withStandby) outcome(what string) uint64 { return w.r.Stats().Replicas[what] }

// TestReplicaIsUsedWhereItIsRecentEnough has a standby that is paused: it goes on filling what nobody has written, and
// what was written comes from the primary (T13).
func TestReplicaIsUsedWhereItIsRecentEnough(t *testing.T) {
	t.Parallel()
	w := newStandby(t)
	if record := w.stored(1, 10); !record.Coverage.Standby() {
		t.Errorf("coverage %v, want the standby's", record.Coverage)
	}
	w.standby.Pause(t)
	w.change()
	if record := w.stored(1, 11); record.Coverage.Standby() {
		t.Errorf("coverage %v, want the primary's", record.Coverage)
	}
	if behind := w.outcome("behind") + w.outcome("known_behind"); behind != 1 {
		t.Errorf("outcomes %v, want the standby behind for one", w.r.Stats().Replicas)
	}
	if fence.BucketOf(w.name("product", "1")) == fence.BucketOf(w.name("product", "2")) {
		t.Fatal("the test's two keys are in one bucket")
	}
	if record := w.stored(2, 20); !record.Coverage.Standby() {
		t.Errorf("a key that nobody wrote: coverage %v, want the standby's", record.Coverage)
	}
	// It was seen an instant ago: what needs more is not even asked of it.
	w.confirm(w.name("product", "1"))
	if record := w.stored(1, 11); record.Coverage.Standby() || w.outcome("known_behind")+w.outcome("behind") != 2 {
		t.Errorf("coverage %v, %v", record.Coverage, w.r.Stats().Replicas)
	}
	w.standby.Resume(t)
	w.usedAgain(1, 11)
}

// usedAgain waits until a key that was just confirmed is loaded from the standby.
func (w *withStandby) usedAgain(id, p int) {
	w.t.Helper()
	eventually(w.t, func() error {
		// The next record may lie beyond a page's header, which a standby has not replayed before there is one.
		w.pg.Exec(w.t, w.url, "UPDATE product SET price = price WHERE id = 100")
		w.confirm(w.name("product", strconv.Itoa(id)))
		w.standby.CatchUp(w.t)
		if record := w.stored(id, p); !record.Coverage.Standby() {
			return fmt.Errorf("the standby is not used: %v", w.r.Stats().Replicas)
		}
		return nil
	})
}

// TestFloorKeepsALaggingReplicaOut is that test's counterpart: without the floor, the old row is stored for good.
func TestFloorKeepsALaggingReplicaOut(t *testing.T) {
	t.Parallel()
	w := newStandby(t)
	w.standby.Pause(t)
	w.change()
	w.r = w.readerWith(noFloor{w.store}, w.replica)
	if record := w.stored(1, 10); !record.Coverage.Standby() {
		t.Errorf("the old row was not stored, coverage %v: the floor is not what keeps it out", record.Coverage)
	}
	w.confirm(w.name("product", "1"))
	w.r = w.readerWith(nil, w.replica)
	w.stored(1, 11)
}

// noFloor is the store without what standbys are held against.
type noFloor struct{ fill.Store }

func (s noFloor) Lease(ctx context.Context, name string, token fence.Token, lasts time.Duration) (redisstore.LeaseReply, error) {
	reply, err := s.Store.Lease(ctx, name, token, lasts)
	reply.Head.Wi = 0
	return reply, err
}

// TestReplicaGoesAway stops the standby, starts it again, and promotes it.
func TestReplicaGoesAway(t *testing.T) {
	t.Parallel()
	w := newStandby(t)
	w.stored(1, 10)
	w.standby.Stop(t)
	for id := 2; id < 6; id++ {
		if record := w.stored(id, 10*id); record.Coverage.Standby() {
			t.Errorf("coverage %v of a standby that is stopped", record.Coverage)
		}
	}
	if failed, alone := w.outcome("failed"), w.outcome("left_alone"); failed == 0 || alone == 0 {
		t.Errorf("outcomes %v, want a failure, and loads that left it alone", w.r.Stats().Replicas)
	}
	w.standby.Start(t)
	w.standby.CatchUp(t)
	w.usedAgain(6, 60)
	w.standby.Promote(t)
	w.standby.Exec(t, w.standby.URL(w.pg.Ask(t, w.url, "SELECT current_database()::text")), "UPDATE product SET price = 0")
	for id := 10; id < 15; id++ {
		w.stored(id, 10*id) // of the primary that is followed
	}
	if foreign := w.outcome("foreign"); foreign == 0 {
		t.Errorf("outcomes %v, want the promoted one found foreign", w.r.Stats().Replicas)
	}
}

// TestReplicaThatHangs leaves most of the load timeout to the primary.
func TestReplicaThatHangs(t *testing.T) {
	t.Parallel()
	w := newStandby(t)
	hangs := replicaFunc(func(ctx context.Context, _ string, _ rule.Result, _ []keytext.Arg) (pgload.Loaded, error) {
		<-ctx.Done()
		return pgload.Loaded{}, fmt.Errorf("load: %w", ctx.Err())
	})
	w.loads = 2 * hurried
	w.r = w.readerWith(nil, hangs)
	began := time.Now()
	w.stored(1, 10)
	if took := time.Since(began); took > w.loads*3/4 {
		t.Errorf("the reader waited for %v", took)
	}
	// The next reader does not wait for it, unless the machine has stood still for as long as it is left alone.
	for id := 2; w.outcome("left_alone") == 0; id++ {
		if id > 5 {
			t.Fatalf("outcomes %v, want it left alone", w.r.Stats().Replicas)
		}
		w.stored(id, 10*id)
	}
	// With another one that answers, that one is used.
	w.r = w.readerWith(nil, hangs, w.replica)
	const loads = 12
	for id := 10; id < 10+loads; id++ {
		w.stored(id, 10*id)
	}
	// On a busy machine the one that hangs is tried more than once, since it is left alone for longer each time.
	if failed, used := w.outcome("failed"), w.outcome("used"); used < loads*3/4 || failed+used != loads {
		t.Errorf("outcomes %v, want the other replica used", w.r.Stats().Replicas)
	}
}

// TestReplicaStandsStill freezes the standby's processes under the reader's connections.
func TestReplicaStandsStill(t *testing.T) {
	t.Parallel()
	w := newStandby(t)
	w.stored(1, 10)
	there := w.standby.URL("postgres")
	for text := range strings.SplitSeq(w.standby.Ask(t, there, `SELECT string_agg(pid::text, ',') FROM pg_stat_activity WHERE application_name = 'freshet'`), ",") {
		pid, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) }) // it may have been ended meanwhile
	}
	began := time.Now()
	if record := w.stored(2, 20); record.Coverage.Standby() {
		t.Errorf("coverage %v of a standby that stands still", record.Coverage)
	}
	// A quarter of the load timeout for the standby, and a moment for the cancelling.
	if took := time.Since(began); took > unhurried*3/4 {
		t.Errorf("the reader waited for %v", took)
	}
	if w.outcome("failed") != 1 {
		t.Errorf("outcomes %v", w.r.Stats().Replicas)
	}
}

type replicaFunc func(ctx context.Context, sql string, result rule.Result, args []keytext.Arg) (pgload.Loaded, error)

func (f replicaFunc) LoadFunc(context.Context, fill.LoadFunc, func(*pgload.Loaded) bool) (pgload.Loaded, error) {
	return pgload.Loaded{}, errors.ErrUnsupported
}

func (f replicaFunc) Load(ctx context.Context, sql string, result rule.Result, args []keytext.Arg) (pgload.Loaded, error) {
	return f(ctx, sql, result, args)
}

func (f replicaFunc) LoadTagged(ctx context.Context, q pgload.Query, args []keytext.Arg) (pgload.Loaded, error) {
	return f(ctx, q.SQL, q.Result, args)
}

// TestReplicaOfAnotherDatabase is never believed, nor one that leads to the primary itself doubted.
func TestReplicaOfAnotherDatabase(t *testing.T) {
	t.Parallel()
	w := newStandby(t)
	other := pgtest.Shared(t)
	url := other.Database(t)
	other.Exec(t, url, `CREATE TABLE product (id int8 PRIMARY KEY, price int4)`, `INSERT INTO product SELECT i, 1 FROM generate_series(1, 100) i`)
	foreign, err := pgload.OpenReplica(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(foreign.Close)
	w.r = w.readerWith(nil, foreign)
	w.stored(1, 10)
	if w.outcome("foreign") != 1 {
		t.Errorf("outcomes %v", w.r.Stats().Replicas)
	}
	itself, err := pgload.OpenReplica(t.Context(), w.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(itself.Close)
	w.r = w.readerWith(nil, itself)
	w.change()
	if record := w.stored(1, 11); record.Coverage.Standby() || w.outcome("used") != 1 {
		t.Errorf("coverage %v, outcomes %v", record.Coverage, w.r.Stats().Replicas)
	}
}

// TestCodeLoadsFromAReplica where that is recent enough, once, and from the primary otherwise.
func TestCodeLoadsFromAReplica(t *testing.T) {
	t.Parallel()
	w := newStandby(t)
	runs := 0
	stored := func(want string) fence.Record {
		t.Helper()
		v, err := w.r.Get(t.Context(), "code", arg("1"), func(ctx context.Context, q pgload.Querier) (text []byte, found bool, err error) {
			runs++
			err = q.QueryRow(ctx, "SELECT price::text FROM product WHERE id = 1").Scan(&text)
			return text, true, err
		})
		record, _ := w.record(w.name("code", "1"))
		if err != nil || v.Status != fill.Miss || string(v.Payload) != want || string(record.Payload) != want {
			t.Fatalf("Get = %+v, %v; stored %+v", v, err, record)
		}
		return record
	}
	if record := stored("10"); !record.Coverage.Standby() || runs != 1 {
		t.Errorf("coverage %v after %d runs, want the standby's", record.Coverage, runs)
	}
	w.standby.Pause(t)
	w.reprice()
	w.confirm(w.name("code", "1"))
	if record := stored("11"); record.Coverage.Standby() || runs != 2 {
		t.Errorf("coverage %v after %d runs, want the primary's", record.Coverage, runs)
	}
}

// TestBypassLoadsFromThePrimary: there, nothing says how recent a row has to be.
func TestBypassLoadsFromThePrimary(t *testing.T) {
	t.Parallel()
	w := newStandby(t)
	w.standby.Pause(t)
	w.reprice()
	if v, err := w.r.GetUnder(t.Context(), "product", arg("1"), nil, &fill.Demand{Past: true}); err != nil || string(v.Payload) != price(1, 11) {
		t.Errorf("past the cache: %s, %v", v.Payload, err)
	}
	for outcome, n := range w.r.Stats().Replicas {
		if n != 0 {
			t.Errorf("%d loads of outcome %s", n, outcome)
		}
	}
}

// TestTTLIsTheBackstopBehindAStandby: while no daemon follows, no floor is raised, and a standby which stands still would go on filling what
// it has, time to live after time to live. So it is not asked then.
func TestTTLIsTheBackstopBehindAStandby(t *testing.T) {
	t.Parallel()
	w := newStandby(t)
	const ttl = 100 * time.Millisecond
	r, credulous := w.readerFollowed(nil, 0, ttl, w.replica), w.readerFollowed(nil, -1, ttl, w.replica)
	w.standby.Pause(t)
	w.reprice()
	for range 3 {
		read(t, credulous, 1, fill.Miss, price(1, 10))
		if record, _ := w.record(w.name("product", "1")); record.State.Live() && !record.Coverage.Standby() {
			t.Fatalf("coverage %v, want the standby's", record.Coverage)
		}
		pause(t, 2*ttl)
		read(t, r, 1, fill.Miss, price(1, 11))
		pause(t, 2*ttl)
	}
	if n := r.Stats().Replicas["unfollowed"]; n != 3 {
		t.Errorf("outcomes %v", r.Stats().Replicas)
	}
	w.standby.Resume(t)
}

// TestStandbyIsUsedWhileADaemonFollows: as long as HEAD has reached a count that this process asked for not long ago.
func TestStandbyIsUsedWhileADaemonFollows(t *testing.T) {
	t.Parallel()
	w, clock := newStandby(t), &hands{}
	w.clock = clock.now
	w.r = w.readerFollowed(nil, 0, time.Minute, w.replica)
	loads := func(id, p int, standby bool) {
		t.Helper()
		if record := w.stored(id, p); record.Coverage.Standby() != standby {
			t.Errorf("product %d: coverage %v, outcomes %v", id, record.Coverage, w.r.Stats().Replicas)
		}
	}
	loads(1, 10, false) // nothing was asked for yet
	w.ticked(1)
	w.confirm()
	w.standby.CatchUp(t)
	loads(2, 20, true)
	clock.pass(fill.Followed)
	loads(3, 30, true) // at the very bound; HEAD has not reached the second count, which this asks for
	w.ticked(2)
	clock.pass(time.Millisecond)
	loads(4, 40, false)
	w.confirm()
	loads(5, 50, true)
}
