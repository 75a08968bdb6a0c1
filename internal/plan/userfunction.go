package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"

	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
)

// A function of a user is a box: what it reads has to be said. Every row of those tables may then matter to every key, so their
// rules are BROAD. One that reads nothing is like a function of PostgreSQL's own.

// called finds a function of a user that the file says something of.
func (c *compiler) called(call *pg_query.FuncCall) (*schema.Function, error) {
	var schemaName string
	names := call.GetFuncname()
	name := names[len(names)-1].GetString_().GetSval()
	if len(names) > 1 {
		schemaName = names[len(names)-2].GetString_().GetSval()
	}
	f := c.findFunction(schemaName, name)
	switch {
	case f == nil:
		return nil, unsupportedFunction(call)
	case c.reads(f.Name) == nil:
		return nil, &refusal{
			at: int(call.GetLocation()), what: name + "() is a function of your own, and functions does not say what it reads", why: "a change of what it reads would not be noticed",
			do: fmt.Sprintf("Add functions: {%s: {reads: [...]}} with the tables that it reads; [] when its result follows from its arguments.", name),
		}
	case f.Volatility == 'v':
		return nil, &refusal{
			at: int(call.GetLocation()), what: name + "() is VOLATILE", why: "it may return another value with every load, or write",
			do: "Declare it STABLE or IMMUTABLE if it is: ALTER FUNCTION ... STABLE;",
		}
	}
	return f, nil
}

// findFunction finds a function by the name that a query uses. PostgreSQL's own come first, and have been looked at by then.
func (c *compiler) findFunction(schemaName, name string) *schema.Function {
	if schemaName != "" {
		return c.catalog.Functions[schema.Name{Schema: schemaName, Name: name}]
	}
	for _, s := range c.catalog.SearchPath {
		if f := c.catalog.Functions[schema.Name{Schema: s, Name: name}]; f != nil {
			return f
		}
	}
	return nil
}

// reads lists the tables that a function reads, nil when nothing is said of it.
func (c *compiler) reads(f schema.Name) []string {
	for _, name := range []string{f.String(), f.Name} {
		if tables, ok := c.declared.Functions[name]; ok {
			return append([]string{}, tables...)
		}
	}
	return nil
}

// userFunction reads a call.
func (b *block) userFunction(call *pg_query.FuncCall, in *scope, e *content) error {
	f, err := b.compiler.called(call)
	if err != nil {
		return err
	}
	if call.GetOver() != nil {
		return unsupportedFunction(call)
	}
	if !slices.Contains(b.compiler.functions, f) {
		b.compiler.functions = append(b.compiler.functions, f)
	}
	b.edit(func() {
		call.Funcname = []*pg_query.Node{pg_query.MakeStrNode(f.Schema), pg_query.MakeStrNode(f.Name.Name)}
	})
	_, err = b.arguments(call, in, e)
	return err
}

// boxes are the tables that functions read, as occurrences of which every column counts.
func (c *compiler) boxes() ([]*occurrence, error) {
	for _, name := range slices.Sorted(maps.Keys(c.declared.Functions)) {
		if !slices.ContainsFunc(c.functions, func(f *schema.Function) bool { return name == f.Name.Name || name == f.String() }) {
			return nil, &refusal{at: nowhere, what: fmt.Sprintf("functions names %s, which the query does not call", name), do: "Take it out of functions, or correct the name."}
		}
	}
	var boxes []*occurrence
	for _, f := range c.functions {
		for _, table := range c.reads(f.Name) {
			schemaName, name, qualified := strings.Cut(table, ".")
			if !qualified {
				schemaName, name = "", table
			}
			t, err := c.lookup(schemaName, name, nowhere)
			if err != nil {
				return nil, err
			}
			if t.Kind == schema.View {
				return nil, &refusal{at: nowhere, what: fmt.Sprintf("functions says that %s reads %s, which is a view", f.Name.Name, table), why: "only changes of tables are in the log", do: "Name its base tables."}
			}
			o := &occurrence{table: t, alias: t.Name.Name, read: map[string]bool{}}
			for i := range t.Columns {
				o.read[t.Columns[i].Name] = true
			}
			boxes = append(boxes, o)
		}
	}
	return boxes, nil
}

// boxRule is the rule of a table that a function reads.
func (c *compiler) boxRule(o *occurrence) (rule.Rule, error) {
	t := o.table
	if !c.serves(rule.Broad) || !c.allowed(t) {
		r := &refusal{
			at: nowhere, what: t.Name.Name + " is BROAD: every change of it drops every key of the entry", why: "a function reads it, and which of its rows is not known here",
			do: fmt.Sprintf("Add allow_broad: [%s], or join the table in the query.", shown(t)),
		}
		if !c.serves(rule.Broad) {
			r.why += "; this version has no BROAD rules"
		}
		return rule.Rule{}, r
	}
	return rule.Rule{Schema: t.Schema, Table: t.Name.Name, Occurrence: t.Name.Name, Bind: make([]string, len(c.params)), Class: rule.Broad}, identified(t, nil, nowhere)
}
