package plan

import (
	"fmt"
	"strings"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
)

// dependsOn plans an entry that code loads: each line says which column of a changed row is which parameter. What the
// code reads is not known, so every column counts. Without a line no column says what type a parameter has.
func (c *compiler) dependsOn() (*Compiled, error) {
	if len(c.declared.UnsafeIgnore) > 0 {
		return nil, &refusal{at: nowhere, what: "unsafe_ignore needs a query", why: "every column of a depends_on table counts", do: "Remove unsafe_ignore."}
	}
	if c.declared.RowVersion != "" {
		return nil, &refusal{
			at: nowhere, what: "row_version needs a query", why: "only the code that loads the entry knows its rows; what it loads is compared byte by byte",
			do: "Remove row_version.",
		}
	}
	compiled := &Compiled{Covers: c.declared.Covers}
	entry := &rule.Entry{
		Name: c.declared.Name, Definition: c.declared.Digest(), Key: c.declared.Key, Result: c.declared.Result, Tags: c.declared.Tags,
	}
	if err := c.byCode(); err != nil {
		return nil, err
	}
	families := make([]string, len(c.params))
	occurrences := make([]*occurrence, 0, len(c.declared.DependsOn))
	for _, d := range c.declared.DependsOn {
		r, t, err := c.dependency(d, families)
		if err != nil {
			return nil, err
		}
		o := &occurrence{table: t, read: map[string]bool{}}
		for i := range t.Columns {
			o.read[t.Columns[i].Name] = true
		}
		occurrences = append(occurrences, o)
		c.warnAboutPartitions(t)
		entry.Rules = append(entry.Rules, r)
		compiled.Tables = append(compiled.Tables, c.explainRule(r, t, nil))
	}
	if len(c.declared.DependsOn) == 0 {
		entry.Rules, compiled.Tables = []rule.Rule{}, []TableExplain{}
		for i := range c.params {
			c.params[i].Type = keytext.Unknown
		}
	}
	c.warnAboutCode()
	entry.Params = c.params
	entry.Shape = c.shape(occurrences)
	entry.Version = entry.Hash()
	compiled.Entry = entry
	compiled.Warnings = c.warnings
	return compiled, nil
}

// byCode refuses what the file cannot say of the code that loads an entry.
func (c *compiler) byCode() error {
	if tags := c.declared.Tags; tags != "" && tags != rule.TagsByHand {
		return &refusal{at: nowhere, what: fmt.Sprintf("tags says %q", tags), do: "Write by_hand, or remove it."}
	}
	if covers := c.declared.Covers; covers != "" && covers != rule.CoversNone {
		return &refusal{at: nowhere, what: fmt.Sprintf("covers says %q", covers), do: "Write none, or remove it."}
	}
	return nil
}

// warnAboutCode says what keeps a value fresh that code loads, where that is not its tables alone.
func (c *compiler) warnAboutCode() {
	none, tables := c.declared.Covers == rule.CoversNone, len(c.declared.DependsOn) > 0
	switch {
	case none && tables:
		c.warn("covers none: of what it reads elsewhere it covers nothing: lease and TTL only; rows of depends_on and intents take values out of use as ever, and no cached value meets a token, a session or a bound")
	case none:
		c.warn("covers nothing of the database: lease and TTL only, and the intents of its writers; no cached value meets a token, a session or a bound")
	case !tables:
		c.warn("no change of a table affects it: only the intents of its writers and its TTL keep it fresh")
	}
}

func (c *compiler) dependency(d rule.Dependency, families []string) (rule.Rule, *schema.Table, error) {
	fail := func(what, why, do string) (rule.Rule, *schema.Table, error) {
		return rule.Rule{}, nil, &refusal{at: nowhere, what: "depends_on " + d.Table + ": " + what, why: why, do: do}
	}
	schemaName, name, qualified := strings.Cut(d.Table, ".")
	if !qualified {
		schemaName, name = "", d.Table
	}
	t, err := c.lookup(schemaName, name, nowhere)
	if err != nil {
		return rule.Rule{}, nil, err
	}
	if t.Kind == schema.View {
		return fail("it is a view", "only changes of tables are in the log", "Name its base tables.")
	}
	template, err := rule.ParseTemplate(d.Key)
	if err != nil {
		return fail(err.Error(), "", "Write the columns that are the key's parameters, such as {id}.")
	}
	if got, want := len(template.Params()), len(c.params); got != want {
		return fail(fmt.Sprintf("%d columns for %d parameters", got, want), "the n-th column stands for the n-th parameter of the key",
			fmt.Sprintf("Name %d columns in braces.", want))
	}
	r := rule.Rule{Schema: t.Schema, Table: t.Name.Name, Bind: []string{}}
	for i, columnName := range template.Params() {
		column := t.Column(columnName)
		switch {
		case column == nil:
			return fail("there is no column "+columnName, "", "Correct the name.")
		case column.Generated:
			return fail(columnName+" is a generated column", "the log does not carry generated columns", "Use a stored column.")
		}
		kind, ok := keyType(column)
		if !ok {
			return fail(columnName+" has the type "+column.Type, "equal values of it can have different text", "Use a column of a type with one text per value, such as bigint, uuid or text.")
		}
		if families[i] == "" {
			families[i] = columnFamily(column)
		}
		if families[i] != columnFamily(column) {
			return fail(fmt.Sprintf("%s is %s, and parameter {%s} is %s", columnName, column.Type, c.params[i].Name, c.params[i].Type),
				"equal values of different types can have different text", "Use columns of one type for one parameter.")
		}
		c.params[i].Type = wider(c.params[i].Type, kind)
		r.Bind = append(r.Bind, columnName)
	}
	return r, t, identified(t, r.Bind, nowhere)
}

// wider is the type that holds the values of both, which are of one family.
func wider(x, y keytext.Type) keytext.Type {
	rank := func(t keytext.Type) int {
		switch t {
		case keytext.Int2:
			return 1
		case keytext.Int4:
			return 2
		case keytext.Int8:
			return 3
		default:
			return 0
		}
	}
	if x == "" || rank(y) > rank(x) {
		return y
	}
	return x
}
