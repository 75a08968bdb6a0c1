package cli

import "testing"

// TestReasonInOneLine: the planner's reasons point at a place in the query, which a table has no room for.
func TestReasonInOneLine(t *testing.T) {
	t.Parallel()
	for why, want := range map[string]string{
		"UPDATE of t where id = 1": "UPDATE of t where id = 1",
		"the entry is not cached: entry kv: line 1, column 8: there is no column v\n    SELECT v FROM kv\n           ^\n  do:  Correct the name.\n": "the entry is not cached: entry kv: line 1, column 8: there is no column v; do:  Correct the name.",
		"^\n\nx \x1b[31m": "^; x ?[31m",
		"":                "",
	} {
		if got := inOneLine(why); got != want {
			t.Errorf("%q = %q, want %q", why, got, want)
		}
	}
}
