package plan

import (
	"slices"

	pg_query "github.com/pganalyze/pg_query_go/v6"

	"github.com/freshet/freshet/internal/schema"
)

// block is a SELECT that was read: what it names, and what it demands.
type block struct {
	setting
	compiler  *compiler
	statement *pg_query.SelectStmt

	items      []*occurrence // of FROM
	joins      []*join       // in the order in which PostgreSQL analyses them
	from       []*source
	lateral    []*source // what a LATERAL item that comes now can name
	conditions []*condition
	outputs    []output

	aggregates  bool // has GROUP BY, HAVING or an aggregate
	sets        bool // GROUPING SETS, ROLLUP or CUBE
	groups      []columnRef
	groupItems  int
	windows     []*pg_query.WindowDef
	numbered    []numbered
	distinctOn  []columnRef
	hasDistinct bool // DISTINCT ON
	limited     bool // LIMIT or OFFSET, its own or of a set operation around it
	ordered     bool
	orderedBy   []columnRef

	holding *condition // which is being read
	at      place      // where what is being read stands
}

// place is where in FROM a row stands: the items that it is a row of, or the join in whose ON it is asked for.
type place struct {
	bits bits
	on   *join
}

// everywhere is behind FROM: WHERE, and whatever comes after it.
var everywhere = place{bits: ^bits(0)} //nolint:gochecknoglobals // a constant

func (p place) within(side bits) bool { return p.bits&^side == 0 }

// output is a column of a block's result.
type output struct {
	name   string
	column columnRef // of a plain column
	plain  bool
	node   *pg_query.Node
}

func (b *block) visits() visits { return b.reading.visits }

func (b *block) location() int { return location(b.statement.ProtoReflect()) }

// edit notes a change that makes the tree canonical.
func (b *block) edit(f func()) { b.reading.edits = append(b.reading.edits, f) }

// whole is the scope of everything but ON.
func (b *block) whole() *scope { return &scope{sources: b.from, outer: b.outer} }

// occurrence is one mention of a table, a view or a subquery. A table that is joined with itself has two.
type occurrence struct {
	index   int
	block   *block
	table   *schema.Table // nil for a subquery and a view
	query   *query        // of a subquery and a view
	view    *schema.Table
	alias   string
	node    *pg_query.RangeVar
	at      int
	columns []visible
	read    map[string]bool // columns that the query reads of a table
}

func (o *occurrence) bit() bits { return 1 << o.index }

// bits is a set of occurrences.
type bits uint64

const maxOccurrences = 64

// source is one item of FROM: a table, a subquery or a join.
type source struct {
	occurrence *occurrence // unless it is a join
	all        bits
	columns    []visible // what * expands to, and what an unqualified name can mean
}

// visible is a column under the name by which the query can use it.
type visible struct {
	name string
	columnRef
}

// columnRef is a column of an occurrence. Name tells it from the others of the occurrence. What is known of its type is
// in column, which is nil when nothing is.
type columnRef struct {
	occurrence *occurrence
	name       string
	column     *schema.Column
	// other is the other side's column where FULL JOIN USING merges two: one of them can be missing, and the merged
	// one is the one that is there.
	other *columnRef
}

func (r columnRef) String() string {
	name := r.name
	for _, v := range r.occurrence.columns {
		if v.columnRef.name == r.name {
			name = v.name
		}
	}
	return r.occurrence.alias + "." + name
}

// join is an inner or outer join. An outer one fills a side with NULLs where it has no row for the other.
type join struct {
	all         bits
	left, right side
}

type side struct {
	all      bits
	nullable bool
}

func (j *join) sides() [2]*side { return [2]*side{&j.left, &j.right} }

// readBlock reads one SELECT, in the order of PostgreSQL's analysis, because the first use of a parameter decides its type.
func (c *compiler) readBlock(s *pg_query.SelectStmt, at setting) (*block, error) {
	b := &block{setting: at, compiler: c, statement: s, at: everywhere, windows: nil}
	c.blocks = append(c.blocks, b)
	for _, node := range s.GetFromClause() {
		s, err := c.source(b, node)
		if err != nil {
			return nil, err
		}
		b.from = append(b.from, s)
		b.lateral = append(b.lateral, s)
	}
	for _, read := range []func() error{b.selectList, b.where, b.having, b.orderBy, b.groupBy, b.distinct, b.limit, b.windowClause} {
		if err := read(); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (b *block) where() error {
	if node := b.statement.GetWhereClause(); node != nil {
		return b.conjuncts(node, nil, b.whole())
	}
	return nil
}

// source reads an item of FROM. A join's ON is read after both of its sides.
func (c *compiler) source(b *block, node *pg_query.Node) (*source, error) {
	switch {
	case node.GetRangeVar() != nil:
		return c.relation(b, node.GetRangeVar())
	case node.GetRangeSubselect() != nil:
		return c.subselect(b, node.GetRangeSubselect())
	}
	j := node.GetJoinExpr()
	if j == nil {
		return nil, &refusal{at: location(node.ProtoReflect()), what: "this item of FROM is not supported yet", why: whyUnknown, do: doByCode}
	}
	b.visits()[j] = true
	left, err := c.source(b, j.GetLarg())
	if err != nil {
		return nil, err
	}
	b.lateral = append(b.lateral, left)
	right, err := c.source(b, j.GetRarg())
	b.lateral = b.lateral[:len(b.lateral)-1]
	if err != nil {
		return nil, err
	}
	s := &source{all: left.all | right.all}
	made := &join{all: s.all, left: side{all: left.all}, right: side{all: right.all}}
	switch j.GetJointype() {
	case pg_query.JoinType_JOIN_INNER:
	case pg_query.JoinType_JOIN_LEFT:
		made.right.nullable = true
	case pg_query.JoinType_JOIN_RIGHT:
		made.left.nullable = true
	case pg_query.JoinType_JOIN_FULL:
		made.left.nullable, made.right.nullable = true, true
	default:
		return nil, &refusal{at: location(j.ProtoReflect()), what: "this join is not supported", why: whyUnknown, do: doByCode}
	}
	b.joins = append(b.joins, made)
	if s.columns, err = b.using(j, made, left, right); err != nil {
		return nil, err
	}
	if j.GetQuals() != nil {
		b.at = place{bits: made.all, on: made}
		err = b.conjuncts(j.GetQuals(), made, &scope{sources: []*source{left, right}, outer: b.outer})
		b.at = everywhere
	}
	return s, err
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
		if l.other != nil || r.other != nil {
			return nil, &refusal{at: at, what: "USING (" + name + ") of a column that FULL JOIN merged is not supported", why: whyUnknown, do: "Write ON with coalesce of both."}
		}
		if l.column == nil || r.column == nil || l.column.TypeOID != r.column.TypeOID {
			return nil, &refusal{
				at: at, what: "USING (" + name + ") joins columns of different types: " + typeText(l.columnRef) + " and " + typeText(r.columnRef),
				why: "the merged column has a third type", do: "Write ON " + l.String() + " = " + r.String() + ".",
			}
		}
		l.note()
		r.note()
		leftColumn, rightColumn := l.columnRef, r.columnRef
		b.conditions = append(b.conditions, b.equality(made, operand{column: &leftColumn}, operand{column: &rightColumn}, at))
		hidden[name] = true
		switch j.GetJointype() {
		case pg_query.JoinType_JOIN_RIGHT:
			merged = append(merged, r) // the merged column is that of the side whose rows all stay
		case pg_query.JoinType_JOIN_FULL:
			l.other = &rightColumn
			merged = append(merged, l)
		default:
			merged = append(merged, l)
		}
	}
	for _, s := range []*source{left, right} {
		for _, v := range s.columns {
			if !hidden[v.name] {
				merged = append(merged, v)
			}
		}
	}
	return merged, nil
}

func typeText(c columnRef) string {
	if c.column == nil {
		return "an expression's"
	}
	return c.column.Type
}

// note remembers that the query reads the column.
func (r columnRef) note() {
	if r.occurrence.table != nil {
		r.occurrence.read[r.column.Name] = true
	}
	if r.other != nil {
		r.other.note()
	}
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

// forcesRow reports that the block yields a row whether there are rows or not, so that its conditions need not hold of any.
func (b *block) forcesRow() bool { return b.aggregates && (b.sets || b.groupItems == 0) }

// passes reports whether a condition on an output may as well be asked of the rows that the block reads: then only the
// rows that satisfy it matter to what satisfies it above.
func (b *block) passes(o output) bool {
	if !o.plain || b.limited || !b.copies(o) {
		return false
	}
	if b.hasDistinct && !slices.ContainsFunc(b.distinctOn, o.column.same) {
		return false
	}
	for _, w := range b.windows {
		if !slices.ContainsFunc(b.partition(w), o.column.same) {
			return false
		}
	}
	return true
}

// copies reports whether the output's value is that of the column in every row that makes the output's row.
func (b *block) copies(o output) bool {
	return o.plain && (!b.aggregates || !b.sets && slices.ContainsFunc(b.groups, o.column.same))
}

func (r columnRef) same(other columnRef) bool {
	return r.occurrence == other.occurrence && r.name == other.name && r.other == nil && other.other == nil
}

// partition lists the plain columns by which a window is partitioned.
func (b *block) partition(w *pg_query.WindowDef) []columnRef {
	var columns []columnRef
	for _, node := range w.GetPartitionClause() {
		if ref := node.GetColumnRef(); ref != nil {
			if c, err := b.look(ref, b.whole()); err == nil {
				columns = append(columns, c.columnRef)
			}
		}
	}
	name := w.GetRefname()
	if name == "" && len(w.GetPartitionClause()) == 0 && len(w.GetOrderClause()) == 0 {
		name = w.GetName() // OVER name
	}
	for _, node := range b.statement.GetWindowClause() {
		d := node.GetWindowDef()
		if d == w {
			break // a definition can refer to earlier ones only
		}
		if name != "" && d.GetName() == name {
			columns = append(columns, b.partition(d)...)
		}
	}
	return columns
}
