package plan

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"
	"github.com/pganalyze/pg_query_go/v6/parser"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
)

// The columns that a query with row versions has after its own.
const (
	versionColumn = "freshet_version"
	xidsColumn    = "freshet_xids"
)

// declaredVersion reads row_version: an expression over the columns of the tables that the query names, whether it
// returns them or not. nil when there is none. What it is worth is for the entry's author to know: a version that stays the
// same while the value changes has conditional reads return the old one.
func (c *compiler) declaredVersion(q *query) (*pg_query.Node, error) {
	if c.declared.RowVersion == "" {
		return nil, nil //nolint:nilnil // there is none, and nothing is wrong
	}
	refuse := func(what, why, do string) error {
		return &refusal{at: nowhere, what: fmt.Sprintf("row_version %q: %s", c.declared.RowVersion, what), why: why, do: do}
	}
	const advice = "Write a column, or an expression over columns, such as p.updated_at."
	text := "SELECT (" + c.declared.RowVersion + "\n) AS " + versionColumn
	tree, err := pg_query.Parse(text)
	if err != nil {
		what := err.Error()
		if e, ok := errors.AsType[*parser.Error](err); ok {
			what = e.Message
		}
		return nil, refuse(what, "", advice)
	}
	statement := tree.GetStmts()[0].GetStmt().GetSelectStmt()
	if len(tree.GetStmts()) != 1 || !proto.Equal(bare(statement), &pg_query.SelectStmt{TargetList: statement.GetTargetList()}) ||
		len(statement.GetTargetList()) != 1 {
		return nil, refuse("this is not one expression", "", advice)
	}
	value := statement.GetTargetList()[0].GetResTarget().GetVal()
	if strange := inexpressive(value.ProtoReflect()); strange != "" {
		return nil, refuse("it is more than an expression over the row ("+strange+")", "a row's version is computed of that row", advice)
	}
	b, read := q.arms[0], bits(0)
	for _, ref := range references(value.ProtoReflect()) {
		column, err := b.resolve(ref, b.whole())
		if r, ok := errors.AsType[*refusal](err); ok {
			return nil, refuse(r.what, r.why, r.do)
		}
		if err != nil {
			return nil, err
		}
		read |= column.occurrence.bit()
		if column.other != nil {
			read |= column.other.occurrence.bit()
		}
	}
	if read == 0 {
		return nil, refuse("it names no column", "it would be the same for ever", advice)
	}
	for _, o := range b.items {
		if read&o.bit() == 0 {
			c.warn("row_version reads nothing of %s: conditional reads do not notice changes there", describe(o))
		}
	}
	return value, nil
}

// bare is a SELECT without what every one has.
func bare(statement *pg_query.SelectStmt) *pg_query.SelectStmt {
	cloned, ok := proto.Clone(statement).(*pg_query.SelectStmt)
	if !ok {
		return statement
	}
	cloned.LimitOption, cloned.Op = 0, 0
	return cloned
}

// inexpressive names the first node that is more than an expression over one row, "" when there is none. Whether a
// function is an aggregate only the database knows: it refuses one beside plain columns.
func inexpressive(m protoreflect.Message) string {
	switch name := m.Descriptor().Name(); name {
	case "Node", "ColumnRef", "A_Const", "Integer", "Float", "Boolean", "String", "BitString", "A_Expr", "BoolExpr", "NullTest", "BooleanTest",
		"CoalesceExpr", "MinMaxExpr", "CaseExpr", "CaseWhen", "NullIfExpr", "TypeCast", "TypeName", "List", "A_ArrayExpr":
	case "FuncCall":
		call, ok := m.Interface().(*pg_query.FuncCall)
		if !ok || call.GetOver() != nil || call.GetAggFilter() != nil || call.GetAggDistinct() || call.GetAggStar() || len(call.GetAggOrder()) > 0 {
			return string(name)
		}
	default:
		return string(name)
	}
	found := ""
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Kind() != protoreflect.MessageKind:
		case f.IsList():
			for i := range v.List().Len() {
				if found == "" {
					found = inexpressive(v.List().Get(i).Message())
				}
			}
		default:
			found = inexpressive(v.Message())
		}
		return found == ""
	})
	return found
}

// references are the columns that are named at or below m.
func references(m protoreflect.Message) (all []*pg_query.ColumnRef) {
	if ref, ok := m.Interface().(*pg_query.ColumnRef); ok {
		return []*pg_query.ColumnRef{ref}
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Kind() != protoreflect.MessageKind:
		case f.IsList():
			for i := range v.List().Len() {
				all = append(all, references(v.List().Get(i).Message())...)
			}
		default:
			all = append(all, references(v.Message())...)
		}
		return true
	})
	return all
}

// rowVersion makes the query that has row versions too, out of the canonical one: declared ones, or physical ones where
// they prove something. nil: neither.
func (c *compiler) rowVersion(q *query, declared *pg_query.Node) (*rule.RowVersion, error) {
	if slices.ContainsFunc(q.outputs, func(v visible) bool { return v.name == versionColumn || v.name == xidsColumn }) {
		return nil, nil //nolint:nilnil // values are compared by their digests
	}
	tree, ok := proto.Clone(c.tree).(*pg_query.ParseResult)
	if !ok {
		return nil, errors.New("the canonical query does not clone")
	}
	statement := tree.GetStmts()[0].GetStmt().GetSelectStmt()
	version := &rule.RowVersion{}
	for _, target := range statement.GetTargetList() {
		version.Columns = append(version.Columns, target.GetResTarget().GetName())
	}
	plain := plainBlock(statement.ProtoReflect())
	switch {
	case declared != nil && !plain:
		return nil, &refusal{
			at: nowhere, what: "row_version is for one SELECT over tables that are joined, without DISTINCT, grouping, LIMIT or subqueries",
			why: "a version that is returned beside the others could change which rows there are", do: "Remove row_version: conditional reads compare a digest.",
		}
	case declared != nil:
		statement.TargetList = append(statement.TargetList, pg_query.MakeResTargetNodeWithNameAndVal(versionColumn, scalar(declared), 0))
	case plain && c.physical(statement):
		added, err := pg_query.Parse(c.physicalColumns())
		if err != nil {
			return nil, fmt.Errorf("write the rows' versions: %w", err)
		}
		statement.TargetList = append(statement.TargetList, added.GetStmts()[0].GetStmt().GetSelectStmt().GetTargetList()...)
		for _, o := range c.occurrences {
			version.Tables = append(version.Tables, quoted(o.table.Name))
		}
	default:
		return nil, nil //nolint:nilnil // values are compared by their digests
	}
	var err error
	version.SQL, err = publish(tree)
	return version, err
}

// scalar is (SELECT value::text): a function that returns several rows is an error there, and does not multiply those of the
// query.
func scalar(value *pg_query.Node) *pg_query.Node {
	text := &pg_query.Node{Node: &pg_query.Node_TypeCast{TypeCast: &pg_query.TypeCast{
		Arg: value, TypeName: &pg_query.TypeName{Names: []*pg_query.Node{pg_query.MakeStrNode("text")}, Typemod: -1},
	}}}
	return &pg_query.Node{Node: &pg_query.Node_SubLink{SubLink: &pg_query.SubLink{
		SubLinkType: pg_query.SubLinkType_EXPR_SUBLINK,
		Subselect: &pg_query.Node{Node: &pg_query.Node_SelectStmt{SelectStmt: &pg_query.SelectStmt{
			TargetList:  []*pg_query.Node{{Node: &pg_query.Node_ResTarget{ResTarget: &pg_query.ResTarget{Val: text}}}},
			LimitOption: pg_query.LimitOption_LIMIT_OPTION_DEFAULT, Op: pg_query.SetOperation_SETOP_NONE,
		}}},
	}}}
}

// physicalColumns selects, of each row that a row of the result is made of, where it is stored and which transaction
// stored it; "-" where an outer join found none. What is not of the very table, but of a child that it was given since it
// was planned, has no version.
func (c *compiler) physicalColumns() string {
	labels, xids := make([]string, len(c.occurrences)), make([]string, len(c.occurrences))
	for i, o := range c.occurrences {
		alias := quoteIdent(o.alias)
		table := "'" + strings.ReplaceAll(quoted(o.table.Name), "'", "''") + "'"
		labels[i] = fmt.Sprintf("CASE WHEN %[1]s.ctid IS NULL THEN '-' WHEN %[1]s.tableoid = %[2]s::regclass THEN %[1]s.ctid::text || '/' || %[1]s.xmin::text END",
			alias, table)
		xids[i] = alias + ".xmin::text::int8"
	}
	return "SELECT " + strings.Join(labels, " || ';' || ") + " AS " + versionColumn + ", ARRAY[" + strings.Join(xids, ", ") + "] AS " + xidsColumn
}

// plainBlock reports whether the statement is a list of columns over tables that are joined: the rows that it returns are
// made of one row of each table, and a column more changes nothing about them. It is a list of what is known to be so, apart
// from what the planner understands.
func plainBlock(m protoreflect.Message) bool {
	var fields string
	switch m.Descriptor().Name() {
	case "Node":
		fields = "*"
	case "SelectStmt":
		fields = "target_list from_clause where_clause sort_clause limit_option op"
	case "ResTarget":
		fields = "name val location"
	case "ColumnRef":
		fields = "fields location"
	case "A_Const":
		fields = "ival fval boolval sval isnull location"
	case "A_Expr":
		fields = "kind name lexpr rexpr location"
	case "BoolExpr":
		fields = "boolop args location"
	case "NullTest":
		fields = "arg nulltesttype location"
	case "BooleanTest":
		fields = "arg booltesttype location"
	case "JoinExpr":
		fields = "jointype larg rarg using_clause quals"
	case "RangeVar":
		fields = "schemaname relname inh relpersistence alias location"
	case "Alias":
		fields = "aliasname"
	case "CoalesceExpr":
		fields = "args location"
	case "TypeCast":
		fields = "arg type_name location"
	case "TypeName":
		fields = "names typemod location"
	case "SortBy":
		fields = "node sortby_dir sortby_nulls location"
	case "ParamRef":
		fields = "number location"
	case "List":
		fields = "items"
	case "String", "Integer", "Float", "Boolean":
		return true
	}
	known, plain := strings.Fields(fields), true
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		plain = fields == "*" || slices.Contains(known, string(f.Name()))
		switch {
		case !plain || f.Kind() != protoreflect.MessageKind:
		case f.IsList():
			for i := range v.List().Len() {
				plain = plain && plainBlock(v.List().Get(i).Message())
			}
		default:
			plain = plainBlock(v.Message())
		}
		return plain
	})
	return plain
}

// physical reports whether what a plain block returns is a function of the rows as they are stored: of nothing in the
// catalog but the names and types of the tables' columns.
func (c *compiler) physical(statement *pg_query.SelectStmt) bool {
	if len(c.views) > 0 || ranges(statement.ProtoReflect()) != len(c.occurrences) {
		return false
	}
	for _, o := range c.occurrences {
		if o.table == nil || o.table.Kind != schema.OrdinaryTable {
			return false
		}
	}
	return !slices.ContainsFunc(statement.GetTargetList(), func(n *pg_query.Node) bool { return !c.stored(n.GetResTarget().GetVal()) })
}

// stored reports whether an output is a column as it is stored, or what stands in its place where it is NULL.
func (c *compiler) stored(value *pg_query.Node) bool {
	switch {
	case value.GetAConst() != nil:
		return true
	case value.GetCoalesceExpr() != nil:
		return !slices.ContainsFunc(value.GetCoalesceExpr().GetArgs(), func(n *pg_query.Node) bool { return !c.stored(n) })
	case value.GetTypeCast() != nil:
		cast := value.GetTypeCast()
		name, builtIn := typeName(cast.GetTypeName())
		return cast.GetArg().GetAConst() != nil && builtIn && plainText(name)
	case value.GetColumnRef() == nil:
		return false
	}
	names, _ := nameParts(value.GetColumnRef())
	if len(names) != 2 { // what FULL JOIN USING merges
		return false
	}
	at := slices.IndexFunc(c.occurrences, func(o *occurrence) bool { return o.alias == names[0] })
	if at < 0 {
		return false
	}
	column := c.occurrences[at].table.Column(names[1])
	return column != nil && !column.Generated && column.TypeSchema == "pg_catalog" && plainText(strings.TrimPrefix(column.TypeName, "_"))
}

// ranges counts the tables that are named at or below m.
func ranges(m protoreflect.Message) (n int) {
	if m.Descriptor().Name() == "RangeVar" {
		return 1
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Kind() != protoreflect.MessageKind:
		case f.IsList():
			for i := range v.List().Len() {
				n += ranges(v.List().Get(i).Message())
			}
		default:
			n += ranges(v.Message())
		}
		return true
	})
	return n
}

// plainText lists the types whose text follows from the stored value, under the settings that every load has. The labels of
// an enum, the fields of a composite and the names behind a reg* type are in the catalog; money is written by locale.
func plainText(name string) bool {
	switch name {
	case "bool", "int2", "int4", "int8", "oid", "float4", "float8", "numeric", "text", "varchar", "bpchar", "name", "char", "uuid", "bytea",
		"date", "time", "timetz", "timestamp", "timestamptz", "interval", "json", "jsonb", "inet", "cidr", "macaddr", "macaddr8", "bit", "varbit":
		return true
	}
	return false
}
