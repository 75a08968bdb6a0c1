package route

import (
	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
)

// tie compiles a rule of which values are tied to epochs: which columns name those. Where the log does not carry one of them,
// none do, and every row ends the rule's own.
func (c *compiled) tie(column func(name string) int) {
	named := c.rule.Bind
	if c.rule.Class == rule.Tag {
		named = c.rule.Tag.From
	}
	whole := true
	for n, name := range named {
		switch {
		case n < len(c.fixed) && c.fixed[n] != nil:
			c.bind = append(c.bind, fixed)
		case name == "":
			c.bind = append(c.bind, anything)
		default:
			i := column(name)
			c.bind = append(c.bind, i)
			whole = whole && i >= 0
		}
	}
	if c.rule.Class == rule.Tag {
		for _, name := range c.rule.Bind {
			if i := column(name); name != "" && i >= 0 {
				c.never = append(c.never, i)
			}
		}
	}
	if !whole || c.rule.Class == rule.Broad {
		c.bind = nil
	}
}

// anything stands for a column where the parameter may be anything.
const anything = -2

// epoch adds the epoch that one image ends, which matters. What is not known of it makes that the rule's own.
func (r *Router) epoch(c *compiled, row *change.Row, value valueFunc, out *Keys) {
	for _, columns := range [][]int{c.bind, c.never} {
		for _, column := range columns {
			if column >= 0 && value(row, column).Kind == change.Null {
				return // no equality holds for NULL
			}
		}
	}
	start := len(out.arena)
	if !r.spell(c, row, value, out) {
		out.arena = rule.AppendOwnEpoch(out.arena[:start], c.number)
		out.sealEpoch(c.entry, start)
		return
	}
	out.sealEpoch(c.entry, start)
	if c.rule.Class == rule.Tag {
		start = len(out.arena)
		out.arena = rule.AppendSharedEpoch(out.arena, c.number)
		out.sealEpoch(c.entry, start)
	}
}

// spell appends the name of the epoch of an image's values, and reports whether it has all of them, and any.
func (r *Router) spell(c *compiled, row *change.Row, value valueFunc, out *Keys) bool {
	out.arena = rule.AppendOwnEpoch(out.arena, c.number)
	some := false
	for n, column := range c.bind {
		switch column {
		case anything:
			continue
		case fixed:
			out.arena = append(append(out.arena, ':'), c.fixed[n]...)
		default:
			v := value(row, column)
			if v.Kind != change.Text {
				return false
			}
			text, err := keytext.AppendCanonicalLog(r.scratch[:0], c.types[n], v.Text)
			if err != nil {
				return false
			}
			r.scratch = text
			out.arena = keytext.AppendEscapedText(append(out.arena, ':'), text)
		}
		some = true
	}
	return some
}
