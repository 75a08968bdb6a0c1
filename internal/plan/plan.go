// Package plan compiles an entry's SQL to rules: which changed row of which table affects which of the entry's keys.
//
// It is a pure function of the query and of a snapshot of the catalog. Whatever it accepts is sound: a committed
// change that alters the result of a key is mapped to that key by a rule, from the changed row alone. Whatever it
// cannot prove it refuses, with an error that says where, what, why it would be unsafe and what to do.
//
// # Why the rules do not miss
//
// Each table that the query names, or that a view below it names, is an occurrence. The conditions that count for it are
// those that every combination of rows, through which one of its rows can influence the result, must satisfy (active.go).
// When the equalities among them tie a column of the occurrence to a parameter, then a row matters only to the key with
// its own value in that place, and both images of a changed row give the keys: the class EXACT. Constant conditions among
// them let route skip an image, and an update that alters no column that the query reads does not count. What is made of
// the rows that pass (aggregates, windows, ORDER BY and LIMIT, set operations) needs no rule of its own: it is a function
// of them. Where the row does not tell the keys, another class of rule is needed (strategy.go).
//
// # How a query is read
//
// A SELECT is a query (query.go) of one block (block.go, target.go), or of several under a set operation. A block has the
// items of its FROM, and conditions (condition.go, comparison.go, sublink.go); what else it has are expressions
// (expression.go, function.go), of which only counts what they read. Every node of the parser's tree is read, or refuses
// the query (guard.go).
//
// This is the only package that links the SQL parser.
package plan

import (
	"errors"
	"fmt"
	"reflect"
	"slices"

	pg_query "github.com/pganalyze/pg_query_go/v6"
	"github.com/pganalyze/pg_query_go/v6/parser"

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
	Covers  string // as declared
}

// Compile plans a declared entry, with EXACT rules and those of the further classes, which whoever applies the rules has
// to know. The error is an *Error.
func Compile(catalog *schema.Catalog, d rule.Declared, classes ...rule.Class) (*Compiled, error) {
	c := &compiler{catalog: catalog, declared: d, classes: classes, decisions: map[*occurrence][]*decision{}}
	compiled, err := c.compile()
	if err == nil {
		return compiled, nil
	}
	if r, ok := errors.AsType[*refusal](err); ok {
		return nil, r.located(d.Name, d.Query, c.rewritten)
	}
	return nil, &Error{Entry: d.Name, What: err.Error()}
}

// Served are the classes of rules, beside EXACT, that this version applies: what the daemon plans with, and what explain and
// check show. The planner makes rules of all classes, for whoever asks for them.
func Served() []rule.Class { return []rule.Class{rule.Tag, rule.Lookup, rule.Group, rule.Broad} }

// compiler is one run of Compile.
type compiler struct {
	catalog   *schema.Catalog
	declared  rule.Declared
	params    []rule.Param // in the order of the key
	rewritten *sqlparam.Rewritten
	warnings  []string

	reading     *reading // of the query itself
	tree        *pg_query.ParseResult
	occurrences []*occurrence // of tables and of subqueries, in the order of their mention
	blocks      []*block
	views       []*schema.Table
	typed       []typedUse
	loose       []looseUse
	classes     []rule.Class       // of rules, beside EXACT, that may be made
	functions   []*schema.Function // of users, that are called
	coarse      []string           // tables of which old rows do not carry all that TAG rules need
	members     int                // conditions that a column is an element of a parameter
	timed       bool               // the query asks for the present time
	decisions   map[*occurrence][]*decision
}

// tables are the occurrences that have rules.
func (c *compiler) tables() []*occurrence {
	return slices.DeleteFunc(slices.Clone(c.occurrences), func(o *occurrence) bool { return o.table == nil })
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
	case c.declared.Query != "" && (c.declared.Tags != "" || c.declared.Covers != ""):
		return nil, &refusal{
			at: nowhere, what: "tags and covers are for entries with depends_on",
			why: "what a query's values are tied to, and what they cover, is derived from the query", do: "Remove them.",
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
	q, err := c.parse()
	if err != nil {
		return nil, err
	}
	return c.finish(q)
}

// parse reads the query.
func (c *compiler) parse() (*query, error) {
	sql := c.rewritten.SQL
	tree, err := pg_query.Parse(sql)
	if err != nil {
		r := &refusal{at: nowhere, what: err.Error(), do: "Correct the query."}
		if e, ok := errors.AsType[*parser.Error](err); ok {
			r.what = e.Message
			if e.Cursorpos > 0 {
				r.at = characterOffset(sql, e.Cursorpos-1)
			}
		}
		return nil, r
	}
	if n := len(tree.GetStmts()); n != 1 {
		r := &refusal{at: nowhere, what: "the query is empty", why: "an entry is one SELECT", do: "Write one SELECT."}
		if n > 1 {
			r.at, r.what = int(tree.GetStmts()[0].GetStmtLen()), "the query has more than one statement"
		}
		return nil, r
	}
	if err := guard(tree.ProtoReflect(), sql, nowhere); err != nil {
		return nil, err
	}
	c.tree, c.reading = tree, &reading{sql: sql, visits: visits{}}
	q, err := c.readQuery(tree.GetStmts()[0].GetStmt().GetSelectStmt(), setting{reading: c.reading})
	if err != nil {
		return nil, err
	}
	if len(c.tables()) == 0 {
		return nil, &refusal{at: 0, what: "the query reads no table", why: "nothing that is written could change its result", do: "Name the table that it reads in FROM."}
	}
	return q, c.reading.understood(tree)
}

// characterOffset turns the parser's count of characters into one of bytes.
func characterOffset(s string, characters int) int {
	for i := range s {
		if characters == 0 {
			return i
		}
		characters--
	}
	return len(s)
}

// finish makes rules of a query that was understood.
func (c *compiler) finish(q *query) (*Compiled, error) {
	if err := c.typeParams(); err != nil {
		return nil, err
	}
	compiled := &Compiled{}
	entry := &rule.Entry{
		Name: c.declared.Name, Definition: c.declared.Digest(), Key: c.declared.Key, Params: c.params, Result: c.declared.Result,
	}
	ignored, err := c.ignored()
	if err != nil {
		return nil, err
	}
	if err := c.wishes(); err != nil {
		return nil, err
	}
	boxes, err := c.boxes()
	if err != nil {
		return nil, err
	}
	for _, o := range slices.Concat(c.tables(), boxes) {
		rules, err := c.rulesOf(o, ignored[o.table])
		if err != nil {
			return nil, err
		}
		c.warnAboutPartitions(o.table)
		for _, r := range rules {
			if !slices.ContainsFunc(entry.Rules, func(other rule.Rule) bool { return reflect.DeepEqual(other, r) }) {
				entry.Rules = append(entry.Rules, r)
				compiled.Tables = append(compiled.Tables, c.explainRule(r, o.table, ignored[o.table]))
			}
		}
	}
	c.unneeded(entry.Rules)
	c.warnAboutTime()
	if err := c.looseEnums(); err != nil {
		return nil, err
	}
	c.warnAboutOrder(q)
	declared, err := c.declaredVersion(q)
	if err != nil {
		return nil, err
	}
	// The canonical text comes last: it edits the tree.
	if entry.SQL, err = c.canonical(); err != nil {
		return nil, err
	}
	if entry.RowVersion, err = c.rowVersion(q, declared); err != nil {
		return nil, err
	}
	for _, v := range c.views {
		if view := (rule.View{Schema: v.Schema, Name: v.Name.Name}); !slices.Contains(entry.Views, view) {
			entry.Views = append(entry.Views, view)
		}
	}
	for _, f := range c.functions {
		entry.Functions = append(entry.Functions, f.String())
		c.warn("%s() is a function of your own: replacing it shows within some seconds, replacing what it calls in turn does not", f.Name.Name)
	}
	entry.Batch = c.batch(entry)
	entry.Shape = c.shape(slices.Concat(c.tables(), boxes), c.views...)
	entry.Version = entry.Hash()
	compiled.Entry = entry
	compiled.Warnings = c.warnings
	compiled.Ignored = ignoredNames(ignored)
	return compiled, nil
}

func (c *compiler) rulesOf(o *occurrence, ignored []string) ([]rule.Rule, error) {
	if o.block != nil {
		return c.occurrenceRules(o, ignored)
	}
	r, err := c.boxRule(o)
	return []rule.Rule{r}, err
}

// looseEnums refuses a parameter of an enum type outside of comparisons with columns: which enum cannot be written down.
func (c *compiler) looseEnums() error {
	for _, use := range c.loose {
		if c.params[use.parameter-1].Type == keytext.Enum {
			return &refusal{
				at: use.at, what: fmt.Sprintf("parameter {%s} is an enum and stands in an expression", c.params[use.parameter-1].Name),
				why: "PostgreSQL would take it for another type there", do: "Compare it with a column by =.",
			}
		}
	}
	return nil
}

func (c *compiler) warn(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(c.warnings, text) {
		c.warnings = append(c.warnings, text)
	}
}

// setType gives a parameter its type; a second type of the same family changes nothing.
func (c *compiler) setType(n int, t keytext.Type) {
	if p := &c.params[n-1]; p.Type == "" {
		p.Type = t
	}
}
