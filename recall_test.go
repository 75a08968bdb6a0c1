package freshet

import (
	"reflect"
	"testing"
	"unsafe"
)

type namedID int64

func (namedID) MarshalText() ([]byte, error) { return []byte("other"), nil }

// TestPlainKeys: keys of every type that consists of its own bytes are plain, the same for the same key and others for others; those of
// other types are not.
func TestPlainKeys(t *testing.T) {
	t.Parallel()
	type (
		pair   struct{ A, B int32 }
		padded struct {
			A int64
			B int8
		}
		withText struct {
			A int64
			B string
		}
	)
	for what, same := range map[string]bool{
		"int64": plainAs(t, int64(7), 7, 8), "int": plainAs(t, 7, 7, -7), "int16": plainAs(t, int16(7), 7, 8), "uint8": plainAs(t, uint8(7), 7, 8),
		"named": plainAs(t, namedID(7), 7, 8), "string": plainAs(t, "a", "a", "b"), "bool": plainAs(t, true, true, false),
		"bytes": plainAs(t, [16]byte{1}, [16]byte{1}, [16]byte{2}), "struct": plainAs(t, pair{1, 2}, pair{1, 2}, pair{2, 1}),
	} {
		if !same {
			t.Errorf("%s is not plain", what)
		}
	}
	for _, other := range []reflect.Type{
		reflect.TypeFor[padded](), reflect.TypeFor[withText](), reflect.TypeFor[*int](), reflect.TypeFor[[]byte](), reflect.TypeFor[any](),
		reflect.TypeFor[float64](), reflect.TypeFor[struct{}](), reflect.TypeFor[[2]string](), reflect.TypeFor[struct{ P *int }](),
	} {
		if kind, _ := plainKindOf(other); kind != notPlain {
			t.Errorf("%s is plain", other)
		}
	}
}

func plainAs[K any](t *testing.T, key, same, other K) bool {
	t.Helper()
	kind, size := plainKindOf(reflect.TypeFor[K]())
	plain := func(key *K) plainKey {
		if kind == plainWord {
			return plainKey{number: *(*uint64)(unsafe.Pointer(key))}
		}
		return kind.plain(unsafe.Pointer(key), size)
	}
	a, b, c := plain(&key), plain(&same), plain(&other)
	if a != b || a == c {
		t.Errorf("%T: %v and %v, other %v", key, a, b, c)
	}
	return kind != notPlain
}
