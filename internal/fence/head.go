package fence

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/freshet/freshet/mvcc"
)

// Shard is what a store holds besides records: HEAD, if there is one, and the name of the store's own history
// (Redis' master_replid), which changes with every failover.
type Shard struct {
	Head   Head
	Found  bool
	Replid string
}

// Expected is what a daemon believes about a shard. Whatever it writes is refused unless it is right.
type Expected struct {
	Generation string
	Lane       string // in a cluster: the lane's own
	Term       Term
	Wc         mvcc.LSN
	Replid     string
}

// strayed reports that HEAD was begun in another history. A lane that was moved key by key may have met, where it is now, what
// an earlier move left behind, and one whose master failed over may have been on the way; HEAD knows nothing of either.
func (s Shard) strayed() bool { return s.Head.At != "" && s.Head.At != s.Replid }

// HeadOutcome is the answer to a write of HEAD.
type HeadOutcome uint8

// The answers to a write of HEAD.
const (
	_          HeadOutcome = iota
	Applied                // written
	Mismatch               // the shard is not as expected: it lost history, or another began a generation
	Superseded             // a later daemon owns it: step down
)

// String names the outcome as the scripts answer it.
func (o HeadOutcome) String() string {
	switch o {
	case Applied:
		return "applied"
	case Mismatch:
		return "mismatch"
	case Superseded:
		return "superseded"
	}
	return fmt.Sprintf("HeadOutcome(%d)", uint8(o))
}

// Compare judges a daemon's belief. A higher term means that another daemon took over, a higher Wc under this one's
// own names that something which this one does not know of did its work.
func Compare(s Shard, e Expected) HeadOutcome {
	switch {
	case !s.Found:
		return Mismatch
	case s.Head.Term > e.Term:
		return Superseded
	case s.Head.Term != e.Term, s.Head.Generation != e.Generation, s.Head.Lane != e.Lane, s.Replid != e.Replid, s.strayed():
		return Mismatch
	case s.Head.Wc > e.Wc:
		return Superseded
	case s.Head.Wc < e.Wc:
		return Mismatch
	}
	return Applied
}

// Intent is the first phase of D3: before anything is confirmed, floors rise so that a lease granted after the confirm
// finds them, and so does whoever makes an epoch after it was ended. All that it raises only grows.
func Intent(s Shard, e Expected, r Raise, si mvcc.Snapshot) (Shard, HeadOutcome) {
	outcome := Compare(s, e)
	if outcome == Applied {
		s.Head.raise(r, si)
		s.Head.Si = Grow(s.Head.Si, si)
	}
	return s, outcome
}

// Advance is D4, the last phase: everything up to wc is confirmed, if the shard is still the one that the confirms
// went to. A zero sa leaves Sa, and the tick that belongs to it, as they are.
func Advance(s Shard, e Expected, wc mvcc.LSN, sa mvcc.Snapshot, tick Tick) (Shard, HeadOutcome) {
	outcome := Compare(s, e)
	if outcome == Applied {
		s.Head.Wc = max(s.Head.Wc, wc)
		if !sa.IsZero() {
			s.Head.Sa, s.Head.Tick = sa, tick
		}
	}
	return s, outcome
}

// Claim makes the shard obey a daemon's term. Where HEAD is absent there is nothing to claim, and the daemon begins a
// new generation: a HEAD written from memory could be an old daemon's.
func Claim(s Shard, term Term) (Shard, HeadOutcome) {
	switch {
	case !s.Found:
		return s, Mismatch
	case s.Head.Term > term:
		return s, Superseded
	case s.strayed():
		return s, Mismatch
	}
	s.Head.Term = term
	return s, Applied
}

// Begin writes a whole HEAD: a new generation. Nothing of the old one is carried over.
func Begin(s Shard, h Head) (Shard, HeadOutcome) {
	if s.Found && s.Head.Term > h.Term {
		return s, Superseded
	}
	return s.begun(h), Applied
}

// begun is the shard with a HEAD that is written whole. That of a lane is bound to the history that it is written in.
func (s Shard) begun(h Head) Shard {
	if h.Lane != "" {
		h.At = s.Replid
	}
	s.Head, s.Found = h, true
	return s
}

// Replace is Begin where the stored term is one that this history of the database never gave out: it may be higher, and
// means nothing. It is refused when anything else is stored than foreign.
func Replace(s Shard, h Head, foreign Term) (Shard, HeadOutcome) {
	if s.Found && s.Head.Term != foreign {
		return Begin(s, h)
	}
	return s.begun(h), Applied
}

// Move names another roster (D7). Its revision may not go back within a generation.
func Move(s Shard, e Expected, revision uint64, publication string) (Shard, HeadOutcome) {
	outcome := Compare(s, e)
	if outcome != Applied {
		return s, outcome
	}
	if revision < s.Head.Revision {
		return s, Mismatch
	}
	s.Head.Revision = revision
	s.Head.Publication = publication
	return s, Applied
}

// Fields is HEAD as the hash that stores hold: names and values, alternating, in a fixed order.
func (h *Head) Fields() []string {
	fields := []string{
		"gen", h.Generation,
		"term", string(h.Term),
		"rev", hex(h.Revision),
		"sys", h.System,
		"tl", fmt.Sprintf("%08x", h.Timeline),
		"pub", h.Publication,
		"wi", hex(uint64(h.Wi)),
		"si", SnapshotText(h.Si),
		"wc", hex(uint64(h.Wc)),
		"sa", SnapshotText(h.Sa),
		"st", SnapshotText(h.St),
		"lt", hex(uint64(h.Lt)),
		"tick", h.Tick.String(),
	}
	if h.Lane != "" {
		fields = append(fields, "lane", h.Lane)
	}
	if h.At != "" {
		fields = append(fields, "at", h.At)
	}
	for _, b := range slices.Sorted(maps.Keys(h.Floors)) {
		fields = append(fields, b.Field(), hex(uint64(h.Floors[b])))
	}
	for _, b := range slices.Sorted(maps.Keys(h.Ended)) {
		fields = append(fields, b.EndedField(), SnapshotText(h.Ended[b]))
	}
	return fields
}

// LSNText is a position as HEAD and the scripts spell it.
func LSNText(l mvcc.LSN) string { return hex(uint64(l)) }

// KeepText is for how long a value is kept, in microseconds, as the scripts spell it.
func KeepText(keep int64) string {
	if keep <= 0 {
		return "-"
	}
	return hex(uint64(keep))
}

// XIDText is a transaction id as records and scripts spell it.
func XIDText(x mvcc.XID) string { return hex(uint64(x)) }

// RevisionText is a roster's revision as HEAD spells it.
func RevisionText(n uint64) string { return hex(n) }

// SetField sets one field of the hash. Fields of a later layout are passed over.
func (h *Head) SetField(name, value string) error {
	ok := true
	number := func() uint64 {
		var n uint64
		n, ok = parseHex(value)
		return n
	}
	snapshot := func() mvcc.Snapshot {
		if value == "-" {
			return mvcc.Snapshot{}
		}
		var s mvcc.Snapshot
		s, ok = parseSnapshot(value)
		return s
	}
	switch name {
	case "gen":
		h.Generation, ok = value, len(value) == 16 && isHex(value)
	case "term":
		h.Term = Term(value)
	case "rev":
		h.Revision = number()
	case "sys":
		h.System = value
	case "tl":
		n, err := strconv.ParseUint(value, 16, 32)
		h.Timeline, ok = uint32(n), err == nil
	case "pub":
		h.Publication = value
	case "wi":
		h.Wi = mvcc.LSN(number())
	case "wc":
		h.Wc = mvcc.LSN(number())
	case "si":
		h.Si = snapshot()
	case "sa":
		h.Sa = snapshot()
	case "st":
		h.St = snapshot()
	case "lt":
		h.Lt = mvcc.LSN(number())
	case "tick":
		h.Tick, ok = ParseTick(value)
	case "lane":
		h.Lane, ok = value, len(value) == 16 && isHex(value)
	case "at":
		h.At = value
	default:
		if b, is := parseBucket(name, "b"); is {
			if h.Floors == nil {
				h.Floors = map[Bucket]mvcc.LSN{}
			}
			h.Floors[b] = mvcc.LSN(number())
		}
		if b, is := parseBucket(name, "s"); is {
			if h.Ended == nil {
				h.Ended = map[Bucket]mvcc.Snapshot{}
			}
			h.Ended[b] = snapshot()
		}
	}
	if !ok {
		return fmt.Errorf("head: field %s: %w", name, ErrFormat)
	}
	return nil
}
