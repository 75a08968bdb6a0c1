package configschema

import (
	"cmp"
	"reflect"
	"strings"

	"github.com/freshet/freshet/internal/config"
)

// Sample is a file to start from: what is needed stands in it, everything else is a comment with its default or an
// example.
func Sample() string {
	var b strings.Builder
	b.WriteString("# freshet.yaml. Checked by: freshet check. Every key: freshet config schema, docs/configuration.md.\n" +
		"# ${NAME} and ${NAME:-default} are replaced from the environment.\n")
	s := &sample{b: &b}
	s.fields(reflect.TypeFor[config.Config](), "", "")
	return b.String()
}

// sample writes lines; off is "# " within a section that is a comment as a whole.
type sample struct {
	b   *strings.Builder
	off string
}

func (s *sample) line(indent, text string) {
	s.b.WriteString(s.off + indent + text + "\n")
}

// comment wraps a description.
func (s *sample) comment(indent, text string) {
	const width = 110
	line := "#"
	for word := range strings.FieldsSeq(text) {
		if len(indent)+len(line)+1+len(word) > width {
			s.line(indent, line)
			line = "#"
		}
		line += " " + word
	}
	s.line(indent, line)
}

// fields writes the keys of a struct. first stands before the first key instead of the indentation: the dash of a list.
func (s *sample) fields(t reflect.Type, indent, first string) {
	for i, f := range fields(t) {
		if f.later {
			continue
		}
		before := indent
		if i == 0 && first != "" {
			before = first
		} else {
			if indent == "" {
				s.b.WriteString("\n")
			}
			s.comment(indent, f.doc)
		}
		s.field(f, indent, before)
	}
}

func (s *sample) field(f field, indent, before string) {
	inner, isSection := section(f.Type)
	// Of what excludes each other, one is chosen.
	chosen := f.required || f.name == "url" && !strings.Contains(f.Tag.Get("yaml"), "omitempty") || f.name == "query" || f.name == "postgres" || f.name == "regions"
	on := "# "
	if chosen || s.off != "" {
		on = ""
	}
	switch {
	case f.Type.Kind() == reflect.Map && !chosen:
		s.line(before, on+f.name+": "+f.example)
	case !isSection:
		s.line(before, on+f.name+": "+plain(cmp.Or(f.fallback, f.example)))
	case f.Type.Kind() == reflect.Slice && !chosen:
		s.line(before, on+f.name+`: [{table: invoices, key: "{id}"}]`)
	case f.Type.Kind() == reflect.Slice:
		s.line(before, f.name+":")
		s.fields(inner, indent+"    ", indent+"  - ")
	case f.Type.Kind() == reflect.Map:
		s.line(before, f.name+":")
		s.line(indent+"  ", "product:")
		s.fields(inner, indent+"    ", "")
	case chosen:
		s.line(before, f.name+":")
		s.fields(inner, indent+"  ", "")
	default:
		off := s.off
		s.line(before, on+f.name+":")
		s.off = indent + "# "
		s.fields(inner, "  ", "")
		s.off = off
	}
}

// plain quotes a value that YAML would read as something else.
func plain(value string) string {
	if strings.HasPrefix(value, "{") || strings.Contains(value, ": ") {
		return `"` + value + `"`
	}
	return value
}
