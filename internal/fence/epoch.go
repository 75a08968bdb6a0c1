package fence

import (
	"slices"
	"strings"

	"github.com/freshet/freshet/mvcc"
)

// Epoch is something in the store that a value depends on, besides its own record: a key that holds an id which was never
// used before. A value is tied to the ids that it was filled under, and is a hit only while every one of them is there. To end
// an epoch is to UNLINK its key, which takes all values out of use that are tied to it, however many there are; the next
// fill makes it anew, under another id. An epoch that is missing for whatever reason makes misses, never a stale value.
type Epoch struct {
	Name string // what stands behind the activation in the key's name: "~2:7"
	ID   string // 32 hexadecimal digits, drawn at random
}

// ValidEpochID reports whether an id is one that a fill may have drawn.
func ValidEpochID(id string) bool { return Token(id).Valid() }

// EpochsText is the field of a record that says what its value is tied to; "-" when there is nothing.
func EpochsText(epochs []Epoch) string {
	if len(epochs) == 0 {
		return "-"
	}
	var b strings.Builder
	for i, e := range epochs {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(e.Name)
		b.WriteByte('=')
		b.WriteString(e.ID)
	}
	return b.String()
}

// parseEpochs is the inverse. Names have neither '=' nor ',': their values are escaped as those of keys are.
func parseEpochs(text string) ([]Epoch, bool) {
	epochs := make([]Epoch, 0, 1+strings.Count(text, ","))
	for one := range strings.SplitSeq(text, ",") {
		name, id, ok := strings.Cut(one, "=")
		if !ok || len(name) < 2 || name[0] != '~' || !ValidEpochID(id) {
			return nil, false
		}
		epochs = append(epochs, Epoch{Name: name, ID: id})
	}
	return epochs, true
}

// Hold reports whether epochs are in the store with the very ids that a value is tied to. ids are what their keys hold, in the
// order of the epochs, empty for those that are not there.
func Hold(epochs []Epoch, ids []string) bool {
	return len(epochs) > 0 && slices.EqualFunc(epochs, ids, func(e Epoch, id string) bool { return e.ID == id })
}

// Pinned reports whether a load may be stored tied to the epochs of these buckets, as far as HEAD can tell, which must have
// been read after the epochs' ids were, or the epochs were made.
//
// Let x be a transaction that the load lacks and that ends one of them, T. If T is ended for x after its id was read, the id
// is gone for ever, and the value is no hit. If before, the INTENT of x was before that, and HEAD, read after it, says so.
func Pinned(h Head, buckets []Bucket, c Coverage) bool {
	if h.Generation == "" || !c.Standby() && c.Snapshot.IsZero() {
		return false
	}
	sees := func(ended mvcc.Snapshot) bool { return ended.IsZero() || c.Snapshot.Dominates(ended) }
	if c.Standby() {
		for _, b := range buckets {
			if c.Replay < max(h.Wi, h.Floors[b]) {
				return false
			}
		}
		return true
	}
	if !sees(h.St) {
		return false
	}
	for _, b := range buckets {
		if !sees(h.Ended[b]) {
			return false
		}
	}
	return true
}
