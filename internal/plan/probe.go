package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
)

// The query of a TAG rule is the way from a row to its keys, walked from the other end: from the parameters over the
// tables of the path to the values that a row of the occurrence has to have in the columns that tie it. Whether there is
// such a row does not matter: one may come.
//
// It demands of the rows on the way what every combination that matters to the occurrence demands (active.go), and nothing
// else. What it does not find because a row on the way lacks, at the fill, what is demanded of it, is found by that row's
// own rule when it changes: the rank condition makes sure that this rule demands no more than is demanded here.

// probe is what search is for LOOKUP.
type probe struct {
	*compiler
	*decision
	have        map[string]string // by class: an expression for the value that all in it have
	from, where []string
	sure        map[string]bool // classes whose value was compared with another one, and so is not NULL
}

// tag makes the query that finds the join values from the parameters.
func (c *compiler) tag(d *decision) *rule.TagQuery {
	p := &probe{compiler: c, decision: d, have: map[string]string{}, sure: map[string]bool{}}
	p.parameters()
	for n, s := range d.path {
		p.table(fmt.Sprintf("q%d", n+1), s.to)
	}
	t := &rule.TagQuery{Rank: len(d.path)}
	var list []string
	for _, column := range c.through(d) {
		root := d.equal.root(columnRef{occurrence: d.of, name: column.Name}.node())
		t.From, t.Types = append(t.From, column.Name), append(t.Types, columnType(column))
		list = append(list, fmt.Sprintf("(%s)::text AS c%d", p.have[root], len(t.From)))
		if !p.sure[root] { // a row with NULL there is tied to nothing
			p.where = append(p.where, p.have[root]+" IS NOT NULL")
		}
	}
	t.SQL = "SELECT DISTINCT " + strings.Join(list, ", ")
	for i, clause := range [][]string{p.from, p.where} {
		if len(clause) > 0 {
			t.SQL += []string{" FROM ", " WHERE "}[i] + strings.Join(clause, []string{", ", " AND "}[i])
		}
	}
	return t
}

// through lists the columns of the occurrence that tie it: to parameters, and to the tables of the path.
func (c *compiler) through(d *decision) []*schema.Column {
	var columns []*schema.Column
	seen := map[string]bool{}
	own := func(column *schema.Column, root string) {
		if !seen[root] {
			seen[root] = true
			columns = append(columns, column)
		}
	}
	for i := range c.params {
		if name := c.bind(d.of, i, d.equal); name != "" {
			own(d.of.table.Column(name), d.equal.root(parameterNode(i+1)))
		}
	}
	for i := range d.of.table.Columns {
		column := &d.of.table.Columns[i]
		root := d.equal.root(columnRef{occurrence: d.of, name: column.Name}.node())
		element := slices.ContainsFunc(d.facts, func(f fact) bool { return f.member > 0 && d.equal.root(f.element()) == root })
		if !column.Generated && (element || slices.ContainsFunc(d.path, func(s step) bool { return d.tied(s.to)[root] != "" })) {
			own(column, root)
		}
	}
	return columns
}

// parameters, and the elements of those that are arrays, are where the way begins. In a case that is of one argument only, other arguments lead nowhere.
func (p *probe) parameters() {
	for i := range p.params {
		name := p.parameterType(i)
		if name == "" {
			continue
		}
		argument := fmt.Sprintf("$%d::%s", i+1, name)
		if fixed, ok := p.constant(i+1, p.equal); ok {
			condition := " = " + quoteText(fixed.Text)
			if fixed.Null {
				condition = " IS NULL"
			}
			p.where = append(p.where, argument+condition)
		}
		p.value(p.equal.root(parameterNode(i+1)), argument)
	}
	for i := range p.facts {
		if f := &p.facts[i]; f.member > 0 {
			alias := fmt.Sprintf("e%d", f.member)
			p.from = append(p.from, fmt.Sprintf("unnest($%d::%s) AS %s (v)", f.right.parameter, sqlName(p.params[f.right.parameter-1].Type), alias))
			p.value(p.equal.root(f.element()), alias+".v")
		}
	}
}

// value has an expression stand for a class, or be equal to what stands for it.
func (p *probe) value(root, expression string) {
	if p.have[root] == "" {
		p.have[root] = expression
		return
	}
	p.where = append(p.where, expression+" = "+p.have[root])
	p.sure[root] = true
}

// table goes over one table of the path.
func (p *probe) table(alias string, o *occurrence) {
	p.from = append(p.from, quoted(o.table.Name)+" "+alias)
	for i := range o.table.Columns {
		name := o.table.Columns[i].Name
		p.value(p.equal.root(columnRef{occurrence: o, name: name}.node()), alias+"."+quoteIdent(name))
	}
	for _, condition := range p.conditions(o, p.equal) {
		condition.Column = alias + "." + quoteIdent(condition.Column)
		p.where = append(p.where, conditionText(condition))
	}
}

// parameterType names a parameter's type in SQL; "" for an enum that no table on the way has.
func (p *probe) parameterType(i int) string {
	if p.params[i].Type != keytext.Enum {
		return sqlName(p.params[i].Type)
	}
	root := p.equal.root(parameterNode(i + 1))
	for _, o := range append([]*occurrence{p.of}, p.tables()...) {
		if name := p.columnOf(o, root, p.equal); name != "" {
			return sqlType(o.table.Column(name))
		}
	}
	return ""
}

func quoteText(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }
