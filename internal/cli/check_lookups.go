package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet/freshet/internal/rule"
)

// checkLookUps judges whether the role that follows the log, which keys are looked up with, may read what that reads. Otherwise every
// change of a table whose keys are looked up would drop every key of the entry.
func (r *checked) checkLookUps(ctx context.Context, conn *pgx.Conn, entries []planned) {
	at := slices.IndexFunc(r.Roles, func(f *roleFacts) bool { return f.Address == "source.postgres.url" })
	if at < 0 {
		return
	}
	for _, p := range entries {
		if p.err != nil || !slices.ContainsFunc(p.compiled.Entry.Rules, func(one rule.Rule) bool { return one.Lookup != nil }) {
			continue
		}
		var statements []string
		for i := range p.compiled.Entry.Rules {
			if l := p.compiled.Entry.Rules[i].Lookup; l != nil {
				statements = append(statements, l.SQL)
			}
		}
		r.checkSelect(ctx, conn, r.Roles[at], p, "has keys looked up in it when a row has changed", statements)
		for i := range p.compiled.Entry.Rules {
			if one := &p.compiled.Entry.Rules[i]; one.Lookup != nil {
				r.checkLookUpIndexes(ctx, conn, p, one)
			}
		}
	}
}

// checkLookUpIndexes judges whether a look-up can go from row to row by indexes. Where PostgreSQL reads a table as a whole though it is told
// not to, none fits. Without being told it reads small tables so anyway, and they may grow.
func (r *checked) checkLookUpIndexes(ctx context.Context, conn *pgx.Conn, p planned, one *rule.Rule) {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, setting := range []string{"enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin"} {
			if _, err := tx.Exec(ctx, "SET LOCAL "+setting+" = off"); err != nil {
				return err
			}
		}
		top, err := explainLookUp(ctx, tx, one.Lookup)
		if err != nil {
			return err
		}
		for _, table := range readWhole(top) {
			r.note("postgres", fmt.Sprintf("entry %s: each change of %s.%s reads table %q as a whole, to look keys up", p.name, one.Schema, one.Table, table),
				"no index has what the tables are joined by; a look-up that takes longer than two seconds drops every key of the entry",
				"CREATE INDEX CONCURRENTLY on the columns by which the query joins "+table+" (freshet explain "+p.name+" shows the look-up)")
		}
		return nil
	})
	if server, ok := errors.AsType[*pgconn.PgError](err); ok && server.Code == "42501" {
		return // what the role may not read is said already
	}
	if err != nil {
		r.problem("postgres", fmt.Sprintf("entry %s: look at a look-up's plan: %v", p.name, err), "", "")
	}
}

// readWhole are the tables of a plan that are not reached by an equality in an index.
func readWhole(node map[string]any) (tables []string) {
	below, _ := node["Plans"].([]any)
	for _, one := range below {
		if child, ok := one.(map[string]any); ok {
			tables = append(tables, readWhole(child)...)
		}
	}
	table, ok := node["Relation Name"].(string)
	condition, _ := node["Index Cond"].(string)
	if ok && !strings.Contains(condition, " = ") && !slices.Contains(tables, table) {
		tables = append(tables, table)
	}
	return tables
}
