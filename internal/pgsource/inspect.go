package pgsource

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/schema"
)

// Inspection is what Prepare would find.
type Inspection struct {
	Problems    []Problem     // what Prepare would refuse, and privileges that it would lack
	Published   bool          // the publication exists
	Unpublished []schema.Name // tables that Prepare would add to it
	Slot        SlotInfo
	FreeSlots   int // replication slots that the server can still make
}

// Published are the tables that the publication names.
func Published(ctx context.Context, conn *pgx.Conn, publication string) ([]schema.Name, error) {
	const query = `
SELECT n.nspname::text, c.relname::text
  FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
  JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE p.pubname = $1`
	rows, err := conn.Query(ctx, query, publication)
	if err != nil {
		return nil, fmt.Errorf("look at publication %q: %w", publication, err)
	}
	names, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (n schema.Name, err error) {
		return n, row.Scan(&n.Schema, &n.Name)
	})
	if err != nil {
		return nil, fmt.Errorf("look at publication %q: %w", publication, err)
	}
	return names, nil
}

// Inspect says what Prepare would refuse and what it would make, and changes nothing. It also looks for what Prepare
// and the gate need to write: the publication, and the schema freshet.
func Inspect(ctx context.Context, conn *pgx.Conn, o PrepareOptions) (Inspection, error) {
	if err := validateNames(o.Slot, o.Publication); err != nil {
		return Inspection{}, err
	}
	var found Inspection
	var setup *SetupError
	switch err := checkServer(ctx, conn); {
	case errors.Is(err, ErrStandby) && errors.As(err, &setup):
		return Inspection{Problems: setup.Problems}, nil // nothing else can be judged there
	case errors.As(err, &setup):
		found.Problems = setup.Problems
	case err != nil:
		return Inspection{}, err
	}
	err := pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		return found.publication(ctx, tx, o)
	})
	if err != nil {
		return Inspection{}, err
	}
	err = found.slot(ctx, conn, o.Slot)
	return found, err
}

func (i *Inspection) publication(ctx context.Context, tx pgx.Tx, o PrepareOptions) error {
	p, exists, err := findPublication(ctx, tx, o.Publication)
	if err != nil {
		return err
	}
	i.Published = exists
	if exists {
		i.Problems = append(i.Problems, p.problems(o.Publication)...)
	}
	tables, err := inspectTables(ctx, tx, p.oid, o.Tables)
	if err != nil {
		return err
	}
	for n := range tables {
		t := &tables[n]
		i.Problems = append(i.Problems, t.problems()...)
		if t.exists && !t.published {
			i.Unpublished = append(i.Unpublished, t.name)
		}
	}
	return i.privileges(ctx, tx, o.Publication)
}

// privileges judges what making and extending the publication, and the table freshet.alive, take.
func (i *Inspection) privileges(ctx context.Context, tx pgx.Tx, publication string) error {
	const query = `
SELECT current_user::text, current_database()::text, has_database_privilege(current_database(), 'CREATE'),
       coalesce((SELECT pg_has_role(pubowner, 'MEMBER') FROM pg_publication WHERE pubname = $1), true)`
	var (
		user, database         string
		mayCreate, ownsPublish bool
	)
	if err := tx.QueryRow(ctx, query, publication).Scan(&user, &database, &mayCreate, &ownsPublish); err != nil {
		return fmt.Errorf("look at privileges: %w", err)
	}
	grant := fmt.Sprintf("run as the owner of the database: GRANT CREATE ON DATABASE %s TO %s", quoteIdent(database), quoteIdent(user))
	if err := i.alive(ctx, tx, user, grant, mayCreate); err != nil {
		return err
	}
	if !i.Published && !mayCreate {
		i.Problems = append(i.Problems, Problem{
			What: fmt.Sprintf("role %q may not make publication %q", user, publication),
			Why:  "the publication names the tables whose changes are read",
			Do:   grant, Privilege: true,
		})
	}
	if i.Published && len(i.Unpublished) > 0 && !ownsPublish {
		i.Problems = append(i.Problems, Problem{
			What: fmt.Sprintf("role %q may not extend publication %q", user, publication),
			Why:  "tables that entries read are not in it yet",
			Do:   fmt.Sprintf("run as its owner: ALTER PUBLICATION %s OWNER TO %s", quoteIdent(publication), quoteIdent(user)), Privilege: true,
		})
	}
	return i.owners(ctx, tx, user)
}

// alive judges whether the role may make the table freshet.alive, or use the one that is there.
func (i *Inspection) alive(ctx context.Context, tx pgx.Tx, user, grant string, mayCreate bool) error {
	const query = `
SELECT n.oid IS NOT NULL, coalesce(has_schema_privilege(n.oid, 'USAGE'), false), coalesce(has_schema_privilege(n.oid, 'CREATE'), false),
       c.oid IS NOT NULL, coalesce(has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE'), false),
       coalesce(c.relpersistence <> 'u' AND NOT pg_has_role(c.relowner, 'USAGE'), false)
  FROM (SELECT) one LEFT JOIN pg_namespace n ON n.nspname = 'freshet' LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'alive'`
	var made, enter, create, table, use, logged bool
	if err := tx.QueryRow(ctx, query).Scan(&made, &enter, &create, &table, &use, &logged); err != nil {
		return fmt.Errorf("look at privileges: %w", err)
	}
	problem := Problem{Why: "an unlogged table in it tells when the server has recovered from a crash", Privilege: true}
	role := quoteIdent(user)
	switch {
	case !made && !mayCreate:
		problem.What, problem.Do = fmt.Sprintf("role %q may not make the schema freshet", user), grant
	case table && (!enter || !use):
		problem.What = fmt.Sprintf("role %q may not use the table freshet.alive", user)
		problem.Why = "it tells when the server has recovered from a crash"
		problem.Do = "run as its owner: GRANT USAGE ON SCHEMA freshet TO " + role + "; GRANT SELECT, INSERT, UPDATE ON freshet.alive TO " + role
	case logged: // an owner's daemon makes it what it has to be
		problem.What, problem.Do = "the table freshet.alive is logged", "run as its owner: ALTER TABLE freshet.alive SET UNLOGGED"
		problem.Why = "only an unlogged one tells when the server has recovered from a crash"
	case made && !table && (!enter || !create):
		problem.What = fmt.Sprintf("role %q may not make tables in the schema freshet", user)
		problem.Do = "run as its owner: GRANT USAGE, CREATE ON SCHEMA freshet TO " + role
	default:
		return nil
	}
	i.Problems = append(i.Problems, problem)
	return nil
}

// owners judges whether the role may add the tables that are missing: that takes owning them.
func (i *Inspection) owners(ctx context.Context, tx pgx.Tx, user string) error {
	const query = `
SELECT pg_has_role(c.relowner, 'MEMBER'), pg_get_userbyid(c.relowner)::text
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2`
	for _, name := range i.Unpublished {
		var (
			owns  bool
			owner string
		)
		if err := tx.QueryRow(ctx, query, name.Schema, name.Name).Scan(&owns, &owner); err != nil {
			return fmt.Errorf("look at the owner of %q: %w", name, err)
		}
		if !owns {
			i.Problems = append(i.Problems, Problem{
				What: fmt.Sprintf("role %q does not own table %q and cannot publish it", user, name),
				Why:  "a table is added to a publication by its owner",
				Do:   fmt.Sprintf("run as a superuser: GRANT %s TO %s", quoteIdent(owner), quoteIdent(user)), Privilege: true,
			})
		}
	}
	return nil
}

// slot judges the slot, or the place for a new one.
func (i *Inspection) slot(ctx context.Context, conn *pgx.Conn, slot string) error {
	var err error
	if i.Slot, err = SlotState(ctx, conn, slot); err != nil {
		return err
	}
	var database string
	const query = `
SELECT current_database()::text, current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots)::int`
	if err := conn.QueryRow(ctx, query).Scan(&database, &i.FreeSlots); err != nil {
		return fmt.Errorf("count replication slots: %w", err)
	}
	switch s := i.Slot; {
	case !s.Exists && i.FreeSlots <= 0:
		i.Problems = append(i.Problems, Problem{
			What: fmt.Sprintf("replication slot %q cannot be created", slot),
			Why:  "every slot that the server allows is taken",
			Do:   "drop one that is not needed (SELECT slot_name, active FROM pg_replication_slots) or raise max_replication_slots and restart PostgreSQL",
		})
	case s.Exists && (s.Plugin != plugin || s.Database != database || s.TwoPhase):
		i.Problems = append(i.Problems, foreignSlot(slot, s, database))
	case s.Lost:
		i.Problems = append(i.Problems, Problem{
			What: fmt.Sprintf("replication slot %q is lost", slot),
			Why:  "the log that it needs is gone: what changed since is not known, and everything cached is given up",
			Do:   "start the daemon: it makes the slot anew and begins with an empty cache; consider a higher max_slot_wal_keep_size",
		})
	}
	return nil
}
