package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
)

// What the file says of the rules of an entry: how changes of a table find their keys (rules), and where every change may
// drop them all (allow_broad). A rule that drops everything is never made unasked.

// The words of rules.
const (
	wishTags   = "tags"
	wishLookup = "lookup"
	wishBroad  = "broad"
)

// serves reports that rules of the class may be made: those that whoever asked applies.
func (c *compiler) serves(class rule.Class) bool {
	return class == rule.Exact || slices.Contains(c.classes, class)
}

// allowed reports that allow_broad names the table.
func (c *compiler) allowed(t *schema.Table) bool {
	return slices.ContainsFunc(c.declared.AllowBroad, func(name string) bool { return c.means(name, t) })
}

// wish is what rules says of the table.
func (c *compiler) wish(t *schema.Table) string {
	for name, word := range c.declared.Rules {
		if c.means(name, t) {
			return word
		}
	}
	return ""
}

// means reports that a name, with its schema or without, is the table's.
func (c *compiler) means(name string, t *schema.Table) bool {
	return name == t.Name.Name || name == t.String()
}

// shown is the name under which rules and allow_broad know the table.
func shown(t *schema.Table) string {
	if t.Schema == "public" {
		return t.Name.Name
	}
	return t.String()
}

// wishes refuses what the file says of tables that the query does not read, and words that mean nothing here.
func (c *compiler) wishes() error {
	reads := func(name string) bool { // also through a function
		if slices.ContainsFunc(c.functions, func(f *schema.Function) bool { return slices.Contains(c.reads(f.Name), name) }) {
			return true
		}
		return slices.ContainsFunc(c.tables(), func(o *occurrence) bool { return c.means(name, o.table) })
	}
	for _, name := range slices.Sorted(maps.Keys(c.declared.Rules)) {
		word := c.declared.Rules[name]
		switch {
		case !reads(name):
			return unknownTable("rules", name)
		case word != wishTags && word != wishLookup && word != wishBroad:
			return &refusal{at: nowhere, what: fmt.Sprintf("rules says %q for %s", word, name), do: "Write tags, lookup or broad."}
		}
	}
	for _, name := range c.declared.AllowBroad {
		if !reads(name) {
			return unknownTable("allow_broad", name)
		}
	}
	return nil
}

func unknownTable(key, name string) error {
	return &refusal{
		at: nowhere, what: fmt.Sprintf("%s names %s, which is no table of the query", key, name),
		do: "Write the table's own name, not its alias, with its schema where that is needed; of a view, the tables below it.",
	}
}

// unneeded warns about permissions that no rule makes use of.
func (c *compiler) unneeded(rules []rule.Rule) {
	for _, name := range c.declared.AllowBroad {
		if !slices.ContainsFunc(rules, func(r rule.Rule) bool {
			return (r.Class == rule.Broad || slices.Contains(c.coarse, r.Schema+"."+r.Table)) && (name == r.Table || name == r.Schema+"."+r.Table)
		}) {
			c.warn("allow_broad names %s, and no rule of it is BROAD: it can be left out", name)
		}
	}
}

// warnAboutTime says what the rules do not see.
func (c *compiler) warnAboutTime() {
	switch {
	case c.timed:
		c.warn("the query asks for the present time, which no rule watches: a value may be as old as depends_on_time.max_age, also for readers that set a bound of their own")
	case c.declared.DependsOnTime:
		c.warn("depends_on_time is not needed: the query does not ask for the present time")
	}
}

// unmet refuses a rule of another class than rules demands. EXACT is better than all of them.
func (c *compiler) unmet(d *decision) error {
	word := c.wish(d.of.table)
	if d.class == rule.Exact || word != wishTags && word != wishLookup || word == wishTags && d.class == rule.Tag || word == wishLookup && d.class == rule.Lookup {
		return nil
	}
	r := &refusal{
		at: d.of.where(), what: fmt.Sprintf("rules says %s for %s, and its rule is %s", word, describe(d.of), d.class), why: d.why,
		do: "Take it out of rules.",
	}
	if word == wishTags && d.class == rule.Lookup {
		r.why = "whoever asked applies no TAG rules"
	}
	return r
}

// broaden makes a rule broader than it could be: where rules says so, and where old rows do not carry all that it needs. What
// they carry still tells some parameters; when it tells none, the rule is BROAD, which has to be allowed.
func (c *compiler) broaden(d *decision) {
	t := d.of.table
	if c.wish(t) == wishBroad {
		d.class, d.path, d.why = rule.Broad, nil, "rules says broad"
		clear(d.bound)
		return
	}
	if d.class != rule.Exact && d.class != rule.Group || len(t.IdentityCols) == 0 {
		return
	}
	var lacking []string
	kept, class := slices.Clone(d.bound), rule.Broad
	for i, column := range kept {
		switch {
		case column == "":
		case slices.Contains(t.IdentityCols, column):
			class = rule.Group
		default:
			lacking, kept[i] = append(lacking, column), ""
		}
	}
	if len(lacking) > 0 && c.serves(class) && (class == rule.Group || c.allowed(t)) {
		d.class, d.bound, d.lacking = class, kept, lacking
	}
}

// identify refuses a table whose old rows lack what the rule needs, unless its changes may be taken for more than they are.
func (c *compiler) identify(d *decision, needs []string) error {
	t := d.of.table
	if len(d.lacking) == 0 && d.class == rule.Tag && len(t.IdentityCols) > 0 && c.allowed(t) {
		d.lacking = slices.DeleteFunc(slices.Clone(needs), func(name string) bool { return slices.Contains(t.IdentityCols, name) })
		if needs = nil; len(d.lacking) > 0 {
			c.coarse = append(c.coarse, t.String())
		}
	}
	if r := unidentified(t, needs, d.of.where()); r != nil {
		if len(needs) > 0 && len(t.IdentityCols) > 0 && c.serves(rule.Broad) {
			r.do += fmt.Sprintf(" Or add allow_broad: [%s]: until then every key is dropped where a row does not say which.", shown(t))
		}
		return r
	}
	if len(d.lacking) > 0 {
		mend := unidentified(t, d.lacking, nowhere)
		affected := "every key"
		if d.class == rule.Group {
			affected = "all keys that have " + c.knownText(d) + " in common"
		}
		c.warn("%s (%s): %s, so that it drops %s, until: %s", mend.what, d.class, mend.why, affected, strings.TrimSuffix(mend.do, "."))
	}
	return nil
}
