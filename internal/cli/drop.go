package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/pgsource"
)

func (a *app) drop() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "drop",
		Short: "Remove what freshet made: slot, publication, schema and keys; asks first",
		Long: "drop removes the replication slot, the publication, the schema freshet and all keys of the namespace in Redis.\n" +
			"A slot that is tried and forgotten keeps the log until the disk is full. The daemon must be stopped before.",
		Example: "  freshet drop\n  freshet drop --yes",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runDrop(cmd.Context(), yes) },
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func (a *app) runDrop(ctx context.Context, yes bool) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	source := c.Source.Postgres
	conn, err := connect(ctx, "the database", source.URL)
	if err != nil {
		return err
	}
	defer closeConn(ctx, conn)
	var facts postgresFacts
	if err := facts.identify(ctx, conn); err != nil {
		return err
	}
	namespace := c.NamespaceFor(facts.SystemID, facts.Database)
	slot, err := pgsource.SlotState(ctx, conn, source.Slot)
	if err != nil {
		return err
	}
	if slot.ActivePID != 0 {
		return &exitError{
			code: exitFailure, err: fmt.Errorf("slot %q is being read by process %d of the server: a daemon runs", source.Slot, slot.ActivePID),
			try: "stop the daemon, then freshet drop",
		}
	}
	a.out(fmt.Sprintf("in database %s (system %s):\n  replication slot %s%s\n  publication %s\n  schema freshet\nin Redis %s:\n  every key of the namespace %s (f:%s:*)\n",
		facts.Database, facts.SystemID, source.Slot, unlessThere(slot.Exists), source.Publication, c.Regions[0].Redis.URL, namespace, namespace))
	if !yes {
		if err := a.confirm("Remove all of this? [y/N] "); err != nil {
			return err
		}
	}
	return errors.Join(
		dropFromPostgres(ctx, conn, source),
		a.dropFromRedis(ctx, c, namespace),
	)
}

func unlessThere(exists bool) string {
	if exists {
		return ""
	}
	return " (does not exist)"
}

// confirm asks a person; whoever cannot answer has not agreed.
func (a *app) confirm(question string) error {
	a.err(question)
	answer, err := bufio.NewReader(a.Stdin).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	case "":
		if err != nil {
			return &exitError{code: exitUsage, err: errors.New("nobody is there to answer"), try: "freshet drop --yes"}
		}
	}
	return &exitError{code: exitFailure, err: errors.New("nothing was removed")}
}

func dropFromPostgres(ctx context.Context, conn *pgx.Conn, source *config.Postgres) error {
	if err := pgsource.Drop(ctx, conn, source.Slot, source.Publication); err != nil {
		return err
	}
	for _, statement := range []string{`DROP TABLE IF EXISTS freshet.alive`, `DROP SCHEMA IF EXISTS freshet`} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", strings.ToLower(statement), err)
		}
	}
	return nil
}

func (a *app) dropFromRedis(ctx context.Context, c *config.Config, namespace string) error {
	logger, err := a.logger(slog.LevelWarn)
	if err != nil {
		return err
	}
	store, err := openStore(ctx, c, namespace, logger)
	if err != nil {
		return err
	}
	defer store.Close()
	removed, err := store.DropAll(ctx)
	if err != nil {
		return fmt.Errorf("remove the keys: %w", err)
	}
	a.out(fmt.Sprintf("removed, with %s in Redis\n", plural(int(removed), "key")))
	return nil
}
