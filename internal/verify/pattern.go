package verify

import (
	"fmt"
	"slices"
	"strings"

	"github.com/freshet/freshet/internal/rule"
)

// Pattern is how an application spells its keys: text with the names of parameters in braces, such as user:{id}:profile.
// A doubled brace stands for one. Arguments are in the key as they are, without escapes.
type Pattern struct {
	text     string
	literals []string // one more than there are parameters
	params   []string
}

// ParsePattern reads a pattern.
func ParsePattern(text string) (*Pattern, error) {
	p := &Pattern{text: text}
	var literal strings.Builder
	fail := func(at int, problem string) (*Pattern, error) {
		return nil, fmt.Errorf("pattern %q, character %d: %s", text, at+1, problem)
	}
	for at := 0; at < len(text); at++ {
		c := text[at]
		if c != '{' && c != '}' {
			literal.WriteByte(c)
			continue
		}
		if at+1 < len(text) && text[at+1] == c {
			literal.WriteByte(c)
			at++
			continue
		}
		if c == '}' {
			return fail(at, "unmatched }; write }} for a brace that is in the key")
		}
		length := strings.IndexByte(text[at:], '}')
		if length < 0 {
			return fail(at, "unmatched {; write {{ for a brace that is in the key")
		}
		name := text[at+1 : at+length]
		switch {
		case !rule.IsName(name):
			return fail(at, "a parameter is a name in braces, such as {id}")
		case slices.Contains(p.params, name):
			return fail(at, "parameter {"+name+"} appears twice")
		case len(p.params) > 0 && literal.Len() == 0:
			return fail(at, "two parameters need something between them, or nobody can tell where the first one ends")
		}
		p.params = append(p.params, name)
		p.literals = append(p.literals, literal.String())
		literal.Reset()
		at += length
	}
	p.literals = append(p.literals, literal.String())
	if text == "" {
		return fail(0, "it is empty")
	}
	return p, nil
}

// String is the pattern as it was written.
func (p *Pattern) String() string { return p.text }

// Params are the names of its parameters, in their order.
func (p *Pattern) Params() []string { return p.params }

// Glob is the pattern as Redis matches it.
func (p *Pattern) Glob() string {
	escape := strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`, `^`, `\^`)
	parts := make([]string, len(p.literals))
	for i, l := range p.literals {
		parts[i] = escape.Replace(l)
	}
	return strings.Join(parts, "*")
}

// Match reads the arguments of a key. Each ends where the text that follows it in the pattern first occurs, the last one
// with the key.
func (p *Pattern) Match(key string) ([]string, bool) { return rule.Between(p.literals, key) }
