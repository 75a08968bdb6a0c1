package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/pgsource"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/internal/wal"
)

// postgresFacts are what check saw of the database.
type postgresFacts struct {
	Version           string `json:"version"`
	SystemID          string `json:"system_identifier"`
	Database          string `json:"database"`
	Role              string `json:"role"`
	Slot              string `json:"slot"`
	SlotExists        bool   `json:"slot_exists"`
	ActivePID         int32  `json:"slot_active_pid,omitempty"`
	WALStatus         string `json:"wal_status,omitempty"`
	RetainedBytes     int64  `json:"retained_bytes"`
	FreeSlots         int    `json:"free_slots"`
	Publication       string `json:"publication"`
	PublicationExists bool   `json:"publication_exists"`
	DDL               bool   `json:"ddl_triggers"` // DDL is told of in the log
	timeline          int64
	oid               uint32   // of the database
	Unpublished       []string `json:"unpublished_tables"` // the daemon adds them when it starts
}

// roleFacts are what check saw of a role of PostgreSQL. The gateway loads with that of database.url, and so does an application
// whose own file this is.
type roleFacts struct {
	Role    string   `json:"role"`
	Address string   `json:"address"` // by which key of the configuration
	Does    string   `json:"does"`
	Lacks   []string `json:"lacks"` // privileges
}

func (r *checked) checkPostgres(ctx context.Context) {
	ctx, cancel := within(ctx)
	defer cancel()
	source := r.conf.Source.Postgres
	primary, err := connectSource(ctx, r.conf)
	if err != nil {
		r.problem("postgres", err.Error(), "without the log nothing becomes fresh", tryOf(err))
		return
	}
	defer closeConn(ctx, primary)
	facts := &postgresFacts{Slot: source.Slot, Publication: source.Publication, Unpublished: []string{}}
	r.Postgres = facts
	if err := facts.identify(ctx, primary); err != nil {
		r.problem("postgres", err.Error(), "", "")
		return
	}
	entries, err := planEntries(ctx, primary, r.conf, "")
	if err != nil {
		r.problem("postgres", err.Error(), "", "")
		return
	}
	var tables []schema.Name
	for _, p := range entries {
		r.judgeEntry(p)
		if p.err == nil {
			for _, t := range p.compiled.Tables {
				if name := (schema.Name{Schema: t.Schema, Name: t.Table}); !slices.Contains(tables, name) {
					tables = append(tables, name)
				}
			}
		}
	}
	r.checkIdentities(ctx, primary)
	r.checkSource(ctx, primary, facts, tables)
	r.checkLookUps(ctx, primary, entries)
	r.checkApart(ctx, primary, entries, tables)
	r.checkDDL(ctx, primary)
	r.checkLoads(ctx, entries)
	if len(r.conf.Database.Replicas) > 0 {
		if err := primary.QueryRow(ctx, `SELECT `+wal.TimelineSQL).Scan(&facts.timeline); err != nil {
			r.problem("postgres", "look at the timeline: "+err.Error(), "", "")
			return
		}
		r.checkReplicas(ctx, primary, entries)
	}
}

func (f *postgresFacts) identify(ctx context.Context, conn *pgx.Conn) error {
	const query = `
SELECT current_setting('server_version'), current_database()::text, (SELECT oid FROM pg_database WHERE datname = current_database()), current_user::text,
       (SELECT system_identifier::text FROM pg_control_system())`
	if err := conn.QueryRow(ctx, query).Scan(&f.Version, &f.Database, &f.oid, &f.Role, &f.SystemID); err != nil {
		return fmt.Errorf("look at the server: %w", err)
	}
	return nil
}

// checkSource judges what following the log takes.
func (r *checked) checkSource(ctx context.Context, conn *pgx.Conn, facts *postgresFacts, tables []schema.Name) {
	found, err := pgsource.Inspect(ctx, conn, pgsource.PrepareOptions{Slot: facts.Slot, Publication: facts.Publication, Tables: tables})
	if setup, ok := errors.AsType[*pgsource.SetupError](err); ok {
		found.Problems = append(found.Problems, setup.Problems...)
	} else if err != nil {
		r.problem("postgres", err.Error(), "", "")
		return
	}
	follows := &roleFacts{Role: facts.Role, Address: "source.postgres.url", Does: "follows the log", Lacks: []string{}}
	for _, p := range found.Problems {
		r.problem("postgres", p.What, p.Why, p.Do)
		if p.Privilege {
			follows.Lacks = append(follows.Lacks, p.What)
		}
		if p.Mend != "" {
			r.mend(mending{Area: "publication", What: p.What, Why: p.Why}, p.Mend)
		}
	}
	r.Roles = append(r.Roles, follows)
	slot := found.Slot
	facts.SlotExists, facts.ActivePID, facts.WALStatus = slot.Exists, slot.ActivePID, slot.WALStatus
	facts.RetainedBytes, facts.FreeSlots, facts.PublicationExists = slot.RetainedBytes, found.FreeSlots, found.Published
	for _, name := range found.Unpublished {
		facts.Unpublished = append(facts.Unpublished, name.String())
	}
	if slot.Exists && slot.ActivePID == 0 && !slot.Lost {
		r.note("postgres", fmt.Sprintf("slot %q exists and nobody reads it; it keeps %s of log", facts.Slot, bytesText(slot.RetainedBytes)),
			"the server keeps all log that a slot has not read: it fills the disk", "start the daemon, or run: freshet drop")
	}
	if slot.Exists && !slot.SafeWALLimited {
		r.note("postgres", "max_slot_wal_keep_size sets no limit",
			"while the daemon is away its slot keeps the log without bound, until the disk is full",
			"set max_slot_wal_keep_size to what the disk can spare; a slot that is lost costs no more than an empty cache")
	}
}

// checkLoads judges what reading takes: the privileges, and a session whose answers may be cached.
func (r *checked) checkLoads(ctx context.Context, entries []planned) {
	conn, err := connect(ctx, r.conf)
	if err != nil {
		r.problem("postgres", err.Error(), "entries are loaded from it", tryOf(err))
		return
	}
	defer closeConn(ctx, conn)
	var here postgresFacts
	if err := here.identify(ctx, conn); err != nil {
		r.problem("postgres", err.Error(), "", "")
		return
	}
	if p := r.Postgres; here.SystemID != p.SystemID || here.Database != p.Database {
		r.problem("postgres", fmt.Sprintf("database.url leads to system %s, database %q; source.postgres.url to system %s, database %q",
			here.SystemID, here.Database, p.SystemID, p.Database),
			"transaction ids of one say nothing about the other: nothing would be cached", "name the same database in both")
		return
	}
	r.checkLoader(ctx, conn, here.Role, "database.url", entries)
	loader, err := pgload.Open(ctx, r.conf.Database.URL.Reveal())
	if err != nil {
		r.problem("postgres", err.Error(), "", "")
		return
	}
	defer loader.Close()
	loaded, err := loader.Load(ctx, "SELECT 1 AS one", rule.One, nil)
	switch {
	case err != nil:
		r.problem("postgres", "a load fails: "+err.Error(), "", "")
	case loaded.Refuse != "":
		r.problem("postgres", "what is loaded over database.url may not be cached: "+loaded.Refuse, "", "let database.url lead to the primary, in a session of its own")
	}
}

// checkLoader judges whether a role that loads may read what the entries' queries read.
func (r *checked) checkLoader(ctx context.Context, conn *pgx.Conn, role, address string, entries []planned) {
	loads := &roleFacts{Role: role, Address: address, Does: "loads", Lacks: []string{}}
	r.Roles = append(r.Roles, loads)
	for _, p := range entries {
		if p.err == nil && p.compiled.Entry.SQL != "" {
			statements := []string{p.compiled.Entry.SQL}
			for i := range p.compiled.Entry.Rules {
				if tag := p.compiled.Entry.Rules[i].Tag; tag != nil {
					statements = append(statements, tag.SQL)
				}
			}
			r.checkSelect(ctx, conn, loads, p, "loads from it", statements)
		}
	}
}
