package config

import (
	"strings"
	"testing"

	"github.com/freshet/freshet/internal/rule"
)

// TestVain: what an entry says of values that have changed has an effect if a change of any of its tables names a key, or none of a table is to
// be heard of, when writers name keys.
func TestVain(t *testing.T) {
	t.Parallel()
	of := func(classes ...rule.Class) (rules []rule.Rule) {
		for _, class := range classes {
			rules = append(rules, rule.Rule{Schema: "public", Table: "t" + strings.ToLower(string(class)), Class: class})
		}
		return rules
	}
	for _, tt := range []struct {
		policy string
		rules  []rule.Rule
		want   string // empty: it has an effect
		do     string
	}{
		{"on_change: {serve_stale: {for: 2s}}", of(rule.Broad), "on_change: serve_stale has no effect", "remove on_change: serve_stale (freshet explain shows the rules)"},
		{"on_change: refresh", of(rule.Group, rule.Broad), "on_change: refresh has no effect", "remove on_change: refresh (freshet explain shows the rules)"},
		{"serve_stale_on_error: 10s", of(rule.Tag), "serve_stale_on_error has no effect", "rules: {public.ttag: lookup}"},
		{
			"on_change: {serve_stale: {for: 2s}}\n    serve_stale_on_error: 10s", of(rule.Tag),
			"on_change: serve_stale and serve_stale_on_error have no effect", "rules: {public.ttag: lookup}",
		},
		{"on_change: {serve_stale: {for: 2s}}", of(rule.Broad, rule.Exact), "", ""},
		{"on_change: {serve_stale: {for: 2s}}", of(rule.Tag, ""), "", ""},
		{"on_change: refresh", of(rule.Lookup, rule.Group), "", ""},
		{"serve_stale_on_error: 10s", nil, "", ""},
		{"on_change: drop", of(rule.Broad), "", ""},
	} {
		e := mustParse(t, minimal+"    "+tt.policy+"\n").Entries["product"]
		v := e.Vain(tt.rules)
		if (v == nil) != (tt.want == "") {
			t.Errorf("%s, %v: %+v", tt.policy, tt.rules, v)
			continue
		}
		if v != nil && (v.What() != tt.want || !strings.Contains(v.Do(), tt.do) || !strings.Contains(v.Why(), "public.t"+strings.ToLower(string(tt.rules[0].Class)))) {
			t.Errorf("%s, %v: %s; %s; %s", tt.policy, tt.rules, v.What(), v.Why(), v.Do())
		}
	}
}
