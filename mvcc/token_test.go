package mvcc_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/freshet/freshet/mvcc"
)

func TestTokenText(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := mvcc.Token{
			System:   rapid.StringMatching(`[1-9][0-9]{0,18}`).Draw(t, "system"),
			Timeline: rapid.Uint32Min(1).Draw(t, "timeline"),
			XID:      mvcc.XID(rapid.Uint64Range(3, 1<<63-1).Draw(t, "xid")),
			After:    mvcc.LSN(rapid.Uint64().Draw(t, "after")),
		}
		got, err := mvcc.ParseToken(want.String())
		if err != nil || got != want {
			t.Fatalf("ParseToken(%q) = %+v, %v, want %+v", want, got, err, want)
		}
	})
}

func TestTokenMalformed(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"", "1", "1.00000001", "1.00000001.", "1.00000001.7.", "1.1.7", "1.0000000g.7", "1.00000000.7", "x.00000001.7",
		"-1.00000001.7", "+1.00000001.7", "1.00000001.2", "1.00000001.9223372036854775808", "1.00000001.7.0/0",
		"1.00000001.7.1", "1.00000001.7.0/1.2", "1.00000001.7 ", " 1.00000001.7", "1.+0000001.7", "1.00000001.+7",
		strings.Repeat("1", 1<<20), "18446744073709551616.00000001.7",
	} {
		if token, err := mvcc.ParseToken(s); !errors.Is(err, mvcc.ErrSyntax) {
			t.Errorf("ParseToken(%.40q) = %v, %v, want ErrSyntax", s, token, err)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add("7351234567890123456.00000001.742")
	f.Add("7351234567890123456.0000000A.742.0/15AF238")
	f.Fuzz(func(t *testing.T, s string) {
		token, err := mvcc.ParseToken(s)
		if err != nil {
			return
		}
		again, err := mvcc.ParseToken(token.String())
		if err != nil || again != token {
			t.Errorf("ParseToken(%q) = %+v, and its text %q gives %+v, %v", s, token, token, again, err)
		}
	})
}
