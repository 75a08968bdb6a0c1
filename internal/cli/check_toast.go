package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/pgcatalog"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
)

// identityIsWhole is the first version of PostgreSQL that has the columns of the replica identity in the log of every UPDATE, also where
// they are stored apart and stay as they are.
const identityIsWhole = 140003

// checkApart says which columns that a rule goes by may be missing from the log of an UPDATE, since they are stored apart from their rows.
func (r *checked) checkApart(ctx context.Context, conn *pgx.Conn, entries []planned, tables []schema.Name) {
	// Whoever loads may read the tables, and so what was gathered of them; whoever follows the log need not.
	if loads, err := connect(ctx, r.conf); err == nil {
		defer closeConn(ctx, loads)
		conn = loads
	}
	apart, err := pgcatalog.Apart(ctx, conn, tables)
	if err != nil {
		r.problem("postgres", err.Error(), "", "")
		return
	}
	for _, p := range entries {
		if p.err != nil {
			continue
		}
		for _, f := range leftOutOf(p.compiled.Entry, p.catalog, apart) {
			f.Name = p.name
			r.Notes = append(r.Notes, f)
		}
	}
}

// leftOutOf are findings about columns that the rules of an entry go by, and that an UPDATE which leaves them as they are may not have in the log.
// Under REPLICA IDENTITY FULL the old image has them all.
func leftOutOf(e *rule.Entry, catalog *schema.Catalog, apart map[schema.Name][]string) (findings []finding) {
	said := map[string]bool{}
	say := func(t *schema.Table, column, why, do string) {
		f := finding{Area: "entry", What: fmt.Sprintf("updates of %s do not always say what %s is", t.Name, column), Why: why, Do: do}
		if !said[f.What] {
			said[f.What] = true
			findings = append(findings, f)
		}
	}
	for i := range e.Rules {
		one := &e.Rules[i]
		name := schema.Name{Schema: one.Schema, Name: one.Table}
		t := catalog.Tables[name]
		if t == nil || t.Identity == change.IdentityFull {
			continue
		}
		carried := func(column string) bool {
			return !slices.Contains(apart[name], column) || catalog.ServerVersion >= identityIsWhole && slices.Contains(t.IdentityCols, column)
		}
		full := fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL, which has it in each old row (docs/queries.md says what that costs in log)", sqlName(name))
		for _, column := range one.Needs() {
			if slices.Contains(t.IdentityCols, column) && !carried(column) {
				say(t, column, fmt.Sprintf("%s is large enough to be stored apart from its row (TOAST), and PostgreSQL before 14.3 leaves it out of the log while it stays as it is, "+
					"though it belongs to the replica identity: each such update takes all values of the entry out of use", column),
					"upgrade to PostgreSQL 14.3 or newer, or "+full)
			}
		}
		for _, where := range one.Where {
			if !carried(where.Column) {
				say(t, where.Column, fmt.Sprintf("%s may be stored apart from its row (TOAST), and is then left out of the log while it stays as it is: "+
					"such a row counts as one that the query takes, and its key is loaded again where it need not be. Nothing stale is served for it", where.Column),
					fmt.Sprintf("nothing, if that is seldom; %s; or ALTER TABLE %s ALTER COLUMN %s SET STORAGE MAIN, for values that are stored from then on",
						full, sqlName(name), sqlIdentifier(where.Column)))
			}
		}
	}
	return findings
}

func sqlName(name schema.Name) string { return pgx.Identifier{name.Schema, name.Name}.Sanitize() }

func sqlIdentifier(name string) string { return pgx.Identifier{name}.Sanitize() }
