package pgcatalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet/freshet/internal/rule"
)

// verifyBatch asks the database whether many keys can be loaded by one statement, and whether that is worth it. If not, the
// entry loses that form, and its keys are loaded by statements of their own, sent together. types are those of the parameters.
func verifyBatch(ctx context.Context, conn *pgx.Conn, e *rule.Entry, types []string) error {
	if e.Batch == nil {
		return nil
	}
	b := *e.Batch
	e.Batch = nil
	b.Types = make([]string, len(types))
	for i, t := range types {
		if rule.TextOfArray(e.Params[i].Type) {
			t = "text"
		}
		// Readers have search paths of their own.
		const qualified = `SELECT format('%I.%I', n.nspname, t.typname) FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
			WHERE t.oid = $1::text::regtype`
		if err := conn.QueryRow(ctx, qualified, t).Scan(&b.Types[i]); err != nil {
			return fmt.Errorf("describe the type of parameter %s: %w", e.Params[i].Name, err)
		}
	}
	single := 0.0
	queries := []string{e.SQL}
	for i := range e.Rules {
		if tag := e.Rules[i].Tag; tag != nil {
			queries = append(queries, tag.SQL)
		}
	}
	for _, query := range queries {
		some, _, err := cost(ctx, conn, query, types)
		if forbidden(err) {
			break // so is what many keys cost
		}
		if err != nil {
			return fmt.Errorf("ask what the query of entry %s costs: %w", e.Name, err)
		}
		single += some
	}
	arrays := make([]string, len(types))
	for i := range arrays {
		arrays[i] = b.Types[i] + "[]"
	}
	many, keys, err := cost(ctx, conn, manyKeys(&b, e.Result), arrays)
	var refused *pgconn.PgError
	switch {
	case forbidden(err): // a role that follows the log need not be allowed to read the tables; PostgreSQL has taken the statement all the same
		e.Batch = &b
		return nil
	case errors.As(err, &refused) && strings.HasPrefix(refused.Code, "42"):
		return nil // as of an aggregate whose arguments are parameters alone, which would be one over the keys
	case err != nil:
		return fmt.Errorf("ask what many keys of entry %s cost: %w", e.Name, err)
	}
	if keys > 0 && many/keys <= slack*single+1 {
		e.Batch = &b
	}
	return nil
}

// forbidden reports the error of a statement that PostgreSQL understands, and would not run for this role.
func forbidden(err error) bool {
	const privilege = "42501"
	var refused *pgconn.PgError
	return errors.As(err, &refused) && refused.Code == privilege
}

// slack is how much more one key among many may cost than one by itself: what is saved for it, the planner does not count.
const slack = 1.25

// manyKeys is the statement that loads many keys, as far as it depends on the entry.
func manyKeys(b *rule.Batch, result rule.Result) string {
	columns := []string{rule.BatchName + ".ord", "freshet_r.j"}
	for _, tag := range b.Tags {
		columns = append(columns, "(SELECT pg_catalog.count(*) FROM ("+tag+"\n) freshet_t)")
	}
	return "SELECT " + strings.Join(columns, ", ") + " FROM " + b.From(result)
}

// cost is what PostgreSQL expects a statement to cost, whatever its arguments are, and for how many keys that is.
func cost(ctx context.Context, conn *pgx.Conn, sql string, types []string) (total, keys float64, err error) {
	nulls := strings.TrimSuffix(strings.Repeat("NULL, ", len(types)), ", ")
	var text string
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{}, func(tx pgx.Tx) error {
		for _, statement := range []string{
			"SET LOCAL plan_cache_mode = force_generic_plan",
			"PREPARE freshet_cost (" + strings.Join(types, ", ") + ") AS " + sql,
		} {
			if _, err := tx.Exec(ctx, statement, pgx.QueryExecModeSimpleProtocol); err != nil {
				return err
			}
		}
		err := tx.QueryRow(ctx, "EXPLAIN (FORMAT JSON) EXECUTE freshet_cost ("+nulls+")", pgx.QueryExecModeSimpleProtocol).Scan(&text)
		return errors.Join(err, errRollback)
	})
	if errors.Is(err, errRollback) {
		// What is prepared outlives the transaction. Where it failed there is none.
		_, _ = conn.Exec(ctx, "DEALLOCATE freshet_cost", pgx.QueryExecModeSimpleProtocol)
	}
	if text == "" {
		return 0, 0, err
	}
	var plans []struct {
		Plan planNode `json:"Plan"` //nolint:tagliatelle // PostgreSQL's spelling
	}
	if err := json.Unmarshal([]byte(text), &plans); err != nil || len(plans) != 1 {
		return 0, 0, fmt.Errorf("read the plan: %w", err)
	}
	return plans[0].Plan.Total, plans[0].Plan.keys(), nil
}

// planNode is a node of a plan.
type planNode struct {
	Total float64    `json:"Total Cost"` //nolint:tagliatelle // PostgreSQL's spelling
	Rows  float64    `json:"Plan Rows"`  //nolint:tagliatelle // PostgreSQL's spelling
	Alias string     `json:"Alias"`      //nolint:tagliatelle // PostgreSQL's spelling
	Plans []planNode `json:"Plans"`      //nolint:tagliatelle // PostgreSQL's spelling
}

// keys is how many keys the planner takes a batch to have.
func (n *planNode) keys() float64 {
	if n.Alias == rule.BatchName {
		return n.Rows
	}
	for i := range n.Plans {
		if k := n.Plans[i].keys(); k > 0 {
			return k
		}
	}
	return 0
}
