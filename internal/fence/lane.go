package fence

import (
	"hash/crc32"
	"slices"

	"github.com/freshet/freshet/mvcc"
)

// Lanes is how many parts a Redis Cluster keeps the records in. Each has a HEAD of its own, which vouches for its keys alone: HEAD
// and keys share a hash tag, and so a slot, a node and that node's history. A store on one server is one lane without a tag.
const Lanes = 16

// tags are the lanes' hash tags. The first digit is the lane's number; the rest puts its slot into the middle of the lane's
// sixteenth of all slots, so that nodes which share the slots evenly share the lanes as evenly as can be.
//
//nolint:gochecknoglobals // a constant
var tags = [Lanes]string{
	"0ajvz", "1aiui", "2aeid", "3afjw", "4bfko", "5bmad", "6bitq", "7bjwb",
	"8aghz", "9adki", "abcyk", "bbkik", "cblww", "dayip", "eagmf", "favvn",
}

// LaneNamespace is what stands for the namespace in the names of one of several lanes.
func LaneNamespace(namespace string, lanes, lane int) string {
	if lanes == 1 {
		return namespace
	}
	return namespace + ":{" + tags[lane] + "}"
}

// LaneOf is the lane of a key, of all lanes: the highest four bits of its CRC-32, as zlib has it, times 2,654,435,761 in 32 bits.
// Without that, which CRC does not commute with, the keys of a lane that are alike would leave half of the buckets empty.
func LaneOf[T string | []byte](key T) int {
	crc := ^uint32(0)
	for i := range len(key) {
		crc = crc32.IEEETable[crc&0xff^uint32(key[i])] ^ crc>>8
	}
	return int(^crc * 2_654_435_761 >> 28)
}

// LaneIn is the lane whose tag a name has.
func LaneIn(namespace, name string) (lane int, ok bool) {
	const tag = len("0ajvz")
	from := len("f:") + len(namespace) + len(":{")
	to := from + tag
	if len(name) < to+len("}:") || name[:2] != "f:" || name[2:from-2] != namespace || name[from-2:from] != ":{" || name[to:to+2] != "}:" {
		return 0, false
	}
	lane = slices.Index(tags[:], name[from:to])
	return max(lane, 0), lane >= 0
}

// Slots is the number of slots of a Redis Cluster.
const Slots = 16384

// Slot is the slot that a lane lies in: the CRC-16 of its tag.
func Slot(lane int) int {
	crc := uint16(0)
	for _, c := range []byte(tags[lane]) {
		crc ^= uint16(c) << 8
		for range 8 {
			carry := crc & 0x8000
			if crc <<= 1; carry != 0 {
				crc ^= 0x1021
			}
		}
	}
	return int(crc % Slots)
}

// Join is what the HEADs of lanes vouch for together, about every key of theirs. Those that are absent (without generation), or of another generation
// than the latest daemon left, do not count: nobody reads under them. split says that the latest daemon left several, which
// happens when it was stopped while it began one.
func Join(heads []Head) (joined Head, found, split bool) {
	for i := range heads {
		h := &heads[i]
		switch {
		case h.Generation == "":
		case !found || h.Term > joined.Term:
			joined, found, split = *h, true, false
		case h.Term == joined.Term && (h.Generation != joined.Generation || h.Publication != joined.Publication):
			split = true
		}
	}
	if !found {
		return Head{}, false, false
	}
	joined.Lane, joined.At, joined.Tick, joined.Floors = "", "", Tick{}, nil
	joined.Ended = nil
	joined.Lanes = make([]Head, len(heads))
	for i := range heads {
		h := &heads[i]
		if h.Generation != joined.Generation {
			continue
		}
		joined.Lanes[i] = *h
		joined.Revision = max(joined.Revision, h.Revision)
		joined.Wc = min(joined.Wc, h.Wc)
		joined.Wi, joined.Si, joined.St = max(joined.Wi, h.Wi), Grow(joined.Si, h.Si), Grow(joined.St, h.St)
		if SnapshotText(h.Sa) != SnapshotText(joined.Sa) {
			joined.Sa = mvcc.Snapshot{} // none is true of every lane
		}
	}
	return joined, true, split
}

// Ticks are the readers' counts, lane by lane. A store on one server has the first.
type Ticks [Lanes]Tick

// LanePrefixes are what names begin with up to the entry's part, tail, and with it: one for a server, whose names have the generation of
// all, or one for each lane, with the lane's own.
func LanePrefixes(namespace, generation string, lanes []string, tail string) []string {
	if len(lanes) == 0 {
		return []string{"f:" + namespace + ":" + generation + ":" + tail}
	}
	all := make([]string, len(lanes))
	for i, own := range lanes {
		all[i] = "f:" + LaneNamespace(namespace, len(lanes), i) + ":" + own + ":" + tail
	}
	return all
}
