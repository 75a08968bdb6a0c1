package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/ddl"
	"github.com/freshet/freshet/internal/pgcatalog"
	"github.com/freshet/freshet/internal/pggate"
	"github.com/freshet/freshet/internal/pgsource"
)

// dropFlags say what of everything stays.
type dropFlags struct{ yes, keepPublication, keepKeys bool }

func (a *app) drop() *cobra.Command {
	var flags dropFlags
	cmd := &cobra.Command{
		Use:   "drop",
		Short: "Remove slot, publication, schema and keys; asks first",
		Long: "drop removes the replication slot, the publication, the event triggers, the schema freshet and all keys of the namespace in Redis.\n" +
			"The publication goes whole, whoever made it and whatever else it publishes: --keep-publication keeps it.\n" +
			"A slot that is tried and forgotten keeps the log until the disk is full. The daemon must be stopped before.\n" +
			"The keys go first: without the slot nothing invalidates them. --keep-keys is for a Redis that is gone for good.",
		Example: "  freshet drop\n  freshet drop --yes\n  freshet drop --keep-publication",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runDrop(cmd.Context(), flags) },
	}
	cmd.Flags().BoolVar(&flags.yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&flags.keepPublication, "keep-publication", false, "leave the publication as it is")
	cmd.Flags().BoolVar(&flags.keepKeys, "keep-keys", false, "leave Redis as it is: readers that still reach it go on hitting what nothing invalidates any more")
	return cmd
}

// releaseWait is how long the server may take to notice that a daemon which was just stopped has gone.
const releaseWait = 3 * time.Second

// released is the state of a slot, of which one that is still read is given a little time to be let go.
func released(ctx context.Context, conn *pgx.Conn, name string) (slot pgsource.SlotInfo, err error) {
	for began := time.Now(); ; {
		slot, err = pgsource.SlotState(ctx, conn, name)
		if err != nil || slot.ActivePID == 0 || time.Since(began) > releaseWait {
			return slot, err
		}
		select {
		case <-time.After(releaseWait / 30):
		case <-ctx.Done():
			return slot, ctx.Err()
		}
	}
}

func (a *app) runDrop(ctx context.Context, flags dropFlags) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	source := c.Source.Postgres
	conn, err := connectSource(ctx, c)
	if err != nil {
		return err
	}
	defer closeConn(ctx, conn)
	var facts postgresFacts
	if err := facts.identify(ctx, conn); err != nil {
		return err
	}
	namespace := c.NamespaceFor(facts.SystemID, facts.Database)
	slot, err := released(ctx, conn, source.Slot)
	if err != nil {
		return err
	}
	if slot.ActivePID != 0 {
		return &exitError{
			code: exitFailure, err: fmt.Errorf("slot %q is being read by process %d of the server: a daemon runs", source.Slot, slot.ActivePID),
			try: "stop the daemon, then freshet drop",
		}
	}
	publication, err := publicationText(ctx, conn, source.Publication, flags.keepPublication)
	if err != nil {
		return err
	}
	triggers, err := pgcatalog.DDL(ctx, conn)
	if err != nil {
		return err
	}
	if err := mayDrop(&triggers); err != nil {
		return err
	}
	a.out(fmt.Sprintf("in database %s (system %s):\n  replication slot %s%s\n%s  schema freshet with its table alive\n%s",
		facts.Database, facts.SystemID, source.Slot, unlessThere(slot.Exists), publication, triggersText(&triggers)))
	keepKeys := flags.keepKeys || c.InMemory() // in the memory of a daemon that does not run there are none
	if !keepKeys {
		a.out(fmt.Sprintf("in Redis %s:\n  every key of the namespace %s (f:%s:*)\n", c.Regions[0].Redis.URL, namespace, namespace))
	}
	if !flags.yes {
		if err := a.confirm("Remove all of this? [y/N] "); err != nil {
			return err
		}
	}
	removed := "removed\n"
	if !keepKeys {
		keys, err := a.dropFromRedis(ctx, c, namespace)
		if err != nil {
			return &exitError{
				code: exitFailure,
				err:  fmt.Errorf("%w; nothing was removed from the database: without the slot nothing would invalidate what is still cached", err),
				try:  "start Redis, then freshet drop; or, for a Redis that is gone for good, freshet drop --keep-keys",
			}
		}
		removed = fmt.Sprintf("removed, with %s in Redis\n", plural(int(keys), "key"))
	}
	if err := dropFromPostgres(ctx, conn, source, flags.keepPublication, triggers.Remove()); err != nil {
		return err
	}
	others, err := dropMark(ctx, conn, pggate.Mark(namespace, source.Slot))
	if err != nil {
		return err
	}
	if others > 0 {
		a.out("left the schema freshet with its table alive, which has rows of other namespaces or slots\n")
	}
	a.out(removed)
	return nil
}

// mayDrop refuses to begin what could not be brought to its end: event triggers belong to a superuser.
func mayDrop(st *ddl.State) error {
	if st.May || len(st.Remove()) == 0 {
		return nil
	}
	return &exitError{
		code: exitFailure, err: fmt.Errorf("role %q may not remove the event triggers, which are a superuser's; nothing was removed", st.Role),
		try: "have a superuser run: " + strings.Join(st.Remove(), "; ") + "; then freshet drop",
	}
}

func triggersText(st *ddl.State) string {
	if len(st.Made) == 0 {
		return ""
	}
	return "  event triggers " + join(st.Made) + "\n"
}

// publicationText is the line that says what of the publication goes.
func publicationText(ctx context.Context, conn *pgx.Conn, name string, keep bool) (string, error) {
	if keep {
		return "", nil
	}
	const query = `
SELECT pg_get_userbyid(p.pubowner)::text,
       ARRAY(SELECT t.schemaname || '.' || t.tablename FROM pg_publication_tables t WHERE t.pubname = p.pubname ORDER BY 1)
  FROM pg_publication p WHERE p.pubname = $1`
	var (
		owner  string
		tables []string
	)
	switch err := conn.QueryRow(ctx, query, name).Scan(&owner, &tables); {
	case errors.Is(err, pgx.ErrNoRows):
		return "  publication " + name + unlessThere(false) + "\n", nil
	case err != nil:
		return "", fmt.Errorf("look at publication %q: %w", name, err)
	}
	const shown = 10
	list := join(tables[:min(len(tables), shown)])
	if len(tables) > shown {
		list += ", ..."
	}
	return fmt.Sprintf("  publication %s, whole, whoever made it (owner %s, %s: %s); --keep-publication keeps it\n",
		name, owner, plural(len(tables), "table"), list), nil
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

func dropFromPostgres(ctx context.Context, conn *pgx.Conn, source *config.Postgres, keep bool, triggers []string) error {
	if keep {
		const dropSlot = `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1`
		if _, err := conn.Exec(ctx, dropSlot, source.Slot); err != nil {
			return fmt.Errorf("drop slot %q: %w", source.Slot, err)
		}
	} else if err := pgsource.Drop(ctx, conn, source.Slot, source.Publication); err != nil {
		return err
	}
	return inTurn(ctx, conn, triggers...)
}

func inTurn(ctx context.Context, conn *pgx.Conn, statements ...string) error {
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", strings.ToLower(statement), err)
		}
	}
	return nil
}

// dropMark removes the daemon's row from freshet.alive, and the table with its schema if no other daemon has one there: others tells.
func dropMark(ctx context.Context, conn *pgx.Conn, mark string) (others int, err error) {
	var there bool
	if err := conn.QueryRow(ctx, `SELECT to_regclass('freshet.alive') IS NOT NULL`).Scan(&there); err != nil {
		return 0, fmt.Errorf("look for freshet.alive: %w", err)
	}
	if there {
		if _, err := conn.Exec(ctx, `DELETE FROM freshet.alive WHERE namespace = $1`, mark); err != nil {
			return 0, fmt.Errorf("remove the daemon's row from freshet.alive: %w", err)
		}
		if err := conn.QueryRow(ctx, `SELECT count(*) FROM freshet.alive`).Scan(&others); err != nil || others > 0 {
			return others, err
		}
	}
	return 0, inTurn(ctx, conn, `DROP TABLE IF EXISTS freshet.alive`, `DROP SCHEMA IF EXISTS freshet`)
}

func (a *app) dropFromRedis(ctx context.Context, c *config.Config, namespace string) (removed int64, err error) {
	logger, err := a.logger(slog.LevelWarn)
	if err != nil {
		return 0, err
	}
	store, err := openStore(ctx, c, namespace, logger)
	if err != nil {
		return 0, err
	}
	defer store.Close()
	if removed, err = store.DropAll(ctx); err != nil {
		return removed, fmt.Errorf("remove the keys: %w", err)
	}
	return removed, nil
}
