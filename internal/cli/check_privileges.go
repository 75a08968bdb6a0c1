package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet/freshet/internal/plan"
)

// checkSelect judges whether a role may run the statements of an entry. PostgreSQL says whether it may: a view's tables are read with
// the rights of the view's owner, and a function has a privilege of its own. What it lacks is then found by looking.
func (r *checked) checkSelect(ctx context.Context, conn *pgx.Conn, loads *roleFacts, p planned, does string, statements []string) {
	said, known := barred(ctx, conn, statements)
	if known && said == "" {
		return
	}
	tables, views := p.compiled.Tables, p.compiled.Entry.Views
	if known && len(views) > 0 { // only what PostgreSQL names: of the tables of a view nothing need be lacking
		for _, v := range views {
			tables = append(slices.Clip(tables), plan.TableExplain{Schema: v.Schema, Table: v.Name})
		}
		tables = slices.DeleteFunc(slices.Clone(tables), func(t plan.TableExplain) bool {
			return !names(said, t.Table) && !names(said, t.Schema)
		})
	}
	problems := len(r.Problems)
	r.lackTables(ctx, conn, loads, tables, fmt.Sprintf("entry %s %s", p.name, does))
	role := pgx.Identifier{loads.Role}.Sanitize()
	for _, f := range p.compiled.Entry.Functions {
		schemaName, name, _ := strings.Cut(f, ".")
		if known && len(r.Problems) == problems && names(said, name) {
			r.lack(loads, fmt.Sprintf("role %q may not call %s()", loads.Role, f), fmt.Sprintf("entry %s calls it", p.name),
				"GRANT EXECUTE ON FUNCTION "+pgx.Identifier{schemaName, name}.Sanitize()+" TO "+role)
		}
	}
	if known && len(r.Problems) == problems {
		what := fmt.Sprintf("role %q may not run what entry %s is loaded by: %s", loads.Role, p.name, said)
		loads.Lacks = append(loads.Lacks, what)
		r.problem("postgres", what, "its readers get an error", "grant the role what that names")
	}
}

// names reports that a text has the name in it, and not as a part of another one.
func names(text, name string) bool {
	part := func(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) }
	for from := 0; ; {
		at := strings.Index(text[from:], name)
		if at < 0 || name == "" {
			return false
		}
		before, _ := utf8.DecodeLastRuneInString(text[:from+at])
		after, _ := utf8.DecodeRuneInString(text[from+at+len(name):])
		if !part(before) && !part(after) {
			return true
		}
		from += at + len(name)
	}
}

// barred asks PostgreSQL whether it would run the statements, and returns what it says of the first that it would not for lack of a
// privilege. It is not known where one fails for another reason.
func barred(ctx context.Context, conn *pgx.Conn, statements []string) (said string, known bool) {
	for _, sql := range statements {
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "PREPARE freshet_check AS "+sql); err != nil {
				return err
			}
			err := pgx.BeginFunc(ctx, tx, func(point pgx.Tx) error { return explainPrepared(ctx, point) })
			// A prepared statement outlives its transaction, and the session may be a pooler's.
			_, left := tx.Exec(ctx, "DEALLOCATE freshet_check")
			return errors.Join(err, left)
		})
		if server, ok := errors.AsType[*pgconn.PgError](err); ok && server.Code == "42501" {
			return server.Message, true
		}
		if err != nil {
			return "", false
		}
	}
	return "", true
}

// explainPrepared has PostgreSQL begin to run the prepared statement for any arguments, and so look at privileges, and not go on.
func explainPrepared(ctx context.Context, tx pgx.Tx) error {
	var params int
	const count = `SELECT coalesce(cardinality(parameter_types), 0) FROM pg_prepared_statements WHERE name = 'freshet_check'`
	if err := tx.QueryRow(ctx, count).Scan(&params); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "SET LOCAL plan_cache_mode = force_generic_plan"); err != nil {
		return err
	}
	execute := "EXPLAIN EXECUTE freshet_check"
	if params > 0 {
		execute += "(NULL" + strings.Repeat(", NULL", params-1) + ")"
	}
	_, err := tx.Exec(ctx, execute)
	return err
}

// lackTables finds the tables and views that a role may not read.
func (r *checked) lackTables(ctx context.Context, conn *pgx.Conn, loads *roleFacts, tables []plan.TableExplain, why string) {
	const query = `
SELECT has_schema_privilege(n.oid, 'USAGE'),
       has_table_privilege(c.oid, 'SELECT')
       OR (cardinality($3::text[]) > 0 AND (SELECT bool_and(has_column_privilege(c.oid, name, 'SELECT')) FROM unnest($3::text[]) name))
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2`
	for _, t := range tables {
		var mayUse, maySelect bool
		columns := t.Columns
		if columns == nil {
			columns = []string{}
		}
		if err := conn.QueryRow(ctx, query, t.Schema, t.Table, columns).Scan(&mayUse, &maySelect); err != nil {
			r.problem("postgres", fmt.Sprintf("look at the privileges on %s.%s: %v", t.Schema, t.Table, err), "", "")
			continue
		}
		table := pgx.Identifier{t.Schema, t.Table}.Sanitize()
		role, to := loads.Role, pgx.Identifier{loads.Role}.Sanitize()
		if !mayUse {
			r.lack(loads, fmt.Sprintf("role %q may not use schema %q", role, t.Schema), why, "GRANT USAGE ON SCHEMA "+pgx.Identifier{t.Schema}.Sanitize()+" TO "+to)
		}
		if !maySelect {
			r.lack(loads, fmt.Sprintf("role %q may not read table \"%s.%s\"", role, t.Schema, t.Table), why, "GRANT SELECT ON "+table+" TO "+to)
		}
	}
}

// lack is a privilege that a role lacks. Several entries may want the same.
func (r *checked) lack(role *roleFacts, what, why, grant string) {
	if !slices.Contains(role.Lacks, what) {
		role.Lacks = append(role.Lacks, what)
	}
	r.problem("postgres", what, why, "run: "+grant)
	if !slices.ContainsFunc(r.Fixes, func(m *mending) bool { return m.What == what }) {
		r.mend(mending{Area: "privileges", What: what, Why: why}, grant)
	}
}
