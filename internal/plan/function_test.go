package plan

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// The functions that a query may call are PostgreSQL's own, of the kind that the planner takes them for, and their result
// is a function of their arguments: immutable, or stable because of a setting that every load forces (how values are
// written, and the time zone), and none of them returns several rows.
func TestFunctionsAreWhatTheServerSays(t *testing.T) {
	t.Parallel()
	// Stable: they write values as text, or cut days by the time zone.
	settings := []string{
		"age", "array_to_string", "concat", "concat_ws", "date_part", "date_trunc", "extract", "format", "json_build_array", "json_build_object",
		"jsonb_build_array", "jsonb_build_object", "to_json", "to_jsonb", "length", "timezone",
		"json_agg", "json_object_agg", "jsonb_agg", "jsonb_object_agg", "array_agg", "string_agg",
	}
	conn, err := pgx.Connect(t.Context(), pgtest.Shared(t).Database(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	for kind, names := range map[string][]string{
		"f": functions, "a": slices.Concat(aggregates, orderedAggregates, setAggregates), "w": windowFunctions,
	} {
		for _, name := range names {
			// Some window functions are hypothetical-set aggregates as well; without OVER they are not accepted.
			const query = `SELECT count(*), coalesce(CASE $2 WHEN 'w' THEN bool_or(prokind = $2) ELSE bool_and(prokind = $2) END, false), coalesce(bool_and(provolatile = 'i' OR $3 AND provolatile = 's'), false), coalesce(bool_or(proretset), false)
				FROM pg_proc WHERE proname = $1 AND pronamespace = 'pg_catalog'::regnamespace`
			var count int
			var sameKind, steady, rows bool
			if err := conn.QueryRow(t.Context(), query, name, kind, slices.Contains(settings, name)).Scan(&count, &sameKind, &steady, &rows); err != nil {
				t.Fatal(err)
			}
			if count == 0 || !sameKind || !steady || rows {
				t.Errorf("%s: %d functions, of the kind %s: %t, steady: %t, returns rows: %t", name, count, kind, sameKind, steady, rows)
			}
		}
	}
}
