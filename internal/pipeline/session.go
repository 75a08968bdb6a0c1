package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
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
	"github.com/freshet/freshet/internal/pgurl"
	"github.com/freshet/freshet/internal/route"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/internal/wal"
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

// admitting marks an entry that waits until every transaction is over that its tables' publication may have missed.
const admitting = "its tables were just added to the stream: waiting until every transaction that began before is over"

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
	replid   string // the name of the store's history, once the stream is followed
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

// connect opens everything but the stream. The store comes first: without it nothing can be applied, and the slot
// stays free for a daemon that can reach it. Then the slot: a standby needs no more than to see that it is taken.
func (s *session) connect(ctx context.Context) error {
	o := &s.p.opts
	var err error
	if s.store, err = o.Store.Connect(ctx); err != nil {
		return fmt.Errorf("connect to the store: %w", err)
	}
	if s.p.gap != "" && s.p.term != "" {
		if err := s.condemn(ctx, fence.Head{Term: s.p.term}); err != nil {
			return err
		}
	}
	connecting, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	config, err := pgurl.Session(o.URL, nil) // with the role's own search path, which queries are planned with
	if err != nil {
		return err
	}
	if s.conn, err = pgx.ConnectConfig(connecting, config); err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	err = answered(ctx, func(ctx context.Context) (err error) {
		s.slot, err = pgsource.SlotState(ctx, s.conn, o.Slot)
		return err
	})
	if err != nil {
		return err
	}
	if s.slot.ActivePID != 0 {
		return fmt.Errorf("slot %q, held by process %d: %w", o.Slot, s.slot.ActivePID, pgsource.ErrSlotInUse)
	}
	if s.gate, err = pggate.Open(ctx, o.URL, o.Logger); err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	if s.side, err = pggate.Open(ctx, o.URL, o.Logger); err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	s.identity = s.gate.Identity()
	return s.oneServer(ctx)
}

// oneServer holds that the address led to one server each time, as it may not while a database fails over: what one server's log
// says means nothing by another's snapshots.
func (s *session) oneServer(ctx context.Context) error {
	var server string
	err := answered(ctx, func(ctx context.Context) error {
		return s.conn.QueryRow(ctx, `SELECT `+wal.ServerSQL).Scan(&server)
	})
	if err != nil {
		return fmt.Errorf("ask which server it is: %w", err)
	}
	for _, other := range []string{s.identity.Server, s.side.Identity().Server} {
		if other != server {
			return fmt.Errorf("connect to the database: %w: %s and %s", pgsource.ErrOtherServer, server, other)
		}
	}
	return nil
}

// judge looks for a gap before anything is asked of the database that it may refuse: what is cached has to be out of
// use also when the gap cannot be answered now.
func (s *session) judge(ctx context.Context) error {
	o := &s.p.opts
	head, found, err := o.Store.Head(ctx)
	if err != nil && !errors.Is(err, store.ErrSplit) {
		return err
	}
	split := err != nil
	s.found = found
	if s.p.gap != "" {
		if !found {
			return nil
		}
		return s.condemn(ctx, head)
	}
	if err := s.fingerprint(ctx); err != nil {
		return err
	}
	evidence, err := s.evidence(ctx, head, found)
	if err != nil {
		return err
	}
	evidence.SlotCreated = !s.slot.Exists || s.slot.Lost
	evidence.Confirmed = s.slot.Confirmed
	cause := evidence.Gap()
	if split {
		cause = store.ErrSplit.Error()
	}
	if cause == "" {
		return nil
	}
	_ = s.p.declare(&gapError{cause: cause, first: !found && !s.p.followed})
	if !found {
		return nil
	}
	// Under the term that is stored: should another daemon have claimed meanwhile, it will have seen the gap as well.
	return s.condemn(ctx, head)
}

func (s *session) evidence(ctx context.Context, head fence.Head, found bool) (*Evidence, error) {
	_, insert, err := s.gate.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	e := &Evidence{HeadFound: found, Head: head, Identity: s.identity, Insert: insert, Publication: s.before}
	e.Alive, e.Claimed, err = s.gate.Alive(ctx, s.p.opts.Namespace, head.Generation, head.Term)
	for _, term := range otherTerms(head) {
		if err != nil || !e.Claimed {
			break
		}
		_, e.Claimed, err = s.gate.Alive(ctx, s.p.opts.Namespace, head.Generation, term)
	}
	return e, err
}

// otherTerms are those of lanes that a later daemon did not come to claim.
func otherTerms(head fence.Head) []fence.Term {
	var terms []fence.Term
	for i := range head.Lanes {
		if h := &head.Lanes[i]; h.Generation != "" && h.Term != head.Term && !slices.Contains(terms, h.Term) {
			terms = append(terms, h.Term)
		}
	}
	return terms
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

// prepare plans the entries, and makes what they need in the database.
func (s *session) prepare(ctx context.Context) error {
	// Where nothing was ever cached, someone is looking who has just written the configuration.
	if err := s.compile(ctx, !s.found && !s.p.followed); err != nil {
		return fmt.Errorf("plan the entries: %w", err)
	}
	if err := s.publish(ctx); err != nil {
		return fmt.Errorf("prepare publication and slot: %w", err)
	}
	return s.retain(ctx)
}

// publish makes publication and slot. A new slot waits for every transaction that is open, anywhere in the cluster, which
// may take as long as it likes: who is in the way is said meanwhile.
func (s *session) publish(ctx context.Context) (err error) {
	var waiting errgroup.Group
	made := make(chan struct{})
	s.prepared, err = pgsource.Prepare(ctx, s.conn, pgsource.PrepareOptions{
		Slot: s.p.opts.Slot, Publication: s.p.opts.Publication, Tables: s.compiled.Tables,
		Creating: func() { waiting.Go(func() error { return s.tellWhoHoldsUp(ctx, made) }) },
	})
	close(made)
	return errors.Join(err, waiting.Wait())
}

// tellWhoHoldsUp makes public which transactions a slot waits for, until it is made.
func (s *session) tellWhoHoldsUp(ctx context.Context, made <-chan struct{}) error {
	s.p.state.update(func(st *Status) { st.Phase, st.Problem = CreatingSlot, "" })
	ticker := time.NewTicker(holdUpEvery)
	defer ticker.Stop()
	told := ""
	for {
		select {
		case <-made:
			return nil
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		pins, err := s.side.Running(ctx)
		if err != nil && ctx.Err() == nil {
			return err
		}
		open := openText(pins)
		if open == told || open == "" {
			continue
		}
		told = open
		s.p.state.update(func(st *Status) { st.Problem = "the slot waits for transactions that are open: " + open })
		s.p.opts.Logger.WarnContext(ctx, "the slot waits for transactions that are open; end them to have it made",
			slog.String("slot", s.p.opts.Slot), slog.String("open", open))
	}
}

// fingerprint notes what the publication is, before this session alters it.
func (s *session) fingerprint(ctx context.Context) error {
	return answered(ctx, func(ctx context.Context) (err error) {
		s.before, err = pgsource.Fingerprint(ctx, s.conn, s.p.opts.Publication)
		return err
	})
}

// planTwice is from how many tables of a database on a first plan is made twice, rather than all of them looked at before it.
const planTwice = 5000

// compile plans the entries, and remembers what the tables looked like: the same before and after, or the plan may be
// of tables that nobody will compare with.
func (s *session) compile(ctx context.Context, strict bool) error {
	tables := s.p.tables
	if len(tables) == 0 { // any may be planned
		var err error
		if tables, err = pgcatalog.Names(ctx, s.conn, planTwice); err != nil {
			return err
		}
	}
	before, err := pgcatalog.Looks(ctx, s.conn, tables)
	if err != nil {
		return err
	}
	for {
		if s.compiled, err = s.p.opts.Compile(ctx, s.conn, s.p.declared(), strict); err != nil {
			return err
		}
		planned := s.compiled.all()
		if len(s.compiled.Refused) > 0 { // one of them may have been there when it was still planned, and may come back
			planned = append(planned, slices.DeleteFunc(slices.Clone(s.p.tables), func(t schema.Name) bool { return slices.Contains(planned, t) })...)
		}
		s.p.tables = planned
		if s.looks, err = pgcatalog.Looks(ctx, s.conn, s.p.tables); err != nil {
			return err
		}
		if sameShapes(s.p.tables, s.looks, before) {
			return s.know(ctx)
		}
		before = s.looks
	}
}

// claim makes the store obey this daemon, and judges once more, now that nobody else can take the stream.
func (s *session) claim(ctx context.Context) error {
	// A term is the transaction id of a commit made while the slot was held, so a later holder's is higher.
	term, err := s.gate.Term(ctx)
	if err != nil {
		return err
	}
	if s.p.gap == "" {
		stored, found, err := s.p.opts.Store.Head(ctx)
		if err != nil && !errors.Is(err, store.ErrSplit) {
			return err
		}
		if found {
			if err := s.gate.MarkClaim(ctx, s.p.opts.Namespace, stored.Generation, term); err != nil {
				return refused(err)
			}
		}
	}
	head, found, err := s.store.Claim(ctx, term)
	if errors.Is(err, store.ErrSuperseded) {
		return s.supersede(ctx, err, head, term)
	}
	if errors.Is(err, store.ErrSplit) {
		return &gapError{cause: store.ErrSplit.Error()}
	}
	if err != nil {
		return err
	}
	s.p.term = term
	s.head = head
	if s.p.gap != "" {
		s.head = fence.Head{Term: term}
		return nil
	}
	evidence, err := s.evidence(ctx, head, found)
	if err != nil {
		return err
	}
	evidence.SlotCreated, evidence.Confirmed = s.prepared.SlotCreated, s.prepared.Confirmed
	if cause := evidence.Gap(); cause != "" {
		return &gapError{cause: cause, first: !found && !s.p.followed}
	}
	return nil
}

// supersede judges a stored term that is higher than ours. A later daemon's is a transaction that exists; another
// cluster's, or one that a restored database has not come to yet, says nothing about who is later, and is a gap.
func (s *session) supersede(ctx context.Context, err error, head fence.Head, term fence.Term) error {
	now, _, gateErr := s.gate.Snapshot(ctx)
	if gateErr != nil {
		return gateErr
	}
	cause := foreign(head, s.identity, now)
	if cause == "" {
		return err
	}
	if s.p.gap == "" {
		_ = s.p.declare(&gapError{cause: cause})
	}
	if s.start == 0 {
		return &gapError{cause: cause} // the stream begins elsewhere; the next session starts it at the end of the log
	}
	s.head, s.replaces = fence.Head{Term: term}, head.Term
	return nil
}

// resume goes on with the generation that the store has.
func (s *session) resume(ctx context.Context) error {
	stored, err := s.storedRoster(ctx)
	if err != nil {
		return err
	}
	if stored != nil && stored.Database != nil && stored.Database.Other(*s.database()) {
		// Another daemon had the namespace for another database of this cluster: what HEAD says is in terms of this one's log too,
		// and what is cached is not from it.
		return &gapError{cause: otherDatabase(*stored.Database, *s.database())}
	}
	for i, e := range s.versions {
		e.Content = s.content(e)
		var old *rule.Entry
		if stored != nil {
			old = stored.Version(e.Name, e.Definition)
		}
		switch {
		case s.isNew(e) || old == nil || old.Version != e.Version || old.Suspended != "":
			// Whatever was not live under this very plan may read a table whose stream lacks a transaction that is still
			// open: the daemon that added the table may have been stopped while it waited, and the roster that said so
			// may be lost (D8).
			e.Activation, e.Suspended = store.Draw(), admitting
			s.admit = append(s.admit, i)
		case old.Content != e.Content:
			// The stream lacks nothing of its tables. But its name has to move as names move while the stream is followed,
			// with the floors: a standby that lags may not know of what was done.
			e.Activation, e.Suspended = store.Draw(), altered
			s.renew = append(s.renew, i)
		default:
			e.Activation = old.Activation
		}
	}
	s.head.Publication = s.prepared.Fingerprint
	s.names = apply.NewNames(s.p.opts.Namespace, s.roster(), s.versions)
	s.names.Lanes(s.store.Generations())
	return nil
}

// storedRoster reads the roster, nil when it is missing or not the one that HEAD names: then every entry gets a new
// name, which costs hits and nothing else.
func (s *session) storedRoster(ctx context.Context) (*rule.Roster, error) {
	text, found, err := s.p.opts.Store.Roster(ctx)
	if err != nil || !found {
		return nil, err
	}
	stored, err := rule.ParseRoster(text)
	if err == nil && stored.Generation == s.head.Generation && stored.Revision > s.head.Revision {
		s.head.Revision = stored.Revision // a move that was not finished; the next one goes past it
		stored.Revision = 0
	}
	if err != nil || stored.Generation != s.head.Generation || stored.Revision != s.head.Revision {
		s.p.opts.Logger.WarnContext(ctx, "the roster in the store is not the one that HEAD names; every entry gets a new name")
		return nil, nil //nolint:nilnil,nilerr // no usable roster is an answer
	}
	return stored, nil
}

// refused gives what the database does not allow the form that says what to do.
func refused(err error) error {
	var table interface {
		error
		Do() string
	}
	if !errors.As(err, &table) {
		return err
	}
	return &pgsource.SetupError{Problems: []pgsource.Problem{{
		What: "the table freshet.alive", Why: table.Error(), Do: table.Do(),
	}}}
}

func (s *session) isNew(e *rule.Entry) bool {
	return slices.ContainsFunc(e.Rules, func(r rule.Rule) bool {
		return slices.ContainsFunc(s.prepared.Added, func(t schema.Name) bool { return t.Schema == r.Schema && t.Name == r.Table })
	})
}

// begin starts a new generation at the stream's position. Its entries go live only when every transaction is over
// that the stream may lack (D8); until then readers load from the database.
func (s *session) begin(ctx context.Context) error {
	snapshot, _, err := s.gate.Snapshot(ctx)
	if err != nil {
		return err
	}
	s.head = fence.Head{
		Generation: store.Draw(), Term: s.head.Term,
		System: s.identity.SystemID, Timeline: s.identity.Timeline, Publication: s.prepared.Fingerprint,
		Wi: s.start, Wc: s.start, Si: snapshot,
	}
	for i, e := range s.versions {
		e.Content = s.content(e)
		e.Activation, e.Suspended = store.Draw(), admitting
		s.admit = append(s.admit, i)
	}
	if s.replaces != "" {
		err = s.store.Replace(ctx, s.head, s.replaces)
	} else {
		err = s.store.NewGeneration(ctx, s.head)
	}
	if err != nil {
		return fmt.Errorf("start a new generation: %w", err)
	}
	s.p.term = s.head.Term
	// Only now that the store has it, or a crash between the two would hide the recovery that this generation answers.
	if err := s.gate.MarkAlive(ctx, s.p.opts.Namespace, s.head.Generation, s.head.Term); err != nil {
		return err
	}
	s.names = apply.NewNames(s.p.opts.Namespace, s.roster(), s.versions)
	s.names.Lanes(s.store.Generations())
	s.p.gap, s.p.condemned = "", false
	return nil
}

// condemned is the publication fingerprint of a HEAD under which nothing is live, and nothing ever goes live: that of a
// gap which could not be answered with a new generation yet.
const condemned = "condemned"

// condemn makes readers go to the database from now on. A gap is answered by a new generation, which may have to wait
// for the database, or for somebody to mend it; what is cached must not be read meanwhile.
//
// of is the HEAD to be replaced, of which the term is compared and system and timeline stay for whoever judges next.
func (s *session) condemn(ctx context.Context, of fence.Head) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if s.p.condemned {
		// Once is not enough: a store that fails over, or comes back from a dump, may have the HEAD from before.
		head, found, err := s.p.opts.Store.Head(ctx)
		switch {
		case errors.Is(err, store.ErrSplit): // some lanes may be of another generation again, or still
		case err != nil:
			return fmt.Errorf("look whether what is cached is out of use: %w", err)
		case !found || head.Publication == condemned:
			return nil
		}
	}
	if of.System == "" {
		of.System, of.Timeline = s.identity.SystemID, s.identity.Timeline
	}
	err := s.store.NewGeneration(ctx, fence.Head{
		Generation: store.Draw(), Term: of.Term, Publication: condemned, System: of.System, Timeline: of.Timeline,
	})
	if err != nil && !errors.Is(err, store.ErrSuperseded) {
		return fmt.Errorf("take what is cached out of use: %w", err)
	}
	s.p.condemned = true
	return nil
}

// follow reads, routes, applies and confirms until ctx ends or something breaks.
func (s *session) follow(ctx context.Context) error {
	p := s.p
	p.followed, s.replid = true, s.store.Replid()
	p.state.apply.Wc.Store(uint64(s.head.Wc))
	p.state.received.Store(0)
	began := time.Now()
	queue := apply.NewQueue()
	p.state.apply.Oldest.Store(0)
	p.state.queue.Store(queue)
	defer p.state.queue.Store(nil)
	applier := apply.New(apply.Options{
		Store: s.store, Gate: s.gate, Queue: queue, Names: s.names, Head: s.head, Confirm: s.stream.Confirm,
		Observe: p.opts.Observe, Published: s.published, Logger: p.opts.Logger, Rewind: p.opts.Rewind, Settle: settle, Stats: &p.state.apply,
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
		router: router, queue: queue, after: s.head.Wc,
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
