package plan

import (
	pg_query "github.com/pganalyze/pg_query_go/v6"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
)

// condition is one that must be TRUE, beside others. What it is, beside a mere expression, is one of: an equality, a
// comparison of a column with constants, a parameter that is NULL, alternatives, or a subquery that has a row.
type condition struct {
	join   *join // whose ON it stands in; nil for WHERE
	strict bits  // occurrences of which a row of NULLs makes it other than TRUE
	at     int

	equal       bool // left = right, between columns and parameters
	member      int  // left = ANY (right), a column and a parameter: its number among such conditions, from 1
	left, right operand
	unfit       *refusal // why an equality ties nothing: values that are equal can have different texts

	filter *rule.Condition // on a column of occurrence, when it can be judged by its text
	on     *columnRef

	null int // the parameter that is NULL

	alternatives [][]*condition // one of them, each all of its own

	sub   *query // a row of it exists
	item  *occurrence
	tests []*condition // between the row around and that row
}

// operand is one side of an equality.
type operand struct {
	column    *columnRef
	parameter int // from 1
	cast      keytext.Type
	written   *pg_query.Node // of a parameter without a cast: where it stands
	at        int
	bits      bits // that make it NULL
}

// typedUse is a use of a parameter that says what type it has.
type typedUse struct {
	parameter int
	column    *columnRef   // that it is compared with
	cast      keytext.Type // that it is cast to
	weak      bool         // it is written down as a cast, so that another use may decide otherwise
	at        int
}

// conjuncts reads a condition of which every part under AND must be TRUE; negated, every part under OR must be FALSE.
func (b *block) conjuncts(node *pg_query.Node, j *join, in *scope) error {
	return b.together(node, false, func(part *pg_query.Node, negated bool) error {
		h := &condition{join: j}
		b.holding = h
		defer func() { b.holding = nil }()
		c, err := b.condition(part, h, in, negated)
		if err != nil {
			return err
		}
		*h = *c
		b.conditions = append(b.conditions, h)
		return nil
	})
}

// together calls read for every part of a condition that must hold together with the others.
func (b *block) together(node *pg_query.Node, negated bool, read func(part *pg_query.Node, negated bool) error) error {
	e := node.GetBoolExpr()
	switch op := e.GetBoolop(); {
	case op == pg_query.BoolExprType_NOT_EXPR:
		b.visits()[e] = true
		return b.together(e.GetArgs()[0], !negated, read)
	case op == pg_query.BoolExprType_AND_EXPR && !negated, op == pg_query.BoolExprType_OR_EXPR && negated:
		b.visits()[e] = true
		for _, arg := range e.GetArgs() {
			if err := b.together(arg, negated, read); err != nil {
				return err
			}
		}
		return nil
	}
	return read(node, negated)
}

// condition reads a part of a condition: alternatives, or a comparison.
func (b *block) condition(node *pg_query.Node, h *condition, in *scope, negated bool) (*condition, error) {
	e := node.GetBoolExpr()
	if e == nil {
		return b.atom(node, h.join, in, negated)
	}
	b.visits()[e] = true // OR, or AND negated
	c := &condition{join: h.join, at: int(e.GetLocation())}
	for _, arg := range e.GetArgs() {
		var all []*condition
		err := b.together(arg, negated, func(part *pg_query.Node, negated bool) error {
			one, err := b.condition(part, h, in, negated)
			all = append(all, one)
			return err
		})
		if err != nil {
			return nil, err
		}
		c.alternatives = append(c.alternatives, all)
	}
	c.settle()
	return c, nil
}

// settle finds what all alternatives have in common, and forgets them when no key can follow from them.
func (c *condition) settle() {
	c.strict = ^bits(0)
	useful := false
	for _, all := range c.alternatives {
		var strict bits
		for _, one := range all {
			strict |= one.strict
			useful = useful || one.equal || one.member > 0 || one.sub != nil || one.null > 0 || one.alternatives != nil || one.constant()
		}
		c.strict &= strict
	}
	if !useful {
		c.alternatives = nil
	}
}

// constant reports that the condition says that a column is equal to a constant.
func (c *condition) constant() bool {
	return c.filter != nil && c.filter.Op == rule.In && len(c.filter.Values) == 1
}

func (b *block) atom(node *pg_query.Node, j *join, in *scope, negated bool) (*condition, error) {
	at := location(node.ProtoReflect())
	switch {
	case node.GetColumnRef() != nil: // a bare boolean column
		test := pg_query.BoolTestType_IS_TRUE
		if negated {
			test = pg_query.BoolTestType_IS_FALSE
		}
		return b.truth(node.GetColumnRef(), j, in, test)
	case node.GetBooleanTest().GetArg().GetColumnRef() != nil && !negated:
		test := node.GetBooleanTest()
		b.visits()[test] = true
		return b.truth(test.GetArg().GetColumnRef(), j, in, test.GetBooltesttype())
	case node.GetNullTest() != nil:
		return b.nullTest(node, j, in, negated)
	case node.GetSubLink() != nil && !negated && isSemiJoin(node.GetSubLink()):
		c := &condition{join: j, at: at}
		return c, b.semiJoin(node.GetSubLink(), c, in)
	case node.GetAExpr() != nil:
		return b.comparison(node, j, in, negated)
	}
	return b.opaque(node, j, in)
}

// opaque reads a condition of which only is known what it reads.
func (b *block) opaque(node *pg_query.Node, j *join, in *scope) (*condition, error) {
	if err := b.expression(node, in, &content{}); err != nil {
		return nil, err
	}
	return &condition{join: j, at: location(node.ProtoReflect()), strict: b.strict(node, in)}, nil
}

// strict lists the occurrences whose row of NULLs makes an expression NULL, and its negation as well.
func (b *block) strict(node *pg_query.Node, in *scope) bits {
	return strictIn(node, func(ref *pg_query.ColumnRef) (columnRef, bool) {
		v, err := b.look(ref, in)
		return v.columnRef, err == nil
	})
}

func (b *block) truth(ref *pg_query.ColumnRef, j *join, in *scope, test pg_query.BoolTestType) (*condition, error) {
	at := int(ref.GetLocation())
	v, err := b.resolve(ref, in)
	if err != nil {
		return nil, err
	}
	column := v.columnRef
	a := &condition{join: j, at: at}
	if column.other != nil || column.column == nil {
		return a, nil
	}
	if column.column.TypeName != "bool" || column.column.TypeSchema != "pg_catalog" {
		return nil, &refusal{at: at, what: column.String() + " is not boolean but " + column.column.Type, do: "Compare it with a constant."}
	}
	a.on = &column
	in1 := func(op rule.Comparison, values ...string) {
		a.filter = filter(column, rule.Condition{Column: column.name, Op: op, Type: keytext.Bool, Values: values})
	}
	yes, no := mustCanonical("true"), mustCanonical("false")
	switch test {
	case pg_query.BoolTestType_IS_TRUE:
		a.strict = column.occurrence.bit()
		in1(rule.In, yes)
	case pg_query.BoolTestType_IS_FALSE:
		a.strict = column.occurrence.bit()
		in1(rule.In, no)
	case pg_query.BoolTestType_IS_UNKNOWN:
		a.filter = filter(column, rule.Condition{Column: column.name, Op: rule.IsNull})
	case pg_query.BoolTestType_IS_NOT_UNKNOWN:
		a.strict = column.occurrence.bit()
		a.filter = filter(column, rule.Condition{Column: column.name, Op: rule.IsNotNull})
	default: // IS NOT TRUE and IS NOT FALSE are true for NULL: route has no condition for them
	}
	return a, nil
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

func (b *block) nullTest(node *pg_query.Node, j *join, in *scope, negated bool) (*condition, error) {
	test := node.GetNullTest()
	at := location(node.ProtoReflect())
	isNull := (test.GetNulltesttype() == pg_query.NullTestType_IS_NULL) != negated
	p := test.GetArg().GetParamRef()
	if p == nil {
		p = test.GetArg().GetTypeCast().GetArg().GetParamRef()
	}
	if p != nil {
		c, err := b.opaque(node, j, in)
		if err == nil && isNull {
			c.null = int(p.GetNumber())
		}
		return c, err
	}
	if test.GetArg().GetColumnRef() == nil {
		c, err := b.opaque(node, j, in)
		if err == nil && !isNull {
			c.strict = b.strict(test.GetArg(), in)
		}
		return c, err
	}
	b.visits()[test] = true
	v, err := b.resolve(test.GetArg().GetColumnRef(), in)
	if err != nil {
		return nil, err
	}
	column := v.columnRef
	a := &condition{join: j, at: at}
	if column.other != nil {
		return a, nil
	}
	op := rule.IsNull
	if !isNull {
		a.strict, op = column.occurrence.bit(), rule.IsNotNull
	}
	if column.column == nil {
		return a, nil
	}
	if column.column.Category == 'c' || column.column.Category == 'd' && baseType(column.column) == "" {
		// A row is "null" when all of its fields are, and a NULL of it is another thing in the log.
		return nil, &refusal{at: at, what: column.String() + " has the type " + column.column.Type, why: "IS NULL looks into a composite value", do: "Test a plain column."}
	}
	a.on = &column
	a.filter = filter(column, rule.Condition{Column: column.name, Op: op})
	return a, nil
}
