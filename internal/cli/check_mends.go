package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/mend"
	"github.com/freshet/freshet/internal/pgcatalog"
	"github.com/freshet/freshet/internal/schema"
)

// mending is something that check --fix applies.
type mending struct {
	Area       string       `json:"area"` // identity, publication, privileges or ddl
	What       string       `json:"what"`
	Why        string       `json:"why,omitempty"`
	Log        string       `json:"log,omitempty"` // what it costs in log
	Statements []*statement `json:"statements"`
	barred     string       // why the role cannot
}

// statement is one of a mending, which runs on its own.
type statement struct {
	SQL   string `json:"sql"`
	State string `json:"state"` // to run, done, failed, not permitted, or left out: one before it did not run
	Error string `json:"error,omitempty"`
}

// The states of a statement.
const (
	toRun   = "to run"
	ran     = "done"
	failed  = "failed"
	denied  = "not permitted"
	leftOut = "left out"
)

func (r *checked) mend(m mending, statements ...string) {
	m.Statements = make([]*statement, len(statements))
	for i, sql := range statements {
		m.Statements[i] = &statement{SQL: sql, State: toRun}
	}
	r.Fixes = append(r.Fixes, &m)
}

// checkIdentities says which tables lack what of a replica identity for the entries, and what mends it most cheaply. The
// entries say so themselves where they are refused for it.
func (r *checked) checkIdentities(ctx context.Context, conn *pgx.Conn) {
	found, err := r.identities(ctx, conn)
	if err != nil {
		r.problem("postgres", err.Error(), "", "")
		return
	}
	r.Identities = found
	for _, id := range found {
		what := fmt.Sprintf("old rows of %s carry nothing", id.Name)
		if len(id.Lacks) > 0 {
			what = fmt.Sprintf("old rows of %s lack %s", id.Name, join(id.Lacks))
		}
		if len(id.Statements) > 0 {
			r.mend(mending{Area: "identity", What: what + ", for " + join(id.Entries), Why: id.Why, Log: id.Log}, id.Statements...)
		}
	}
}

func (r *checked) identities(ctx context.Context, conn *pgx.Conn) ([]mend.Identity, error) {
	catalog, err := pgcatalog.Read(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("read the catalog: %w", err)
	}
	facts := mend.Facts{Widths: map[schema.Name]map[string]int{}}
	if facts.Indexes, err = pgcatalog.Indexes(ctx, conn); err != nil {
		return nil, err
	}
	if facts.Names, err = pgcatalog.Relations(ctx, conn); err != nil {
		return nil, err
	}
	found := mend.Identities(catalog, r.conf.Declared(), facts)
	if len(found) == 0 {
		return []mend.Identity{}, nil
	}
	tables := make([]schema.Name, len(found))
	for i := range found {
		tables[i] = found[i].Table
	}
	// Whoever loads may read the tables, and so what was gathered of them; whoever follows the log need not.
	if loads, err := connect(ctx, r.conf); err == nil {
		defer closeConn(ctx, loads)
		conn = loads
	}
	stats, err := pgcatalog.Stats(ctx, conn, tables)
	if err != nil {
		return nil, err
	}
	for name, s := range stats {
		facts.Widths[name] = s.Width
	}
	return mend.Identities(catalog, r.conf.Declared(), facts), nil
}

// checkDDL looks for the event triggers, which are a choice: without them DDL is found by looking.
func (r *checked) checkDDL(ctx context.Context, conn *pgx.Conn) {
	st, err := pgcatalog.DDL(ctx, conn)
	if err != nil {
		r.problem("postgres", err.Error(), "", "")
		return
	}
	r.Postgres.DDL = st.Installed()
	if r.Postgres.DDL {
		return
	}
	const why = "until then HEAD vouches for values from before, where no row says that they changed: a type that was altered USING, a partition that was detached"
	do := "run: freshet check --fix, which makes two event triggers"
	m := mending{Area: "ddl", What: "DDL is not told of in the log: it is noticed within some seconds", Why: why}
	if !st.May {
		m.barred = fmt.Sprintf("only a superuser may make event triggers, and role %q is none", st.Role)
		do = "have a superuser run the statements that freshet check --dry-run prints"
	}
	r.note("postgres", "DDL is noticed within some seconds, not at its place in the log", why, do)
	r.mend(m, st.Install()...)
}

// printIdentities prints what replica identities lack.
func (a *app) printIdentities(r *checked) {
	if len(r.Identities) == 0 {
		return
	}
	a.out("\n")
	rows := [][]string{{"table", "old rows carry", "lack", "for", "mended by", "log"}}
	for _, id := range r.Identities {
		rows = append(rows, []string{id.Name, id.Now, join(id.Lacks), join(id.Entries), string(id.How), id.Log})
	}
	a.printTable(rows)
	for _, id := range r.Identities {
		if id.Why != "" {
			a.out(fmt.Sprintf("%s: %s: %s\n", id.Name, id.How, id.Why))
		}
		if id.Do != "" {
			a.out(fmt.Sprintf("%s: %s\n", id.Name, id.Do))
		}
	}
}

// printMending prints what a mending is about.
func (a *app) printMending(m *mending) {
	text := "fix: " + m.What + "\n"
	if m.Why != "" {
		text += "  why: " + m.Why + "\n"
	}
	if m.Log != "" {
		text += "  log: " + m.Log + "\n"
	}
	if m.barred != "" {
		text += "  not run: " + m.barred + "\n"
	}
	a.tell(text)
}

// tell prints what is being done: on stdout, or beside the JSON.
func (a *app) tell(text string) {
	if a.json {
		a.err(text)
	} else {
		a.out(text)
	}
}

func sqlText(sql string) string {
	return "  " + strings.ReplaceAll(sql, "\n", "\n  ") + ";\n"
}
