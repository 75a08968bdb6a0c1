package fence

import (
	"hash/crc32"
	"maps"
	"strconv"
	"strings"

	"github.com/freshet/freshet/mvcc"
)

// Bucket is one of the parts that all keys fall into. Each has a floor of its own for loads from standbys (R4): with one
// floor for all, every write would refuse every standby for as long as it lags.
type Bucket uint16

// Buckets is how many there are. Of loads of keys that nobody writes, those are refused whose bucket some other key shares
// that was written within the standby's lag: with w keys written a second, a share of 1 - e^(-w * lag / Buckets).
const Buckets = 4096

// BucketOf is the bucket of a record's name: the lowest 12 bits of the name's CRC-32, as zlib has it.
func BucketOf(name string) Bucket {
	crc := ^uint32(0)
	for i := range len(name) {
		crc = crc32.IEEETable[crc&0xff^uint32(name[i])] ^ crc>>8
	}
	return Bucket(^crc % Buckets)
}

// Field is the name of the bucket's floor among HEAD's fields.
func (b Bucket) Field() string { return "b" + strconv.Itoa(int(b)) }

// EndedField is the name of the bucket's Ended among HEAD's fields.
func (b Bucket) EndedField() string { return "s" + strconv.Itoa(int(b)) }

func parseBucket(field, kind string) (Bucket, bool) {
	digits, ok := strings.CutPrefix(field, kind)
	n, err := strconv.ParseUint(digits, 10, 16)
	return Bucket(n), ok && err == nil && n < Buckets
}

// Raise says which floors an INTENT raises, and to where.
type Raise struct {
	To      mvcc.LSN
	All     bool     // every bucket's, or else
	Buckets []Bucket // those of the batch's keys and epochs; a batch without any raises none

	AllEnded bool     // the batch ends epochs of every bucket, or else
	Ended    []Bucket // of these
}

// For is the HEAD by which loads of one bucket's keys are judged: its Wi is the bucket's floor.
func (h *Head) For(b Bucket) Head {
	one := *h
	one.Wi = max(h.Wi, h.Floors[b])
	return one
}

// raise raises the floors, and has what is said of epochs' buckets see what si does. All of it only grows.
func (h *Head) raise(r Raise, si mvcc.Snapshot) {
	h.end(r, si)
	if r.All {
		h.Wi = max(h.Wi, r.To)
		return
	}
	if len(r.Buckets) == 0 {
		return
	}
	h.Floors = maps.Clone(h.Floors) // other copies of this HEAD stay as they are
	if h.Floors == nil {
		h.Floors = map[Bucket]mvcc.LSN{}
	}
	for _, b := range r.Buckets {
		h.Floors[b] = max(h.Floors[b], r.To)
	}
}

func (h *Head) end(r Raise, si mvcc.Snapshot) {
	if r.AllEnded {
		h.St = Grow(h.St, si)
		return
	}
	if len(r.Ended) == 0 {
		return
	}
	h.Ended = maps.Clone(h.Ended)
	if h.Ended == nil {
		h.Ended = map[Bucket]mvcc.Snapshot{}
	}
	for _, b := range r.Ended {
		h.Ended[b] = Grow(h.Ended[b], si)
	}
}
