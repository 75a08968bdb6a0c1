package route

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"math"
	"slices"

	"github.com/freshet/freshet/internal/change"
)

// Keys collects what rows invalidate: keys and epochs, each once, and entries whose version must move. It is a window over the
// stream: when it is Full, the caller takes what it holds and Resets it, so that a transaction of any size takes
// bounded memory; a key that comes again in a later window is held again.
//
// Key texts lie in one arena and are found again by an open-addressing table of indexes, so that a steady stream of
// rows allocates nothing.
type Keys struct {
	maxKeys, maxBytes int
	seed              maphash.Seed
	arena             []byte
	spans             []span
	slots             []uint32 // index into spans, plus one; zero is free
	moves             []Move
	moved             []uint64 // bit per entry
	mark              uint64
	witness           Witness // nil: none
	cause             Cause
}

type span struct {
	marks      uint64
	entry      uint32
	start, end uint32
	hash       uint32
	slot       uint32
	kind       Kind
}

// Kind is what is held.
type Kind uint8

// The kinds of what is held.
const (
	AKey    Kind = iota
	AnEpoch      // the part of an epoch's name that stands behind the activation
	ALookUp      // see LookUp
)

// Cause is why something is held: what a row did by a rule. It is valid until the Witness returns.
type Cause struct {
	Rule int         // of the entry, from 0
	Row  *change.Row // nil: a transaction named it itself, or it is not one row that did it
	Old  bool        // by the row as it was
	// Number tells rows apart, whose memory a source uses again. It is never 0.
	Number uint64
}

// Witness hears of everything that is to be held, as often as it comes, also of what is held already, and why.
type Witness interface {
	// Held is told of a key, an epoch or a look-up of an entry. text is valid until it returns.
	Held(entry int, what Kind, text []byte, c *Cause)
	// Moved is told that the version of an entry must move, once in a window.
	Moved(entry int, why string, c *Cause)
}

// Move says that the version of an entry must move, and why.
type Move struct {
	Entry int
	Cause string
}

const firstSlots = 64

// NewKeys makes a buffer that is Full at maxKeys keys or maxBytes bytes of key text, whichever comes first.
func NewKeys(maxKeys, maxBytes int) *Keys {
	return &Keys{maxKeys: maxKeys, maxBytes: maxBytes, seed: maphash.MakeSeed(), slots: make([]uint32, firstSlots)}
}

// Watch has a witness hear of what is held from now on.
func (k *Keys) Watch(w Witness) { k.witness = w }

// Len is the number of keys held.
func (k *Keys) Len() int { return len(k.spans) }

// Bytes is the size of the key texts held.
func (k *Keys) Bytes() int { return len(k.arena) }

// Size is the memory of the buffer, what is not in use included, in bytes.
func (k *Keys) Size() int {
	const perSpan, perSlot, perMove = 32, 4, 24
	return cap(k.arena) + cap(k.spans)*perSpan + len(k.slots)*perSlot + cap(k.moves)*perMove
}

// Packed copies what is held without the room for more: the copy is to be read only.
func (k *Keys) Packed() *Keys {
	return &Keys{arena: slices.Clone(k.arena), spans: slices.Clone(k.spans), moves: slices.Clone(k.moves)}
}

// Empty reports that nothing is held, neither a key nor a move.
func (k *Keys) Empty() bool { return len(k.spans) == 0 && len(k.moves) == 0 }

// Full reports that the caller should take what is held before the next row. A row adds a few keys at most.
func (k *Keys) Full() bool { return len(k.spans) >= k.maxKeys || len(k.arena) >= k.maxBytes }

// Key reports whether what is held as the i-th key is one.
func (k *Keys) Key(i int) bool { return k.spans[i].kind == AKey }

// Epoch reports whether what is held as the i-th key is the part of an epoch's name that stands behind the activation.
func (k *Keys) Epoch(i int) bool { return k.spans[i].kind == AnEpoch }

// LookUp says which rule's look-up finds the keys, and for which values of its columns; false for what is held as the i-th key
// otherwise. Valid like a key's text.
func (k *Keys) LookUp(i int) (number int, values []string, ok bool) {
	s := &k.spans[i]
	if s.kind != ALookUp {
		return 0, nil, false
	}
	text := k.arena[s.start:s.end]
	next := func() int {
		n, size := binary.Uvarint(text)
		text = text[size:]
		return int(n) //nolint:gosec // written from a length
	}
	number = next()
	for len(text) > 0 {
		n := next()
		values = append(values, string(text[:n]))
		text = text[n:]
	}
	return number, values, true
}

// At returns the i-th key: the entry's index and the key's text, valid until Reset.
func (k *Keys) At(i int) (entry int, key []byte) {
	s := &k.spans[i]
	return int(s.entry), k.arena[s.start:s.end:s.end]
}

// Mark says what keys are marked with from now on, in addition to what they have from before: a bit that stands for the
// transaction whose rows come. Reset takes it back.
func (k *Keys) Mark(bit uint64) { k.mark = bit }

// Marks returns the marks of the i-th key.
func (k *Keys) Marks(i int) uint64 { return k.spans[i].marks }

// Moves are the entries whose versions must move, each once, with the first cause. Valid until Reset.
func (k *Keys) Moves() []Move { return k.moves }

// Moved reports whether the entry's version must move.
func (k *Keys) Moved(entry int) bool {
	word := entry / 64
	return word < len(k.moved) && k.moved[word]&(1<<(entry%64)) != 0
}

// Reset empties the buffer and keeps its memory. Its cost follows what was held, not what could be.
func (k *Keys) Reset() {
	if len(k.spans)*4 < len(k.slots) {
		for i := range k.spans {
			k.slots[k.spans[i].slot] = 0
		}
	} else {
		clear(k.slots)
	}
	for _, m := range k.moves {
		k.moved[m.Entry/64] = 0
	}
	k.spans, k.arena, k.moves, k.mark = k.spans[:0], k.arena[:0], k.moves[:0], 0
}

func (k *Keys) move(entry int, cause func() string) {
	if k.Moved(entry) {
		return
	}
	for len(k.moved) <= entry/64 {
		k.moved = append(k.moved, 0)
	}
	k.moved[entry/64] |= 1 << (entry % 64)
	why := cause()
	k.moves = append(k.moves, Move{Entry: entry, Cause: why})
	if k.witness != nil {
		k.witness.Moved(entry, why, &k.cause)
	}
}

// seal takes the text that was appended to the arena from start on as a key, unless it is held already.
func (k *Keys) seal(entry, start int) { k.hold(entry, start, AKey) }

// sealEpoch is seal for an epoch.
func (k *Keys) sealEpoch(entry, start int) { k.hold(entry, start, AnEpoch) }

func (k *Keys) hold(entry, start int, what Kind) {
	text := k.arena[start:]
	if k.witness != nil {
		k.witness.Held(entry, what, text, &k.cause)
	}
	if len(k.arena) > math.MaxUint32 {
		panic("route: a window of more than 4 GiB of keys")
	}
	hash := uint32(maphash.Bytes(k.seed, text)) + uint32(entry)*0x9e3779b1 //nolint:gosec // a hash
	mask := uint32(len(k.slots) - 1)                                       //nolint:gosec // a power of two below 2^32
	at := hash & mask
	for ; k.slots[at] != 0; at = (at + 1) & mask {
		s := &k.spans[k.slots[at]-1]
		if s.hash == hash && int(s.entry) == entry && s.kind == what && bytes.Equal(k.arena[s.start:s.end], text) {
			k.arena = k.arena[:start]
			s.marks |= k.mark
			return
		}
	}
	k.spans = append(k.spans, span{
		marks: k.mark, kind: what,
		entry: uint32(entry), start: uint32(start), end: uint32(len(k.arena)), hash: hash, slot: at, //nolint:gosec // bounded above
	})
	k.slots[at] = uint32(len(k.spans)) //nolint:gosec // bounded by the arena
	if len(k.spans)*2 > len(k.slots) {
		k.grow()
	}
}

func (k *Keys) grow() {
	k.slots = make([]uint32, len(k.slots)*2)
	mask := uint32(len(k.slots) - 1) //nolint:gosec // a power of two below 2^32
	for i := range k.spans {
		at := k.spans[i].hash & mask
		for k.slots[at] != 0 {
			at = (at + 1) & mask
		}
		k.slots[at] = uint32(i + 1)
		k.spans[i].slot = at
	}
}
