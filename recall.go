package freshet

import (
	"hash/maphash"
	"sync/atomic"

	"github.com/freshet/freshet/internal/fill"
)

const (
	recallSlots = 1 << 11 // a power of two
	// recallBytes bounds the records that are found this way, and with them what is kept of those that are over by now: 8 MiB for an
	// entry at most, besides what is held.
	recallBytes = 4 << 10
)

// recalled are the hits in memory that were used last, by their keys as the application has them: a read of one of them spells no key and
// decodes nothing. What is held is not here; this only finds it. A table without chains or locks: two keys that meet in a slot replace
// each other, and then the longer way is taken to what is held.
type recalled[V any] struct {
	seed  maphash.Seed
	slots [recallSlots]atomic.Pointer[recall[V]]
}

type recall[V any] struct {
	key    plainKey
	memory *fill.Memory
	value  *V // nil: there is no such row
}

func (r *recall[V]) result() (value V, err error) {
	if r.value == nil {
		return value, ErrNotFound
	}
	return *r.value, nil
}

// plainKey is a key that is compared as it is. Only keys of the usual types have one.
type plainKey struct {
	number int64
	text   string
}

// plainOf gives a key its plainKey. It fails for structs, and for types that have a text of their own.
func plainOf[K any](key *K) (p plainKey, ok bool) {
	switch k := any(key).(type) {
	case *int64:
		p.number = *k
	case *int:
		p.number = int64(*k)
	case *int32:
		p.number = int64(*k)
	case *int16:
		p.number = int64(*k)
	case *uint32:
		p.number = int64(*k)
	case *string:
		p.text = *k
	default:
		return plainKey{}, false
	}
	return p, true
}

func newRecalled[V any]() *recalled[V] { return &recalled[V]{seed: maphash.MakeSeed()} }

// places are the two slots that a key may be in.
func (t *recalled[V]) places(k *plainKey) (first, second *atomic.Pointer[recall[V]]) {
	var hash uint64
	if k.text != "" {
		hash = maphash.String(t.seed, k.text)
	} else {
		hash = maphash.Comparable(t.seed, k.number)
	}
	return &t.slots[hash%recallSlots], &t.slots[hash/recallSlots%recallSlots]
}

// find returns the hit of a key, if that is one now.
func (t *recalled[V]) find(r *fill.Reader, k *plainKey) *recall[V] {
	slot, other := t.places(k)
	hit := slot.Load()
	if hit == nil || hit.key != *k {
		slot, hit = other, other.Load()
		if hit == nil || hit.key != *k {
			return nil
		}
	}
	if !r.Again(hit.memory) {
		slot.CompareAndSwap(hit, nil) // it is not to keep the value from being collected
		return nil
	}
	return hit
}

// note takes note of a read that found what is held.
func (t *recalled[V]) note(k *plainKey, got *fill.Value) {
	memory := got.Memory()
	if memory == nil || memory.Len() > recallBytes {
		return
	}
	hit := &recall[V]{key: *k, memory: memory}
	if got.Found {
		var ok bool
		if hit.value, ok = got.Held().Decoded().(*V); !ok {
			return // somebody has decoded it into another type
		}
	}
	slot, other := t.places(k)
	if was := slot.Load(); was != nil && was.key != *k && was.memory.Alive() {
		slot = other
	}
	slot.Store(hit)
}
