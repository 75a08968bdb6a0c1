package plan

import (
	"testing"

	pg_query "github.com/pganalyze/pg_query_go/v6"
)

// TestPlainBlock: beside what makes rows of rows, one by one, nothing is plain, also what the planner may understand some day.
func TestPlainBlock(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]bool{
		"SELECT a.x AS y, COALESCE(b.z, 'no'::text) AS w FROM s.a JOIN s.b AS b ON a.id = b.id WHERE a.id = $1 AND NOT b.z IS NULL AND a.k IN (1, 2.5) AND (b.t IS TRUE OR a.u <> 'v') ORDER BY 1 DESC NULLS LAST, w": true,
		"SELECT a.x AS y FROM s.a LEFT JOIN s.b USING (id) WHERE a.id = $1":                true,
		"SELECT DISTINCT a.x AS y FROM s.a WHERE a.id = $1":                                false,
		"SELECT DISTINCT ON (a.z) a.x AS y FROM s.a WHERE a.id = $1":                       false,
		"SELECT a.x AS y FROM s.a WHERE a.id = $1 GROUP BY a.x":                            false,
		"SELECT count(*) AS n FROM s.a WHERE a.id = $1":                                    false,
		"SELECT a.x AS y, row_number() OVER () AS n FROM s.a WHERE a.id = $1":              false,
		"SELECT a.x AS y FROM s.a WHERE a.id = $1 LIMIT 1":                                 false,
		"SELECT a.x AS y FROM s.a WHERE a.id = $1 OFFSET 1":                                false,
		"SELECT a.x AS y FROM s.a WHERE a.id = $1 ORDER BY 1 FETCH FIRST 2 ROWS WITH TIES": false,
		"SELECT a.x AS y FROM s.a WHERE a.id = $1 UNION ALL SELECT b.x FROM s.b":           false,
		"WITH c AS (SELECT 1 AS x) SELECT a.x AS y FROM s.a WHERE a.id = $1":               false,
		"SELECT a.x AS y FROM (SELECT * FROM s.a) a WHERE a.id = $1":                       false,
		"SELECT a.x AS y FROM s.a, LATERAL f(a.x) WHERE a.id = $1":                         false,
		"SELECT a.x AS y FROM s.a WHERE a.id = $1 AND EXISTS (SELECT FROM s.b)":            false,
		"SELECT (SELECT b.x FROM s.b) AS y FROM s.a WHERE a.id = $1":                       false,
		"SELECT lower(a.x) AS y FROM s.a WHERE a.id = $1":                                  false,
		"SELECT CASE WHEN a.x THEN 1 END AS y FROM s.a WHERE a.id = $1":                    false,
		"SELECT a.x AS y FROM s.a TABLESAMPLE system(1) WHERE a.id = $1":                   false,
		"SELECT a.x AS y FROM s.a WHERE a.id = $1 FOR UPDATE":                              false,
		"SELECT a.x AS y FROM s.a WHERE a.id = $1 AND a.t < current_date":                  false,
		"SELECT a.x AS y FROM s.a WINDOW w AS (ORDER BY a.x)":                              false,
		"SELECT a.x AS y FROM s.a AS a (x, z) WHERE a.id = $1":                             false,
	} {
		tree, err := pg_query.Parse(query)
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		if got := plainBlock(tree.GetStmts()[0].GetStmt().GetSelectStmt().ProtoReflect()); got != want {
			t.Errorf("plainBlock(%s) = %v, want %v", query, got, want)
		}
	}
}
