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
		if n.Move(1, "cause", now) {
			t.Fatal("an entry under whose name nobody reads has its names moved: all would wait for that")
		}
	}
	if entries[0].Suspended == "" || n.prefix(0, nil) != "" {
		t.Fatal("the entry is not suspended")
	}
	for range 10 { // moves go on, more slowly: it stays out
		now = now.Add(movesWithin - time.Second)
		if n.Move(0, "cause", now) {
			t.Fatal("names move again of an entry that is suspended for it")
		}
		if n.restless(now) || n.revive(now) {
			t.Fatal("the entry came back while it moves")
		}
	}
	now = now.Add(movesWithin + time.Second)
	if !n.restless(now) || !n.revive(now) || entries[0].Suspended != "" || n.prefix(0, nil) == "" {
		t.Error("the entry does not come back")
	}
	if n.restless(now) || n.revive(now) {
		t.Error("it comes back twice")
	}
	if entries[1].Suspended != "it waits" {
		t.Errorf("the other entry is suspended for %q", entries[1].Suspended)
	}
}

// TestRetiredNameNeverReturns: whatever asks for it, a version that was retired has no live name, and is in no roster.
func TestRetiredNameNeverReturns(t *testing.T) {
	t.Parallel()
	own, old := &rule.Entry{Name: "product", Version: "b"}, &rule.Entry{Name: "product", Version: "a", Retained: 1}
	roster := &rule.Roster{Generation: "g", Entries: map[string]*rule.Entry{"product": own}, Retained: []*rule.Entry{old}}
	n := NewNames("shop", roster, []*rule.Entry{own, old})
	if n.prefix(0, nil) == "" || n.prefix(1, nil) == "" || len(n.Prefixes()) != 2 {
		t.Fatalf("live are %v", n.Prefixes())
	}
	now := time.Unix(0, 0)
	for range tooManyMoves + 1 {
		n.Move(1, "cause", now)
	}
	n.Retire(1)
	n.Activate(1)
	now = now.Add(2 * movesWithin)
	if n.Move(1, "cause", now) || n.restless(now) || n.revive(now) {
		t.Error("a retired version can be moved, or comes back")
	}
	if n.prefix(1, nil) != "" || len(n.Prefixes()) != 1 || len(n.Roster().Retained) != 0 {
		t.Errorf("live are %v, retained %v", n.Prefixes(), n.Roster().Retained)
	}
	if !n.Move(0, "cause", now) || n.prefix(0, nil) == "" {
		t.Error("the other version cannot be moved")
	}
}
