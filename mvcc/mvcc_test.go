package mvcc_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/freshet/freshet/mvcc"
)

func TestLSNText(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"} {
		l, err := mvcc.ParseLSN(s)
		if err != nil || l.String() != s {
			t.Errorf("ParseLSN(%q) = %v, %v", s, l, err)
		}
	}
	for _, s := range []string{"", "1", "1/", "/1", "1/2/3", "g/0", "100000000/0"} {
		if _, err := mvcc.ParseLSN(s); !errors.Is(err, mvcc.ErrSyntax) {
			t.Errorf("ParseLSN(%q) error = %v, want ErrSyntax", s, err)
		}
	}
}

func TestSnapshotText(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"738:738:", "1361920:1361922:1361920", "5:9:5,7"} {
		snap, err := mvcc.ParseSnapshot(s)
		if err != nil || snap.String() != s {
			t.Errorf("ParseSnapshot(%q) = %v, %v", s, snap, err)
		}
	}
	for _, s := range []string{"", "1", "1:2", "2:1:", "1:3:0", "1:3:3", "1:3:x", "1:3:2,"} {
		if _, err := mvcc.ParseSnapshot(s); !errors.Is(err, mvcc.ErrSyntax) {
			t.Errorf("ParseSnapshot(%q) error = %v, want ErrSyntax", s, err)
		}
	}
}

// TestSees has the cases that consistency rests on: a long transaction, commit order other than id order, and an id
// at or past xmax, which is never listed.
func TestSees(t *testing.T) {
	t.Parallel()
	tests := []struct {
		snap string
		x    mvcc.XID
		want bool
	}{
		{"725:727:725", 725, false},
		{"725:727:725", 726, true},
		{"725:727:725", 724, true},
		{"725:727:725", 727, false},
		{"738:738:", 738, false},
		{"738:738:", 737, true},
	}
	for _, tt := range tests {
		snap, err := mvcc.ParseSnapshot(tt.snap)
		if err != nil {
			t.Fatal(err)
		}
		if got := snap.Sees(tt.x); got != tt.want {
			t.Errorf("Snapshot(%s).Sees(%d) = %v, want %v", tt.snap, tt.x, got, tt.want)
		}
	}
}

func TestExtendAcrossTheEpoch(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		near := mvcc.XID(rapid.Uint64Range(1<<33, 1<<62).Draw(t, "near"))
		away := rapid.Int64Range(-(1<<31)+1, (1<<31)-1).Draw(t, "away")
		want := mvcc.XID(int64(near) + away)
		if got := mvcc.Extend(uint32(want), near); got != want {
			t.Fatalf("Extend(%d, %d) = %d, want %d", uint32(want), near, got, want)
		}
	})
}

// TestDominates compares the rule with its meaning, transaction by transaction.
func TestDominates(t *testing.T) {
	t.Parallel()
	random := func(r *rand.Rand) mvcc.Snapshot {
		low := mvcc.XID(r.IntN(6))
		s := mvcc.Snapshot{Xmin: low, Xmax: low + mvcc.XID(r.IntN(6))}
		for x := s.Xmin; x < s.Xmax; x++ {
			if r.IntN(2) == 0 {
				s.Xip = append(s.Xip, x)
			}
		}
		return s
	}
	r := rand.New(rand.NewPCG(1, 2))
	seen := map[bool]int{}
	for range 20_000 {
		a, b := random(r), random(r)
		// xmin is the oldest running id: below it everything is over, as on a server.
		if len(a.Xip) > 0 {
			a.Xmin = a.Xip[0]
		}
		if len(b.Xip) > 0 {
			b.Xmin = b.Xip[0]
		}
		want := true
		for x := range mvcc.XID(14) {
			if b.Sees(x) && !a.Sees(x) {
				want = false
			}
		}
		// A larger xmax claims to see nothing by itself: the rule may refuse where the sets happen to agree, never
		// accept where they do not.
		got := a.Dominates(b)
		if got && !want {
			t.Fatalf("%v.Dominates(%v) = true, but it misses a transaction", a, b)
		}
		if want && !got && a.Xmax >= b.Xmax {
			t.Fatalf("%v.Dominates(%v) = false, without need", a, b)
		}
		seen[got]++
	}
	if seen[true] < 100 || seen[false] < 100 {
		t.Errorf("the cases are one-sided: %v", seen)
	}
}

func FuzzParseSnapshot(f *testing.F) {
	f.Add("1361920:1361922:1361920")
	f.Add("5:9:7,5")
	f.Fuzz(func(t *testing.T, s string) {
		snap, err := mvcc.ParseSnapshot(s)
		if err != nil {
			return
		}
		again, err := mvcc.ParseSnapshot(snap.String())
		if err != nil || again.Xmin != snap.Xmin || again.Xmax != snap.Xmax || !slices.Equal(again.Xip, snap.Xip) {
			t.Fatalf("%q: %v != %v (%v)", s, snap, again, err)
		}
	})
}
