package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/freshet/freshet/internal/testkit/servetest"
)

// fault breaks something and repairs it; what it leaves broken is for freshet to mend.
type fault struct {
	name    string
	do      func(w *world, r *rand.Rand) error
	short   bool // it is in the short form
	forgets forgetful
}

// forgetful says who comes back without something that had been there.
type forgetful int

const (
	nobody      forgetful = iota
	theStore              // what had been applied may have to be applied again
	theDatabase           // and what had been committed may be gone, or in no log
)

const headKey, rosterKey = "f:" + namespace + ":head", "f:" + namespace + ":roster"

// faults are those of the world; in the short form of a cluster those of its nodes, since the others have been had without one.
func (w *world) faults(short bool) []fault {
	switch {
	case w.nodes != nil && short && *chaosOnly == "":
		return nodeFaults()
	case w.nodes != nil:
		return slices.Concat(nodeFaults(), generalFaults(), replicaFaults())
	}
	return slices.Concat(redisFaults(), generalFaults(), replicaFaults(), networkFaults(), clockFaults())
}

// redisFaults are those of a Redis that is one server.
func redisFaults() []fault {
	return []fault{
		{name: "Redis restarts empty", do: emptyRedis, short: true},
		{name: "Redis loses its last second", do: rollBackRedis, short: true, forgets: theStore},
		{name: "HEAD is evicted", do: evict(headKey)},
		{name: "Redis is killed and has its file", do: killRedis, forgets: theStore},
		{name: "Redis is frozen", do: freezeRedis},
		{name: "Redis kills all connections", do: command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")},
		{name: "Redis pauses", do: command("CLIENT", "PAUSE", "1500", "ALL")},
		{name: "Redis is flushed", do: command("FLUSHALL")},
		{name: "scripts are flushed", do: command("SCRIPT", "FLUSH")},
		{name: "the roster is evicted", do: evict(rosterKey)},
		{name: "HEAD and roster are evicted", do: evict(headKey, rosterKey)},
		{name: "the count is evicted", do: evict("f:" + namespace + ":tick")},
		{name: "records are evicted", do: evictRecords},
		{name: "Redis is full", do: squeeze("noeviction")},
		{name: "Redis evicts at random", do: squeeze("allkeys-random")},
		{name: "Redis becomes a replica", do: becomeReplica},
	}
}

// generalFaults have nothing to do with what the store is.
func generalFaults() []fault {
	return []fault{
		{name: "the daemon is killed", do: killDaemon, short: true},
		{name: "the daemon is frozen", do: freezeDaemon},
		{name: "the database crashes", do: crashDatabase, short: true, forgets: theDatabase},
		{name: "commits hang", do: hangCommits},
		{name: "a second daemon outlives a frozen one", do: zombie, short: true},
		{name: "a second daemon takes over", do: takeOver},
		{name: "the daemon is stopped", do: stopDaemon},
		{name: "the database restarts", do: restartDatabase},
		{name: "the database is frozen", do: freezeDatabase},
		{name: "sessions are terminated", do: terminate},
		{name: "the slot is dropped", do: dropSlot},
		{name: "the publication loses a table", do: alterPublication, forgets: theDatabase},
		{name: "psql is killed", do: killPsql},
		{name: "psql is frozen", do: freezePsql},
		{name: "an application is killed", do: killApplication},
		{name: "an application is frozen", do: freezeApplication},
		{name: "an application is frozen while commits wait for the replica", do: sleepThrough, short: true},
		{name: "an application is frozen while names move", do: sleepThroughMove},
	}
}

// settled waits until a daemon streams, for faults that need to know who does.
func (w *world) settled() error { return w.whole(w.t.Context()) }

// some is a random time of up to the limit.
func (w *world) some(r *rand.Rand, limit time.Duration) {
	wait(w.t.Context(), time.Duration(r.Int64N(int64(limit))))
}

func killDaemon(w *world, r *rand.Rand) error {
	d := w.first()
	w.dismiss(d)
	d.Kill()
	w.some(r, time.Second)
	w.serve()
	return nil
}

func stopDaemon(w *world, r *rand.Rand) error {
	d := w.first()
	w.dismiss(d)
	if err := d.Stop(); err != nil {
		return err
	}
	w.some(r, time.Second)
	w.serve()
	return nil
}

func freezeDaemon(w *world, r *rand.Rand) error {
	d := w.first()
	d.Freeze()
	wait(w.t.Context(), time.Second)
	w.some(r, time.Second)
	d.Thaw()
	return nil
}

// phase waits until a daemon says that it is in the phase.
func (w *world) phase(d *servetest.Daemon, want string) error {
	return until(w.t.Context(), func(ctx context.Context) error {
		s, err := d.Status(ctx)
		if err == nil && s.Phase != want {
			err = fmt.Errorf("daemon %s: %s (%s), want %s", d.Name, s.Phase, s.Problem, want)
		}
		return err
	})
}

// pair starts a daemon beside the one that runs, and says which of them follows the log and which waits: the first may
// have lost its place an instant ago.
func (w *world) pair() (active, waiting *servetest.Daemon, err error) {
	if err := w.settled(); err != nil {
		return nil, nil, err
	}
	old, next := w.first(), w.serve()
	err = until(w.t.Context(), func(ctx context.Context) error {
		a, err := old.Status(ctx)
		if err != nil {
			return err
		}
		b, err := next.Status(ctx)
		switch {
		case err != nil:
		case a.Phase == "streaming" && b.Phase == "standby":
			active, waiting = old, next
		case a.Phase == "standby" && b.Phase == "streaming":
			active, waiting = next, old
		default:
			err = fmt.Errorf("daemon %s: %s (%s), daemon %s: %s (%s)", old.Name, a.Phase, a.Problem, next.Name, b.Phase, b.Problem)
		}
		return err
	})
	return active, waiting, err
}

func takeOver(w *world, r *rand.Rand) error {
	old, next, err := w.pair()
	if err != nil {
		return err
	}
	w.some(r, 500*time.Millisecond)
	w.dismiss(old)
	old.Kill()
	return w.phase(next, "streaming")
}

// zombie has a daemon frozen for so long that another one takes its place, and then go on where it was.
func zombie(w *world, r *rand.Rand) error {
	old, next, err := w.pair()
	if err != nil {
		return err
	}
	w.dismiss(old) // its gateway does not answer
	old.Freeze()
	if err = w.endWalsender(); err == nil {
		err = w.phase(next, "streaming")
	}
	w.some(r, 500*time.Millisecond)
	old.Thaw()
	if err == nil {
		err = w.phase(old, "standby")
	}
	if err == nil {
		err = old.Stop()
	}
	return err
}

func (w *world) endWalsender() error {
	_, err := w.query(w.t.Context(), `SELECT pg_terminate_backend(active_pid)::text FROM pg_replication_slots WHERE slot_name = $1 AND active`, slot)
	return err
}

func killRedis(w *world, r *rand.Rand) error {
	w.redis.Kill(w.t)
	w.some(r, time.Second)
	w.redis.Start(w.t)
	return nil
}

func freezeRedis(w *world, r *rand.Rand) error {
	w.redis.Freeze(w.t)
	defer w.redis.Thaw(w.t)
	wait(w.t.Context(), 200*time.Millisecond)
	w.some(r, 2*time.Second)
	if r.IntN(4) == 0 { // longer than anybody waits for it
		wait(w.t.Context(), 6*time.Second)
	}
	return nil
}

// emptyRedis kills Redis and removes its file.
func emptyRedis(w *world, r *rand.Rand) error {
	dir, err := w.admin.Do(w.t.Context(), w.admin.B().ConfigGet().Parameter("dir").Build()).AsStrMap()
	if err != nil {
		return fmt.Errorf("ask for the directory: %w", err)
	}
	w.redis.Kill(w.t)
	if err := os.RemoveAll(filepath.Join(dir["dir"], "appendonlydir")); err != nil {
		return err
	}
	w.some(r, 500*time.Millisecond)
	w.redis.Start(w.t)
	return nil
}

// rollBackRedis has Redis come back as it was some time ago: with the records and the HEAD of that time.
func rollBackRedis(w *world, r *rand.Rand) error {
	if err := w.do("CONFIG", "SET", "appendonly", "no"); err != nil {
		return err
	}
	wait(w.t.Context(), time.Second)
	w.some(r, time.Second)
	w.redis.Kill(w.t)
	w.redis.Start(w.t)
	return nil
}

func command(words ...string) func(*world, *rand.Rand) error {
	return func(w *world, _ *rand.Rand) error { return w.do(words...) }
}

func evict(names ...string) func(*world, *rand.Rand) error {
	return command(append([]string{"DEL"}, names...)...)
}

// evictRecords deletes half of the records, a while long.
func evictRecords(w *world, r *rand.Rand) error {
	for range 5 {
		names, err := w.keys(w.t.Context())
		if err != nil {
			return err
		}
		for _, name := range names {
			if r.IntN(2) == 0 {
				if err := w.do("DEL", name); err != nil {
					return err
				}
			}
		}
		w.some(r, 200*time.Millisecond)
	}
	return nil
}

// squeeze leaves Redis no memory for a while. By its policy it then refuses what is new, or forgets what it has.
func squeeze(policy string) func(*world, *rand.Rand) error {
	return func(w *world, r *rand.Rand) error {
		err := errors.Join(
			w.do("CONFIG", "SET", "maxmemory-policy", policy),
			w.do("CONFIG", "SET", "maxmemory", strconv.Itoa(900<<10)))
		wait(w.t.Context(), time.Second)
		w.some(r, time.Second)
		return errors.Join(err, w.do("CONFIG", "SET", "maxmemory", "0"), w.do("CONFIG", "SET", "maxmemory-policy", "noeviction"))
	}
}

// becomeReplica makes Redis follow a server that is not there: it becomes read-only, and begins a new history afterwards.
func becomeReplica(w *world, r *rand.Rand) error {
	err := w.do("REPLICAOF", "127.0.0.1", "1")
	w.some(r, time.Second)
	return errors.Join(err, w.do("REPLICAOF", "NO", "ONE"))
}

func restartDatabase(w *world, _ *rand.Rand) error {
	w.pg.Restart(w.t)
	return nil
}

func freezeDatabase(w *world, r *rand.Rand) error {
	thaw := w.pg.Freeze(w.t)
	defer thaw()
	wait(w.t.Context(), 200*time.Millisecond)
	w.some(r, 3*time.Second)
	return nil
}

// crashDatabase kills the database just after a commit that nobody waits for was read and cached. It is lost.
func crashDatabase(w *world, r *rand.Rand) error {
	read, err := w.killUnflushed()
	w.some(r, 500*time.Millisecond)
	w.pg.Start(w.t)
	if err != nil {
		return err
	}
	left, err := w.query(w.t.Context(), "SELECT v::text FROM items WHERE id > 4")
	for _, version := range read {
		if !slices.Contains(left, version) {
			w.counts.lost.Add(1)
		}
	}
	return err
}

// killUnflushed kills the database whatever goes wrong, and returns the versions that were cached of the lost commit.
// Nobody else writes meanwhile: any other commit would flush that one.
func (w *world) killUnflushed() (read []string, err error) {
	w.writing.Lock()
	defer w.writing.Unlock()
	defer w.pg.Kill(w.t)
	ctx := w.t.Context()
	conn, err := w.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, sql := range []string{
		fmt.Sprintf("SELECT pg_advisory_lock(%d)", quietLock), "SET synchronous_commit = off",
		"UPDATE items SET v = nextval('versions'), name = 'never was' WHERE id > 4",
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return nil, fmt.Errorf("%s: %w", sql, err)
		}
	}
	names, err := w.keys(ctx)
	for _, name := range names {
		err = errors.Join(err, w.do("DEL", name))
	}
	if err != nil {
		return nil, err
	}
	var (
		group errgroup.Group
		mu    sync.Mutex
	)
	for id := int64(5); id <= items; id++ {
		group.Go(func() error { // not from the replica, which does not have it
			value, err := w.onPrimary.read(ctx, "sure", id, &ask{})
			if err != nil || value == "" {
				return err
			}
			version, err := versionOf(value)
			mu.Lock()
			defer mu.Unlock()
			read = append(read, strconv.FormatInt(version, 10))
			return err
		})
	}
	err = group.Wait()
	return read, err
}

// hangCommits has commits wait for a standby that is not there: they are in the log, and the daemon reads them, before
// any reader can see what they did.
func hangCommits(w *world, r *rand.Rand) error {
	w.pg.Exec(w.t, w.url, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()")
	wait(w.t.Context(), 500*time.Millisecond)
	w.some(r, time.Second)
	w.pg.Exec(w.t, w.url, "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
	return nil
}

// terminate ends some of the sessions: of freshet, and of writers.
func terminate(w *world, r *rand.Rand) error {
	for range 3 {
		_, err := w.query(w.t.Context(), `SELECT pg_terminate_backend(pid)::text FROM (
			SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name <> $1
				AND backend_type IN ('client backend', 'walsender') ORDER BY random() LIMIT $2) s`, ourName, 1+r.IntN(3))
		if err != nil {
			return err
		}
		w.some(r, 400*time.Millisecond)
	}
	return nil
}

// dropSlot takes the slot away while no daemon holds it.
func dropSlot(w *world, r *rand.Rand) error {
	d := w.first()
	w.dismiss(d)
	d.Kill()
	err := until(w.t.Context(), func(ctx context.Context) error {
		_, err := w.query(ctx, "SELECT pg_drop_replication_slot($1)::text", slot)
		if err != nil && strings.Contains(err.Error(), "does not exist") {
			err = nil
		}
		return err
	})
	w.some(r, 500*time.Millisecond)
	w.serve()
	return err
}

// alterPublication takes a table out of the stream. The daemon looks at the publication every other second; until it
// has noticed, it cannot know.
func alterPublication(w *world, _ *rand.Rand) error {
	if err := w.settled(); err != nil {
		return err
	}
	d := w.first()
	before, err := d.Status(w.t.Context())
	if err != nil {
		return err
	}
	w.pg.Exec(w.t, w.url, "ALTER PUBLICATION chaos DROP TABLE items")
	return until(w.t.Context(), func(ctx context.Context) error {
		now, err := d.Status(ctx)
		if err == nil && now.Gaps == before.Gaps {
			err = errors.New("the daemon does not notice that its publication was altered")
		}
		return err
	})
}
