package pgcatalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/sqlparam"
)

// DisagreementError says that the database reads an entry's canonical query in another way than the planner did. The
// entry must not be cached.
type DisagreementError struct {
	Entry   string
	Problem string
	Foreign bool // the query itself uses what is not known here, such as the operators of an extension's type
}

func (e *DisagreementError) Error() string {
	if e.Foreign {
		return fmt.Sprintf("entry %s: %s: what it reads and depends on is not known here. Compare, sort and group by built-in types, such as text", e.Entry, e.Problem)
	}
	return fmt.Sprintf("entry %s: the database disagrees with the plan: %s. Do not cache this entry; please report its query", e.Entry, e.Problem)
}

// Verify asks the database for its own reading of an entry's canonical query. PREPARE tells the types of the
// parameters, which have to be the planned ones. A temporary view, in a transaction that is rolled back, tells the
// columns that are read: each has to be in the rules or among the ignored ones (schema.table.column). The same holds of the
// queries of its TAG rules. Those of its LOOKUP rules have to be ones that PREPARE takes. It also tells whether an operator, a cast or a function of a user came in, which a plan never means. Verify needs the privilege to
// create temporary tables, on a primary. Entries that code loads have no query to verify. Of row versions it also sees that
// they are text, beside the entry's own columns; physical ones are given up where a table keeps its rows in something else
// than PostgreSQL's heap. And the form of the query in which one statement loads many keys is given up where PostgreSQL does not
// take it, or expects more of it than of as many statements.
func Verify(ctx context.Context, conn *pgx.Conn, e *rule.Entry, ignored ...string) error {
	if e.SQL == "" {
		return nil
	}
	types, err := verifyTypes(ctx, conn, e)
	if err != nil {
		return err
	}
	queries := []string{e.SQL}
	for _, r := range e.Rules {
		if r.Tag != nil {
			queries = append(queries, r.Tag.SQL)
		}
	}
	for _, query := range queries {
		if err := verifyReads(ctx, conn, e, query, types, ignored); err != nil {
			return err
		}
	}
	for _, r := range e.Rules {
		if r.Lookup == nil {
			continue
		}
		if _, err := conn.PgConn().Prepare(ctx, "", r.Lookup.SQL, nil); err != nil {
			return fmt.Errorf("prepare the look-up of entry %s for %s.%s: %w", e.Name, r.Schema, r.Table, err)
		}
	}
	if err := verifyRowVersion(ctx, conn, e); err != nil {
		return err
	}
	return verifyBatch(ctx, conn, e, types)
}

// verifyTypes compares the types of the parameters and returns their names in SQL.
func verifyTypes(ctx context.Context, conn *pgx.Conn, e *rule.Entry) ([]string, error) {
	statement, err := conn.PgConn().Prepare(ctx, "", e.SQL, nil)
	if err != nil {
		return nil, fmt.Errorf("prepare the query of entry %s: %w", e.Name, err)
	}
	if got, want := len(statement.ParamOIDs), len(e.Params); got != want {
		return nil, &DisagreementError{Entry: e.Name, Problem: fmt.Sprintf("it has %d parameters, not %d", got, want)}
	}
	names := make([]string, len(e.Params))
	for i, oid := range statement.ParamOIDs {
		var name, category string
		const describe = `SELECT CASE WHEN typtype = 'e' THEN 'enum' ELSE typname END::text, format_type(oid, NULL), typtype::text FROM pg_type WHERE oid = $1`
		if err := conn.QueryRow(ctx, describe, oid).Scan(&name, &names[i], &category); err != nil {
			return nil, fmt.Errorf("describe the type of parameter %s: %w", e.Params[i].Name, err)
		}
		planned := e.Params[i].Type
		if element, ok := planned.Element(); ok {
			planned = "_" + element
		}
		if same := name == string(planned) && (planned == keytext.Enum || oid < firstUserOID) ||
			planned == keytext.String && oid == pgtype.VarcharOID || planned == "_"+keytext.String && oid == pgtype.VarcharArrayOID; !same {
			return nil, &DisagreementError{Entry: e.Name, Problem: fmt.Sprintf("parameter {%s} is %s, not %s", e.Params[i].Name, names[i], planned)}
		}
	}
	return names, nil
}

// firstUserOID is FirstNormalObjectId: what has a lower one came with PostgreSQL.
const firstUserOID = 16384

var errRollback = errors.New("roll back")

// A view that the query names is looked into: what it reads counts, and not its own columns.
const readsQuery = `
WITH RECURSIVE rules (oid, ev_class) AS (
    SELECT r.oid, r.ev_class FROM pg_rewrite r WHERE r.ev_class = 'pg_temp.freshet_verify'::regclass
  UNION
    SELECT r.oid, r.ev_class
    FROM rules u
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = u.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> u.ev_class
    JOIN pg_class v ON v.oid = d.refobjid AND v.relkind = 'v'
    JOIN pg_rewrite r ON r.ev_class = v.oid AND r.ev_type = '1'
)
SELECT DISTINCT CASE d.refclassid WHEN 'pg_class'::regclass THEN 'column' WHEN 'pg_operator'::regclass THEN 'operator'
            WHEN 'pg_proc'::regclass THEN 'function' ELSE 'other' END,
       coalesce(n.nspname, pn.nspname, '')::text, coalesce(c.relname, p.proname, '')::text, coalesce(a.attname, '')::text,
       pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)
FROM rules r
JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refobjid <> r.ev_class
LEFT JOIN pg_class c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid
LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_proc p ON d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid AND p.provolatile <> 'v' AND p.prokind = 'f'
LEFT JOIN pg_namespace pn ON pn.oid = p.pronamespace
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid AND d.refobjsubid > 0
WHERE c.relkind IS DISTINCT FROM 'v'
ORDER BY 5`

func verifyReads(ctx context.Context, conn *pgx.Conn, e *rule.Entry, query string, types, ignored []string) error {
	// A view has no parameters: typed NULLs stand for them. Nothing is evaluated.
	query = sqlparam.Substitute(query, func(n int) string { return "NULL::" + types[n-1] })
	// Read-write, also where the session's default is not; it is rolled back.
	err := pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "CREATE TEMPORARY VIEW freshet_verify AS "+query); err != nil {
			return fmt.Errorf("ask which columns the query of entry %s reads: %w", e.Name, err)
		}
		rows, err := tx.Query(ctx, readsQuery)
		if err != nil {
			return fmt.Errorf("ask which columns the query of entry %s reads: %w", e.Name, err)
		}
		var kind, schemaName, table, column, description string
		if _, err := pgx.ForEachRow(rows, []any{&kind, &schemaName, &table, &column, &description}, func() error {
			switch {
			case kind == "function" && declaredFunction(e, schemaName, table):
			case kind == "operator" || kind == "function":
				return &DisagreementError{Entry: e.Name, Problem: "it uses the " + description + ", which is not built in", Foreign: true}
			case kind == "column" && !covered(e, schemaName, table, column, ignored):
				return &DisagreementError{Entry: e.Name, Problem: "it reads " + description + ", which no rule watches"}
			}
			return nil
		}); err != nil {
			return err
		}
		return errRollback
	})
	if errors.Is(err, errRollback) {
		return nil
	}
	return err
}

// declaredFunction reports a function of a user that the entry's query may call, and that is not volatile.
func declaredFunction(e *rule.Entry, schemaName, name string) bool {
	return slices.Contains(e.Functions, schemaName+"."+name)
}

// covered reports whether a rule watches the column; without one, whether a rule watches the table.
func covered(e *rule.Entry, schemaName, table, column string, ignored []string) bool {
	if slices.Contains(ignored, strings.Join([]string{schemaName, table, column}, ".")) {
		return true
	}
	for _, r := range e.Rules {
		if r.Schema == schemaName && r.Table == table && (column == "" || len(r.Columns) == 0 || slices.Contains(r.Columns, column)) {
			return true
		}
	}
	return false
}
