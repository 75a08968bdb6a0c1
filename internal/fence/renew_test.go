package fence

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestRenewIsFillOfTheSameBytes: wherever there is a live value, a RENEW is what a FILL of that value's own bytes would be;
// where there is none, it changes nothing.
func TestRenewIsFillOfTheSameBytes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r, now := records().Draw(t, "record"), rapid.Int64Range(0, 100).Draw(t, "now")
		n := Renewing{
			Token: tokens().Draw(t, "token"), Coverage: coverages().Draw(t, "coverage"), RowVersion: rapid.String().Draw(t, "version"),
		}
		renewed, outcome := Renew(r, n, now)
		filled, want := Fill(r, Filling{
			Token: n.Token, Coverage: n.Coverage, State: r.State, RowVersion: n.RowVersion, Payload: r.Payload,
		}, now)
		if want == Filled {
			want = Renewed
			if !r.State.Live() {
				want, filled = NoValue, r
			}
		}
		if outcome != want {
			t.Fatalf("Renew = %v, want %v", outcome, want)
		}
		if diff := cmp.Diff(filled, renewed); diff != "" {
			t.Fatalf("Renew (-fill +renew):\n%s", diff)
		}
	})
}
