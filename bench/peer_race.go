package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshet/freshet/internal/localserver"
	"github.com/freshet/freshet/mvcc"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"
)

// scheme is one way to keep a cache.
type scheme struct {
	name string
	late time.Duration // how long after a write it still deletes
	open func(ctx context.Context, a *arena) (*entrant, error)
}

// entrant is a scheme at work.
type entrant struct {
	caches [instances]cache
	// position is how far its follower of the log has come. It is nil where the writers say what is applied.
	position func(ctx context.Context) (mvcc.LSN, error)
	follower *child // nil: there is none
	close    func() error
}

// cache is one process's cache.
type cache interface {
	read(ctx context.Context, id int) (value, error)
	// wrote is called by the writer between its COMMIT and whatever it does next.
	wrote(ctx context.Context, u update) error
}

// value is a row as it is cached.
type value struct {
	ID int    `json:"id"`
	V  string `json:"v"`
	N  int64  `json:"n"`  // how often the row was written
	At int64  `json:"at"` // when its load ended, in Unix microseconds
}

// update is a committed write of a row.
type update struct {
	id  int
	n   int64
	xid mvcc.XID
	end mvcc.LSN // the log's end soon after COMMIT, where there is a follower
}

// versions knows how far each row has come, and the scheme's own account of it.
type versions struct {
	committed, applied []atomic.Int64 // by row

	mu   sync.Mutex
	open []update // committed, and not known to be applied
}

func newVersions() *versions {
	return &versions{committed: make([]atomic.Int64, peerRows+1), applied: make([]atomic.Int64, peerRows+1)}
}

// raise raises a number that several writers raise.
func (v *versions) raise(number *atomic.Int64, to int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	number.Store(max(number.Load(), to))
}

func (v *versions) commit(u update) {
	v.raise(&v.committed[u.id], u.n)
	if u.end == 0 {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.open = append(v.open, u)
}

// apply notes that the scheme has dealt with a write: from now on nobody should read less.
func (v *versions) apply(u update) { v.raise(&v.applied[u.id], u.n) }

// reach applies every write up to a position of the log.
func (v *versions) reach(position mvcc.LSN) {
	v.mu.Lock()
	defer v.mu.Unlock()
	later := v.open[:0]
	for _, u := range v.open {
		if u.end > position {
			later = append(later, u)
			continue
		}
		v.applied[u.id].Store(max(v.applied[u.id].Load(), u.n))
	}
	v.open = later
}

// tally is what one run came to.
type tally struct {
	reads int
	hits  int // values that were loaded before the read began
	fresh int // of them, with all that was committed before the read began
	stale int // reads that lack something that was committed before they began
	after int // of them, something that the scheme says it had dealt with
	took  time.Duration
	cpu   usage
	first int // rows whose first read after everything has settled is stale
	left  int // rows that are still stale when read again
}

func (t *tally) add(o *tally) {
	t.reads += o.reads
	t.hits += o.hits
	t.fresh += o.fresh
	t.stale += o.stale
	t.after += o.after
}

// arena is where one scheme runs once: a database of its own, an empty store, and the pools of an application.
type arena struct {
	*subject
	versions *versions
	pools    [instances]*pgxpool.Pool
	standby  *pgxpool.Pool // that every second load asks, if there is one
	lag      time.Duration
	seed     uint64
	loads    atomic.Uint64
}

func newArena(ctx context.Context, b *bench, name string, w workload, standby *localserver.Postgres, seed uint64) (*arena, error) {
	s, err := newSubject(ctx, b, name, peerRows+1) // one row that tells the log's readers where the end is
	if err != nil {
		return nil, err
	}
	a := &arena{subject: s, versions: newVersions(), lag: w.lag, seed: seed}
	if err := a.openPools(ctx, standby); err != nil {
		return nil, errors.Join(err, a.leave(context.WithoutCancel(ctx)))
	}
	return a, nil
}

func (a *arena) openPools(ctx context.Context, standby *localserver.Postgres) (err error) {
	const connections = "&pool_max_conns=20&pool_min_conns=16"
	for i := range a.pools {
		if a.pools[i], err = pgxpool.New(ctx, a.url+connections); err != nil {
			return err
		}
	}
	if standby == nil {
		return nil
	}
	end, err := a.position(ctx)
	if err != nil {
		return err
	}
	if a.standby, err = pgxpool.New(ctx, standby.URL("postgres")); err != nil {
		return err
	}
	if err := a.replayed(ctx, end); err != nil {
		return err
	}
	a.standby.Close()
	a.standby, err = pgxpool.New(ctx, standby.URL(a.namespace)+connections)
	return err
}

// replayed waits until the standby has come to a position.
func (a *arena) replayed(ctx context.Context, end mvcc.LSN) error {
	return until(ctx, 20*time.Second, "the standby", func() (reached bool, err error) {
		err = a.standby.QueryRow(ctx, `SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn`, end.String()).Scan(&reached)
		return reached, err
	})
}

// leave closes the pools and removes the database and everything in the store.
func (a *arena) leave(ctx context.Context) error {
	for _, pool := range append(a.pools[:], a.standby) {
		if pool != nil {
			pool.Close()
		}
	}
	err := a.client.Do(ctx, a.client.B().Flushall().Build()).Error()
	a.close()
	return errors.Join(err, a.b.servers.exec(ctx, a.b.servers.pg.URL("postgres"), `DROP DATABASE `+a.namespace+` WITH (FORCE)`))
}

// replicas are the standby's pool, if there is one.
func (a *arena) replicas() []*pgxpool.Pool {
	if a.standby == nil {
		return nil
	}
	return []*pgxpool.Pool{a.standby}
}

// load reads a row from the primary, or from the standby every second time, and then takes its time.
func (a *arena) load(ctx context.Context, instance, id int) (value, error) {
	pool := a.pools[instance]
	if a.standby != nil && a.loads.Add(1)%2 == 0 {
		pool = a.standby
	}
	return a.loadFrom(ctx, pool, id)
}

type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func (a *arena) loadFrom(ctx context.Context, q querier, id int) (v value, err error) {
	if err := q.QueryRow(ctx, `SELECT id, v, n FROM `+table+` WHERE id = $1`, id).Scan(&v.ID, &v.V, &v.N); err != nil {
		return v, err
	}
	random := rand.New(rand.NewPCG(a.seed, a.loads.Add(2))) //nolint:gosec // measures, guards nothing
	err = pause(ctx, time.Duration(random.Int64N(int64(peerLoad))))
	v.At = time.Now().UnixMicro()
	return v, err
}

// race lets readers and writers run for a while.
func (a *arena) race(ctx context.Context, e *entrant, d time.Duration) (tally, error) {
	before := a.usage(e)
	running, stop := context.WithTimeout(ctx, d)
	defer stop()
	group, running := errgroup.WithContext(running)
	began := time.Now()
	tallies := make([]tally, peerReaders)
	for i := range tallies {
		group.Go(func() error { return a.readRows(ctx, running, e.caches[i%instances], a.rows(i), &tallies[i]) })
	}
	for i := range peerWriters {
		group.Go(func() error { return a.writeRows(ctx, running, e, e.caches[i%instances], a.rows(peerReaders+i)) })
	}
	if e.position != nil {
		group.Go(func() error { return a.follow(ctx, running, e) })
	}
	err := group.Wait()
	all := tally{took: time.Since(began), cpu: a.usage(e).since(before)}
	for i := range tallies {
		all.add(&tallies[i])
	}
	return all, err
}

// rows draws rows for one reader or writer: some far more often than others.
func (a *arena) rows(stream int) func() int {
	random := rand.New(rand.NewPCG(a.seed, uint64(stream))) //nolint:gosec // measures, guards nothing
	zipf := rand.NewZipf(random, 1.1, 10, peerRows-1)
	return func() int { return 1 + int(zipf.Uint64()) } //nolint:gosec // below peerRows
}

func (a *arena) readRows(ctx, running context.Context, c cache, next func() int, t *tally) error {
	for running.Err() == nil {
		id := next()
		applied, committed := a.versions.applied[id].Load(), a.versions.committed[id].Load()
		began := time.Now().UnixMicro()
		v, err := c.read(ctx, id)
		if err != nil {
			return fmt.Errorf("read row %d: %w", id, err)
		}
		t.reads++
		hit := v.At < began
		if hit {
			t.hits++
		}
		switch {
		case v.N < applied:
			t.after++
			t.stale++
		case v.N < committed:
			t.stale++
		case hit:
			t.fresh++
		}
	}
	return nil
}

func (a *arena) writeRows(ctx, running context.Context, e *entrant, c cache, next func() int) error {
	conn, err := pgx.Connect(ctx, a.url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	began := time.Now()
	for n := 0; ; n++ {
		if pause(running, time.Until(began.Add(time.Duration(n)*time.Second*peerWriters/peerRate))) != nil {
			return nil // over
		}
		if err := a.write(ctx, conn, e, c, next()); err != nil {
			return err
		}
	}
}

// write writes a row as an application with the scheme does.
func (a *arena) write(ctx context.Context, conn *pgx.Conn, e *entrant, c cache, id int) error {
	u := update{id: id}
	var xid uint64
	err := conn.QueryRow(ctx, `UPDATE `+table+` SET n = n + 1 WHERE id = $1 RETURNING n, pg_current_xact_id()::text::bigint`, id).
		Scan(&u.n, &xid)
	if err != nil {
		return fmt.Errorf("write row %d: %w", id, err)
	}
	u.xid = mvcc.XID(xid)
	if e.position != nil {
		if u.end, err = logEnd(ctx, conn); err != nil {
			return err
		}
	}
	a.versions.commit(u)
	if err := c.wrote(ctx, u); err != nil {
		return fmt.Errorf("after a write of row %d: %w", id, err)
	}
	return nil
}

func logEnd(ctx context.Context, conn *pgx.Conn) (mvcc.LSN, error) {
	var text string
	if err := conn.QueryRow(ctx, `SELECT pg_current_wal_flush_lsn()::text`).Scan(&text); err != nil {
		return 0, err
	}
	return mvcc.ParseLSN(text)
}

// follow watches how far the scheme's follower has come, until running ends.
func (a *arena) follow(ctx, running context.Context, e *entrant) error {
	for pause(running, 5*time.Millisecond) == nil { // rarely, since it costs what is measured
		position, err := e.position(ctx)
		if err != nil {
			return err
		}
		a.versions.reach(position)
	}
	return nil
}

// judge waits until nothing moves any more, and then reads every row twice through each cache: what is stale at first, and
// what is still stale when loads that the first reads have begun are over.
func (a *arena) judge(ctx context.Context, e *entrant, late time.Duration) (first, left int, err error) {
	if err := a.settle(ctx, e, late); err != nil {
		return 0, 0, err
	}
	if first, err = a.staleRows(ctx, e); err != nil {
		return 0, 0, err
	}
	if err := pause(ctx, 2*peerLoad); err != nil {
		return 0, 0, err
	}
	left, err = a.staleRows(ctx, e)
	return first, left, err
}

func (a *arena) settle(ctx context.Context, e *entrant, late time.Duration) error {
	end, err := a.position(ctx)
	if err != nil {
		return err
	}
	// What follows the log learns where it ends from the next commit.
	if err := a.b.servers.exec(ctx, a.url, fmt.Sprintf(`UPDATE %s SET n = n + 1 WHERE id = %d`, table, peerRows+1)); err != nil {
		return err
	}
	if e.position != nil {
		err := until(ctx, 20*time.Second, "the follower to come to the log's end", func() (bool, error) {
			position, err := e.position(ctx)
			return position >= end, err
		})
		if err != nil {
			return err
		}
	}
	if a.standby != nil {
		if err := a.replayed(ctx, end); err != nil {
			return err
		}
	}
	return pause(ctx, late+a.lag+2*peerLoad)
}

// staleRows counts the rows that at least one cache returns otherwise than they are.
func (a *arena) staleRows(ctx context.Context, e *entrant) (int, error) {
	stored, err := a.stored(ctx)
	if err != nil {
		return 0, err
	}
	var stale [peerRows + 1]atomic.Bool
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(peerReaders)
	for id := 1; id <= peerRows; id++ {
		want := stored[id]
		for _, c := range e.caches {
			group.Go(func() error {
				v, err := c.read(ctx, id)
				switch {
				case err != nil:
					return fmt.Errorf("read row %d: %w", id, err)
				case v.N > want:
					return fmt.Errorf("row %d was written %d times, and %d of them were read", id, want, v.N)
				case v.N < want:
					stale[id].Store(true)
				}
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	count := 0
	for i := range stale {
		if stale[i].Load() {
			count++
		}
	}
	return count, nil
}

// stored reads from the database how often each row was written.
func (a *arena) stored(ctx context.Context) ([]int64, error) {
	rows, err := a.pools[0].Query(ctx, `SELECT n::bigint FROM `+table+` ORDER BY id`)
	if err != nil {
		return nil, err
	}
	written, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	return append([]int64{0}, written...), err // rows count from 1
}
