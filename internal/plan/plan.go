// Package plan compiles an entry's SQL to rules: which changed row of which table affects which of the entry's keys.
//
// It is a pure function of the query and of a snapshot of the catalog. Whatever it accepts is sound: a committed
// change that alters the result of a key is mapped to that key by a rule, from the changed row alone. Whatever it
// cannot prove it refuses, with an error that says where, what, why it would be unsafe and what to do.
//
// # Why the rules do not miss
//
// Each table that the query names is an occurrence. Its active conjuncts are the conditions that every combination of
// rows, through which one of its rows can influence the result, must satisfy (active.go). When the equalities among
// them tie a column of the occurrence to a parameter, then a row matters only to the key with its own value in that
// place, and both images of a changed row give the keys: the class EXACT. Constant conditions among them let route
// skip an image, and an update that alters no column that the query reads does not count.
//
// This is the only package that links the SQL parser.
package plan

import (
	"errors"
	"fmt"
	"slices"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/internal/sqlparam"
)

// Compiled is what planning an entry yields.
type Compiled struct {
	Entry    *rule.Entry
	Warnings []string
	Tables   []TableExplain // one for each rule, in the same order
	// Ignored are the columns, as schema.table.column, that the query reads and unsafe_ignore took out of the rules.
	Ignored []string
}

// Compile plans a declared entry. The error is an *Error.
func Compile(catalog *schema.Catalog, d rule.Declared) (*Compiled, error) {
	c := &compiler{catalog: catalog, declared: d}
	compiled, err := c.compile()
	if err == nil {
		return compiled, nil
	}
	if r, ok := errors.AsType[*refusal](err); ok {
		return nil, r.located(d.Name, d.Query, c.rewritten)
	}
	return nil, &Error{Entry: d.Name, What: err.Error()}
}

// compiler is one run of Compile.
type compiler struct {
	catalog   *schema.Catalog
	declared  rule.Declared
	params    []rule.Param // in the order of the key
	rewritten *sqlparam.Rewritten
	warnings  []string
}

func (c *compiler) compile() (*Compiled, error) {
	template, err := rule.ParseTemplate(c.declared.Key)
	if err != nil {
		return nil, &refusal{at: nowhere, what: err.Error(), do: "Correct the key template."}
	}
	for _, name := range template.Params() {
		c.params = append(c.params, rule.Param{Name: name})
	}
	switch {
	case c.declared.Result != rule.One && c.declared.Result != rule.Many:
		return nil, &refusal{at: nowhere, what: fmt.Sprintf("result %q is not one of one, many", c.declared.Result)}
	case c.declared.Query != "" && c.declared.DependsOn != nil:
		return nil, &refusal{
			at: nowhere, what: "the entry has both a query and depends_on",
			why: "what it depends on is derived from the query", do: "Remove one of them.",
		}
	case c.declared.Query != "":
		return c.query(template.Params())
	case c.declared.DependsOn != nil:
		return c.dependsOn()
	}
	return nil, &refusal{
		at: nowhere, what: "the entry has neither a query nor depends_on",
		why: "nothing says which changes affect it",
		do:  "Give it a query, or depends_on when code loads it; depends_on: [] when only its writers can say that it changed.",
	}
}

// query plans an entry that its query loads.
func (c *compiler) query(names []string) (*Compiled, error) {
	rewritten, err := sqlparam.Rewrite(c.declared.Query, names)
	if err != nil {
		if e, ok := errors.AsType[*sqlparam.Error](err); ok {
			return nil, &refusal{at: e.Offset, original: true, what: e.What, why: e.Why, do: e.Do}
		}
		return nil, err
	}
	c.rewritten = rewritten
	for _, name := range names {
		if !slices.Contains(rewritten.Used, name) {
			return nil, &refusal{
				at: nowhere, what: fmt.Sprintf("parameter {%s} is in the key but not in the query", name),
				why: "every value of it would hold a copy of one result", do: fmt.Sprintf("Use @%s in the query, or remove {%s} from the key.", name, name),
			}
		}
	}
	b, err := c.parse()
	if err != nil {
		return nil, err
	}
	return c.finish(b)
}

// finish makes rules of a block that was understood.
func (c *compiler) finish(b *block) (*Compiled, error) {
	if err := c.typeParams(b); err != nil {
		return nil, err
	}
	b.reduceOuterJoins()
	compiled := &Compiled{}
	entry := &rule.Entry{
		Name: c.declared.Name, Definition: c.declared.Digest(), Key: c.declared.Key, Params: c.params, Result: c.declared.Result,
	}
	ignored, err := c.ignored(b)
	if err != nil {
		return nil, err
	}
	for _, o := range b.occurrences {
		r, explain, err := c.occurrenceRule(b, o, ignored)
		if err != nil {
			return nil, err
		}
		c.warnAboutPartitions(o.table)
		entry.Rules = append(entry.Rules, r)
		compiled.Tables = append(compiled.Tables, explain)
	}
	c.warnAboutOrder(b)
	// The canonical text comes last: it edits the tree.
	if entry.SQL, err = b.canonical(); err != nil {
		return nil, err
	}
	entry.Shape = shape(b.occurrences)
	entry.Version = entry.Hash()
	compiled.Entry = entry
	compiled.Warnings = c.warnings
	compiled.Ignored = ignoredNames(ignored)
	return compiled, nil
}

func (c *compiler) warn(format string, args ...any) {
	c.warnings = append(c.warnings, fmt.Sprintf(format, args...))
}

// setType gives a parameter its type; a second type of the same family changes nothing.
func (c *compiler) setType(n int, t keytext.Type) {
	if p := &c.params[n-1]; p.Type == "" {
		p.Type = t
	}
}
