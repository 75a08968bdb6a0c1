package plan

import (
	"errors"

	pg_query "github.com/pganalyze/pg_query_go/v6"
	"github.com/pganalyze/pg_query_go/v6/parser"

	"github.com/freshet/freshet/internal/schema"
)

// block is a SELECT that was read: what it names, and what it demands.
type block struct {
	sql         string // with $n
	tree        *pg_query.ParseResult
	statement   *pg_query.SelectStmt
	visits      visits
	occurrences []*occurrence
	joins       []*join // in the order in which PostgreSQL analyses them
	from        []*source
	atoms       []*atom
	edits       []func() // turn the tree into the canonical one
	outputs     map[string]bool
	ordered     bool
}

// parse reads the query's one SELECT block.
func (c *compiler) parse() (*block, error) {
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
	b := &block{
		sql: sql, tree: tree, statement: tree.GetStmts()[0].GetStmt().GetSelectStmt(), visits: visits{}, outputs: map[string]bool{},
	}
	b.visits[b.statement] = true
	if len(b.statement.GetFromClause()) == 0 {
		return nil, &refusal{at: 0, what: "the query reads no table", why: "nothing that is written could change its result", do: "Name the table that it reads in FROM."}
	}
	// In the order of PostgreSQL's analysis, because the first use of a parameter decides its type.
	for _, node := range b.statement.GetFromClause() {
		s, err := c.source(b, node)
		if err != nil {
			return nil, err
		}
		b.from = append(b.from, s)
	}
	if err := b.selectList(); err != nil {
		return nil, err
	}
	if where := b.statement.GetWhereClause(); where != nil {
		if err := b.conjuncts(where, nil, b.from); err != nil {
			return nil, err
		}
	}
	if err := b.orderBy(); err != nil {
		return nil, err
	}
	if m := b.visits.unvisited(tree.ProtoReflect()); m != nil {
		return nil, &refusal{
			at: location(m), what: "this part of the query was not understood (" + string(m.Descriptor().Name()) + ")",
			why: whyUnknown, do: doByCode,
		}
	}
	return b, nil
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

// occurrence is one mention of a table. A table that is joined with itself has two.
type occurrence struct {
	index int
	table *schema.Table
	alias string
	node  *pg_query.RangeVar
	read  map[string]bool // columns that the query reads of it
}

func (o *occurrence) bit() bits { return 1 << o.index }

// bits is a set of occurrences.
type bits uint64

const maxOccurrences = 64

// source is one item of FROM: a table or a join.
type source struct {
	occurrence *occurrence // of a table
	all        bits
	columns    []visible // what * expands to, and what an unqualified name can mean
}

// visible is a column under the name by which the query can use it.
type visible struct {
	name string
	columnRef
}

// columnRef is a column of an occurrence.
type columnRef struct {
	occurrence *occurrence
	column     *schema.Column
}

func (r columnRef) String() string { return r.occurrence.alias + "." + r.column.Name }

// join is an inner or outer join.
type join struct {
	outer    bool
	all      bits
	nullable bits // the side that an outer join may fill with NULLs
	reduced  bool // is as good as inner: some condition above it drops the rows that it filled
}

// source reads an item of FROM. A join's ON is read after both of its sides.
func (c *compiler) source(b *block, node *pg_query.Node) (*source, error) {
	if r := node.GetRangeVar(); r != nil {
		return c.table(b, r)
	}
	j := node.GetJoinExpr()
	if j == nil {
		return nil, &refusal{at: location(node.ProtoReflect()), what: "this item of FROM is not supported yet", why: whyUnknown, do: doByCode}
	}
	b.visits[j] = true
	left, err := c.source(b, j.GetLarg())
	if err != nil {
		return nil, err
	}
	right, err := c.source(b, j.GetRarg())
	if err != nil {
		return nil, err
	}
	s := &source{all: left.all | right.all}
	made := &join{all: s.all}
	switch j.GetJointype() {
	case pg_query.JoinType_JOIN_INNER:
	case pg_query.JoinType_JOIN_LEFT:
		made.outer, made.nullable = true, right.all
	case pg_query.JoinType_JOIN_RIGHT:
		made.outer, made.nullable = true, left.all
	default:
		return nil, &refusal{
			at: location(j.ProtoReflect()), what: "FULL JOIN is not supported yet",
			why: "neither side restricts the other", do: "Use LEFT JOIN, or load the entry by code and declare depends_on.",
		}
	}
	b.joins = append(b.joins, made)
	if s.columns, err = b.using(j, made, left, right); err != nil {
		return nil, err
	}
	if j.GetQuals() != nil {
		return s, b.conjuncts(j.GetQuals(), made, []*source{left, right})
	}
	return s, nil
}

// using reads USING and returns the join's columns: merged ones first, once, then the others of both sides.
func (b *block) using(j *pg_query.JoinExpr, made *join, left, right *source) ([]visible, error) {
	var merged []visible
	hidden := map[string]bool{}
	for _, node := range j.GetUsingClause() {
		name := node.GetString_().GetSval()
		at := location(j.GetRarg().ProtoReflect())
		l, err := only(left.columns, name, at)
		if err != nil {
			return nil, err
		}
		r, err := only(right.columns, name, at)
		if err != nil {
			return nil, err
		}
		if l.column.TypeOID != r.column.TypeOID {
			return nil, &refusal{
				at: at, what: "USING (" + name + ") joins columns of different types: " + l.column.Type + " and " + r.column.Type,
				why: "the merged column has a third type", do: "Write ON " + l.String() + " = " + r.String() + ".",
			}
		}
		l.occurrence.read[l.column.Name], r.occurrence.read[r.column.Name] = true, true
		leftColumn, rightColumn := l.columnRef, r.columnRef
		if err := b.equality(made, operand{column: &leftColumn}, operand{column: &rightColumn}, at); err != nil {
			return nil, err
		}
		hidden[name] = true
		if j.GetJointype() == pg_query.JoinType_JOIN_RIGHT {
			merged = append(merged, r) // the merged column is that of the side whose rows all stay
		} else {
			merged = append(merged, l)
		}
	}
	for _, side := range []*source{left, right} {
		for _, v := range side.columns {
			if !hidden[v.name] {
				merged = append(merged, v)
			}
		}
	}
	return merged, nil
}

func only(columns []visible, name string, at int) (visible, error) {
	var found []visible
	for _, v := range columns {
		if v.name == name {
			found = append(found, v)
		}
	}
	switch len(found) {
	case 0:
		return visible{}, &refusal{at: at, what: "there is no column " + name, do: "Correct the name."}
	case 1:
		return found[0], nil
	}
	return visible{}, &refusal{
		at: at, what: "the column " + name + " is ambiguous: " + found[0].String() + " or " + found[1].String(), do: "Write it with its table.",
	}
}
