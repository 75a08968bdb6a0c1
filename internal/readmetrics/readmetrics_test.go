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
	all := 0
	for _, path := range counts(of) {
		var s fill.Stats
		name, field := of.FieldByIndex(path).Name, reflect.ValueOf(&s).Elem().FieldByIndex(path)
		switch field.Kind() {
		case reflect.Uint64:
			field.SetUint(7)
		case reflect.Pointer: // of what is in memory
			field.Set(reflect.ValueOf(&near.Stats{Puts: 7, Records: 7, Bytes: 7}))
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
		want := 1
		if field.Kind() == reflect.Pointer { // what became of records, and how many there are, of how many bytes
			want = 3
		}
		if len(moved) != want {
			t.Errorf("Stats.%s is exported as %q", name, moved)
		}
		all += want
	}
	if got := len(All()); got != all {
		t.Errorf("%d metrics, %d counts", got, all)
	}
	for _, m := range All() {
		m.Values(&fill.Stats{}, func(label string, n uint64) { // of a process that holds nothing
			if n != 0 {
				t.Errorf("%s{%s} = %d", m.Name, label, n)
			}
		})
	}
}
