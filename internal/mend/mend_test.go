package mend_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/mend"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var update = flag.Bool("update", false, "write what is advised into testdata/identities.txt; read the difference before committing it")

// table makes one whose columns are of the type bigint: "id!" is NOT NULL, "id#" in the primary key too.
func table(name string, identity change.Identity, columns ...string) *schema.Table {
	t := &schema.Table{
		Name: schema.Name{Schema: "public", Name: name}, OID: uint32(20000 + len(name)), Kind: schema.OrdinaryTable, Persistence: 'p', Identity: identity,
	}
	for i, c := range columns {
		plain := strings.TrimRight(c, "!#")
		t.Columns = append(t.Columns, schema.Column{
			Name: plain, Num: int16(i + 1), TypeOID: 20, Type: "bigint", TypeName: "int8", TypeSchema: "pg_catalog", Category: 'b', Deterministic: true,
			NotNull: c != plain,
		})
		if strings.HasSuffix(c, "#") {
			t.PrimaryKey = append(t.PrimaryKey, plain)
		}
	}
	switch identity {
	case change.IdentityDefault:
		t.IdentityCols = t.PrimaryKey
	case change.IdentityFull:
		for i := range t.Columns {
			t.IdentityCols = append(t.IdentityCols, t.Columns[i].Name)
		}
	case change.IdentityIndex, change.IdentityNothing:
	}
	return t
}

// by is an entry that loads rows of a table by one of its columns.
func by(table, column string) rule.Declared {
	return rule.Declared{
		Name: table + "_by_" + column, Key: table + ":{v}", Result: rule.Many, Query: fmt.Sprintf("SELECT id FROM %s WHERE %s = @v ORDER BY id", table, column),
	}
}

// self is an entry that reads a table by way of the table itself.
func self(broad []string, rules map[string]string) rule.Declared {
	return rule.Declared{
		Name: "other", Key: "other:{v}", Result: rule.Many, Query: "SELECT o.id FROM t JOIN t o ON o.a = t.b WHERE t.id = @v ORDER BY o.id", AllowBroad: broad, Rules: rules,
	}
}

func primary(columns ...string) schema.Index {
	return schema.Index{Name: "t_pkey", Columns: columns, Primary: true, Valid: true, Immediate: true}
}

// TestIdentities holds what is advised for each kind of lack.
func TestIdentities(t *testing.T) {
	t.Parallel()
	const long = "a_table_whose_name_is_as_long_as_names_can_be_in_postgresql_____"
	cases := []struct {
		name    string
		table   *schema.Table
		indexes []schema.Index
		entries []rule.Declared
	}{
		{"the primary key is enough", table("t", 'd', "id#", "a!"), []schema.Index{primary("id")}, []rule.Declared{by("t", "id")}},
		{"a column that is NOT NULL", table("t", 'd', "id#", "a!", "b"), []schema.Index{primary("id")}, []rule.Declared{by("t", "a")}},
		{"two entries, two columns", table("t", 'd', "id#", "a!", "b!"), []schema.Index{primary("id")}, []rule.Declared{by("t", "a"), by("t", "b"), by("t", "id")}},
		{"a column that may be NULL", table("t", 'd', "id#", "a"), []schema.Index{primary("id")}, []rule.Declared{by("t", "a")}},
		{"no primary key", table("t", 'd', "id!", "a!"), nil, []rule.Declared{by("t", "a")}},
		{
			"no primary key, but a unique index", table("t", 'd', "id!", "a!"),
			[]schema.Index{{Name: "t_id", Columns: []string{"id"}, Valid: true, Immediate: true}},
			[]rule.Declared{by("t", "a")},
		},
		{
			"a primary key that is checked late", table("t", 'd', "id#", "a!"),
			[]schema.Index{{Name: "t_pkey", Columns: []string{"id"}, Primary: true, Valid: true}},
			[]rule.Declared{by("t", "a")},
		},
		{
			"indexes that are there: the smallest that has it all, and can be it", table("t", 'd', "id#", "a!", "b!", "c"),
			[]schema.Index{
				primary("id"),
				{Name: "nullable", Columns: []string{"id", "a", "c"}, Valid: true, Immediate: true},
				{Name: "large", Columns: []string{"id", "a", "b"}, Valid: true, Immediate: true},
				{Name: "small", Columns: []string{"a", "id"}, Valid: true, Immediate: true},
				{Name: "partial", Columns: []string{"a", "id"}, Valid: true, Immediate: true, Partial: true},
				{Name: "late", Columns: []string{"a", "id"}, Valid: true},
			},
			[]rule.Declared{by("t", "a")},
		},
		{
			"what an interrupted run left", table("t", 'd', "id#", "a!"),
			[]schema.Index{primary("id"), {Name: "t_freshet", Columns: []string{"id", "a"}, Immediate: true}},
			[]rule.Declared{by("t", "a")},
		},
		{
			"an index that was made, and is not the identity yet", table("t", 'd', "id#", "a!"),
			[]schema.Index{primary("id"), {Name: "t_freshet", Columns: []string{"id", "a"}, Valid: true, Immediate: true}},
			[]rule.Declared{by("t", "a")},
		},
		{
			"an identity of ours that another one replaces", indexed(table("t", 'i', "id#", "a!", "b!"), "id", "a"),
			[]schema.Index{primary("id"), {Name: "t_freshet", Columns: []string{"id", "a"}, Identity: true, Valid: true, Immediate: true}},
			[]rule.Declared{by("t", "b")},
		},
		{
			"an identity of somebody's, which stays", indexed(table("t", 'i', "id#", "a!", "b!"), "id", "a"),
			[]schema.Index{primary("id"), {Name: "theirs", Columns: []string{"id", "a"}, Identity: true, Valid: true, Immediate: true}},
			[]rule.Declared{by("t", "b")},
		},
		{"NOTHING, with a primary key", table("t", 'n', "id#", "a!"), []schema.Index{primary("id")}, []rule.Declared{by("t", "id")}},
		{"a long name", table(long[:63], 'd', "id#", "a!"), []schema.Index{primary("id")}, []rule.Declared{by(long[:63], "a")}},
		{"a way over equal columns (TAG)", table("t", 'd', "id#", "a!", "b!"), []schema.Index{primary("id")}, []rule.Declared{self(nil, nil)}},
		{"the same, where every key may be dropped until then", table("t", 'd', "id#", "a!", "b!"), []schema.Index{primary("id")}, []rule.Declared{self([]string{"t"}, nil)}},
		{"the same by LOOKUP", table("t", 'd', "id#", "a!", "b!"), []schema.Index{primary("id")}, []rule.Declared{self(nil, map[string]string{"t": "lookup"})}},
		{"a way over columns that old rows carry", table("t", 'f', "id#", "a!", "b!"), []schema.Index{primary("id")}, []rule.Declared{self(nil, nil)}},
		{"EXACT, and GROUP until then", table("t", 'd', "id#", "a!"), []schema.Index{primary("id")}, []rule.Declared{{
			Name: "two", Key: "two:{v}:{w}", Result: rule.Many, Query: "SELECT id FROM t WHERE id = @v AND a = @w",
		}}},
		{"GROUP, and a wider GROUP until then", table("t", 'd', "id#", "a!"), []schema.Index{primary("id")}, []rule.Declared{{
			Name: "most", Key: "most:{v}:{w}:{n}", Result: rule.Many, Query: "SELECT id FROM t WHERE id = @v AND a = @w LIMIT @n",
		}}},
		{"GROUP by what old rows carry", table("t", 'd', "id#", "a!"), []schema.Index{primary("id")}, []rule.Declared{{
			Name: "most", Key: "most:{v}:{n}", Result: rule.Many, Query: "SELECT id FROM t WHERE id = @v AND a > @n",
		}}},
		{"BROAD, which needs nothing of old rows", table("t", 'd', "id#", "a"), []schema.Index{primary("id")}, []rule.Declared{{
			Name: "above", Key: "above:{v}", Result: rule.Many, Query: "SELECT id FROM t WHERE a > @v ORDER BY id", AllowBroad: []string{"t"},
		}}},
		{"refused for something else", table("t", 'd', "id#", "a!"), []schema.Index{primary("id")}, []rule.Declared{{
			Name: "now", Key: "now:{v}", Result: rule.One, Query: "SELECT now() FROM t WHERE a = @v",
		}}},
	}
	partitioned := table("t", 'd', "id#", "a!")
	partitioned.Kind = schema.PartitionedTable
	cases = append(cases, struct {
		name    string
		table   *schema.Table
		indexes []schema.Index
		entries []rule.Declared
	}{"a partitioned table", partitioned, nil, []rule.Declared{by("t", "a")}})
	mixed := table("t", 'd', "id#", "r#", "a!")
	mixed.Kind, mixed.IdentityCols = schema.PartitionedTable, nil
	for _, c := range [][2]string{{"the same, of several identities", "a"}, {"one of several identities, whose primary key would do", "r"}} {
		cases = append(cases, struct {
			name    string
			table   *schema.Table
			indexes []schema.Index
			entries []rule.Declared
		}{c[0], mixed, nil, []rule.Declared{by("t", c[1])}})
	}
	var got strings.Builder
	for _, c := range cases {
		catalog := &schema.Catalog{ServerVersion: 150000, SearchPath: []string{"public"}, Tables: map[schema.Name]*schema.Table{c.table.Name: c.table}}
		widths := map[string]int{}
		for i := range c.table.Columns {
			widths[c.table.Columns[i].Name] = 8
		}
		found := mend.Identities(catalog, c.entries, mend.Facts{
			Indexes: map[schema.Name][]schema.Index{c.table.Name: c.indexes}, Widths: map[schema.Name]map[string]int{c.table.Name: widths},
		})
		fmt.Fprintf(&got, "# %s\n", c.name)
		for _, id := range found {
			fmt.Fprintf(&got, "now %s; lacks %q for %q; %s\n", id.Now, id.Lacks, id.Entries, id.How)
			for _, line := range [][2]string{{"why", id.Why}, {"do", id.Do}} {
				if line[1] != "" {
					fmt.Fprintf(&got, "  %s: %s\n", line[0], line[1])
				}
			}
			fmt.Fprintf(&got, "  log: %s\n", id.Log)
			for _, s := range id.Statements {
				fmt.Fprintf(&got, "  %s;\n", s)
			}
		}
		if len(found) == 0 {
			got.WriteString("nothing\n")
		}
		got.WriteString("\n")
	}
	file := filepath.Join("testdata", "identities.txt")
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestIndexNames: an index shares its name with no other relation of the schema, be it there or about to be made.
func TestIndexNames(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 60)
	catalog := &schema.Catalog{ServerVersion: 150000, SearchPath: []string{"public"}, Tables: map[schema.Name]*schema.Table{}}
	for i, name := range []string{"t", "t_freshet", "u", "v", long + "_a", long + "_b"} {
		one := table(name, 'd', "id#", "a!")
		one.OID = uint32(20000 + i)
		catalog.Tables[one.Name] = one
	}
	indexes := map[schema.Name][]schema.Index{}
	for name := range catalog.Tables {
		indexes[name] = []schema.Index{{Name: name.Name + "_pkey", Columns: []string{"id"}, Primary: true, Valid: true, Immediate: true}}
	}
	v := schema.Name{Schema: "public", Name: "v"}
	indexes[v] = append(indexes[v], schema.Index{Name: "u_freshet", Columns: []string{"a"}, Valid: true})
	found := mend.Identities(catalog, []rule.Declared{by("t", "a"), by("u", "a"), by("v", "a"), by(long+"_a", "a"), by(long+"_b", "a")}, mend.Facts{
		Indexes: indexes, Names: map[schema.Name]bool{{Schema: "public", Name: "v_freshet"}: true, {Schema: "other", Name: "v_freshet_2"}: true},
	})
	var got []string
	for _, id := range found {
		if len(id.Statements) != 2 {
			t.Fatalf("%s: %q", id.Name, id.Statements)
		}
		got = append(got, strings.Fields(id.Statements[0])[4])
	}
	cut := long[:55]
	if diff := cmp.Diff([]string{`"t_freshet_2"`, `"u_freshet_2"`, `"v_freshet_2"`, `"` + cut + `_freshet"`, `"` + cut[:53] + `_freshet_2"`}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// indexed gives a table the identity of an index.
func indexed(t *schema.Table, columns ...string) *schema.Table {
	t.IdentityCols = columns
	return t
}
