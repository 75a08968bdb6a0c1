package cli

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/daemon"
	"github.com/freshet/freshet/internal/pipeline"
)

func (a *app) serve() *cobra.Command {
	var (
		roles  []string
		region string
	)
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the daemon: follow the log, keep the cache fresh, serve the gateway",
		Long: "serve follows the database's log, removes from the cache what each committed transaction affects, and serves\n" +
			"the gateway. It runs until SIGINT or SIGTERM, then answers what it has begun to answer, applies what it has read,\n" +
			"and confirms it to the database. A second signal ends it at once; nothing is lost by that. SIGHUP has it read its file\n" +
			"again, as freshet reload does.",
		Example: "  freshet serve\n  freshet serve --config /etc/freshet.yaml --log-format json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.load()
			if err != nil {
				return err
			}
			if err := checkRoles(c, roles, region); err != nil {
				return usage(cmd, err)
			}
			logger, err := a.logger(slog.LevelInfo)
			if err != nil {
				return err
			}
			reload := make(chan os.Signal, 1)
			signal.Notify(reload, syscall.SIGHUP)
			defer signal.Stop(reload)
			err = daemon.Run(cmd.Context(), daemon.Options{Config: c, Load: a.load, Reload: reload, Logger: logger})
			if errors.Is(err, pipeline.ErrRefused) {
				return &exitError{code: exitUsage, err: err, try: "freshet check"}
			}
			return err
		},
	}
	cmd.Flags().StringSliceVar(&roles, "roles", allRoles(), "what this process does")
	cmd.Flags().StringVar(&region, "region", "", "the `region` that this process serves (default: the only one)")
	return cmd
}

func allRoles() []string { return []string{"source", "apply", "gateway"} }

// checkRoles refuses what this version cannot split or serve.
func checkRoles(c *config.Config, roles []string, region string) error {
	for _, r := range roles {
		if !slices.Contains(allRoles(), r) {
			return fmt.Errorf("--roles: %q is none of %s", r, strings.Join(allRoles(), ", "))
		}
	}
	for _, r := range allRoles() {
		if !slices.Contains(roles, r) {
			return fmt.Errorf("--roles without %s: not supported by this version: roles in different processes", r)
		}
	}
	if region != "" && region != c.RegionName() {
		return fmt.Errorf("--region: the configuration has no region %q", region)
	}
	return nil
}
