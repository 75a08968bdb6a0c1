package plan

import (
	"fmt"
	"slices"

	pg_query "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/freshet/freshet/internal/keytext"
)

// selectList reads what the block returns. Stars are expanded and every output gets its name.
func (b *block) selectList() error {
	targets := b.statement.GetTargetList()
	if b.exists && len(targets) == 1 && isStar(targets[0]) && !b.looksAtOutputs() {
		// Only whether there is a row counts: the star would read every column for nothing.
		b.visits()[targets[0].GetResTarget()] = true
		b.visits()[targets[0].GetResTarget().GetVal().GetColumnRef()] = true
		b.edit(func() {
			b.statement.TargetList = []*pg_query.Node{pg_query.MakeResTargetNodeWithVal(pg_query.MakeAConstIntNode(1, 0), 0)}
		})
		return nil
	}
	var expanded []*pg_query.Node
	for _, node := range targets {
		target := node.GetResTarget()
		b.visits()[target] = true
		at := int(target.GetLocation())
		if isStar(node) {
			ref := target.GetVal().GetColumnRef()
			names, _ := nameParts(ref)
			nodes, err := b.star(ref, names, at)
			if err != nil {
				return err
			}
			expanded = append(expanded, nodes...)
			continue
		}
		if err := b.target(target, at); err != nil {
			return err
		}
		expanded = append(expanded, node)
	}
	if len(expanded) == 0 && b.parent == nil {
		return &refusal{at: 0, what: "the query returns no column", why: "there is nothing to cache", do: "Select at least one column."}
	}
	b.edit(func() { b.statement.TargetList = expanded })
	return nil
}

// looksAtOutputs reports whether it matters to how many rows there are what the select list has: DISTINCT tells rows apart by it, and GROUP BY
// and ORDER BY may name its columns by number.
func (b *block) looksAtOutputs() bool {
	s := b.statement
	return len(s.GetDistinctClause()) > 0 || len(s.GetGroupClause()) > 0 ||
		slices.ContainsFunc(s.GetSortClause(), func(n *pg_query.Node) bool { return n.GetSortBy().GetNode().GetAConst() != nil })
}

func isStar(target *pg_query.Node) bool {
	ref := target.GetResTarget().GetVal().GetColumnRef()
	if ref == nil {
		return false
	}
	_, star := nameParts(ref)
	return star
}

// target reads one output.
func (b *block) target(target *pg_query.ResTarget, at int) error {
	out := output{name: target.GetName(), node: target.GetVal()}
	if out.name == "" {
		out.name = figure(target.GetVal())
	}
	top := b.parent == nil
	switch val := target.GetVal(); {
	case val.GetColumnRef() != nil:
		v, err := b.resolve(val.GetColumnRef(), b.whole())
		if err != nil {
			return err
		}
		if target.GetName() == "" {
			out.name = v.name
		}
		out.plain, out.column = v.other == nil, v.columnRef
		if err := settled(v.columnRef, at); err != nil {
			return err
		}
	case parameterOf(val) > 0 && top && b.reading.view == "":
		return &refusal{at: at, what: "a parameter is returned as it is", why: "who asks knows it already", do: "Select the column that it is compared with."}
	default:
		if err := b.expression(val, b.whole(), &content{}); err != nil {
			return err
		}
	}
	if top && !b.named {
		if out.name == "" {
			return &refusal{at: at, what: "this output has no name", why: "a JSON object needs one", do: "Add AS and a name."}
		}
		if err := b.output(out.name, at); err != nil {
			return err
		}
	}
	if out.name != "" {
		b.edit(func() { target.Name = out.name })
	}
	b.outputs = append(b.outputs, out)
	return nil
}

// figure is the name that PostgreSQL gives an expression that has none; empty for those that it calls ?column?.
func figure(node *pg_query.Node) string {
	switch {
	case node.GetColumnRef() != nil:
		names, _ := nameParts(node.GetColumnRef())
		return names[len(names)-1]
	case node.GetFuncCall() != nil:
		names := node.GetFuncCall().GetFuncname()
		return names[len(names)-1].GetString_().GetSval()
	case node.GetCoalesceExpr() != nil:
		return "coalesce"
	case node.GetMinMaxExpr().GetOp() == pg_query.MinMaxOp_IS_GREATEST:
		return "greatest"
	case node.GetMinMaxExpr() != nil:
		return "least"
	case node.GetAExpr().GetKind() == pg_query.A_Expr_Kind_AEXPR_NULLIF:
		return "nullif"
	case node.GetAArrayExpr() != nil:
		return "array"
	case node.GetRowExpr() != nil:
		return "row"
	case node.GetCaseExpr() != nil:
		if name := figure(node.GetCaseExpr().GetDefresult()); name != "" {
			return name
		}
		return "case"
	case node.GetTypeCast() != nil && !isConstant(node):
		return figure(node.GetTypeCast().GetArg())
	case node.GetSubLink().GetSubLinkType() == pg_query.SubLinkType_EXISTS_SUBLINK:
		return "exists"
	case node.GetSubLink().GetSubLinkType() == pg_query.SubLinkType_ARRAY_SUBLINK:
		return "array"
	case node.GetSubLink().GetSubLinkType() == pg_query.SubLinkType_EXPR_SUBLINK:
		if targets := node.GetSubLink().GetSubselect().GetSelectStmt().GetTargetList(); len(targets) == 1 {
			if name := targets[0].GetResTarget().GetName(); name != "" {
				return name
			}
			return figure(targets[0].GetResTarget().GetVal())
		}
	}
	return ""
}

// output checks the name of a result column. Two of one name would make a JSON object that carries both.
func (b *block) output(name string, at int) error {
	if slices.ContainsFunc(b.outputs, func(o output) bool { return o.name == name }) {
		return &refusal{
			at: at, what: "two columns of the result are called " + name, why: "a JSON object would carry both, and readers would see one of them",
			do: "Give one of them another name with AS, or list the columns instead of *.",
		}
	}
	return nil
}

func (b *block) star(ref *pg_query.ColumnRef, names []string, at int) ([]*pg_query.Node, error) {
	b.visits()[ref] = true
	var columns []visible
	if len(names) == 0 {
		for _, s := range b.from {
			columns = append(columns, s.columns...)
		}
	} else {
		o := b.compiler.named(names, &scope{sources: b.from})
		if o == nil {
			return nil, &refusal{at: at, what: "there is no table " + names[len(names)-1] + " in FROM", do: "Use the name or alias that FROM gives it."}
		}
		columns = o.columns
	}
	nodes := make([]*pg_query.Node, 0, len(columns))
	for _, v := range columns {
		if b.parent == nil && !b.named {
			if err := b.output(v.name, at); err != nil {
				return nil, err
			}
		}
		if err := settled(v.columnRef, at); err != nil {
			return nil, err
		}
		v.note()
		fields := []*pg_query.Node{pg_query.MakeStrNode(v.occurrence.alias), pg_query.MakeStrNode(v.name)}
		if v.other != nil {
			fields = fields[1:] // the merged column has only its own name
		}
		node := pg_query.MakeColumnRefNode(fields, 0)
		b.outputs = append(b.outputs, output{name: v.name, column: v.columnRef, plain: v.other == nil, node: node})
		nodes = append(nodes, pg_query.MakeResTargetNodeWithNameAndVal(v.name, node, 0))
	}
	return nodes, nil
}

// settled refuses a column whose text changes without its row: it names something of the catalog, or follows a setting.
func settled(c columnRef, at int) error {
	if c.column == nil {
		return nil // of an expression, which has no such type
	}
	switch c.column.TypeName {
	case "regproc", "regprocedure", "regoper", "regoperator", "regclass", "regtype", "regrole", "regnamespace", "regconfig", "regdictionary", "regcollation":
		return &refusal{at: at, what: fmt.Sprintf("%s has the type %s", c, c.column.Type), why: "its text follows the catalog and changes without a write to the row", do: "Leave the column out."}
	case "money":
		return &refusal{at: at, what: fmt.Sprintf("%s has the type %s", c, c.column.Type), why: "its text follows the session's lc_monetary, which differs from reader to reader", do: "Leave the column out, or keep the amount in a numeric column."}
	}
	return nil
}

// orderBy reads ORDER BY: outputs by name or number, and expressions.
func (b *block) orderBy() error {
	for _, node := range b.statement.GetSortClause() {
		s := node.GetSortBy()
		b.visits()[s] = true
		b.ordered = true
		column, err := b.key(s.GetNode(), true)
		if err != nil {
			return err
		}
		if column != nil {
			b.orderedBy = append(b.orderedBy, *column)
		}
	}
	return nil
}

// key reads an item of ORDER BY, GROUP BY or DISTINCT ON: an output by its number, an output by its name (before columns
// of FROM or after them, as PostgreSQL has it), or an expression. It returns the column that it is, if it is one.
func (b *block) key(node *pg_query.Node, outputsFirst bool) (*columnRef, error) {
	if k := node.GetAConst(); k.GetIval() != nil {
		b.visits()[k] = true
		if n := int(k.GetIval().GetIval()); n >= 1 && n <= len(b.outputs) && b.outputs[n-1].plain {
			return &b.outputs[n-1].column, nil
		}
		return nil, nil //nolint:nilnil // an output that is no column
	}
	ref := node.GetColumnRef()
	if ref == nil {
		return nil, b.expression(node, b.whole(), &content{})
	}
	names, _ := nameParts(ref)
	i := slices.IndexFunc(b.outputs, func(o output) bool { return len(names) == 1 && o.name == names[0] })
	if i >= 0 && !outputsFirst {
		_, err := b.look(ref, &scope{sources: b.from})
		outputsFirst = err != nil
	}
	if i >= 0 && outputsFirst {
		b.visits()[ref] = true
		if b.outputs[i].plain {
			return &b.outputs[i].column, nil
		}
		return nil, nil //nolint:nilnil // an output that is no column
	}
	v, err := b.resolve(ref, b.whole())
	if err != nil || v.other != nil {
		return nil, err
	}
	return &v.columnRef, nil
}

// groupBy reads GROUP BY.
func (b *block) groupBy() error {
	for _, node := range b.statement.GetGroupClause() {
		b.aggregates = true
		b.groupItems++
		if set := node.GetGroupingSet(); set != nil {
			b.sets = true
			if err := b.groupingSet(set); err != nil {
				return err
			}
			continue
		}
		column, err := b.key(node, false)
		if err != nil {
			return err
		}
		if column != nil {
			b.groups = append(b.groups, *column)
		}
	}
	return nil
}

func (b *block) groupingSet(set *pg_query.GroupingSet) error {
	b.visits()[set] = true
	for _, node := range set.GetContent() {
		nodes := []*pg_query.Node{node}
		if row := node.GetRowExpr(); row != nil {
			b.visits()[row] = true
			nodes = row.GetArgs()
		}
		for _, one := range nodes {
			if inner := one.GetGroupingSet(); inner != nil {
				if err := b.groupingSet(inner); err != nil {
					return err
				}
				continue
			}
			column, err := b.key(one, false)
			if err != nil {
				return err
			}
			if column != nil {
				b.groups = append(b.groups, *column)
			}
		}
	}
	return nil
}

// having reads HAVING. It chooses among groups, and says nothing of a single row.
func (b *block) having() error {
	node := b.statement.GetHavingClause()
	if node == nil {
		return nil
	}
	b.aggregates = true
	return b.expression(node, b.whole(), &content{})
}

func (b *block) distinct() error {
	for _, node := range b.statement.GetDistinctClause() {
		if node.GetNode() == nil {
			continue // DISTINCT alone
		}
		b.hasDistinct = true
		column, err := b.key(node, true)
		if err != nil {
			return err
		}
		if column != nil {
			b.distinctOn = append(b.distinctOn, *column)
		}
	}
	return nil
}

func (b *block) limit() error {
	for _, node := range []*pg_query.Node{b.statement.GetLimitCount(), b.statement.GetLimitOffset()} {
		if node == nil {
			continue
		}
		b.limited = true
		if err := b.expression(node, nil, &content{}); err != nil {
			return err
		}
		b.typed(int(node.GetParamRef().GetNumber()), keytext.Int8, location(node.ProtoReflect()))
	}
	return nil
}

// canonical turns the tree into the text that everyone executes: tables with their schema, columns with their table,
// stars expanded, outputs named. It is parsed again, so that what is published is what was planned.
func (c *compiler) canonical() (string, error) {
	for _, edit := range c.reading.edits {
		edit()
	}
	return publish(c.tree)
}

// publish writes a tree's text, and sees that it reads as the tree.
func publish(tree *pg_query.ParseResult) (string, error) {
	text, err := pg_query.Deparse(tree)
	if err != nil {
		return "", fmt.Errorf("write the canonical query: %w", err)
	}
	again, err := pg_query.Parse(text)
	if err != nil {
		return "", fmt.Errorf("read the canonical query back: %w", err)
	}
	planned, ok := proto.Clone(tree.GetStmts()[0].GetStmt()).(*pg_query.Node)
	if !ok || len(again.GetStmts()) != 1 {
		return "", &refusal{at: nowhere, what: "the canonical query does not read as planned"}
	}
	published := again.GetStmts()[0].GetStmt()
	forgetPlaces(planned.ProtoReflect())
	forgetPlaces(published.ProtoReflect())
	if !proto.Equal(planned, published) {
		return "", &refusal{at: nowhere, what: "the canonical query does not read as planned: " + text, do: "Please report this query."}
	}
	return text, nil
}

// forgetPlaces clears what differs between two readings of one query: places in the text, and AND within AND or OR within OR.
func forgetPlaces(m protoreflect.Message) {
	if f := m.Descriptor().Fields().ByName("location"); f != nil {
		m.Clear(f)
	}
	if e, ok := m.Interface().(*pg_query.BoolExpr); ok && e.GetBoolop() != pg_query.BoolExprType_NOT_EXPR {
		e.Args = flatten(e.GetBoolop(), e.GetArgs())
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Kind() != protoreflect.MessageKind:
		case f.IsList():
			for i := range v.List().Len() {
				forgetPlaces(v.List().Get(i).Message())
			}
		default:
			forgetPlaces(v.Message())
		}
		return true
	})
}

func flatten(op pg_query.BoolExprType, args []*pg_query.Node) []*pg_query.Node {
	var flat []*pg_query.Node
	for _, arg := range args {
		if e := arg.GetBoolExpr(); e != nil && e.GetBoolop() == op {
			flat = append(flat, flatten(op, e.GetArgs())...)
		} else {
			flat = append(flat, arg)
		}
	}
	return slices.Clip(flat)
}
