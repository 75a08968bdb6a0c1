package keytext_test

import (
	"testing"
	"time"

	"github.com/freshet/freshet/internal/keytext"
)

// TestUnknown: without a type, text is taken as it is, and Go values only where they have one text.
func TestUnknown(t *testing.T) {
	t.Parallel()
	for _, same := range []string{"", "007", " a ", "é", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"} {
		if got, err := keytext.Canonical(keytext.Unknown, same); err != nil || got != same {
			t.Errorf("Canonical(%q) = %q, %v", same, got, err)
		}
	}
	one := 1
	for _, tt := range []struct {
		in   any
		want keytext.Arg
	}{
		{"007", keytext.Arg{Text: "007"}},
		{7, keytext.Arg{Text: "7"}},
		{int16(-7), keytext.Arg{Text: "-7"}},
		{uint64(1 << 63), keytext.Arg{Text: "9223372036854775808"}},
		{true, keytext.Arg{Text: "true"}},
		{&one, keytext.Arg{Text: "1"}},
		{(*int)(nil), keytext.Arg{Null: true}},
		{[16]byte{0xa0}, keytext.Arg{Text: "a0000000-0000-0000-0000-000000000000"}},
	} {
		if got, err := keytext.FromGo(keytext.Unknown, tt.in); err != nil || got != tt.want {
			t.Errorf("FromGo(%#v) = %+v, %v, want %+v", tt.in, got, err, tt.want)
		}
	}
	for _, bad := range []any{1.5, time.Now(), "\xff", "a\x00", struct{}{}} {
		if got, err := keytext.FromGo(keytext.Unknown, bad); err == nil {
			t.Errorf("FromGo(%#v) = %+v", bad, got)
		}
	}
}
