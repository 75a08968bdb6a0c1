package cli

import (
	"strings"
	"testing"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// TestCheckFindsAnotherDatabase: the roster says of which database of the cluster the namespace is.
func TestCheckFindsAnotherDatabase(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Start(t), redistest.Namespace(t)
	store, err := redisstore.Open(t.Context(), redisstore.Options{URL: server.URL, Namespace: namespace})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	raw, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{server.Addr}, DisableCache: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(raw.Close)
	for what, tt := range map[string]struct {
		of    *rule.Database
		found bool
	}{
		"the same":              {&rule.Database{OID: 16384, Name: "shop"}, false},
		"the same, renamed":     {&rule.Database{OID: 16384, Name: "shop_old"}, false},
		"another of that name":  {&rule.Database{OID: 16999, Name: "shop"}, true},
		"an older daemon's":     {nil, false},
		"another, another name": {&rule.Database{OID: 16999, Name: "staging"}, true},
	} {
		roster := rule.Roster{Format: rule.RosterFormat, Database: tt.of, Entries: map[string]*rule.Entry{}}
		key := "f:" + namespace + ":roster"
		if err := raw.Do(t.Context(), raw.B().Set().Key(key).Value(string(roster.Text())).Build()).Error(); err != nil {
			t.Fatal(err)
		}
		r := &checked{Postgres: &postgresFacts{Database: "shop", oid: 16384}}
		r.judgeDatabase(t.Context(), store)
		switch {
		case !tt.found && len(r.Problems) > 0:
			t.Errorf("%s: %v", what, r.Problems)
		case tt.found && (len(r.Problems) != 1 || !strings.Contains(r.Problems[0].What, `"shop" (oid 16384)`) || !strings.Contains(r.Problems[0].Do, "namespace")):
			t.Errorf("%s: %v", what, r.Problems)
		}
	}
}
