package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/freshet/freshet/internal/apply"
	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/pggate"
	"github.com/freshet/freshet/internal/pgsource"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/route"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/mvcc"
)

// settle is how long Wc stands still after names moved: readers confirm the roster every second at the latest, and
// two machines' clocks do not run at quite the same rate.
const settle = 1250 * time.Millisecond

// drain bounds how long a graceful stop waits for what was read to be applied.
const drain = 10 * time.Second

// admitting marks an entry that waits until every transaction is over that its tables' publication may have missed.
const admitting = "its tables were just added to the stream: waiting until every transaction that began before is over"

// session is one attempt: everything that is opened for it is closed with it, so that whatever goes wrong is mended
// by taking the stream up again from what the store says.
type session struct {
	p        *Pipeline
	store    *redisstore.Conn
	gate     *pggate.Gate // used by the applier
	side     *pggate.Gate // used by whoever waits for snapshots or watches the catalog
	conn     *pgx.Conn
	stream   *pgsource.Stream
	identity pggate.Identity
	compiled *Compiled
	prepared pgsource.Prepared
	before   string   // the publication's fingerprint before this session altered it
	start    mvcc.LSN // of a new generation's stream
	admit    []string // entries that wait for admission
	head     fence.Head
	names    *apply.Names
}

func (p *Pipeline) session(ctx context.Context) (err error) {
	s := &session{p: p}
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	if err := s.connect(ctx); err != nil {
		return err
	}
	defer func() {
		if p.gap == "" && isGap(err) {
			err = p.declare(err)
		}
		if p.gap != "" {
			err = errors.Join(err, s.condemn(ctx))
		}
	}()
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
// stays free for a daemon that can reach it.
func (s *session) connect(ctx context.Context) error {
	o := &s.p.opts
	var err error
	if s.store, err = o.Store.Connect(ctx); err != nil {
		return fmt.Errorf("connect to the store: %w", err)
	}
	if s.p.gap != "" {
		if err := s.condemn(ctx); err != nil {
			return err
		}
	}
	if s.gate, err = pggate.Open(ctx, o.URL, o.Logger); err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	if s.side, err = pggate.Open(ctx, o.URL, o.Logger); err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	if s.conn, err = pgx.Connect(ctx, o.URL); err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	s.identity = s.gate.Identity()
	return s.gate.Ensure(ctx)
}

// acquire plans the entries, prepares publication and slot, and takes the slot, which only one daemon can hold.
func (s *session) acquire(ctx context.Context) error {
	o := &s.p.opts
	info, err := pgsource.SlotState(ctx, s.conn, o.Slot)
	if err != nil {
		return err
	}
	if info.ActivePID != 0 {
		return fmt.Errorf("slot %q, held by process %d: %w", o.Slot, info.ActivePID, pgsource.ErrSlotInUse)
	}
	if s.before, err = pgsource.Fingerprint(ctx, s.conn, o.Publication); err != nil {
		return err
	}
	if s.compiled, err = o.Compile(ctx, s.conn); err != nil {
		return fmt.Errorf("plan the entries: %w", err)
	}
	s.prepared, err = pgsource.Prepare(ctx, s.conn, pgsource.PrepareOptions{
		Slot: o.Slot, Publication: o.Publication, Tables: s.compiled.Tables,
	})
	if err != nil {
		return fmt.Errorf("prepare publication and slot: %w", err)
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
		URL: o.URL, Slot: o.Slot, Publication: o.Publication, Near: snapshot.Xmax, Logger: o.Logger,
	}, from)
	if err != nil {
		return err
	}
	// A term is the transaction id of a commit made while the slot was held, so a later holder's is higher.
	term, err := s.gate.Term(ctx)
	if err != nil {
		return err
	}
	head, found, err := s.store.Claim(ctx, term)
	if err != nil {
		return err
	}
	s.p.term = term
	if s.p.gap != "" {
		s.head = fence.Head{Term: term}
		return nil
	}
	alive, err := s.gate.Alive(ctx)
	if err != nil {
		return err
	}
	evidence := Evidence{
		HeadFound: found, Head: head, Identity: s.identity, SlotCreated: s.prepared.SlotCreated,
		Confirmed: s.prepared.Confirmed, Insert: insert, Alive: alive, Publication: s.before,
	}
	if cause := evidence.Gap(); cause != "" {
		return &gapError{cause: cause, first: !found}
	}
	s.head = head
	return nil
}

// resume goes on with the generation that the store has.
func (s *session) resume(ctx context.Context) error {
	stored, err := s.storedRoster(ctx)
	if err != nil {
		return err
	}
	roster := &rule.Roster{
		Format: rule.RosterFormat, Generation: s.head.Generation, Term: string(s.head.Term), Revision: s.head.Revision,
		Entries: map[string]*rule.Entry{},
	}
	for _, e := range s.compiled.Entries {
		var old *rule.Entry
		if stored != nil {
			old = stored.Entries[e.Name]
		}
		switch {
		case s.isNew(e):
			e.Activation, e.Suspended = apply.Draw(), admitting
			s.admit = append(s.admit, e.Name)
		case old == nil || old.Version != e.Version || old.Suspended != "" && old.Suspended != admitting:
			// A plan that changed, or that was out of the cache for a reason which planning has now judged again.
			e.Activation = apply.Draw()
		case old.Suspended == admitting:
			e.Activation, e.Suspended = old.Activation, admitting
			s.admit = append(s.admit, e.Name)
		default:
			e.Activation = old.Activation
		}
		roster.Entries[e.Name] = e
	}
	s.head.Publication = s.prepared.Fingerprint
	s.names = apply.NewNames(s.p.opts.Namespace, roster, s.compiled.Entries)
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
		Generation: apply.Draw(), Term: s.head.Term,
		System: s.identity.SystemID, Timeline: s.identity.Timeline, Publication: s.prepared.Fingerprint,
		Wi: s.start, Wc: s.start, Si: snapshot,
	}
	roster := &rule.Roster{
		Format: rule.RosterFormat, Generation: s.head.Generation, Term: string(s.head.Term),
		Entries: map[string]*rule.Entry{},
	}
	for _, e := range s.compiled.Entries {
		e.Activation, e.Suspended = apply.Draw(), admitting
		s.admit = append(s.admit, e.Name)
		roster.Entries[e.Name] = e
	}
	if err := s.store.NewGeneration(ctx, s.head); err != nil {
		return fmt.Errorf("start a new generation: %w", err)
	}
	// Only now that the store has it, or a crash between the two would hide the recovery that this generation answers.
	if err := s.gate.MarkAlive(ctx); err != nil {
		return err
	}
	s.names = apply.NewNames(s.p.opts.Namespace, roster, s.compiled.Entries)
	s.p.gap, s.p.condemned = "", false
	return nil
}

// condemned is the publication fingerprint of a HEAD under which nothing is live, and nothing ever goes live: that of a
// gap which could not be answered with a new generation yet.
const condemned = "condemned"

// condemn makes readers go to the database from now on. A gap is answered by a new generation, which may have to wait
// for the database, or for somebody to mend it; what is cached must not be read meanwhile.
func (s *session) condemn(ctx context.Context) error {
	if s.p.condemned || s.p.term == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := s.store.NewGeneration(ctx, fence.Head{Generation: apply.Draw(), Term: s.p.term, Publication: condemned})
	if err != nil && !errors.Is(err, redisstore.ErrSuperseded) {
		return fmt.Errorf("take what is cached out of use: %w", err)
	}
	s.p.condemned = true
	return nil
}

// follow reads, routes, applies and confirms until ctx ends or something breaks.
func (s *session) follow(ctx context.Context) error {
	p := s.p
	p.followed = true
	p.state.apply.Wc.Store(uint64(s.head.Wc))
	p.state.received.Store(0)
	// Flushed, not inserted: the end of what was inserted may lie past what there is to stream.
	target, err := s.position(ctx, "pg_current_wal_flush_lsn")
	if err != nil {
		return err
	}
	queue := apply.NewQueue()
	applier := apply.New(apply.Options{
		Store: s.store, Gate: s.gate, Queue: queue, Names: s.names, Head: s.head, Confirm: s.stream.Confirm,
		Observe: p.opts.Observe, Published: s.published, Logger: p.opts.Logger, Rewind: p.opts.Rewind, Settle: settle, Stats: &p.state.apply,
	})
	// Always, also when no name changed: the daemon before may have moved names an instant ago without waiting for the
	// readers of the old ones, and may have a roster on its way that only a later term in the store refuses (D7).
	if err := applier.Publish(ctx); err != nil {
		return err
	}
	s.report(CatchingUp)
	out := &sink{
		router: route.New(s.compiled.Entries, nil), queue: queue, after: s.head.Wc,
		received: &p.state.received, rows: &p.state.rows,
	}
	// Applying outlives ctx for as long as a drain may take; reading does not.
	working, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	group, working := errgroup.WithContext(working)
	reading, stopReading := context.WithCancel(working)
	defer context.AfterFunc(ctx, func() {
		stopReading()
		time.AfterFunc(drain, abort)
	})()
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
	group.Go(func() error { return applier.Run(working) })
	group.Go(func() error { return s.watch(reading, applier) })
	group.Go(func() error { return s.catchUp(reading, target) })
	if len(s.admit) > 0 {
		group.Go(func() error { return s.admission(reading, applier) })
	}
	err = group.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// report makes public what the session stands on.
func (s *session) report(phase Phase) {
	s.p.state.update(func(st *Status) {
		st.Phase, st.Problem = phase, ""
		st.Namespace, st.System, st.Timeline = s.p.opts.Namespace, s.identity.SystemID, s.identity.Timeline
		st.Generation, st.Term = s.head.Generation, string(s.head.Term)
	})
	s.published(s.names.Roster())
}

// published makes public which names are live.
func (s *session) published(roster *rule.Roster) {
	entries := make([]EntryStatus, 0, len(s.compiled.Entries))
	for _, e := range s.compiled.Entries {
		entries = append(entries, EntryStatus{
			Name: e.Name, Version: e.Version, Activation: e.Activation, Suspended: e.Suspended,
		})
	}
	s.p.state.update(func(st *Status) { st.Revision, st.Entries = roster.Revision, entries })
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
