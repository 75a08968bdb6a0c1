package configschema

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/rule"
)

// Reference is the text of docs/configuration.md.
func Reference() string {
	var b strings.Builder
	b.WriteString(`<!-- Made from the structs of internal/config by: go test ./internal/configschema -update -->
# Configuration

Every command, and the library, read ` + "`./freshet.yaml`" + ` unless told otherwise (` + "`--config`" + `). The file is strict: an unknown key, a bad
value or a contradiction is an error with file, line and column, and all of them are reported at once.

- ` + "`${NAME}`" + ` and ` + "`${NAME:-default}`" + ` are replaced from the environment, in every value; the default also counts for an empty
  variable. What a variable holds is text and never becomes YAML. A literal ` + "`${`" + ` is written ` + "`$${`" + `.
- Keys that end in ` + "`_file`" + ` read a secret from a file, without the line end after it; relative paths start at the directory of
  the configuration.
- Durations are Go's (` + "`500ms`, `30s`, `1h30m`" + `), shares are percentages (` + "`10%`" + `), sizes are binary (` + "`256MiB`" + `).
- ` + "`freshet config print`" + ` shows what is in force, with secrets masked; ` + "`freshet config schema`" + ` prints a JSON Schema for editors;
  ` + "`freshet config sample`" + ` prints a file to start from.
- Keys that this version knows and does not support are refused, never ignored.

`)
	table(&b, "The file", "", reflect.TypeFor[config.Config]())
	for _, t := range structs() {
		if path := pathOf(t); path != "" {
			table(&b, "`"+path+"`", path, t)
		}
	}
	b.WriteString("## A file to start from\n\n```yaml\n" + Sample() + "```\n")
	return b.String()
}

func table(b *strings.Builder, title, path string, t reflect.Type) {
	fmt.Fprintf(b, "## %s\n\n| key | value | default | meaning |\n| --- | --- | --- | --- |\n", title)
	for _, f := range fields(t) {
		fallback := ""
		if f.fallback != "" {
			fallback = "`" + f.fallback + "`"
		}
		if f.required {
			fallback = "required"
		}
		doc := later(f.StructField) + f.doc
		if f.example != "" {
			doc += " Example: `" + f.example + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", f.name, form(f, join(path, f.name)), fallback, strings.ReplaceAll(doc, "|", "\\|"))
	}
	b.WriteString("\n")
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// form says how a value is written.
func form(f field, path string) string {
	if s, ok := section(f.Type); ok {
		switch {
		case f.later:
			return "mapping"
		case f.Type.Kind() == reflect.Slice:
			return "list, see `" + path + "[]`"
		case f.Type.Kind() == reflect.Map:
			return "by name, see `" + path + ".*`"
		default:
			return "mapping, see `" + pathOf(s) + "`"
		}
	}
	t := f.Type
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t {
	case reflect.TypeFor[time.Duration]():
		return "duration"
	case reflect.TypeFor[config.Percent]():
		return "percentage"
	case reflect.TypeFor[config.Size]():
		return "size"
	case reflect.TypeFor[config.Room]():
		return "size, or `off`"
	case reflect.TypeFor[config.Switch]():
		return "`on`, `off`"
	case reflect.TypeFor[config.URL]():
		return "connection string"
	case reflect.TypeFor[config.Secret]():
		return "secret"
	case reflect.TypeFor[rule.Result]():
		return "`one`, `many`"
	case reflect.TypeFor[config.TagsKind]():
		return "`by_hand`"
	case reflect.TypeFor[config.CoversKind]():
		return "`none`"
	case reflect.TypeFor[config.OnUnproved]():
		return "`revalidate`, `load`"
	case reflect.TypeFor[config.OnChange]():
		return "`drop`, `refresh`, `{serve_stale: {for: duration}}`"
	}
	switch t.Kind() {
	case reflect.Slice:
		return "list of text"
	case reflect.Map:
		return "by name: `tags`, `lookup`, `broad`"
	case reflect.Int:
		return "number"
	default:
		return "text"
	}
}

// pathOf is where a struct stands in the file; empty for those of features that this version refuses.
func pathOf(wanted reflect.Type) string {
	var walk func(t reflect.Type, path string) string
	walk = func(t reflect.Type, path string) string {
		for _, f := range fields(t) {
			s, ok := section(f.Type)
			if !ok || f.later {
				continue
			}
			inner := join(path, f.name)
			switch f.Type.Kind() {
			case reflect.Slice:
				inner += "[]"
			case reflect.Map:
				inner += ".*"
			default:
			}
			if s == wanted {
				return inner
			}
			if found := walk(s, inner); found != "" {
				return found
			}
		}
		return ""
	}
	return walk(reflect.TypeFor[config.Config](), "")
}
