package plan

import (
	"fmt"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"
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
	case "FuncCall":
		return unsupportedFunction(m, r)
	case "SQLValueFunction":
		r.what = "the current time, date, user or schema"
		r.why = "the result changes without any write, or differs between sessions"
		r.do = "Pass it as a parameter, such as @day."
	case "SubLink":
		r.what = "a subquery is not supported yet"
		r.do = "Write it as a join, or load the entry by code and declare depends_on."
	case "RangeSubselect":
		r.what = "a subquery in FROM is not supported yet"
		r.do = "Join the tables directly, or load the entry by code and declare depends_on."
	case "RangeFunction", "RangeTableFunc", "JsonTable":
		r.what = "a function in FROM is not supported yet"
	case "RangeTableSample":
		r.what = "TABLESAMPLE is not supported"
		r.why = "its result is not a function of the data"
	case "CaseExpr", "MinMaxExpr", "A_ArrayExpr", "RowExpr", "A_Indirection", "NullIfExpr", "XmlExpr", "GroupingFunc":
		r.what = "an expression is not supported yet; a query selects plain columns, constants and coalesce of them"
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

func unsupportedFunction(m protoreflect.Message, r *refusal) *refusal {
	call, ok := m.Interface().(*pg_query.FuncCall)
	if !ok {
		return r
	}
	names := call.GetFuncname()
	name := names[len(names)-1].GetString_().GetSval()
	if r.at = int(call.GetLocation()); call.GetOver() != nil {
		r.what = fmt.Sprintf("the window function %s() is not supported yet", name)
		return r
	}
	switch name {
	case "count", "sum", "avg", "min", "max", "array_agg", "string_agg", "json_agg", "jsonb_agg", "json_object_agg",
		"jsonb_object_agg", "bool_and", "bool_or", "every":
		r.what = fmt.Sprintf("the aggregate %s() is not supported yet", name)
	case "now", "clock_timestamp", "statement_timestamp", "transaction_timestamp", "timeofday", "age":
		r.what, r.why = name+"()", "the result changes without any write"
		r.do = "Pass the time as a parameter, such as @day."
	case "random", "gen_random_uuid", "uuid_generate_v4", "nextval", "currval", "lastval", "setseed", "pg_sleep":
		r.what, r.why = name+"()", "its result is not a function of the data"
		r.do = "Compute it in the application."
	case "current_setting", "pg_backend_pid", "inet_client_addr", "txid_current", "pg_current_xact_id":
		r.what, r.why = name+"()", "the result depends on the session"
		r.do = "Pass the value as a parameter."
	default:
		r.what = fmt.Sprintf("the function %s() is not supported yet", name)
		r.why = "what a function reads is not known here"
		r.do = "Select the columns and compute in the application, or load the entry by code and declare depends_on."
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
	case "SelectStmt.distinct_clause":
		r.what = "DISTINCT is not supported yet"
		place("distinct")
	case "SelectStmt.into_clause":
		r.what, r.why, r.do = "SELECT INTO creates a table", "an entry is loaded by reading", "Leave INTO out."
		place("into")
	case "SelectStmt.group_clause", "SelectStmt.group_distinct":
		r.what = "GROUP BY is not supported yet"
		place("group")
	case "SelectStmt.having_clause":
		r.what = "HAVING is not supported yet"
		place("having")
	case "SelectStmt.window_clause":
		r.what = "WINDOW is not supported yet"
		place("window")
	case "SelectStmt.values_lists":
		r.what, r.why, r.do = "VALUES reads no table", "an entry is loaded from tables", "Write a SELECT from a table."
		place("values")
	case "SelectStmt.limit_count", "SelectStmt.limit_offset":
		r.what = "LIMIT and OFFSET are not supported yet"
		place("limit", "offset", "fetch")
	case "SelectStmt.locking_clause":
		r.what = "FOR UPDATE and its kin lock rows"
		r.why, r.do = "a load only reads", "Leave the locking clause out."
		place("for")
	case "SortBy.use_op":
		r.what, r.do = "ORDER BY ... USING is not supported", "Use ASC or DESC."
		place("using")
	case "SelectStmt.with_clause":
		r.what = "WITH is not supported yet"
		r.do = "Join the tables directly, or load the entry by code and declare depends_on."
		place("with")
	case "SelectStmt.larg", "SelectStmt.rarg", "SelectStmt.all":
		r.what = "UNION, INTERSECT and EXCEPT are not supported yet"
		r.do = "Declare an entry for each part, or load the entry by code and declare depends_on."
		place("union", "intersect", "except")
	case "JoinExpr.is_natural":
		r.what = "NATURAL JOIN is not supported"
		r.why, r.do = "a column that is added later would change what it means", "Write ON or USING."
		place("natural")
	case "JoinExpr.alias", "JoinExpr.join_using_alias":
		r.what, r.why = "an alias for a join is not supported yet", "it hides the names of its tables"
		r.do = "Give each table an alias."
		r.at = location(m)
	case "Alias.colnames":
		r.what, r.why = "renaming a table's columns is not supported yet", "it hides their names"
		r.do = "Write AS in the select list."
	case "RangeVar.catalogname":
		r.what, r.why = "a table is named with its database", "a query reads the database that it is sent to"
		r.do = "Write schema.table."
		r.at = location(m)
	case "A_Const.bsval":
		r.what = "a bit string is not supported yet"
		r.at = location(m)
	case "TypeName.typmods", "TypeName.array_bounds", "TypeName.setof", "TypeName.pct_type":
		r.what, r.why = "a cast to a type with a modifier, or to an array, is not supported yet", "it can change the value"
		r.do = "Cast to the plain type, or leave the cast out."
		r.at = location(m)
	default:
		r.what = fmt.Sprintf("this construct (%s of %s) is not supported yet", f.Name(), kind)
		if r.at < 0 {
			r.at = location(m)
		}
	}
	return r
}
