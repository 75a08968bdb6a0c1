package fence

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/freshet/freshet/mvcc"
)

func snapshots() *rapid.Generator[mvcc.Snapshot] {
	return rapid.Custom(func(t *rapid.T) mvcc.Snapshot {
		low := rapid.Uint64Range(1, 20).Draw(t, "xmin")
		high := low + rapid.Uint64Range(0, 8).Draw(t, "span")
		s := mvcc.Snapshot{Xmin: mvcc.XID(low), Xmax: mvcc.XID(high)}
		for x := low; x < high; x++ {
			if rapid.Bool().Draw(t, "running") {
				s.Xip = append(s.Xip, mvcc.XID(x))
			}
		}
		return s
	})
}

func coverages() *rapid.Generator[Coverage] {
	return rapid.OneOf(
		rapid.Just(Coverage{}),
		rapid.Map(snapshots(), func(s mvcc.Snapshot) Coverage { return Coverage{Snapshot: s} }),
		rapid.Map(rapid.Uint64Range(1, 30), func(n uint64) Coverage { return Coverage{Replay: mvcc.LSN(n)} }),
	)
}

func tokens() *rapid.Generator[Token] {
	return rapid.Map(rapid.SampledFrom([]string{"a", "b", "c"}), func(s string) Token {
		return Token(bytes.Repeat([]byte(s), 32))
	})
}

func records() *rapid.Generator[Record] {
	return rapid.Custom(func(t *rapid.T) Record {
		r := Record{State: State(rapid.IntRange(0, 4).Draw(t, "state"))}
		if rapid.Bool().Draw(t, "leased") {
			r.Lease = Lease{Token: tokens().Draw(t, "token"), End: rapid.Int64Range(0, 100).Draw(t, "end")}
		}
		for range rapid.IntRange(0, 3).Draw(t, "fences") {
			x := rapid.Uint64Range(1, 30).Draw(t, "x")
			r.Fences = append(r.Fences, Stamp{XID: mvcc.XID(x), End: mvcc.LSN(rapid.Uint64Range(1, 30).Draw(t, "e"))})
		}
		if r.State != None {
			r.Coverage = coverages().Draw(t, "coverage")
			r.RowVersion = rapid.String().Draw(t, "version")
			r.Filled = rapid.Int64Range(0, 1<<60).Draw(t, "filled")
			r.Payload = rapid.SliceOf(rapid.Byte()).Draw(t, "payload")
		}
		return r
	})
}

func TestRecordRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := records().Draw(t, "record")
		text := want.Append(nil)
		got, err := ParseRecord(text)
		if err != nil {
			t.Fatalf("ParseRecord(%q): %v", text, err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("ParseRecord(%q) (-want +got):\n%s", text, diff)
		}
	})
}

// FuzzParseRecord holds that whatever is read as a record is written back as the same bytes: two programs cannot
// understand one record differently.
func FuzzParseRecord(f *testing.F) {
	whole := Record{
		State: Live, Lease: Lease{Token: Token(bytes.Repeat([]byte{'a'}, 32)), End: 7}, Fences: []Stamp{{XID: 5, End: 6}, {XID: 7, End: 8}},
		Coverage: Coverage{Snapshot: mvcc.Snapshot{Xmin: 5, Xmax: 9, Xip: []mvcc.XID{5, 7}}}, RowVersion: "2026-11-01 10:00", Filled: 9, Payload: []byte("{}\n"),
	}
	f.Add(whole.Append(nil))
	f.Add([]byte("f1 - - - - - - 0000000000000000\n"))
	f.Add([]byte("f1 V - - - s:0000000000000001:0000000000000002: %2D 0000000000000000\nx"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ParseRecord(text)
		if err != nil {
			return
		}
		if got := r.Append(nil); !bytes.Equal(got, text) {
			t.Errorf("ParseRecord(%q).Append() = %q", text, got)
		}
	})
}

func TestParseRecordRefuses(t *testing.T) {
	t.Parallel()
	const good = "f1 V - - - l:0000000000000001 - 0000000000000001\npayload"
	if _, err := ParseRecord([]byte(good)); err != nil {
		t.Fatalf("ParseRecord(%q): %v", good, err)
	}
	tests := []struct{ name, text string }{
		{"empty", ""},
		{"no header", "payload"},
		{"foreign", "hello world\n"},
		{"other layout", "f2" + good[2:]},
		{"unknown state", "f1 X" + good[4:]},
		{"unknown flag", "f1 V z" + good[6:]},
		{"field missing", "f1 V - - - l:0000000000000001 0000000000000001\n"},
		{"field too many", "f1 V - - - l:0000000000000001 - - 0000000000000001\n"},
		{"capital digits", "f1 V - - - l:000000000000000A - 0000000000000001\n"},
		{"short number", "f1 V - - - l:01 - 0000000000000001\n"},
		{"position zero", "f1 V - - - l:0000000000000000 - 0000000000000001\n"},
		{"bad lease", "f1 V - abc.0000000000000001 - - - 0000000000000001\n"},
		{"bad fence", "f1 V - - 0000000000000001 - - 0000000000000001\n"},
		{"unsorted running", "f1 V - - - s:0000000000000001:0000000000000009:0000000000000003,0000000000000002 - 0000000000000001\n"},
		{"running outside", "f1 V - - - s:0000000000000002:0000000000000003:0000000000000001 - 0000000000000001\n"},
		{"broken escape", "f1 V - - - - %2 0000000000000001\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if r, err := ParseRecord([]byte(tt.text)); err == nil {
				t.Errorf("ParseRecord(%q) = %+v, want an error", tt.text, r)
			}
		})
	}
}

func TestParseRecordOfAHitDoesNotAllocate(t *testing.T) { //nolint:paralleltest // AllocsPerRun must not run beside others
	r := Record{State: Live, Coverage: Coverage{Snapshot: mvcc.Snapshot{Xmin: 5, Xmax: 5}}, Filled: 9, Payload: []byte(`{"id":1}`)}
	text := r.Append(nil)
	n := testing.AllocsPerRun(100, func() {
		if _, err := ParseRecord(text); err != nil {
			t.Error(err)
		}
	})
	if n != 0 {
		t.Errorf("ParseRecord allocates %v times on a hit, want 0", n)
	}
}

func BenchmarkParseRecord(b *testing.B) {
	r := Record{State: Live, Coverage: Coverage{Snapshot: mvcc.Snapshot{Xmin: 5, Xmax: 5}}, Filled: 9, Payload: bytes.Repeat([]byte("x"), 200)}
	text := r.Append(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseRecord(text); err != nil {
			b.Fatal(err)
		}
	}
}

// TestHitAgreesWithParseRecord reads random records both ways.
func TestHitAgreesWithParseRecord(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := Record{
			State:    rapid.SampledFrom([]State{None, Live, Negative, Stale, StaleNegative}).Draw(t, "state"),
			Coverage: Coverage{Snapshot: mvcc.Snapshot{Xmin: 5, Xmax: 9, Xip: []mvcc.XID{5, 7}}},
			Payload:  []byte(rapid.String().Draw(t, "payload")),
		}
		if rapid.Bool().Draw(t, "leased") {
			r.Lease = Lease{Token: Token(bytes.Repeat([]byte("a"), 32)), End: 7}
		}
		text := r.Append(nil)
		if at := rapid.IntRange(0, 3*len(text)).Draw(t, "cut"); at < len(text) {
			text = text[:at]
		}
		parsed, err := ParseRecord(text)
		payload, found, ok := Hit(text)
		if want := err == nil && parsed.State.Live(); ok != want {
			t.Fatalf("Hit(%q) = %t, ParseRecord = %v, %v", text, ok, parsed.State, err)
		}
		if ok && (found != (parsed.State == Live) || found && !bytes.Equal(payload, parsed.Payload)) {
			t.Fatalf("Hit(%q) = %q, %t, ParseRecord = %+v", text, payload, found, parsed)
		}
	})
}
