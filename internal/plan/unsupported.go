package plan

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	whyUnknown = "it cannot be derived from it yet which keys a changed row affects"
	doByCode   = "Leave it out, or load the entry by code and declare depends_on."
)

// unsupported refuses a kind of node.
func unsupported(kind string, m protoreflect.Message) *refusal {
	r := &refusal{at: location(m), why: whyUnknown, do: doByCode}
	switch kind {
	case "RangeFunction", "RangeTableFunc", "JsonTable":
		r.what = "a function in FROM is not supported yet"
	case "RangeTableSample":
		r.what = "TABLESAMPLE is not supported"
		r.why = "its result is not a function of the data"
	case "A_Indirection", "XmlExpr", "XmlSerialize", "GroupingFunc", "JsonObjectConstructor", "JsonArrayConstructor", "JsonFuncExpr", "JsonIsPredicate":
		r.what = "an expression of this kind is not supported yet"
		r.do = "Select the columns and compute in the application."
	case "CollateClause":
		r.what = "COLLATE is not supported yet"
		r.why = "equality under another collation need not be equality of text"
	case "SetToDefault", "MultiAssignRef":
		r.what = "this is not part of a query"
	default:
		if strings.HasSuffix(kind, "Stmt") {
			r.at, r.what = 0, "this is not a SELECT"
			r.why, r.do = "an entry is loaded by reading", "Write one SELECT."
			break
		}
		r.what = fmt.Sprintf("this construct (%s) is not supported yet", kind)
	}
	return r
}

// unsupportedField refuses a clause of a node that is otherwise understood.
func unsupportedField(kind string, f protoreflect.FieldDescriptor, m protoreflect.Message, sql string) *refusal {
	r := &refusal{at: fieldLocation(m, f), why: whyUnknown, do: doByCode}
	place := func(words ...string) {
		if at := keyword(sql, words...); at >= 0 {
			r.at = at
		}
	}
	switch kind + "." + string(f.Name()) {
	case "SelectStmt.into_clause":
		r.what, r.why, r.do = "SELECT INTO creates a table", "an entry is loaded by reading", "Leave INTO out."
		place("into")
	case "SelectStmt.group_distinct":
		r.what = "GROUP BY DISTINCT is not supported yet"
		place("group")
	case "FuncCall.func_variadic":
		r.what = "VARIADIC is not supported yet"
		r.at = location(m)
	case "CommonTableExpr.search_clause", "CommonTableExpr.cycle_clause":
		r.what = "SEARCH and CYCLE are not supported"
		r.at = location(m)
	case "SelectStmt.values_lists":
		r.what, r.why, r.do = "VALUES reads no table", "an entry is loaded from tables", "Write a SELECT from a table."
		place("values")
	case "SelectStmt.locking_clause":
		r.what = "FOR UPDATE and its kin lock rows"
		r.why, r.do = "a load only reads", "Leave the locking clause out."
		place("for")
	case "SortBy.use_op":
		r.what, r.do = "ORDER BY ... USING is not supported", "Use ASC or DESC."
		place("using")
	case "JoinExpr.is_natural":
		r.what = "NATURAL JOIN is not supported"
		r.why, r.do = "a column that is added later would change what it means", "Write ON or USING."
		place("natural")
	case "JoinExpr.alias", "JoinExpr.join_using_alias":
		r.what, r.why = "an alias for a join is not supported yet", "it hides the names of its tables"
		r.do = "Give each table an alias."
		r.at = location(m)
	case "RangeVar.catalogname":
		r.what, r.why = "a table is named with its database", "a query reads the database that it is sent to"
		r.do = "Write schema.table."
		r.at = location(m)
	case "A_Const.bsval":
		r.what = "a bit string is not supported yet"
		r.at = location(m)
	case "TypeName.setof", "TypeName.pct_type":
		r.what, r.why = "a cast of this kind is not supported", "what it does is not known here"
		r.do = "Cast to a plain type, or leave the cast out."
		r.at = location(m)
	default:
		r.what = fmt.Sprintf("this construct (%s of %s) is not supported yet", f.Name(), kind)
		if r.at < 0 {
			r.at = location(m)
		}
	}
	return r
}
