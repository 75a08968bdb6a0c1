package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/freshet/freshet/internal/plan"
	"github.com/freshet/freshet/internal/whatif"
)

// explained is one entry in the JSON of explain: either its rules, or why there are none.
type explained struct {
	Entry   string        `json:"entry"`
	OK      bool          `json:"ok"`
	Explain *plan.Explain `json:"explain,omitempty"`
	FanOut  []fanOut      `json:"fan_out,omitempty"`
	Refused *plan.Error   `json:"refused,omitempty"`
	Error   string        `json:"error,omitempty"`
}

func (a *app) explain() *cobra.Command {
	event := ""
	cmd := a.jsonFlag(&cobra.Command{
		Use:   "explain [ENTRY]",
		Short: "Show which changed rows affect which keys of an entry, and why",
		Long: "explain shows how the changes of each table map to an entry's keys, or why the entry is refused.\n" +
			"With --event it says which keys one change affects: a table, INSERT, UPDATE, DELETE or TRUNCATE, and columns; col=value has\n" +
			"one value, col: old -> new two; names and values are quoted as in SQL where need be.\n" +
			"Keys that the row reaches through other tables are looked up in the database, as they are now.\n" +
			"It reads the database's catalog and statistics, and changes nothing. Exit code 2 when an entry is refused.",
		Example:           "  freshet explain\n  freshet explain product --json\n  freshet explain --event 'users UPDATE id=7 team_id: 1 -> 2'",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeEntry,
		RunE: func(cmd *cobra.Command, args []string) error {
			only := ""
			if len(args) == 1 {
				only = args[0]
			}
			var change *whatif.Event
			if cmd.Flags().Changed("event") {
				var err error
				if change, err = whatif.Parse(event); err != nil {
					return inEvent(err)
				}
			}
			return a.runExplain(cmd.Context(), only, change)
		},
	})
	cmd.Flags().StringVar(&event, "event", "", "a `change` to answer for, such as 'users UPDATE id=7 team_id: 1 -> 2'")
	return cmd
}

func (a *app) runExplain(ctx context.Context, only string, change *whatif.Event) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	if only != "" {
		if err := noSuchEntry(c, only); err != nil {
			return err
		}
	}
	conn, err := connect(ctx, c)
	if err != nil {
		return err
	}
	defer closeConn(ctx, conn)
	entries, err := planEntries(ctx, conn, c, only)
	if err != nil {
		return err
	}
	if change != nil {
		return a.runEvent(ctx, conn, change, entries)
	}
	estimates, err := fanOuts(ctx, conn, entries)
	if err != nil {
		return err
	}
	var (
		list    = []explained{}
		refused []error
	)
	for i, p := range entries {
		one := explained{Entry: p.name, OK: p.err == nil}
		if p.err != nil {
			refused = append(refused, p.err)
			one.Error = p.err.Error()
			if e, ok := errors.AsType[*plan.Error](p.err); ok {
				one.Refused = e
			}
		} else {
			explanation := p.compiled.Explain()
			e := c.Entries[p.name]
			if v := e.Vain(p.compiled.Entry.Rules); v != nil {
				explanation.Warnings = append(explanation.Warnings, v.What()+": "+v.Why()+"; "+v.Do())
			}
			one.Explain, one.FanOut = &explanation, estimates[p.name]
			if !a.json {
				if i > 0 {
					a.out("\n")
				}
				a.out(explanation.Text())
				a.printFanOut(one.FanOut)
				a.out(" version: " + explanation.Version + ", as keys in Redis and freshet status have it\n")
			}
		}
		list = append(list, one)
	}
	if a.json {
		if err := a.printJSON(list); err != nil {
			return err
		}
	}
	if len(refused) > 0 {
		return &exitError{code: exitUsage, err: errors.Join(refused...)}
	}
	return nil
}

// completeEntry offers the names of entries to the shell.
func (a *app) completeEntry(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	c, err := a.load()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.Names(), cobra.ShellCompDirectiveNoFileComp
}
