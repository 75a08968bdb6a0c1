package chaos

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/freshet/freshet"
)

// session is a reader through one freshet.Session, and what it has seen since everything was at rest.
type session struct {
	mu      sync.Mutex // held for a read
	session freshet.Session
	events  []event
	began   time.Time
}

// event is a read of an item, or a token that the session was told of.
type event struct {
	entry    string
	id       int64
	version  int64            // 0: missing
	observed map[int64]change // what the token's transaction wrote; nil: a read
}

// longest is how many events are kept of a session; then another one begins.
const longest = 5000

func (s *session) readOn(ctx context.Context, w *world, l *library, source *rand.Rand) {
	for ctx.Err() == nil {
		if err := s.read(ctx, w, l, source); err != nil && ctx.Err() == nil {
			w.counts.failedReads.Add(1)
			if w.wholeSince(time.Now().Add(-5 * time.Second)) {
				w.violation("while nothing was broken, reading through a session failed: %v", err)
			}
			wait(ctx, 20*time.Millisecond)
		}
		wait(ctx, time.Duration(source.Int64N(int64(4*time.Millisecond))))
	}
}

func (s *session) read(ctx context.Context, w *world, l *library, source *rand.Rand) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.events) > longest {
		s.begin()
	}
	if c, ok := w.ledger.recent(source.IntN(4)); ok && source.IntN(8) == 0 {
		s.session.Observe(c.token)
		s.events = append(s.events, event{observed: c.wrote})
	}
	entry, id := []string{"item", "coded"}[source.IntN(2)], someID(source, items)
	value, err := l.read(ctx, entry, id, &ask{session: &s.session})
	if err != nil {
		return err
	}
	e := event{entry: entry, id: id}
	if value != "" {
		if e.version, err = versionOf(value); err != nil {
			return err
		}
	}
	s.events = append(s.events, e)
	w.counts.bySession.Add(1)
	return nil
}

// begin forgets what was seen and begins another session.
func (s *session) begin() {
	s.session, s.events, s.began = freshet.Session{}, nil, time.Now()
}

// judgeSessions holds every session against all that was committed. Nobody writes meanwhile.
func (w *world) judgeSessions() {
	for n, s := range w.sessions {
		s.mu.Lock()
		if w.kept.since(s.began) {
			w.counts.chapters.Add(1)
			if wrong := w.ledger.follows(s.events); wrong != "" {
				w.violation("session %d: %s", n, wrong)
			}
		}
		s.begin()
		s.mu.Unlock()
	}
}

// follows says what is wrong with a session: whoever has seen a transaction in one item sees it in every other item that it
// changed, and so do those who were told of it. Versions of one item are in the order of their commits: whoever sees one
// has seen all that are lower.
func (l *ledger) follows(events []event) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	byItem := map[int64][]*commit{} // not yet seen, in order
	for i := range l.commits {
		for id := range l.commits[i].wrote {
			byItem[id] = append(byItem[id], &l.commits[i])
		}
	}
	for id, commits := range byItem {
		slices.SortFunc(commits, func(a, b *commit) int { return cmp.Compare(a.wrote[id].version, b.wrote[id].version) })
	}
	least := map[int64]change{}
	contain := func(wrote map[int64]change) {
		for id, c := range wrote {
			if c.version > least[id].version {
				least[id] = c
			}
		}
	}
	for i, e := range events {
		if e.observed != nil {
			contain(e.observed)
			continue
		}
		last := least[e.id]
		switch {
		case e.version == 0 && last.exists && !l.of(e.id).mayLack(last):
			return fmt.Sprintf("event %d of %d: %s:%d is missing after what contains its version %d", i, len(events), e.entry, e.id, last.version)
		case e.version != 0 && e.version < last.version:
			return fmt.Sprintf("event %d of %d: %s:%d has version %d after what contains its version %d", i, len(events), e.entry, e.id, e.version, last.version)
		}
		unseen := byItem[e.id]
		for len(unseen) > 0 && unseen[0].wrote[e.id].version <= e.version {
			contain(unseen[0].wrote)
			unseen = unseen[1:]
		}
		byItem[e.id] = unseen
	}
	return ""
}

func TestSession(t *testing.T) {
	t.Parallel()
	l := newLedger()
	made := func(version int64) change { return change{version: version, exists: true} }
	for _, wrote := range []map[int64]change{
		{1: made(10)}, {1: made(12), 2: made(13)}, {2: made(15), 3: {version: 16}}, {3: made(20)},
	} {
		l.over(nil, wrote, outcome{committed: true})
	}
	read := func(id, version int64) event { return event{entry: "item", id: id, version: version} }
	for _, tt := range []struct {
		name   string
		events []event
		wrong  bool
	}{
		{"in order", []event{read(1, 10), read(1, 12), read(2, 13), read(2, 15), read(3, 20)}, false},
		{"back", []event{read(1, 12), read(1, 10)}, true},
		{"another item of a transaction that was seen", []event{read(1, 12), read(2, 9)}, true},
		{"another item of one that was seen by what came later", []event{read(2, 15), read(1, 10)}, true},
		{"one that nobody knows, between", []event{read(1, 11), read(2, 9)}, false},
		{"one that nobody knows, later", []event{read(2, 14), read(1, 10)}, true},
		{"told of", []event{{observed: map[int64]change{2: made(13)}}, read(2, 9)}, true},
		{"missing, as it was deleted", []event{read(2, 15), read(3, 0)}, false},
		{"there, though it was deleted", []event{read(2, 15), read(3, 5)}, true},
		{"missing, though it is there again", []event{read(3, 20), read(3, 0)}, true},
	} {
		if got := l.follows(tt.events); (got != "") != tt.wrong {
			t.Errorf("%s: follows() = %q, want something wrong: %t", tt.name, got, tt.wrong)
		}
	}
}
