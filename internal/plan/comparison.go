package plan

import (
	"cmp"
	"fmt"
	"slices"

	pg_query "github.com/pganalyze/pg_query_go/v6"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
)

// comparison reads an operator's expression as a condition. Equalities and comparisons with constants say something of
// the rows; of the rest only is known what it reads.
func (b *block) comparison(node *pg_query.Node, j *join, in *scope, negated bool) (*condition, error) {
	e := node.GetAExpr()
	op, err := operatorName(e)
	if err != nil {
		return nil, err
	}
	left, right := e.GetLexpr(), e.GetRexpr()
	if negated {
		return b.opaque(node, j, in)
	}
	switch e.GetKind() {
	case pg_query.A_Expr_Kind_AEXPR_OP:
		if op == "=" && left != nil {
			return b.equation(node, j, in)
		}
		if left != nil && slices.Contains([]string{"<>", "<", "<=", ">", ">="}, op) {
			if left.GetColumnRef() == nil {
				left, right = right, left
			}
			if left.GetColumnRef() != nil && isConstant(right) {
				b.visits()[e] = true
				return b.constants(left.GetColumnRef(), op == "<>", op == "<>", []*pg_query.Node{right}, j, in, int(e.GetLocation()))
			}
		}
	case pg_query.A_Expr_Kind_AEXPR_IN:
		return b.in(node, op == "<>", j, in)
	case pg_query.A_Expr_Kind_AEXPR_BETWEEN:
		if items := right.GetList().GetItems(); left.GetColumnRef() != nil && !slices.ContainsFunc(items, notConstant) {
			b.visits()[e] = true
			return b.constants(left.GetColumnRef(), false, false, items, j, in, int(e.GetLocation()))
		}
	case pg_query.A_Expr_Kind_AEXPR_OP_ANY:
		if items := right.GetAArrayExpr().GetElements(); op == "=" && left.GetColumnRef() != nil && len(items) > 0 && !slices.ContainsFunc(items, notConstant) {
			b.visits()[e], b.visits()[right.GetAArrayExpr()] = true, true
			return b.constants(left.GetColumnRef(), true, false, items, j, in, int(e.GetLocation()))
		}
		if op == "=" && left.GetColumnRef() != nil && parameterOf(right) > 0 {
			return b.membership(e, j, in)
		}
	default:
	}
	return b.opaque(node, j, in)
}

// isConstant reports a constant, bare or cast.
func isConstant(node *pg_query.Node) bool {
	return node.GetAConst() != nil || node.GetTypeCast().GetArg().GetAConst() != nil
}

func notConstant(node *pg_query.Node) bool { return !isConstant(node) }

// in reads IN with a list. With a parameter in it, or on its left, it is one equality or another.
func (b *block) in(node *pg_query.Node, not bool, j *join, in *scope) (*condition, error) {
	e := node.GetAExpr()
	at := int(e.GetLocation())
	items := e.GetRexpr().GetList().GetItems()
	switch {
	case e.GetLexpr().GetColumnRef() != nil && !slices.ContainsFunc(items, notConstant):
		b.visits()[e] = true
		return b.constants(e.GetLexpr().GetColumnRef(), true, not, items, j, in, at)
	case not || !tieable(e.GetLexpr()) || slices.ContainsFunc(items, func(n *pg_query.Node) bool { return !tieable(n) && !isConstant(n) }):
		return b.opaque(node, j, in)
	}
	b.visits()[e] = true
	c := &condition{join: j, at: at}
	for _, item := range items {
		one, err := b.pair(e.GetLexpr(), item, j, in, at)
		if err != nil {
			return nil, err
		}
		c.alternatives = append(c.alternatives, []*condition{one})
	}
	c.settle()
	return c, nil
}

// tieable reports what an equality can tie: a column or a parameter.
func tieable(node *pg_query.Node) bool {
	return node.GetColumnRef() != nil || node.GetParamRef() != nil || node.GetTypeCast().GetArg().GetParamRef() != nil
}

// constants reads a comparison of a column with constants. It is strict: NULL compares as unknown. With judged, it is
// a filter for route where the constants have a canonical text.
func (b *block) constants(ref *pg_query.ColumnRef, judged, not bool, values []*pg_query.Node, j *join, in *scope, at int) (*condition, error) {
	v, err := b.resolve(ref, in)
	if err != nil {
		return nil, err
	}
	c := v.columnRef
	a := &condition{join: j, at: at}
	if c.other == nil {
		a.strict = c.occurrence.bit()
	}
	if c.column != nil {
		if err := judgeable(c, at); err != nil {
			return nil, err
		}
	}
	texts := make([]string, 0, len(values))
	for _, v := range values {
		k, cast, err := b.constant(v, c)
		if err != nil {
			return nil, err
		}
		if c.column == nil {
			if err := neverSpecial("", k); err != nil {
				return nil, err
			}
			continue
		}
		if err := timeless(columnType(c.column), k); err != nil {
			return nil, err
		}
		// Across types equality is not that of the texts. A number that is cast is spelled as PostgreSQL spells it, and not as it stands
		// here: 1e2::text is '100'.
		judged = judged && (cast == "" || family(cast, 0) == columnFamily(c.column) && (k.GetSval() != nil || k.GetIval() != nil && counts(cast)))
		if k.GetIsnull() {
			judged = judged && !not // x NOT IN (.., NULL) is never TRUE; x IN (.., NULL) only for the others
			continue
		}
		text, ok := canonicalConstant(c.column, k)
		judged = judged && ok
		texts = append(texts, text)
	}
	if c.column == nil || c.other != nil {
		return a, nil
	}
	a.on = &c
	if t, ok := keyType(c.column); ok && judged && len(texts) > 0 {
		op := rule.In
		if not {
			op = rule.NotIn
		}
		a.filter = filter(c, rule.Condition{Column: c.name, Op: op, Type: t, Values: texts})
	}
	return a, nil
}

// counts reports a type of whole numbers, to which a whole number is cast as it stands.
func counts(t keytext.Type) bool {
	return family(t, 0) == family(keytext.Int8, 0) || t == keytext.Numeric
}

// equation reads left = right.
func (b *block) equation(node *pg_query.Node, j *join, in *scope) (*condition, error) {
	e := node.GetAExpr()
	left, right := e.GetLexpr(), e.GetRexpr()
	if l, r := left.GetRowExpr(), right.GetRowExpr(); l != nil && r != nil && len(l.GetArgs()) == len(r.GetArgs()) {
		return b.rowEquation(e, l, r, j, in)
	}
	if left.GetColumnRef() == nil {
		left, right = right, left
	}
	switch {
	case left.GetColumnRef() != nil && isConstant(right):
		b.visits()[e] = true
		return b.constants(left.GetColumnRef(), true, false, []*pg_query.Node{right}, j, in, int(e.GetLocation()))
	case left.GetColumnRef() != nil && tieable(right):
		b.visits()[e] = true
		return b.pair(left, right, j, in, int(e.GetLocation()))
	}
	c, err := b.opaque(node, j, in)
	if err != nil {
		return nil, err
	}
	// An expression that is compared with a parameter: f(column) = @p.
	for _, pair := range [2][2]*pg_query.Node{{left, right}, {right, left}} {
		if n := parameterOf(pair[1]); n > 0 && parameterOf(pair[0]) == 0 && !isConstant(pair[0]) {
			c.unfit = &refusal{
				at: int(e.GetLocation()), what: fmt.Sprintf("parameter {%s} is compared with an expression", b.compiler.params[n-1].Name),
				why: "which key a changed row belongs to is what the expression makes of it; only the database could say that",
				do:  "Store the value in a column of its own (not a generated one, which the log does not carry) and compare that.",
			}
			c.right = operand{parameter: n}
		}
	}
	return c, nil
}

func parameterOf(node *pg_query.Node) int {
	if p := node.GetParamRef(); p != nil {
		return int(p.GetNumber())
	}
	return int(node.GetTypeCast().GetArg().GetParamRef().GetNumber())
}

// rowEquation reads (a, b) = (c, d).
func (b *block) rowEquation(e *pg_query.A_Expr, l, r *pg_query.RowExpr, j *join, in *scope) (*condition, error) {
	b.visits()[e], b.visits()[l], b.visits()[r] = true, true, true
	c := &condition{join: j, at: int(e.GetLocation())}
	var all []*condition
	for i, left := range l.GetArgs() {
		one, err := b.pair(left, r.GetArgs()[i], j, in, c.at)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	c.alternatives = [][]*condition{all} // the only one
	c.settle()
	return c, nil
}

// pair reads the equality of two expressions that were not put under an operator of their own.
func (b *block) pair(left, right *pg_query.Node, j *join, in *scope, at int) (*condition, error) {
	if left.GetColumnRef() == nil {
		left, right = right, left
	}
	if left.GetColumnRef() != nil && isConstant(right) {
		return b.constants(left.GetColumnRef(), true, false, []*pg_query.Node{right}, j, in, at)
	}
	l, err := b.operand(left, in)
	if err != nil {
		return nil, err
	}
	r, err := b.operand(right, in)
	if err != nil {
		return nil, err
	}
	return b.equality(j, l, r, at), nil
}

func (b *block) operand(node *pg_query.Node, in *scope) (operand, error) {
	at := location(node.ProtoReflect())
	switch {
	case node.GetColumnRef() != nil:
		v, err := b.resolve(node.GetColumnRef(), in)
		c := v.columnRef
		return operand{column: &c, at: at}, err
	case node.GetParamRef() != nil:
		b.visits()[node.GetParamRef()] = true
		return operand{parameter: int(node.GetParamRef().GetNumber()), written: node, at: at}, nil
	case node.GetTypeCast().GetArg().GetParamRef() != nil:
		return b.castParameter(node.GetTypeCast())
	}
	err := b.expression(node, in, &content{})
	return operand{at: at, bits: b.strict(node, in)}, err
}

// castParameter reads a parameter that is cast: the cast decides its type.
func (b *block) castParameter(cast *pg_query.TypeCast) (operand, error) {
	name, ok := castName(cast)
	if bounds := cast.GetTypeName().GetArrayBounds(); len(bounds) == 1 && len(cast.GetTypeName().GetTypmods()) == 0 {
		if element, builtin := typeName(cast.GetTypeName()); builtin {
			if name, ok = builtIn(element); name != notInKeys {
				name = keytext.Array(name)
			}
		}
	}
	p := cast.GetArg().GetParamRef()
	if !ok || name == notInKeys {
		return operand{}, &refusal{
			at: int(p.GetLocation()), what: "a parameter is cast to a type that cannot stand in a key", why: "equal values of it can have different text",
			do: "Leave the cast out, or cast to the type of the column.",
		}
	}
	b.visits()[cast], b.visits()[p] = true, true
	return operand{parameter: int(p.GetNumber()), cast: name, at: int(p.GetLocation())}, nil
}

// constant reads a constant that a column is compared with, and the type that it is cast to, unless that is the column's own.
func (b *block) constant(node *pg_query.Node, c columnRef) (*pg_query.A_Const, keytext.Type, error) {
	cast := node.GetTypeCast()
	if cast == nil {
		b.visits()[node.GetAConst()] = true
		return node.GetAConst(), "", nil
	}
	k := cast.GetArg().GetAConst()
	name, ok := castName(cast)
	if !ok && c.column != nil && c.column.Category == 'e' && namesType(cast.GetTypeName(), c.column) {
		name, ok = "", true
		b.qualify(cast, c.column.TypeSchema)
	}
	if !ok {
		return nil, "", &refusal{
			at: location(node.ProtoReflect()), what: "a cast of this kind is not supported yet", why: "what it does is not known here",
			do: "Cast only a constant or a parameter, and only to a built-in type such as bigint, text or date.",
		}
	}
	if err := timeless(name, k); err != nil {
		return nil, "", err
	}
	b.visits()[cast], b.visits()[k] = true, true
	return k, name, nil
}

// membership reads column = ANY (@parameter): the column is equal to one of the elements. Two such conditions on one
// parameter need not mean the same element.
func (b *block) membership(e *pg_query.A_Expr, j *join, in *scope) (*condition, error) {
	b.visits()[e] = true
	at := int(e.GetLocation())
	v, err := b.resolve(e.GetLexpr().GetColumnRef(), in)
	if err != nil {
		return nil, err
	}
	right, err := b.operand(e.GetRexpr(), in)
	if err != nil {
		return nil, err
	}
	left := v.columnRef
	a := &condition{join: j, at: at, left: operand{column: &left, at: at}, right: right}
	if left.other == nil {
		a.strict = left.occurrence.bit()
	}
	c := b.compiler
	if a.unfit = c.elementUnfit(left, right.parameter, at); a.fits() {
		c.typed = append(c.typed, typedUse{parameter: right.parameter, cast: cmp.Or(right.cast, keytext.Array(columnType(left.column))), at: at})
		if right.cast == "" || family(elementOf(right.cast), 0) == columnFamily(left.column) {
			c.members++
			a.member = c.members
		}
	}
	return a, nil
}

// fits reports that the values which the condition compares are equal when their texts are.
func (c *condition) fits() bool { return c.unfit == nil }

// elementUnfit is why elements of a parameter do not tie a column to a key.
func (c *compiler) elementUnfit(column columnRef, parameter, at int) *refusal {
	if r := inKeys(column, at); r != nil {
		return r
	}
	if columnType(column.column) != keytext.Enum {
		return nil
	}
	return &refusal{
		at: at, what: fmt.Sprintf("%s has the type %s, and parameter {%s} is an array of it", column, column.column.Type, c.params[parameter-1].Name),
		why: "arrays of enums cannot stand in a key yet", do: "Compare it with = and load each by itself.",
	}
}

func elementOf(array keytext.Type) keytext.Type {
	element, _ := array.Element()
	return element
}

// equality is that of columns and parameters. Where equal values can have different texts it ties nothing, and says why.
func (b *block) equality(j *join, left, right operand, at int) *condition {
	if left.column == nil {
		left, right = right, left
	}
	a := &condition{join: j, at: at, left: left, right: right, strict: left.bits | right.bits}
	for _, side := range []operand{left, right} {
		if side.column != nil && side.column.other == nil {
			a.strict |= side.column.occurrence.bit()
		}
	}
	// Where the other side's type is not known here, PostgreSQL would give the parameter that type if this use came first.
	for _, p := range []operand{left, right} {
		if p.written != nil && (left.column == nil || inKeys(*left.column, at) != nil) {
			b.writeType(p.written)
		}
	}
	if right.parameter > 0 && left.column != nil {
		b.compiler.typed = append(b.compiler.typed, typedUse{parameter: right.parameter, column: left.column, cast: right.cast, at: at})
	} else if n := max(left.parameter, right.parameter); n > 0 {
		b.compiler.loose = append(b.compiler.loose, looseUse{parameter: n, at: at, view: b.reading.view, operator: "="})
	}
	if left.column == nil || right.column == nil && right.parameter == 0 {
		return a // with an expression
	}
	if a.unfit = inKeys(*left.column, at); a.unfit != nil {
		return a
	}
	if right.column != nil {
		if a.unfit = inKeys(*right.column, at); a.unfit != nil {
			return a
		}
		if columnFamily(left.column.column) != columnFamily(right.column.column) {
			a.unfit = &refusal{
				at: at, what: fmt.Sprintf("%s is %s and %s is %s", left.column, left.column.column.Type, right.column, right.column.column.Type),
				why: "equal values of different types can have different text, so that a changed row would be mapped to another key",
				do:  "Give both columns the same type.",
			}
			return a
		}
	}
	a.equal = true
	return a
}
