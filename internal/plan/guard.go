package plan

import (
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// understood lists, for each kind of node in a parse tree, the fields that the planner reads. A node of any other
// kind, or another field that is set, refuses the query: what the planner does not look at must not be there.
func understood(message protoreflect.Name) string {
	switch message {
	case "ParseResult":
		return "version stmts"
	case "RawStmt":
		return "stmt stmt_location stmt_len"
	case "SelectStmt":
		return "distinct_clause target_list from_clause where_clause group_clause having_clause window_clause sort_clause limit_offset limit_count " +
			"limit_option with_clause op all larg rarg"
	case "ResTarget":
		return "name val location"
	case "ColumnRef":
		return "fields location"
	case "A_Const":
		return "ival fval boolval sval isnull location"
	case "A_Expr":
		return "kind name lexpr rexpr location"
	case "BoolExpr":
		return "boolop args location"
	case "NullTest":
		return "arg nulltesttype location"
	case "BooleanTest":
		return "arg booltesttype location"
	case "JoinExpr":
		return "jointype larg rarg using_clause quals"
	case "RangeVar":
		return "schemaname relname inh relpersistence alias location"
	case "Alias":
		return "aliasname colnames"
	case "CoalesceExpr":
		return "args location"
	case "RowExpr":
		return "args row_format location"
	case "MinMaxExpr":
		return "op args location"
	case "CaseExpr":
		return "arg args defresult location"
	case "CaseWhen":
		return "expr result location"
	case "A_ArrayExpr":
		return "elements location"
	case "FuncCall":
		return "funcname args agg_order agg_filter over agg_within_group agg_star agg_distinct funcformat location"
	case "WindowDef":
		return "name refname partition_clause order_clause frame_options start_offset end_offset location"
	case "GroupingSet":
		return "kind content location"
	case "SubLink":
		return "sub_link_type testexpr oper_name subselect location"
	case "RangeSubselect":
		return "lateral subquery alias"
	case "WithClause":
		return "ctes recursive location"
	case "CommonTableExpr":
		return "ctename aliascolnames ctematerialized ctequery location"
	case "TypeCast":
		return "arg type_name location"
	case "TypeName":
		return "names typmods typemod array_bounds location"
	case "SortBy":
		return "node sortby_dir sortby_nulls location"
	case "ParamRef":
		return "number location"
	case "SQLValueFunction":
		return "op type typmod location"
	case "List":
		return "items"
	case "A_Star":
		return " "
	case "String":
		return "sval"
	case "Integer":
		return "ival"
	case "Float":
		return "fval"
	case "Boolean":
		return "boolval"
	}
	return ""
}

// guard walks the whole tree, whatever it contains, and refuses what is not understood. Near is the place of the
// closest node above that knows its own.
func guard(m protoreflect.Message, sql string, near int) error {
	name := m.Descriptor().Name()
	if name == "Node" { // the wrapper around every node
		return guardFields(m, sql, near)
	}
	if at := ownLocation(m); at > 0 {
		near = at
	}
	fields := strings.Fields(understood(name))
	if understood(name) == "" {
		return unsupported(string(name), m).near(near)
	}
	for i := range m.Descriptor().Fields().Len() {
		f := m.Descriptor().Fields().Get(i)
		if m.Has(f) && !slices.Contains(fields, string(f.Name())) {
			return unsupportedField(string(name), f, m, sql).near(near)
		}
	}
	return guardFields(m, sql, near)
}

// guardFields walks the messages below m, in the order of their declaration, so that one query has one error.
func guardFields(m protoreflect.Message, sql string, near int) error {
	for i := range m.Descriptor().Fields().Len() {
		f := m.Descriptor().Fields().Get(i)
		if f.Kind() != protoreflect.MessageKind || !m.Has(f) {
			continue
		}
		if !f.IsList() {
			if err := guard(m.Get(f).Message(), sql, near); err != nil {
				return err
			}
			continue
		}
		list := m.Get(f).List()
		for j := range list.Len() {
			if err := guard(list.Get(j).Message(), sql, near); err != nil {
				return err
			}
		}
	}
	return nil
}

// visits remembers the nodes that the planner has read. After planning, every node of the tree must be among them.
type visits map[any]bool

// unvisited finds a node that planning passed by. The kinds that only name something are read by their parents.
func (v visits) unvisited(m protoreflect.Message) protoreflect.Message {
	switch m.Descriptor().Name() {
	case "RangeVar", "ColumnRef", "ParamRef", "A_Const", "A_Expr", "BoolExpr", "NullTest", "BooleanTest", "JoinExpr",
		"CoalesceExpr", "TypeCast", "SortBy", "ResTarget", "SelectStmt", "RowExpr", "MinMaxExpr", "CaseExpr", "CaseWhen", "A_ArrayExpr",
		"FuncCall", "WindowDef", "GroupingSet", "SubLink", "RangeSubselect", "WithClause", "CommonTableExpr", "SQLValueFunction":
		if !v[m.Interface()] {
			return m
		}
	}
	for i := range m.Descriptor().Fields().Len() {
		f := m.Descriptor().Fields().Get(i)
		if f.Kind() != protoreflect.MessageKind || !m.Has(f) {
			continue
		}
		if f.IsList() {
			list := m.Get(f).List()
			for j := range list.Len() {
				if found := v.unvisited(list.Get(j).Message()); found != nil {
					return found
				}
			}
		} else if found := v.unvisited(m.Get(f).Message()); found != nil {
			return found
		}
	}
	return nil
}

// location finds the first place in the text that m or a node below it knows.
func location(m protoreflect.Message) int {
	if at := ownLocation(m); at > 0 {
		return at
	}
	for i := range m.Descriptor().Fields().Len() {
		f := m.Descriptor().Fields().Get(i)
		if f.Kind() != protoreflect.MessageKind || !m.Has(f) {
			continue
		}
		if at := fieldLocation(m, f); at > 0 {
			return at
		}
	}
	return nowhere
}

func ownLocation(m protoreflect.Message) int {
	f := m.Descriptor().Fields().ByName("location")
	if f == nil || f.Kind() != protoreflect.Int32Kind {
		return nowhere
	}
	return int(m.Get(f).Int())
}

func fieldLocation(m protoreflect.Message, f protoreflect.FieldDescriptor) int {
	if f.Kind() != protoreflect.MessageKind {
		return nowhere
	}
	if !f.IsList() {
		return location(m.Get(f).Message())
	}
	list := m.Get(f).List()
	for j := range list.Len() {
		if at := location(list.Get(j).Message()); at > 0 {
			return at
		}
	}
	return nowhere
}

// keyword finds the first of the given keywords in the text, for nodes that do not know their place.
func keyword(sql string, words ...string) int {
	scan, err := pg_query.Scan(sql)
	if err != nil {
		return nowhere
	}
	for _, t := range scan.GetTokens() {
		for _, w := range words {
			if strings.EqualFold(sql[t.GetStart():t.GetEnd()], w) {
				return int(t.GetStart())
			}
		}
	}
	return nowhere
}
