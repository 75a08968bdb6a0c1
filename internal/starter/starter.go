// Package starter writes a configuration file to begin with from what a database's catalog says: an entry for each table by
// its primary key, and a list for each foreign key.
package starter

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/freshet/freshet/internal/plan"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
)

// Options say what to write a file from. Compile judges an entry as the daemon would; what it refuses is written as a comment,
// with the reason.
type Options struct {
	Catalog     *schema.Catalog
	ForeignKeys []schema.ForeignKey
	Keywords    map[string]bool // that have to be quoted as names
	Schemas     []string        // whose tables; none: all
	Compile     func(d rule.Declared) error
}

// File is what was written.
type File struct {
	Text    string
	Entries int // that can be used as they are
	Refused int // that are comments
	Keyless int // tables without a primary key
}

// maxName is the longest name that an entry may have.
const maxName = 63

const head = `# Written by freshet init from the catalog of a database. Every entry below is one that freshet check finds nothing wrong with;
# those that are comments say what they lack. Delete what is not to be cached, and correct what remains: freshet explain shows
# which changes affect which keys.
#
# namespace: shop                        # default: derived from the database
database: {url: "${DATABASE_URL}"}
source: {postgres: {slot: freshet, publication: freshet}}

# Where what is cached is: in the daemon's own memory, until the next line is no comment any more. Then it is in Redis 7.0 or Valkey 7.2 or
# newer, where many processes read it and where it outlives the daemon.
# regions: [{name: local, redis: {url: "${REDIS_URL:-redis://127.0.0.1:6379}"}}]

defaults: {ttl: 1h, ttl_jitter: 10%}     # the backstop, for when no daemon runs

`

// Write writes the file.
func Write(o Options) File {
	w := &writer{Options: o, taken: map[string]bool{}}
	w.b.WriteString(head)
	at := w.b.Len()
	for _, t := range w.tables() {
		w.table(t)
	}
	body := w.b.String()[at:]
	text := w.b.String()[:at]
	switch {
	case w.file.Entries > 0:
		text += "entries:\n" + body
	default:
		text += "entries: {}\n" + body
	}
	w.file.Text = strings.TrimRight(text, "\n") + "\n"
	return w.file
}

type writer struct {
	Options
	b     strings.Builder
	file  File
	taken map[string]bool // names of entries
}

// tables are those that can be cached from, in order.
func (w *writer) tables() []*schema.Table {
	var all []*schema.Table
	for _, t := range w.Catalog.Tables {
		if t.Kind != schema.OrdinaryTable && t.Kind != schema.PartitionedTable || t.IsPartition || t.Schema == "freshet" ||
			len(w.Schemas) > 0 && !slices.Contains(w.Schemas, t.Schema) {
			continue
		}
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b *schema.Table) int { return strings.Compare(a.String(), b.String()) })
	return all
}

func (w *writer) table(t *schema.Table) {
	fmt.Fprintf(&w.b, "  # Table %s\n", comment(t.String()))
	if len(t.PrimaryKey) == 0 {
		w.file.Keyless++
		w.b.WriteString("  # It has no primary key, by which its rows could be named.\n\n")
		return
	}
	base := w.base(t)
	w.entry(t, candidate{name: base, by: t.PrimaryKey, result: rule.One})
	var seen [][]string
	for _, k := range w.ForeignKeys {
		if k.Table != t.Name || slices.Equal(k.Columns, t.PrimaryKey) ||
			slices.ContainsFunc(seen, func(s []string) bool { return slices.Equal(s, k.Columns) }) {
			continue
		}
		seen = append(seen, k.Columns)
		c := candidate{name: base + "_by_" + plainName(strings.Join(k.Columns, "_")), by: k.Columns, result: rule.Many}
		c.notes = append(c.notes, fmt.Sprintf("The rows that refer to one of %s.", comment(k.References.String())))
		if !k.Indexed {
			c.notes = append(c.notes, "No index begins with these columns: each load reads the whole table.")
		}
		w.entry(t, c)
	}
}

// base is the name of a table's entries. The schema stands in it where the name alone does not lead to the table.
func (w *writer) base(t *schema.Table) string {
	if w.visible(t) {
		return plainName(t.Name.Name)
	}
	return plainName(t.Schema + "_" + t.Name.Name)
}

// visible reports whether a query finds the table by its name alone.
func (w *writer) visible(t *schema.Table) bool {
	for _, path := range w.Catalog.SearchPath {
		if found := w.Catalog.Tables[schema.Name{Schema: path, Name: t.Name.Name}]; found != nil {
			return found == t
		}
	}
	return false
}

type candidate struct {
	name   string
	by     []string
	result rule.Result
	notes  []string
}

// entry writes one, as a comment where it is refused.
func (w *writer) entry(t *schema.Table, c candidate) {
	name := w.free(c.name)
	params := parameters(c.by)
	d := rule.Declared{Name: name, Key: name, Query: w.query(t, c, params), Result: c.result}
	for _, p := range params {
		d.Key += ":{" + p + "}"
	}
	lines := []string{name + ":", "  key: " + d.Key, "  query: |"}
	for line := range strings.SplitSeq(d.Query, "\n") {
		lines = append(lines, "    "+strings.ReplaceAll(line, "${", "$${")) // which the environment would be asked for
	}
	if c.result == rule.Many {
		lines = append(lines, "  result: many")
	}
	notes, prefix := c.notes, "  "
	err := w.Compile(d)
	if err == nil && strings.ContainsFunc(d.Query, unwritable) {
		err = errors.New("a name in it has a character that the file cannot hold")
	}
	if err != nil {
		notes, prefix = append(notes, reasons(err)...), "  # "
		w.file.Refused++
		for i := range lines {
			lines[i] = comment(lines[i])
		}
	} else {
		w.file.Entries++
	}
	for _, note := range notes {
		w.b.WriteString("  # " + note + "\n")
	}
	for _, line := range lines {
		w.b.WriteString(prefix + line + "\n")
	}
	w.b.WriteString("\n")
}

// free makes a name one that no other entry has.
func (w *writer) free(name string) string {
	name = name[:min(len(name), maxName)]
	for n, try := 2, name; ; n++ {
		if !w.taken[try] {
			w.taken[try] = true
			return try
		}
		suffix := fmt.Sprintf("_%d", n)
		try = name[:min(len(name), maxName-len(suffix))] + suffix
	}
}

// query selects all columns by name, since a column that is added later changes nothing then.
func (w *writer) query(t *schema.Table, c candidate, params []string) string {
	columns := make([]string, len(t.Columns))
	for i := range t.Columns {
		columns[i] = w.quote(t.Columns[i].Name)
	}
	from := w.quote(t.Name.Name)
	if !w.visible(t) {
		from = w.quote(t.Schema) + "." + from
	}
	where := make([]string, len(c.by))
	for i, column := range c.by {
		where[i] = w.quote(column) + " = @" + params[i]
	}
	text := "SELECT " + strings.Join(columns, ", ") + "\nFROM " + from + "\nWHERE " + strings.Join(where, " AND ")
	if c.result == rule.Many {
		order := make([]string, len(t.PrimaryKey))
		for i, column := range t.PrimaryKey {
			order[i] = w.quote(column)
		}
		text += "\nORDER BY " + strings.Join(order, ", ")
	}
	return text
}

// reasons are the lines that say why an entry is a comment.
func reasons(err error) []string {
	text := "Refused: " + err.Error()
	if refused, ok := errors.AsType[*plan.Error](err); ok {
		text = "Refused: " + refused.What
		if refused.Why != "" {
			text += "\n  why: " + refused.Why
		}
		if refused.Do != "" {
			text += "\n  do:  " + refused.Do
		}
	}
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		lines = append(lines, comment(line))
	}
	return lines
}

// unwritable are the characters that a configuration file may not hold, and the one that it reads as another.
func unwritable(r rune) bool {
	return r < ' ' && r != '\t' && r != '\n' || r == '\uFFFD' || '\uE000' <= r && r < '\uE080'
}

// comment makes text one line, and of what the file cannot hold spaces.
func comment(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || unwritable(r) || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 {
			return ' '
		}
		return r
	}, text)
}

// parameters names a query's parameters after columns, each once.
func parameters(columns []string) []string {
	var names []string
	for _, column := range columns {
		name := plainName(column)
		for slices.Contains(names, name) {
			name += "_"
		}
		names = append(names, name)
	}
	return names
}

// plainName makes a name of letters, digits and underscores that begins with a letter.
func plainName(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '_':
			return r
		case 'A' <= r && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '_'
	}, name)
	if name == "" || name[0] < 'a' || name[0] > 'z' {
		name = "t" + name
	}
	return name
}

// quote writes an identifier as SQL reads it.
func (w *writer) quote(name string) string {
	plain := name != "" && name[0] != '$' && (name[0] < '0' || name[0] > '9')
	for _, r := range name {
		plain = plain && ('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '_')
	}
	if plain && !w.Keywords[name] {
		return name
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}
