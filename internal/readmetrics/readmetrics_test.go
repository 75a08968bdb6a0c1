package readmetrics

import (
	"reflect"
	"testing"

	"github.com/freshet/freshet/internal/fill"
)

// TestEveryCountIsExported holds the counts of the read path against the metrics, in both directions: each has exactly one, which
// moves when it does and with no other.
func TestEveryCountIsExported(t *testing.T) {
	t.Parallel()
	for i := range reflect.TypeFor[fill.Stats]().NumField() {
		var s fill.Stats
		name, field := reflect.TypeFor[fill.Stats]().Field(i).Name, reflect.ValueOf(&s).Elem().Field(i)
		switch field.Kind() {
		case reflect.Uint64:
			field.SetUint(7)
		case reflect.Map:
			field.Set(reflect.ValueOf(map[string]uint64{"why": 7}))
		default:
			t.Errorf("Stats.%s is a %s, which is not exported", name, field.Kind())
		}
		var moved []string
		for _, m := range All() {
			m.Values(&s, func(label string, n uint64) {
				if n == 7 && (label == "why") == (m.Label != "") {
					moved = append(moved, m.Name)
				}
			})
		}
		if len(moved) != 1 {
			t.Errorf("Stats.%s is exported as %q", name, moved)
		}
	}
	if got, want := len(All()), reflect.TypeFor[fill.Stats]().NumField(); got != want {
		t.Errorf("%d metrics, %d counts", got, want)
	}
}
