package route_test

import (
	"slices"
	"testing"

	"github.com/freshet/freshet/internal/route"
	"github.com/freshet/freshet/internal/rule"
)

// TestScopes: what is invalidated by hand, and is more than single keys, moves the versions of what it names and no others.
func TestScopes(t *testing.T) {
	t.Parallel()
	earlier, other := product(rule.Rule{Bind: []string{"id"}}), product(rule.Rule{Schema: "other", Table: "products", Bind: []string{"id"}})
	other.Name = "other"
	r := route.New([]*rule.Entry{product(rule.Rule{Bind: []string{"id"}}), earlier, other})
	for _, tt := range []struct {
		name  string
		do    func(out *route.Keys) bool
		known bool
		moves []string
	}{
		{"an entry, in each of its versions", func(out *route.Keys) bool { return r.Whole("product", out) }, true, []string{"0", "1"}},
		{"an entry that there is not", func(out *route.Keys) bool { return r.Whole("nothing", out) }, false, nil},
		{"a table", func(out *route.Keys) bool { return r.Reading("public", "products", out) }, true, []string{"0", "1"}},
		{"a table of another schema", func(out *route.Keys) bool { return r.Reading("other", "products", out) }, true, []string{"2"}},
		{"a table that nobody reads", func(out *route.Keys) bool { return r.Reading("public", "orders", out) }, false, nil},
		{"everything", r.Everything, true, []string{"0", "1", "2"}},
	} {
		out := route.NewKeys(10, 1000)
		known := tt.do(out)
		keys, moves := collect(out)
		for i := range tt.moves {
			tt.moves[i] += " invalidated by hand"
		}
		slices.Sort(moves)
		if known != tt.known || len(keys) > 0 || !slices.Equal(moves, tt.moves) {
			t.Errorf("%s: known %v, keys %q, moves %q", tt.name, known, keys, moves)
		}
	}
}
