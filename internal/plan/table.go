package plan

import (
	"fmt"
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"

	"github.com/freshet/freshet/internal/schema"
)

// relation reads a name in FROM: of a WITH query, a view or a table.
func (c *compiler) relation(b *block, r *pg_query.RangeVar) (*source, error) {
	b.visits()[r] = true
	at := int(r.GetLocation())
	if w := b.with.named(r.GetRelname()); w != nil && r.GetSchemaname() == "" {
		return c.withQuery(b, w, r)
	}
	t, err := c.lookup(r.GetSchemaname(), r.GetRelname(), at)
	if err != nil {
		return nil, err
	}
	if !r.GetInh() {
		return nil, &refusal{at: at, what: "ONLY is not supported", why: "the log does not tell a table's rows from its children's under the root's name", do: "Leave ONLY out."}
	}
	if t.Kind == schema.View {
		return c.view(b, t, r)
	}
	alias := t.Name.Name
	if a := r.GetAlias(); a != nil {
		alias = a.GetAliasname()
	}
	o, err := c.item(b, alias, at)
	if err != nil {
		return nil, err
	}
	o.table, o.node = t, r
	if err := b.unique(o); err != nil {
		return nil, err
	}
	b.items = append(b.items, o)
	b.edit(func() { r.Schemaname = t.Schema })
	names := r.GetAlias().GetColnames()
	if len(names) > len(t.Columns) {
		return nil, &refusal{at: at, what: fmt.Sprintf("%s has %d columns and %d names for them", alias, len(t.Columns), len(names)), do: "Leave a name out."}
	}
	for i := range t.Columns {
		column := &t.Columns[i]
		v := visible{name: column.Name, columnRef: columnRef{occurrence: o, name: column.Name, column: column}}
		if i < len(names) {
			v.name = names[i].GetString_().GetSval()
		}
		o.columns = append(o.columns, v)
	}
	return &source{occurrence: o, all: o.bit(), columns: o.columns}, nil
}

// unique refuses a second item of one name in FROM.
func (b *block) unique(o *occurrence) error {
	for _, other := range b.items {
		if other.alias == o.alias {
			return &refusal{at: o.at, what: "the name " + o.alias + " is used for two tables", why: "its columns would be ambiguous", do: "Give each an alias of its own."}
		}
	}
	return nil
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
	case t.Kind == schema.View && t.Definition == "":
		r.what, r.why = t.Name.Name+" is a view whose definition is not known", "which tables it reads is not known"
		r.do = "Select from its base tables."
	case t.Kind == schema.View:
		return nil
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

// resolve finds the column that a reference names, and notes that it is read.
func (b *block) resolve(ref *pg_query.ColumnRef, in *scope) (visible, error) {
	found, err := b.look(ref, in)
	if err != nil {
		return found, err
	}
	b.visits()[ref] = true
	found.note()
	if found.other != nil {
		return found, nil // the merged column has only its own name
	}
	for s := in; s != nil; s = s.outer {
		o := b.compiler.named([]string{found.occurrence.alias}, s)
		if o == found.occurrence {
			break
		}
		if o != nil {
			return found, &refusal{
				at: int(ref.GetLocation()), what: "the name " + o.alias + " is used for two tables, one around the other", why: "the column " + found.name + " of the outer one cannot be written with its table",
				do: "Give each an alias of its own.",
			}
		}
	}
	b.edit(func() {
		ref.Fields = []*pg_query.Node{pg_query.MakeStrNode(found.occurrence.alias), pg_query.MakeStrNode(found.name)}
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

// look finds the column that a reference names: in the innermost query that has the name.
func (b *block) look(ref *pg_query.ColumnRef, in *scope) (visible, error) {
	names, star := nameParts(ref)
	at := int(ref.GetLocation())
	if star || len(names) == 0 {
		return visible{}, &refusal{at: at, what: "* cannot stand here", do: "Name a column."}
	}
	last := names[len(names)-1]
	if len(names) == 1 {
		return b.unqualified(last, in, at)
	}
	for s := in; s != nil; s = s.outer {
		o := b.compiler.named(names[:len(names)-1], s)
		if o == nil {
			continue
		}
		v, err := only(o.columns, last, at)
		switch {
		case err == nil:
			return v, nil
		case systemColumn(last) && o.table != nil:
			return visible{}, noSystemColumn(last, at)
		case o.table != nil:
			return visible{}, &refusal{at: at, what: fmt.Sprintf("there is no column %s in %s", last, o.table.Name), do: "Correct the name."}
		}
		return visible{}, err
	}
	return visible{}, &refusal{at: at, what: "there is no table " + strings.Join(names[:len(names)-1], ".") + " here", do: "Use the name or alias that FROM gives it; ON sees only the tables that it joins."}
}

func (b *block) unqualified(name string, in *scope, at int) (visible, error) {
	for s := in; s != nil; s = s.outer {
		var all []visible
		for _, item := range s.sources {
			all = append(all, item.columns...)
		}
		v, err := only(all, name, at)
		if err == nil {
			return v, nil
		}
		if slices.ContainsFunc(all, func(v visible) bool { return v.name == name }) {
			return v, err // ambiguous
		}
		if b.compiler.named([]string{name}, s) != nil {
			return v, &refusal{at: at, what: name + " stands for a whole row", why: "which of its columns are read is not known", do: "Name the columns."}
		}
	}
	if systemColumn(name) {
		return visible{}, noSystemColumn(name, at)
	}
	_, err := only(nil, name, at)
	return visible{}, err
}

// named finds the occurrence that a qualification (alias, table or schema.table) names in one query's FROM.
func (c *compiler) named(qualification []string, in *scope) *occurrence {
	var all bits
	for _, s := range in.sources {
		all |= s.all
	}
	for _, o := range c.occurrences {
		if o.bit()&all == 0 {
			continue
		}
		if len(qualification) == 1 && o.alias == qualification[0] {
			return o
		}
		relation := o.table
		if relation == nil {
			relation = o.view
		}
		if len(qualification) == 2 && relation != nil && o.node.GetAlias() == nil && relation.Schema == qualification[0] && o.alias == qualification[1] {
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
	if plain && !reserved(s) {
		return s
	}
	return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
}

// reserved reports a word that cannot stand for a name everywhere.
func reserved(word string) bool {
	scan, err := pg_query.Scan(word)
	if err != nil || len(scan.GetTokens()) != 1 {
		return true
	}
	kind := scan.GetTokens()[0].GetKeywordKind()
	return kind != pg_query.KeywordKind_NO_KEYWORD && kind != pg_query.KeywordKind_UNRESERVED_KEYWORD
}
