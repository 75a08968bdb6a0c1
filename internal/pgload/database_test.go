package pgload_test

import (
	"context"
	"strconv"
	"testing"

	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
)

// TestDatabase: all loads say in which database they ran, as the catalog knows it.
func TestDatabase(t *testing.T) {
	t.Parallel()
	l, server, url := open(t)
	oid, err := strconv.ParseUint(server.Ask(t, url, "SELECT oid::text FROM pg_database WHERE datname = current_database()"), 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	want := rule.Database{OID: uint32(oid), Name: server.Ask(t, url, "SELECT current_database()::text")}
	if got, err := l.Database(t.Context()); err != nil || got != want {
		t.Errorf("Database() = %v, %v, want %v", got, err, want)
	}
	code := func(context.Context, pgload.Querier) ([]byte, bool, error) { return []byte("1"), true, nil }
	replica := pgload.NewReplica(l.Pool())
	for name, load := range map[string]func() (pgload.Loaded, error){
		"Load":         func() (pgload.Loaded, error) { return l.Load(t.Context(), "SELECT 1 AS one", rule.One, nil) },
		"LoadFunc":     func() (pgload.Loaded, error) { return l.LoadFunc(t.Context(), code) },
		"Replica.Load": func() (pgload.Loaded, error) { return replica.Load(t.Context(), "SELECT 1 AS one", rule.One, nil) },
		"Replica.LoadFunc": func() (pgload.Loaded, error) {
			return replica.LoadFunc(t.Context(), code, func(*pgload.Loaded) bool { return true })
		},
	} {
		if got, err := load(); err != nil || got.Database != want || got.Refuse != "" {
			t.Errorf("%s: %+v, %v, want %v", name, got, err, want)
		}
	}
}
