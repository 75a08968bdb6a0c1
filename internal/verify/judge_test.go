package verify

import (
	"fmt"
	"testing"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/mvcc"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		s    second
		want step
	}{
		{"removed before HEAD got there", second{round: 1, live: true}, inFlight},
		{"removed", second{round: 1, live: true, met: true}, inFlight},
		{"removed, and late", second{round: 2, live: true, expired: true}, inFlight},
		{"removed while names moved", second{round: 1, moving: true, met: true}, inFlight},
		{"its name is not live any more", second{round: 2, same: true, met: true}, inFlight},
		{"not vouched for yet", second{round: 1, same: true, live: true}, wait},
		{"not vouched for in time", second{round: 1, same: true, live: true, expired: true}, undecided},
		{"names are moving", second{round: 2, same: true, live: true, moving: true, met: true}, wait},
		{"names are moving, too long", second{round: 2, same: true, moving: true, met: true, expired: true}, undecided},
		{"vouched for, once", second{round: 1, same: true, live: true, met: true}, again},
		{"vouched for, once, late", second{round: 1, same: true, live: true, met: true, expired: true}, again},
		{"vouched for, twice", second{round: 2, same: true, live: true, met: true}, stale},
		{"the second round is not", second{round: 2, same: true, live: true}, wait},
	}
	for _, tt := range tests {
		if got := judge(tt.s); got != tt.want {
			t.Errorf("%s: judge(%+v) = %d, want %d", tt.name, tt.s, got, tt.want)
		}
	}
}

func sees(xmax mvcc.XID, running ...mvcc.XID) mvcc.Snapshot {
	s := mvcc.Snapshot{Xmin: xmax, Xmax: xmax, Xip: running}
	if len(running) > 0 {
		s.Xmin = running[0]
	}
	return s
}

func TestNeedsMet(t *testing.T) {
	t.Parallel()
	head := fence.Head{Wc: 100, Sa: sees(10, 7)}
	tests := []struct {
		name string
		n    needs
		want bool
	}{
		{"Wc is at the position", needs{snapshot: sees(20), position: 100}, true},
		{"Wc is before the position, Sa sees less", needs{snapshot: sees(20), position: 101}, false},
		{"Sa sees as much", needs{snapshot: sees(10, 7), position: 101}, true},
		{"Sa sees more", needs{snapshot: sees(9, 7), position: 101}, true},
		{"Sa waits for one that the snapshot sees", needs{snapshot: sees(10), position: 101}, false},
		{"the standby was further", needs{snapshot: sees(5), position: 90, replay: 101}, false},
		{"the standby was not further", needs{snapshot: sees(5), position: 90, replay: 100}, true},
	}
	for _, tt := range tests {
		if got := tt.n.met(&head); got != tt.want {
			t.Errorf("%s: %+v.met() = %t, want %t", tt.name, tt.n, got, tt.want)
		}
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	one := &rule.Entry{Result: rule.One, SQL: "SELECT 1"}
	many := &rule.Entry{Result: rule.Many, SQL: "SELECT 1"}
	ordered := &rule.Entry{Result: rule.Many, SQL: "SELECT 1\nOrder BY 1"}
	tests := []struct {
		name    string
		state   fence.State
		cached  string
		found   bool
		payload string
		entry   *rule.Entry
		want    likeness
	}{
		{"the same", fence.Live, `{"a":1}`, true, `{"a":1}`, one, equal},
		{"another value", fence.Live, `{"a":1}`, true, `{"a":2}`, one, different},
		{"another spelling", fence.Live, `{"a":1.0}`, true, `{"a":1}`, one, different},
		{"none, rightly", fence.Negative, "", false, "", one, equal},
		{"none, and there is one", fence.Negative, "", true, `{"a":1}`, one, different},
		{"one, and there is none", fence.Live, `{"a":1}`, false, "", one, different},
		{"rows in any order", fence.Live, `[{"a":1},{"a":2}]`, true, `[{"a":2},{"a":1}]`, many, equal},
		{"rows in another order", fence.Live, `[{"a":1},{"a":2}]`, true, `[{"a":2},{"a":1}]`, ordered, otherOrder},
		{"a row twice", fence.Live, `[{"a":1},{"a":1}]`, true, `[{"a":1},{"a":2}]`, many, different},
		{"a row more", fence.Live, `[{"a":1}]`, true, `[{"a":1},{"a":1}]`, ordered, different},
		{"no rows", fence.Live, `[]`, true, `[]`, many, equal},
		{"no array", fence.Live, `{"a":1}`, true, `[]`, many, different},
	}
	for _, tt := range tests {
		r := fence.Record{State: tt.state, Payload: []byte(tt.cached)}
		if got := compare(&r, tt.found, []byte(tt.payload), tt.entry); got != tt.want {
			t.Errorf("%s: compare() = %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestSameValue(t *testing.T) {
	t.Parallel()
	seen := fence.Record{State: fence.Live, Coverage: fence.Coverage{Snapshot: sees(5)}, Filled: 7, Payload: []byte("{}")}
	tests := []struct {
		name   string
		change func(r *fence.Record)
		want   bool
	}{
		{"as it was", func(*fence.Record) {}, true},
		{"a lease over it", func(r *fence.Record) { r.Lease = fence.Lease{Token: "00112233445566778899aabbccddeeff", End: 9} }, true},
		{"a fence over it", func(r *fence.Record) { r.Fences = []fence.Stamp{{XID: 5, End: 50}} }, true},
		{"marked stale", func(r *fence.Record) { r.State = fence.Stale }, false},
		{"filled again with the same", func(r *fence.Record) { r.Filled = 8 }, false},
		{"found to cover more", func(r *fence.Record) { r.Coverage.Snapshot = sees(6) }, false},
		{"another payload", func(r *fence.Record) { r.Payload = []byte("[]") }, false},
		{"negative", func(r *fence.Record) { r.State, r.Payload = fence.Negative, nil }, false},
	}
	for _, tt := range tests {
		r := seen
		tt.change(&r)
		if got := sameValue(&seen, r.Append(nil)); got != tt.want {
			t.Errorf("%s: sameValue() = %t, want %t", tt.name, got, tt.want)
		}
	}
	if sameValue(&seen, []byte("text")) {
		t.Error("a text that is no record is the value")
	}
}

func TestCauseOf(t *testing.T) {
	t.Parallel()
	n := &needs{snapshot: sees(10, 7), position: 100}
	tests := []struct {
		name string
		c    fence.Coverage
		want Cause
	}{
		{"none", fence.Coverage{}, NoCoverage},
		{"older", fence.Coverage{Snapshot: sees(9, 7)}, NotRemoved},
		{"older by one", fence.Coverage{Snapshot: sees(10, 6, 7)}, NotRemoved},
		{"the same", fence.Coverage{Snapshot: sees(10, 7)}, ClaimsToContain},
		{"of the future", fence.Coverage{Snapshot: sees(11, 7)}, OtherHistory},
		{"sees what runs", fence.Coverage{Snapshot: sees(9)}, OtherHistory},
		{"of a standby", fence.Coverage{Replay: 99}, NotRemoved},
		{"of a standby that was as far", fence.Coverage{Replay: 100}, ClaimsToContain},
	}
	for _, tt := range tests {
		if got := causeOf(tt.c, n); got != tt.want {
			t.Errorf("%s: causeOf(%v) = %s, want %s", tt.name, tt.c, got, tt.want)
		}
	}
}

func TestNines(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		c    Counts
		want string
	}{
		{Counts{}, "nothing"},
		{Counts{Undecided: 5, Checked: 5}, "nothing"},
		{Counts{Fresh: 10}, "1.0000 all"},
		{Counts{Fresh: 9_999, Violations: 1}, "0.9999 4.0"},
		{Counts{Fresh: 999, InFlight: 1}, "0.9990 3.0"},
		{Counts{Fresh: 1, Violations: 1}, "0.5000 0.3"},
		{Counts{Violations: 3}, "0.0000 0.0"},
	} {
		got := "nothing"
		if share, n := nines(&tt.c); share != nil {
			got = fmt.Sprintf("%.4f all", *share)
			if n != nil {
				got = fmt.Sprintf("%.4f %.1f", *share, *n)
			}
		}
		if got != tt.want {
			t.Errorf("nines(%+v) = %s, want %s", tt.c, got, tt.want)
		}
	}
}

func TestSample(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Sample{
		"": {}, "7": {Count: 7, Seed: 3}, "5%": {Share: 0.05, Seed: 3}, "100%": {Share: 1, Seed: 3}, "0.1%": {Share: 0.001, Seed: 3},
	} {
		if got, err := ParseSample(text, 3); err != nil || got != want {
			t.Errorf("ParseSample(%q) = %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"0", "-1", "x", "0%", "101%", "%", "NaN%", "1.5"} {
		if got, err := ParseSample(text, 3); err == nil {
			t.Errorf("ParseSample(%q) = %+v", text, got)
		}
	}

	const count = 20_000
	name := func(i int) string { return fmt.Sprintf("f:n:0123456789abcdef:e.v.a:product:%d", i) }
	some, other, both := 0, 0, 0
	for i := range count {
		a, b := Sample{Share: 0.1, Seed: 1}.has(name(i)), Sample{Share: 0.1, Seed: 2}.has(name(i))
		for _, c := range []struct {
			in    bool
			count *int
		}{{a, &some}, {b, &other}, {a && b, &both}} {
			if c.in {
				*c.count++
			}
		}
	}
	if some < 1_800 || some > 2_200 || other < 1_800 || other > 2_200 || both < 100 || both > 320 {
		t.Errorf("of %d names, 10%% are %d and with another seed %d; both have %d", count, some, other, both)
	}

	r := newReservoir(Sample{Count: 500, Seed: 1})
	for i := range count {
		r.offer(name(i))
		r.offer(name(i / 2)) // a walk may come by twice
	}
	got := r.names()
	lower := 0
	seen := map[string]bool{}
	for _, n := range got {
		seen[n] = true
	}
	for i := range count / 2 {
		if seen[name(i)] {
			lower++
		}
	}
	if len(got) != 500 || len(seen) != 500 || lower < 200 || lower > 300 {
		t.Errorf("the sample has %d names, %d different, %d of the first half", len(got), len(seen), lower)
	}
}
