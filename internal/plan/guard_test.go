package plan

import (
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
	const query = `SELECT a.x, coalesce(b.y, 1) AS z FROM a LEFT JOIN b ON b.x = a.x::int AND b.f WHERE NOT a.g AND a.h IS NULL AND a.i IS TRUE AND a.k = $1 ORDER BY 1, a.x`
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
