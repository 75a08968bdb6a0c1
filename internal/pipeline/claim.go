package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/freshet/freshet/internal/apply"
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/pgsource"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/internal/store"
)

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
			if err := s.gate.MarkClaim(ctx, s.p.opts.mark(), stored.Generation, term); err != nil {
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
			if e.Activation, e.Suspended = store.Draw(), replanned; s.isNew(e) {
				e.Suspended = admitting
			}
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
		e.Activation, e.Suspended = store.Draw(), generation
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
	if err := s.gate.MarkAlive(ctx, s.p.opts.mark(), s.head.Generation, s.head.Term); err != nil {
		return err
	}
	s.names = apply.NewNames(s.p.opts.Namespace, s.roster(), s.versions)
	s.names.Lanes(s.store.Generations())
	s.p.trail.Generation(s.p.gap)
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
