package plan

import (
	"errors"
	"fmt"
	"slices"

	pg_query "github.com/pganalyze/pg_query_go/v6"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/schema"
)

// reading is a text that is being read: the entry's query, or the definition of a view that it names.
type reading struct {
	sql    string
	visits visits
	edits  []func() // turn the tree into the canonical one
	view   string   // the view's name; empty for the query itself
	at     int      // where the query names that view, or one around it
}

// query is a SELECT wherever it stands: one block, or several under UNION, INTERSECT and EXCEPT.
type query struct {
	arms []*block
	// producing are the arms whose rows are rows of the result: of EXCEPT and INTERSECT those of the left side.
	producing []*block
	outputs   []visible // the columns of the result; their occurrence is not set
	ordered   bool
	limited   bool
	statement *pg_query.SelectStmt
}

// setting is where a query stands.
type setting struct {
	reading *reading
	parent  *block
	place   place
	holder  *condition  // of the parent, in which it stands; it says nothing of the query's own rows
	derived *occurrence // whose rows are the query's rows, nil when nothing names them
	outer   *scope
	with    *with
	exists  bool // only whether there is a row counts
	named   bool // its columns have the names of those of another query
	asked   bool // it is what NOT IN looks into, or IN where no row of it need be there
}

// scope is what a name can mean: the items of FROM, and behind them those of the queries around.
type scope struct {
	sources []*source
	outer   *scope
}

// with is a WITH query that names can mean, and those before it.
type with struct {
	expression *pg_query.CommonTableExpr
	outer      *scope
	before     *with
}

// query reads a SELECT. A WITH query, or a view, is read once for each mention: each has its own rows that matter.
func (c *compiler) readQuery(s *pg_query.SelectStmt, at setting) (*query, error) {
	at.reading.visits[s] = true
	if clause := s.GetWithClause(); clause != nil {
		var err error
		if at.with, err = c.withClause(clause, at); err != nil {
			return nil, err
		}
	}
	if s.GetOp() == pg_query.SetOperation_SETOP_NONE || s.GetOp() == pg_query.SetOperation_SET_OPERATION_UNDEFINED {
		b, err := c.readBlock(s, at)
		if err != nil {
			return nil, err
		}
		q := &query{arms: []*block{b}, producing: []*block{b}, ordered: b.ordered, limited: b.limited, statement: s}
		for _, o := range b.outputs {
			q.outputs = append(q.outputs, visible{name: o.name, columnRef: columnRef{column: o.column.column}})
		}
		return q, nil
	}
	return c.setOperation(s, at)
}

func (c *compiler) withClause(clause *pg_query.WithClause, at setting) (*with, error) {
	at.reading.visits[clause] = true
	if clause.GetRecursive() {
		return nil, &refusal{
			at: int(clause.GetLocation()), what: "WITH RECURSIVE is not supported", why: "which rows it visits depends on the rows themselves",
			do: "Load the entry by code and declare depends_on.",
		}
	}
	known := at.with
	for _, node := range clause.GetCtes() {
		known = &with{expression: node.GetCommonTableExpr(), outer: at.outer, before: known}
	}
	return known, nil
}

// named finds the WITH query of a name.
func (w *with) named(name string) *with {
	for ; w != nil; w = w.before {
		if w.expression.GetCtename() == name {
			return w
		}
	}
	return nil
}

func (c *compiler) setOperation(s *pg_query.SelectStmt, at setting) (*query, error) {
	at.exists = false
	left, err := c.readQuery(s.GetLarg(), at)
	if err != nil {
		return nil, err
	}
	at.named = true
	right, err := c.readQuery(s.GetRarg(), at)
	if err != nil {
		return nil, err
	}
	q := &query{arms: slices.Concat(left.arms, right.arms), producing: left.producing, statement: s}
	if s.GetOp() == pg_query.SetOperation_SETOP_UNION {
		q.producing = slices.Concat(left.producing, right.producing)
	}
	if len(left.outputs) != len(right.outputs) {
		return nil, &refusal{
			at: q.arms[len(left.arms)].location(), what: fmt.Sprintf("one side has %d columns and the other %d", len(left.outputs), len(right.outputs)), do: "Select as many columns on both sides.",
		}
	}
	for _, b := range q.arms {
		for _, o := range b.outputs { // a string takes the type of the other side
			if k := o.node.GetAConst(); k != nil {
				if err := neverSpecial("", k); err != nil {
					return nil, err
				}
			}
		}
	}
	for i, o := range left.outputs {
		// A column of two types has a third one, under which values may be written otherwise.
		if r := right.outputs[i].column; o.column == nil || r == nil || o.column.TypeOID != r.TypeOID || o.column.Deterministic != r.Deterministic {
			o.column = nil
		}
		if s.GetOp() != pg_query.SetOperation_SETOP_UNION || !s.GetAll() {
			c.oneOfEqual("UNION, INTERSECT or EXCEPT", o.name, o.column)
		}
		q.outputs = append(q.outputs, o)
	}
	q.ordered, q.limited = len(s.GetSortClause()) > 0, s.GetLimitCount() != nil || s.GetLimitOffset() != nil
	for _, node := range s.GetSortClause() {
		if err := q.order(at.reading, node.GetSortBy()); err != nil {
			return nil, err
		}
	}
	around := &block{setting: at, compiler: c, statement: s, at: everywhere} // what stands behind all sides is asked whatever rows they have
	for _, node := range []*pg_query.Node{s.GetLimitCount(), s.GetLimitOffset()} {
		if node == nil {
			continue
		}
		if err := around.expression(node, nil, &content{}); err != nil {
			return nil, err
		}
		around.typed(int(node.GetParamRef().GetNumber()), keytext.Int8, location(node.ProtoReflect()))
	}
	for _, b := range q.arms {
		b.limited = b.limited || q.limited
	}
	return q, nil
}

// order reads ORDER BY of a set operation: outputs by name or number.
func (q *query) order(r *reading, s *pg_query.SortBy) error {
	r.visits[s] = true
	switch key := s.GetNode(); {
	case key.GetAConst().GetIval() != nil:
		r.visits[key.GetAConst()] = true
		return nil
	case key.GetColumnRef() != nil:
		names, _ := nameParts(key.GetColumnRef())
		if len(names) == 1 && slices.ContainsFunc(q.outputs, func(v visible) bool { return v.name == names[0] }) {
			r.visits[key.GetColumnRef()] = true
			return nil
		}
	}
	return &refusal{at: location(s.ProtoReflect()), what: "ORDER BY here names no column of the result", do: "Order by a name or number of the result's columns."}
}

// item makes an occurrence of a query's rows, in FROM or behind IN.
func (c *compiler) item(b *block, alias string, at int) (*occurrence, error) {
	if len(c.occurrences) == maxOccurrences {
		return nil, &refusal{at: at, what: fmt.Sprintf("the query names more than %d tables and subqueries", maxOccurrences), why: whyUnknown, do: doByCode}
	}
	o := &occurrence{index: len(c.occurrences), block: b, alias: alias, at: at, read: map[string]bool{}}
	c.occurrences = append(c.occurrences, o)
	return o, nil
}

// derive gives an occurrence the rows of a query, under other names for its first columns.
func (o *occurrence) derive(q *query, names []*pg_query.Node) error {
	o.query = q
	if len(names) > len(q.outputs) {
		return &refusal{at: o.at, what: fmt.Sprintf("%s has %d columns and %d names for them", o.alias, len(q.outputs), len(names)), do: "Leave a name out."}
	}
	for i, v := range q.outputs {
		if i < len(names) {
			v.name = names[i].GetString_().GetSval()
		}
		v.columnRef = columnRef{occurrence: o, name: outputName(i), column: v.column}
		o.columns = append(o.columns, v)
	}
	return nil
}

// outputName stands for the i-th column of a query: what it is called can be ambiguous.
func outputName(i int) string { return fmt.Sprintf("#%d", i) }

// subselect reads a subquery in FROM.
func (c *compiler) subselect(b *block, r *pg_query.RangeSubselect) (*source, error) {
	b.visits()[r] = true
	s := r.GetSubquery().GetSelectStmt()
	at := location(s.ProtoReflect())
	alias := r.GetAlias().GetAliasname()
	if alias == "" {
		return nil, &refusal{at: at, what: "a subquery in FROM has no name", why: "PostgreSQL 15 and older demand one", do: "Add AS and a name."}
	}
	outer := b.outer
	if r.GetLateral() {
		outer = &scope{sources: slices.Clone(b.lateral), outer: b.outer}
	}
	return c.rows(b, alias, at, s, r.GetAlias().GetColnames(), setting{reading: b.reading, outer: outer, with: b.with})
}

// rows makes an item of FROM of a query.
func (c *compiler) rows(b *block, alias string, at int, s *pg_query.SelectStmt, names []*pg_query.Node, from setting) (*source, error) {
	o, err := c.item(b, alias, at)
	if err != nil {
		return nil, err
	}
	if err := b.unique(o); err != nil {
		return nil, err
	}
	from.parent, from.place, from.derived = b, place{bits: o.bit()}, o
	q, err := c.readQuery(s, from)
	if err != nil {
		return nil, err
	}
	if err := o.derive(q, names); err != nil {
		return nil, err
	}
	b.items = append(b.items, o)
	return &source{occurrence: o, all: o.bit(), columns: o.columns}, nil
}

// withQuery reads a mention of a WITH query.
func (c *compiler) withQuery(b *block, w *with, r *pg_query.RangeVar) (*source, error) {
	e := w.expression
	b.visits()[e] = true
	s := e.GetCtequery().GetSelectStmt()
	if s == nil {
		return nil, &refusal{at: int(e.GetLocation()), what: "a WITH query that writes", why: "an entry is loaded by reading", do: "Write SELECT in it."}
	}
	alias := r.GetAlias().GetAliasname()
	if alias == "" {
		alias = e.GetCtename()
	}
	names := e.GetAliascolnames()
	if more := r.GetAlias().GetColnames(); len(more) >= len(names) {
		names = more
	} else if len(more) > 0 {
		names = slices.Concat(more, names[len(more):])
	}
	return c.rows(b, alias, int(r.GetLocation()), s, names, setting{reading: b.reading, outer: w.outer, with: w.before})
}

// view reads a mention of a view: the query that the catalog has of it. What is wrong in it is wrong where it is named.
func (c *compiler) view(b *block, t *schema.Table, r *pg_query.RangeVar) (*source, error) {
	b.reading.edits = append(b.reading.edits, func() { r.Schemaname = t.Schema })
	c.views = append(c.views, t)
	s, err := c.viewRows(b, t, r)
	if refused, ok := errors.AsType[*refusal](err); ok {
		refused.at = int(r.GetLocation())
		refused.what = "view " + t.Name.Name + ": " + refused.what
	}
	return s, err
}

func (c *compiler) viewRows(b *block, t *schema.Table, r *pg_query.RangeVar) (*source, error) {
	tree, err := pg_query.Parse(t.Definition)
	if err != nil {
		return nil, &refusal{at: nowhere, what: "its definition cannot be read: " + err.Error(), do: "Select from its base tables."}
	}
	if err := guard(tree.ProtoReflect(), t.Definition, nowhere); err != nil {
		return nil, err
	}
	inner := &reading{sql: t.Definition, visits: visits{}, view: t.Name.Name, at: b.reading.place(int(r.GetLocation()))}
	alias, names := t.Name.Name, r.GetAlias().GetColnames()
	if r.GetAlias() != nil {
		alias = r.GetAlias().GetAliasname()
	}
	for _, column := range t.Columns[min(len(names), len(t.Columns)):] {
		names = append(slices.Clip(names), pg_query.MakeStrNode(column.Name))
	}
	s, err := c.rows(b, alias, int(r.GetLocation()), tree.GetStmts()[0].GetStmt().GetSelectStmt(), names, setting{reading: inner})
	if err != nil {
		return nil, err
	}
	if len(s.columns) != len(t.Columns) {
		return nil, &refusal{at: nowhere, what: "its definition has another number of columns than the view", do: "Select from its base tables."}
	}
	s.occurrence.view, s.occurrence.node = t, r
	for i := range s.columns { // the catalog knows the types of expressions, too
		s.columns[i].column = &t.Columns[i]
	}
	s.occurrence.columns = s.columns
	return s, inner.understood(tree)
}

// understood refuses a text of which a part was not read.
func (r *reading) understood(tree *pg_query.ParseResult) error {
	m := r.visits.unvisited(tree.ProtoReflect())
	if m == nil {
		return nil
	}
	if e, ok := m.Interface().(*pg_query.CommonTableExpr); ok {
		return &refusal{at: int(e.GetLocation()), what: "the WITH query " + e.GetCtename() + " is not used", why: "nothing of it is in the result", do: "Leave it out."}
	}
	return &refusal{
		at: location(m), what: "this part of the query was not understood (" + string(m.Descriptor().Name()) + ")", why: whyUnknown, do: doByCode,
	}
}
