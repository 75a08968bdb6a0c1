package plan

import (
	"fmt"
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"
)

// functions are PostgreSQL's own whose result is a function of their arguments, given the settings that every load
// forces (time zone, date style). A test holds the list against the catalog of a real server, and pgcatalog.Verify makes
// sure that no function of a user is meant.
var functions = strings.Fields(knownFunctions) //nolint:gochecknoglobals // a table

const knownFunctions = `
	abs age array_length array_position array_to_string ascii bit_length btrim cardinality cbrt ceil ceiling char_length character_length chr concat
	concat_ws date_part date_trunc degrees div encode exp extract floor format gcd initcap
	json_array_length json_build_array json_build_object json_extract_path json_extract_path_text json_typeof
	jsonb_array_length jsonb_build_array jsonb_build_object jsonb_extract_path jsonb_extract_path_text jsonb_pretty jsonb_strip_nulls jsonb_typeof
	justify_days justify_hours justify_interval lcm left length ln log lower lpad ltrim make_date make_interval md5 mod num_nonnulls num_nulls
	octet_length overlay position power radians regexp_match regexp_replace repeat replace reverse right round rpad rtrim sha256 sha512 sign
	split_part sqrt starts_with strpos substr substring timezone to_hex to_json to_jsonb translate trunc upper width_bucket`

// aggregates are those among them that take the rows of a group together, in whose result the order of the rows does
// not show, and orderedAggregates those in which it does.
var (
	aggregates        = strings.Fields(`avg bit_and bit_or bool_and bool_or count every max min stddev stddev_pop stddev_samp sum var_pop var_samp variance`) //nolint:gochecknoglobals // a table
	orderedAggregates = strings.Fields(`array_agg json_agg json_object_agg jsonb_agg jsonb_object_agg string_agg`)                                            //nolint:gochecknoglobals // a table
	// setAggregates are written with WITHIN GROUP, which orders the rows.
	setAggregates = strings.Fields(`mode percentile_cont percentile_disc`) //nolint:gochecknoglobals // a table
	// windowFunctions look at the rows around.
	windowFunctions = strings.Fields(`cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank row_number`) //nolint:gochecknoglobals // a table
)

// clocks are the functions that yield the time at which the load began.
var clocks = strings.Fields(`now statement_timestamp transaction_timestamp`) //nolint:gochecknoglobals // a table

// valueFunction reads current_date and its kin.
func (b *block) valueFunction(f *pg_query.SQLValueFunction) error {
	b.visits()[f] = true
	switch f.GetOp() {
	case pg_query.SQLValueFunctionOp_SVFOP_CURRENT_DATE, pg_query.SQLValueFunctionOp_SVFOP_CURRENT_TIME, pg_query.SQLValueFunctionOp_SVFOP_CURRENT_TIME_N,
		pg_query.SQLValueFunctionOp_SVFOP_CURRENT_TIMESTAMP, pg_query.SQLValueFunctionOp_SVFOP_CURRENT_TIMESTAMP_N, pg_query.SQLValueFunctionOp_SVFOP_LOCALTIME,
		pg_query.SQLValueFunctionOp_SVFOP_LOCALTIME_N, pg_query.SQLValueFunctionOp_SVFOP_LOCALTIMESTAMP, pg_query.SQLValueFunctionOp_SVFOP_LOCALTIMESTAMP_N:
		if b.compiler.declared.DependsOnTime {
			b.compiler.timed = true
			return nil
		}
		return &refusal{
			at: int(f.GetLocation()), what: "the current date or time", why: "the result changes without any write",
			do: "Pass it as a parameter, such as @day, or say how old a value may be with depends_on_time: {max_age: 30s}.",
		}
	default:
		return &refusal{
			at: int(f.GetLocation()), what: "the current user, schema or database", why: "the result differs between sessions", do: "Pass it as a parameter.",
		}
	}
}

// function reads a function's call.
func (b *block) function(call *pg_query.FuncCall, in *scope, e *content) error {
	b.visits()[call] = true
	name, ok := functionName(call)
	isAggregate := slices.Contains(aggregates, name) || slices.Contains(orderedAggregates, name) || slices.Contains(setAggregates, name)
	switch {
	case !ok:
		return b.userFunction(call, in, e)
	case call.GetOver() != nil && (isAggregate || slices.Contains(windowFunctions, name)):
		return b.window(call, name, in, e)
	case call.GetOver() == nil && isAggregate:
		return b.aggregate(call, name, in, e)
	case b.compiler.declared.DependsOnTime && call.GetOver() == nil && (slices.Contains(clocks, name) || name == "age" && len(call.GetArgs()) == 1):
		b.compiler.timed = true
		_, err := b.arguments(call, in, e)
		return err
	case name == "age" && len(call.GetArgs()) == 1:
		return &refusal{at: int(call.GetLocation()), what: "age() of one time", why: "it counts up to the present day", do: "Pass the time as a parameter, such as age(@day::timestamp, born), or say how old a value may be with depends_on_time: {max_age: 30s}."}
	case call.GetOver() == nil && slices.Contains(functions, name):
		_, err := b.arguments(call, in, e)
		return err
	}
	return b.userFunction(call, in, e)
}

// functionName is the name of one of PostgreSQL's own functions.
func functionName(call *pg_query.FuncCall) (string, bool) {
	names := call.GetFuncname()
	if len(names) == 2 && names[0].GetString_().GetSval() == "pg_catalog" || len(names) == 1 {
		return names[len(names)-1].GetString_().GetSval(), true
	}
	return "", false
}

func (b *block) arguments(call *pg_query.FuncCall, in *scope, e *content) (*content, error) {
	own := &content{text: true}
	for _, nodes := range [][]*pg_query.Node{call.GetArgs(), sortKeys(b, call.GetAggOrder()), {call.GetAggFilter()}} {
		for _, node := range nodes {
			if node == nil {
				continue
			}
			if err := b.expression(node, in, own); err != nil {
				return nil, err
			}
		}
	}
	// Texts are fine for the functions of texts; for those of times a text may be a time.
	for _, k := range own.constants {
		if err := neverSpecial("", k); err != nil {
			return nil, err
		}
	}
	constants := own.constants
	own.constants = nil // what they mean follows from the function, and not from what it is compared with
	e.add(own)
	own.constants = constants
	return own, nil
}

func sortKeys(b *block, clause []*pg_query.Node) []*pg_query.Node {
	keys := make([]*pg_query.Node, 0, len(clause))
	for _, node := range clause {
		b.visits()[node.GetSortBy()] = true
		keys = append(keys, node.GetSortBy().GetNode())
	}
	return keys
}

func (b *block) aggregate(call *pg_query.FuncCall, name string, in *scope, e *content) error {
	own, err := b.arguments(call, in, e)
	if err != nil {
		return err
	}
	// Whose aggregate it is, PostgreSQL decides by the innermost column in it, also of a subquery in it.
	outer := len(own.columns) > 0 || own.subquery
	for _, c := range own.columns {
		outer = outer && c.occurrence.block != b
	}
	if outer {
		return &refusal{
			at: int(call.GetLocation()), what: name + "() without a column of its own query", why: "PostgreSQL takes it for an aggregate of the query whose columns are in it",
			do: "Move it into the query whose columns it takes.",
		}
	}
	b.aggregates, e.aggregate = true, true
	c := b.compiler
	if slices.Contains(orderedAggregates, name) && len(call.GetAggOrder()) == 0 {
		c.warn("%s() without ORDER BY in it: two loads of the same data may differ; write %s(... ORDER BY ...)", name, name)
	}
	if name == "min" || name == "max" {
		for _, column := range own.columns {
			c.oneOfEqual(name+"()", column.String(), column.column)
		}
	}
	if name == "sum" || name == "avg" {
		for _, column := range own.columns {
			if column.column != nil && (column.column.TypeName == "float4" || column.column.TypeName == "float8") {
				c.warn("%s() of %s, which is %s: the result depends on the order of the rows, so that two loads of the same data may differ", name, column, column.column.Type)
			}
		}
	}
	return nil
}

// window reads a window function. The columns that partition its window decide through which outputs a condition passes.
func (b *block) window(call *pg_query.FuncCall, name string, in *scope, e *content) error {
	over := call.GetOver()
	b.windows = append(b.windows, over)
	if err := b.windowDefinition(over, in); err != nil {
		return err
	}
	if slices.Contains([]string{"row_number", "ntile", "lag", "lead", "first_value", "last_value", "nth_value"}, name) {
		b.numbered = append(b.numbered, numbered{function: name, over: over})
		if !b.orderedWindow(over) {
			b.compiler.warn("%s() without ORDER BY in its window: two loads of the same data may differ", name)
		}
	}
	_, err := b.arguments(call, in, e)
	return err
}

func (b *block) orderedWindow(w *pg_query.WindowDef) bool {
	if len(w.GetOrderClause()) > 0 {
		return true
	}
	for _, node := range b.statement.GetWindowClause() {
		if d := node.GetWindowDef(); d.GetName() == w.GetName() || d.GetName() == w.GetRefname() {
			return len(d.GetOrderClause()) > 0 || d.GetRefname() != ""
		}
	}
	return false
}

func (b *block) windowDefinition(w *pg_query.WindowDef, in *scope) error {
	b.visits()[w] = true
	for _, nodes := range [][]*pg_query.Node{w.GetPartitionClause(), sortKeys(b, w.GetOrderClause()), {w.GetStartOffset(), w.GetEndOffset()}} {
		for _, node := range nodes {
			if node == nil {
				continue
			}
			if err := b.expression(node, in, &content{}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *block) windowClause() error {
	for _, node := range b.statement.GetWindowClause() {
		if err := b.windowDefinition(node.GetWindowDef(), b.whole()); err != nil {
			return err
		}
	}
	return nil
}

// unsupportedFunction refuses a function, with what is known of it.
func unsupportedFunction(call *pg_query.FuncCall) *refusal {
	r := &refusal{at: int(call.GetLocation())}
	names := call.GetFuncname()
	name := names[len(names)-1].GetString_().GetSval()
	switch name {
	case "now", "statement_timestamp", "transaction_timestamp":
		r.what, r.why = name+"()", "the result changes without any write"
		r.do = "Pass the time as a parameter, such as @day, or say how old a value may be with depends_on_time: {max_age: 30s}."
	case "clock_timestamp", "timeofday":
		r.what, r.why = name+"()", "it is another time for every row"
		r.do = "Use now(), with depends_on_time."
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
