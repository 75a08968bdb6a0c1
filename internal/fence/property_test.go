package fence

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/freshet/freshet/mvcc"
)

// The dumb twin: transactions are few, and everything is asked one by one.
const universe = 40

// contents lists what a coverage contains, of stamps whose position equals their id.
func contents(c Coverage) []bool {
	all := make([]bool, universe)
	for x := range all {
		all[x] = x > 0 && c.Covers(Stamp{XID: mvcc.XID(x), End: mvcc.LSN(x)})
	}
	return all
}

func includes(a, b []bool) bool {
	for i := range b {
		if b[i] && !a[i] {
			return false
		}
	}
	return true
}

func TestDominatesIsInclusion(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := coverages().Draw(t, "a"), coverages().Draw(t, "b")
		got, want := a.Dominates(b), includes(contents(a), contents(b))
		alike := b.IsZero() || a.Standby() == b.Standby() && !a.IsZero()
		if got && !want {
			t.Fatalf("%v dominates %v, but does not contain it", a, b)
		}
		// A snapshot's Xmax may lie beyond what it sees: then it is refused although nothing is missing, which is safe.
		if alike && a.Snapshot.Xmax >= b.Snapshot.Xmax && !got && want {
			t.Fatalf("%v contains %v, but does not dominate it", a, b)
		}
	})
}

func TestGrowIsUnion(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := snapshots().Draw(t, "a"), snapshots().Draw(t, "b")
		g := Grow(a, b)
		if g.Xmin > g.Xmax || !slices.IsSorted(g.Xip) {
			t.Fatalf("Grow(%v, %v) = %v, which is no snapshot", a, b, g)
		}
		for x := range mvcc.XID(universe) {
			if got, want := g.Sees(x), a.Sees(x) || b.Sees(x); got != want {
				t.Fatalf("Grow(%v, %v).Sees(%d) = %v, want %v", a, b, x, got, want)
			}
		}
		if !g.Dominates(a) || !g.Dominates(b) {
			t.Fatalf("Grow(%v, %v) = %v does not dominate both", a, b, g)
		}
	})
}

func TestFloor(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := Head{Generation: "00000000000000aa", Si: snapshots().Draw(t, "si"), Wi: mvcc.LSN(rapid.Uint64Range(0, 30).Draw(t, "wi"))}
		c := coverages().Draw(t, "coverage")
		allowed := Floor(h, c)
		switch {
		case c.IsZero():
			if allowed {
				t.Fatal("a load of no coverage may fill")
			}
		case c.Standby():
			if allowed != (c.Replay >= h.Wi) {
				t.Fatalf("Floor(Wi %v, %v) = %v", h.Wi, c, allowed)
			}
		default:
			if allowed && !includes(contents(c), contents(Coverage{Snapshot: h.Si})) {
				t.Fatalf("a load of %v may fill over Si %v", c, h.Si)
			}
		}
		if Floor(Head{}, c) {
			t.Fatalf("a load of %v may fill without HEAD", c)
		}
	})
}

// twin keeps a key's history instead of deciding: every confirm, lease and fill in order.
type twin struct {
	lease  Token
	ends   int64
	fences []Stamp
	value  *Coverage
	live   bool
}

// TestFillAgainstTwin holds Acquire, Fill, Renew, Release and Confirm against a machine that is written from the rules' text
// and shares no code with them but the question what a coverage contains.
func TestFillAgainstTwin(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var (
			r   Record
			w   twin
			now int64
		)
		t.Repeat(map[string]func(*rapid.T){
			"time": func(t *rapid.T) { now += rapid.Int64Range(-3, 6).Draw(t, "step") },
			"start": func(t *rapid.T) {
				r = records().Draw(t, "record")
				w = twin{lease: r.Lease.Token, ends: r.Lease.End, fences: r.Fences, live: r.State == Live || r.State == Negative}
				if r.State != None {
					w.value = &r.Coverage
				}
			},
			"lease": func(t *rapid.T) {
				token, end := tokens().Draw(t, "token"), now+rapid.Int64Range(1, 10).Draw(t, "lasts")
				var got LeaseOutcome
				r, got = Acquire(r, token, now, end)
				want := Busy
				if w.lease == "" || w.ends <= now {
					want, w.lease, w.ends = Granted, token, end
				}
				if got != want {
					t.Fatalf("Acquire = %v, want %v", got, want)
				}
			},
			"fill": func(t *rapid.T) {
				f := Filling{Token: tokens().Draw(t, "token"), Coverage: coverages().Draw(t, "coverage"), State: Live}
				var got FillOutcome
				r, got = Fill(r, f, now)
				want := Filled
				switch {
				case w.lease != f.Token:
					want = NoLease
				case now >= w.ends:
					want = LeaseEnded
				case slices.ContainsFunc(w.fences, func(x Stamp) bool { return !f.Coverage.Covers(x) }):
					want = NotCovering
				case w.live && !f.Coverage.Dominates(*w.value):
					want = NotNewer
				default:
					w = twin{value: &f.Coverage, live: true}
				}
				if got != want {
					t.Fatalf("Fill = %v, want %v", got, want)
				}
			},
			"renew": func(t *rapid.T) {
				n := Renewing{Token: tokens().Draw(t, "token"), Coverage: coverages().Draw(t, "coverage"), RowVersion: "new"}
				before := r
				var got FillOutcome
				r, got = Renew(r, n, now)
				want := Renewed
				switch {
				case w.lease != n.Token:
					want = NoLease
				case now >= w.ends:
					want = LeaseEnded
				case slices.ContainsFunc(w.fences, func(x Stamp) bool { return !n.Coverage.Covers(x) }):
					want = NotCovering
				case w.live && !n.Coverage.Dominates(*w.value):
					want = NotNewer
				case !w.live:
					want = NoValue
				default:
					w = twin{value: &n.Coverage, live: true}
					same := r.State == before.State && bytes.Equal(r.Payload, before.Payload)
					if !same || r.RowVersion != "new" || r.Filled != now || !r.Coverage.Dominates(n.Coverage) || !n.Coverage.Dominates(r.Coverage) {
						t.Fatalf("Renew made %+v of %+v", r, before)
					}
				}
				if got != want {
					t.Fatalf("Renew = %v, want %v", got, want)
				}
			},
			"release": func(t *rapid.T) {
				token := tokens().Draw(t, "token")
				var got bool
				r, got = Release(r, token)
				if want := w.lease == token; got != want {
					t.Fatalf("Release = %v, want %v", got, want)
				}
				if w.lease == token {
					w.lease, w.ends = "", 0
				}
			},
			"confirm": func(*rapid.T) { r, w = Unlink(r), twin{} },
			"": func(t *rapid.T) {
				if r.Lease.Token != w.lease || len(r.Fences) != len(w.fences) || r.State.Live() != w.live {
					t.Fatalf("record %+v, twin %+v", r, w)
				}
			},
		})
	})
}

func TestFillRunsUnderTheFence(t *testing.T) {
	t.Parallel()
	// T4, T5: two transactions are fenced. Seeing the later one, by id or by commit, is not seeing both.
	token := Token("0123456789abcdef0123456789abcdef")
	r := Record{Lease: Lease{Token: token, End: 10}, Fences: []Stamp{{XID: 1, End: 200}, {XID: 2, End: 100}}}
	tests := []struct {
		name string
		c    Coverage
		want FillOutcome
	}{
		{"sees neither", Coverage{Snapshot: mvcc.Snapshot{Xmin: 1, Xmax: 1}}, NotCovering},
		{"sees only the higher id", Coverage{Snapshot: mvcc.Snapshot{Xmin: 1, Xmax: 3, Xip: []mvcc.XID{1}}}, NotCovering},
		{"sees only the lower id", Coverage{Snapshot: mvcc.Snapshot{Xmin: 2, Xmax: 3, Xip: []mvcc.XID{2}}}, NotCovering},
		{"sees both", Coverage{Snapshot: mvcc.Snapshot{Xmin: 3, Xmax: 3}}, Filled},
		{"replayed only the first commit", Coverage{Replay: 199}, NotCovering},
		{"replayed both commits", Coverage{Replay: 200}, Filled},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, got := Fill(r, Filling{Token: token, Coverage: tt.c, State: Live}, 5); got != tt.want {
				t.Errorf("Fill = %v, want %v", got, tt.want)
			}
		})
	}
}
