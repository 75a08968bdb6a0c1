package freshet

import (
	"fmt"
	"strings"
	"testing"
)

func TestMemoNeverMixesValuesUp(t *testing.T) {
	t.Parallel()
	m := newMemo[string]()
	for i := range 4 * memoSlots { // more than there are slots, so that keys meet
		name, payload := fmt.Sprintf("key:%d", i%(2*memoSlots)), fmt.Appendf(nil, `"%d"`, i)
		if got, ok := m.get(name, payload); ok && got != string(payload) {
			t.Fatalf("get(%s, %s) = %s", name, payload, got)
		}
		m.put(name, payload, string(payload))
		if got, ok := m.get(name, payload); !ok || got != string(payload) {
			t.Fatalf("get(%s, %s) = %q, %t after put", name, payload, got, ok)
		}
		if _, ok := m.get(name, []byte(`"other"`)); ok {
			t.Fatal("another payload of the key is taken for the one that was decoded")
		}
	}
	large := []byte(strings.Repeat("x", memoBytes+1))
	m.put("large", large, "large")
	if _, ok := m.get("large", large); ok {
		t.Error("a large payload is remembered")
	}
}
