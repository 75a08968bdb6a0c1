package fence

import (
	"slices"
	"strings"

	"github.com/freshet/freshet/mvcc"
)

// Tick is a moment of a store's history, by which readers bound staleness without anybody's clock: a reader has the
// store count, and remembers when by its own clock; the daemon reads the count before it takes a snapshot, and writes
// both into HEAD. Counts are comparable only under one ID, which is drawn at random whenever the count starts anew or a
// daemon takes a connection: a store that lost history never answers for what was asked of another. The zero Tick is
// none.
type Tick struct {
	ID string // 16 hexadecimal digits
	N  uint64
}

// ParseTick reads the text of a tick; "-" is the zero Tick, and so is the plain number of a HEAD that nobody has asked
// for ticks.
func ParseTick(text string) (Tick, bool) {
	id, count, ok := strings.Cut(text, ".")
	if !ok {
		_, number := parseHex(text)
		return Tick{}, number || text == "-"
	}
	n, good := parseHex(count)
	if !good || len(id) != 16 || !isHex(id) {
		return Tick{}, false
	}
	return Tick{ID: id, N: n}, true
}

// String is the text of a tick as HEAD and the store's count spell it.
func (t Tick) String() string {
	if t.ID == "" {
		return "-"
	}
	return t.ID + "." + hex(t.N)
}

// Reaches reports whether t was read no earlier than asked was answered.
func (t Tick) Reaches(asked Tick) bool { return t.ID != "" && t.ID == asked.ID && t.N >= asked.N }

// Contains reports whether a live value of the given coverage contains the transaction that a token names. The value must
// have been read after HEAD, from the same store, under names that are HEAD's.
//
// It does when its coverage says so; when everything visible in Sa is confirmed and the transaction is; or when the
// transaction ended, as its writer says who read After once COMMIT had returned, before Wc. A token of another cluster or
// another timeline is for the database to judge: ids and positions of the two are not comparable.
func Contains(h *Head, c Coverage, t mvcc.Token) bool {
	if h.System != t.System || h.Timeline != t.Timeline {
		return false
	}
	switch {
	case !c.Snapshot.IsZero() && c.Snapshot.Sees(t.XID):
		return true
	case c.Standby() && t.After != 0 && t.After <= c.Replay:
		return true
	case !h.Sa.IsZero() && h.Sa.Sees(t.XID):
		return true
	}
	return t.After != 0 && t.After <= h.Wc
}

// ContainsAll is Contains of all transactions of a cluster and timeline whose ids are from first to last.
func ContainsAll(h *Head, c Coverage, system string, timeline uint32, first, last mvcc.XID) bool {
	return h.System == system && h.Timeline == timeline && (SeesAll(c.Snapshot, first, last) || SeesAll(h.Sa, first, last))
}

// SeesAll reports whether a snapshot sees all transactions whose ids are from first to last.
func SeesAll(s mvcc.Snapshot, first, last mvcc.XID) bool {
	return !s.IsZero() && last < s.Xmax && !slices.ContainsFunc(s.Xip, func(x mvcc.XID) bool { return first <= x && x <= last })
}

// Follows reports whether a live value of the given coverage is at least as new as everything that was seen under the
// snapshot, by the same reasoning and on the same conditions as Contains; the snapshot must be of HEAD's cluster and
// timeline. A value from a standby shows what no snapshot of the primary may have shown yet: it follows only what Wc has
// passed, and whoever takes it has then seen what Si sees.
func Follows(h *Head, c Coverage, seen mvcc.Snapshot) bool {
	if c.Standby() {
		return c.Replay <= h.Wc && (seen.IsZero() || !h.Sa.IsZero() && h.Sa.Dominates(seen))
	}
	switch {
	case c.Snapshot.IsZero():
		return false
	case seen.IsZero(), c.Snapshot.Dominates(seen):
		return true
	}
	return !h.Sa.IsZero() && h.Sa.Dominates(seen)
}
