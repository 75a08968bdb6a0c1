package readmetrics

import (
	"reflect"
	"testing"

	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/near"
)

// counts are the paths of the counts in a struct, those of the structs in it included. What is true or false is a state, and none.
func counts(of reflect.Type, path ...int) (all [][]int) {
	for i := range of.NumField() {
		switch at := append(append([]int(nil), path...), i); of.Field(i).Type.Kind() {
		case reflect.Struct:
			all = append(all, counts(of.Field(i).Type, at...)...)
		case reflect.Bool:
		default:
			all = append(all, at)
		}
	}
	return all
}

// TestEveryCountIsExported holds the counts of the read path against the metrics, in both directions: each has exactly one, which
// moves when it does and with no other.
func TestEveryCountIsExported(t *testing.T) {
	t.Parallel()
	of := reflect.TypeFor[fill.Stats]()
	for _, path := range counts(of) {
		var s fill.Stats
		name, field := of.FieldByIndex(path).Name, reflect.ValueOf(&s).Elem().FieldByIndex(path)
		switch field.Kind() {
		case reflect.Uint64:
			field.SetUint(7)
		case reflect.Pointer: // of what is in memory
			field.Set(reflect.ValueOf(&near.Stats{Puts: 7, Bytes: 7}))
		case reflect.Map:
			field.Set(reflect.ValueOf(map[string]uint64{"why": 7}))
		default:
			t.Errorf("Stats.%s is a %s, which is not exported", name, field.Kind())
		}
		var moved []string
		for _, m := range All() {
			m.Values(&s, func(label string, n uint64) {
				if n == 7 && (label == "why" || label == "put") == (m.Label != "") {
					moved = append(moved, m.Name)
				}
			})
		}
		if len(moved) != 1 {
			t.Errorf("Stats.%s is exported as %q", name, moved)
		}
	}
	if got, want := len(All()), len(counts(of)); got != want {
		t.Errorf("%d metrics, %d counts", got, want)
	}
}
