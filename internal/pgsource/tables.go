package pgsource

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/schema"
)

// table is a table that is to be published, with the partitions and children that are published with it.
type table struct {
	name      schema.Name
	exists    bool
	published bool
	parts     []part // the table itself first
}

// part is one relation under a table.
type part struct {
	name        schema.Name
	kind        schema.Kind
	persistence string
	identity    change.Identity
	system      bool
	partition   bool // of the table: its changes come under the table's name
	hasKey      bool // a primary key that can be the replica identity
	deferrable  bool // a primary key that cannot, since its uniqueness may be checked late
	indexUsable bool // the index of REPLICA IDENTITY USING INDEX is still there, and can be it
}

// inspectTables reads the catalog on the tables and on whatever is below them.
func inspectTables(ctx context.Context, tx pgx.Tx, publicationOID uint32, names []schema.Name) ([]table, error) {
	const query = `
WITH RECURSIVE below(oid, depth) AS (
    SELECT c.oid, 0 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind NOT IN ('i', 'I', 't', 'c')
    UNION ALL
    SELECT i.inhrelid, depth + 1 FROM below b JOIN pg_inherits i ON i.inhparent = b.oid
)
SELECT n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, c.relreplident::text,
       n.nspname IN ('pg_catalog', 'information_schema', 'pg_toast'),
       c.relispartition AND b.depth > 0,
       EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisprimary AND x.indisvalid AND x.indimmediate),
       EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisprimary AND NOT x.indimmediate),
       EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisreplident AND x.indisvalid AND x.indimmediate),
       b.depth = 0 AND EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = $3 AND r.prrelid = c.oid)
  FROM below b JOIN pg_class c ON c.oid = b.oid JOIN pg_namespace n ON n.oid = c.relnamespace
 ORDER BY b.depth, 1, 2`
	tables := make([]table, 0, len(names))
	seen := make(map[schema.Name]bool, len(names))
	for _, name := range names {
		if seen[name] {
			continue
		}
		seen[name] = true
		t := table{name: name}
		rows, err := tx.Query(ctx, query, name.Schema, name.Name, publicationOID)
		if err != nil {
			return nil, fmt.Errorf("look at table %q: %w", name, err)
		}
		var (
			p              part
			kind, identity string
			published      bool
		)
		into := []any{
			&p.name.Schema, &p.name.Name, &kind, &p.persistence, &identity,
			&p.system, &p.partition, &p.hasKey, &p.deferrable, &p.indexUsable, &published,
		}
		_, err = pgx.ForEachRow(rows, into, func() error {
			p.kind, p.identity = schema.Kind(kind[0]), change.Identity(identity[0])
			t.parts = append(t.parts, p)
			t.exists = true
			t.published = t.published || published
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("look at table %q: %w", name, err)
		}
		tables = append(tables, t)
	}
	return tables, nil
}

func (t *table) quoted() string { return quoteIdent(t.name.Schema) + "." + quoteIdent(t.name.Name) }

// problems says what keeps the table from being published.
func (t *table) problems() []Problem {
	if !t.exists {
		return []Problem{{
			What: fmt.Sprintf("table %q does not exist", t.name),
			Why:  "there is nothing to follow",
			Do:   "create it, or correct the name",
		}}
	}
	var found []Problem
	for _, p := range t.parts {
		if problem, bad := p.problem(t.parts[0]); bad {
			found = append(found, problem)
		}
	}
	return found
}

// problem judges one relation under the table root.
func (p part) problem(root part) (Problem, bool) {
	where := fmt.Sprintf("table %q", p.name)
	statement := "run: ALTER TABLE " + quoteIdent(p.name.Schema) + "." + quoteIdent(p.name.Name)
	switch {
	case p.kind != schema.OrdinaryTable && p.kind != schema.PartitionedTable:
		return Problem{
			What: fmt.Sprintf("%q is no table but %s", p.name, kindName(p.kind)),
			Why:  "its changes are not in the log",
			Do:   "read ordinary or partitioned tables",
		}, true
	case p.system:
		return Problem{What: where + " belongs to the system", Why: "it cannot be published", Do: "leave it out"}, true
	case p.persistence != "p":
		return Problem{
			What: where + " is unlogged or temporary",
			Why:  "its changes are not in the log",
			Do:   statement + " SET LOGGED",
		}, true
	case p.kind == schema.PartitionedTable:
		return Problem{}, false // writes go to its partitions, whose identities count
	}
	if p.partition && root.identity == change.IdentityFull && p.identity != change.IdentityFull {
		return Problem{
			What: fmt.Sprintf("partition %q has another replica identity than %q, which has FULL", p.name, root.name),
			Why:  "its old rows would come as whole ones, with NULL for every column that was not logged",
			Do:   statement + " REPLICA IDENTITY FULL",
		}, true
	}
	what := ""
	switch p.identity {
	case change.IdentityNothing:
		what = " has REPLICA IDENTITY NOTHING"
	case change.IdentityDefault:
		switch {
		case p.deferrable:
			what = " has a DEFERRABLE primary key"
		case !p.hasKey:
			what = " has no primary key"
		}
	case change.IdentityIndex:
		if !p.indexUsable {
			what = " has a replica identity whose index was dropped"
		}
	case change.IdentityFull:
	}
	if what == "" {
		return Problem{}, false
	}
	return Problem{
		What: where + what, Why: "once it is published, PostgreSQL refuses the application's UPDATE and DELETE on it",
		Do: statement + p.identify(),
	}, true
}

// identify is what gives the table a replica identity.
func (p part) identify() string {
	const full = " (or, at the cost of a larger log, REPLICA IDENTITY FULL)"
	switch {
	case p.deferrable:
		return " REPLICA IDENTITY FULL (or make the primary key again without DEFERRABLE)"
	case p.hasKey:
		return " REPLICA IDENTITY DEFAULT" + full
	case p.identity == change.IdentityDefault:
		return " ADD PRIMARY KEY (...)" + full
	}
	return " ADD PRIMARY KEY (...), REPLICA IDENTITY DEFAULT" + full
}

func kindName(k schema.Kind) string {
	switch k {
	case schema.View:
		return "a view"
	case schema.MaterializedView:
		return "a materialized view"
	case schema.ForeignTable:
		return "a foreign table"
	case schema.OrdinaryTable, schema.PartitionedTable:
		return "a table"
	}
	return "a sequence or the like"
}
