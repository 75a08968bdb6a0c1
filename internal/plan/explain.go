package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
)

// Explain is what freshet explain shows of an entry.
type Explain struct {
	Entry    string         `json:"entry"`
	Key      string         `json:"key"`
	Params   []rule.Param   `json:"params"`
	Verdict  string         `json:"verdict"`
	Tables   []TableExplain `json:"tables"`
	Warnings []string       `json:"warnings"`
	Version  string         `json:"version"`
	SQL      string         `json:"sql,omitempty"`
	// Conditional says what a conditional read compares.
	Conditional string `json:"conditional"`
	// Tags is by_hand where the code that loads the values ties them to tags.
	Tags string `json:"tags,omitempty"`
	// Covers is none where that code reads elsewhere than in the database.
	Covers string `json:"covers,omitempty"`
}

// TableExplain says what changes of one table do to the entry's keys, and why.
type TableExplain struct {
	Schema      string   `json:"schema"`
	Table       string   `json:"table"`
	Alias       string   `json:"alias,omitempty"` // only when it differs from the table's name
	Columns     []string `json:"columns"`         // empty: all
	Class       string   `json:"class"`
	Key         string   `json:"key"`               // the key that a changed row affects, in terms of its columns
	Lookup      string   `json:"lookup,omitempty"`  // LOOKUP: the query that finds the keys
	Through     []string `json:"through,omitempty"` // TAG: the columns whose values are noted when a value is filled
	Probe       string   `json:"probe,omitempty"`   // TAG: the query that finds them
	Where       []string `json:"where"`             // rows that fail one of these, before and after, are ignored
	Needs       []string `json:"needs"`             // old values that the log has to carry
	Identity    string   `json:"identity"`
	Filters     bool     `json:"filters"` // the log carries whole old rows, so that Columns and Where apply to updates
	Ignored     []string `json:"unsafe_ignored,omitempty"`
	Partitioned bool     `json:"partitioned,omitempty"`
}

func (c *compiler) explainRule(r rule.Rule, t *schema.Table, ignored []string) TableExplain {
	e := TableExplain{
		Schema: r.Schema, Table: r.Table, Columns: append([]string{}, r.Columns...), Class: string(rule.Exact), Key: rowKey(c.declared.Key, c.params, r),
		Where: []string{}, Needs: []string{}, Identity: identityName(t), Ignored: ignored,
		Filters: t.Identity == change.IdentityFull, Partitioned: t.Kind == schema.PartitionedTable,
	}
	if r.Occurrence != r.Table {
		e.Alias = r.Occurrence
	}
	if r.Class != "" {
		e.Class = string(r.Class)
	}
	if r.Lookup != nil {
		e.Lookup = r.Lookup.SQL
	}
	if r.Tag != nil {
		e.Through, e.Probe = r.Tag.From, r.Tag.SQL
	}
	for _, condition := range r.Where {
		e.Where = append(e.Where, conditionText(condition))
	}
	for _, name := range r.Needs() {
		if !slices.Contains(e.Needs, name) {
			e.Needs = append(e.Needs, name)
		}
	}
	return e
}

// rowKey is the key template with a row's columns for the parameters.
func rowKey(template string, params []rule.Param, r rule.Rule) string {
	pairs := make([]string, 0, 2*len(params))
	for i, p := range params {
		value := "{" + r.Bind[i] + "}"
		switch {
		case r.Bind[i] != "":
		case i < len(r.Fixed) && r.Fixed[i] != nil:
			value = string(keytext.AppendEscaped(nil, *r.Fixed[i]))
		default:
			value = "*" // any, or one that is looked up
		}
		pairs = append(pairs, "{"+p.Name+"}", value)
	}
	return strings.NewReplacer(pairs...).Replace(template)
}

func conditionText(c rule.Condition) string {
	values := make([]string, len(c.Values))
	for i, v := range c.Values {
		values[i] = quoteText(v)
	}
	list := strings.Join(values, ", ")
	switch {
	case c.Op == rule.IsNull:
		return c.Column + " IS NULL"
	case c.Op == rule.IsNotNull:
		return c.Column + " IS NOT NULL"
	case c.Op == rule.In && len(values) == 1:
		return c.Column + " = " + list
	case c.Op == rule.NotIn && len(values) == 1:
		return c.Column + " <> " + list
	case c.Op == rule.NotIn:
		return c.Column + " NOT IN (" + list + ")"
	}
	return c.Column + " IN (" + list + ")"
}

// Explain gathers what freshet explain shows.
func (c *Compiled) Explain() Explain {
	verdict := "OK (no broad rules)"
	if len(c.Entry.Rules) == 0 {
		verdict = "OK (no rule: written through)"
	}
	if slices.ContainsFunc(c.Entry.Rules, func(r rule.Rule) bool { return r.Class == rule.Broad }) {
		verdict = "BROAD (any change of a table drops every key)"
	}
	return Explain{
		Entry: c.Entry.Name, Key: c.Entry.Key, Params: append([]rule.Param{}, c.Entry.Params...), Verdict: verdict,
		Tables: c.Tables, Warnings: append([]string{}, c.Warnings...), Version: c.Entry.Version, SQL: c.Entry.SQL,
		Conditional: c.conditional(), Tags: c.Entry.Tags, Covers: c.Covers,
	}
}

func (c *Compiled) conditional() string {
	switch v := c.Entry.RowVersion; {
	case c.Entry.SQL == "":
		return "what code loads"
	case v == nil:
		return "a digest of the value"
	case v.Physical():
		return "the stored versions of its rows, or a digest of the value"
	}
	return "row_version, or a digest of the value"
}

// Text renders the explanation for a terminal.
func (e Explain) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "entry %s  key %s", e.Entry, e.Key)
	for i, p := range e.Params {
		fmt.Fprintf(&b, "  {%s}=$%d %s", p.Name, i+1, p.Type)
	}
	fmt.Fprintf(&b, "  verdict: %s\n", e.Verdict)
	rows := [][]string{{"table", "columns read", "rule", "", ""}}
	identities := [][]string{}
	for _, t := range e.Tables {
		columns := strings.Join(t.Columns, ", ")
		if columns == "" {
			columns = "(all)"
		}
		rows = append(rows, []string{t.name(), columns, t.Class, t.Key, "from old and new row"})
		if t.Lookup != "" {
			rows = append(rows, []string{"", "", "", "", "looked up: " + t.Lookup})
		}
		if t.Probe != "" {
			rows = append(rows, []string{"", "", "", "", "by its " + strings.Join(t.Through, ", ") + ", noted at the fill: " + t.Probe})
		}
		for _, w := range t.Where {
			note := "rows are ignored while they fail " + w
			if !t.Filters {
				note = "new rows that fail " + w + " are ignored"
			}
			rows = append(rows, []string{"", "", "", "", note})
		}
		if t.Filters && len(t.Columns) > 0 {
			rows = append(rows, []string{"", "", "", "", "updates of other columns are ignored"})
		}
		for _, name := range t.Ignored {
			if !t.Filters {
				continue // the warning says so
			}
			rows = append(rows, []string{"", "", "", "", "UNSAFE: updates of " + name + " are ignored, as unsafe_ignore demands"})
		}
		identities = append(identities, []string{t.name(), t.needsText(), "ok: " + t.Identity + t.filterNote()})
	}
	if len(e.Tables) > 0 {
		writeTable(&b, rows)
		b.WriteString(" replica identity\n")
		writeTable(&b, identities)
	}
	fmt.Fprintf(&b, " conditional reads compare %s\n", e.Conditional)
	if e.Tags != "" {
		b.WriteString(" tags: by hand; an intent that names a tag drops every value that its code tied to it\n")
	}
	for _, w := range e.Warnings {
		fmt.Fprintf(&b, " warning: %s\n", w)
	}
	if e.SQL != "" {
		fmt.Fprintf(&b, " sql: %s\n", e.SQL)
	}
	return b.String()
}

func (t *TableExplain) name() string {
	name := t.Table
	if t.Schema != "public" {
		name = t.Schema + "." + name
	}
	if t.Alias != "" {
		name += " " + t.Alias
	}
	return name
}

func (t *TableExplain) needsText() string {
	if len(t.Needs) == 0 {
		return "needs nothing of the old row"
	}
	return "needs old (" + strings.Join(t.Needs, ", ") + ")"
}

func (t *TableExplain) filterNote() string {
	if t.Filters || len(t.Columns) == 0 {
		return ""
	}
	if t.Partitioned {
		return ". Column filter off: every UPDATE counts"
	}
	return ". Column filter off: every UPDATE counts; REPLICA IDENTITY FULL would enable it"
}

// writeTable writes rows in columns that are as wide as their widest cell, without white space at the end of a line.
func writeTable(b *strings.Builder, rows [][]string) {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			fmt.Fprintf(&line, " %-*s", widths[i]+1, cell)
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}
