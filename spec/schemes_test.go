package spec

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

func schemeColumns() [columns]schemeColumn {
	return [columns]schemeColumn{
		{name: "primary only"},
		{name: "standby", standbys: [3]bool{true, false, true}},
		{name: "eviction", evictions: true},
		{name: "failover", failover: true},
	}
}

func schemes() []scheme {
	all := func(fences set, tx uint8) set { return fences | 1<<tx }
	highest := func(fences set, tx uint8) set { return 1 << max(tx, uint8(fences>>1)) } // of two
	last := func(_ set, tx uint8) set { return 1 << tx }
	never := [columns]verdict{stale, stale, stale, stale}
	always := [columns]verdict{}
	return []scheme{
		{name: "cache-aside, DEL after COMMIT", want: never},
		{name: "DEL when visible, plain SET", when: onVisible, want: never},
		{name: "DEL when visible, and no fill for a while", when: onVisible, window: true, want: never},
		{name: "counter, on delivery", when: onDelivery, counter: true, want: never},
		{name: "counter, when visible", when: onVisible, counter: true, want: [columns]verdict{fine, stale, stale, stale}},
		{name: "lease, on delivery", when: onDelivery, lease: true, want: never},
		{name: "lease, when visible", when: onVisible, lease: true, want: [columns]verdict{fine, stale, fine, stale}},
		{name: "fence by log position, read before", when: onDelivery, fences: true, fence: all, claim: byPosition, carried: true, want: never},
		{name: "fence of the highest id", when: onDelivery, fences: true, fence: highest, carried: true, want: never},
		{name: "fence of the last id", when: onDelivery, fences: true, fence: last, carried: true, want: never},
		{name: "fences below the horizon, dropped at fill", when: onDelivery, fences: true, fence: all, claim: byHorizon, want: [columns]verdict{fine, stale, stale, stale}},
		{name: "fences, dropped at fill", when: onDelivery, fences: true, fence: all, want: [columns]verdict{fine, stale, stale, stale}},
		{name: "fences, carried", when: onDelivery, fences: true, fence: all, carried: true, want: [columns]verdict{fine, fine, stale, stale}},
		{name: "fences, carried, a standby's snapshot", when: onDelivery, fences: true, fence: all, carried: true, claim: byAnyServer, want: [columns]verdict{fine, stale, stale, stale}},
		{name: "fences and lease, carried, HEAD", when: onDelivery, fences: true, fence: all, carried: true, lease: true, head: true, want: [columns]verdict{fine, fine, watermark, fine}},
		{name: "everything but HEAD", when: atBoth, fences: true, fence: all, lease: true, script: true, want: [columns]verdict{fine, stale, fine, stale}},
		{name: "everything but the floor", when: atBoth, fences: true, fence: all, lease: true, script: true, head: true, want: [columns]verdict{fine, watermark, fine, fine}},
		{name: "confirm by UNLINK, lease, HEAD, floor", when: onVisible, lease: true, floor: true, head: true, want: always},
		{name: "confirm by script, lease, HEAD, floor", when: onVisible, fences: true, lease: true, floor: true, script: true, head: true, want: always},
		{name: "early fences and confirm, lease, HEAD, floor", when: atBoth, fences: true, fence: all, lease: true, floor: true, script: true, head: true, want: always},
	}
}

type schemeResult struct {
	verdict
	states int
	trace  []string
}

// exploreScheme visits every state, breadth first, until one is found that must not be.
func exploreScheme(x *schemeExplorer) schemeResult {
	states := newStates[schemeState]()
	states.add(&schemeState{})
	origins := []int32{-1}
	at := int32(0) // not a range: states grows on the way
	for at < states.count {
		s, over := *states.at(at), true
		x.yield = func(n schemeState, _ string) {
			over = false
			if states.add(&n) {
				origins = append(origins, at)
			}
		}
		x.steps(s)
		if found := x.judge(&s, over); found != fine {
			r := schemeResult{verdict: found, states: int(states.count)}
			for i := at; origins[i] >= 0; i = origins[i] {
				r.trace = append(r.trace, x.between(*states.at(origins[i]), *states.at(i)))
			}
			slices.Reverse(r.trace)
			return r
		}
		x.faults(s)
		at++
	}
	return schemeResult{states: int(states.count)}
}

// between names a step that leads from one state to the next.
func (x *schemeExplorer) between(from, to schemeState) (name string) {
	x.naming = true
	x.yield = func(n schemeState, action string) {
		if n == to {
			name = action
		}
	}
	x.steps(from)
	x.faults(from)
	return name
}

// TestSchemes explores what others do, and what this one does in outline: for each scheme and fault, a value that stays
// stale must be found, or there must be none in all states. With -v it prints the shortest way to each.
func TestSchemes(t *testing.T) {
	t.Parallel()
	var table strings.Builder
	total := 0
	for _, sc := range schemes() {
		fmt.Fprintf(&table, "| %s |", sc.name)
		for i, c := range schemeColumns() {
			x := &schemeExplorer{scheme: sc, schemeColumn: c, reads: 2}
			if deep() && !c.failover {
				x.reads = 3
			}
			r := exploreScheme(x)
			total += r.states
			fmt.Fprintf(&table, " %s, %d |", r.verdict, r.states)
			if r.verdict != sc.want[i] {
				t.Errorf("%s, %s: %s among %d states, want %s\n%s", sc.name, c.name, r.verdict, r.states, sc.want[i], strings.Join(r.trace, "\n"))
			} else if r.verdict != fine {
				t.Logf("%s, %s: %s\n  %s", sc.name, c.name, r.verdict, strings.Join(r.trace, "\n  "))
			}
		}
		table.WriteString("\n")
	}
	t.Logf("verdict and number of states, %d in all:\n%s", total, table.String())
	documented, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	if !deep() && !strings.Contains(string(documented), "| --- |\n"+table.String()+"\n") {
		t.Errorf("docs/protocol.md does not have this table:\n%s", table.String())
	}
}

// TestSoundSchemesUnderEverything has a standby, an eviction and a failover at once.
func TestSoundSchemesUnderEverything(t *testing.T) {
	t.Parallel()
	everything := schemeColumn{name: "everything at once", standbys: [3]bool{true}, evictions: true, failover: true}
	for _, sc := range schemes() {
		if sc.want != [columns]verdict{} {
			continue
		}
		x := &schemeExplorer{scheme: sc, schemeColumn: everything, reads: 1}
		if deep() {
			x.reads = 2
		}
		r := exploreScheme(x)
		t.Logf("%s: %s, %d states", sc.name, r.verdict, r.states)
		if r.verdict != fine {
			t.Errorf("%s: %s\n%s", sc.name, r.verdict, strings.Join(r.trace, "\n"))
		}
	}
}
