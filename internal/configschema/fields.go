package configschema

import (
	"encoding"
	"reflect"
	"strings"

	"github.com/freshet/freshet/internal/config"
)

// field is what the tags of one field say.
type field struct {
	reflect.StructField
	name, doc, fallback, example string
	required, later              bool
}

func later(f reflect.StructField) string {
	if f.Tag.Get("later") == "" {
		return ""
	}
	return "Not supported by this version. "
}

// fields are the fields of a struct that the file has.
func fields(t reflect.Type) []field {
	var all []field
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name == "" {
			continue
		}
		one := field{StructField: f, name: name, doc: f.Tag.Get("jsonschema_description"), later: f.Tag.Get("later") != ""}
		for part := range strings.SplitSeq(strings.ReplaceAll(f.Tag.Get("jsonschema"), `\,`, "\x00"), ",") {
			part = strings.ReplaceAll(part, "\x00", ",")
			if value, ok := strings.CutPrefix(part, "default="); ok {
				one.fallback = value
			}
			if value, ok := strings.CutPrefix(part, "example="); ok {
				one.example = value
			}
			one.required = one.required || part == "required"
		}
		all = append(all, one)
	}
	return all
}

// section is the struct behind a field, if it is one: through pointers, lists and maps.
func section(t reflect.Type) (reflect.Type, bool) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
		return nil, false
	}
	return t, true
}

// structs are all the structs of a file, in the order in which they first appear, without Config itself.
func structs() []reflect.Type {
	var all []reflect.Type
	seen := map[reflect.Type]bool{}
	var walk func(t reflect.Type)
	walk = func(t reflect.Type) {
		for _, f := range fields(t) {
			if s, ok := section(f.Type); ok && !seen[s] {
				seen[s] = true
				all = append(all, s)
				walk(s)
			}
		}
	}
	walk(reflect.TypeFor[config.Config]())
	return all
}

// configFields are the fields of the whole file.
func configFields() []field { return fields(reflect.TypeFor[config.Config]()) }
