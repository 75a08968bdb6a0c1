package freshet

import (
	"hash/maphash"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/freshet/freshet/internal/fill"
)

const (
	// recallWays are the places that a key may be in.
	recallWays = 8
	// recallLeast and recallMost bound the number of places, powers of two. Keys for which there is none are found the longer way.
	recallLeast, recallMost = 1 << 7, 1 << 22
	// recallSwept places are looked at whenever one is taken, for what is tied to something that is over.
	recallSwept = 16
)

// recalled are the hits in memory by their keys as the application has them: a read of one of them spells no name and decodes
// nothing. What is held is not here; this only finds it, and lets go of it when it ends. It is read without a lock.
type recalled[V any] struct {
	seed   maphash.Seed
	salt   uint64
	places atomic.Pointer[[]atomic.Pointer[recall[V]]]

	mu   sync.Mutex // held to change places
	used int        // places that are taken
	hand int        // of the sweep
}

// recall is not changed once it is in a place.
type recall[V any] struct {
	key    plainKey
	memory fill.Memory
	value  *V // nil: there is no such row
}

func (r *recall[V]) result() (value V, err error) {
	if r.value == nil {
		return value, ErrNotFound
	}
	return *r.value, nil
}

// plainKey is a key as the bits that it consists of: keys with the same bits are the same. Not all that are the same have the same bits; such
// a key is found the longer way.
type plainKey struct {
	number uint64
	text   string
}

// plainKind says how the keys of a type are made plain.
type plainKind uint8

const (
	notPlain   plainKind = iota
	plainWord            // of eight bytes
	plainHalf            // of four
	plainText            // a string
	plainBytes           // of any other length
)

// plainKindOf is notPlain where a key consists of more than its own bytes.
func plainKindOf(t reflect.Type) (kind plainKind, size uintptr) {
	if t.Kind() == reflect.String {
		return plainText, 0
	}
	if t.Size() == 0 || bitsOf(t) != t.Size() {
		return notPlain, 0
	}
	switch {
	case t.Size() == 8 && t.Align() == 8:
		return plainWord, 8
	case t.Size() == 4 && t.Align() == 4:
		return plainHalf, 4
	}
	return plainBytes, t.Size()
}

// bitsOf is of how many bytes a type's values are that say all about them. Where it is less than their size, there is something else.
func bitsOf(t reflect.Type) (n uintptr) {
	switch t.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return t.Size()
	case reflect.Array:
		return uintptr(t.Len()) * bitsOf(t.Elem())
	case reflect.Struct:
		for field := range t.Fields() {
			n += bitsOf(field.Type)
		}
	default:
	}
	return n
}

// plain makes a key of any kind plain but plainWord, which is the usual one. What it returns is as long-lived as the key.
func (k plainKind) plain(key unsafe.Pointer, size uintptr) (p plainKey) {
	switch k {
	case plainHalf:
		p.number = uint64(*(*uint32)(key))
	case plainText:
		p.text = *(*string)(key)
	case plainBytes:
		p.text = unsafe.String((*byte)(key), size) //nolint:gosec // a key of that size
	case notPlain, plainWord:
	}
	return p
}

// recalledKey is what the keys and the values of a table have in common.
type recalledKey struct {
	entry, codec, shape string
	key, value          reflect.Type
}

// recalledOf is the table of an entry.
func recalledOf[K, V any](cache *Cache, entry, codec, shape string) *recalled[V] {
	of := recalledKey{entry: entry, codec: codec, shape: shape, key: reflect.TypeFor[K](), value: reflect.TypeFor[V]()}
	found, known := cache.recalled.Load(of)
	if !known {
		found, _ = cache.recalled.LoadOrStore(of, newRecalled[V]())
	}
	table, ok := found.(*recalled[V])
	if !ok {
		panic("freshet: a table of other values than its name says") // it is made just above
	}
	return table
}

func newRecalled[V any]() *recalled[V] {
	t := &recalled[V]{seed: maphash.MakeSeed(), salt: rand.Uint64()} //nolint:gosec // spread, no secret
	places := make([]atomic.Pointer[recall[V]], recallLeast)
	t.places.Store(&places)
	return t
}

func (t *recalled[V]) hash(k *plainKey) uint64 {
	if k.text != "" {
		return maphash.String(t.seed, k.text)
	}
	// Who has his own numbers meet in one place gains that they are found the longer way.
	mixed := (k.number ^ t.salt) * 0x9E3779B97F4A7C15
	return mixed ^ mixed>>32
}

// find returns the hit of a key, if that is one now.
func (t *recalled[V]) find(r *fill.Reader, k *plainKey) *recall[V] {
	places := *t.places.Load()
	at := t.hash(k)
	for way := range uint64(recallWays) {
		hit := places[(at+way)&uint64(len(places)-1)].Load() //nolint:gosec // there are some
		if hit == nil || hit.key.number != k.number || len(hit.key.text) != len(k.text) || k.text != "" && hit.key.text != k.text {
			continue
		}
		if !r.Again(&hit.memory) {
			return nil
		}
		return hit
	}
	return nil
}

// note takes note of a read that found what is held.
func (t *Typed[K, V]) note(k *plainKey, got *fill.Value) {
	memory, ok := got.Memory()
	if !ok {
		return
	}
	hit := &recall[V]{key: plainKey{number: k.number, text: strings.Clone(k.text)}, memory: memory}
	if got.Found {
		m, ok := got.Held().Decoded().(*made[V])
		if !ok || !t.made(m) {
			return // somebody has decoded it into another type, or by another codec
		}
		hit.value = &m.value
	}
	t.near.take(hit)
	of := t.near
	if !got.Held().OnEnd(placed[V]{of, hit.key}, func() { of.release(&hit.key, &memory) }) {
		of.release(&hit.key, &memory)
	}
}

// placed names a key of a table.
type placed[V any] struct {
	in  *recalled[V]
	key plainKey
}

// release lets go of what is over.
func (t *recalled[V]) release(k *plainKey, m *fill.Memory) {
	t.mu.Lock()
	defer t.mu.Unlock()
	places := *t.places.Load()
	hash := t.hash(k)
	for way := range uint64(recallWays) {
		at := &places[(hash+way)&uint64(len(places)-1)] //nolint:gosec // there are some
		if was := at.Load(); was != nil && was.key == *k && was.memory.Same(m) {
			at.Store(nil)
			t.used--
			return
		}
	}
}

// take puts a hit in a place.
func (t *recalled[V]) take(hit *recall[V]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	places := *t.places.Load()
	for range recallSwept {
		t.hand = (t.hand + 1) & (len(places) - 1)
		if was := places[t.hand].Load(); was != nil && !was.memory.Alive() {
			places[t.hand].Store(nil)
			t.used--
		}
	}
	if 2*t.used >= len(places) && len(places) < recallMost {
		t.grow(places)
		places = *t.places.Load()
	}
	t.place(places, hit)
}

// place puts a hit where its key is already, or where there is nothing, or in the place of another.
func (t *recalled[V]) place(places []atomic.Pointer[recall[V]], hit *recall[V]) {
	hash := t.hash(&hit.key)
	best := &places[(hash+hash>>48%recallWays)&uint64(len(places)-1)] //nolint:gosec // there are some
	free := false
	for way := range uint64(recallWays) {
		at := &places[(hash+way)&uint64(len(places)-1)] //nolint:gosec // there are some
		was := at.Load()
		if was != nil && was.key == hit.key {
			at.Store(hit)
			return
		}
		if was == nil && !free {
			best, free = at, true
		}
	}
	if best.Swap(hit) == nil {
		t.used++
	}
}

// grow doubles the places, for what is not over.
func (t *recalled[V]) grow(before []atomic.Pointer[recall[V]]) {
	places := make([]atomic.Pointer[recall[V]], 2*len(before))
	t.used = 0
	for i := range before {
		if hit := before[i].Load(); hit != nil && hit.memory.Alive() {
			t.place(places, hit)
		}
	}
	t.places.Store(&places)
}
