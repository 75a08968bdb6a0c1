package cli

import (
	"strings"
	"testing"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
)

// TestLeftOutOfTheLog: what a rule goes by and an UPDATE may leave out, by the table's identity and by what PostgreSQL does.
func TestLeftOutOfTheLog(t *testing.T) {
	t.Parallel()
	name := schema.Name{Schema: "public", Name: "pages"}
	entry := &rule.Entry{Name: "page", Rules: []rule.Rule{
		{Schema: "public", Table: "pages", Bind: []string{"slug"}, Where: []rule.Condition{{Column: "state"}, {Column: "kind"}}},
		{Schema: "public", Table: "pages", Bind: []string{"slug"}, Where: []rule.Condition{{Column: "state"}}},
		{Schema: "public", Table: "others", Bind: []string{"slug"}},
	}}
	const slug, state = "updates of public.pages do not always say what slug is", "updates of public.pages do not always say what state is"
	for _, tt := range []struct {
		what     string
		version  int
		identity change.Identity
		columns  []string // of the identity
		apart    []string
		want     []string
	}{
		{"a key that is large", 150018, change.IdentityDefault, []string{"slug"}, []string{"slug", "body"}, nil},
		{"a key that is large, before 14.3", 140002, change.IdentityDefault, []string{"slug"}, []string{"slug", "body"}, []string{slug}},
		{"a key that is large, since 14.3", 140003, change.IdentityDefault, []string{"slug"}, []string{"slug", "body"}, nil},
		{"a condition", 150018, change.IdentityDefault, []string{"slug"}, []string{"state"}, []string{state}},
		{"a condition on the identity", 150018, change.IdentityIndex, []string{"slug", "state"}, []string{"state"}, nil},
		{"a condition on the identity, before 14.3", 140000, change.IdentityIndex, []string{"slug", "state"}, []string{"state"}, []string{state}},
		{"the whole row", 140000, change.IdentityFull, []string{"slug", "state"}, []string{"slug", "state"}, nil},
		{"nothing that matters", 140000, change.IdentityDefault, []string{"slug"}, []string{"body"}, nil},
	} {
		catalog := &schema.Catalog{ServerVersion: tt.version, Tables: map[schema.Name]*schema.Table{
			name: {Name: name, Identity: tt.identity, IdentityCols: tt.columns},
		}}
		found := leftOutOf(entry, catalog, map[schema.Name][]string{name: tt.apart})
		if len(found) != len(tt.want) {
			t.Errorf("%s: %+v, want %q", tt.what, found, tt.want)
			continue
		}
		for i, f := range found {
			if f.What != tt.want[i] || f.Area != "entry" || !strings.Contains(f.Do, `ALTER TABLE "public"."pages" REPLICA IDENTITY FULL`) {
				t.Errorf("%s: %+v, want %q", tt.what, f, tt.want[i])
			}
		}
	}
}
