package plan

import (
	"fmt"
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"

	"github.com/freshet/freshet/internal/keytext"
)

// content is what an expression consists of. Reading one makes sure that its value is a function of the rows that it
// names and of nothing else: not of the time, of the session or of a table that only a function knows.
type content struct {
	columns    []columnRef
	constants  []*pg_query.A_Const
	parameters []int
	subquery   bool
	aggregate  bool
	text       bool // its constants are texts, whatever they say
}

// expression reads an expression, seen from a scope.
func (b *block) expression(node *pg_query.Node, in *scope, e *content) error {
	at := location(node.ProtoReflect())
	switch {
	case node.GetColumnRef() != nil:
		c, err := b.resolve(node.GetColumnRef(), in)
		if err != nil {
			return err
		}
		e.columns = append(e.columns, c.columnRef)
		return usableInExpression(c.columnRef, at)
	case node.GetAConst() != nil:
		k := node.GetAConst()
		b.visits()[k] = true
		e.constants = append(e.constants, k)
		return nil
	case node.GetParamRef() != nil:
		return b.looseParameter(node, e)
	case node.GetTypeCast() != nil:
		return b.cast(node.GetTypeCast(), in, e)
	case node.GetAExpr() != nil:
		return b.operator(node.GetAExpr(), in, e)
	case node.GetFuncCall() != nil:
		return b.function(node.GetFuncCall(), in, e)
	case node.GetSubLink() != nil:
		e.subquery = true
		return b.subLink(node.GetSubLink(), in, e)
	case node.GetSqlvalueFunction() != nil:
		return b.valueFunction(node.GetSqlvalueFunction())
	}
	parts, known := b.parts(node)
	if !known {
		return &refusal{at: at, what: "an expression of this kind is not supported yet", why: whyUnknown, do: "Select the columns and compute in the application."}
	}
	// A string takes the type of its neighbours, and may then mean what changes by itself, such as 'today'.
	own := &content{text: e.text}
	for _, part := range parts {
		if err := b.expression(part, in, own); err != nil {
			return err
		}
	}
	e.add(own)
	if node.GetCoalesceExpr() != nil || node.GetMinMaxExpr() != nil || node.GetCaseExpr() != nil || node.GetAArrayExpr() != nil {
		return b.timelessConstants(own)
	}
	return nil
}

func (e *content) add(other *content) {
	e.columns = append(e.columns, other.columns...)
	e.constants = append(e.constants, other.constants...)
	e.parameters = append(e.parameters, other.parameters...)
	e.subquery = e.subquery || other.subquery
	e.aggregate = e.aggregate || other.aggregate
}

// parts are the expressions that a node is made of, for the kinds that only put them together.
func (b *block) parts(node *pg_query.Node) (parts []*pg_query.Node, known bool) {
	switch {
	case node.GetCoalesceExpr() != nil:
		b.visits()[node.GetCoalesceExpr()] = true
		return node.GetCoalesceExpr().GetArgs(), true
	case node.GetMinMaxExpr() != nil:
		b.visits()[node.GetMinMaxExpr()] = true
		return node.GetMinMaxExpr().GetArgs(), true
	case node.GetAArrayExpr() != nil:
		b.visits()[node.GetAArrayExpr()] = true
		return node.GetAArrayExpr().GetElements(), true
	case node.GetBoolExpr() != nil:
		b.visits()[node.GetBoolExpr()] = true
		return node.GetBoolExpr().GetArgs(), true
	case node.GetNullTest() != nil:
		b.visits()[node.GetNullTest()] = true
		return []*pg_query.Node{node.GetNullTest().GetArg()}, true
	case node.GetBooleanTest() != nil:
		b.visits()[node.GetBooleanTest()] = true
		return []*pg_query.Node{node.GetBooleanTest().GetArg()}, true
	case node.GetRowExpr() != nil:
		b.visits()[node.GetRowExpr()] = true
		return node.GetRowExpr().GetArgs(), true
	case node.GetList() != nil:
		return node.GetList().GetItems(), true
	case node.GetCaseExpr() != nil:
		e := node.GetCaseExpr()
		b.visits()[e] = true
		for _, one := range e.GetArgs() {
			b.visits()[one.GetCaseWhen()] = true
			parts = append(parts, one.GetCaseWhen().GetExpr(), one.GetCaseWhen().GetResult())
		}
		for _, optional := range []*pg_query.Node{e.GetArg(), e.GetDefresult()} {
			if optional != nil {
				parts = append(parts, optional)
			}
		}
		return parts, true
	}
	return nil, false
}

// usableInExpression refuses a column of which it is not known what an expression makes.
func usableInExpression(c columnRef, at int) error {
	if c.column == nil {
		return nil // an expression that was read already
	}
	if err := settled(c, at); err != nil {
		return err
	}
	if c.column.Category != 'e' && c.column.TypeSchema != "pg_catalog" {
		return &refusal{
			at: at, what: fmt.Sprintf("%s has the type %s", c, c.column.Type), why: "what an expression of it reads and depends on is not known here",
			do: "Select the column as it is, and compute in the application.",
		}
	}
	return nil
}

// looseParameter reads a parameter that is not compared by =. Another comparison decides its type; here it is written
// down, so that PostgreSQL does not take it for another.
func (b *block) looseParameter(node *pg_query.Node, e *content) error {
	p := node.GetParamRef()
	b.visits()[p] = true
	n := int(p.GetNumber())
	e.parameters = append(e.parameters, n)
	c := b.compiler
	c.loose = append(c.loose, looseUse{parameter: n, at: int(p.GetLocation()), view: b.reading.view})
	b.writeType(node)
	return nil
}

// writeType has the published text cast a parameter to its type.
func (b *block) writeType(node *pg_query.Node) {
	p := node.GetParamRef()
	b.edit(func() {
		if name := castTypeName(b.compiler.params[p.GetNumber()-1].Type); name != nil {
			node.Node = &pg_query.Node_TypeCast{TypeCast: &pg_query.TypeCast{Arg: &pg_query.Node{Node: &pg_query.Node_ParamRef{ParamRef: p}}, TypeName: name}}
		}
	})
}

// looseUse is a use of a parameter from which no key follows.
type looseUse struct {
	parameter, at int
	view          string
	operator      string // it is compared by
}

// castTypeName is how a tree names a type of keys; nil for enums, which have names of their own.
func castTypeName(t keytext.Type) *pg_query.TypeName {
	switch t {
	case keytext.String:
		t = "varchar"
	case keytext.Enum, keytext.Unknown, "":
		return nil
	default:
	}
	tree, err := pg_query.Parse("SELECT NULL::" + sqlName(t))
	if err != nil {
		return nil
	}
	return tree.GetStmts()[0].GetStmt().GetSelectStmt().GetTargetList()[0].GetResTarget().GetVal().GetTypeCast().GetTypeName()
}

// sqlName is the spelling that the parser gives back as it is.
func sqlName(t keytext.Type) string {
	if element, ok := t.Element(); ok {
		return sqlName(element) + "[]"
	}
	switch string(t) {
	case "int2":
		return "smallint"
	case "int4":
		return "int"
	case "int8":
		return "bigint"
	case "bool":
		return "boolean"
	}
	return string(t)
}

// cast reads a cast to a built-in type.
func (b *block) cast(cast *pg_query.TypeCast, in *scope, e *content) error {
	at := max(int(cast.GetLocation()), location(cast.ProtoReflect()))
	if p := cast.GetArg().GetParamRef(); p != nil {
		o, err := b.castParameter(cast)
		if err != nil {
			return err
		}
		e.parameters = append(e.parameters, o.parameter)
		b.compiler.typed = append(b.compiler.typed, typedUse{parameter: o.parameter, cast: o.cast, at: at})
		b.compiler.loose = append(b.compiler.loose, looseUse{parameter: o.parameter, at: at, view: b.reading.view})
		return nil
	}
	name, ok := typeName(cast.GetTypeName())
	array := len(cast.GetTypeName().GetArrayBounds()) > 0
	enums := b.compiler.enumSchemas(cast.GetTypeName())
	switch {
	case cast.GetArg().GetAConst() != nil && len(enums) == 1:
		b.visits()[cast], b.visits()[cast.GetArg().GetAConst()] = true, true
		b.qualify(cast, enums[0])
		return nil
	case !ok || !slices.Contains(castable, name) || array && slices.Contains(times, name):
		return &refusal{
			at: at, what: "a cast of this kind is not supported yet", why: "what it does is not known here",
			do: "Cast only to a built-in type such as bigint, text or date.",
		}
	}
	b.visits()[cast] = true
	if k := cast.GetArg().GetAConst(); k != nil {
		b.visits()[k] = true
		if t, ok := builtIn(name); ok && !array {
			return timeless(t, k)
		}
		return neverSpecial(name, k)
	}
	own := &content{text: e.text}
	if err := b.expression(cast.GetArg(), in, own); err != nil {
		return err
	}
	e.add(own)
	timely := cast.GetArg().GetColumnRef() != nil && len(own.columns) == 1 && own.columns[0].column != nil && slices.Contains(times, own.columns[0].column.TypeName)
	if slices.Contains(times, name) && !timely {
		return &refusal{
			at: at, what: "a cast to " + name, why: "a text such as 'now' would mean another time with every load", do: "Cast only columns that hold a date or a time.",
		}
	}
	return nil
}

// castable are the types that an expression may be cast to. Names of the catalog (regclass) are not among them: their
// text changes without a write.
var castable = []string{ //nolint:gochecknoglobals // a table
	"bool", "int2", "int4", "int8", "numeric", "float4", "float8", "text", "varchar", "bpchar", "uuid", "bytea", "json", "jsonb", "interval",
	"date", "time", "timetz", "timestamp", "timestamptz",
}

var times = []string{"date", "time", "timetz", "timestamp", "timestamptz"} //nolint:gochecknoglobals // a table

// typeName is the built-in type that a tree names, without modifiers and without what makes an array of it.
func typeName(t *pg_query.TypeName) (string, bool) {
	names := t.GetNames()
	if len(names) == 0 || len(names) > 2 || len(names) == 2 && names[0].GetString_().GetSval() != "pg_catalog" {
		return "", false
	}
	return names[len(names)-1].GetString_().GetSval(), true
}

// neverSpecial refuses a constant that names a moment by the clock.
func neverSpecial(typ string, k *pg_query.A_Const) error {
	if !slices.Contains(times, typ) && typ != "" {
		return nil
	}
	text, ok := constantText(k)
	if !ok || k.GetSval() == nil {
		return nil
	}
	for word := range strings.FieldsFuncSeq(strings.ToLower(text), func(r rune) bool { return r < 'a' || r > 'z' }) {
		if word == "now" || word == "today" || word == "tomorrow" || word == "yesterday" {
			return &refusal{
				at: int(k.GetLocation()), what: fmt.Sprintf("the constant '%s'", text), why: "as a date or time it means another one every day",
				do: "Write ::text behind it if it is a text, or pass the time as a parameter.",
			}
		}
	}
	return nil
}

// timelessConstants refuses constants whose meaning, as values of the type of the columns beside them, is not fixed.
func (b *block) timelessConstants(e *content) error {
	for _, k := range e.constants {
		for _, c := range e.columns {
			if c.column == nil || e.text {
				continue
			}
			if columnType(c.column) == "" && k.GetSval() != nil {
				return &refusal{
					at: int(k.GetLocation()), what: fmt.Sprintf("%s, which has the type %s, beside a string", c, c.column.Type),
					why: "what the string means as a value of that type is not known here", do: "Select the column, and let the application put the string in its place.",
				}
			}
			if err := timeless(columnType(c.column), k); err != nil {
				return err
			}
		}
		if !e.text {
			if err := neverSpecial("", k); err != nil {
				return err
			}
		}
	}
	return nil
}

// operators are those of PostgreSQL whose result is a function of their operands. Pgcatalog.Verify makes sure that no
// operator of a user is meant.
var operators = strings.Fields("+ - * / % ^ || = <> < <= > >= -> ->> #> #>> @> <@ ? ?| ?& && | & # << >> ~ ~* !~ !~* ~~ !~~ ~~* !~~*") //nolint:gochecknoglobals // a table

// strictOperators yield NULL for a NULL operand.
var strictOperators = strings.Fields("+ - * / % = <> < <= > >= -> ->> #> #>> ~ ~* !~ !~* ~~ !~~ ~~* !~~*") //nolint:gochecknoglobals // a table

// operator reads an operator's expression.
func (b *block) operator(x *pg_query.A_Expr, in *scope, e *content) error {
	b.visits()[x] = true
	at := int(x.GetLocation())
	name, err := operatorName(x)
	if err != nil {
		return err
	}
	switch x.GetKind() {
	case pg_query.A_Expr_Kind_AEXPR_SIMILAR:
		return &refusal{at: at, what: "SIMILAR TO is not supported", why: whyUnknown, do: "Use LIKE, or a regular expression with ~."}
	case pg_query.A_Expr_Kind_AEXPR_OP, pg_query.A_Expr_Kind_AEXPR_OP_ANY, pg_query.A_Expr_Kind_AEXPR_OP_ALL:
		if !slices.Contains(operators, name) {
			return &refusal{at: at, what: "the operator " + name + " is not supported yet", why: "whether its result depends on its operands alone is not known here", do: "Use another operator, or compute in the application."}
		}
	default:
	}
	own := &content{text: e.text || strings.HasPrefix(name, "->") || strings.HasPrefix(name, "#>") || strings.Contains(name, "~")}
	for _, operand := range []*pg_query.Node{x.GetLexpr(), x.GetRexpr()} {
		if operand == nil {
			continue
		}
		if err := b.expression(operand, in, own); err != nil {
			return err
		}
	}
	compared := name
	switch x.GetKind() {
	case pg_query.A_Expr_Kind_AEXPR_OP_ANY:
		compared += " ANY"
	case pg_query.A_Expr_Kind_AEXPR_OP_ALL:
		compared += " ALL"
	default:
	}
	for _, n := range own.parameters {
		b.compiler.comparedBy(n, compared)
	}
	b.infer(x, name, in)
	e.add(own)
	return b.timelessConstants(own)
}

func operatorName(x *pg_query.A_Expr) (string, error) {
	if len(x.GetName()) != 1 {
		return "", &refusal{at: int(x.GetLocation()), what: "OPERATOR() is not supported", why: "equality has to be the built-in one", do: "Write the operator alone."}
	}
	return x.GetName()[0].GetString_().GetSval(), nil
}

// comparedBy notes for errors by which operator a parameter is compared.
func (c *compiler) comparedBy(n int, operator string) {
	for i := range c.loose {
		if c.loose[i].parameter == n && c.loose[i].operator == "" {
			c.loose[i].operator = operator
		}
	}
}

// strictIn lists the occurrences whose row of NULLs makes the expression NULL.
func strictIn(node *pg_query.Node, look func(*pg_query.ColumnRef) (columnRef, bool)) bits {
	switch {
	case node.GetColumnRef() != nil:
		if c, ok := look(node.GetColumnRef()); ok && c.other == nil {
			return c.occurrence.bit()
		}
	case node.GetTypeCast() != nil:
		return strictIn(node.GetTypeCast().GetArg(), look)
	case node.GetAExpr() != nil:
		x := node.GetAExpr()
		switch x.GetKind() {
		case pg_query.A_Expr_Kind_AEXPR_OP, pg_query.A_Expr_Kind_AEXPR_LIKE, pg_query.A_Expr_Kind_AEXPR_ILIKE:
			if len(x.GetName()) == 1 && slices.Contains(strictOperators, x.GetName()[0].GetString_().GetSval()) {
				return strictIn(x.GetLexpr(), look) | strictIn(x.GetRexpr(), look)
			}
		case pg_query.A_Expr_Kind_AEXPR_IN, pg_query.A_Expr_Kind_AEXPR_BETWEEN:
			return strictIn(x.GetLexpr(), look)
		default:
		}
	}
	return 0
}
