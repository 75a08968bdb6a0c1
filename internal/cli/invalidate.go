package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/freshet/freshet/internal/byhand"
	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/intent"
	"github.com/freshet/freshet/internal/pgload"
)

type invalidateFlags struct {
	nulls             []string
	table, tag, entry string
	all, dry          bool
	wait              time.Duration
}

func (a *app) invalidate() *cobra.Command {
	var flags invalidateFlags
	cmd := a.jsonFlag(&cobra.Command{
		Use:   "invalidate ENTRY [ARG...] | --entry E | --table T | --tag G | --all",
		Short: "Invalidate one key, an entry, what reads a table, what is tied to a tag, or everything",
		Long: "invalidate takes what it names out of the cache, by saying so in the database's log: it is applied like a change of\n" +
			"the rows, in its place among them, and no load that was under way can bring back what was there before.\n" +
			"It waits until the daemon has applied it. One that is stopped does so when it starts.\n" +
			"Arguments follow the order of the entry's key. The role of source.postgres.url (or database.url) writes the log.",
		Example: "  freshet invalidate product 42\n  freshet invalidate page home --null lang\n  freshet invalidate --entry product\n" +
			"  freshet invalidate --table public.products --dry-run\n  freshet invalidate --tag tenant:7\n  freshet invalidate --all --json",
		ValidArgsFunction: a.completeEntry,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := flags.check(args); err != nil {
				return usage(cmd, err)
			}
			return unconnected(a.runInvalidate(cmd.Context(), args, &flags))
		},
	})
	cmd.Flags().StringSliceVar(&flags.nulls, "null", nil, "`names` of parameters that are NULL; they have no ARG")
	cmd.Flags().StringVar(&flags.entry, "entry", "", "every key of the `entry`")
	cmd.Flags().StringVar(&flags.table, "table", "", "every key of the entries that read the `table`, as after a TRUNCATE; with its schema unless that is public")
	cmd.Flags().StringVar(&flags.tag, "tag", "", "every key whose value the code that loaded it tied to the `tag`, of all entries with tags: by_hand")
	cmd.Flags().BoolVar(&flags.all, "all", false, "every key of every entry")
	cmd.Flags().BoolVar(&flags.dry, "dry-run", false, "only say what would be invalidated")
	cmd.Flags().DurationVar(&flags.wait, "wait", 5*time.Second, "how long to wait until it is applied")
	return cmd
}

// check holds that one thing is named.
func (f *invalidateFlags) check(args []string) error {
	given := 0
	for _, is := range []bool{len(args) > 0, f.entry != "", f.table != "", f.tag != "", f.all} {
		if is {
			given++
		}
	}
	switch {
	case given != 1:
		return errors.New("name one thing: ENTRY with its arguments, --entry, --table, --tag or --all")
	case len(f.nulls) > 0 && len(args) == 0:
		return errors.New("--null is for the arguments of ENTRY")
	case f.wait < 0:
		return fmt.Errorf("--wait: %s is negative", f.wait)
	}
	return nil
}

func (a *app) runInvalidate(ctx context.Context, args []string, flags *invalidateFlags) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	logger, err := a.logger(slog.LevelError)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*patience+flags.wait)
	defer cancel()
	s, err := openServers(ctx, c, logger)
	if err != nil {
		return err
	}
	defer s.close()
	what, err := whatOf(ctx, c, s, args, flags, logger)
	if err != nil {
		return err
	}
	source := c.Source.Postgres.URL.Reveal()
	if source == "" {
		source = c.Database.URL.Reveal()
	}
	writer, err := pgload.Open(ctx, source)
	if err != nil {
		return fmt.Errorf("the database whose log is read: %w", err)
	}
	defer writer.Close()
	hand := byhand.Hand{Database: writer, Store: s.store, Declared: c.Declared()}
	done, err := hand.Invalidate(ctx, what, flags.dry, flags.wait)
	switch {
	case errors.Is(err, byhand.ErrEntry), errors.Is(err, byhand.ErrTable), errors.Is(err, byhand.ErrTag):
		return &exitError{code: exitUsage, err: err, try: "freshet explain"}
	case errors.Is(err, pgload.ErrReadOnly):
		return &exitError{code: exitFailure, err: err, try: "name the primary in source.postgres.url"}
	case errors.Is(err, pgload.ErrMayNotEmit):
		return &exitError{code: exitFailure, err: err, try: "GRANT EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, bytea) TO the role of source.postgres.url"}
	case err != nil:
		return fmt.Errorf("invalidate: %w", err)
	}
	return a.printInvalidated(done)
}

func whatOf(ctx context.Context, c *config.Config, s *servers, args []string, flags *invalidateFlags, logger *slog.Logger) (*byhand.What, error) {
	switch {
	case flags.all:
		return &byhand.What{Scope: intent.Everything}, nil
	case flags.entry != "":
		return &byhand.What{Scope: intent.OfEntry, Entry: flags.entry}, nil
	case flags.tag != "":
		return &byhand.What{Scope: intent.OfTags, Tag: flags.tag}, nil
	case flags.table != "":
		table, err := byhand.ParseTable(flags.table)
		if err != nil {
			return nil, &exitError{code: exitUsage, err: fmt.Errorf("--table: %w", err)}
		}
		return &byhand.What{Scope: intent.OfTable, Table: table}, nil
	}
	entry := args[0]
	if err := noSuchEntry(c, entry); err != nil {
		return nil, err
	}
	reader, err := s.reader(c, logger)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	params, err := reader.Params(ctx, entry)
	if err != nil {
		return nil, err
	}
	canonical, err := arguments(params, args[1:], flags.nulls)
	if err != nil {
		try := usageOf("invalidate", entry, params) + ", or freshet invalidate --entry " + entry
		return nil, &exitError{code: exitUsage, err: err, try: try}
	}
	return &byhand.What{Scope: intent.OfKeys, Entry: entry, Args: canonical}, nil
}

func (a *app) printInvalidated(done *byhand.Done) error {
	if a.json {
		return a.printJSON(done)
	}
	var rows [][]string
	switch {
	case done.Key != "":
		rows = append(rows, []string{"key", done.Key})
	case done.Tag != "":
		rows = append(rows, []string{"what is tied to", done.Tag}, []string{"of", join(done.Entries)})
	default:
		rows = append(rows, []string{"every key of", join(done.Entries)})
	}
	switch {
	case done.DryRun:
		rows = append(rows, []string{"dry run", "nothing was invalidated"})
	case done.Applied:
		rows = append(rows, []string{"token", done.Token}, []string{"applied", "yes"})
	default:
		rows = append(rows, []string{"token", done.Token}, []string{"applied", "not yet: " + done.Pending})
	}
	a.printTable(rows)
	return nil
}
