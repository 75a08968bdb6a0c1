// Package configschema describes freshet.yaml from the structs that read it: as JSON Schema for editors, as a
// commented sample file, and as the tables of docs/configuration.md.
package configschema

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/invopop/jsonschema"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/rule"
)

// reference lets any value be a reference to the environment, which stands for one that fits.
const reference = `|\$\{.*`

// JSON is the JSON Schema (draft 2020-12) of freshet.yaml.
func JSON() ([]byte, error) {
	r := jsonschema.Reflector{
		FieldNameTag:               "yaml",
		RequiredFromJSONSchemaTags: true,
		Anonymous:                  true,
		ExpandedStruct:             true,
		Mapper:                     scalarSchema,
	}
	s := r.ReflectFromType(reflect.TypeFor[config.Config]())
	s.Title = "freshet.yaml"
	s.Description = "Configuration of freshet, for the daemon and the library alike."
	refine(s)
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("print JSON Schema: %w", err)
	}
	return append(text, '\n'), nil
}

// scalarSchema is the schema of the types with a form of their own.
func scalarSchema(t reflect.Type) *jsonschema.Schema {
	text := func(pattern string) *jsonschema.Schema {
		return &jsonschema.Schema{Type: "string", Pattern: "^(" + pattern + reference + ")$"}
	}
	word := func(words ...any) *jsonschema.Schema { return &jsonschema.Schema{Type: "string", Enum: words} }
	switch t {
	case reflect.TypeFor[time.Duration]():
		return text(`([0-9]*\.?[0-9]+(ns|us|µs|ms|s|m|h))+`)
	case reflect.TypeFor[config.Percent]():
		return text(`[0-9]*\.?[0-9]+%`)
	case reflect.TypeFor[config.Size]():
		return text(`[0-9]+(B|KiB|MiB|GiB|TiB)`)
	case reflect.TypeFor[config.Room]():
		return text(`[0-9]+(B|KiB|MiB|GiB|TiB)|off`)
	case reflect.TypeFor[config.Switch]():
		return word(string(config.On), string(config.Off))
	case reflect.TypeFor[config.URL](), reflect.TypeFor[config.Secret]():
		return &jsonschema.Schema{Type: "string"}
	case reflect.TypeFor[rule.Result]():
		return word(string(rule.One), string(rule.Many))
	case reflect.TypeFor[config.TagsKind]():
		return word(string(config.TagsByHand))
	case reflect.TypeFor[config.CoversKind]():
		return word(string(config.CoversNone))
	case reflect.TypeFor[config.OnUnproved]():
		return word(string(config.UnprovedRevalidate), string(config.UnprovedLoad))
	case reflect.TypeFor[config.RuleKind]():
		return word("tags", "lookup", "broad")
	case reflect.TypeFor[config.OnChange]():
		properties := jsonschema.NewProperties()
		inner := jsonschema.NewProperties()
		inner.Set("for", scalarSchema(reflect.TypeFor[time.Duration]()))
		properties.Set(config.ServeStale, &jsonschema.Schema{
			Type: "object", Properties: inner, Required: []string{"for"}, AdditionalProperties: jsonschema.FalseSchema,
		})
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{
			word(config.Drop, config.Refresh),
			{Type: "object", Properties: properties, Required: []string{config.ServeStale}, AdditionalProperties: jsonschema.FalseSchema},
		}}
	}
	return nil
}

// refine adds what tags cannot say.
func refine(s *jsonschema.Schema) {
	either := func(keys ...string) []*jsonschema.Schema {
		var choices []*jsonschema.Schema
		for _, key := range keys {
			choices = append(choices, &jsonschema.Schema{Required: []string{key}})
		}
		return choices
	}
	s.Definitions["Entry"].OneOf = either("query", "depends_on")
	s.Definitions["Source"].OneOf = either("postgres", "kafka")
	if postgres, ok := s.Definitions["Source"].Properties.Get("postgres"); ok {
		// "postgres:" with nothing after it is a source with nothing but defaults.
		postgres.AnyOf = []*jsonschema.Schema{{Ref: postgres.Ref}, {Type: "null"}}
		postgres.Ref = ""
	}
	if entries, ok := s.Properties.Get("entries"); ok {
		entries.PropertyNames = &jsonschema.Schema{Pattern: "^[A-Za-z][A-Za-z0-9_-]{0,62}$"}
		entries.MinProperties = new(uint64(1))
	}
	mark(s, reflect.TypeFor[config.Config]())
	for _, t := range structs() {
		if d := s.Definitions[t.Name()]; d != nil {
			mark(d, t)
		}
	}
}

// mark says in the description which keys this version refuses.
func mark(s *jsonschema.Schema, t reflect.Type) {
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		if p, ok := s.Properties.Get(name); ok && field.Tag.Get("later") != "" {
			p.Description = later(field) + p.Description
		}
	}
}
