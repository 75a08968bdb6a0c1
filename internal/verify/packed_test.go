package verify_test

import (
	"strings"
	"testing"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/verify"
)

// TestCompressedValuesAreCompared: fresh ones are found fresh, and one that was put back stale is found.
func TestCompressedValuesAreCompared(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Start(t, pgtest.Options{}), itemTables(), strings.ReplaceAll(items, "result: many", "result: many\n    compress_above: 100B"))
	names := []string{r.fill("group", "1"), r.fill("group", "2")}
	raw := func(name string) string {
		t.Helper()
		text, err := r.admin.Do(t.Context(), r.admin.B().Get().Key(name).Build()).ToString()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, packed := fence.Packed([]byte(text)); !packed {
			t.Fatalf("%s is not compressed: %q", name, text)
		}
		return text
	}
	old := raw(names[0])
	raw(names[1])
	total(t, r.verify(nil), verify.Counts{Checked: 2, Fresh: 2})
	r.exec("UPDATE items SET v = 'new' WHERE g = 1")
	r.quiet()
	r.do("SET", names[0], old, "PX", "60000")
	report := r.verify(nil)
	total(t, report, verify.Counts{Checked: 2, Fresh: 1, Violations: 1})
	if len(report.Findings) != 1 || report.Findings[0].Cached == nil || !strings.HasPrefix(*report.Findings[0].Cached, `[{"id":1,"v":"v1"}`) {
		t.Errorf("it is described as %+v", report.Findings)
	}
	r.do("SET", names[0], old[:len(old)-3], "PX", "60000")
	total(t, r.verify(nil), verify.Counts{Checked: 1, Fresh: 1, Unreadable: 1})
}
