package plan

import (
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"

	"github.com/freshet/freshet/internal/keytext"
)

// Which type PostgreSQL takes a parameter for that no column is compared with by =. It follows from what stands beside it,
// as far as that is known here; the canonical query then has it as a cast, and pgcatalog.Verify sees whether PostgreSQL agrees.
// Where it is not known, the query has to say it.

// infer types the parameters that are operands of an operator by the other operand.
func (b *block) infer(x *pg_query.A_Expr, operator string, in *scope) {
	sides := [2][]*pg_query.Node{{x.GetLexpr()}, {x.GetRexpr()}}
	var t func(*pg_query.Node) keytext.Type
	switch x.GetKind() {
	case pg_query.A_Expr_Kind_AEXPR_OP, pg_query.A_Expr_Kind_AEXPR_DISTINCT, pg_query.A_Expr_Kind_AEXPR_NOT_DISTINCT:
		t = func(n *pg_query.Node) keytext.Type { return b.typeOf(n, in) }
		if !slices.Contains([]string{"=", "<>", "<", "<=", ">", ">="}, operator) {
			if !strings.Contains(operator, "~") {
				return
			}
			t = func(*pg_query.Node) keytext.Type { return keytext.String }
		}
	case pg_query.A_Expr_Kind_AEXPR_LIKE, pg_query.A_Expr_Kind_AEXPR_ILIKE:
		t = func(*pg_query.Node) keytext.Type { return keytext.String }
	case pg_query.A_Expr_Kind_AEXPR_IN, pg_query.A_Expr_Kind_AEXPR_BETWEEN, pg_query.A_Expr_Kind_AEXPR_NOT_BETWEEN:
		t = func(n *pg_query.Node) keytext.Type { return b.typeOf(n, in) }
		sides[1] = x.GetRexpr().GetList().GetItems()
	default:
		return
	}
	for i, side := range sides {
		for _, node := range side {
			for _, other := range sides[1-i] {
				if n := node.GetParamRef().GetNumber(); n > 0 && other != nil {
					b.typed(int(n), t(other), int(x.GetLocation()))
				}
			}
		}
	}
}

// typed notes the type that stands beside a parameter, unless it is not known, or is an enum's, which cannot be written down.
func (b *block) typed(n int, t keytext.Type, at int) {
	if n > 0 && t != "" && t != keytext.Enum {
		b.compiler.typed = append(b.compiler.typed, typedUse{parameter: n, cast: t, at: at, weak: true})
	}
}

// typeOf is the type of an expression, where it is one of keys and known here.
func (b *block) typeOf(node *pg_query.Node, in *scope) keytext.Type {
	switch {
	case node.GetColumnRef() != nil:
		if c, err := b.look(node.GetColumnRef(), in); err == nil && c.column != nil {
			if t, ok := keyType(c.column); ok {
				return t
			}
		}
	case node.GetTypeCast() != nil:
		if t, ok := castName(node.GetTypeCast()); ok && t != notInKeys {
			return t
		}
	case node.GetAConst().GetIval() != nil:
		return keytext.Int4
	case node.GetCoalesceExpr() != nil:
		for _, arg := range node.GetCoalesceExpr().GetArgs() {
			if t := b.typeOf(arg, in); t != "" {
				return t
			}
		}
	case node.GetFuncCall() != nil:
		return b.resultOf(node.GetFuncCall(), in)
	case node.GetAExpr() != nil:
		return b.typeOfOperator(node.GetAExpr(), in)
	}
	return ""
}

func (b *block) typeOfOperator(x *pg_query.A_Expr, in *scope) keytext.Type {
	name, err := operatorName(x)
	if err != nil || x.GetKind() != pg_query.A_Expr_Kind_AEXPR_OP || x.GetLexpr() == nil {
		return ""
	}
	left := b.typeOf(x.GetLexpr(), in)
	switch name {
	case "->>", "#>>":
		return keytext.String
	case "||":
		if left == keytext.String {
			return left
		}
	case "+", "-", "*", "/", "%":
		if right := b.typeOf(x.GetRexpr(), in); left == right && family(left, 0) == "integer" {
			return left
		}
	}
	return ""
}

// resultOf is the type of the result of functions of texts.
func (b *block) resultOf(call *pg_query.FuncCall, in *scope) keytext.Type {
	name, ok := functionName(call)
	args := call.GetArgs()
	if !ok || len(args) == 0 || b.typeOf(args[0], in) != keytext.String {
		return ""
	}
	switch name {
	case "lower", "upper", "initcap", "btrim", "ltrim", "rtrim", "replace", "left", "right", "substr", "substring", "split_part", "md5", "reverse", "repeat", "translate":
		return keytext.String
	case "length", "char_length", "character_length", "octet_length", "strpos":
		return keytext.Int4
	}
	return ""
}
