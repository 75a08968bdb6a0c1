package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/verify"
)

// verification is what the flags of verify say.
type verification struct {
	entries []string
	sample  string
	seed    uint64
	rate    float64
	wait    time.Duration
	timeout time.Duration
	foreign foreignFlags
}

func (a *app) verify() *cobra.Command {
	var f verification
	cmd := a.jsonFlag(&cobra.Command{
		Use:   "verify",
		Short: "Compare what is cached with the database",
		Long: "verify reads cached values and loads each of them anew from the database. A value that differs is a violation only\n" +
			"if Redis says that the change was applied, and the value stays nevertheless; until then it is in flight.\n" +
			"It writes nothing, neither to Redis nor to the database, and needs no daemon but for judging what differs.\n\n" +
			"With --pattern it looks at keys that freshet does not maintain, and needs neither a daemon nor, with --redis and\n" +
			"--database, a configuration: what is in them is compared with the result of --query, and a value is stale when it\n" +
			"differs and stays so for longer than --grace. With --query and one --entry that application code loads, the values of\n" +
			"that entry are compared with the query, as JSON.\n\n" +
			"Exit codes: 0 nothing is stale, 3 a violation, 1 it could not be done, or something could not be decided.",
		Example: "  freshet verify\n  freshet verify --sample 1000 --json\n  freshet verify --entry product --sample 5% --rate 200\n" +
			"  freshet verify --entry total --query 'SELECT count(*) AS lines FROM lines WHERE order_id = @order_id'\n" +
			"  freshet verify --redis redis://localhost:6379 --database \"$DATABASE_URL\" --pattern 'user:{id}' \\\n" +
			"    --query 'SELECT id, name, email FROM users WHERE id = @id' --ignore cached_at\n" +
			"  freshet verify --redis redis://localhost:6379 --database \"$DATABASE_URL\" --pattern 'stock:{sku}:{shop}' \\\n" +
			"    --query 'SELECT count FROM stock WHERE sku = @sku AND shop_id = @shop' --format text --sample 10000",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("seed") {
				f.seed = rand.Uint64() //nolint:gosec // it chooses a sample
			}
			return unconnected(a.runVerify(cmd, &f))
		},
	})
	flags := cmd.Flags()
	flags.StringSliceVar(&f.entries, "entry", nil, "only these `entries`")
	flags.StringVar(&f.sample, "sample", "", "only so many values, at random: a number, or a share like 5% (default: all)")
	flags.Uint64Var(&f.seed, "seed", 0, "`number` that chooses the sample (default: a random one)")
	flags.Float64Var(&f.rate, "rate", 1000, "values per second; 0: as many as possible")
	flags.DurationVar(&f.wait, "wait", 10*time.Second, "how long the daemon may take to apply a change, before a value that lacks it is left undecided")
	flags.DurationVar(&f.timeout, "timeout", 0, "how long all of it may take (default: no limit)")
	f.foreign.register(cmd)
	return cmd
}

var errTimeIsOver = errors.New("the time that --timeout gives is over")

func (a *app) runVerify(cmd *cobra.Command, f *verification) error {
	ctx := cmd.Context()
	sample, err := verify.ParseSample(f.sample, f.seed)
	switch {
	case err != nil:
		return &exitError{code: exitUsage, err: fmt.Errorf("--sample: %w", err)}
	case f.rate < 0, f.wait <= 0, f.timeout < 0:
		return &exitError{code: exitUsage, err: errors.New("--rate and --timeout cannot be below 0, and --wait must be above 0")}
	}
	if err := f.foreign.check(cmd, f.entries); err != nil {
		return usage(cmd, err)
	}
	if f.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, f.timeout, errTimeIsOver)
		defer cancel()
	}
	run := a.verifyStore
	if f.foreign.pattern != "" {
		run = a.verifyForeign
	}
	err = run(ctx, f, sample)
	if _, said := errors.AsType[*exitError](err); err != nil && !said && errors.Is(context.Cause(ctx), errTimeIsOver) {
		return errTimeIsOver // before it could begin
	}
	return err
}

// verifyStore looks at what freshet itself has cached.
func (a *app) verifyStore(ctx context.Context, f *verification, sample verify.Sample) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	var queries map[string]verify.Query
	if f.foreign.query != "" {
		queries = map[string]verify.Query{f.entries[0]: {
			SQL: strings.TrimSpace(f.foreign.query), Field: f.foreign.field, Ignore: f.foreign.ignore,
		}}
	}
	logger, err := a.logger(slog.LevelError)
	if err != nil {
		return err
	}
	o, done, err := openVerify(ctx, c, logger)
	if err != nil {
		return err
	}
	defer done()
	o.Entries, o.Queries, o.Sample, o.Rate, o.Wait, o.Progress = f.entries, queries, sample, f.rate, f.wait, a.progressOf("values")
	report, err := verify.Run(ctx, o)
	switch {
	case errors.Is(err, verify.ErrNoEntry): // one that the file does not declare may still be served
		return &exitError{code: exitUsage, err: err, try: "one of: " + join(c.Names())}
	case errors.Is(err, verify.ErrQuery):
		return &exitError{code: exitUsage, err: fmt.Errorf("--query: %w", err)}
	case errors.Is(err, verify.ErrNoStore):
		return &exitError{code: exitFailure, err: err, try: "freshet status"}
	case err != nil:
		return fmt.Errorf("verify: %w", err)
	}
	return a.verified(report, sample)
}

// openVerify opens what is compared: a store in Redis, or the daemon's own, and the database.
func openVerify(ctx context.Context, c *config.Config, logger *slog.Logger) (o verify.Options, done func(), err error) {
	if c.InMemory() {
		m, err := openMemory(ctx, c)
		if err != nil {
			return o, nil, err
		}
		loader, err := pgload.Open(ctx, c.Database.URL.Reveal())
		if err != nil {
			return o, nil, fmt.Errorf("database: %w", err)
		}
		return verify.Options{Namespace: m.said.Namespace, Store: m, Truth: loader}, loader.Close, nil
	}
	s, err := openServers(ctx, c, logger)
	if err != nil {
		return o, nil, err
	}
	survey, err := s.store.Survey(ctx)
	if err != nil {
		s.close()
		return o, nil, fmt.Errorf("region %s: %w", c.RegionName(), err)
	}
	return verify.Options{Namespace: s.namespace, Store: survey, Truth: s.loader}, func() { survey.Close(); s.close() }, nil
}

// progressOf prints how far a long run has come.
func (a *app) progressOf(things string) func(*verify.Report) {
	return func(r *verify.Report) {
		t := &r.Total
		a.err(fmt.Sprintf("%d %s checked after %s: %d fresh, %d in flight, %d undecided, %d violations\n",
			t.Checked, things, short(time.Duration(r.Seconds*float64(time.Second))), t.Fresh, t.InFlight, t.Undecided, t.Violations))
	}
}

// verified prints a report, and says by the exit code what it means.
func (a *app) verified(r *verify.Report, sample verify.Sample) error {
	if a.json {
		if err := a.printJSON(r); err != nil {
			return err
		}
	} else {
		a.printVerified(r, sample)
	}
	switch {
	case r.Total.Violations > 0:
		return &exitError{code: exitFound} // the report says what
	case r.Stopped != "":
		return &exitError{code: exitFailure, err: fmt.Errorf("verify ended early: %s", r.Stopped)}
	case r.Total.Undecided > 0:
		return &exitError{code: exitFailure, err: fmt.Errorf("%s could not be decided", plural(r.Total.Undecided, "value")), try: "freshet status"}
	}
	return nil
}

func (a *app) printVerified(r *verify.Report, sample verify.Sample) {
	a.printCounts(r)
	a.out("\n" + freshText(r) + "\n")
	if sample != (verify.Sample{}) {
		a.out(fmt.Sprintf("a sample: --seed %d takes the same keys again\n", sample.Seed))
	}
	for _, reason := range slices.Sorted(maps.Keys(r.Reasons)) {
		a.out(fmt.Sprintf("undecided (%d): %s\n", r.Reasons[reason], reason))
	}
	a.printBuckets("for how long values were seen to differ", r.Differed)
	a.printBuckets("violations, by the time since they were stored", r.Ages)
	for _, cause := range slices.Sorted(maps.Keys(r.Causes)) {
		a.out(fmt.Sprintf("violations, because of %s: %d\n", cause, r.Causes[cause]))
	}
	for i := range r.Findings {
		a.printFinding(&r.Findings[i])
	}
}

// printCounts prints a line for each entry. What is usually zero has a column only when it is not.
func (a *app) printCounts(r *verify.Report) {
	columns := []struct {
		name   string
		of     func(c *verify.Counts) int
		always bool
	}{
		{"checked", func(c *verify.Counts) int { return c.Checked }, true},
		{"fresh", func(c *verify.Counts) int { return c.Fresh }, true},
		{"in flight", func(c *verify.Counts) int { return c.InFlight }, true},
		{"reordered", func(c *verify.Counts) int { return c.Reordered }, false},
		{"undecided", func(c *verify.Counts) int { return c.Undecided }, true},
		{"violations", func(c *verify.Counts) int { return c.Violations }, true},
		{"not verifiable", func(c *verify.Counts) int { return c.Unverifiable }, false},
		{"not readable", func(c *verify.Counts) int { return c.Unreadable }, false},
		{"without TTL", func(c *verify.Counts) int { return c.WithoutTTL }, false},
	}
	row := func(first string, cell func(name string, of func(c *verify.Counts) int) string) []string {
		cells := []string{first}
		for _, c := range columns {
			if c.always || c.of(&r.Total) > 0 {
				cells = append(cells, cell(c.name, c.of))
			}
		}
		return cells
	}
	counts := func(c *verify.Counts) func(string, func(*verify.Counts) int) string {
		return func(_ string, of func(*verify.Counts) int) string { return strconv.Itoa(of(c)) }
	}
	rows := [][]string{row("entry", func(name string, _ func(*verify.Counts) int) string { return name })}
	for i := range r.Entries {
		rows = append(rows, row(r.Entries[i].Entry, counts(&r.Entries[i])))
	}
	if len(r.Entries) != 1 {
		rows = append(rows, row("total", counts(&r.Total)))
	}
	a.printTable(rows)
}

// freshText is the share of fresh values, in words.
func freshText(r *verify.Report) string {
	took := short(time.Duration(r.Seconds * float64(time.Second)))
	switch {
	case r.FreshShare == nil:
		return "nothing was judged, in " + took
	case r.Nines == nil:
		return "all of the values that were judged were fresh, in " + took
	}
	return fmt.Sprintf("%.6g %% of the values that were judged were fresh: %.1f nines, in %s", 100**r.FreshShare, *r.Nines, took)
}

// printBuckets prints a histogram, unless it is empty.
func (a *app) printBuckets(title string, list []verify.Bucket) {
	var parts []string
	lower := ""
	for _, b := range list {
		name := "above " + lower
		if b.UpTo != nil {
			lower = short(time.Duration(*b.UpTo * float64(time.Second)))
			name = "up to " + lower
		}
		if b.Count > 0 {
			parts = append(parts, fmt.Sprintf("%s: %d", name, b.Count))
		}
	}
	if len(parts) > 0 {
		a.out(title + ": " + strings.Join(parts, ", ") + "\n")
	}
}

func (a *app) printFinding(f *verify.Finding) {
	orNone := func(text *string) string {
		if text == nil {
			return "(no such row)"
		}
		return *text
	}
	ttl := "never expires"
	if f.TTL != nil {
		ttl = "expires in " + short(time.Duration(*f.TTL*float64(time.Second)))
	}
	a.out("\nviolation: " + f.Key + "\n")
	rows := [][]string{{"  cached", orNone(f.Cached)}, {"  database", orNone(f.Database)}}
	if f.Stamp != "" {
		rows = append(rows, []string{"  stamp", f.Stamp})
	}
	if !f.Filled.IsZero() {
		rows = append(rows, []string{"  stored", short(time.Duration(f.Age*float64(time.Second))) + " ago"})
	}
	rows = append(rows, []string{"  expiry", ttl}, []string{"  seen", "differing for " + short(time.Duration(f.Seen*float64(time.Second)))})
	a.printTable(rows)
}
