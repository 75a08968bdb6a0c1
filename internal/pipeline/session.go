package pipeline

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/freshet/freshet/internal/apply"
	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/ddl"
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/pgcatalog"
	"github.com/freshet/freshet/internal/pggate"
	"github.com/freshet/freshet/internal/pgsource"
	"github.com/freshet/freshet/internal/route"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/internal/trail"
	"github.com/freshet/freshet/mvcc"
)

// settle is how long Wc stands still after names moved: readers confirm the roster every second at the latest, and
// two machines' clocks do not run at quite the same rate.
const settle = 1250 * time.Millisecond

// drain bounds how long a graceful stop waits for what was read to be applied.
const drain = 10 * time.Second

// holdUpEvery is how often it is looked for who holds a new slot up.
const holdUpEvery = 500 * time.Millisecond

// connectTimeout bounds the making of a connection to the database.
const connectTimeout = 15 * time.Second

// altered is why an entry moves whose tables look otherwise although no row says so.
const altered = "a table that it reads was rewritten, or its values are read in another way than before"

// Why an entry waits until every transaction is over that its tables' publication may have missed.
const (
	admitting  = "its tables were just added to the stream" + untilOver
	replanned  = "it is planned anew, since its declaration or a table of it has changed, or what was cached of it is not known" + untilOver
	generation = "a new generation has begun" + untilOver
	untilOver  = ": waiting until every transaction that began before is over"
)

// session is one attempt: everything that is opened for it is closed with it, so that whatever goes wrong is mended
// by taking the stream up again from what the store says.
type session struct {
	p        *Pipeline
	store    Conn
	gate     *pggate.Gate // used by the applier
	side     *pggate.Gate // used by whoever waits for snapshots or watches the catalog
	conn     *pgx.Conn
	stream   *pgsource.Stream
	identity pggate.Identity
	compiled *Compiled
	versions []*rule.Entry // every version that is served, in the router's order: the file's own, then those that are retained
	retained []int         // the latter, those that are not retired
	blind    bool          // registrations cannot be read
	live     atomic.Pointer[liveNames]
	prepared pgsource.Prepared
	before   string // the publication's fingerprint before this session altered it
	slot     pgsource.SlotInfo
	found    bool                           // the store has a HEAD
	replaces fence.Term                     // the term of another history that a new generation replaces
	looks    map[schema.Name]pgcatalog.Look // what the tables looked like last
	altered  bool                           // they look otherwise since, and names did not move for it yet
	known    atomic.Pointer[ddl.Known]      // what DDL has to name to concern them
	ddl      chan struct{}                  // of capacity one, and empty: it wakes the watch for DDL
	told     uint64                         // how many alterations the applier was told to be looked at
	start    mvcc.LSN                       // of a new generation's stream
	admit    []int                          // versions that wait for admission
	renew    []int                          // versions whose tables were altered while nobody looked
	head     fence.Head
	names    *apply.Names
	recorder *trail.Recorder // once the stream is followed
	replid   string          // the name of the store's history, once the stream is followed
}

func (p *Pipeline) session(ctx context.Context) (err error) {
	s := &session{p: p, ddl: make(chan struct{}, 1)}
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	if err := s.connect(ctx); err != nil {
		return err
	}
	defer func() {
		if p.gap == "" && isGap(err) {
			err = p.declare(err)
		}
		if p.gap != "" && p.term != "" {
			err = errors.Join(err, s.condemn(ctx, fence.Head{Term: p.term}))
		}
	}()
	if err := s.judge(ctx); err != nil {
		return err
	}
	if err := s.acquire(ctx); err != nil {
		return err
	}
	if p.gap == "" {
		if err := s.resume(ctx); err != nil {
			return err
		}
	} else if err := s.begin(ctx); err != nil {
		return err
	}
	return s.follow(ctx)
}

// acquire plans the entries, prepares publication and slot, and takes the slot, which only one daemon can hold.
func (s *session) acquire(ctx context.Context) error {
	o := &s.p.opts
	err := s.gate.Ensure(ctx)
	if err != nil {
		return refused(err)
	}
	if err := s.fingerprint(ctx); err != nil {
		return err
	}
	if err := s.remember(ctx); err != nil {
		return err
	}
	if err := s.attended(ctx, s.prepare); err != nil {
		return err
	}
	snapshot, insert, err := s.gate.Snapshot(ctx)
	if err != nil {
		return err
	}
	from := change.Position(0) // where the slot stands
	if s.p.gap != "" {
		// Everything cached so far is given up, so there is nothing to catch up with; and what could not be decoded
		// is not met again.
		from, s.start = change.Position(insert), insert
	}
	s.p.state.update(func(st *Status) { st.Phase, st.Problem = Starting, "" })
	s.stream, err = pgsource.Start(ctx, pgsource.Options{
		URL: o.URL, Slot: o.Slot, Publication: o.Publication, Server: s.identity.Server, Near: snapshot.Xmax, Logger: o.Logger,
	}, from)
	if err != nil {
		return err
	}
	return s.claim(ctx)
}

// follow reads, routes, applies and confirms until ctx ends or something breaks.
func (s *session) follow(ctx context.Context) error {
	p := s.p
	p.followed, s.replid = true, s.store.Replid()
	p.state.apply.Wc.Store(uint64(s.head.Wc))
	p.state.received.Store(0)
	began := time.Now()
	s.recorder = p.trail.Session(s.versions, s.compiled.Keys, s.head.Wc)
	for name, why := range s.compiled.Refused {
		s.recorder.Refused(name, why)
	}
	queue := apply.NewQueue(s.recorder)
	p.state.apply.Oldest.Store(0)
	p.state.queue.Store(queue)
	defer p.state.queue.Store(nil)
	applier := apply.New(apply.Options{
		Store: s.store, Gate: s.gate, Queue: queue, Names: s.names, Head: s.head, Confirm: s.stream.Confirm,
		Observe: p.opts.Observe, Trail: s.recorder, Published: s.published, Logger: p.opts.Logger, Rewind: p.opts.Rewind, Settle: settle, Stats: &p.state.apply,
		DDL: s.wake, Refresher: p.opts.Refresher,
	})
	if err := s.store.DrawTick(ctx); err != nil {
		return err
	}
	// Always, also when no name changed: the daemon before may have moved names an instant ago without waiting for the
	// readers of the old ones, and may have a roster on its way that only a later term in the store refuses (D7).
	if err := applier.Publish(ctx); err != nil {
		return err
	}
	s.report(CatchingUp)
	router := route.New(s.versions)
	for name, look := range s.looks {
		router.Planned(name.Schema, name.Name, look.OID)
	}
	out := &sink{
		router: router, queue: queue, recorder: s.recorder, after: s.head.Wc,
		received: &p.state.received, rows: &p.state.rows, intents: &p.state.intents, logger: p.opts.Logger,
		strange: map[string]bool{}, known: &s.known, altered: &p.state.ddl,
	}
	// Applying outlives ctx for as long as a drain may take; reading does not.
	working, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	group, working := errgroup.WithContext(working)
	reading, stopReading := context.WithCancel(working)
	defer stopReading()
	group.Go(func() error {
		err := s.stream.Run(reading, out)
		if ctx.Err() != nil {
			queue.Close()
			return nil //nolint:nilerr // the end of ctx is how reading is stopped
		}
		if err == nil {
			err = errors.New("the server ended the stream")
		}
		return err
	})
	applied := make(chan struct{})
	group.Go(func() error {
		defer close(applied)
		return applier.Run(working)
	})
	group.Go(func() error {
		select {
		case <-ctx.Done():
		case <-reading.Done(): // something broke: there is nothing to be brought to its end
			return nil
		}
		timer := time.NewTimer(drain)
		defer timer.Stop()
		s.stream.CatchUp(drain / 10)
		stopReading()
		select {
		case <-applied:
		case <-timer.C:
			abort()
		}
		return nil
	})
	group.Go(func() error {
		if err := s.activate(reading, applier, s.renew); err != nil {
			return err
		}
		return s.watch(reading, applier)
	})
	group.Go(func() error { return s.catchUp(reading, began) })
	group.Go(func() error { return s.sweep(reading) })
	if len(s.admit) > 0 {
		group.Go(func() error { return s.admission(reading, applier) })
	}
	err := group.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// close closes what the session opened. The stream's last status update tells the slot what was confirmed.
func (s *session) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if s.stream != nil {
		if err := s.stream.Close(ctx); err != nil {
			s.p.opts.Logger.DebugContext(ctx, "closing the stream", slog.Any("err", err))
		}
	}
	if s.conn != nil {
		_ = s.conn.Close(ctx)
	}
	for _, g := range []*pggate.Gate{s.gate, s.side} {
		if g != nil {
			_ = g.Close(ctx)
		}
	}
	if s.store != nil {
		s.store.Close()
	}
	return nil
}
