package route

import (
	"fmt"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
)

// target is an entry as intents name it.
type target struct {
	entry    int
	literals []string
	types    []keytext.Type
	broken   string
}

func aim(index int, e *rule.Entry) *target {
	t := &target{entry: index}
	template, err := rule.ParseTemplate(e.Key)
	switch {
	case err != nil:
		t.broken = err.Error()
	case len(template.Params()) != len(e.Params):
		t.broken = fmt.Sprintf("the key has %d parameters, and types for %d", len(template.Params()), len(e.Params))
	default:
		t.literals = template.Literals()
		for _, p := range e.Params {
			t.types = append(t.types, p.Type.Wide())
		}
	}
	return t
}

// Key adds the key of an entry that a transaction itself named, in each of its versions. Arguments that do not make one
// move the version: some key of it was meant. It reports whether there is such an entry; where there is none, there are no
// keys of it either.
func (r *Router) Key(entry string, args []keytext.Arg, out *Keys) (known bool) {
	for _, t := range r.targets[entry] {
		t.key(args, out)
	}
	return len(r.targets[entry]) > 0
}

func (t *target) key(args []keytext.Arg, out *Keys) {
	switch {
	case t.broken != "":
		out.move(t.entry, func() string { return t.broken })
		return
	case len(args) != len(t.types):
		out.move(t.entry, func() string {
			return fmt.Sprintf("an intent has %d arguments, the key has %d parameters", len(args), len(t.types))
		})
		return
	}
	start := len(out.arena)
	for i, a := range args {
		out.arena = append(out.arena, t.literals[i]...)
		if !a.Null {
			text, err := keytext.Canonical(t.types[i], a.Text)
			if err != nil {
				out.arena = out.arena[:start]
				out.move(t.entry, func() string { return fmt.Sprintf("argument %d of an intent: %v", i+1, err) })
				return
			}
			a.Text = text
		}
		out.arena = keytext.AppendEscaped(out.arena, a)
	}
	out.arena = append(out.arena, t.literals[len(args)]...)
	out.seal(t.entry, start)
}

// Undecodable is for an intent that cannot be read: it moves the entry that it names or, where none can be made out, all
// of them. It reports whether there is such an entry.
func (r *Router) Undecodable(entry, why string, out *Keys) (known bool) {
	cause := func() string { return "an intent that cannot be read: " + why }
	if entry != "" {
		for _, t := range r.targets[entry] {
			out.move(t.entry, cause)
		}
		return len(r.targets[entry]) > 0
	}
	for _, versions := range r.targets {
		for _, t := range versions {
			out.move(t.entry, cause)
		}
	}
	return true
}
