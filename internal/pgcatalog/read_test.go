package pgcatalog_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/pgcatalog"
	"github.com/freshet/freshet/internal/schema"
)

// What a table's old row images carry decides what is sound, so each way to say it in PostgreSQL is read here.
func TestReadIdentity(t *testing.T) {
	t.Parallel()
	conn := connect(t, `
CREATE TABLE by_default (b int, a int, note text, PRIMARY KEY (b, a));
CREATE TABLE without_key (a int, note text);
CREATE TABLE deferrable_key (a int PRIMARY KEY DEFERRABLE, note text);
CREATE TABLE fully (a int, gone int, note text, doubled int GENERATED ALWAYS AS (a * 2) STORED);
ALTER TABLE fully DROP COLUMN gone; ALTER TABLE fully REPLICA IDENTITY FULL;
CREATE TABLE nothing (a int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
CREATE TABLE by_index (a int PRIMARY KEY, b int NOT NULL, c int);
CREATE UNIQUE INDEX by_index_b ON by_index (b, a) INCLUDE (c); ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_b;
CREATE TABLE by_lost_index (a int PRIMARY KEY, b int NOT NULL);
CREATE UNIQUE INDEX lost ON by_lost_index (b); ALTER TABLE by_lost_index REPLICA IDENTITY USING INDEX lost; DROP INDEX lost;
CREATE TABLE whole (a int PRIMARY KEY, b int) PARTITION BY RANGE (a);
CREATE TABLE whole_1 PARTITION OF whole FOR VALUES FROM (1) TO (2);
CREATE TABLE root_differs (a int PRIMARY KEY, b int) PARTITION BY RANGE (a);
CREATE TABLE root_differs_1 PARTITION OF root_differs FOR VALUES FROM (1) TO (2); ALTER TABLE root_differs REPLICA IDENTITY FULL;
CREATE TABLE leaf_differs (a int PRIMARY KEY, b int) PARTITION BY RANGE (a);
CREATE TABLE leaf_differs_1 PARTITION OF leaf_differs FOR VALUES FROM (1) TO (9) PARTITION BY RANGE (a);
CREATE TABLE leaf_differs_1_1 PARTITION OF leaf_differs_1 FOR VALUES FROM (1) TO (2); ALTER TABLE leaf_differs_1_1 REPLICA IDENTITY FULL;
CREATE TABLE leaf_unlogged (a int PRIMARY KEY) PARTITION BY RANGE (a);
CREATE UNLOGGED TABLE leaf_unlogged_1 PARTITION OF leaf_unlogged FOR VALUES FROM (1) TO (2);`)
	catalog, err := pgcatalog.Read(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	type identity struct {
		Letter      change.Identity
		Carries     []string
		Key         []string
		Kind        schema.Kind
		Persistence string
		Children    bool
		Partition   bool
	}
	ab, a := []string{"b", "a"}, []string{"a"}
	want := map[string]identity{
		"by_default":       {Letter: 'd', Carries: ab, Key: ab, Kind: 'r', Persistence: "p"},
		"without_key":      {Letter: 'd', Carries: []string{}, Key: []string{}, Kind: 'r', Persistence: "p"},
		"deferrable_key":   {Letter: 'd', Carries: []string{}, Key: a, Kind: 'r', Persistence: "p"},
		"fully":            {Letter: 'f', Carries: []string{"a", "note"}, Key: []string{}, Kind: 'r', Persistence: "p"},
		"nothing":          {Letter: 'n', Carries: []string{}, Key: a, Kind: 'r', Persistence: "p"},
		"by_index":         {Letter: 'i', Carries: ab, Key: a, Kind: 'r', Persistence: "p"},
		"by_lost_index":    {Letter: 'i', Carries: []string{}, Key: a, Kind: 'r', Persistence: "p"},
		"whole":            {Letter: 'd', Carries: a, Key: a, Kind: 'p', Persistence: "p", Children: true},
		"whole_1":          {Letter: 'd', Carries: a, Key: a, Kind: 'r', Persistence: "p", Partition: true},
		"root_differs":     {Letter: 'f', Carries: []string{}, Key: a, Kind: 'p', Persistence: "p", Children: true},
		"root_differs_1":   {Letter: 'd', Carries: a, Key: a, Kind: 'r', Persistence: "p", Partition: true},
		"leaf_differs":     {Letter: 'd', Carries: []string{}, Key: a, Kind: 'p', Persistence: "p", Children: true},
		"leaf_differs_1":   {Letter: 'd', Carries: []string{}, Key: a, Kind: 'p', Persistence: "p", Children: true, Partition: true},
		"leaf_differs_1_1": {Letter: 'f', Carries: []string{"a", "b"}, Key: a, Kind: 'r', Persistence: "p", Partition: true},
		"leaf_unlogged":    {Letter: 'd', Carries: a, Key: a, Kind: 'p', Persistence: "u", Children: true},
		"leaf_unlogged_1":  {Letter: 'd', Carries: a, Key: a, Kind: 'r', Persistence: "u", Partition: true},
	}
	got := map[string]identity{}
	for name, table := range catalog.Tables {
		got[name.Name] = identity{
			Letter: table.Identity, Carries: table.IdentityCols, Key: table.PrimaryKey, Kind: table.Kind, Persistence: string(table.Persistence),
			Children: table.HasChildren, Partition: table.IsPartition,
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Read (-want +got):\n%s", diff)
	}
}

// The search path is that of the session, as far as its schemas exist.
func TestReadSearchPath(t *testing.T) {
	t.Parallel()
	conn := connect(t, `CREATE SCHEMA shop; SET search_path = shop, missing, "$user", public`)
	catalog, err := pgcatalog.Read(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"shop", "public"}, catalog.SearchPath); diff != "" {
		t.Errorf("SearchPath (-want +got):\n%s", diff)
	}
	const oldest = 140000
	if catalog.ServerVersion < oldest {
		t.Errorf("ServerVersion = %d, want at least %d", catalog.ServerVersion, oldest)
	}
}
