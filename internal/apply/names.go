package apply

import (
	"slices"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/store"
)

// Names are the live names of all entries: what the roster says, and what deletions are spelled with.
type Names struct {
	namespace string
	roster    *rule.Roster
	entries   []*rule.Entry // in the order that the router numbers them
	lanes     []string      // the generations of a cluster's lanes, which are in names there; none: it is one server
	live      [][]string    // per entry its live prefix, one for each lane; none while it is suspended, or when it is retired
	retired   []bool        // per entry: no name of it is ever live again
	moves     []moveCount
	longest   int
}

type moveCount struct {
	since, last time.Time
	count       int
	suspended   bool // for moving too often, and for nothing else
}

// An entry whose version moves more often than this is of no use as a cache, and every move makes every reader read
// the roster again. A TRUNCATE moves it twice: for itself, and once more for the file that the table is in from then on, since nothing tells
// that from a rewrite which changes values.
const (
	tooManyMoves = 16
	movesWithin  = 30 * time.Second
)

// NewNames takes the entries of the roster as compiled, in the router's order: every version of an entry is one.
func NewNames(namespace string, roster *rule.Roster, entries []*rule.Entry) *Names {
	n := &Names{
		namespace: namespace, roster: roster, entries: entries,
		retired: make([]bool, len(entries)), moves: make([]moveCount, len(entries)),
	}
	n.spell()
	return n
}

func (n *Names) spell() {
	n.live = make([][]string, len(n.entries))
	n.longest = 0
	for i, e := range n.entries {
		if e.Suspended != "" || n.retired[i] {
			continue
		}
		n.live[i] = fence.LanePrefixes(n.namespace, n.roster.Generation, n.lanes, rule.KeyTail(e))
		n.longest = max(n.longest, len(n.live[i][0]))
	}
}

// Lanes says by which generations the names in a cluster's lanes are spelled from now on.
func (n *Names) Lanes(generations []string) {
	n.lanes = generations
	n.spell()
}

// prefix is what stands before a key in its live name, nothing when it has none.
func (n *Names) prefix(entry int, key []byte) string {
	switch live := n.live[entry]; len(live) {
	case 0:
		return ""
	case 1:
		return live[0]
	default:
		return live[fence.LaneOf(key)]
	}
}

// isLive reports whether anything of the entry may be cached.
func (n *Names) isLive(entry int) bool { return len(n.live[entry]) > 0 }

// appendEpochs appends the live names of an epoch: one in each lane, where values of that lane are tied to it.
func (n *Names) appendEpochs(names []string, entry int, epoch []byte) []string {
	for _, prefix := range n.live[entry] {
		names = append(names, prefix[:len(prefix)-1]+string(epoch))
	}
	return names
}

// Roster is the roster as it was last published, or is about to be.
func (n *Names) Roster() *rule.Roster { return n.roster }

// Entry is the name of the entry with this number.
func (n *Names) Entry(i int) string { return n.entries[i].Name }

// Move draws a new activation: everything cached under the old name is dead once readers follow. It reports whether
// the entry has a name to move.
func (n *Names) Move(i int, cause string, now time.Time) bool {
	if n.retired[i] {
		return false
	}
	e := n.entries[i]
	m := &n.moves[i]
	if now.Sub(m.since) > movesWithin {
		*m = moveCount{since: now, suspended: m.suspended}
	}
	m.last = now
	m.count++
	if e.Suspended != "" {
		return false // nobody reads under its name, and it gets another before anybody does
	}
	if m.count > tooManyMoves {
		e.Suspended = "its name moved too often: " + cause
		m.suspended = true
	}
	e.Activation = store.Draw()
	n.spell()
	return true
}

// revive puts entries back that moved too often, once they have been left alone. It reports whether there were any.
func (n *Names) revive(now time.Time) (revived bool) {
	for i := range n.moves {
		m := &n.moves[i]
		if m.suspended && now.Sub(m.last) > movesWithin {
			*m = moveCount{}
			n.Activate(i)
			revived = true
		}
	}
	return revived
}

// restless reports that an entry waits to be put back.
func (n *Names) restless(now time.Time) bool {
	for i := range n.moves {
		if n.moves[i].suspended && now.Sub(n.moves[i].last) > movesWithin {
			return true
		}
	}
	return false
}

// Activate puts an entry back, under a new name, unless it is retired.
func (n *Names) Activate(i int) {
	if n.retired[i] {
		return
	}
	n.entries[i].Suspended = ""
	n.entries[i].Activation = store.Draw()
	n.spell()
}

// Retire takes a retained version out of the roster. Its name never returns: should the version be wanted once more, it
// is given another one. Readers may go on under the name until they have confirmed the roster, so whoever calls this has
// it published, which waits for them (D7).
func (n *Names) Retire(i int) {
	n.retired[i] = true
	n.roster.Retained = slices.DeleteFunc(n.roster.Retained, func(e *rule.Entry) bool { return e == n.entries[i] })
	n.moves[i] = moveCount{}
	n.spell()
}

// Prefixes are those of all live names.
func (n *Names) Prefixes() []string { return slices.Concat(n.live...) }

// next is the roster to be published, under a revision that was never used: after a failover the store may know less
// than readers do, and a revision that they know by other names would have them go on with those (D7).
func (n *Names) next() *rule.Roster {
	n.roster.Revision = max(n.roster.Revision+1, uint64(time.Now().UnixMicro()))
	return n.roster
}
