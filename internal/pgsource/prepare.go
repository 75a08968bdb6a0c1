package pgsource

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet/freshet/internal/pgurl"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/mvcc"
)

// PrepareOptions says what a stream will need.
type PrepareOptions struct {
	Slot        string
	Publication string
	Tables      []schema.Name // to be published; those that are already, and are not named here, stay
	// Creating is called before a slot is made, which waits for every transaction that is running. It may be nil.
	Creating func()
}

// Prepared is what Prepare found and did.
type Prepared struct {
	// SlotCreated: nothing before Confirmed is in the stream, whatever an earlier slot of this name had.
	SlotCreated        bool
	Confirmed          mvcc.LSN      // the server forwards every start to here
	Added              []schema.Name // tables whose changes are in the stream only from now on (D8)
	PublicationCreated bool
	Fingerprint        string // see Fingerprint
}

// Prepare makes or extends the publication, then makes the slot, and changes nothing when both are as they must be.
// It may be called again at any time.
//
// A *SetupError names everything that has to be mended first, with the statements. Above all it refuses tables whose
// publication would make the application's own UPDATE and DELETE fail.
func Prepare(ctx context.Context, conn *pgx.Conn, o PrepareOptions) (Prepared, error) {
	if err := validateNames(o.Slot, o.Publication); err != nil {
		return Prepared{}, err
	}
	if err := checkServer(ctx, conn); err != nil {
		return Prepared{}, err
	}
	var done Prepared
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// Two daemons that start together take turns.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, "freshet:"+o.Publication); err != nil {
			return fmt.Errorf("lock publication: %w", err)
		}
		var err error
		done, err = ensurePublication(ctx, tx, o)
		return err
	})
	if err != nil {
		return Prepared{}, err
	}
	// The publication comes first: the plugin looks it up as it was at the moment that it decodes.
	if done.SlotCreated, err = ensureSlot(ctx, conn, o); err != nil {
		return Prepared{}, err
	}
	info, err := SlotState(ctx, conn, o.Slot)
	if err != nil {
		return Prepared{}, err
	}
	done.Confirmed = info.Confirmed
	if done.Fingerprint, err = Fingerprint(ctx, conn, o.Publication); err != nil {
		return Prepared{}, err
	}
	return done, nil
}

// checkServer refuses servers and roles that cannot replicate logically.
func checkServer(ctx context.Context, conn *pgx.Conn) error {
	const query = `
SELECT pg_is_in_recovery(), current_setting('wal_level'), current_setting('server_version_num')::int, current_user::text,
       EXISTS (SELECT FROM pg_roles WHERE rolname = current_user AND (rolsuper OR rolreplication))
       OR EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_replication' AND pg_has_role(oid, 'MEMBER')),
       current_setting('max_wal_senders')::int, current_setting('synchronous_standby_names')`
	var (
		standby, mayReplicate bool
		walLevel, user, names string
		version, senders      int
	)
	if err := conn.QueryRow(ctx, query).Scan(&standby, &walLevel, &version, &user, &mayReplicate, &senders, &names); err != nil {
		return fmt.Errorf("look at the server: %w", err)
	}
	if standby {
		return &SetupError{
			Problems: []Problem{{
				What: "the server is a standby",
				Why:  "publications are made, and the log is read, on the primary",
				Do:   "configure the primary's address, or one that follows it",
			}},
			Err: ErrStandby,
		}
	}
	var problems []Problem
	if version < 140000 {
		problems = append(problems, Problem{
			What: fmt.Sprintf("PostgreSQL %d", version/10000),
			Why:  "logical messages in the stream need version 14",
			Do:   "upgrade to PostgreSQL 14 or newer",
		})
	}
	if walLevel != "logical" {
		problems = append(problems, Problem{
			What: "wal_level is " + walLevel,
			Why:  "the log does not carry what logical replication needs",
			Do:   "run: ALTER SYSTEM SET wal_level = logical; then restart PostgreSQL",
		})
	}
	if senders == 0 {
		problems = append(problems, Problem{
			What: "max_wal_senders is 0",
			Why:  "no process may stream the log",
			Do:   "run: ALTER SYSTEM SET max_wal_senders = 10; then restart PostgreSQL",
		})
	}
	if !mayReplicate {
		problems = append(problems, Problem{
			What: fmt.Sprintf("role %q may not replicate", user),
			Why:  "reading the log needs the REPLICATION attribute",
			Do:   fmt.Sprintf("run as a superuser: ALTER ROLE %s WITH REPLICATION", quoteIdent(user)), Privilege: true,
		})
	}
	if isSynchronous(names) {
		problems = append(problems, Problem{
			What: fmt.Sprintf("synchronous_standby_names is '%s'", names),
			Why: "it takes this stream for a synchronous standby, so that every COMMIT would wait for its confirmation, which stays " +
				"behind on purpose",
			Do: "name the standbys in synchronous_standby_names, without * and " + applicationName,
		})
	}
	if len(problems) > 0 {
		return &SetupError{Problems: problems}
	}
	return nil
}

// applicationName is what the server knows the stream by.
const applicationName = pgurl.ApplicationName

// isSynchronous reports that the server would count a stream by the name of applicationName as a synchronous standby.
func isSynchronous(names string) bool {
	for name := range strings.FieldsFuncSeq(names, func(r rune) bool { return strings.ContainsRune("(), \"", r) }) {
		if name == "*" || strings.EqualFold(name, applicationName) {
			return true
		}
	}
	return false
}

// publication is what pg_publication says.
type publication struct {
	oid                       uint32
	allTables, schemas        bool
	inserts, updates, deletes bool
	truncates, viaRoot        bool
	narrowed                  []string // tables, quoted, that have a row filter or a column list
}

func findPublication(ctx context.Context, tx pgx.Tx, name string) (publication, bool, error) {
	// to_jsonb reads columns and tables that servers before 15 do not have.
	const query = `
SELECT oid, puballtables, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot,
       ARRAY(SELECT format('%I.%I', n.nspname, c.relname)
               FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE r.prpubid = p.oid AND coalesce(to_jsonb(r) ->> 'prqual', to_jsonb(r) ->> 'prattrs') IS NOT NULL ORDER BY 1)
  FROM pg_publication p WHERE pubname = $1`
	var p publication
	err := tx.QueryRow(ctx, query, name).Scan(&p.oid, &p.allTables, &p.inserts, &p.updates, &p.deletes, &p.truncates,
		&p.viaRoot, &p.narrowed)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, false, nil
	}
	if err != nil {
		return p, false, fmt.Errorf("look at publication %q: %w", name, err)
	}
	schemas, err := publishedSchemas(ctx, tx, p.oid)
	p.schemas = len(schemas) > 0
	return p, true, err
}

// ensurePublication makes the publication carry the tables, inside the caller's transaction.
func ensurePublication(ctx context.Context, tx pgx.Tx, o PrepareOptions) (Prepared, error) {
	found, exists, err := findPublication(ctx, tx, o.Publication)
	if err != nil {
		return Prepared{}, err
	}
	var problems []Problem
	if exists {
		problems = found.problems(o.Publication)
	}
	tables, err := inspectTables(ctx, tx, found.oid, o.Tables)
	if err != nil {
		return Prepared{}, err
	}
	for i := range tables {
		problems = append(problems, tables[i].problems()...)
	}
	if len(problems) > 0 {
		return Prepared{}, &SetupError{Problems: problems}
	}

	done := Prepared{PublicationCreated: !exists}
	var list []string
	for i := range tables {
		if !tables[i].published {
			done.Added = append(done.Added, tables[i].name)
			list = append(list, tables[i].quoted())
		}
	}
	var statement string
	switch {
	case !exists && len(list) == 0:
		statement = `CREATE PUBLICATION ` + quoteIdent(o.Publication) + publicationOptions
	case !exists:
		statement = `CREATE PUBLICATION ` + quoteIdent(o.Publication) + ` FOR TABLE ` + strings.Join(list, ", ") + publicationOptions
	case len(list) > 0:
		statement = `ALTER PUBLICATION ` + quoteIdent(o.Publication) + ` ADD TABLE ` + strings.Join(list, ", ")
	default:
		return done, nil
	}
	if _, err := tx.Exec(ctx, statement); err != nil {
		if sqlState(err) == "42501" {
			return Prepared{}, &SetupError{
				Problems: []Problem{{
					What: fmt.Sprintf("publication %q cannot be made or extended", o.Publication),
					Why:  "that takes CREATE on the database, and ownership of the publication and of every table in it",
					Do:   "run as a superuser: " + statement,
				}},
				Err: err,
			}
		}
		return Prepared{}, fmt.Errorf("make publication %q: %w", o.Publication, err)
	}
	return done, nil
}

const publicationOptions = ` WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = true)`

// problems says what about an existing publication would hide changes, or harm tables that nobody named.
func (p publication) problems(name string) []Problem {
	var found []Problem
	where := fmt.Sprintf("publication %q", name)
	if p.allTables || p.schemas {
		found = append(found, Problem{
			What: where + " covers tables that are not named in it",
			Why:  "UPDATE and DELETE fail in the application on every covered table without a replica identity",
			Do:   "run: DROP PUBLICATION " + quoteIdent(name) + "; it is made again, table by table",
		})
	}
	if !p.inserts || !p.updates || !p.deletes || !p.truncates || !p.viaRoot {
		mend := "ALTER PUBLICATION " + quoteIdent(name) + " SET (publish = 'insert, update, delete, truncate', publish_via_partition_root = true)"
		found = append(found, Problem{
			What: where + " does not publish everything",
			Why:  "changes of the operations it leaves out, or of partitions under their own name, would be missed",
			Do:   "run: " + mend, Mend: mend,
		})
	}
	if len(p.narrowed) > 0 {
		tables := strings.Join(p.narrowed, ", ")
		found = append(found, Problem{
			What: where + " has row filters or column lists, of " + tables,
			Why:  "rows and columns outside them change without a word in the stream",
			Do:   "run: ALTER PUBLICATION " + quoteIdent(name) + " DROP TABLE " + tables + "; what entries read is added again, whole",
		})
	}
	return found
}

// sqlState is the server's error code, empty for other errors and for nil.
func sqlState(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code
	}
	return ""
}
