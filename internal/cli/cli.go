// Package cli is the freshet command: one file for each subcommand. stdout carries the result, stderr logs and errors.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/freshet/freshet/internal/config"
)

// Process is what a command sees of the process that it runs in.
type Process struct {
	Args      []string // without the program's name
	LookupEnv func(string) (string, bool)
	Stdin     io.Reader
	Stdout    io.Writer
	Stderr    io.Writer
}

// OS is the real process.
func OS() Process {
	return Process{Args: os.Args[1:], LookupEnv: os.LookupEnv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
}

// The exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2 // usage or configuration
	exitFound   = 3 // a check found something
)

// app is what all commands share.
type app struct {
	Process
	configFile string
	logFormat  string
	logLevel   string
	json       bool
}

// Run runs a command and returns its exit code.
func Run(ctx context.Context, p Process) int {
	a := &app{Process: p}
	root := a.root() //nolint:contextcheck // each command gets it from cobra
	root.SetArgs(p.Args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	return a.report(err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "freshet",
		Short: "Keeps caches of PostgreSQL data in Redis fresh by following the database's log",
		Long: "freshet keeps caches of PostgreSQL data in Redis fresh by following the database's own log.\n\n" +
			"Exit codes: 0 ok, 1 failure, 2 usage or configuration, 3 a check found something.",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(usage)
	flags := root.PersistentFlags()
	flags.StringVar(&a.configFile, "config", config.DefaultFile, "configuration `file`")
	flags.StringVar(&a.logFormat, "log-format", "text", "format of the log on stderr: text or json")
	flags.StringVar(&a.logLevel, "log-level", "", "debug, info, warn or error (default info for serve, else warn)")
	root.AddCommand(
		a.init(), a.serve(), a.reload(), a.check(), a.explain(), a.get(), a.trace(), a.invalidate(), a.status(), a.verify(), a.drop(), a.demo(), a.config(), a.version(),
	)
	for _, cmd := range all(root) {
		if cmd.Args != nil {
			cmd.Args = usageArgs(cmd.Args)
		}
	}
	return root
}

// all are a command and those below it.
func all(cmd *cobra.Command) []*cobra.Command {
	list := []*cobra.Command{cmd}
	for _, child := range cmd.Commands() {
		list = append(list, all(child)...)
	}
	return list
}

// jsonFlag gives a reading command --json.
func (a *app) jsonFlag(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&a.json, "json", false, "print JSON (docs/json.md)")
	return cmd
}

// load reads the configuration.
func (a *app) load() (*config.Config, error) {
	c, err := config.Load(a.configFile, a.LookupEnv)
	if err != nil {
		return nil, &exitError{code: exitUsage, err: err}
	}
	return c, nil
}

// logger writes to stderr, from the given level up unless a flag says another.
func (a *app) logger(level slog.Level) (*slog.Logger, error) {
	if a.logLevel != "" {
		if err := level.UnmarshalText([]byte(a.logLevel)); err != nil {
			return nil, &exitError{code: exitUsage, err: fmt.Errorf("--log-level %q is none of debug, info, warn, error", a.logLevel)}
		}
	}
	options := &slog.HandlerOptions{Level: level}
	switch a.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(a.Stderr, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(a.Stderr, options)), nil
	}
	return nil, &exitError{code: exitUsage, err: fmt.Errorf("--log-format %q is neither text nor json", a.logFormat)}
}

// exitError decides the exit code, and what to try next.
type exitError struct {
	code int
	err  error // nil: the command has said it all
	try  string
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// tryOf is what an error says to try, or nothing.
func tryOf(err error) string {
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.try
	}
	return ""
}

// usage is an error in how a command was called.
func usage(cmd *cobra.Command, err error) error {
	return &exitError{code: exitUsage, err: err, try: cmd.CommandPath() + " --help"}
}

func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usage(cmd, err)
		}
		return nil
	}
}

// report prints an error, and what to try, and returns the exit code.
func (a *app) report(err error) int {
	code, try := exitFailure, ""
	if exit, ok := errors.AsType[*exitError](err); ok {
		code, try = exit.code, exit.try
		if exit.err == nil {
			return code
		}
		err = exit.err
	}
	if several := config.Errors(err); len(several) > 0 {
		for _, e := range several {
			message := e.Summary()
			if e.Excerpt != "" {
				message += "\n" + e.Excerpt
			}
			a.complain(message, e.Hint)
		}
		return code
	}
	if refused := refusals(err); len(refused) > 0 {
		for _, r := range refused {
			a.complain(r.text, r.try)
		}
		return max(code, exitUsage)
	}
	a.complain(err.Error(), try)
	return code
}

func (a *app) complain(message, try string) {
	text := "Error: " + strings.TrimRight(message, "\n") + "\n"
	if try != "" {
		text += "Try: " + try + "\n"
	}
	a.err(text)
}

// out writes to stdout. A reader that went away ends the command by its own signal.
func (a *app) out(text string) { _, _ = io.WriteString(a.Stdout, text) }

func (a *app) err(text string) { _, _ = io.WriteString(a.Stderr, text) }
