package fill_test

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/mvcc"
)

// world is a database, a store, and a daemon that does what the test says: it publishes rosters and confirms keys.
type world struct {
	t         *testing.T
	pg        *pgtest.Server
	redis     *redistest.Server
	namespace string
	db        *pgxpool.Pool
	loader    *pgload.Loader
	store     *redisstore.Store
	raw       rueidis.Client
	daemon    *redisstore.Conn
	head      fence.Head
	roster    *rule.Roster
	url       string
	xids      uint64
	clock     func() time.Duration // of readers; nil: the system's
	patience  time.Duration        // of readers; 0: that of a program
	loads     time.Duration        // of readers: their load timeout, where their entries have none; 0: unhurried
}

// unhurried is what loads may take where it is not their load timeout that is tried: a machine that is busy with other tests may stand still
// for seconds, which is no database that does not answer.
const unhurried = 20 * time.Second

// hurried is what they may take where it is tried what comes of one that takes longer.
const hurried = 5 * time.Second

type options struct {
	ownRedis, ownPostgres, noDaemon bool

	away bool // the test takes Redis away from readers: they have no more patience with it than a program
}

func newWorld(t *testing.T, o options) *world {
	t.Helper()
	w := &world{t: t, namespace: redistest.Namespace(t)}
	w.pg, w.redis = pgtest.Shared(t), redistest.Shared(t)
	if o.ownPostgres {
		w.pg = pgtest.Start(t, pgtest.Options{})
	}
	if o.ownRedis {
		w.redis = redistest.Start(t)
	}
	w.url = w.pg.Database(t)
	w.pg.Exec(t, w.url, `CREATE TABLE product (id int8 PRIMARY KEY, price int4)`, `INSERT INTO product SELECT i, 10 * i FROM generate_series(1, 100) i`)
	// A machine that is busy with other tests is no store that is away.
	if !o.away {
		w.patience = 10 * time.Second
	}
	var err error
	if w.loader, err = pgload.Open(t.Context(), w.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.loader.Close)
	w.db = w.loader.Pool()
	if w.store, err = redisstore.Open(t.Context(), redisstore.Options{URL: w.redis.URL, Namespace: w.namespace, Patience: w.patience}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.store.Close)
	if w.raw, err = rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{w.redis.Addr}, DisableCache: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.raw.Close)
	if !o.noDaemon {
		w.begin()
	}
	return w
}

func declarations() map[string]rule.Declared {
	return map[string]rule.Declared{
		"product": {Name: "product", Key: "product:{id}", Query: "SELECT id, price FROM product WHERE id = @id", Result: rule.One},
		"cheaper": {Name: "cheaper", Key: "cheaper:{than}", Query: "SELECT id FROM product WHERE price < @than ORDER BY id", Result: rule.Many},
		"any":     {Name: "any", Key: "any:{id}", Query: "SELECT id, price FROM product WHERE @id IS NULL OR id = @id", Result: rule.One},
		"code": {
			Name: "code", Key: "code:{id}", Result: rule.One,
			DependsOn: []rule.Dependency{{Table: "product", Key: "{id}"}},
		},
	}
}

// newRoster is what planning the declarations gives, as far as readers need it.
func (w *world) newRoster(revision uint64) *rule.Roster {
	canonical := map[string]string{
		"product": "SELECT product.id AS id, product.price AS price FROM public.product WHERE product.id = $1",
		"cheaper": "SELECT product.id AS id FROM public.product WHERE product.price < $1 ORDER BY product.id",
		"any":     "SELECT product.id AS id, product.price AS price FROM public.product WHERE $1::int8 IS NULL OR product.id = $1::int8",
	}
	param := map[string]rule.Param{
		"product": {Name: "id", Type: keytext.Int8}, "cheaper": {Name: "than", Type: keytext.Int4}, "code": {Name: "id", Type: keytext.Int8},
		"any": {Name: "id", Type: keytext.Int8},
	}
	roster := &rule.Roster{
		Format: rule.RosterFormat, Generation: w.head.Generation, Term: string(w.head.Term), Revision: revision, Entries: map[string]*rule.Entry{},
	}
	for name, d := range declarations() {
		e := &rule.Entry{Name: name, Definition: d.Digest(), Key: d.Key, Params: []rule.Param{param[name]}, SQL: canonical[name], Result: d.Result}
		e.Version, e.Activation = e.Hash(), fmt.Sprintf("%016x", revision)
		roster.Entries[name] = e
	}
	return roster
}

func (w *world) gate() (mvcc.Snapshot, mvcc.LSN) {
	w.t.Helper()
	var snapshot, lsn string
	err := w.db.QueryRow(w.t.Context(), "SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text").Scan(&snapshot, &lsn)
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := mvcc.ParseSnapshot(snapshot)
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := mvcc.ParseLSN(lsn)
	if err != nil {
		w.t.Fatal(err)
	}
	return s, l
}

// begin starts a generation.
func (w *world) begin() {
	w.t.Helper()
	ctx := w.t.Context()
	system, _, err := w.loader.System(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	if w.daemon != nil {
		w.daemon.Close()
	}
	eventually(w.t, func() (err error) { // a connection has a second, in which a busy machine may stand still
		w.daemon, err = w.store.Connect(ctx)
		return err
	})
	w.t.Cleanup(w.daemon.Close)
	snapshot, lsn := w.gate()
	w.xids++
	w.head = fence.Head{
		Generation: fmt.Sprintf("%016x", 0xabc0+w.xids), Term: fence.NewTerm(1, mvcc.XID(w.xids)), Revision: 0, System: system, Timeline: 1,
		Wi: lsn, Wc: lsn, Si: snapshot,
	}
	if _, _, err := w.daemon.Claim(ctx, w.head.Term); err != nil {
		w.t.Fatal(err)
	}
	if err := w.daemon.NewGeneration(ctx, w.head); err != nil {
		w.t.Fatal(err)
	}
	if err := w.daemon.DrawTick(ctx); err != nil {
		w.t.Fatal(err)
	}
	w.move(w.newRoster(1))
}

func (w *world) expected() redisstore.Expected {
	return redisstore.Expected{Generation: w.head.Generation, Term: w.head.Term, Wc: w.head.Wc}
}

func (w *world) move(roster *rule.Roster) {
	w.t.Helper()
	if err := w.daemon.Move(w.t.Context(), w.expected(), roster.Text(), roster.Revision, "p"); err != nil {
		w.t.Fatal(err)
	}
	w.roster = roster
}

// confirm is a whole round of the daemon for what is visible now: INTENT, UNLINK, ADVANCE.
func (w *world) confirm(names ...string) {
	w.t.Helper()
	ticks, err := w.daemon.Ticks(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	snapshot, lsn := w.gate()
	batch := redisstore.Batch{Expect: w.expected(), Wi: lsn, Si: snapshot, Names: names, Advance: lsn, Sa: snapshot, Ticks: ticks}
	if _, err := w.daemon.Apply(w.t.Context(), batch); err != nil {
		w.t.Fatal(err)
	}
	w.head.Wc = lsn
}

// intent is the first step of a round, for what is visible now.
func (w *world) intent() {
	w.t.Helper()
	snapshot, lsn := w.gate()
	if _, err := w.daemon.Apply(w.t.Context(), redisstore.Batch{Expect: w.expected(), Wi: lsn, Si: snapshot}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) name(entry, arg string) string {
	return rule.KeyPrefix(w.namespace, w.head.Generation, w.roster.Entries[entry]) + entry + ":" + arg
}

// reprice makes the price of product 1 eleven, and returns by which transaction.
func (w *world) reprice() (x mvcc.XID) {
	w.t.Helper()
	var text string
	err := w.db.QueryRow(w.t.Context(), "UPDATE product SET price = 11 WHERE id = 1 RETURNING pg_current_xact_id()::text").Scan(&text)
	if err == nil {
		x, err = mvcc.ParseXID(text)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return x
}

// change makes the price of product 1 eleven, and does everything that the daemon does about it.
func (w *world) change() {
	w.t.Helper()
	w.reprice()
	w.confirm(w.name("product", "1"))
}

func (w *world) record(name string) (r fence.Record, text []byte) {
	w.t.Helper()
	var err error
	text, err = w.raw.Do(w.t.Context(), w.raw.B().Get().Key(name).Build()).AsBytes()
	if rueidis.IsRedisNil(err) {
		return fence.Record{}, nil
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if r, err = fence.ParseRecord(text); err != nil {
		w.t.Fatal(err)
	}
	return r, text
}

func (w *world) put(name string, text []byte) {
	w.t.Helper()
	if err := w.raw.Do(w.t.Context(), w.raw.B().Set().Key(name).Value(rueidis.BinaryString(text)).Build()).Error(); err != nil {
		w.t.Fatal(err)
	}
}

// reader opens one of the processes that read.
func (w *world) reader(kept fill.Store, loader fill.Loader) *fill.Reader {
	w.t.Helper()
	entries := map[string]fill.Entry{}
	for name, d := range declarations() {
		entries[name] = fill.Entry{
			Declared: d, TTL: time.Minute, NegativeTTL: 10 * time.Second, Jitter: 0.1,
			LoadUnproved: true, // so that what comes from the database is told from what comes from the cache
		}
	}
	return w.readerOf(kept, loader, entries)
}

func (w *world) readerOf(kept fill.Store, loader fill.Loader, entries map[string]fill.Entry) *fill.Reader {
	w.t.Helper()
	return w.open(fill.Options{Store: kept, Loader: loader, Entries: entries})
}

// open is a reader with options, and the world's for what they do not say.
func (w *world) open(o fill.Options) *fill.Reader {
	w.t.Helper()
	o.Namespace, o.Clock, o.Patience = w.namespace, w.clock, w.patience
	if o.Store == nil {
		o.Store = w.store
	}
	if o.Loader == nil {
		o.Loader = w.loader
	}
	for name, e := range o.Entries {
		e.LoadTimeout = cmp.Or(e.LoadTimeout, w.loads, unhurried)
		o.Entries[name] = e
	}
	r, err := fill.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(r.Close)
	return r
}

// as opens the store as another user.
func (w *world) as(user, password string) *redisstore.Store {
	w.t.Helper()
	kept, err := redisstore.Open(w.t.Context(), redisstore.Options{
		URL: "redis://" + user + ":" + password + "@" + w.redis.Addr, Namespace: w.namespace, Patience: w.patience,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(kept.Close)
	return kept
}

func arg(text string) []keytext.Arg { return []keytext.Arg{{Text: text}} }

func price(id, p int) string { return fmt.Sprintf(`{"id":%d,"price":%d}`, id, p) }

// read reads product id and checks what comes.
func read(t *testing.T, r *fill.Reader, id int, status fill.Status, payload string) fill.Value {
	t.Helper()
	v, err := r.Get(t.Context(), "product", arg(strconv.Itoa(id)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if v.Status != status || string(v.Payload) != payload || v.Found != (payload != "") {
		t.Fatalf("Get(%d) = %v %v %s (%s), want %v %s", id, v.Found, v.Status, v.Payload, v.Reason, status, payload)
	}
	return v
}

// hooks are called around the calls to the real store.
type hooks struct {
	fill.Store
	afterGet  func(name string)
	afterHead func(name string) // after HEAD was read together with a record
	afterCall func(what string)
	heads     atomic.Int64
	hung      atomic.Pointer[chan struct{}] // HEAD is not answered until it is closed, whatever the caller's patience

	beforeHead func()      // between a LEASE and the HEAD that is read after it
	head       *fence.Head // instead of that HEAD
}

// setHead writes a field of HEAD.
func (w *world) setHead(field, value string) {
	w.t.Helper()
	key := "f:" + w.namespace + ":head"
	if err := w.raw.Do(w.t.Context(), w.raw.B().Hset().Key(key).FieldValue().FieldValue(field, value).Build()).Error(); err != nil {
		w.t.Fatal(err)
	}
}

func (h *hooks) ReadWithHead(ctx context.Context, name string, epochs []string) (head fence.Head, found bool, held redisstore.Tied, err error) {
	head, found, held, err = h.Store.ReadWithHead(ctx, name, epochs)
	if h.afterHead != nil {
		h.afterHead(name)
	}
	return head, found, held, err
}

func (h *hooks) Read(ctx context.Context, name string) ([]byte, error) {
	text, err := h.Store.Read(ctx, name)
	if h.afterGet != nil {
		h.afterGet(name)
	}
	return text, err
}

func (h *hooks) Heads(ctx context.Context) []redisstore.LaneHead {
	h.heads.Add(1)
	if until := h.hung.Load(); until != nil {
		<-*until
	}
	return h.Store.Heads(ctx)
}

func (h *hooks) Lease(ctx context.Context, name string, token fence.Token, lasts time.Duration) (redisstore.LeaseReply, error) {
	reply, err := h.Store.Lease(ctx, name, token, lasts)
	if h.beforeHead != nil && err == nil {
		h.beforeHead()
		reply.Head, reply.HeadFound, err = store.JoinHeads(h.Store.Heads(ctx))
	}
	if h.head != nil {
		reply.Head = *h.head
	}
	if h.afterCall != nil {
		h.afterCall("lease")
	}
	return reply, err
}

// slow is the real loader, with steps before and after each load that the test decides.
type slow struct {
	fill.Loader
	before, after func(context.Context)
	count, looks  atomic.Int64
}

func (s *slow) Visible(ctx context.Context) (mvcc.Snapshot, pgload.Server, error) {
	s.looks.Add(1)
	return s.Loader.Visible(ctx)
}

func (s *slow) around(ctx context.Context, load func() (pgload.Loaded, error)) (pgload.Loaded, error) {
	s.count.Add(1)
	if s.before != nil {
		s.before(ctx)
	}
	loaded, err := load()
	if s.after != nil {
		s.after(ctx)
	}
	return loaded, err
}

func (s *slow) Load(ctx context.Context, sql string, result rule.Result, args []keytext.Arg) (pgload.Loaded, error) {
	return s.around(ctx, func() (pgload.Loaded, error) { return s.Loader.Load(ctx, sql, result, args) })
}

func (s *slow) LoadFunc(ctx context.Context, load func(context.Context, pgload.Querier) ([]byte, bool, error)) (pgload.Loaded, error) {
	return s.around(ctx, func() (pgload.Loaded, error) { return s.Loader.LoadFunc(ctx, load) })
}

// valve holds the first who comes to it until it is opened; those after it pass.
type valve struct {
	used    atomic.Bool
	reached chan struct{}
	open    chan struct{}
}

func newValve() *valve { return &valve{reached: make(chan struct{}), open: make(chan struct{})} }

func (v *valve) pass(ctx context.Context) {
	if v.used.Swap(true) {
		return
	}
	close(v.reached)
	select {
	case <-v.open:
	case <-ctx.Done():
	}
}

// answer is what a Get in the background gave.
type answer struct {
	value fill.Value
	err   error
}

func background(ctx context.Context, r *fill.Reader, id string) <-chan answer {
	return backgroundUnder(ctx, r, id, &fill.Demand{})
}

func backgroundUnder(ctx context.Context, r *fill.Reader, id string, d *fill.Demand) <-chan answer {
	done := make(chan answer, 1)
	go func() {
		v, err := r.GetUnder(ctx, "product", arg(id), nil, d)
		done <- answer{v, err}
	}()
	return done
}

// heldBefore is a process with a reader of product 1, whose load is about to ask the database, and goes on when the valve
// is opened.
func (w *world) heldBefore() (r *fill.Reader, loader *slow, v *valve, first <-chan answer) {
	v = newValve()
	return w.held(&slow{Loader: w.loader, before: v.pass}, v)
}

// heldAfter is a process with a reader of product 1, whose load has the row, and goes on when the valve is opened.
func (w *world) heldAfter() (r *fill.Reader, loader *slow, v *valve, first <-chan answer) {
	v = newValve()
	return w.held(&slow{Loader: w.loader, after: v.pass}, v)
}

func (w *world) held(loader *slow, v *valve) (*fill.Reader, *slow, *valve, <-chan answer) {
	w.t.Helper()
	r := w.reader(nil, loader)
	first := background(w.t.Context(), r, "1")
	<-v.reached
	return r, loader, v, first
}

// lease is another process that takes the lease of a product.
func (w *world) lease(token fence.Token, id string) {
	w.t.Helper()
	if reply, err := w.store.Lease(w.t.Context(), w.name("product", id), token, time.Minute); err != nil || !reply.Granted {
		w.t.Fatalf("Lease = %+v, %v", reply, err)
	}
}

// fill is that process when it has loaded the row.
func (w *world) fill(token fence.Token, id string) {
	w.t.Helper()
	loaded, err := w.loader.Load(w.t.Context(), w.roster.Entries["product"].SQL, rule.One, arg(id))
	if err != nil {
		w.t.Fatal(err)
	}
	outcome, err := w.store.Fill(w.t.Context(), w.name("product", id), redisstore.FillRequest{
		Token: token, Coverage: loaded.Coverage, State: fence.Live, Payload: loaded.Payload, TTL: time.Minute,
	})
	if err != nil || outcome != fence.Filled {
		w.t.Fatalf("Fill = %v, %v", outcome, err)
	}
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	testkit.Eventually(t, time.Minute, check)
}

// soon fails unless one of several rounds takes no longer than a limit. A machine that stands still makes rounds late, and not all of them.
func soon(t *testing.T, limit time.Duration, round func(n int) time.Duration) {
	t.Helper()
	const rounds = 10
	took := round(0)
	for n := 1; n < rounds && took > limit && !t.Failed(); n++ {
		took = min(took, round(n))
	}
	if took > limit {
		t.Errorf("in none of %d rounds it took less than %v", rounds, took)
	}
}

// pause lets time pass, for what is about time itself.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}
