package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/freshet/freshet/internal/plan"
)

// explained is one entry in the JSON of explain: either its rules, or why there are none.
type explained struct {
	Entry   string        `json:"entry"`
	OK      bool          `json:"ok"`
	Explain *plan.Explain `json:"explain,omitempty"`
	Refused *plan.Error   `json:"refused,omitempty"`
	Error   string        `json:"error,omitempty"`
}

func (a *app) explain() *cobra.Command {
	return a.jsonFlag(&cobra.Command{
		Use:   "explain [ENTRY]",
		Short: "Show which changed rows affect which keys of an entry, and why",
		Long: "explain shows how the changes of each table map to an entry's keys, or why the entry is refused.\n" +
			"It reads the database's catalog and changes nothing. Exit code 2 when an entry is refused.",
		Example:           "  freshet explain\n  freshet explain product --json",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeEntry,
		RunE: func(cmd *cobra.Command, args []string) error {
			only := ""
			if len(args) == 1 {
				only = args[0]
			}
			return a.runExplain(cmd.Context(), only)
		},
	})
}

func (a *app) runExplain(ctx context.Context, only string) error {
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
			one.Explain = &explanation
			if !a.json {
				if i > 0 {
					a.out("\n")
				}
				a.out(explanation.Text() + " version: " + explanation.Version + ", as keys in Redis and freshet status have it\n")
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
