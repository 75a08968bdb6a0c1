package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/freshet/freshet/internal/localserver"
)

const (
	peerRows    = 300
	peerReaders = 32
	peerWriters = 4
	peerRate    = 400                   // writes a second, all writers together
	peerLoad    = 20 * time.Millisecond // a load takes up to that long after it has read its row
	peerTTL     = 10 * time.Minute      // longer than everything here
	// instances is how many caches of each scheme there are over the one store, as in an application of two processes.
	instances = 2
)

// workload is where loads come from.
type workload struct {
	name string
	lag  time.Duration // of the standby that every second load asks; 0: there is none
}

// peers races the ways to keep a cache against each other: the same readers, writers and slow loads on the same rows.
func peers(ctx context.Context, b *bench) error {
	if err := b.compete(ctx, workload{name: "primary"}, nil); err != nil {
		return fmt.Errorf("primary: %w", err)
	}
	lag := b.sizes.peerLag
	standby, err := localserver.StartStandby(ctx, b.servers.pg, localserver.PostgresOptions{Settings: map[string]string{
		"recovery_min_apply_delay": fmt.Sprintf("%dms", lag.Milliseconds()),
	}})
	if err != nil {
		return err
	}
	err = b.compete(ctx, workload{name: "standby", lag: lag}, standby)
	if err != nil {
		err = fmt.Errorf("standby: %w", err)
	}
	return errors.Join(err, standby.Close())
}

// compete runs every scheme in turn, every second time in the other order.
func (b *bench) compete(ctx context.Context, w workload, standby *localserver.Postgres) error {
	results := map[string][]tally{}
	for round := range b.sizes.rounds {
		turn := schemes(b.sizes)
		if round%2 != 0 {
			slices.Reverse(turn)
		}
		for i, s := range turn {
			name := fmt.Sprintf("peers_%s_%d_%d", w.name, round, i)
			t, err := b.runScheme(ctx, s, w, name, uint64(round), standby)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			results[s.name] = append(results[s.name], t)
		}
	}
	b.tabulate(w, results)
	b.compare("peers/"+w.name+"/", results[freshetScheme], results)
	b.compare("peers/"+w.name+"/tokens/", results[tokensScheme], results)
	return nil
}

// runScheme runs one scheme once, with a database of its own and an empty store.
func (b *bench) runScheme(
	ctx context.Context, s scheme, w workload, name string, stream uint64, standby *localserver.Postgres,
) (t tally, err error) {
	a, err := newArena(ctx, b, name, w, standby, b.random(stream).Uint64())
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, a.leave(context.WithoutCancel(ctx))) }()
	e, err := s.open(ctx, a)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, e.close()) }()
	if _, err := a.race(ctx, e, b.sizes.peerTime/3); err != nil { // the warm-up
		return t, err
	}
	if t, err = a.race(ctx, e, b.sizes.peerTime); err != nil {
		return t, err
	}
	t.first, t.left, err = a.judge(ctx, e, s.late)
	return t, err
}

// of is one figure of all rounds.
func of[T any](rounds []tally, figure func(*tally) T) []T {
	var all []T
	for i := range rounds {
		all = append(all, figure(&rounds[i]))
	}
	return all
}

func total(rounds []tally, figure func(*tally) int) (sum int) {
	for _, n := range of(rounds, figure) {
		sum += n
	}
	return sum
}

func (t *tally) remaining() int      { return t.left }
func (t *tally) hitShare() float64   { return float64(t.hits) / float64(max(t.reads, 1)) }
func (t *tally) freshShare() float64 { return float64(t.fresh) / float64(max(t.reads, 1)) }
func (t *tally) readRate() float64   { return float64(t.reads) / t.took.Seconds() }
func (t *tally) freshRate() float64  { return float64(t.fresh) / t.took.Seconds() }

// tabulate prints what each scheme came to: sums of what must not be, medians of the rest.
func (b *bench) tabulate(w workload, results map[string][]tally) {
	b.printf("  loads from: %s\n", w.name)
	out := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(out, "  scheme\tleft stale\tat first\tafter\tstale, %\thits, %\tfresh, %\treads/s\tfresh hits/s\tCPU: itself\tfollower\tRedis\tPostgreSQL\t")
	for _, s := range schemes(b.sizes) {
		r := results[s.name]
		_, _ = fmt.Fprintf(out, "  %s\t%d\t%d\t%d\t%.2f\t%.1f\t%.1f\t%.0f\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\t\n", s.name,
			total(r, (*tally).remaining),
			total(r, func(t *tally) int { return t.first }),
			total(r, func(t *tally) int { return t.after }),
			100*median(of(r, func(t *tally) float64 { return float64(t.stale) / float64(max(t.reads, 1)) })),
			100*median(of(r, (*tally).hitShare)), 100*median(of(r, (*tally).freshShare)),
			median(of(r, (*tally).readRate)), median(of(r, (*tally).freshRate)),
			median(of(r, func(t *tally) float64 { return t.cpu.self })),
			median(of(r, func(t *tally) float64 { return t.cpu.follower })),
			median(of(r, func(t *tally) float64 { return t.cpu.redis })),
			median(of(r, func(t *tally) float64 { return t.cpu.postgres })))
	}
	_ = out.Flush() // to memory or to a terminal
	b.printf("  stale rows are of %d, CPU is in seconds of %v\n", len(results[freshetScheme])*peerRows, b.sizes.peerTime)
}

// compare reports what is promised of freshet.
func (b *bench) compare(prefix string, us []tally, results map[string][]tally) {
	fresh, throughput := math.Inf(1), math.Inf(1)
	for name, peer := range results {
		if ours(name) {
			continue
		}
		fresh = min(fresh, ratio(us, peer, (*tally).freshShare))
		if total(peer, (*tally).remaining) == 0 {
			throughput = min(throughput, ratio(us, peer, (*tally).readRate))
		}
	}
	b.report(prefix+"left/stale", float64(total(us, func(t *tally) int { return t.first + t.left })), "values stale after everything has settled")
	b.report(prefix+"after/stale", float64(total(us, func(t *tally) int { return t.after })), "reads older than what was applied")
	b.report(prefix+"fresh", fresh, "times the best peer's share of fresh hits")
	b.report(prefix+"throughput", throughput, "times the best peer's that leaves nothing stale (+Inf: none does)")
}

// ratio compares what ran in the same round, since rounds differ by what else the machine did.
func ratio(ours, theirs []tally, figure func(*tally) float64) float64 {
	var ratios []float64
	for i := range ours {
		ratios = append(ratios, figure(&ours[i])/figure(&theirs[i]))
	}
	return median(ratios)
}
