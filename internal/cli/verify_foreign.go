package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/verify"
)

// foreignFlags are those of verify for keys that freshet does not maintain.
type foreignFlags struct {
	redis, database string
	pattern, query  string
	many            bool
	format, field   string
	ignore          []string
	grace, watch    time.Duration
}

// foreignNames are the flags that say nothing without --pattern.
func foreignNames() []string {
	return []string{"redis", "database", "query", "many", "format", "field", "ignore", "grace", "watch"}
}

func (f *foreignFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.pattern, "pattern", "", "the `keys` that an application maintains, with parameters in braces: 'user:{id}'")
	flags.StringVar(&f.query, "query", "", "the `SELECT` that such a key's value, or that of an --entry which code loads, is the result of, with the parameters as @id")
	flags.StringVar(&f.redis, "redis", "", "`URL` of the Redis with such keys (default: that of the configuration)")
	flags.StringVar(&f.database, "database", "", "connection `URL` of the primary (default: that of the configuration)")
	flags.BoolVar(&f.many, "many", false, "such a value is a list of rows")
	flags.StringVar(&f.format, "format", string(verify.JSON), "of such values: json, text, which is compared with one column, or hash")
	flags.StringVar(&f.field, "field", "", "compare with this `column` of the query alone")
	flags.StringSliceVar(&f.ignore, "ignore", nil, "`fields` of JSON objects that are not compared")
	flags.DurationVar(&f.grace, "grace", time.Second, "how long such a value may differ before it counts as stale")
	flags.DurationVar(&f.watch, "watch", 10*time.Second, "how long such a value that differs is watched")
}

// ofCode are those of them that also say what the values of an entry are that code loads.
func ofCode() []string { return []string{"query", "field", "ignore"} }

// check refuses flags that do not go together.
func (f *foreignFlags) check(cmd *cobra.Command, entries []string) error {
	if f.pattern == "" {
		for _, name := range foreignNames() {
			if cmd.Flags().Changed(name) && (f.query == "" || len(entries) != 1 || !slices.Contains(ofCode(), name)) {
				return fmt.Errorf("--%s is for keys that freshet does not maintain: name them with --pattern; "+
					"--query, --field and --ignore are also for one --entry that code loads", name)
			}
		}
		return nil
	}
	switch {
	case cmd.Flags().Changed("entry") || cmd.Flags().Changed("wait"):
		return errors.New("--entry and --wait are for what freshet maintains, --pattern for what it does not")
	case f.query == "":
		return errors.New("--pattern needs --query, which says what the value of a key is")
	case !verify.Format(f.format).Valid():
		return fmt.Errorf("--format %q is none of json, text and hash", f.format)
	case f.format != string(verify.JSON) && f.many, f.format == string(verify.Text) && len(f.ignore) > 0, f.format == string(verify.Hash) && f.field != "":
		return errors.New("--many is for --format json, --ignore for json and hash, --field for json and text")
	case f.grace <= 0 || f.watch < f.grace:
		return errors.New("--grace must be above 0, and --watch at least as long")
	}
	return nil
}

// verifyForeign looks at keys that freshet does not maintain.
func (a *app) verifyForeign(ctx context.Context, f *verification, sample verify.Sample) error {
	pattern, err := verify.ParsePattern(f.foreign.pattern)
	if err != nil {
		return &exitError{code: exitUsage, err: fmt.Errorf("--%w", err)}
	}
	redis, database := f.foreign.redis, f.foreign.database
	if redis == "" || database == "" {
		c, err := a.load()
		if err != nil {
			return err
		}
		if redis == "" && c.InMemory() {
			return &exitError{code: exitUsage, err: errors.New("--pattern looks at keys in Redis, and the file names none"), try: "add --redis URL"}
		}
		if redis == "" {
			redis = c.Regions[0].Redis.URL.Reveal()
		}
		if database == "" {
			database = c.Database.URL.Reveal()
		}
	}
	loader, err := pgload.Open(ctx, database)
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	defer loader.Close()
	survey, err := redisstore.OpenSurvey(ctx, redis)
	if err != nil {
		return err
	}
	defer survey.Close()
	report, err := verify.RunForeign(ctx, verify.ForeignOptions{
		Keys: survey, Truth: loader, Pattern: pattern, Query: strings.TrimSpace(f.foreign.query), Many: f.foreign.many,
		Format: verify.Format(f.foreign.format), Field: f.foreign.field, Ignore: f.foreign.ignore, Sample: sample,
		Rate: f.rate, Grace: f.foreign.grace, Watch: f.foreign.watch, Progress: a.progressOf("values"),
	})
	switch {
	case errors.Is(err, verify.ErrQuery):
		return &exitError{code: exitUsage, err: fmt.Errorf("--query: %w", err)}
	case err != nil:
		return fmt.Errorf("verify: %w", err)
	}
	return a.verified(report, sample)
}
