package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

// figure is one thing that was measured.
type figure struct {
	name  string
	value float64
	unit  string
}

// bound is what a figure has to keep.
type bound struct {
	figure  string
	limit   float64
	atLeast bool // otherwise at most
}

func (b bound) kept(value float64) bool {
	if b.atLeast {
		return value >= b.limit
	}
	return value <= b.limit
}

func (b bound) String() string {
	if b.atLeast {
		return fmt.Sprintf(">= %.4g", b.limit)
	}
	return fmt.Sprintf("<= %.4g", b.limit)
}

// ofRate is the bound of times whose rate is to be so much of the peer's at least.
func ofRate(share float64) float64 { return 1 / share }

// bounds is everything that is promised of the figures. Ratios of rates are freshet's over the peer's, ratios of times
// likewise.
func bounds() []bound {
	all := []bound{
		{figure: "drain/many/rate", limit: 1.5, atLeast: true},
		{figure: "drain/one/rate", limit: 1.5, atLeast: true},
		{figure: "drain/many/memory", limit: 30},
		{figure: "drain/one/memory", limit: 30},
		{figure: "latency/idle/p50", limit: 1.5},
		{figure: "latency/busy/p50", limit: 1.5},
		{figure: "hit/1", limit: ofRate(0.9)},
		{figure: "hit/16", limit: ofRate(0.9)},
		{figure: "hit/64", limit: ofRate(0.9)},
		{figure: "hit/1/decoded", limit: ofRate(0.95)},
		{figure: "hit/16/decoded", limit: ofRate(0.95)},
		{figure: "hit/64/decoded", limit: ofRate(0.95)},
		{figure: "hit/1/peers", limit: 1},
		{figure: "hit/16/peers", limit: 1},
		{figure: "hit/64/peers", limit: 1},
		{figure: "l1/1/otter", limit: 1.3},
		{figure: "l1/64/otter", limit: 1.3},
		{figure: "l1/many/otter", limit: 1.3},
		{figure: "l1/1/sturdyc", limit: 1},
		{figure: "l1/64/sturdyc", limit: 1},
		{figure: "l1/1/rueidis-DoCache", limit: 1},
		{figure: "l1/64/rueidis-DoCache", limit: 1},
		{figure: "l1/1/go-redis-cache", limit: 1},
		{figure: "l1/64/go-redis-cache", limit: 1},
		{figure: "l1/allocations/freshet", limit: 0.001}, // a process has others that allocate
		{figure: "revalidate/large/digest/bytes", limit: 0.05},
		{figure: "revalidate/large/rows/bytes", limit: 0.05},
		{figure: "revalidate/large/rows/stored", limit: 0.5},
		{figure: "stampede/loads", limit: 1},
		{figure: "stampede/p99", limit: 1},
		{figure: "hot/1/stale", limit: 0},
		{figure: "hot/10/stale", limit: 0},
		{figure: "hot/100/stale", limit: 0},
		{figure: "killed/log/stale", limit: 0},
		{figure: "killed/intent/stale", limit: 0},
		{figure: "peers/primary/left/stale", limit: 0},
		{figure: "peers/primary/after/stale", limit: 0},
		{figure: "peers/primary/fresh", limit: 0.9, atLeast: true},
		{figure: "peers/primary/throughput", limit: 0.9, atLeast: true},
		{figure: "peers/primary/tokens/left/stale", limit: 0},
		{figure: "peers/primary/tokens/after/stale", limit: 0},
		{figure: "peers/primary/tokens/fresh", limit: 0.9, atLeast: true},
		{figure: "peers/primary/tokens/throughput", limit: 0.9, atLeast: true},
		{figure: "peers/standby/left/stale", limit: 0},
		{figure: "peers/standby/after/stale", limit: 0},
		{figure: "peers/standby/fresh", limit: 0.9, atLeast: true},
		{figure: "peers/standby/throughput", limit: 0.9, atLeast: true},
		{figure: "peers/standby/tokens/left/stale", limit: 0},
		{figure: "peers/standby/tokens/after/stale", limit: 0},
		{figure: "peers/standby/tokens/fresh", limit: 0.9, atLeast: true},
		{figure: "peers/standby/tokens/throughput", limit: 0.9, atLeast: true},
	}
	for _, rate := range []int{10, 100, 1000} {
		for _, lag := range []string{"5ms", "50ms", "300ms"} {
			all = append(all, bound{figure: fmt.Sprintf("standby/%d/%s/share", rate, lag), limit: 80, atLeast: true})
		}
	}
	return all
}

// unjudged, among the chosen parts, says that the sizes are too small to judge by.
const unjudged = "unjudged"

// conclude prints all figures beside their bounds and returns the exit code.
func (b *bench) conclude(chosen []string) int {
	judged := !slices.Contains(chosen, unjudged)
	var missed []string
	b.printf("\nresult\n")
	w := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	for _, f := range b.figures {
		verdict := "\t"
		if i := slices.IndexFunc(bounds(), func(o bound) bool { return o.figure == f.name }); i >= 0 {
			o := bounds()[i]
			state := "kept"
			switch {
			case !judged:
				state = "not judged: short"
			case !o.kept(f.value):
				state = "MISSED"
				missed = append(missed, f.name)
			}
			verdict = o.String() + "\t" + state
		}
		_, _ = fmt.Fprintf(w, "  %s\t%.4g %s\t%s\n", f.name, f.value, f.unit, verdict)
	}
	_ = w.Flush() // to memory or to a terminal
	for _, o := range bounds() {
		name, _, _ := strings.Cut(o.figure, "/")
		if slices.Contains(chosen, name) && !slices.ContainsFunc(b.figures, func(f figure) bool { return f.name == o.figure }) {
			missed = append(missed, o.figure+" (not measured)")
		}
	}
	switch {
	case len(missed) > 0:
		b.printf("bench: bounds missed: %s\n", strings.Join(missed, ", "))
		return 1
	case !judged:
		b.printf("bench: everything ran; nothing was judged\n")
	default:
		b.printf("bench: every bound was kept\n")
	}
	return 0
}

func median[T cmp.Ordered](values []T) T { return quantile(values, 0.5) }

// quantile returns the value below which the given share of values lies.
func quantile[T cmp.Ordered](values []T, share float64) T {
	var none T
	if len(values) == 0 {
		return none
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(share*float64(len(sorted))), len(sorted)-1)]
}
