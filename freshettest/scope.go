package freshettest

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/freshet/freshet/internal/intent"
	"github.com/freshet/freshet/internal/rule"
)

// named are the entries of which a message means every key, and whether it means so much. Which tables an entry reads is told by what the file
// says (depends_on, and functions), and by the text of its query: no SQL is planned here.
func (w *World) named(m *intent.Message) (entries []*rule.Entry, whole bool, err error) {
	switch m.Scope {
	case intent.OfEntry:
		e := w.roster.Entries[m.Entry]
		if e == nil {
			return nil, true, fmt.Errorf("the configuration declares no entry %q", m.Entry)
		}
		return []*rule.Entry{e}, true, nil
	case intent.Everything:
		for _, e := range w.roster.Entries {
			entries = append(entries, e)
		}
		return entries, true, nil
	case intent.OfTable:
		mentioned := mention(m.Table)
		for _, e := range w.roster.Entries {
			if declares(e.Declared, m.Table) || mentioned.MatchString(e.Declared.Query) {
				entries = append(entries, e)
			}
		}
		return entries, true, nil
	case intent.OfKeys, intent.OfTags:
	}
	return nil, false, nil
}

// declares reports whether the file says that an entry depends on a table. There a name without a schema is of public.
func declares(d *rule.Declared, table intent.Table) bool {
	is := func(text string) bool {
		schema, name, qualified := strings.Cut(text, ".")
		if !qualified {
			schema, name = "public", text
		}
		return intent.Table{Schema: schema, Name: name} == table
	}
	for _, dependency := range d.DependsOn {
		if is(dependency.Table) {
			return true
		}
	}
	for _, tables := range d.Functions {
		if slices.ContainsFunc(tables, is) {
			return true
		}
	}
	return false
}

// mention finds a table's name in SQL: by itself, or behind its schema, and not behind another name, as a column's is.
func mention(table intent.Table) *regexp.Regexp {
	const before, after = `(?i)(?:^|[^.\pL\pN_$"])`, `(?:$|[^\pL\pN_$"])`
	schema, name := regexp.QuoteMeta(table.Schema), regexp.QuoteMeta(table.Name)
	return regexp.MustCompile(before + `(?:"?` + schema + `"?\s*\.\s*)?"?` + name + `"?` + after)
}

// held are the names of what the store has of an entry: values, leases and fences.
func (w *World) held(e *rule.Entry) (names []string) {
	prefix := rule.KeyPrefix(namespace, generation, e)
	for shard := range w.store.Shards() {
		for _, name := range w.store.Names(shard) {
			if strings.HasPrefix(name, prefix) {
				names = append(names, name)
			}
		}
	}
	return names
}
