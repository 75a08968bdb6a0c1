package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/mend"
	"github.com/freshet/freshet/internal/pgcatalog"
	"github.com/freshet/freshet/internal/plan"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/internal/starter"
)

type initFlags struct {
	database string
	schemas  []string
	force    bool
	show     bool
}

func (a *app) init() *cobra.Command {
	var f initFlags
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write a freshet.yaml to begin with, from a database's catalog",
		Long: "init writes a commented configuration: for each table an entry by its primary key, and for each foreign key a list of the\n" +
			"rows that refer to one row. What freshet would refuse is written as a comment, with the reason and what to do. It reads\n" +
			"the catalog and changes nothing in the database; the file names the database by ${DATABASE_URL}, not by the URL that is given.",
		Example: "  freshet init --database postgres://localhost/shop\n  freshet init --schema public --schema sales\n  freshet init --print | less",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runInit(cmd.Context(), f) },
	}
	cmd.Flags().StringVar(&f.database, "database", "", "connection `string` of the database (default ${DATABASE_URL})")
	cmd.Flags().StringArrayVar(&f.schemas, "schema", nil, "only tables of this `schema`; may be given several times")
	cmd.Flags().BoolVar(&f.force, "force", false, "replace a file that is there")
	cmd.Flags().BoolVar(&f.show, "print", false, "print the file instead of writing it")
	return cmd
}

func (a *app) runInit(ctx context.Context, f initFlags) error {
	if f.database == "" {
		f.database, _ = a.LookupEnv("DATABASE_URL")
	}
	if f.database == "" {
		return &exitError{code: exitUsage, err: errors.New("no database is given"), try: "freshet init --database postgres://user@host:5432/name"}
	}
	if _, err := os.Stat(a.configFile); err == nil && !f.force && !f.show {
		return &exitError{
			code: exitUsage, err: fmt.Errorf("%s is there already", a.configFile),
			try: "freshet init --print, --force to replace it, or --config to write another",
		}
	}
	conn, err := dial(ctx, "the database", "--database", config.URL(f.database))
	if err != nil {
		return err
	}
	defer closeConn(ctx, conn)
	file, err := a.start(ctx, conn, f.schemas)
	if err != nil {
		return err
	}
	if file.Entries+file.Refused+file.Keyless == 0 {
		return &exitError{
			code: exitUsage, err: errors.New("the database has no table that could be cached; nothing was written"),
			try: "create its tables first, or name another database or other schemas",
		}
	}
	if f.show {
		a.out(file.Text)
		return nil
	}
	if err := os.WriteFile(a.configFile, []byte(file.Text), 0o644); err != nil { //nolint:gosec // it holds no secret
		return fmt.Errorf("write the configuration: %w", err)
	}
	a.out(fmt.Sprintf("wrote %s: entries: %d", a.configFile, file.Entries))
	if file.Refused > 0 {
		a.out(fmt.Sprintf(", %d more as comments that say what they lack", file.Refused))
	}
	if file.Keyless > 0 {
		a.out(fmt.Sprintf("; %s without a primary key", plural(file.Keyless, "table")))
	}
	if file.Entries == 0 {
		a.out("\nnext: nothing can be cached yet. Do what the comments say, then freshet init --force\n")
		return nil
	}
	a.out("\nnext: export DATABASE_URL, delete the entries that are not wanted, then freshet check\n")
	return nil
}

// start reads the catalog and writes the text of the file.
func (a *app) start(ctx context.Context, conn *pgx.Conn, schemas []string) (starter.File, error) {
	catalog, err := pgcatalog.Read(ctx, conn)
	if err != nil {
		return starter.File{}, err
	}
	for _, name := range schemas {
		if !hasSchema(catalog, name) {
			return starter.File{}, &exitError{code: exitUsage, err: fmt.Errorf("there is no table in a schema %q", name)}
		}
	}
	keys, err := pgcatalog.ForeignKeys(ctx, conn)
	if err != nil {
		return starter.File{}, err
	}
	words, err := pgcatalog.Keywords(ctx, conn)
	if err != nil {
		return starter.File{}, err
	}
	file := starter.Write(starter.Options{
		Catalog: catalog, ForeignKeys: keys, Keywords: words, Schemas: schemas,
		Compile: func(d rule.Declared) error {
			// What check --fix would mend is not clean, although the entry may be served by a broader rule.
			if _, err := plan.Compile(catalog, d); err != nil && len(mend.Identities(catalog, []rule.Declared{d}, mend.Facts{})) > 0 {
				return err
			}
			compiled, err := plan.Compile(catalog, d, plan.Served()...)
			if err != nil {
				return err
			}
			return pgcatalog.Verify(ctx, conn, compiled.Entry, compiled.Ignored...)
		},
	})
	if conn.IsClosed() {
		return starter.File{}, &exitError{code: exitFailure, err: errors.New("the connection to the database was lost"), try: "freshet init once more"}
	}
	return file, nil
}

func hasSchema(catalog *schema.Catalog, name string) bool {
	for table := range catalog.Tables {
		if table.Schema == name {
			return true
		}
	}
	return false
}
