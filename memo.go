package freshet

import (
	"bytes"
	"hash/maphash"
	"sync/atomic"
)

const (
	memoSlots = 1 << 10 // a power of two
	// memoBytes bounds the payloads that are remembered, and with them the memory: 4 MiB for an entry at most.
	memoBytes = 4 << 10
)

// memo remembers what payloads were decoded to. Every read still asks the store; but a payload that comes again, byte
// for byte, is the same value, and decoding JSON takes longer than all the rest that the library does for a hit. One
// value is thereby given to many readers.
//
// It is a table without chains or locks: two payloads that meet in a slot replace each other.
type memo[V any] struct {
	seed  maphash.Seed
	slots [memoSlots]atomic.Pointer[decoded[V]]
}

type decoded[V any] struct {
	payload []byte
	value   V
}

func newMemo[V any]() *memo[V] { return &memo[V]{seed: maphash.MakeSeed()} }

func (m *memo[V]) slot(name string) *atomic.Pointer[decoded[V]] {
	return &m.slots[maphash.String(m.seed, name)&(memoSlots-1)]
}

// get returns what a payload of the key was decoded to, if that is remembered.
func (m *memo[V]) get(name string, payload []byte) (value V, ok bool) {
	if d := m.slot(name).Load(); d != nil && bytes.Equal(d.payload, payload) {
		return d.value, true
	}
	return value, false
}

func (m *memo[V]) put(name string, payload []byte, value V) {
	if len(payload) <= memoBytes {
		m.slot(name).Store(&decoded[V]{payload: payload, value: value})
	}
}
