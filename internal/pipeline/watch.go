package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/apply"
	"github.com/freshet/freshet/internal/ddl"
	"github.com/freshet/freshet/internal/pgcatalog"
	"github.com/freshet/freshet/internal/pggate"
	"github.com/freshet/freshet/internal/pgsource"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/mvcc"
)

const (
	watchEvery = 2 * time.Second
	lookEvery  = 100 * time.Millisecond
	// lookWithin bounds one look: a connection that answers nothing for so long leads nowhere.
	lookWithin = 10 * time.Second
)

// watch looks at what the stream does not tell: whether the publication is still the one that was prepared, whether
// the store still has the roster, and what the slot costs.
func (s *session) watch(ctx context.Context, applier *apply.Applier) error {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.p.replan:
			return errDeclared
		case <-ticker.C:
		case <-s.ddl:
		}
		altered := applier.Altered()
		err := s.lookAround(ctx)
		if err == nil {
			err = s.keepContent(ctx, applier)
		}
		if err == nil {
			err = s.looked(ctx, applier, altered)
		}
		if err == nil {
			err = s.keepRoster(ctx, applier)
		}
		if err == nil {
			err = s.keepUsed(ctx, applier)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// errDeclared ends a session whose entries are declared otherwise now.
var errDeclared = errors.New("the entries are declared otherwise")

// wake has the watch look now. It does not wait for it.
func (s *session) wake() {
	select {
	case s.ddl <- struct{}{}:
	default:
	}
}

// looked tells the applier what a look has seen: the alterations that had become visible before it began. Names have moved for
// what it found, or the session ends.
func (s *session) looked(ctx context.Context, applier *apply.Applier, altered uint64) error {
	if altered == s.told {
		return nil
	}
	s.told = altered
	return applier.Looked(ctx, altered)
}

// know reads what DDL has to name to concern the tables.
func (s *session) know(ctx context.Context) error {
	oids, err := pgcatalog.Parts(ctx, s.conn, s.p.tables)
	if err != nil {
		return err
	}
	known := &ddl.Known{OIDs: oids, Names: map[string]bool{}}
	for _, t := range s.p.tables {
		known.Names[ddl.Plain(t.String())] = true
	}
	s.known.Store(known)
	return nil
}

// errShape ends a session whose tables, or functions, are not those that were planned any more.
var errShape = errors.New("the tables that entries read, or functions that they call, have changed")

// sameShapes reports whether what was planned of the tables still holds. A table that was swapped for another by renaming
// never shows in the stream.
func sameShapes(planned []schema.Name, a, b map[schema.Name]pgcatalog.Look) bool {
	return !slices.ContainsFunc(planned, func(t schema.Name) bool {
		x, inA := a[t]
		y, inB := b[t]
		return inA != inB || x.Shape != y.Shape
	})
}

// content digests what the tables of an entry looked like.
func (s *session) content(e *rule.Entry) string {
	digest := sha256.New()
	for i := range e.Rules {
		name := schema.Name{Schema: e.Rules[i].Schema, Name: e.Rules[i].Table}
		_, _ = fmt.Fprintf(digest, "%q %s\n", name, s.looks[name].Content) // a hash takes every write
	}
	return hex.EncodeToString(digest.Sum(nil)[:8])
}

// lookAround looks at the database and at where the store's address leads, within bounds.
func (s *session) lookAround(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	if err := s.look(ctx); err != nil {
		return err
	}
	return s.together(ctx)
}

func (s *session) look(ctx context.Context) error {
	now, err := pgsource.Fingerprint(ctx, s.conn, s.p.opts.Publication)
	if err != nil {
		return fmt.Errorf("watch the publication: %w", err)
	}
	if now != s.prepared.Fingerprint {
		return &gapError{cause: alteredPublication}
	}
	looks, err := pgcatalog.Looks(ctx, s.conn, s.p.tables)
	if err != nil {
		return err
	}
	functions, err := pgcatalog.Functions(ctx, s.conn, s.compiled.Called)
	if err != nil {
		return err
	}
	if !sameShapes(s.p.tables, looks, s.looks) || !maps.Equal(functions, s.compiled.Functions) {
		return errShape
	}
	if !maps.Equal(looks, s.looks) {
		s.altered, s.looks = true, looks
		if err := s.know(ctx); err != nil { // there may be other partitions
			return err
		}
	}
	info, err := pgsource.SlotState(ctx, s.conn, s.p.opts.Slot)
	if err != nil {
		return fmt.Errorf("watch the slot: %w", err)
	}
	insert, err := s.insert(ctx)
	if err != nil {
		return err
	}
	s.p.state.update(func(st *Status) { st.Slot, st.Insert = info, insert })
	return nil
}

// insert asks the server where its log ends.
func (s *session) insert(ctx context.Context) (mvcc.LSN, error) {
	var text string
	if err := s.conn.QueryRow(ctx, `SELECT pg_current_wal_insert_lsn()::text`).Scan(&text); err != nil {
		return 0, fmt.Errorf("look at the log: %w", err)
	}
	lsn, err := mvcc.ParseLSN(text)
	if err != nil {
		return 0, fmt.Errorf("look at the log: %w", err)
	}
	return lsn, nil
}

// errApart ends a session whose store is not the one that readers are led to.
var errApart = errors.New("readers are led to another redis than the daemon: a failover, or an address that leads to several servers")

// together compares the history that the store's address leads to with the daemon's. Its connection may outlive a
// failover for as long as the old master answers: an address that moves to another server leaves it where it is.
func (s *session) together(ctx context.Context) error {
	if s.replid == "" {
		return nil // in a cluster each lane's connection is held against its owner
	}
	theirs, err := s.p.opts.Store.Replid(ctx)
	if err != nil {
		return fmt.Errorf("watch the store: %w", err)
	}
	if theirs != s.replid {
		return fmt.Errorf("%w (%s, not %s)", errApart, theirs, s.replid)
	}
	return nil
}

// keepContent gives another name to the entries whose tables were rewritten, or whose values are read in another way now:
// no row in the log says what that did to them. The plan holds, and so does the session.
func (s *session) keepContent(ctx context.Context, applier *apply.Applier) error {
	if !s.altered {
		return nil
	}
	s.altered = false
	return applier.Request(ctx, func(n *apply.Names) (moved bool) {
		for i, e := range s.versions {
			content := s.content(e)
			if content == e.Content {
				continue
			}
			e.Content = content
			if n.Move(i, altered, time.Now()) {
				moved = true
				s.p.state.apply.Moves.Add(1)
				s.p.opts.Logger.InfoContext(ctx, "an entry has a new name: "+altered, slog.String("entry", e.Name))
			}
		}
		return moved
	})
}

// keepRoster publishes the roster again when the store has lost it, or has another one than was published, to eviction,
// to a failover or to somebody's hand: without it readers load everything from the database. And it has HEAD compared,
// which may have changed while no write came along that would have shown it (D4).
func (s *session) keepRoster(ctx context.Context, applier *apply.Applier) error {
	published := s.live.Load().revision
	text, found, err := s.p.opts.Store.Roster(ctx)
	if err != nil {
		return fmt.Errorf("watch the roster: %w", err)
	}
	var stored rule.Roster
	if found {
		if parsed, err := rule.ParseRoster(text); err == nil {
			stored = *parsed
		}
	}
	return applier.Request(ctx, func(n *apply.Names) bool {
		ours := n.Roster()
		if ours.Revision != published {
			return false // names moved since, and with them the roster: what was read says nothing of the one that is there now
		}
		if stored.Generation == ours.Generation && stored.Revision == ours.Revision {
			return false
		}
		s.p.opts.Logger.WarnContext(ctx, "the store does not have the roster that was published; publishing it again")
		return true
	})
}

// catchUp waits until the store vouches for a moment of this session: then the pipeline is streaming. Wc does not say so,
// which waits for a commit that hangs in synchronous replication.
func (s *session) catchUp(ctx context.Context, began time.Time) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if h := s.p.state.apply.Horizon.Load(); h != nil && h.After(began) {
			break
		}
	}
	s.p.state.update(func(st *Status) { st.Phase = Streaming })
	s.p.opts.Logger.InfoContext(ctx, "streaming", slog.String("generation", s.head.Generation), slog.String("slot", s.p.opts.Slot))
	return nil
}

// admission waits until every transaction is over that was open when the stream's tables were settled, and then makes
// the waiting entries live (D8): what such a transaction wrote may never come through the stream.
func (s *session) admission(ctx context.Context, applier *apply.Applier) error {
	since, _, err := s.side.Snapshot(ctx)
	if err == nil {
		_, err = s.side.Quiesce(ctx, since, s.pinned)
	}
	if ctx.Err() != nil {
		return nil //nolint:nilerr // stopping
	}
	if err != nil {
		return fmt.Errorf("wait for open transactions: %w", err)
	}
	if err := s.activate(ctx, applier, s.admit); err != nil || ctx.Err() != nil {
		return err
	}
	s.p.state.update(func(st *Status) { st.Admission = "" })
	s.p.opts.Logger.InfoContext(ctx, "entries are live", slog.Int("entries", len(s.admit)))
	return nil
}

// activate makes versions live. Their keys' floors rise with it, so that no standby fills them that lacks what they
// waited for.
func (s *session) activate(ctx context.Context, applier *apply.Applier, versions []int) error {
	if len(versions) == 0 {
		return nil
	}
	err := applier.Request(ctx, func(n *apply.Names) bool {
		for _, i := range versions {
			n.Activate(i)
		}
		return true
	})
	if ctx.Err() != nil {
		return nil //nolint:nilerr // stopping
	}
	return err
}

// pinned says who keeps new tables waiting.
func (s *session) pinned(pins []pggate.Pin) {
	open := openText(pins)
	s.p.state.update(func(st *Status) { st.Admission = open })
	s.p.opts.Logger.Warn("entries wait for transactions that began before their tables were in the stream",
		slog.Int("entries", len(s.admit)), slog.String("open", open))
}

// openText names open transactions for whoever may end them.
func openText(pins []pggate.Pin) string {
	texts := make([]string, len(pins))
	for i, p := range pins {
		texts[i] = fmt.Sprintf("process %d since %s", p.PID, p.Since.Format(time.RFC3339))
		if p.PID == 0 {
			texts[i] = p.Query // a prepared transaction
		}
	}
	return strings.Join(texts, ", ")
}
