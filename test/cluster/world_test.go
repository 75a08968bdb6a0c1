package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/near"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/internal/verify"
	"github.com/freshet/freshet/mvcc"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	rows     = 96 // some in every lane
	patience = 40 * time.Second
)

func declared() rule.Declared {
	return rule.Declared{Name: "item", Key: "item:{id}", Query: "SELECT id, n FROM item WHERE id = @id", Result: rule.One}
}

// compiled is what planning makes of it.
func compiled(context.Context, *pgx.Conn, []rule.Declared, bool) (*pipeline.Compiled, error) {
	d := declared()
	e := &rule.Entry{
		Name: d.Name, Definition: d.Digest(), Key: d.Key, Params: []rule.Param{{Name: "id", Type: keytext.Int4}},
		SQL: "SELECT item.id AS id, item.n AS n FROM public.item WHERE item.id = $1", Result: d.Result,
		Rules: []rule.Rule{{Schema: "public", Table: "item", Bind: []string{"id"}, Columns: []string{"id", "n"}}},
	}
	e.Version = e.Hash()
	return &pipeline.Compiled{Entries: []*rule.Entry{e}, Tables: []schema.Name{{Schema: "public", Name: "item"}}}, nil
}

// world is a primary with a standby, a Redis Cluster, a daemon, and two processes that read, one of them through the standby.
type world struct {
	t         *testing.T
	primary   *pgtest.Server
	standby   *pgtest.StandbyServer
	redis     *redistest.Cluster
	url       string
	namespace string
	system    string
	store     *redisstore.Store // the daemon's
	stop      func()
	pipeline  *pipeline.Pipeline
	readers   [2]*fill.Reader
}

func newWorld(t *testing.T, replicas bool) *world {
	t.Helper()
	return newWorldOn(t, redistest.StartCluster(t, 3, replicas))
}

func newWorldOn(t *testing.T, redis *redistest.Cluster) *world {
	t.Helper()
	w := &world{t: t, primary: pgtest.Start(t, pgtest.Options{}), namespace: redistest.Namespace(t), redis: redis}
	w.url = w.primary.Database(t)
	w.primary.Exec(t, w.url, `CREATE TABLE item (id int PRIMARY KEY, n int NOT NULL)`,
		fmt.Sprintf(`INSERT INTO item SELECT g, 0 FROM generate_series(1, %d) g`, rows))
	w.standby = pgtest.Standby(t, w.primary, pgtest.Options{})
	w.system = w.primary.Ask(t, w.url, `SELECT system_identifier::text FROM pg_control_system()`)
	w.store = w.open(nil)
	w.follow()
	replica, err := pgload.OpenReplica(t.Context(), w.standby.URL(w.primary.Ask(t, w.url, "SELECT current_database()::text")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(replica.Close)
	w.readers = [2]*fill.Reader{w.reader(near.New(1 << 20)), w.reader(nil, replica)}
	w.live()
	return w
}

// open is a store of its own, as another process has it, which may hold records in its memory.
func (w *world) open(held *near.Store) *redisstore.Store {
	w.t.Helper()
	options := redisstore.Options{URL: w.redis.URL, Namespace: w.namespace}
	if held != nil {
		options.Near = held
	}
	s, err := redisstore.Open(w.t.Context(), options)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	return s
}

func (w *world) reader(held *near.Store, replicas ...fill.Replica) *fill.Reader {
	w.t.Helper()
	loader, err := pgload.Open(w.t.Context(), w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(loader.Close)
	r, err := fill.New(fill.Options{
		Namespace: w.namespace, Store: w.open(held), Loader: loader, Replicas: replicas, Followed: -1, Near: held,
		Entries: map[string]fill.Entry{"item": {Declared: declared(), TTL: time.Hour, LoadTimeout: 5 * time.Second, Near: true}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(r.Close)
	return r
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

// follow runs a daemon until stop.
func (w *world) follow() {
	w.t.Helper()
	w.pipeline = pipeline.New(pipeline.Options{
		URL: w.url, Slot: "cluster", Publication: "freshet", Namespace: w.namespace, Store: pipeline.StoreOf(w.store),
		Logger: slog.New(slog.NewTextHandler(testWriter{w.t}, nil)), Compile: compiled,
	})
	p := w.pipeline
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(w.stop)
}

// live waits until the daemon follows the log and all lanes are vouched for.
func (w *world) live() {
	w.t.Helper()
	testkit.Eventually(w.t, patience, func() error {
		st := w.pipeline.Status()
		if st.Phase != pipeline.Streaming || len(st.Entries) != 1 || st.Entries[0].Suspended != "" {
			return fmt.Errorf("not live: %+v", st)
		}
		return w.whole()
	})
}

// whole says which lanes are not vouched for.
func (w *world) whole() error {
	head, found, err := w.store.Head(w.t.Context())
	if err != nil || !found {
		return fmt.Errorf("no HEAD: %w", err)
	}
	for lane, h := range head.Lanes {
		if h.Generation == "" || h.Revision != head.Revision {
			return fmt.Errorf("lane %d has HEAD %+v", lane, h)
		}
	}
	return nil
}

func (w *world) connect(ctx context.Context) *pgx.Conn {
	conn, err := pgx.Connect(ctx, w.url)
	if err != nil {
		w.t.Error(err)
	}
	return conn
}

func key(id int) []keytext.Arg { return []keytext.Arg{{Text: strconv.Itoa(id)}} }

// laneOf is the lane of an item.
func laneOf(id int) int { return fence.LaneOf("item:" + strconv.Itoa(id)) }

// number is what a value says of the item.
func number(v fill.Value) int {
	var item struct {
		N int `json:"n"`
	}
	_ = json.Unmarshal(v.Payload, &item)
	return item.N
}

// load is writers and readers at work.
type load struct {
	cancel context.CancelFunc
	all    sync.WaitGroup
	reads  atomic.Int64
	hits   atomic.Int64
}

// work has some write, each of whom then reads what was written, with a token or compared with the database, through either
// process, and others read anything.
func (w *world) work() *load {
	l := &load{}
	ctx, cancel := context.WithCancel(w.t.Context())
	l.cancel = cancel
	for i := range 2 {
		l.all.Go(func() {
			conn := w.connect(ctx)
			if conn == nil {
				return
			}
			defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
			random := rand.New(rand.NewPCG(uint64(i), 7))
			for ctx.Err() == nil {
				w.writeAndRead(ctx, conn, 1+random.IntN(rows), w.readers[random.IntN(2)])
			}
		})
		l.all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 8))
			for ctx.Err() == nil {
				v, err := w.readers[i].Get(ctx, "item", key(1+random.IntN(rows)), nil)
				if err != nil && ctx.Err() == nil {
					w.t.Errorf("read: %v", err)
				}
				l.reads.Add(1)
				if v.Status == fill.Hit {
					l.hits.Add(1)
				}
			}
		})
	}
	return l
}

// end stops the work.
func (l *load) end() {
	l.cancel()
	l.all.Wait()
}

func (w *world) writeAndRead(ctx context.Context, conn *pgx.Conn, id int, r *fill.Reader) {
	var (
		n int
		x string
	)
	err := conn.QueryRow(ctx, `UPDATE item SET n = n + 1 WHERE id = $1 RETURNING n, pg_current_xact_id()::text`, id).Scan(&n, &x)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		w.t.Error(err)
		return
	}
	xid, err := mvcc.ParseXID(x)
	if err != nil {
		w.t.Error(err)
		return
	}
	token := mvcc.Token{System: w.system, Timeline: 1, XID: xid}
	demand := &fill.Demand{After: []mvcc.Token{token}}
	if n%4 == 0 {
		demand = &fill.Demand{Revalidate: true} // it is committed, so that the database has it
	}
	v, err := r.GetUnder(ctx, "item", key(id), nil, demand)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		w.t.Errorf("read under %+v: %v", demand, err)
	} else if number(v) < n {
		w.t.Errorf("item %d is %s (%v) under %+v, after %d was written", id, v.Payload, v.Status, demand, n)
	}
}

// settle waits until everything that was written is applied in every lane.
func (w *world) settle() {
	w.t.Helper()
	written, err := mvcc.ParseLSN(w.primary.Ask(w.t, w.url, "SELECT pg_current_wal_flush_lsn()::text"))
	if err != nil {
		w.t.Fatal(err)
	}
	testkit.Eventually(w.t, patience, func() error {
		head, found, err := w.store.Head(w.t.Context())
		if err != nil || !found || head.Wc < written {
			return fmt.Errorf("applied %v of %v: %w", head.Wc, written, err)
		}
		return w.whole()
	})
}

// appliedIn waits until what was written so far is applied in a lane, as its own node says.
func (w *world) appliedIn(lane int) {
	w.t.Helper()
	written := w.primary.Ask(w.t, w.url, "SELECT pg_current_wal_flush_lsn()::text")
	at, err := mvcc.ParseLSN(written)
	if err != nil {
		w.t.Fatal(err)
	}
	head := "f:" + fence.LaneNamespace(w.namespace, fence.Lanes, lane) + ":head"
	testkit.Eventually(w.t, patience, func() error {
		if wc, err := w.master(lane).Ask(w.t, "HGET", head, "wc").ToString(); err != nil || wc < fence.LSNText(at) {
			return fmt.Errorf("lane %d is at %s, not at %s: %w", lane, wc, written, err)
		}
		return nil
	})
}

// compare reads everything through both processes, twice, and wants what the primary has. It returns how many were hits.
func (w *world) compare() (hits int) {
	w.t.Helper()
	w.pause(1100 * time.Millisecond) // T_r: until then what is held in memory may not have heard of the last changes
	truth := strings.Split(w.primary.Ask(w.t, w.url, `SELECT string_agg(row_to_json(i)::text, ';' ORDER BY id) FROM item i`), ";")
	for range 2 {
		for i, r := range w.readers {
			for id := 1; id <= rows; id++ {
				v, err := r.Get(w.t.Context(), "item", key(id), nil)
				if err != nil {
					w.t.Fatal(err)
				}
				if string(v.Payload) != truth[id-1] {
					w.t.Errorf("reader %d has %s (%v) of item %d in lane %d, the primary %s", i, v.Payload, v.Status, id, laneOf(id), truth[id-1])
				}
				if v.Status == fill.Hit {
					hits++
				}
			}
		}
	}
	return hits
}

// through is a whole story: work goes on, something happens, and when all is settled nothing is stale, and things are cached again.
func (w *world) through(happens func()) {
	w.t.Helper()
	l := w.work()
	w.pause(300 * time.Millisecond)
	happens()
	w.pause(300 * time.Millisecond)
	l.end()
	w.standby.Resume(w.t)
	w.standby.CatchUp(w.t)
	w.settle()
	hits := w.compare()
	w.verified()
	held := w.readers[0].Stats()
	w.t.Logf("%d hits in memory, %+v", held.HitsL1, *held.L1)
	w.t.Logf("%d reads, %d hits; %d hits when all was settled; lanes begun anew: %d; replicas %v",
		l.reads.Load(), l.hits.Load(), hits, w.pipeline.Stats().Mended.Load(), w.readers[1].Stats().Replicas)
	if hits < rows {
		w.t.Errorf("only %d of %d reads are hits when all is settled", hits, 4*rows)
	}
	if l.hits.Load() == 0 || held.HitsL1 == 0 {
		w.t.Error("there were no hits")
	}
}

// verified has freshet verify look at every key.
func (w *world) verified() {
	w.t.Helper()
	survey, err := w.store.Survey(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	defer survey.Close()
	truth, err := pgload.Open(w.t.Context(), w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	defer truth.Close()
	report, err := verify.Run(w.t.Context(), verify.Options{Namespace: w.namespace, Store: survey, Truth: truth})
	if err != nil {
		w.t.Fatal(err)
	}
	if counts := report.Total; counts.Violations > 0 || counts.Undecided > 0 || counts.Fresh < rows/2 || report.Stopped != "" {
		w.t.Errorf("verify: %+v", report)
	}
}

func (w *world) pause(d time.Duration) {
	w.t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.t.Context().Done():
		w.t.Fatal(w.t.Context().Err())
	}
}

// keysOf are the ids of items in a lane.
func keysOf(lane int) []int {
	all := make([]int, 0, rows)
	for id := 1; id <= rows; id++ {
		if laneOf(id) == lane {
			all = append(all, id)
		}
	}
	return all
}

// nameOf is the present name of an item.
func (w *world) nameOf(id int) string {
	w.t.Helper()
	text, _, err := w.store.Roster(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	roster, err := rule.ParseRoster(text)
	if err != nil {
		w.t.Fatal(err)
	}
	head, _, err := w.store.Head(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	generations := make([]string, len(head.Lanes))
	for i, h := range head.Lanes {
		generations[i] = h.Lane
	}
	text2 := "item:" + strconv.Itoa(id)
	return fence.LanePrefixes(w.namespace, roster.Generation, generations, rule.KeyTail(roster.Entries["item"]))[fence.LaneOf(text2)] + text2
}

// master is the present owner of a lane.
func (w *world) master(lane int) *redistest.Server {
	return w.redis.Owner(fence.Slot(lane))
}
