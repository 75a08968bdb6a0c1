package envelope_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/freshet/freshet/internal/envelope"
)

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-z+]{1,12}`)
		want := envelope.Envelope{Codec: name.Draw(t, "codec"), Shape: name.Draw(t, "shape"), Data: rapid.SliceOf(rapid.Byte()).Draw(t, "data")}
		got, ok := envelope.Open(want.Append(nil))
		if diff := cmp.Diff(want, got, cmp.Comparer(bytes.Equal)); !ok || diff != "" {
			t.Errorf("ok %v (-want +got):\n%s", ok, diff)
		}
	})
}

func TestOpenWhatIsNone(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "{}", "[]", "null", "\x01", "\x01json", "\x01json\x00", "\x01json\x00shape", "\x02json\x00a\x00{}"} {
		if e, ok := envelope.Open([]byte(text)); ok {
			t.Errorf("Open(%q) = %+v", text, e)
		}
	}
}

func TestJSONOf(t *testing.T) {
	t.Parallel()
	enclosed := envelope.Envelope{Codec: "json", Shape: "s", Data: []byte(`{"a":1}`)}
	foreign := envelope.Envelope{Codec: "msgpack", Shape: "s", Data: []byte{0xc0}}
	for payload, want := range map[string]string{`{"a":1}`: `{"a":1}`, string(enclosed.Append(nil)): `{"a":1}`} {
		if got, err := envelope.JSONOf([]byte(payload)); err != nil || string(got) != want {
			t.Errorf("JSONOf(%q) = %q, %v", payload, got, err)
		}
	}
	if got, err := envelope.JSONOf(foreign.Append(nil)); err == nil {
		t.Errorf("JSONOf of msgpack = %q", got)
	}
	for _, data := range []string{"", "<7>", `{"a":1`, `{"a":1}}`} {
		none := envelope.Envelope{Codec: envelope.JSON, Shape: "s", Data: []byte(data)}
		if got, err := envelope.JSONOf(none.Append(nil)); !errors.Is(err, envelope.ErrNotJSON) {
			t.Errorf("JSONOf of %q = %q, %v", data, got, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte("\x01json\x00ab\x00{}"))
	f.Add([]byte(`{"a":1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if e, ok := envelope.Open(text); ok && !bytes.Equal(e.Append(nil), text) {
			t.Errorf("Open(%q) = %+v, which is written %q", text, e, e.Append(nil))
		}
	})
}
