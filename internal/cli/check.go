package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/mend"
	"github.com/freshet/freshet/internal/rule"
)

// finding is one thing that check has to say. A problem makes it exit with 3, a note does not.
type finding struct {
	Area string `json:"area"` // postgres, redis or entry
	Name string `json:"name,omitempty"`
	What string `json:"what"`
	Why  string `json:"why,omitempty"`
	Do   string `json:"do,omitempty"`
}

// checked is the JSON of check.
type checked struct {
	OK       bool           `json:"ok"` // no problem found
	Problems []finding      `json:"problems"`
	Notes    []finding      `json:"notes"`
	Postgres *postgresFacts `json:"postgres,omitempty"`
	Replicas []replicaFacts `json:"replicas,omitempty"`
	Redis    *redisFacts    `json:"redis,omitempty"`
	Entries  []entryFacts   `json:"entries"`
	Roles    []*roleFacts   `json:"roles"`
	// Identities are the tables whose old rows lack something for an entry.
	Identities []mend.Identity `json:"identities"`
	// Fixes are what --fix would apply; Applied, what it did before this was looked at.
	Fixes   []*mending `json:"fixes"`
	Applied []*mending `json:"applied,omitempty"`
	conf    *config.Config
}

type checkFlags struct{ fix, dryRun bool }

// entryFacts say which strategy holds for an entry, and how stale it can be.
type entryFacts struct {
	Entry string `json:"entry"`
	OK    bool   `json:"ok"`
	// Strategy is log: a change drops the value, the TTL is the backstop; or intents: only a writer that says so does; or
	// ttl: nothing of the database says how new it is.
	Strategy     string   `json:"strategy,omitempty"`
	Bound        string   `json:"staleness_bound,omitempty"`
	TTL          string   `json:"ttl"`
	MaxStaleness string   `json:"max_staleness,omitempty"`
	Meets        string   `json:"max_staleness_verdict,omitempty"`
	LongestTTL   string   `json:"longest_ttl,omitempty"` // with which the TTL alone meets max_staleness; absent: none does
	Strategies   []meets  `json:"strategies,omitempty"`  // which of them meet max_staleness
	Tables       []string `json:"tables,omitempty"`
}

func (a *app) check() *cobra.Command {
	var flags checkFlags
	cmd := a.jsonFlag(&cobra.Command{
		Use:   "check",
		Short: "Find what is wrong before and while running; changes nothing without --fix",
		Long: "check looks at the configuration, PostgreSQL (wal_level, version, privileges, slot, publication, replica identity),\n" +
			"the replicas (whether they are standbys of this database, and how far behind),\n" +
			"Redis (version, role, eviction policy) and every entry: which strategy holds and how stale a value can be.\n" +
			"It changes nothing, unless --fix has it apply what can be applied: replica identities, in the cheapest way; the publication's\n" +
			"options; privileges to load, as far as source.postgres.url may grant them; event triggers by which DDL is told of in the log.\n" +
			"Each statement is printed before it runs; it may be ended at any moment, and run again. Then it looks once more.\n" +
			"Exit code 3 when it finds a problem, 2 when the configuration itself is wrong.",
		Example: "  freshet check\n  freshet check --json\n  freshet check --dry-run\n  freshet check --fix",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runCheck(cmd.Context(), flags) },
	})
	cmd.Flags().BoolVar(&flags.fix, "fix", false, "apply what can be applied, and print each statement before it runs")
	cmd.Flags().BoolVar(&flags.dryRun, "dry-run", false, "print the statements of --fix, and run none")
	return cmd
}

func (a *app) runCheck(ctx context.Context, flags checkFlags) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	var applied []*mending
	if flags.fix && !flags.dryRun {
		if applied, err = a.fix(ctx); err != nil {
			return err
		}
		if len(applied) > 0 {
			a.tell("\n")
		}
	}
	r := a.look(ctx, c)
	r.Applied = applied
	if flags.dryRun {
		for _, m := range r.Fixes {
			a.printMending(m)
			for _, s := range m.Statements {
				a.tell(sqlText(s.SQL))
			}
		}
		if len(r.Fixes) > 0 {
			a.tell("\n")
		}
	}
	if a.json {
		if err := a.printJSON(r); err != nil {
			return err
		}
	} else {
		a.printCheck(r)
	}
	if !r.OK {
		return &exitError{code: exitFound}
	}
	return nil
}

// look checks everything, and changes nothing.
func (a *app) look(ctx context.Context, c *config.Config) *checked {
	r := &checked{
		Problems: []finding{}, Notes: []finding{}, Entries: []entryFacts{}, Roles: []*roleFacts{}, Identities: []mend.Identity{}, Fixes: []*mending{}, conf: c,
	}
	r.checkPostgres(ctx)
	if c.InMemory() {
		r.checkMemory()
	} else {
		r.checkRedis(ctx)
	}
	r.OK = len(r.Problems) == 0
	return r
}

func (r *checked) problem(area, what, why, do string) {
	r.Problems = append(r.Problems, finding{Area: area, What: what, Why: why, Do: do})
}

func (r *checked) note(area, what, why, do string) {
	r.Notes = append(r.Notes, finding{Area: area, What: what, Why: why, Do: do})
}

// judgeEntry says which strategy an entry has and what that promises.
func (r *checked) judgeEntry(p planned) {
	e := r.conf.Entries[p.name]
	facts := entryFacts{Entry: p.name, OK: p.err == nil, TTL: e.TTL.String()}
	if e.MaxStaleness > 0 {
		facts.MaxStaleness = e.MaxStaleness.String()
	}
	if p.err != nil {
		for _, refused := range orPlain(refusals(p.err), p.err) {
			r.Problems = append(r.Problems, finding{Area: "entry", Name: p.name, What: refused.text, Do: refused.try})
		}
		r.Entries = append(r.Entries, facts)
		return
	}
	facts.Strategy = "log"
	facts.Bound = fmt.Sprintf("from COMMIT until the daemon has applied it; %s (the TTL) while no daemon runs", e.TTL)
	if len(p.compiled.Entry.Rules) == 0 {
		facts.Strategy = "intents"
		facts.Bound = fmt.Sprintf("after a writer's intent: from COMMIT until the daemon has applied it; after any other change: %s (the TTL)", e.TTL)
	}
	if p.compiled.Covers == rule.CoversNone {
		facts.Strategy = "ttl"
		facts.Bound = fmt.Sprintf("it covers nothing of the database: lease and TTL only, %s", e.TTL)
	}
	facts.objective(r.conf, p.name)
	for _, t := range p.compiled.Tables {
		facts.Tables = append(facts.Tables, t.Schema+"."+t.Table)
	}
	if v := e.Vain(p.compiled.Entry.Rules); v != nil {
		r.Problems = append(r.Problems, finding{Area: "entry", Name: p.name, What: v.What(), Why: v.Why(), Do: v.Do()})
	}
	for _, w := range p.compiled.Warnings {
		r.Notes = append(r.Notes, finding{Area: "entry", Name: p.name, What: w})
	}
	for _, column := range p.compiled.Ignored {
		r.Notes = append(r.Notes, finding{
			Area: "entry", Name: p.name, What: "changes of " + column + " are ignored",
			Why: fmt.Sprintf("unsafe_ignore demands it: the value may be outdated in it for as long as its TTL (%s)", e.TTL),
		})
	}
	r.Entries = append(r.Entries, facts)
}

func orPlain(list []refusal, err error) []refusal {
	if len(list) == 0 {
		return []refusal{{text: err.Error()}}
	}
	return list
}

func (a *app) printCheck(r *checked) {
	if p := r.Postgres; p != nil {
		rows := [][]string{{"postgresql", p.Version + ", database " + p.Database + ", role " + p.Role}}
		slot := "will be made"
		if p.SlotExists {
			slot = fmt.Sprintf("%s, keeps %s of log", p.WALStatus, bytesText(p.RetainedBytes))
			if p.ActivePID != 0 {
				slot += fmt.Sprintf(", read by process %d", p.ActivePID)
			}
		}
		publication := plural(len(p.Unpublished), "table") + " to be added"
		if !p.PublicationExists {
			publication = "will be made, with " + plural(len(p.Unpublished), "table")
		}
		told := "noticed within some seconds"
		if p.DDL {
			told = "told of in the log"
		}
		a.printTable(append(rows, []string{"slot", p.Slot + ": " + slot}, []string{"publication", p.Publication + ": " + publication}, []string{"ddl", told}))
	}
	for _, f := range r.Roles {
		state := "has the privileges for it"
		if len(f.Lacks) > 0 {
			state = "lacks " + plural(len(f.Lacks), "privilege")
		}
		a.printTable([][]string{{"role       ", fmt.Sprintf("%s (%s) %s: %s", f.Role, f.Address, f.Does, state)}})
	}
	for _, f := range r.Replicas {
		state := fmt.Sprintf("%s behind, %.1f s", bytesText(f.LagBytes), f.LagSeconds)
		switch {
		case !f.InRecovery:
			state = "not a standby"
		case f.Paused:
			state += ", paused"
		}
		a.printTable([][]string{{"replica    ", f.Replica + ": " + state}})
	}
	if p := r.Redis; p != nil {
		memory := "no bound"
		if p.MaxMemory > 0 {
			memory = bytesText(p.MaxMemory)
		}
		a.printTable([][]string{{"redis      ", p.Server + " " + p.Version + ", memory " + memory + ", " + p.Policy}})
		for _, n := range p.Nodes {
			role := plural(len(n.Lanes), "lane")
			if n.Of != "" {
				role = "follows " + n.Of
			}
			a.printTable([][]string{{"  node     ", n.Address + ": " + role}})
		}
	}
	if len(r.Entries) > 0 {
		a.out("\n")
		rows := [][]string{{"entry", "verdict", "strategy", "ttl", "stale at most"}}
		for _, e := range r.Entries {
			if !e.OK {
				rows = append(rows, []string{e.Entry, "refused", "-", e.TTL, "-"})
				continue
			}
			rows = append(rows, []string{e.Entry, "ok", e.Strategy, e.TTL, e.Bound})
			if e.Meets != "" {
				rows = append(rows, []string{"", "", "", "", "max_staleness " + e.MaxStaleness + ": " + e.Meets})
			}
			for _, m := range e.Strategies {
				verdict := "no"
				if m.Meets {
					verdict = "yes"
				}
				rows = append(rows, []string{"", "", "", "", "  " + m.Strategy + ": " + verdict + ", " + m.Why})
			}
		}
		a.printTable(rows)
	}
	a.printIdentities(r)
	a.out("\n")
	a.printFindings("problem", r.Problems)
	a.printFindings("note", r.Notes)
	if r.OK {
		a.out("no problem found\n")
	} else {
		a.out(plural(len(r.Problems), "problem") + " found\n")
	}
}

func (a *app) printFindings(kind string, list []finding) {
	for _, f := range list {
		text := kind + ": " + f.What + "\n"
		if f.Name != "" {
			text = fmt.Sprintf("%s: entry %s: %s\n", kind, f.Name, f.What)
		}
		if f.Why != "" {
			text += "  why: " + f.Why + "\n"
		}
		if f.Do != "" {
			text += "  do:  " + f.Do + "\n"
		}
		a.out(text)
	}
}

// within bounds one part of a check.
func within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, 3*patience)
}
