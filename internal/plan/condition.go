package plan

import (
	"slices"

	pg_query "github.com/pganalyze/pg_query_go/v6"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
)

// atom is one condition of a conjunction.
type atom struct {
	join   *join // whose ON it stands in; nil for WHERE
	all    bits  // the occurrences that it mentions
	strict bool  // it is not TRUE for a row of NULLs of an occurrence that it mentions
	at     int

	equal       bool // left = right, between columns, parameters and constants
	left, right operand

	filter *rule.Condition // on a column of occurrence, when route can judge it; nil otherwise
	on     *occurrence
}

// operand is one side of an equality.
type operand struct {
	column    *columnRef
	parameter int // from 1
	cast      keytext.Type
	constant  *pg_query.A_Const
}

// conjuncts reads a condition: atoms under AND.
func (b *block) conjuncts(node *pg_query.Node, j *join, scope []*source) error {
	and := node.GetBoolExpr()
	if and == nil || and.GetBoolop() != pg_query.BoolExprType_AND_EXPR {
		return b.atom(node, j, scope)
	}
	b.visits[and] = true
	for _, arg := range and.GetArgs() {
		if err := b.conjuncts(arg, j, scope); err != nil {
			return err
		}
	}
	return nil
}

func (b *block) atom(node *pg_query.Node, j *join, scope []*source) error {
	at := location(node.ProtoReflect())
	switch {
	case node.GetColumnRef() != nil: // a bare boolean column
		return b.truth(node, j, scope, pg_query.BoolTestType_IS_TRUE, at)
	case node.GetBoolExpr() != nil:
		not := node.GetBoolExpr()
		if not.GetBoolop() == pg_query.BoolExprType_NOT_EXPR && not.GetArgs()[0].GetColumnRef() != nil {
			b.visits[not] = true
			return b.truth(not.GetArgs()[0], j, scope, pg_query.BoolTestType_IS_FALSE, at)
		}
		if not.GetBoolop() == pg_query.BoolExprType_OR_EXPR {
			return &refusal{at: at, what: "OR is not supported yet", why: whyUnknown, do: "Declare an entry for each case, or use IN for values of one column."}
		}
		return &refusal{at: at, what: "NOT of anything but a boolean column is not supported yet", why: whyUnknown, do: "Write the opposite condition, such as <> or IS NOT NULL."}
	case node.GetBooleanTest() != nil:
		test := node.GetBooleanTest()
		b.visits[test] = true
		return b.truth(test.GetArg(), j, scope, test.GetBooltesttype(), at)
	case node.GetNullTest() != nil:
		return b.nullTest(node.GetNullTest(), j, scope, at)
	case node.GetAExpr() != nil:
		return b.comparison(node.GetAExpr(), j, scope)
	}
	return &refusal{at: at, what: "this condition is not supported yet", why: whyUnknown, do: "Compare a column with a column, a parameter or a constant."}
}

// plain resolves a node that has to be a column.
func (b *block) plain(node *pg_query.Node, scope []*source, at int) (columnRef, error) {
	if ref := node.GetColumnRef(); ref != nil {
		return b.resolve(ref, scope)
	}
	return columnRef{}, &refusal{at: at, what: "this is not a plain column", why: whyUnknown, do: "Test a column as it is, without an expression around it."}
}

func (b *block) truth(node *pg_query.Node, j *join, scope []*source, test pg_query.BoolTestType, at int) error {
	c, err := b.plain(node, scope, at)
	if err != nil {
		return err
	}
	if c.column.TypeName != "bool" || c.column.TypeSchema != "pg_catalog" {
		return &refusal{at: at, what: c.String() + " is not boolean but " + c.column.Type, do: "Compare it with a constant."}
	}
	a := &atom{join: j, all: c.occurrence.bit(), at: at, on: c.occurrence}
	in := func(op rule.Comparison, values ...string) {
		a.filter = filter(c, rule.Condition{Column: c.column.Name, Op: op, Type: keytext.Bool, Values: values})
	}
	yes, no := mustCanonical("true"), mustCanonical("false")
	switch test {
	case pg_query.BoolTestType_IS_TRUE:
		a.strict = true
		in(rule.In, yes)
	case pg_query.BoolTestType_IS_FALSE:
		a.strict = true
		in(rule.In, no)
	case pg_query.BoolTestType_IS_UNKNOWN:
		a.filter = filter(c, rule.Condition{Column: c.column.Name, Op: rule.IsNull})
	case pg_query.BoolTestType_IS_NOT_UNKNOWN:
		a.strict = true
		a.filter = filter(c, rule.Condition{Column: c.column.Name, Op: rule.IsNotNull})
	default: // IS NOT TRUE and IS NOT FALSE are true for NULL: route has no condition for them
	}
	b.atoms = append(b.atoms, a)
	return nil
}

func mustCanonical(boolean string) string {
	text, err := keytext.Canonical(keytext.Bool, boolean)
	if err != nil {
		panic("plan: " + err.Error()) // of two constants
	}
	return text
}

// filter is the condition for route, or nothing when the log does not carry the column.
func filter(c columnRef, condition rule.Condition) *rule.Condition {
	if c.column.Generated {
		return nil
	}
	return &condition
}

func (b *block) nullTest(test *pg_query.NullTest, j *join, scope []*source, at int) error {
	b.visits[test] = true
	c, err := b.plain(test.GetArg(), scope, at)
	if err != nil {
		return err
	}
	a := &atom{join: j, all: c.occurrence.bit(), at: at, on: c.occurrence}
	op := rule.IsNull
	if test.GetNulltesttype() == pg_query.NullTestType_IS_NOT_NULL {
		a.strict, op = true, rule.IsNotNull
	}
	if c.column.Category == 'c' || c.column.Category == 'd' && baseType(c.column) == "" {
		// A row is "null" when all of its fields are, and a NULL of it is another thing in the log.
		return &refusal{at: at, what: c.String() + " has the type " + c.column.Type, why: "IS NULL looks into a composite value", do: "Test a plain column."}
	}
	a.filter = filter(c, rule.Condition{Column: c.column.Name, Op: op})
	b.atoms = append(b.atoms, a)
	return nil
}

func (b *block) comparison(e *pg_query.A_Expr, j *join, scope []*source) error {
	b.visits[e] = true
	at := int(e.GetLocation())
	if len(e.GetName()) != 1 {
		return &refusal{at: at, what: "OPERATOR() is not supported", why: "equality has to be the built-in one", do: "Write the operator alone."}
	}
	op := e.GetName()[0].GetString_().GetSval()
	switch e.GetKind() {
	case pg_query.A_Expr_Kind_AEXPR_OP:
		if op == "=" {
			return b.equation(e, j, scope)
		}
		if e.GetLexpr() == nil || !slices.Contains([]string{"<>", "<", "<=", ">", ">="}, op) {
			return &refusal{at: at, what: "the operator " + op + " is not supported yet", why: whyUnknown, do: "Use =, <>, <, <=, >, >=, IN or IS NULL."}
		}
		return b.inequality(e, op, j, scope)
	case pg_query.A_Expr_Kind_AEXPR_IN:
		return b.in(e, op == "<>", j, scope)
	case pg_query.A_Expr_Kind_AEXPR_BETWEEN:
		return b.between(e, j, scope)
	default:
		return &refusal{at: at, what: "this comparison is not supported yet", why: whyUnknown, do: "Use =, <>, <, <=, >, >=, IN or IS NULL."}
	}
}

func (b *block) inequality(e *pg_query.A_Expr, op string, j *join, scope []*source) error {
	left, right := e.GetLexpr(), e.GetRexpr()
	if left.GetColumnRef() == nil {
		left, right = right, left
	}
	if left.GetColumnRef() == nil || right.GetParamRef() != nil || right.GetTypeCast().GetArg().GetParamRef() != nil {
		return &refusal{
			at: int(e.GetLocation()), what: "a parameter is compared by " + op, why: "which keys a row matters to is then a range, which needs a GROUP or BROAD rule; those are not built yet",
			do: "Compare parameters by =, or load the entry by code and declare depends_on.",
		}
	}
	return b.constants(left, op == "<>", op == "<>", []*pg_query.Node{right}, j, scope, int(e.GetLocation()))
}

func (b *block) in(e *pg_query.A_Expr, not bool, j *join, scope []*source) error {
	items := e.GetRexpr().GetList().GetItems()
	return b.constants(e.GetLexpr(), true, not, items, j, scope, int(e.GetLocation()))
}

func (b *block) between(e *pg_query.A_Expr, j *join, scope []*source) error {
	return b.constants(e.GetLexpr(), false, false, e.GetRexpr().GetList().GetItems(), j, scope, int(e.GetLocation()))
}

// constants reads a comparison of a column with constants. It is strict: NULL compares as unknown. With judged, it is
// a filter for route where the constants have a canonical text.
func (b *block) constants(node *pg_query.Node, judged, not bool, values []*pg_query.Node, j *join, scope []*source, at int) error {
	c, err := b.plain(node, scope, at)
	if err != nil {
		return err
	}
	if err := judgeable(c, at); err != nil {
		return err
	}
	a := &atom{join: j, all: c.occurrence.bit(), strict: true, at: at, on: c.occurrence}
	texts := make([]string, 0, len(values))
	for _, v := range values {
		k, cast, err := b.constant(v, at)
		if err != nil {
			return err
		}
		if err := timeless(columnType(c.column), k); err != nil {
			return err
		}
		// Across types equality is not that of the texts.
		judged = judged && (cast == "" || family(cast, 0) == columnFamily(c.column))
		if k.GetIsnull() {
			judged = judged && !not // x NOT IN (.., NULL) is never TRUE; x IN (.., NULL) only for the others
			continue
		}
		text, ok := canonicalConstant(c.column, k)
		judged = judged && ok
		texts = append(texts, text)
	}
	if t, ok := keyType(c.column); ok && judged && len(texts) > 0 {
		op := rule.In
		if not {
			op = rule.NotIn
		}
		a.filter = filter(c, rule.Condition{Column: c.column.Name, Op: op, Type: t, Values: texts})
	}
	b.atoms = append(b.atoms, a)
	return nil
}

// equation reads left = right.
func (b *block) equation(e *pg_query.A_Expr, j *join, scope []*source) error {
	at := int(e.GetLocation())
	left, err := b.operand(e.GetLexpr(), scope, at)
	if err != nil {
		return err
	}
	right, err := b.operand(e.GetRexpr(), scope, at)
	if err != nil {
		return err
	}
	if left.column == nil {
		left, right = right, left
	}
	if left.column != nil && right.constant != nil {
		node := e.GetRexpr()
		if e.GetLexpr().GetColumnRef() == nil {
			node = e.GetLexpr()
		}
		column := e.GetLexpr()
		if column.GetColumnRef() == nil {
			column = e.GetRexpr()
		}
		return b.constants(column, true, false, []*pg_query.Node{node}, j, scope, at)
	}
	if left.column == nil {
		return &refusal{
			at: at, what: "this equality has no column in it", why: "it is the same for all rows",
			do: "Compare parameters and constants in the application.",
		}
	}
	return b.equality(j, left, right, at)
}

func (b *block) operand(node *pg_query.Node, scope []*source, at int) (operand, error) {
	switch {
	case node.GetColumnRef() != nil:
		c, err := b.resolve(node.GetColumnRef(), scope)
		return operand{column: &c}, err
	case node.GetParamRef() != nil:
		b.visits[node.GetParamRef()] = true
		return operand{parameter: int(node.GetParamRef().GetNumber())}, nil
	case node.GetTypeCast().GetArg().GetParamRef() != nil:
		return b.castParameter(node.GetTypeCast())
	}
	k, _, err := b.constant(node, at)
	return operand{constant: k}, err
}

// castParameter reads a parameter that is cast: the cast decides its type.
func (b *block) castParameter(cast *pg_query.TypeCast) (operand, error) {
	name, ok := castName(cast)
	p := cast.GetArg().GetParamRef()
	if !ok || name == notInKeys {
		return operand{}, &refusal{
			at: int(p.GetLocation()), what: "a parameter is cast to a type that cannot stand in a key", why: "equal values of it can have different text",
			do: "Leave the cast out, or cast to the type of the column.",
		}
	}
	b.visits[cast], b.visits[p] = true, true
	return operand{parameter: int(p.GetNumber()), cast: name}, nil
}

// constant reads a constant, and the type that it is cast to.
func (b *block) constant(node *pg_query.Node, at int) (*pg_query.A_Const, keytext.Type, error) {
	if cast := node.GetTypeCast(); cast != nil {
		k := cast.GetArg().GetAConst()
		name, ok := castName(cast)
		if k == nil || !ok {
			return nil, "", &refusal{
				at: at, what: "a cast of this kind is not supported yet", why: "what it does is not known here",
				do: "Cast only a constant or a parameter, and only to a built-in type such as bigint, text or date.",
			}
		}
		if err := timeless(name, k); err != nil {
			return nil, "", err
		}
		b.visits[cast], b.visits[k] = true, true
		return k, name, nil
	}
	if k := node.GetAConst(); k != nil {
		b.visits[k] = true
		return k, "", nil
	}
	if node.GetParamRef() != nil {
		return nil, "", &refusal{
			at: int(node.GetParamRef().GetLocation()), what: "a parameter stands where only a constant can", why: "which keys a row matters to is then not a single value per column, which is not built yet",
			do: "Compare the parameter by = with one column.",
		}
	}
	return nil, "", &refusal{
		at: max(at, location(node.ProtoReflect())), what: "an expression is not supported yet", why: whyUnknown,
		do: "Compare a column with a column, a parameter or a constant.",
	}
}
