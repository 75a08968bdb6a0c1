package apply

import (
	"testing"
	"time"

	"github.com/freshet/freshet/internal/rule"
)

// TestEntryThatMovesTooOftenComesBack suspends an entry after a burst of moves, and puts it back when it was left alone.
// One that is suspended for another reason is not put back by it.
func TestEntryThatMovesTooOftenComesBack(t *testing.T) {
	t.Parallel()
	entries := []*rule.Entry{{Name: "busy", Version: "v"}, {Name: "waiting", Version: "v", Suspended: "it waits"}}
	n := NewNames("shop", &rule.Roster{Generation: "g"}, entries)
	now := time.Unix(0, 0)
	seen := map[string]bool{}
	for range tooManyMoves + 1 {
		if seen[entries[0].Activation] {
			t.Fatalf("activation %s was drawn twice", entries[0].Activation)
		}
		seen[entries[0].Activation] = true
		now = now.Add(time.Second)
		n.Move(0, "cause", now)
		n.Move(1, "cause", now)
	}
	if entries[0].Suspended == "" || len(n.prefixes(0)) != 0 {
		t.Fatal("the entry is not suspended")
	}
	for range 10 { // moves go on, more slowly: it stays out
		now = now.Add(movesWithin - time.Second)
		n.Move(0, "cause", now)
		if n.restless(now) || n.revive(now) {
			t.Fatal("the entry came back while it moves")
		}
	}
	now = now.Add(movesWithin + time.Second)
	if !n.restless(now) || !n.revive(now) || entries[0].Suspended != "" || len(n.prefixes(0)) != 1 {
		t.Error("the entry does not come back")
	}
	if n.restless(now) || n.revive(now) {
		t.Error("it comes back twice")
	}
	if entries[1].Suspended != "it waits" {
		t.Errorf("the other entry is suspended for %q", entries[1].Suspended)
	}
}
