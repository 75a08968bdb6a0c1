package plan_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/plan"
	"github.com/freshet/freshet/internal/rule"
)

// TestRowVersions shows the queries that have row versions. A test of pgcatalog prepares those of all accepted cases.
func TestRowVersions(t *testing.T) {
	t.Parallel()
	catalog, _ := shop(t)
	tests := []struct {
		name, query, version string
		want                 *rule.RowVersion
	}{
		{"physical, of one table", "SELECT name FROM products WHERE id = @id", "", &rule.RowVersion{
			SQL: "SELECT products.name AS name, CASE WHEN products.ctid IS NULL THEN '-' WHEN products.tableoid = 'public.products'::regclass" +
				" THEN (products.ctid::text || '/') || products.xmin::text END AS freshet_version, ARRAY[products.xmin::text::int8] AS freshet_xids" +
				" FROM public.products WHERE products.id = $1",
			Columns: []string{"name"}, Tables: []string{"public.products"},
		}},
		{"physical, of an outer join, in order", `SELECT u.name, bio AS "the Bio" FROM users u LEFT JOIN profiles p ON p.user_id = u.id WHERE u.id = @id ORDER BY 2`, "", &rule.RowVersion{
			SQL: `SELECT u.name AS name, p.bio AS "the Bio", (CASE WHEN u.ctid IS NULL THEN '-' WHEN u.tableoid = 'public.users'::regclass` +
				` THEN (u.ctid::text || '/') || u.xmin::text END || ';') || CASE WHEN p.ctid IS NULL THEN '-' WHEN p.tableoid = 'public.profiles'::regclass` +
				` THEN (p.ctid::text || '/') || p.xmin::text END AS freshet_version, ARRAY[u.xmin::text::int8, p.xmin::text::int8] AS freshet_xids` +
				" FROM public.users u LEFT JOIN public.profiles p ON p.user_id = u.id WHERE u.id = $1 ORDER BY 2",
			Columns: []string{"name", "the Bio"}, Tables: []string{"public.users", "public.profiles"},
		}},
		{"physical, of an odd name", `SELECT "select" FROM "Odd Table" WHERE "select" = @id`, "", &rule.RowVersion{
			SQL: `SELECT "Odd Table"."select" AS "select", CASE WHEN "Odd Table".ctid IS NULL THEN '-' WHEN "Odd Table".tableoid = 'public."Odd Table"'::regclass` +
				` THEN ("Odd Table".ctid::text || '/') || "Odd Table".xmin::text END AS freshet_version, ARRAY["Odd Table".xmin::text::int8] AS freshet_xids` +
				` FROM public."Odd Table" WHERE "Odd Table"."select" = $1`,
			Columns: []string{"select"}, Tables: []string{`public."Odd Table"`},
		}},
		{"declared", "SELECT name FROM users WHERE id = @id", "seen", &rule.RowVersion{
			SQL:     "SELECT users.name AS name, (SELECT users.seen::text) AS freshet_version FROM public.users WHERE users.id = $1",
			Columns: []string{"name"},
		}},
		{"declared, over what is not returned", "SELECT name FROM users u WHERE id = @id", "u.level + 1 > 2 OR u.active", &rule.RowVersion{
			SQL:     "SELECT u.name AS name, (SELECT ((u.level + 1) > 2 OR u.active)::text) AS freshet_version FROM public.users u WHERE u.id = $1",
			Columns: []string{"name"},
		}},
		{"the labels of an enum are in the catalog", "SELECT status FROM orders WHERE id = @id", "", nil},
		{"... and what is compared with it may", "SELECT note FROM orders WHERE id = @id AND status = 'new'", "", &rule.RowVersion{
			SQL: "SELECT orders.note AS note, CASE WHEN orders.ctid IS NULL THEN '-' WHEN orders.tableoid = 'public.orders'::regclass" +
				" THEN (orders.ctid::text || '/') || orders.xmin::text END AS freshet_version, ARRAY[orders.xmin::text::int8] AS freshet_xids" +
				" FROM public.orders WHERE orders.id = $1 AND orders.status = 'new'",
			Columns: []string{"note"}, Tables: []string{"public.orders"},
		}},
		{"so are the fields of a composite", "SELECT place FROM users WHERE id = @id", "", nil},
		{"a type of an extension may read what it likes", "SELECT nick FROM users WHERE id = @id", "", nil},
		{"a generated column need not be stored", "SELECT shout FROM users WHERE id = @id", "", nil},
		{"within coalesce too", "SELECT coalesce(name, shout) AS x FROM users WHERE id = @id", "", nil},
		{"rows of a view are made of others", "SELECT id FROM active_users WHERE id = @id", "", nil},
		{"rows of a subquery too", "SELECT x.name FROM (SELECT id, name FROM users) x WHERE x.id = @id", "", nil},
		{"rows of a WITH query too", "WITH x AS (SELECT id, name FROM users) SELECT x.name FROM x WHERE x.id = @id", "", nil},
		{"a row of two arms", "SELECT name FROM users WHERE id = @id UNION ALL SELECT bio FROM profiles WHERE user_id = @id", "", nil},
		{"a row of many", "SELECT count(*) AS n FROM users WHERE id = @id", "", nil},
		{"a column that is made of two", "SELECT user_id, p.bio FROM profiles p FULL JOIN memberships m USING (user_id) WHERE user_id = @id", "", nil},
		{"a cast may be of a user's making", "SELECT level::text AS level FROM users WHERE id = @id", "", nil},
		{"so may an operator", "SELECT level + 1 AS next FROM users WHERE id = @id", "", nil},
		{"a function is not stored with the row", "SELECT lower(name) AS low FROM users WHERE id = @id", "", nil},
		{"nor is a choice", "SELECT CASE WHEN active THEN name END AS name FROM users WHERE id = @id", "", nil},
		{"declared, of a view", "SELECT id FROM active_users v WHERE id = @id", "v.name", &rule.RowVersion{
			SQL:     "SELECT v.id AS id, (SELECT v.name::text) AS freshet_version FROM public.active_users v WHERE v.id = $1",
			Columns: []string{"id"},
		}},
		{"rows of partitions are elsewhere", "SELECT note FROM events WHERE id = @id", "", nil},
		{"a name that is taken", "SELECT name AS freshet_version FROM users WHERE id = @id", "seen", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := rule.Declared{Name: "e", Key: "k:{id}", Query: tt.query, Result: rule.Many, RowVersion: tt.version}
			compiled, err := plan.Compile(catalog, d)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, compiled.Entry.RowVersion); diff != "" {
				t.Errorf("RowVersion (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRowVersionDoesNotMoveTheName: how values are compared is not what they mean, but what a declared version was is.
func TestRowVersionDoesNotMoveTheName(t *testing.T) {
	t.Parallel()
	catalog, _ := shop(t)
	version := func(declared string) string {
		d := rule.Declared{Name: "e", Key: "k:{id}", Query: "SELECT name FROM users WHERE id = @id", Result: rule.One, RowVersion: declared}
		compiled, err := plan.Compile(catalog, d)
		if err != nil {
			t.Fatal(err)
		}
		e := *compiled.Entry
		before := e.Hash()
		e.RowVersion = nil
		if e.Hash() != before {
			t.Errorf("row_version %q: the hash changes with the query that compares", declared)
		}
		return before
	}
	if version("") == version("seen") || version("seen") == version("level") {
		t.Error("another row_version is stored under the same name")
	}
}
