package plan

import (
	"fmt"
	"slices"

	pg_query "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// selectList reads what the query returns. Stars are expanded and every output gets its name.
func (b *block) selectList() error {
	var expanded []*pg_query.Node
	for _, node := range b.statement.GetTargetList() {
		target := node.GetResTarget()
		b.visits[target] = true
		at := int(target.GetLocation())
		if ref := target.GetVal().GetColumnRef(); ref != nil {
			if names, star := nameParts(ref); star {
				nodes, err := b.star(ref, names, at)
				if err != nil {
					return err
				}
				expanded = append(expanded, nodes...)
				continue
			}
		}
		name, err := b.value(target.GetVal(), at)
		if err != nil {
			return err
		}
		if target.GetName() != "" {
			name = target.GetName()
		}
		if name == "" {
			return &refusal{at: at, what: "this output has no name", why: "a JSON object needs one", do: "Add AS and a name."}
		}
		if err := b.output(name, at); err != nil {
			return err
		}
		b.edits = append(b.edits, func() { target.Name = name })
		expanded = append(expanded, node)
	}
	if len(expanded) == 0 {
		return &refusal{at: 0, what: "the query returns no column", why: "there is nothing to cache", do: "Select at least one column."}
	}
	b.edits = append(b.edits, func() { b.statement.TargetList = expanded })
	return nil
}

// output notes the name of a result column. Two of one name would make a JSON object that carries both.
func (b *block) output(name string, at int) error {
	if b.outputs[name] {
		return &refusal{
			at: at, what: "two columns of the result are called " + name, why: "a JSON object would carry both, and readers would see one of them",
			do: "Give one of them another name with AS, or list the columns instead of *.",
		}
	}
	b.outputs[name] = true
	return nil
}

func (b *block) star(ref *pg_query.ColumnRef, names []string, at int) ([]*pg_query.Node, error) {
	b.visits[ref] = true
	var columns []visible
	if len(names) == 0 {
		for _, s := range b.from {
			columns = append(columns, s.columns...)
		}
	} else {
		o := b.named(names, b.from)
		if o == nil {
			return nil, &refusal{at: at, what: "there is no table " + names[len(names)-1] + " in FROM", do: "Use the name or alias that FROM gives it."}
		}
		for i := range o.table.Columns {
			columns = append(columns, visible{name: o.table.Columns[i].Name, columnRef: columnRef{occurrence: o, column: &o.table.Columns[i]}})
		}
	}
	nodes := make([]*pg_query.Node, 0, len(columns))
	for _, v := range columns {
		if err := b.output(v.name, at); err != nil {
			return nil, err
		}
		if err := settled(v.columnRef, at); err != nil {
			return nil, err
		}
		v.occurrence.read[v.column.Name] = true
		nodes = append(nodes, pg_query.MakeResTargetNodeWithNameAndVal(v.name, pg_query.MakeColumnRefNode(
			[]*pg_query.Node{pg_query.MakeStrNode(v.occurrence.alias), pg_query.MakeStrNode(v.column.Name)}, 0), 0))
	}
	return nodes, nil
}

// value reads an output: a column, a constant, or coalesce of them. It returns the name that PostgreSQL gives it.
func (b *block) value(node *pg_query.Node, at int) (string, error) {
	switch {
	case node.GetColumnRef() != nil:
		c, err := b.resolve(node.GetColumnRef(), b.from)
		if err != nil {
			return "", err
		}
		return c.column.Name, settled(c, at)
	case node.GetCoalesceExpr() != nil:
		return "coalesce", b.coalesce(node.GetCoalesceExpr(), at)
	case node.GetParamRef() != nil || node.GetTypeCast().GetArg().GetParamRef() != nil:
		return "", &refusal{at: at, what: "a parameter is returned as it is", why: "who asks knows it already", do: "Select the column that it is compared with."}
	case node.GetAConst() != nil || node.GetTypeCast() != nil:
		_, _, err := b.constant(node, at)
		return "", err
	}
	return "", &refusal{
		at: at, what: "an expression is not supported yet; a query selects plain columns, constants and coalesce of them", why: whyUnknown,
		do: "Select the columns and compute in the application.",
	}
}

// coalesce reads its arguments. A string constant among them takes the type of the columns, and may then mean
// something that changes by itself, such as 'today'.
func (b *block) coalesce(e *pg_query.CoalesceExpr, at int) error {
	b.visits[e] = true
	for _, arg := range e.GetArgs() {
		if _, err := b.value(arg, at); err != nil {
			return err
		}
	}
	columns, constants, err := b.parts(e)
	if err != nil {
		return err
	}
	for _, k := range constants {
		for _, c := range columns {
			if columnType(c.column) == "" && k.GetSval() != nil {
				return &refusal{
					at: int(k.GetLocation()), what: fmt.Sprintf("coalesce of %s, which has the type %s, with a string", c, c.column.Type),
					why: "what the string means as a value of that type is not known here", do: "Select the column, and let the application put the string in its place.",
				}
			}
			if err := timeless(columnType(c.column), k); err != nil {
				return err
			}
		}
	}
	return nil
}

// parts lists the columns and the constants in a coalesce, at any depth.
func (b *block) parts(e *pg_query.CoalesceExpr) (columns []columnRef, constants []*pg_query.A_Const, err error) {
	for _, arg := range e.GetArgs() {
		switch {
		case arg.GetColumnRef() != nil:
			c, err := b.resolve(arg.GetColumnRef(), b.from)
			if err != nil {
				return nil, nil, err
			}
			columns = append(columns, c)
		case arg.GetAConst() != nil:
			constants = append(constants, arg.GetAConst())
		case arg.GetCoalesceExpr() != nil:
			more, others, err := b.parts(arg.GetCoalesceExpr())
			if err != nil {
				return nil, nil, err
			}
			columns, constants = append(columns, more...), append(constants, others...)
		}
	}
	return columns, constants, nil
}

// settled refuses a column whose text changes without its row: it names something of the catalog.
func settled(c columnRef, at int) error {
	switch c.column.TypeName {
	case "regproc", "regprocedure", "regoper", "regoperator", "regclass", "regtype", "regrole", "regnamespace", "regconfig", "regdictionary", "regcollation":
		return &refusal{at: at, what: fmt.Sprintf("%s has the type %s", c, c.column.Type), why: "its text follows the catalog and changes without a write to the row", do: "Leave the column out."}
	}
	return nil
}

// orderBy reads ORDER BY: outputs by name or number, and plain columns.
func (b *block) orderBy() error {
	for _, node := range b.statement.GetSortClause() {
		s := node.GetSortBy()
		b.visits[s] = true
		b.ordered = true
		at := max(0, location(s.ProtoReflect()))
		switch key := s.GetNode(); {
		case key.GetAConst().GetIval() != nil: // an ordinal, which PostgreSQL checks
			b.visits[key.GetAConst()] = true
		case key.GetColumnRef() != nil:
			names, _ := nameParts(key.GetColumnRef())
			if len(names) == 1 && b.outputs[names[0]] {
				b.visits[key.GetColumnRef()] = true
				continue
			}
			if _, err := b.resolve(key.GetColumnRef(), b.from); err != nil {
				return err
			}
		default:
			return &refusal{at: at, what: "ORDER BY an expression is not supported yet", why: whyUnknown, do: "Order by columns, outputs or ordinals."}
		}
	}
	return nil
}

// canonical turns the tree into the text that everyone executes: tables with their schema, columns with their table,
// stars expanded, outputs named. It is parsed again, so that what is published is what was planned.
func (b *block) canonical() (string, error) {
	for _, edit := range b.edits {
		edit()
	}
	text, err := pg_query.Deparse(b.tree)
	if err != nil {
		return "", fmt.Errorf("write the canonical query: %w", err)
	}
	again, err := pg_query.Parse(text)
	if err != nil {
		return "", fmt.Errorf("read the canonical query back: %w", err)
	}
	planned, ok := proto.Clone(b.tree.GetStmts()[0].GetStmt()).(*pg_query.Node)
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

// forgetPlaces clears what differs between two readings of one query: places in the text, and AND within AND.
func forgetPlaces(m protoreflect.Message) {
	if f := m.Descriptor().Fields().ByName("location"); f != nil {
		m.Clear(f)
	}
	if and, ok := m.Interface().(*pg_query.BoolExpr); ok && and.GetBoolop() == pg_query.BoolExprType_AND_EXPR {
		and.Args = flatten(and.GetArgs())
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

func flatten(args []*pg_query.Node) []*pg_query.Node {
	var flat []*pg_query.Node
	for _, arg := range args {
		if and := arg.GetBoolExpr(); and.GetBoolop() == pg_query.BoolExprType_AND_EXPR {
			flat = append(flat, flatten(and.GetArgs())...)
		} else {
			flat = append(flat, arg)
		}
	}
	return slices.Clip(flat)
}
