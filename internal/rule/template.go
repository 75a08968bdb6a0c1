package rule

import (
	"fmt"
	"slices"
	"strings"

	"github.com/freshet/freshet/internal/keytext"
)

// Template is a parsed key template such as "user:{id}:profile".
type Template struct {
	literals []string // len(params)+1: before, between and after the parameters
	params   []string
}

// TemplateError says what is wrong with a key template, and where (a 0-based byte offset).
type TemplateError struct {
	Template string
	Offset   int
	Problem  string
}

func (e *TemplateError) Error() string {
	return fmt.Sprintf("key %q, character %d: %s", e.Template, e.Offset+1, e.Problem)
}

// ParseTemplate reads a key template. It refuses one under which two different parameter tuples could spell the same
// key: two parameters need a separator between them that escaped parameter text cannot contain.
func ParseTemplate(s string) (*Template, error) {
	fail := func(at int, format string, args ...any) (*Template, error) {
		return nil, &TemplateError{Template: s, Offset: at, Problem: fmt.Sprintf(format, args...)}
	}
	t := &Template{}
	at := 0
	for {
		open := strings.IndexByte(s[at:], '{')
		if stray := strings.IndexByte(s[at:], '}'); stray >= 0 && (open < 0 || stray < open) {
			return fail(at+stray, "unmatched }")
		}
		if open < 0 {
			t.literals = append(t.literals, s[at:])
			break
		}
		open += at
		length := strings.IndexByte(s[open:], '}')
		if length < 0 {
			return fail(open, "unmatched {")
		}
		name := s[open+1 : open+length]
		if !IsName(name) {
			return fail(open, "a parameter is a name in braces, such as {id}")
		}
		if slices.Contains(t.params, name) {
			return fail(open, "parameter {%s} appears twice", name)
		}
		literal := s[at:open]
		if len(t.params) > 0 && !keytext.Separates(literal) {
			return fail(open, "parameters {%s} and {%s} need a separator between them that is not a letter, digit or one of -._~%%, such as ':'",
				t.params[len(t.params)-1], name)
		}
		t.literals = append(t.literals, literal)
		t.params = append(t.params, name)
		at = open + length + 1
	}
	for _, l := range t.literals {
		if i := strings.IndexFunc(l, func(r rune) bool { return r <= ' ' || r == 0x7f || r > 0x7e }); i >= 0 {
			return fail(strings.Index(s, l)+i, "only printable ASCII without spaces is allowed")
		}
	}
	if s == "" {
		return fail(0, "the key is empty")
	}
	return t, nil
}

// IsName reports whether a text may be the name of a parameter.
func IsName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// Params are the parameter names in the order of the template.
func (t *Template) Params() []string { return t.params }

// Literals are the texts before, between and after the parameters: one more than there are parameters.
func (t *Template) Literals() []string { return t.literals }

// Append appends the key for the given arguments, one for each parameter, in canonical text.
func (t *Template) Append(dst []byte, args []keytext.Arg) []byte {
	for i, a := range args {
		dst = append(dst, t.literals[i]...)
		dst = keytext.AppendEscaped(dst, a)
	}
	return append(dst, t.literals[len(t.params)]...)
}

// Parse is the inverse of Append: the arguments that a key was spelled with. It refuses a text that is no key of the
// template. There is only one reading: a literal between two parameters has a byte that no argument contains, so it
// cannot begin earlier than where it was written.
func (t *Template) Parse(key string) ([]keytext.Arg, bool) {
	texts, ok := Between(t.literals, key)
	if !ok {
		return nil, false
	}
	args := make([]keytext.Arg, len(texts))
	for i, text := range texts {
		if args[i], ok = keytext.ParseEscaped(text); !ok {
			return nil, false
		}
	}
	return args, true
}

// Between reads the texts that stand in a key between literals, of which there is one more. Each ends where the literal
// behind it first occurs, the last one with the key.
func Between(literals []string, key string) ([]string, bool) {
	rest, ok := strings.CutPrefix(key, literals[0])
	if !ok {
		return nil, false
	}
	texts := make([]string, len(literals)-1)
	for i := range texts {
		if literal := literals[i+1]; i < len(texts)-1 {
			texts[i], rest, ok = strings.Cut(rest, literal)
		} else {
			texts[i], ok = strings.CutSuffix(rest, literal)
			rest = ""
		}
		if !ok {
			return nil, false
		}
	}
	return texts, rest == ""
}
