package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgcatalog"
	"github.com/freshet/freshet/internal/plan"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/internal/whatif"
)

// runEvent answers which keys a change affects.
func (a *app) runEvent(ctx context.Context, conn *pgx.Conn, event *whatif.Event, entries []planned) error {
	catalog, err := pgcatalog.Read(ctx, conn)
	if err != nil {
		return err
	}
	var (
		compiled []*rule.Entry
		refused  []error
	)
	looked := map[string]*rule.Entry{}
	for _, p := range entries {
		if p.err != nil {
			refused = append(refused, p.err)
			continue
		}
		compiled = append(compiled, p.compiled.Entry)
		if slices.ContainsFunc(p.compiled.Entry.Rules, func(r rule.Rule) bool { return r.Class == rule.Tag }) {
			looked[p.name] = p.lookedUp()
		}
	}
	var answer *whatif.Answer
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// As the log has values: their text depends on these settings. The session may be a pooler's, so they end with the transaction.
		const settings = `SELECT set_config('DateStyle', 'ISO', true), set_config('TimeZone', 'UTC', true), set_config('IntervalStyle', 'postgres', true),
			set_config('extra_float_digits', '3', true), set_config('bytea_output', 'hex', true)`
		if _, err := tx.Exec(ctx, settings); err != nil {
			return fmt.Errorf("set the session up: %w", err)
		}
		var err error
		answer, err = event.Answer(whatif.Options{
			Catalog: catalog, Entries: compiled,
			Text: func(column *schema.Column, text string) (string, error) { return logText(ctx, tx, column, text) },
			Through: func(entry *rule.Entry, index int, values [][]string) (*whatif.Through, error) {
				return keysThrough(ctx, tx, entry, index, values)
			},
			LookedUp: looked,
		})
		return err
	})
	if err != nil {
		return inEvent(err)
	}
	if a.json {
		if err := a.printJSON(answer); err != nil {
			return err
		}
	} else {
		a.out(answer.Text())
	}
	if len(refused) > 0 {
		return &exitError{code: exitUsage, err: errors.Join(refused...)}
	}
	return nil
}

// logText has the database read a value as the column's type, and say how it writes it.
func logText(ctx context.Context, tx pgx.Tx, column *schema.Column, text string) (string, error) {
	var written string
	err := tx.QueryRow(ctx, `SELECT format('%s', ($1::text)::`+column.Type+`)`, text).Scan(&written)
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok {
		return "", errors.New(refused.Message)
	}
	if err != nil {
		return "", fmt.Errorf("have the database read %s: %w", column.Name, err)
	}
	return written, nil
}

// inEvent is an error in an event, which is one in how the command was called.
func inEvent(err error) error {
	wrong, ok := errors.AsType[*whatif.Error](err)
	if !ok {
		return err
	}
	return &exitError{code: exitUsage, err: wrong, try: wrong.Do}
}

// fanOut is how many keys a changed row of a table affects, and how many rows affect the same key.
type fanOut struct {
	Table   string   `json:"table"`
	Alias   string   `json:"alias,omitempty"`
	Class   string   `json:"class"`
	Keys    int      `json:"keys_per_row,omitempty"`       // at most, and of TAG and LOOKUP about; absent: the row does not tell
	Shared  *float64 `json:"rows_per_key,omitempty"`       // on average; absent: there are no statistics
	Columns []string `json:"distinct_values_of,omitempty"` // from the statistics of which columns that is, or through which keys are reached
	Text    string   `json:"text"`
}

// fanOuts estimates, from the statistics of the database, what a change of each table comes to.
func fanOuts(ctx context.Context, conn *pgx.Conn, entries []planned) (map[string][]fanOut, error) {
	var tables []schema.Name
	for _, p := range entries {
		if p.err != nil {
			continue
		}
		for i := range p.compiled.Entry.Rules {
			r := &p.compiled.Entry.Rules[i]
			if name := (schema.Name{Schema: r.Schema, Name: r.Table}); !slices.Contains(tables, name) {
				tables = append(tables, name)
			}
		}
	}
	stats, err := pgcatalog.Stats(ctx, conn, tables)
	if err != nil {
		return nil, err
	}
	all := map[string][]fanOut{}
	for _, p := range entries {
		if p.err != nil {
			continue
		}
		for i := range p.compiled.Entry.Rules {
			r := &p.compiled.Entry.Rules[i]
			f := estimate(r, stats[schema.Name{Schema: r.Schema, Name: r.Table}])
			if r.Class == rule.Tag || r.Class == rule.Lookup {
				if err := p.reach(ctx, conn, i, &f); err != nil {
					return nil, err
				}
			}
			all[p.name] = append(all[p.name], f)
		}
	}
	return all, nil
}

// keysListed is how many keys of one rule an event is answered with.
const keysListed = 100

// keysThrough looks up the keys that rows with the values lead to through other tables now. What the database refuses, or takes too
// long for, is part of the answer.
func keysThrough(ctx context.Context, tx pgx.Tx, entry *rule.Entry, index int, values [][]string) (*whatif.Through, error) {
	r := &entry.Rules[index]
	columns := make([]any, len(r.Lookup.From))
	for n := range columns {
		column := make([]string, len(values))
		for i := range values {
			column[i] = values[i][n]
		}
		columns[n] = column
	}
	template, err := rule.ParseTemplate(entry.Key)
	if err != nil {
		return nil, err
	}
	through := &whatif.Through{Keys: []string{}}
	err = pgx.BeginFunc(ctx, tx, func(point pgx.Tx) error { // an error must not end the transaction
		if _, err := point.Exec(ctx, `SET LOCAL statement_timeout = '5s'; SET LOCAL lock_timeout = '1s'`); err != nil {
			return err
		}
		places := make([]string, len(entry.Params))
		for i := range places {
			places[i] = strconv.Itoa(i + 1)
		}
		rows, err := point.Query(ctx, fmt.Sprintf("%s ORDER BY %s LIMIT %d", r.Lookup.SQL, strings.Join(places, ", "), keysListed+1), columns...)
		if err != nil {
			return err
		}
		found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) ([]*string, error) {
			texts := make([]*string, len(row.RawValues())) // all of them text, or NULL
			for i, raw := range row.RawValues() {
				if raw != nil {
					text := string(raw)
					texts[i] = &text
				}
			}
			return texts, nil
		})
		if err != nil {
			return err
		}
		args := make([]keytext.Arg, len(entry.Params))
		for i, row := range found {
			if i == keysListed {
				through.More = true
				break
			}
			if err := r.Found(entry.Params, row, args); err != nil {
				return err
			}
			through.Keys = append(through.Keys, string(template.Append(nil, args)))
		}
		return nil
	})
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok {
		through.Problem = "the database does not say: " + refused.Message
		err = nil
	}
	return through, err
}

// reach estimates how many keys a row leads to through other tables: as many as PostgreSQL itself expects of the query that would
// look them up. Only those of them that are cached are dropped by a TAG rule.
func (p *planned) reach(ctx context.Context, conn *pgx.Conn, index int, f *fanOut) error {
	looked := p.lookedUp()
	if looked == nil || looked.Rules[index].Lookup == nil {
		return nil // the entry is planned; how far this rule reaches is not known
	}
	l := looked.Rules[index].Lookup
	top, err := explainLookUp(ctx, conn, l)
	if err != nil {
		return fmt.Errorf("estimate how far changes of %s reach: %w", f.Table, err)
	}
	if rows, ok := top["Plan Rows"].(float64); ok {
		f.Keys, f.Columns = int(rows), l.From
		f.Text = fmt.Sprintf("about %d keys for a changed row, through %s", f.Keys, strings.Join(l.From, ", "))
	}
	return nil
}

// lookedUp is the entry as it would be with LOOKUP rules in the place of TAG ones; nil where it could not.
func (p *planned) lookedUp() *rule.Entry {
	declared := p.declared
	declared.Rules = nil
	looked, err := plan.Compile(p.catalog, declared, rule.Lookup, rule.Group, rule.Broad)
	if err != nil || len(looked.Entry.Rules) != len(p.compiled.Entry.Rules) {
		return nil
	}
	return looked.Entry
}

// querier is a connection or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// explainLookUp asks PostgreSQL how it would run a look-up for one row, and returns the top of the plan.
func explainLookUp(ctx context.Context, conn querier, l *rule.LookupQuery) (top map[string]any, err error) {
	sql := l.SQL
	for i := range l.From {
		sql = strings.ReplaceAll(sql, fmt.Sprintf("$%d::text[]", i+1), "ARRAY['0']::text[]") // nothing evaluates it
	}
	var plans []map[string]map[string]any
	if err := conn.QueryRow(ctx, "EXPLAIN (FORMAT JSON) "+sql).Scan(&plans); err != nil {
		return nil, err
	}
	if len(plans) != 1 {
		return nil, fmt.Errorf("%d plans", len(plans))
	}
	return plans[0]["Plan"], nil
}

func estimate(r *rule.Rule, s pgcatalog.Statistics) fanOut {
	f := fanOut{Table: r.Schema + "." + r.Table, Class: string(rule.Exact)}
	if r.Occurrence != r.Table {
		f.Alias = r.Occurrence
	}
	if r.Class != "" {
		f.Class, f.Text = string(r.Class), "all keys that have what the row tells in common"
		if r.Class == rule.Broad {
			f.Text = "every key"
		}
		return f
	}
	for _, column := range r.Bind {
		if column != "" && !slices.Contains(f.Columns, column) {
			f.Columns = append(f.Columns, column)
		}
	}
	f.Keys, f.Text = 1, "1 key for a changed row"
	if len(f.Columns) > 0 {
		f.Keys, f.Text = 2, "1 key for a changed row, 2 where "+strings.Join(f.Columns, " or ")+" changes"
	}
	distinct := 1.0
	for _, column := range f.Columns {
		n, ok := s.Distinct[column]
		if !ok || s.Rows < 0 {
			f.Text += "; how many rows share one is not known before ANALYZE"
			return f
		}
		distinct *= max(n, 1)
	}
	shared := s.Rows / min(distinct, max(s.Rows, 1))
	f.Shared = &shared
	switch {
	case s.Rows == 0:
		f.Text += "; the table is empty"
	case shared < 1.05:
		f.Text += "; no two rows share one"
	default:
		f.Text += fmt.Sprintf("; about %.3g rows share one", shared)
	}
	return f
}

func (a *app) printFanOut(list []fanOut) {
	if len(list) == 0 {
		return
	}
	a.out(" fan-out\n")
	rows := make([][]string, len(list))
	for i, f := range list {
		name := strings.TrimPrefix(f.Table, "public.")
		if f.Alias != "" {
			name += " " + f.Alias
		}
		rows[i] = []string{" " + name, f.Text}
	}
	a.printTable(rows)
}
