package standby

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/apply"
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/mvcc"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	rows     = 48
	rounds   = 12
	burst    = 150 * time.Millisecond // of writes and reads, in each round
	readers  = 6
	patience = 30 * time.Second
)

// declared is the one entry, as a configuration would have it.
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

// world is a primary with two standbys, a daemon that follows the primary, and a process that reads through the
// standbys.
type world struct {
	t         *testing.T
	primary   *pgtest.Server
	standbys  [2]*pgtest.StandbyServer
	name, url string
	namespace string
	store     *redisstore.Store
	reader    *fill.Reader
	random    *rand.Rand
	paused    [2]bool
	promoted  bool
}

// newWorld has its reader see the store as changed by see.
func newWorld(t *testing.T, see func(fill.Store) fill.Store) *world {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SEED=%d", seed)
	w := &world{
		t: t, primary: pgtest.Start(t, pgtest.Options{}), namespace: redistest.Namespace(t),
		random: rand.New(rand.NewPCG(seed, 1)),
	}
	w.url = w.primary.Database(t)
	w.name = w.primary.Ask(t, w.url, "SELECT current_database()::text")
	w.primary.Exec(t, w.url, `CREATE TABLE item (id int PRIMARY KEY, n int NOT NULL)`,
		fmt.Sprintf(`INSERT INTO item SELECT g, 0 FROM generate_series(1, %d) g`, rows))
	var replicas []fill.Replica
	for i := range w.standbys {
		w.standbys[i] = pgtest.Standby(t, w.primary, pgtest.Options{})
		replica, err := pgload.OpenReplica(t.Context(), w.standbys[i].URL(w.name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(replica.Close)
		replicas = append(replicas, replica)
	}
	var err error
	if w.store, err = redisstore.Open(t.Context(), redisstore.Options{URL: redistest.Shared(t).URL, Namespace: w.namespace, Patience: patience}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.store.Close)
	loader, err := pgload.Open(t.Context(), w.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(loader.Close)
	w.reader, err = fill.New(fill.Options{
		Namespace: w.namespace, Store: see(w.store), Loader: loader, Replicas: replicas, Patience: patience,
		Entries: map[string]fill.Entry{"item": {Declared: declared(), TTL: time.Hour, LoadTimeout: 20 * time.Second}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.reader.Close)
	w.follow()
	return w
}

// follow runs the daemon's side until the test ends.
func (w *world) follow() {
	w.t.Helper()
	p := pipeline.New(pipeline.Options{
		URL: w.url, Slot: "standby", Publication: "freshet", Namespace: w.namespace, Store: pipeline.StoreOf(w.store), Rewind: apply.Rewind{},
		Logger: slog.New(slog.DiscardHandler), Compile: compiled,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	testkit.Eventually(w.t, patience, func() error {
		st := p.Status()
		if st.Phase != pipeline.Streaming || len(st.Entries) != 1 || st.Entries[0].Suspended != "" {
			return fmt.Errorf("not live: %+v", st)
		}
		return nil
	})
}

// fault changes the standbys.
func (w *world) fault(round int) {
	w.t.Helper()
	i := w.random.IntN(len(w.standbys))
	if i == 1 && w.promoted {
		i = 0
	}
	s := w.standbys[i]
	switch n := w.random.IntN(10); {
	case round == rounds/2 && !w.promoted:
		w.standbys[1].Promote(w.t)
		w.promoted, w.paused[1] = true, false
		// What it has from now on never happened on the primary that is followed.
		w.standbys[1].Exec(w.t, w.standbys[1].URL(w.name), `UPDATE item SET n = -1`)
	case n < 2:
		s.Kill(w.t)
		s.Start(w.t)
		w.paused[i] = false
	case w.paused[i]:
		s.Resume(w.t)
		w.paused[i] = false
	default:
		s.Pause(w.t)
		w.paused[i] = true
	}
}

// round writes and reads, lets everything settle but the standbys, and counts the cached values that are not the
// primary's.
func (w *world) round() (stale, cached int) {
	w.t.Helper()
	ctx := w.t.Context()
	running, cancel := context.WithTimeout(ctx, burst)
	defer cancel()
	var all sync.WaitGroup
	for range readers {
		random := rand.New(rand.NewPCG(w.random.Uint64(), 2))
		all.Go(func() {
			for running.Err() == nil {
				w.read(ctx, random.IntN(rows)+1)
			}
		})
	}
	random := rand.New(rand.NewPCG(w.random.Uint64(), 3))
	all.Go(func() { w.write(ctx, running, random) })
	all.Wait()
	w.settle()
	// Readers go on: what they fill now has to be right as well.
	for id := range rows {
		w.read(ctx, id+1)
	}
	return w.compare()
}

func (w *world) read(ctx context.Context, id int) {
	_, err := w.reader.Get(ctx, "item", []keytext.Arg{{Text: strconv.Itoa(id)}}, nil)
	if err != nil {
		w.t.Errorf("read item %d: %v", id, err)
	}
}

// write changes one item at a time, and a few more in one transaction now and then, until running ends.
func (w *world) write(ctx, running context.Context, random *rand.Rand) {
	conn, err := pgx.Connect(ctx, w.url)
	if err != nil {
		w.t.Error(err)
		return
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for running.Err() == nil {
		first := random.IntN(rows) + 1
		last := first
		if random.IntN(8) == 0 {
			last += random.IntN(8)
		}
		if _, err := conn.Exec(ctx, `UPDATE item SET n = n + 1 WHERE id BETWEEN $1 AND $2`, first, last); err != nil {
			w.t.Error(err)
			return
		}
	}
}

// settle waits until everything that was written is applied.
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
		return nil
	})
}

func (w *world) compare() (stale, cached int) {
	w.t.Helper()
	text, _, err := w.store.Roster(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	roster, err := rule.ParseRoster(text)
	if err != nil {
		w.t.Fatal(err)
	}
	truth := strings.Split(w.primary.Ask(w.t, w.url, `SELECT string_agg(row_to_json(i)::text, ';' ORDER BY id) FROM item i`), ";")
	for id := range rows {
		name := rule.KeyPrefix(w.namespace, roster.Generation, roster.Entries["item"]) + fmt.Sprintf("item:%d", id+1)
		record, err := w.store.Get(w.t.Context(), name)
		if err != nil {
			w.t.Fatal(err)
		}
		if record.State != fence.Live {
			continue
		}
		cached++
		if string(record.Payload) != truth[id] {
			stale++
			w.t.Logf("cached %s under %v, the primary has %s", record.Payload, record.Coverage, truth[id])
		}
	}
	return stale, cached
}

func (w *world) run() (stale int) {
	w.t.Helper()
	cached := 0
	for round := range rounds {
		w.fault(round)
		s, c := w.round()
		stale, cached = stale+s, cached+c
	}
	w.t.Logf("%d cached values compared, %d stale; replicas: %v", cached, stale, w.reader.Stats().Replicas)
	if cached < rounds*rows/2 {
		w.t.Errorf("only %d values were cached in %d rounds", cached, rounds)
	}
	return stale
}

// TestNothingStaleThroughStandbys: after every round, with the standbys as they are, every cached value is the
// primary's.
func TestNothingStaleThroughStandbys(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s fill.Store) fill.Store { return s })
	if stale := w.run(); stale > 0 {
		t.Errorf("%d stale values", stale)
	}
	stats := w.reader.Stats().Replicas
	if stats["used"] == 0 || stats["behind"]+stats["known_behind"] == 0 || stats["foreign"] == 0 {
		t.Errorf("the standbys were not put to the test: %v", stats)
	}
}

// TestFloorIsWhatKeepsThemOut runs the same without the floor: then there are stale values.
func TestFloorIsWhatKeepsThemOut(t *testing.T) {
	t.Parallel()
	if stale := newWorld(t, func(s fill.Store) fill.Store { return noFloor{s} }).run(); stale == 0 {
		t.Error("nothing is stale without the floor: the test sees nothing")
	}
}

// noFloor is the store without what standbys are held against.
type noFloor struct{ fill.Store }

func (s noFloor) Lease(ctx context.Context, name string, token fence.Token, lasts time.Duration) (redisstore.LeaseReply, error) {
	reply, err := s.Store.Lease(ctx, name, token, lasts)
	reply.Head.Wi = 0
	return reply, err
}
