package plan

import (
	"fmt"
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"

	"github.com/freshet/freshet/internal/schema"
)

// table reads a table's name in FROM.
func (c *compiler) table(b *block, r *pg_query.RangeVar) (*source, error) {
	b.visits[r] = true
	at := int(r.GetLocation())
	t, err := c.lookup(r.GetSchemaname(), r.GetRelname(), at)
	if err != nil {
		return nil, err
	}
	if !r.GetInh() {
		return nil, &refusal{at: at, what: "ONLY is not supported", why: "the log does not tell a table's rows from its children's under the root's name", do: "Leave ONLY out."}
	}
	if len(b.occurrences) == maxOccurrences {
		return nil, &refusal{at: at, what: fmt.Sprintf("the query names more than %d tables", maxOccurrences), why: whyUnknown, do: doByCode}
	}
	o := &occurrence{index: len(b.occurrences), table: t, alias: t.Name.Name, node: r, read: map[string]bool{}}
	if a := r.GetAlias(); a != nil {
		o.alias = a.GetAliasname()
	}
	for _, other := range b.occurrences {
		if other.alias == o.alias {
			return nil, &refusal{at: at, what: "the name " + o.alias + " is used for two tables", why: "its columns would be ambiguous", do: "Give each an alias of its own."}
		}
	}
	b.occurrences = append(b.occurrences, o)
	b.edits = append(b.edits, func() { r.Schemaname = t.Schema })
	s := &source{occurrence: o, all: o.bit()}
	for i := range t.Columns {
		s.columns = append(s.columns, visible{name: t.Columns[i].Name, columnRef: columnRef{occurrence: o, column: &t.Columns[i]}})
	}
	return s, nil
}

// lookup finds a table by the name that a query or depends_on uses, and refuses kinds whose changes are not in the log
// or not under this name.
func (c *compiler) lookup(schemaName, name string, at int) (*schema.Table, error) {
	if schemaName == "pg_catalog" || schemaName == "information_schema" || schemaName == "pg_toast" || schemaName == "" && strings.HasPrefix(name, "pg_") {
		return nil, &refusal{at: at, what: name + " is a system table", why: "changes of system tables are not in the log", do: "Read it in the application."}
	}
	if strings.HasPrefix(schemaName, "pg_temp") {
		return nil, &refusal{at: at, what: name + " is a temporary table", why: "its changes are not in the log, and no other session sees it", do: "Use an ordinary table."}
	}
	t, err := c.find(schemaName, name, at)
	if err != nil {
		return nil, err
	}
	return t, usable(t, at)
}

func (c *compiler) find(schemaName, name string, at int) (*schema.Table, error) {
	if schemaName != "" {
		if t := c.catalog.Tables[schema.Name{Schema: schemaName, Name: name}]; t != nil {
			return t, nil
		}
		return nil, &refusal{at: at, what: fmt.Sprintf("there is no table %s.%s", schemaName, name), do: "Correct the name, or create the table first."}
	}
	for _, s := range c.catalog.SearchPath {
		if t := c.catalog.Tables[schema.Name{Schema: s, Name: name}]; t != nil {
			return t, nil
		}
	}
	r := &refusal{
		at: at, what: fmt.Sprintf("there is no table %s in the search path (%s)", name, strings.Join(c.catalog.SearchPath, ", ")),
		do: "Correct the name, or create the table first.",
	}
	var elsewhere []string
	for n := range c.catalog.Tables {
		if n.Name == name {
			elsewhere = append(elsewhere, n.String())
		}
	}
	slices.Sort(elsewhere)
	if len(elsewhere) > 0 {
		r.do = "Write " + strings.Join(elsewhere, " or ") + "."
	}
	return nil, r
}

// usable refuses a relation whose changes do not reach the log under its own name, or whose content is not its rows.
func usable(t *schema.Table, at int) error {
	r := &refusal{at: at}
	switch {
	case t.Kind == schema.View:
		r.what, r.why = t.Name.Name+" is a view", "views are not looked into yet"
		r.do = "Select from its base tables."
	case t.Kind == schema.MaterializedView:
		r.what, r.why = t.Name.Name+" is a materialized view", "REFRESH is not in the log"
		r.do = "Select from its base tables."
	case t.Kind == schema.ForeignTable && t.HasChildren:
		r.what, r.why = t.Name.Name+" has a foreign partition", "its changes are not in this database's log"
		r.do = "Detach it, or load the entry by code and invalidate it by hand."
	case t.Kind == schema.ForeignTable:
		r.what, r.why = t.Name.Name+" is a foreign table", "its changes are not in this database's log"
		r.do = "Cache it from the database that holds it."
	case t.Kind != schema.OrdinaryTable && t.Kind != schema.PartitionedTable:
		r.what, r.why = t.Name.Name+" is not a table", "only changes of tables are in the log"
		r.do = "Select from a table."
	case t.Persistence == 'u' && t.Kind == schema.PartitionedTable:
		r.what, r.why = t.Name.Name+" has an unlogged partition", "its changes are not in the log"
		r.do = "ALTER TABLE ... SET LOGGED; for the partition."
	case t.Persistence == 'u':
		r.what, r.why = t.Name.Name+" is an unlogged table", "its changes are not in the log"
		r.do = fmt.Sprintf("ALTER TABLE %s SET LOGGED;", quoted(t.Name))
	case t.Persistence != 'p':
		r.what, r.why = t.Name.Name+" is a temporary table", "its changes are not in the log, and no other session sees it"
		r.do = "Use an ordinary table."
	case t.RowSecurity:
		r.what, r.why = t.Name.Name+" has row level security", "what a query returns depends on who asks"
		r.do = "Cache a table without it, or load the entry by code under the reader's own role without freshet."
	case t.IsPartition:
		r.what, r.why = t.Name.Name+" is a partition", "its changes come under the name of its partitioned table"
		r.do = "Select from the partitioned table, with the condition on its partition key."
	case t.Kind == schema.OrdinaryTable && t.HasChildren:
		r.what, r.why = t.Name.Name+" has inheritance children", "a query of it reads their rows, whose changes come under their own names"
		r.do = "Select from the children, or use a partitioned table."
	default:
		return nil
	}
	return r
}

// resolve finds the column that a reference names, seen from the given items of FROM, and notes that it is read.
func (b *block) resolve(ref *pg_query.ColumnRef, scope []*source) (columnRef, error) {
	b.visits[ref] = true
	names, star := nameParts(ref)
	at := int(ref.GetLocation())
	if star {
		return columnRef{}, &refusal{at: at, what: "* cannot stand here", do: "Name a column."}
	}
	found, err := b.find(names, scope, at)
	if err != nil {
		return columnRef{}, err
	}
	found.occurrence.read[found.column.Name] = true
	b.edits = append(b.edits, func() {
		ref.Fields = []*pg_query.Node{pg_query.MakeStrNode(found.occurrence.alias), pg_query.MakeStrNode(found.column.Name)}
	})
	return found, nil
}

func nameParts(ref *pg_query.ColumnRef) (names []string, star bool) {
	for _, f := range ref.GetFields() {
		if f.GetAStar() != nil {
			star = true
		} else {
			names = append(names, f.GetString_().GetSval())
		}
	}
	return names, star
}

func (b *block) find(names []string, scope []*source, at int) (columnRef, error) {
	last := names[len(names)-1]
	if len(names) == 1 {
		var all []visible
		for _, s := range scope {
			all = append(all, s.columns...)
		}
		v, err := only(all, last, at)
		if err != nil && b.named(names, scope) != nil {
			return columnRef{}, &refusal{at: at, what: last + " stands for a whole row", why: "which of its columns are read is not known", do: "Name the columns."}
		}
		if err != nil && systemColumn(last) {
			return columnRef{}, noSystemColumn(last, at)
		}
		return v.columnRef, err
	}
	o := b.named(names[:len(names)-1], scope)
	if o == nil {
		return columnRef{}, &refusal{at: at, what: "there is no table " + strings.Join(names[:len(names)-1], ".") + " here", do: "Use the name or alias that FROM gives it; ON sees only the tables that it joins."}
	}
	column := o.table.Column(last)
	switch {
	case column != nil:
		return columnRef{occurrence: o, column: column}, nil
	case systemColumn(last):
		return columnRef{}, noSystemColumn(last, at)
	}
	return columnRef{}, &refusal{at: at, what: fmt.Sprintf("there is no column %s in %s", last, o.table.Name), do: "Correct the name."}
}

// named finds the occurrence that a qualification (alias, table or schema.table) names within the scope.
func (b *block) named(qualification []string, scope []*source) *occurrence {
	var all bits
	for _, s := range scope {
		all |= s.all
	}
	for _, o := range b.occurrences {
		if o.bit()&all == 0 {
			continue
		}
		if len(qualification) == 1 && o.alias == qualification[0] {
			return o
		}
		if len(qualification) == 2 && o.node.GetAlias() == nil && o.table.Schema == qualification[0] && o.alias == qualification[1] {
			return o
		}
	}
	return nil
}

func systemColumn(name string) bool {
	switch name {
	case "ctid", "xmin", "xmax", "cmin", "cmax", "tableoid":
		return true
	}
	return false
}

func noSystemColumn(name string, at int) error {
	return &refusal{at: at, what: name + " is a system column", why: "it changes without a change of the row's data", do: "Select a column of your own, such as a version number."}
}

// quoted is a name as SQL wants it.
func quoted(n schema.Name) string { return quoteIdent(n.Schema) + "." + quoteIdent(n.Name) }

func quoteIdent(s string) string {
	plain := s != "" && (s[0] == '_' || 'a' <= s[0] && s[0] <= 'z')
	for i := range len(s) {
		c := s[i]
		plain = plain && (c == '_' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9')
	}
	if plain {
		return s
	}
	return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
}
