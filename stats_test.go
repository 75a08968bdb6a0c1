package freshet_test

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/fill"
)

// fillStats gives each field of a struct another value.
func fillStats(v reflect.Value, n *uint64) {
	for _, f := range v.Fields() {
		*n++
		switch f.Kind() {
		case reflect.Struct:
			fillStats(f, n)
		case reflect.Pointer:
			f.Set(reflect.New(f.Type().Elem()))
			fillStats(f.Elem(), n)
		case reflect.Map:
			f.Set(reflect.ValueOf(map[string]uint64{"reason": *n}))
		case reflect.Bool:
			f.SetBool(true)
		default:
			f.SetUint(*n)
		}
	}
}

// TestStatsAreTheReaders: the compiler holds that the fields are the same; that they are spelled the same in JSON, where the daemon's status has them, it does not.
func TestStatsAreTheReaders(t *testing.T) {
	t.Parallel()
	var inner fill.Stats
	n := uint64(0)
	fillStats(reflect.ValueOf(&inner).Elem(), &n)
	want, err := json.Marshal(inner)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(freshet.Stats(inner))
	if diff := cmp.Diff(string(want), string(got)); err != nil || diff != "" || n < 25 {
		t.Errorf("%v (-fill +freshet):\n%s", err, diff)
	}
}

// TestEveryReasonIsDocumented, where users look for what the maps of Stats hold.
func TestEveryReasonIsDocumented(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("stats.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(page), "The reasons are those of")
	list, _, _ = strings.Cut(list, "\n\n")
	said := func(kind string) string { // what the page lists behind "of a ...", up to the next one
		_, after, _ := strings.Cut(list, kind)
		reasons, _, _ := strings.Cut(after, ";")
		return reasons
	}
	pages := map[string]string{
		"Stale": said("of a stale value"), "Refused": said("of a refused fill"), "Bypassed": said("of a bypass"), "Replicas": said("of a load that a replica might have had"),
	}
	s := published(t)
	stats := open(t, freshet.Options{Config: s.file}).Stats()
	for field, reasons := range map[string]map[string]uint64{
		"Stale": stats.Stale, "Refused": stats.Refused, "Bypassed": stats.Bypassed, "Replicas": stats.Replicas,
	} {
		before, _, ok := strings.Cut(string(source), "\n\t"+field+" map[string]uint64")
		if !ok || len(reasons) < 3 {
			t.Fatalf("%s is not there, or has %d reasons", field, len(reasons))
		}
		comment := before[strings.LastIndex(before, "\n\t// "+field+" "):]
		for reason := range reasons {
			if !strings.Contains(comment, `"`+reason+`"`) {
				t.Errorf("the comment on %s does not say %q", field, reason)
			}
			if !strings.Contains(pages[field], "`"+reason+"`") {
				t.Errorf("docs/metrics.md does not say %q of %s", reason, field)
			}
		}
	}
}
