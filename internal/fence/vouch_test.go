package fence

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/freshet/freshet/mvcc"
)

// history is a primary's: transactions in the order of the log, some of them visible, and a daemon that has confirmed some
// of those. One key, which some of them change.
type history struct {
	visible, confirmed, affects [12]bool
}

func (h *history) snapshot(of [12]bool) mvcc.Snapshot {
	s := mvcc.Snapshot{Xmax: 3}
	for i, seen := range of {
		if seen {
			s.Xmax = mvcc.XID(i) + 4
		}
	}
	for x := mvcc.XID(3); x < s.Xmax; x++ {
		if !of[x-3] {
			s.Xip = append(s.Xip, x)
		}
	}
	s.Xmin = s.Xmax
	if len(s.Xip) > 0 {
		s.Xmin = s.Xip[0]
	}
	return s
}

// TestVouching holds Contains and Follows against what they mean: a value was read under some snapshot, and is still there,
// so no transaction that was confirmed since changed it. Whatever is accepted contains every transaction in question that
// changed the key.
func TestVouching(t *testing.T) {
	t.Parallel()
	accepted := map[bool]int{}
	rapid.Check(t, func(t *rapid.T) {
		var h history
		var read, sa [12]bool
		wc := 0
		for i := range h.visible {
			h.visible[i] = rapid.Bool().Draw(t, "visible")
			h.confirmed[i] = h.visible[i] && rapid.Bool().Draw(t, "confirmed")
			h.affects[i] = rapid.Bool().Draw(t, "affects")
			// What is confirmed and affects the key, a value that is still there has to contain.
			read[i] = h.visible[i] && (h.confirmed[i] && h.affects[i] || rapid.Bool().Draw(t, "read"))
			sa[i] = h.confirmed[i] && rapid.Bool().Draw(t, "sa")
		}
		for wc < len(h.confirmed) && h.confirmed[wc] {
			wc++
		}
		head := &Head{System: "7", Timeline: 1, Sa: h.snapshot(sa), Wc: mvcc.LSN(10 * wc)}
		if rapid.Bool().Draw(t, "no sa") {
			head.Sa = mvcc.Snapshot{}
		}
		c := Coverage{Snapshot: h.snapshot(read)}
		x := rapid.IntRange(0, len(h.visible)-1).Draw(t, "x")
		token := mvcc.Token{
			System: rapid.SampledFrom([]string{"7", "7", "7", "8"}).Draw(t, "system"), XID: mvcc.XID(x + 3),
			Timeline: rapid.SampledFrom([]uint32{1, 1, 1, 2}).Draw(t, "timeline"),
		}
		if rapid.Bool().Draw(t, "positioned") {
			token.After = mvcc.LSN(10*(x+1)) + mvcc.LSN(rapid.IntRange(0, 15).Draw(t, "later"))
		}
		contains := Contains(head, c, token)
		accepted[contains]++
		if contains && (token.System != "7" || token.Timeline != 1) {
			t.Fatalf("a token of elsewhere is contained")
		}
		if contains && h.affects[x] && !read[x] {
			t.Fatalf("Contains(%+v, %v, %v), but the value misses it", head, c, token)
		}
		if !contains && read[x] && token.System == "7" && token.Timeline == 1 {
			t.Fatalf("the coverage sees %d, and it is refused", token.XID)
		}
		var seen [12]bool
		for i := range seen {
			seen[i] = h.visible[i] && rapid.Bool().Draw(t, "seen")
		}
		if Follows(head, c, h.snapshot(seen)) {
			for i := range seen {
				if seen[i] && h.affects[i] && !read[i] {
					t.Fatalf("Follows(%+v, %v, %v), but the value misses %d", head, c, h.snapshot(seen), i+3)
				}
			}
		}
	})
	if accepted[true] < 10 || accepted[false] < 10 {
		t.Errorf("the cases are one-sided: %v", accepted)
	}
}

// TestVouchingForAStandbysValue has the rules that the history above does not.
func TestVouchingForAStandbysValue(t *testing.T) {
	t.Parallel()
	head := &Head{System: "7", Timeline: 1, Sa: mvcc.Snapshot{Xmin: 10, Xmax: 10}, Wc: 100}
	c := func(at mvcc.LSN) Coverage { return Coverage{Replay: at} }
	token := func(x mvcc.XID, at mvcc.LSN) mvcc.Token {
		return mvcc.Token{System: "7", Timeline: 1, XID: x, After: at}
	}
	for name, tt := range map[string]struct{ got, want bool }{
		"replayed":                     {Contains(head, c(200), token(50, 200)), true},
		"not replayed":                 {Contains(head, c(199), token(50, 200)), false},
		"a token without a position":   {Contains(head, c(200), token(50, 0)), false},
		"by Sa":                        {Contains(head, c(1), token(9, 0)), true},
		"by Wc":                        {Contains(head, c(1), token(50, 100)), true},
		"past Wc":                      {Contains(head, c(1), token(50, 101)), false},
		"a session that saw nothing":   {Follows(head, c(100), mvcc.Snapshot{}), true},
		"shows what nobody else may":   {Follows(head, c(101), mvcc.Snapshot{}), false},
		"Sa has what the session saw":  {Follows(head, c(100), mvcc.Snapshot{Xmin: 10, Xmax: 10}), true},
		"Sa lacks what it saw":         {Follows(head, c(100), mvcc.Snapshot{Xmin: 11, Xmax: 11}), false},
		"no coverage, nothing is seen": {Follows(head, Coverage{}, mvcc.Snapshot{}), false},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %t", name, tt.got)
		}
	}
}

func TestTickText(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"-", "00000000000000cc.0000000000000000", "0123456789abcdef.ffffffffffffffff"} {
		if tick, ok := ParseTick(text); !ok || tick.String() != text {
			t.Errorf("ParseTick(%q) = %v, %t", text, tick, ok)
		}
	}
	if tick, ok := ParseTick("0000000000000000"); !ok || tick != (Tick{}) {
		t.Errorf("a plain number: %v, %t", tick, ok)
	}
	for _, text := range []string{"", "17", ".", "00000000000000cc.", "00000000000000CC.0000000000000000", "cc.0000000000000001", "00000000000000cc.1"} {
		if tick, ok := ParseTick(text); ok {
			t.Errorf("ParseTick(%q) = %v", text, tick)
		}
	}
	five := Tick{ID: "00000000000000cc", N: 5}
	for _, tt := range []struct {
		asked Tick
		want  bool
	}{
		{five, true}, {Tick{five.ID, 4}, true}, {Tick{five.ID, 6}, false}, {Tick{"00000000000000dd", 4}, false},
	} {
		if got := five.Reaches(tt.asked); got != tt.want {
			t.Errorf("%v.Reaches(%v) = %t", five, tt.asked, got)
		}
	}
	if (Tick{}).Reaches(Tick{}) {
		t.Error("no tick reaches what was never asked")
	}
}

// TestContainsAll: it is Contains of each of them.
func TestContainsAll(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		snapshot := func(label string) mvcc.Snapshot {
			if rapid.Bool().Draw(t, label+" is none") {
				return mvcc.Snapshot{}
			}
			xmax := rapid.Uint64Range(1, 12).Draw(t, label)
			s := mvcc.Snapshot{Xmin: mvcc.XID(xmax), Xmax: mvcc.XID(xmax)}
			for x := mvcc.XID(1); x < s.Xmax; x++ {
				if rapid.Bool().Draw(t, "open") {
					s.Xip = append(s.Xip, x)
				}
			}
			if len(s.Xip) > 0 {
				s.Xmin = s.Xip[0]
			}
			return s
		}
		h := Head{System: "7", Timeline: rapid.Uint32Range(1, 2).Draw(t, "timeline"), Sa: snapshot("Sa")}
		c := Coverage{Snapshot: snapshot("coverage")}
		first := mvcc.XID(rapid.Uint64Range(1, 12).Draw(t, "first"))
		last := first + mvcc.XID(rapid.Uint64Range(0, 6).Draw(t, "more"))
		byCoverage, bySa := true, true
		for x := first; x <= last; x++ {
			token := mvcc.Token{System: "7", Timeline: 1, XID: x}
			byCoverage = byCoverage && Contains(&Head{System: "7", Timeline: h.Timeline}, c, token)
			bySa = bySa && Contains(&h, Coverage{}, token)
		}
		if got, want := ContainsAll(&h, c, "7", 1, first, last), byCoverage || bySa; got != want {
			t.Fatalf("ContainsAll = %v, want %v: head %+v, coverage %+v, %d to %d", got, want, h, c, first, last)
		}
	})
}
