package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/rueidis"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/localserver"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/internal/testkit/servetest"
)

const (
	namespace = "chaos"
	slot      = "chaos"
	ourName   = "chaos" // of the test's own sessions in the database

	// recovery is how long it may take from the end of a fault until the daemon streams and every entry is live.
	recovery = time.Minute
)

// world is what is broken and watched.
type world struct {
	t     *testing.T
	seed  uint64
	pg    *pgtest.Server
	redis *redistest.Server // nil: the store is a cluster
	nodes *nodes            // nil: it is one server
	url   string
	// The configurations of daemons and of applications, which reach the servers by ways of their own.
	daemonFile, readerFile string
	primaryFile            string // of applications that do not load from the replica
	bareFile               string // of applications that hold nothing in their memory
	links                  *links
	clocks                 *clocks
	replica                *pgtest.StandbyServer // of the goroutine that breaks things
	admin                  rueidis.Client        // for what the test does to Redis; nil for a cluster
	store                  *redisstore.Store
	token                  freshet.Token // the cluster's part of every token

	writing     sync.RWMutex // held by writers for a transaction, and by whoever wants none
	ledger      *ledger
	applied     applied
	kept        kept
	sessions    []*session
	calm        atomic.Pointer[time.Time] // since when everything is whole; nil: it is not
	counts      counts
	violations  violations
	truncated   atomic.Int64 // when, as UnixNano
	library     *library
	onPrimary   *library // does not load from the replica
	bare        *library // holds nothing in memory
	psql        *psql
	application *application

	mu      sync.Mutex
	daemons []*servetest.Daemon // those that are meant to run
	started int

	applications uint64 // how many were started
}

// counts are what the summary says.
type counts struct {
	committed, rolledBack, undone, long, truncates atomic.Int64
	prepared, psql, strict, settled                atomic.Int64
	reads, failedReads, compared                   atomic.Int64
	gatewayHits, gatewayOthers, daemons, quiescent atomic.Int64
	verified, lost                                 atomic.Int64
	// Reads that were held against something.
	judged, judgedApplied, witnessed, witnessedReplica atomic.Int64
	byToken, byBound, byStrict, bySession, chapters    atomic.Int64
	byDatabase                                         atomic.Int64

	mu          sync.Mutex
	faults      map[string]int
	generations map[string]bool
}

func (c *counts) gateway(status string) {
	if status == "hit" {
		c.gatewayHits.Add(1)
	} else {
		c.gatewayOthers.Add(1)
	}
}

func (c *counts) fault(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults[name]++
}

// violations are the promises that were seen broken.
type violations struct {
	mu    sync.Mutex
	count int
	texts []string
	said  map[string]int
}

func (w *world) violation(format string, args ...any) {
	const most, alike = 10_000, 3
	text := fmt.Sprintf(format, args...)
	v := &w.violations
	v.mu.Lock()
	defer v.mu.Unlock()
	v.count++
	v.said[text]++
	if v.said[text] <= alike && len(v.texts) < most {
		v.texts = append(v.texts, time.Now().Format("15:04:05.000 ")+text)
	}
}

func (v *violations) read() (count int, texts []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.count, append([]string(nil), v.texts...)
}

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	return newWorldOn(t, seed, nil)
}

// newWorldOn is newWorld where the store is a cluster, unless that is nil.
func newWorldOn(t *testing.T, seed uint64, cluster *nodes) *world {
	t.Helper()
	w := &world{t: t, seed: seed, ledger: newLedger(), clocks: newClocks(t), nodes: cluster}
	w.violations.said = map[string]int{}
	w.counts.faults, w.counts.generations = map[string]int{}, map[string]bool{}
	w.pg = pgtest.Start(t, pgtest.Options{Env: w.clocks.ofDatabase(), Settings: map[string]string{
		"deadlock_timeout": "100ms", "wal_writer_delay": "5s", // a commit that does not wait can be lost for longer
		"max_prepared_transactions": "20",
		"wal_keep_size":             "1GB", // for a replica that was away
	}})
	redisAddress := ""
	if w.nodes == nil {
		// What reached the file survives the process; the snapshot that a rewrite leaves is in it too.
		w.redis = redistest.StartWith(t, localserver.RedisOptions{
			Env: w.clocks.ofRedis(), Args: []string{"--appendonly", "yes", "--appendfsync", "everysec"},
		})
		redisAddress = w.redis.Addr
	}
	w.url = w.pg.Database(t)
	schema := strings.NewReplacer("%ITEMS%", strconv.Itoa(items), "%CATEGORIES%", strconv.Itoa(categories),
		"%PEOPLE%", strconv.Itoa(people), "%RATES%", strconv.Itoa(rates)).Replace(shop)
	w.pg.Exec(t, w.url, strings.Split(schema, ";")...)
	w.links = newLinks(t, redisAddress, fmt.Sprintf("127.0.0.1:%d", w.pg.Port))
	w.follow()
	dir := t.TempDir()
	w.daemonFile, w.readerFile, w.primaryFile = filepath.Join(dir, "daemon.yaml"), filepath.Join(dir, "application.yaml"), filepath.Join(dir, "primary.yaml")
	w.bareFile = filepath.Join(dir, "bare.yaml")
	for file, text := range map[string]string{
		w.daemonFile:  w.configure(w.links.daemonRedis, w.links.daemonDatabase, w.links.daemonReplica),
		w.readerFile:  w.configure(w.links.readerRedis, w.links.readerDatabase, w.links.readerReplica),
		w.primaryFile: w.configure(w.links.readerRedis, w.links.readerDatabase),
		w.bareFile:    w.configure(w.links.readerRedis, w.links.readerDatabase, w.links.readerReplica) + "l1: {size: off}\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	var url string
	if w.nodes != nil {
		url = w.nodes.URL
	} else {
		url = w.redis.URL
		if w.admin, err = rueidis.NewClient(rueidis.ClientOption{
			InitAddress: []string{w.redis.Addr}, DisableCache: true, ForceSingleClient: true,
		}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.admin.Close)
	}
	if w.store, err = redisstore.Open(t.Context(), redisstore.Options{URL: url, Namespace: namespace}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.store.Close)
	if w.token, err = freshet.ParseToken(w.pg.Ask(t, w.url, freshet.TokenSQL)); err != nil {
		t.Fatal(err)
	}
	w.token.XID = 0
	return w
}

// connect opens a session of the test's own.
func (w *world) connect(ctx context.Context) (*pgx.Conn, error) {
	return connectAs(ctx, w.url, ourName)
}

func connectAs(ctx context.Context, url, name string) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, url+"&application_name="+name)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return conn, nil
}

// query runs one statement over a connection of its own and returns the first column, as text, of every row.
func (w *world) query(ctx context.Context, sql string, args ...any) ([]string, error) {
	conn, err := w.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", sql, err)
	}
	texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", sql, err)
	}
	return texts, nil
}

// do sends a command to Redis, which may have just come back.
func (w *world) do(words ...string) error {
	if w.nodes != nil {
		return until(w.t.Context(), func(ctx context.Context) error { return w.nodes.do(ctx, words...) })
	}
	var refused error
	err := until(w.t.Context(), func(ctx context.Context) error {
		err := w.admin.Do(ctx, w.admin.B().Arbitrary(words...).Build()).Error()
		if answer, ok := rueidis.IsRedisErr(err); ok && !answer.IsNil() {
			refused = err
			return nil
		}
		if rueidis.IsRedisNil(err) {
			return nil
		}
		return err
	})
	if err = errors.Join(err, refused); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(words, " "), err)
	}
	return nil
}

// serve starts one more daemon.
func (w *world) serve() *servetest.Daemon {
	w.mu.Lock()
	w.started++
	name := strconv.Itoa(w.started)
	w.mu.Unlock()
	d := servetest.Start(w.t, name, w.daemonFile)
	w.counts.daemons.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.daemons = append(w.daemons, d)
	return d
}

// dismiss takes a daemon off the list of those that are meant to run.
func (w *world) dismiss(d *servetest.Daemon) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, other := range w.daemons {
		if other == d {
			w.daemons = append(w.daemons[:i:i], w.daemons[i+1:]...)
			return
		}
	}
}

// daemon is one of those that are meant to run, or nil.
func (w *world) daemon(choose func(int) int) *servetest.Daemon {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.daemons) == 0 {
		return nil
	}
	return w.daemons[choose(len(w.daemons))]
}

func (w *world) first() *servetest.Daemon { return w.daemon(func(int) int { return 0 }) }

// running are all daemons that are meant to run.
func (w *world) running() []*servetest.Daemon {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*servetest.Daemon(nil), w.daemons...)
}

// diedByThemselves reports the daemons that ended although nobody asked them to.
func (w *world) diedByThemselves() {
	for _, d := range w.running() {
		if how, died := d.Died(); died {
			w.dismiss(d)
			w.violation("daemon %s ended by itself: %s\n%s", d.Name, how, d.Log())
		}
	}
}

// until polls until the check is nil, for as long as recovery may take.
func until(ctx context.Context, check func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, recovery)
	defer cancel()
	var err error
	for {
		if last := check(ctx); last == nil {
			return nil
		} else if ctx.Err() == nil || err == nil {
			err = last
		}
		if ctx.Err() != nil {
			return fmt.Errorf("still not so after %v: %w", recovery, err)
		}
		wait(ctx, 20*time.Millisecond)
	}
}

// whole waits until a daemon streams and every entry is live.
func (w *world) whole(ctx context.Context) error {
	return until(ctx, func(ctx context.Context) error {
		err := errors.New("no daemon runs")
		for _, d := range w.running() {
			if err = d.Live(ctx); err == nil {
				return nil
			}
		}
		return err
	})
}

// load starts writers and readers; the function that it returns stops them.
func (w *world) load() (stop func()) {
	w.t.Helper()
	const writers, libraryReaders, gatewayReaders, witnesses, sessions = 3, 1, 2, 1, 1
	closeLibraries := w.openLibraries()
	lib := w.library
	x, err := openWitness(w.t.Context(), w)
	if err != nil {
		closeLibraries()
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	var working sync.WaitGroup
	source := func(kind, n int) *rand.Rand { return rand.New(rand.NewPCG(w.seed, uint64(kind*100+n))) }
	for n := range writers {
		wr := &writer{w: w, rand: source(1, n), name: fmt.Sprintf("chaos-%d", n), url: w.url, patience: patience}
		if n == 0 { // one that loses its connection, or its patience, during a COMMIT
			wr.url, wr.patience = w.throughProxy(w.links.readerDatabase), time.Second
		}
		working.Go(func() { wr.run(ctx) })
	}
	for n := range libraryReaders {
		working.Go(func() { w.readOn(ctx, "library", lib, source(2, n)) })
	}
	working.Go(func() { w.readOn(ctx, "library on the primary", w.onPrimary, source(2, libraryReaders)) })
	working.Go(func() { w.readOn(ctx, "library without memory", w.bare, source(2, libraryReaders+1)) })
	working.Go(func() { w.crowd(ctx, lib, source(2, 50)) })
	for n := range gatewayReaders {
		working.Go(func() { w.readOn(ctx, "gateway", &gateway{w}, source(3, n)) })
	}
	for n := range witnesses {
		working.Go(func() { x.readOn(ctx, source(4, n)) })
	}
	w.sessions = make([]*session, sessions)
	for n := range w.sessions {
		w.sessions[n] = &session{began: time.Now()}
		working.Go(func() { w.sessions[n].readOn(ctx, w, lib, source(5, n)) })
	}
	w.psql = &psql{w: w, rand: source(6, 0)}
	working.Go(func() { w.psql.run(ctx) })
	w.application = w.startApplication()
	working.Go(func() { w.applied.watch(ctx, w.store) })
	return sync.OnceFunc(func() {
		cancel()
		working.Wait()
		w.application.stop()
		x.close()
		closeLibraries()
	})
}

// openLibraries opens those that read in this process.
func (w *world) openLibraries() (closeAll func()) {
	w.t.Helper()
	var all []*library
	closeAll = func() {
		for _, l := range all {
			l.close()
		}
	}
	for _, file := range []string{w.readerFile, w.primaryFile, w.bareFile} {
		l, err := openLibrary(w.t.Context(), file, nil)
		if err != nil {
			closeAll()
			w.t.Fatal(err)
		}
		all = append(all, l)
	}
	w.library, w.onPrimary, w.bare = all[0], all[1], all[2]
	w.onPrimary.reads = []string{"sure"}
	w.bare.holds = false
	return closeAll
}

// kept says whether the database may have forgotten a commit.
type kept struct {
	mu      sync.Mutex
	doubt   bool
	certain time.Time // since when it cannot have
}

// lose says that it may, from now on.
func (k *kept) lose() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.doubt = true
}

// regain says that what is there is all there is.
func (k *kept) regain() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.doubt {
		k.doubt, k.certain = false, time.Now()
	}
}

// since reports whether the database has forgotten nothing since the moment.
func (k *kept) since(moment time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.doubt && moment.After(k.certain)
}

// wholeSince reports whether nothing has been broken since the moment.
func (w *world) wholeSince(moment time.Time) bool {
	whole := w.calm.Load()
	return whole != nil && whole.Before(moment)
}
