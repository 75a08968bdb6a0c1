package pipeline

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/apply"
	"github.com/freshet/freshet/internal/pgsource"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/internal/store"
)

const (
	// maxRetained bounds how many versions of one entry are served besides the file's own: each costs every change of the
	// entry's tables another confirm.
	maxRetained = 4
	// unusedFor is how long a version is retained at least after its use was last seen: for libraries that read again after
	// a pause, when their registration has run out. Mostly the longest TTL of its values is longer.
	unusedFor = time.Minute
	// sweepAfter is how long names have to be quiet before the records of dead ones are swept.
	sweepAfter = time.Minute
)

// kept is a version of an entry that is, or was, in a roster.
type kept struct {
	entry *rule.Entry
	since time.Time // when it was first found that the file does not declare it
	used  time.Time // when a registration of it was last seen, or a session began
}

func useOf(e *rule.Entry) store.Use {
	return store.Use{Entry: e.Name, Definition: e.Definition}
}

// remember takes the versions of the roster in the store into account, whatever generation it is of: libraries that use
// them may live (D7). Those that this daemon's own file declares are told apart when they are planned.
func (s *session) remember(ctx context.Context) error {
	text, found, err := s.p.opts.Store.Roster(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	if found {
		// One that cannot be read says nothing; whoever uses it finds out, and loads from the database.
		if roster, err := rule.ParseRoster(text); err == nil {
			for e := range roster.Versions() {
				s.p.remember(e, now)
			}
		}
	}
	for _, k := range s.p.kept {
		k.used = now // whoever uses it had no roster to learn from while no session ran
	}
	return nil
}

func (p *Pipeline) remember(e *rule.Entry, now time.Time) {
	if d := e.Declared; d == nil || d.Name != e.Name || d.Digest() != e.Definition || p.kept[useOf(e)] != nil {
		return
	}
	k := &kept{entry: e, since: now, used: now}
	if e.Retained != 0 {
		k.since = time.UnixMicro(e.Retained)
	}
	p.kept[useOf(e)] = k
}

// declared are the declarations of the versions that are remembered, in a fixed order.
func (p *Pipeline) declared() []rule.Declared {
	list := make([]rule.Declared, 0, len(p.kept))
	for _, k := range p.kept {
		list = append(list, *k.entry.Declared)
	}
	slices.SortFunc(list, func(a, b rule.Declared) int {
		return strings.Compare(a.Name+"."+a.Digest(), b.Name+"."+b.Digest())
	})
	return list
}

// retain decides which versions are served besides the file's own: those that could be planned, whose tables are
// published without our doing, and of each entry those that were declared last.
func (s *session) retain(ctx context.Context) error {
	published, err := pgsource.Published(ctx, s.conn, s.p.opts.Publication)
	if err != nil {
		return err
	}
	planned := s.compiled.Retained
	slices.SortStableFunc(planned, func(a, b *rule.Entry) int {
		return s.p.kept[useOf(b)].since.Compare(s.p.kept[useOf(a)].since)
	})
	count := map[string]int{}
	served := map[store.Use]*kept{}
	s.versions = slices.Clone(s.compiled.Entries)
	for _, e := range planned {
		k := s.p.kept[useOf(e)]
		missing := slices.IndexFunc(e.Rules, func(r rule.Rule) bool {
			return !slices.Contains(published, schema.Name{Schema: r.Schema, Name: r.Table})
		})
		switch {
		case missing >= 0:
			s.p.givenUp(ctx, e, "its table "+e.Rules[missing].Schema+"."+e.Rules[missing].Table+" is not published any more")
			continue
		case count[e.Name] == maxRetained:
			s.p.givenUp(ctx, e, "too many versions of the entry are in use")
			continue
		}
		count[e.Name]++
		e.Keep, e.Retained = k.entry.Keep, k.since.UnixMicro()
		k.entry = e
		served[useOf(e)] = k
		s.retained = append(s.retained, len(s.versions))
		s.versions = append(s.versions, e)
	}
	s.p.kept = served
	return nil
}

func (p *Pipeline) givenUp(ctx context.Context, e *rule.Entry, why string) {
	p.opts.Logger.ErrorContext(ctx, "an earlier version of an entry is given up; libraries that use it read from the database",
		slog.String("entry", e.Name), slog.String("definition", e.Definition), slog.String("cause", why))
}

// database is the one whose log is followed.
func (s *session) database() *rule.Database {
	return &rule.Database{OID: s.identity.DatabaseOID, Name: s.identity.Database}
}

// roster is a roster of the versions, which are filled in one by one.
func (s *session) roster() *rule.Roster {
	r := &rule.Roster{
		Format: rule.RosterFormat, Generation: s.head.Generation, Term: string(s.head.Term), Revision: s.head.Revision,
		Database: s.database(), Entries: map[string]*rule.Entry{},
	}
	if n := s.p.opts.Store.Lanes(); n > 1 {
		r.Lanes = n
	}
	for _, e := range s.versions {
		if e.Retained == 0 {
			r.Entries[e.Name] = e
		} else {
			r.Retained = append(r.Retained, e)
		}
	}
	return r
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
	var live store.Live
	live.Prefixes = s.names.Prefixes()
	var entries []EntryStatus
	for e := range roster.Versions() {
		entries = append(entries, StatusOf(e))
		if e.Retained != 0 {
			live.Retained = append(live.Retained, useOf(e))
		}
	}
	if s.recorder != nil {
		s.recorder.Published(s.versions)
	}
	s.live.Store(&liveNames{Live: live, revision: roster.Revision, since: time.Now()})
	for name, why := range s.compiled.Refused {
		entries = append(entries, EntryStatus{Name: name, Key: s.compiled.Templates[name], Suspended: why})
	}
	SortEntries(entries)
	s.p.state.update(func(st *Status) {
		for i := range entries {
			entries[i].keepUse(st.Entries)
		}
		st.Revision, st.Entries = roster.Revision, entries
	})
}

// keepUsed looks which retained versions libraries register, and retires those that none has used for as long as
// their values live. What is not retired in time costs confirms; what is retired too early costs its users the cache until
// they are deployed anew, and never freshness.
func (s *session) keepUsed(ctx context.Context, applier *apply.Applier) error {
	if len(s.retained) == 0 {
		return nil
	}
	uses := make([]store.Use, len(s.retained))
	for i, n := range s.retained {
		uses[i] = useOf(s.versions[n])
	}
	found, err := s.p.opts.Store.Uses(ctx, uses)
	if errors.Is(err, store.ErrNoPermission) {
		if !s.blind {
			s.p.opts.Logger.WarnContext(ctx, "cannot see which versions libraries use, so none is retired", slog.Any("err", err))
		}
		s.blind = true
		return nil
	}
	if err != nil {
		return err
	}
	now := time.Now()
	var unused []int
	for _, n := range s.retained {
		e := s.versions[n]
		k := s.p.kept[useOf(e)]
		if _, ok := found[useOf(e)]; ok {
			k.used = now
		} else if now.Sub(k.used) > max(time.Duration(e.Keep)*time.Millisecond, s.p.opts.Unused) {
			unused = append(unused, n)
		}
	}
	s.p.state.update(func(st *Status) {
		st.Entries = slices.Clone(st.Entries) // whoever read the status has the one before
		for i := range st.Entries {
			e := &st.Entries[i]
			if who, ok := found[store.Use{Entry: e.Name, Definition: e.Definition}]; ok {
				e.LastUsed, e.UsedBy = &now, who
			}
		}
	})
	return s.retire(ctx, applier, unused)
}

// retire takes versions out of the roster. The applier publishes it, and lets Wc stand still until nobody reads under the
// old names any more (D7).
func (s *session) retire(ctx context.Context, applier *apply.Applier, unused []int) error {
	if len(unused) == 0 {
		return nil
	}
	err := applier.Request(ctx, func(n *apply.Names) bool {
		for _, i := range unused {
			n.Retire(i)
		}
		return true
	})
	if err != nil {
		return err
	}
	s.retained = slices.DeleteFunc(s.retained, func(n int) bool { return slices.Contains(unused, n) })
	for _, n := range unused {
		e := s.versions[n]
		delete(s.p.kept, useOf(e))
		s.p.opts.Logger.InfoContext(ctx, "an earlier version of an entry is retired: no library uses it any more",
			slog.String("entry", e.Name), slog.String("definition", e.Definition))
	}
	return nil
}

// names that are live, for whoever sweeps those that are not.
type liveNames struct {
	store.Live
	revision uint64
	since    time.Time
}

// sweep removes the records of dead generations and names once the names have been quiet for a while: they would go by
// their TTL, but fill the store until then.
func (s *session) sweep(ctx context.Context) error {
	after := s.p.opts.SweepAfter
	ticker := time.NewTicker(after/4 + time.Millisecond)
	defer ticker.Stop()
	var done uint64
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		now := s.live.Load()
		if now == nil || now.revision == done || time.Since(now.since) < after {
			continue
		}
		n, err := s.p.opts.Store.Sweep(ctx, func() store.Live { return s.live.Load().Live })
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			s.p.opts.Logger.DebugContext(ctx, "sweeping dead records; trying again", slog.Any("err", err))
			continue
		}
		done = now.revision
		if n > 0 {
			s.p.opts.Logger.InfoContext(ctx, "dead records are removed", slog.Int64("records", n))
		}
	}
}
