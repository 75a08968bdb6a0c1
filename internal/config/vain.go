package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/freshet/freshet/internal/rule"
)

// Vain is what an entry says of values that have changed, and what never happens, since no change of its tables names a key.
type Vain struct {
	Settings []string // as the file has them
	Tables   []string // with the classes of their rules
	Lookup   []string // of these, the tables whose changes might be looked up
}

// Vain reports settings that no change of the entry's tables ever has any effect by: they are about a key that has changed, and the changes of
// all its rules end epochs. What is said by the file alone contradicts nothing: only the plan shows it. nil: there are none.
func (e *Entry) Vain(rules []rule.Rule) *Vain {
	var settings []string
	switch e.OnChange.Kind {
	case ServeStale:
		settings = append(settings, "on_change: serve_stale")
	case Refresh:
		settings = append(settings, "on_change: refresh")
	}
	if e.StaleOnError > 0 {
		settings = append(settings, "serve_stale_on_error")
	}
	if len(settings) == 0 || len(rules) == 0 || slices.ContainsFunc(rules, func(r rule.Rule) bool { return !r.Tied() }) {
		return nil
	}
	v := &Vain{Settings: settings}
	for _, r := range rules {
		name := r.Schema + "." + r.Table
		if text := fmt.Sprintf("%s (%s)", name, r.Class); !slices.Contains(v.Tables, text) {
			v.Tables = append(v.Tables, text)
		}
		if r.Class == rule.Tag && !slices.Contains(v.Lookup, name) {
			v.Lookup = append(v.Lookup, name)
		}
	}
	return v
}

// What says what is wrong.
func (v *Vain) What() string {
	if len(v.Settings) == 1 {
		return v.Settings[0] + " has no effect"
	}
	return and(v.Settings) + " have no effect"
}

// Why says why.
func (v *Vain) Why() string {
	return "no change of a table that the entry reads names a key: it takes many values out of use at once, by epochs, and nobody could say since when one of " +
		"them is stale, so nothing stale is served and nothing is refreshed (" + strings.Join(v.Tables, ", ") + ")"
}

// Do says what to do.
func (v *Vain) Do() string {
	do := "remove " + and(v.Settings)
	if len(v.Lookup) > 0 {
		do += ", or try rules: {" + v.Lookup[0] + ": lookup}, by which a change has its keys looked up, where that can be"
	}
	return do + " (freshet explain shows the rules)"
}

func and(names []string) string { return strings.Join(names, " and ") }
