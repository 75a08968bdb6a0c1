package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/freshet/freshet/internal/demo"
)

func (a *app) demo() *cobra.Command {
	o := demo.Options{Stdout: a.Stdout, Stderr: a.Stderr}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show on a real PostgreSQL and Redis what keeps fresh and what does not",
		Long: "demo starts a private PostgreSQL and a private Redis with a shop in it, runs the daemon, breaks things on purpose,\n" +
			"measures what readers see, and prints it as a table (docs/demo.md). Then it keeps serving until it is interrupted.\n" +
			"Exit code 1 when a step did not hold.",
		Example: "  freshet demo\n  freshet demo --once --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Executable, err = os.Executable(); err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			ok, err := demo.Run(cmd.Context(), o)
			if err == nil && !ok {
				return &exitError{code: exitFailure} // the report says which step
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Listen, "listen", "", "`address` of the gateway (default: a free port on the loopback address)")
	flags.BoolVar(&o.Once, "once", false, "tell the story once and end")
	flags.BoolVar(&o.JSON, "json", false, "print the report as JSON (docs/demo.md)")
	flags.BoolVar(&o.Keep, "keep", false, "keep the configuration, the log and the servers' data")
	cmd.AddCommand(a.plainWriter())
	return cmd
}

// plainWriter is the process that the demo kills.
func (a *app) plainWriter() *cobra.Command {
	var (
		database, redis, price string
		id                     int64
	)
	cmd := &cobra.Command{
		Use:    demo.PlainWriterCommand,
		Short:  "Write a price as cache-aside code does, and wait between COMMIT and DEL",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return demo.PlainWrite(cmd.Context(), a.Stdout, database, redis, id, price)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&database, "database", "", "connection `URL`")
	flags.StringVar(&redis, "redis", "", "connection `URL`")
	flags.Int64Var(&id, "id", 0, "product")
	flags.StringVar(&price, "price", "", "its new price")
	return cmd
}
