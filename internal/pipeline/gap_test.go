package pipeline

import (
	"strings"
	"testing"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/pggate"
	"github.com/freshet/freshet/mvcc"
)

// TestEvidence alters one thing at a time of what says that the stream continues what the store has.
func TestEvidence(t *testing.T) {
	t.Parallel()
	whole := func() Evidence {
		return Evidence{
			HeadFound: true, Head: fence.Head{System: "7", Timeline: 2, Publication: "p", Wc: 100},
			Identity: pggate.Identity{SystemID: "7", Timeline: 2}, Confirmed: 90, Insert: 200, Alive: true, Claimed: true, Publication: "p",
		}
	}
	if e := whole(); e.Gap() != "" {
		t.Errorf("Gap() = %q with nothing wrong", e.Gap())
	}
	for want, alter := range map[string]func(e *Evidence){
		"no HEAD":                 func(e *Evidence) { e.HeadFound = false },
		"not answered yet":        func(e *Evidence) { e.Head.Publication = condemned },
		"another database":        func(e *Evidence) { e.Identity.SystemID = "8" },
		"another timeline: 1":     func(e *Evidence) { e.Identity.Timeline = 1 },
		"another timeline: 3":     func(e *Evidence) { e.Identity.Timeline = 3 },
		"slot was missing":        func(e *Evidence) { e.SlotCreated = true },
		"publication was altered": func(e *Evidence) { e.Publication = "q" },
		"no longer reaches back":  func(e *Evidence) { e.Confirmed = 101 },
		"was restored":            func(e *Evidence) { e.Insert = 99 },
		"crash recovery":          func(e *Evidence) { e.Alive = false },
		"a copy of the database":  func(e *Evidence) { e.Claimed = false },
	} {
		e := whole()
		alter(&e)
		if got := e.Gap(); !strings.Contains(got, want) {
			t.Errorf("Gap() = %q, want %q in it", got, want)
		}
	}
}

// TestForeign tells a later daemon's term from one that this history of the database never gave out.
func TestForeign(t *testing.T) {
	t.Parallel()
	id := pggate.Identity{SystemID: "7", Timeline: 2}
	now := mvcc.Snapshot{Xmin: 50, Xmax: 60}
	for _, tt := range []struct {
		name string
		head fence.Head
		want bool
	}{
		{"a later daemon", fence.Head{System: "7", Timeline: 2, Term: fence.NewTerm(2, 59)}, false},
		{"another cluster", fence.Head{System: "8", Timeline: 2, Term: fence.NewTerm(2, 59)}, true},
		{"a later timeline", fence.Head{System: "7", Timeline: 3, Term: fence.NewTerm(3, 10)}, true},
		{"a transaction that does not exist", fence.Head{System: "7", Timeline: 2, Term: fence.NewTerm(2, 60)}, true},
	} {
		if got := foreign(tt.head, id, now); (got != "") != tt.want {
			t.Errorf("foreign(%s) = %q", tt.name, got)
		}
	}
}
