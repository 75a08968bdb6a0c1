package plan

import (
	"slices"
	"strings"
	"testing"

	pg_query "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// What the guard lets pass are nodes and fields that exist: a misspelt one would refuse what is supported, and one that
// a newer parser renames would go unnoticed.
func TestUnderstoodFieldsExist(t *testing.T) {
	t.Parallel()
	messages := pg_query.File_pg_query_proto.Messages()
	listed := 0
	for i := range messages.Len() {
		m := messages.Get(i)
		for field := range strings.FieldsSeq(understood(m.Name())) {
			listed++
			if m.Fields().ByName(protoreflect.Name(field)) == nil {
				t.Errorf("%s has no field %s", m.Name(), field)
			}
		}
	}
	const least = 50
	if listed < least {
		t.Errorf("%d fields of the guard belong to a message, want at least %d", listed, least)
	}
}

// A node that planning did not look at is found, whichever it is.
func TestUnvisitedFindsWhatWasPassedBy(t *testing.T) {
	t.Parallel()
	const query = `WITH w AS (SELECT 1 AS x) SELECT a.x, coalesce(b.y, 1) AS z, count(*) OVER (PARTITION BY a.x), greatest(1, 2), ARRAY[1], ROW(1, 2), (SELECT 1)
FROM a LEFT JOIN b ON b.x = a.x::int AND b.f JOIN (SELECT 1 AS x) s ON true WHERE NOT a.g AND a.h IS NULL AND a.i IS TRUE AND a.k = $1
AND CASE WHEN a.l THEN true END GROUP BY ROLLUP (a.x) ORDER BY 1, a.x`
	parse := func() *pg_query.ParseResult {
		tree, err := pg_query.Parse(query)
		if err != nil {
			t.Fatal(err)
		}
		return tree
	}
	tree := parse()
	all := visits{}
	kinds := map[protoreflect.Name]bool{}
	for {
		m := all.unvisited(tree.ProtoReflect())
		if m == nil {
			break
		}
		all[m.Interface()] = true
		kinds[m.Descriptor().Name()] = true
	}
	for _, kind := range []protoreflect.Name{
		"RangeVar", "ColumnRef", "ParamRef", "A_Const", "A_Expr", "BoolExpr", "NullTest", "BooleanTest", "JoinExpr", "CoalesceExpr", "TypeCast", "SortBy", "ResTarget", "SelectStmt",
		"WithClause", "CommonTableExpr", "WindowDef", "FuncCall", "MinMaxExpr", "A_ArrayExpr", "RowExpr", "SubLink", "RangeSubselect", "CaseExpr", "CaseWhen", "GroupingSet",
	} {
		if !kinds[kind] {
			t.Errorf("no %s was found", kind)
		}
	}
	for m := range all {
		some := visits{}
		for other := range all {
			some[other] = other != m
		}
		if found := some.unvisited(tree.ProtoReflect()); found == nil || found.Interface() != m {
			t.Errorf("all but %v visited: found %v", m, found)
		}
	}
}

// guarded statements of every kind are refused before anything reads them.
func TestGuardRefusesEveryOtherStatement(t *testing.T) {
	t.Parallel()
	for _, statement := range []string{
		"INSERT INTO a VALUES (1)", "DELETE FROM a", "MERGE INTO a USING b ON a.x = b.x WHEN MATCHED THEN DELETE", "CREATE TABLE a ()", "DROP TABLE a", "COPY a TO STDOUT",
		"DO $$ $$", "CALL f()", "EXPLAIN SELECT 1", "PREPARE p AS SELECT 1", "EXECUTE p", "SET x = 1", "SHOW x", "BEGIN", "LISTEN x", "LOCK a", "VACUUM", "TRUNCATE a", "GRANT SELECT ON a TO b",
		"DECLARE c CURSOR FOR SELECT 1", "CREATE VIEW v AS SELECT 1", "REFRESH MATERIALIZED VIEW v", "NOTIFY x", "ALTER TABLE a ADD b int",
	} {
		tree, err := pg_query.Parse(statement)
		if err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
		if err := guard(tree.ProtoReflect(), statement, nowhere); err == nil {
			t.Errorf("%s is not refused", statement)
		}
	}
}

// Every kind of node that the parser knows is either understood or refused, and of one that is understood every field
// that is not read refuses it as well: what a newer parser adds does not slip by.
func TestGuardKnowsEveryNode(t *testing.T) {
	t.Parallel()
	kinds, fields := 0, 0
	alternatives := (&pg_query.Node{}).ProtoReflect().Descriptor().Oneofs().ByName("node").Fields()
	for i := range alternatives.Len() {
		f := alternatives.Get(i)
		wrap := func(change func(protoreflect.Message)) error {
			node := &pg_query.Node{}
			made := node.ProtoReflect().NewField(f)
			change(made.Message())
			node.ProtoReflect().Set(f, made)
			tree, err := pg_query.Parse("SELECT 1")
			if err != nil {
				t.Fatal(err)
			}
			tree.GetStmts()[0].GetStmt().GetSelectStmt().GetTargetList()[0].GetResTarget().Val = node
			return guard(tree.ProtoReflect(), "SELECT 1", nowhere)
		}
		name := f.Message().Name()
		known := strings.Fields(understood(name))
		kinds++
		if err := wrap(func(protoreflect.Message) {}); (err == nil) != (understood(name) != "") {
			t.Errorf("an empty %s: %v", name, err)
		}
		if understood(name) == "" {
			continue
		}
		for j := range f.Message().Fields().Len() {
			one := f.Message().Fields().Get(j)
			if slices.Contains(known, string(one.Name())) {
				continue
			}
			fields++
			if err := wrap(func(m protoreflect.Message) { fill(m, one) }); err == nil {
				t.Errorf("%s with %s is not refused", name, one.Name())
			}
		}
	}
	const leastKinds, leastFields = 250, 40
	if kinds < leastKinds || fields < leastFields {
		t.Errorf("%d kinds and %d fields were tried, want at least %d and %d", kinds, fields, leastKinds, leastFields)
	}
}

// fill sets a field to something.
func fill(m protoreflect.Message, f protoreflect.FieldDescriptor) {
	switch {
	case f.IsList() && f.Kind() == protoreflect.MessageKind:
		list := m.Mutable(f).List()
		list.Append(list.NewElement())
	case f.IsList():
		list := m.Mutable(f).List()
		list.Append(protoreflect.ValueOfUint64(1))
	case f.Kind() == protoreflect.MessageKind:
		m.Set(f, m.NewField(f))
	case f.Kind() == protoreflect.BoolKind:
		m.Set(f, protoreflect.ValueOfBool(true))
	case f.Kind() == protoreflect.StringKind:
		m.Set(f, protoreflect.ValueOfString("x"))
	case f.Kind() == protoreflect.EnumKind:
		m.Set(f, protoreflect.ValueOfEnum(1))
	case f.Kind() == protoreflect.Int32Kind:
		m.Set(f, protoreflect.ValueOfInt32(1))
	case f.Kind() == protoreflect.Int64Kind:
		m.Set(f, protoreflect.ValueOfInt64(1))
	case f.Kind() == protoreflect.Uint32Kind:
		m.Set(f, protoreflect.ValueOfUint32(1))
	case f.Kind() == protoreflect.Uint64Kind:
		m.Set(f, protoreflect.ValueOfUint64(1))
	default:
		panic("a field of an unknown kind: " + string(f.FullName()))
	}
}
