package keytext_test

import (
	"errors"
	"math"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/keytext"
)

func types() []keytext.Type {
	return []keytext.Type{
		keytext.Int2, keytext.Int4, keytext.Int8, keytext.OID, keytext.Bool, keytext.UUID, keytext.String, keytext.Date,
		keytext.Timestamp, keytext.Timestamptz, keytext.Numeric, keytext.Bytea, keytext.Enum,
		keytext.Array(keytext.Int8), keytext.Array(keytext.String), keytext.Array(keytext.Timestamptz), keytext.Array(keytext.Bytea), keytext.Array(keytext.Numeric),
	}
}

func TestCanonical(t *testing.T) {
	t.Parallel()
	const id = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
	tests := []struct {
		typ      keytext.Type
		in, want string
	}{
		{keytext.Int8, "007", "7"},
		{keytext.Int8, " +7\n", "7"},
		{keytext.Int8, "-0", "0"},
		{keytext.Int8, "-9223372036854775808", "-9223372036854775808"},
		{keytext.Int2, "32767", "32767"},
		{keytext.OID, "-1", "4294967295"},
		{keytext.Bool, "TRUE", "t"},
		{keytext.Bool, "on", "t"},
		{keytext.Bool, "y", "t"},
		{keytext.Bool, "1", "t"},
		{keytext.Bool, "of", "f"},
		{keytext.Bool, " 0 ", "f"},
		{keytext.UUID, strings.ToUpper(id), id},
		{keytext.UUID, "{" + id + "}", id},
		{keytext.UUID, strings.ReplaceAll(id, "-", ""), id},
		{keytext.UUID, "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11", id},
		{keytext.String, "a:b/é ", "a:b/é "},
		{keytext.String, "", ""},
		{keytext.Numeric, "1.00", "1"},
		{keytext.Numeric, "-0.0", "0"},
		{keytext.Numeric, ".5", "0.5"},
		{keytext.Numeric, "+1.5e3", "1500"},
		{keytext.Numeric, "150e-4", "0.015"},
		{keytext.Numeric, "0012.3400", "12.34"},
		{keytext.Numeric, "nan", "NaN"},
		{keytext.Numeric, "-inf", "-Infinity"},
		{keytext.Date, "2024-2-9", "2024-02-09"},
		{keytext.Date, "20240229", "2024-02-29"},
		{keytext.Date, "0044-03-15 BC", "0044-03-15 BC"},
		{keytext.Date, "Infinity", "infinity"},
		{keytext.Date, "5874897-12-31", "5874897-12-31"},
		{keytext.Timestamp, "2024-02-29", "2024-02-29 00:00:00"},
		{keytext.Timestamp, "2024-02-29T07:08", "2024-02-29 07:08:00"},
		{keytext.Timestamp, "2024-02-29 07:08:09.1200", "2024-02-29 07:08:09.12"},
		{keytext.Timestamp, "-infinity", "-infinity"},
		{keytext.Timestamptz, "2024-01-01T01:00:00+02:00", "2023-12-31 23:00:00+00"},
		{keytext.Timestamptz, "2024-01-01 01:00:00.5-0530", "2024-01-01 06:30:00.5+00"},
		{keytext.Timestamptz, "2024-01-01T01:00:00Z", "2024-01-01 01:00:00+00"},
		{keytext.Timestamptz, "0001-01-01 00:00:00+01", "0001-12-31 23:00:00+00 BC"},
		{keytext.Bytea, `\xDE AD`, `\xdead`},
		{keytext.Bytea, `a\\\000`, `\x615c00`},
		{keytext.Bytea, "", `\x`},
		{keytext.Enum, "In Stock", "In Stock"},
	}
	for _, tt := range tests {
		got, err := keytext.Canonical(tt.typ, tt.in)
		if err != nil || got != tt.want {
			t.Errorf("Canonical(%s, %q) = %q, %v, want %q", tt.typ, tt.in, got, err, tt.want)
		}
	}
}

func TestCanonicalRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		typ keytext.Type
		in  string
	}{
		{keytext.Int2, "32768"},
		{keytext.Int4, "-2147483649"},
		{keytext.Int8, "9223372036854775808"},
		{keytext.Int8, "99999999999999999999999"},
		{keytext.OID, "4294967296"},
		{keytext.OID, "-2147483649"},
		{keytext.Int8, ""},
		{keytext.Int8, "-"},
		{keytext.Int8, "1.0"},
		{keytext.Int8, "1 2"},
		{keytext.Int8, "0x1"},
		{keytext.Bool, "o"},
		{keytext.Bool, ""},
		{keytext.Bool, "trueish"},
		{keytext.UUID, ""},
		{keytext.UUID, "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
		{keytext.UUID, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1"},
		{keytext.UUID, "a0eebc99--9c0b-4ef8-bb6d-6bb9bd380a11"},
		{keytext.UUID, "a0e-ebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
		{keytext.UUID, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11-"},
		{keytext.UUID, "{"},
		{keytext.UUID, " a0eebc999c0b4ef8bb6d6bb9bd380a11"},
		{keytext.String, "\xff"},
		{keytext.String, "a\x00"},
		{keytext.Numeric, ""},
		{keytext.Numeric, "."},
		{keytext.Numeric, "1e"},
		{keytext.Numeric, "1e9999999"},
		{keytext.Numeric, "1e-16384"},
		{keytext.Numeric, "1 2"},
		{keytext.Numeric, "0x10"},
		{keytext.Numeric, "--1"},
		{keytext.Date, "1/2/2024"},
		{keytext.Date, "24-01-02"},
		{keytext.Date, "2023-02-29"},
		{keytext.Date, "0000-01-01"},
		{keytext.Date, "today"},
		{keytext.Date, "5874898-01-01"},
		{keytext.Date, "4714-11-23 BC"},
		{keytext.Date, "2024-01-01 00:00:00"},
		{keytext.Date, "2024-13-01"},
		{keytext.Timestamp, "2024-01-01 00:00:00+00"},
		{keytext.Timestamp, "2024-01-01 00:00:00.1234567"},
		{keytext.Timestamp, "now"},
		{keytext.Timestamp, "2024-01-01 24:00:00"},
		{keytext.Timestamp, "2024-01-01 10:00:60"},
		{keytext.Timestamp, "294277-01-01 00:00:00"},
		{keytext.Timestamptz, "2024-01-01 00:00:00"},
		{keytext.Timestamptz, "2024-01-01 00:00:00 Europe/Berlin"},
		{keytext.Timestamptz, "2024-01-01 00:00:00+16"},
		{keytext.Timestamptz, "294276-12-31 23:59:59-01"},
		{keytext.Bytea, `\x1`},
		{keytext.Bytea, `\x1 1`},
		{keytext.Bytea, `\400`},
		{keytext.Bytea, `a\`},
		{keytext.Bytea, "a\x00"},
		{keytext.Type("float8"), "1"},
	}
	for _, tt := range tests {
		got, err := keytext.Canonical(tt.typ, tt.in)
		var refused *keytext.Error
		if !errors.As(err, &refused) || refused.Type != tt.typ || got != "" {
			t.Errorf("Canonical(%s, %q) = %q, %v, want a refusal", tt.typ, tt.in, got, err)
		}
	}
}

type status int

func (s status) String() string { return [...]string{"new", "paid"}[s] }

type slug string

type address [16]byte

func TestFromGo(t *testing.T) {
	t.Parallel()
	seven, nothing := 7, (*int)(nil)
	moment := time.Date(2024, 2, 3, 4, 5, 6, 7_008_009, time.FixedZone("", 3600))
	amount, _ := new(big.Float).SetString("1.50")
	id := address{0xa0, 0xee, 15: 1}
	tests := []struct {
		typ  keytext.Type
		in   any
		want keytext.Arg
	}{
		{keytext.Int8, 42, keytext.Arg{Text: "42"}},
		{keytext.Int2, int16(-3), keytext.Arg{Text: "-3"}},
		{keytext.Int4, &seven, keytext.Arg{Text: "7"}},
		{keytext.Int4, nothing, keytext.Arg{Null: true}},
		{keytext.Int8, nil, keytext.Arg{Null: true}},
		{keytext.OID, uint32(math.MaxUint32), keytext.Arg{Text: "4294967295"}},
		{keytext.Int8, "007", keytext.Arg{Text: "7"}},
		{keytext.Int4, status(1), keytext.Arg{Text: "1"}},
		{keytext.Enum, status(1), keytext.Arg{Text: "paid"}},
		{keytext.String, slug("a b"), keytext.Arg{Text: "a b"}},
		{keytext.Bool, true, keytext.Arg{Text: "t"}},
		{keytext.Numeric, uint64(math.MaxUint64), keytext.Arg{Text: "18446744073709551615"}},
		{keytext.Numeric, big.NewInt(5), keytext.Arg{Text: "5"}},
		{keytext.Numeric, amount, keytext.Arg{Text: "1.5"}},
		{keytext.UUID, id, keytext.Arg{Text: "a0ee0000-0000-0000-0000-000000000001"}},
		{keytext.UUID, &id, keytext.Arg{Text: "a0ee0000-0000-0000-0000-000000000001"}},
		{keytext.UUID, id[:], keytext.Arg{Text: "a0ee0000-0000-0000-0000-000000000001"}},
		{keytext.UUID, "A0EE0000000000000000000000000001", keytext.Arg{Text: "a0ee0000-0000-0000-0000-000000000001"}},
		{keytext.Bytea, []byte{1, 0xff}, keytext.Arg{Text: `\x01ff`}},
		{keytext.Bytea, []byte(nil), keytext.Arg{Null: true}},
		{keytext.Date, moment, keytext.Arg{Text: "2024-02-03"}},
		{keytext.Timestamp, moment, keytext.Arg{Text: "2024-02-03 04:05:06.007008"}},
		{keytext.Timestamptz, moment, keytext.Arg{Text: "2024-02-03 03:05:06.007008+00"}},
		{keytext.Timestamptz, &moment, keytext.Arg{Text: "2024-02-03 03:05:06.007008+00"}},
		{keytext.Date, time.Date(-43, 3, 15, 0, 0, 0, 0, time.UTC), keytext.Arg{Text: "0044-03-15 BC"}},
	}
	for _, tt := range tests {
		got, err := keytext.FromGo(tt.typ, tt.in)
		if err != nil || got != tt.want {
			t.Errorf("FromGo(%s, %T %v) = %+v, %v, want %+v", tt.typ, tt.in, tt.in, got, err, tt.want)
		}
	}
	for _, tt := range []struct {
		typ keytext.Type
		in  any
	}{
		{keytext.Int2, 40000},
		{keytext.OID, -1},
		{keytext.Int8, 1.5},
		{keytext.Int8, true},
		{keytext.String, 5},
		{keytext.Bool, 1},
		{keytext.Int8, moment},
		{keytext.Int8, struct{}{}},
		{keytext.UUID, []byte{1}},
	} {
		var refused *keytext.Error
		if got, err := keytext.FromGo(tt.typ, tt.in); !errors.As(err, &refused) {
			t.Errorf("FromGo(%s, %T %v) = %+v, %v, want a refusal", tt.typ, tt.in, tt.in, got, err)
		}
	}
}

func TestFromGoFollowsCanonical(t *testing.T) {
	t.Parallel()
	for day := int64(-1_000_000_000_00); day < 1_000_000_000_00; day += 3_333_333_333 {
		moment := time.Unix(day, 0).UTC()
		got, err := keytext.FromGo(keytext.Timestamptz, moment)
		if err != nil {
			t.Fatal(err)
		}
		if moment.Year() > 0 && moment.Year() < 10000 {
			if want := moment.Format("2006-01-02 15:04:05+00"); got.Text != want {
				t.Errorf("FromGo = %q, want %q", got.Text, want)
			}
		}
	}
}

func TestEscape(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"": "", "a-._~9": "a-._~9", "a:b/c%": "a%3Ab%2Fc%25", "é": "%C3%A9"} {
		if got := string(keytext.AppendEscaped(nil, keytext.Arg{Text: in})); got != want {
			t.Errorf("AppendEscaped(%q) = %q, want %q", in, got, want)
		}
		if got := string(keytext.AppendEscapedText(nil, []byte(in))); got != want {
			t.Errorf("AppendEscapedText(%q) = %q, want %q", in, got, want)
		}
	}
	if got := string(keytext.AppendEscaped(nil, keytext.Arg{Null: true})); got != "%-" {
		t.Errorf("NULL = %q", got)
	}
}

func FuzzCanonicalIsIdempotent(f *testing.F) {
	for i := range types() {
		for _, s := range []string{"7", "t", "1.50e-3", "2024-01-01 10:00:00+02", "0001-01-01 BC", `\x00`, `a\\`, "{a0eebc999c0b4ef8bb6d6bb9bd380a11}"} {
			f.Add(uint8(i), s)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, s string) {
		typ := types()[int(which)%len(types())]
		once, err := keytext.Canonical(typ, s)
		if err != nil {
			return
		}
		again, err := keytext.Canonical(typ, once)
		if err != nil || again != once {
			t.Fatalf("%s %q: %q, then %q, %v", typ, s, once, again, err)
		}
		logged, err := keytext.AppendCanonicalLog([]byte("before"), typ, []byte(once))
		if err != nil || string(logged) != "before"+once {
			t.Fatalf("%s %q: %q from the log's side, %v", typ, s, logged, err)
		}
	})
}

func TestLogTextDoesNotAllocate(t *testing.T) { //nolint:paralleltest // AllocsPerRun forbids it
	values := map[keytext.Type]string{
		keytext.Int8: "-12345678901", keytext.Bool: "t", keytext.UUID: "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
		keytext.String: "some text", keytext.Enum: "paid", keytext.Numeric: "12.3400", keytext.Bytea: `\xdead`,
		keytext.Date: "2024-01-01", keytext.Timestamp: "2024-01-01 10:00:00.5", keytext.Timestamptz: "2024-01-01 10:00:00+00",
	}
	buffer := make([]byte, 0, 100)
	for typ, value := range values {
		text := []byte(value)
		allocs := testing.AllocsPerRun(100, func() {
			if _, err := keytext.AppendCanonicalLog(buffer, typ, text); err != nil {
				t.Error(err)
			}
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations", typ, allocs)
		}
	}
}
