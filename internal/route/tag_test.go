package route_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/route"
	"github.com/freshet/freshet/internal/rule"
)

// TestTagEndsEpochs: a tag that a transaction names ends its epoch in each version of each entry that has tags by hand, and in no other;
// whatever the text is, it names one epoch.
func TestTagEndsEpochs(t *testing.T) {
	t.Parallel()
	with, without := product(rule.Rule{Bind: []string{"id"}}), product(rule.Rule{Bind: []string{"id"}})
	with.Tags = rule.TagsByHand
	other := *with
	other.Version = "1111111111111111"
	router := route.New([]*rule.Entry{without, with, &other})
	for _, tt := range []struct {
		tag  string
		want string // the part of the epoch's name behind "~t:"; empty: it cannot be a tag
	}{
		{"tenant:7", "tenant%3A7"},
		{"+", "%2B"},
		{"a=b,c", "a%3Db%2Cc"},
		{"%-", "%25-"},
		{"~t", "~t"},
		{"{x} *\n", "%7Bx%7D%20%2A%0A"},
		{"é", "%C3%A9"},
		{strings.Repeat("x", rule.MaxTag), strings.Repeat("x", rule.MaxTag)},
		{strings.Repeat("x", rule.MaxTag+1), ""},
		{"", ""},
		{"\xff", ""},
		{"a\x00", ""},
	} {
		out := route.NewKeys(100, 1<<20)
		known, err := router.Tag(tt.tag, out)
		got, alone := ended(out)
		if tt.want == "" {
			if err == nil || !known || !out.Empty() {
				t.Errorf("%.10q: %t, %v, %q", tt.tag, known, err, got)
			}
			continue
		}
		want := []string{"1 ~t:" + tt.want, "1 ~t+", "2 ~t:" + tt.want, "2 ~t+"}
		if diff := cmp.Diff(want, got); err != nil || !known || !alone || diff != "" {
			t.Errorf("%.10q: %t, %v, alone %t, epochs (-want +got):\n%s", tt.tag, known, err, alone, diff)
		}
	}
	out := route.NewKeys(100, 1000)
	known := router.AnyTag(out)
	if got, alone := ended(out); !known || !alone || !slices.Equal(got, []string{"1 ~t", "2 ~t"}) {
		t.Errorf("tags that cannot be read end %q", got)
	}
	out, router = route.NewKeys(100, 1000), route.New([]*rule.Entry{without})
	if known, err := router.Tag("a", out); known || err != nil || router.AnyTag(out) || !out.Empty() {
		t.Errorf("without an entry that has tags: %t, %v", known, err)
	}
}
