// Command bench measures freshet against floors and peers on this machine: as ratios of interleaved runs, because
// absolute figures say more about the machine than about the program. docs/performance.md says what each part means.
//
// It ends with a table of what was measured and exits with 1 when a bound is missed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var code int
	if job := os.Getenv(childVariable); job != "" {
		// An interrupt on the terminal reaches the whole process group; the parent says when to stop.
		stop()
		code = childMain(context.Background(), job)
	} else {
		code = run(ctx, os.Args[1:], os.LookupEnv, os.Stdout)
	}
	stop()
	os.Exit(code) //nolint:forbidigo // this is main
}

// sizes is how much is measured.
type sizes struct {
	rounds int // interleaved runs of drain, and of peers

	transactions int // drain: single-row transactions, and the rows of the one large transaction

	blocks  int // latency: blocks of each side
	samples int // per block
	load    int // background transactions a second

	hitTime time.Duration // per block of a hit measurement
	hits    int           // blocks of each side
	counted int           // reads whose allocations are counted
	held    int           // keys that are held in memory at a time

	httpTime time.Duration // per block of the gateway, whole seconds

	stampedes int // rounds of each scheme

	dependents int // values that one epoch takes out of use

	hotTime time.Duration // per write rate

	standbyTime time.Duration // per write rate and lag
	kills       int           // writers of each scheme
	peerTime    time.Duration // per scheme and round
	peerDelay   time.Duration // between the two deletions of a double delete
	peerLag     time.Duration // of the standby
}

func fullSizes() sizes {
	return sizes{
		rounds: 5, transactions: 200_000,
		blocks: 5, samples: 300, load: 500,
		hits: 9, hitTime: 700 * time.Millisecond, counted: 20_000, held: 50_000,
		httpTime:    2 * time.Second,
		stampedes:   30,
		dependents:  100_000,
		hotTime:     8 * time.Second,
		standbyTime: 6 * time.Second,
		kills:       200,
		peerTime:    2 * time.Second, peerDelay: 500 * time.Millisecond, peerLag: 300 * time.Millisecond,
	}
}

// shortSizes only show that everything runs.
func shortSizes() sizes {
	return sizes{
		rounds: 1, transactions: 2_000,
		blocks: 1, samples: 20, load: 200,
		hits: 1, hitTime: 50 * time.Millisecond, counted: 500, held: 2_000,
		httpTime:    time.Second,
		stampedes:   2,
		dependents:  1_000,
		hotTime:     500 * time.Millisecond,
		standbyTime: 150 * time.Millisecond,
		kills:       3,
		peerTime:    150 * time.Millisecond, peerDelay: 50 * time.Millisecond, peerLag: 50 * time.Millisecond,
	}
}

// part is one subject of measurement.
type part struct {
	name string
	run  func(ctx context.Context, b *bench) error
}

func parts() []part {
	return []part{
		{"drain", drain},
		{"latency", latency},
		{"hit", hit},
		{memoryPart, memory},
		{"demand", demand},
		{"revalidate", revalidate},
		{"many", many},
		{"gateway", gateway},
		{"stampede", stampede},
		{"tags", tags},
		{"hot", hot},
		{"standby", standby},
		{"killed", killed},
		{"peers", peers},
	}
}

// bench is one run of the program.
type bench struct {
	out     io.Writer
	sizes   sizes
	seed    uint64
	servers *servers
	figures []figure
	samples string    // the file to write them to; empty: none
	sampled io.Writer // that file
	part    string    // the one that runs
}

// random is a generator of its own for each use, so that one part's draws do not depend on whether another one ran.
func (b *bench) random(stream uint64) *rand.Rand {
	return rand.New(rand.NewPCG(b.seed, stream)) //nolint:gosec // measures, guards nothing
}

func (b *bench) printf(format string, args ...any) { _, _ = fmt.Fprintf(b.out, format, args...) }

// sample writes one measurement down, as Go's benchmarks write theirs, which benchstat reads: what was measured, by what, and in which unit.
func (b *bench) sample(what, by string, value float64, unit string) {
	if b.sampled != nil {
		by = strings.NewReplacer(" ", "-", "/", "-", ",", "").Replace(by)
		_, _ = fmt.Fprintf(b.sampled, "Benchmark%s/%s/by=%s 1 %g %s\n", strings.ToUpper(b.part[:1])+b.part[1:], what, by, value, unit)
	}
}

// report takes a figure down.
func (b *bench) report(name string, value float64, unit string) {
	b.figures = append(b.figures, figure{name: name, value: value, unit: unit})
}

func run(ctx context.Context, args []string, lookup func(string) (string, bool), out io.Writer) int {
	b, chosen, err := parse(args, lookup, out)
	if err == nil {
		err = b.all(ctx, chosen)
	}
	if err != nil {
		_, _ = fmt.Fprintln(out, "bench:", err)
		return 1
	}
	return b.conclude(chosen)
}

func parse(args []string, lookup func(string) (string, bool), out io.Writer) (*bench, []string, error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(out)
	var names []string
	for _, p := range parts() {
		names = append(names, p.name)
	}
	short := flags.Bool("short", false, "tiny sizes: shows that everything runs, judges nothing")
	which := flags.String("parts", environment(lookup, "BENCH", strings.Join(names, ",")), "what to measure (environment: BENCH)")
	seed := flags.String("seed", environment(lookup, "SEED", "1"), "of the random choices (environment: SEED)")
	samples := flags.String("samples", "", "a file for all measurements of hit, l1, demand, revalidate, many, gateway, stampede and tags, to be read by benchstat -col /by")
	full := fullSizes()
	rounds := flags.Int("rounds", 0, "interleaved runs of drain and peers (default "+strconv.Itoa(full.rounds)+")")
	transactions := flags.Int("transactions", 0, "transactions, or rows of the one transaction, of drain (default "+strconv.Itoa(full.transactions)+")")
	if err := flags.Parse(args); err != nil {
		return nil, nil, err
	}
	if *seed == "" {
		*seed = "1"
	}
	n, err := strconv.ParseUint(*seed, 10, 64)
	if err != nil {
		return nil, nil, fmt.Errorf("read seed: %w", err)
	}
	b := &bench{out: out, sizes: full, seed: n, samples: *samples}
	if *short {
		b.sizes = shortSizes()
	}
	if *rounds > 0 {
		b.sizes.rounds = *rounds
	}
	if *transactions > 0 {
		b.sizes.transactions = *transactions
	}
	chosen := strings.Split(*which, ",")
	for _, name := range chosen {
		if !slices.Contains(names, name) {
			return nil, nil, fmt.Errorf("no part is called %q; there are %s", name, strings.Join(names, ", "))
		}
	}
	if *short {
		chosen = append(chosen, unjudged)
	}
	return b, chosen, nil
}

func environment(lookup func(string) (string, bool), name, otherwise string) string {
	if v, ok := lookup(name); ok && v != "" {
		return v
	}
	return otherwise
}

func (b *bench) all(ctx context.Context, chosen []string) (err error) {
	if b.servers, err = startServers(ctx); err != nil {
		return err
	}
	defer b.servers.close()
	description, err := b.servers.describe(ctx)
	if err != nil {
		return err
	}
	b.printf("%s\nseed %d\n", description, b.seed)
	if b.samples != "" {
		file, err := os.Create(b.samples) //nolint:gosec // whoever measures says where
		if err != nil {
			return fmt.Errorf("write samples: %w", err)
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		b.sampled = file
	}
	for _, p := range parts() {
		if !slices.Contains(chosen, p.name) {
			continue
		}
		b.part = p.name
		b.printf("\n%s\n", p.name)
		began := time.Now()
		if err := p.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		b.printf("  (%.0f s)\n", time.Since(began).Seconds())
	}
	return nil
}
