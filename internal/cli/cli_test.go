package cli

import (
	"context"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/freshet/freshet/internal/daemon"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/verify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// jsonNames are the names of all fields in the JSON of a type.
func jsonNames(t reflect.Type) []string {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return jsonNames(t.Elem())
	case reflect.Struct:
	default:
		return nil
	}
	if t.PkgPath() == "time" {
		return nil
	}
	var names []string
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
			continue
		case f.Anonymous && name == "":
		default:
			names = append(names, name)
		}
		names = append(names, jsonNames(f.Type)...)
	}
	return names
}

// docs/json.md is a promise: every field is in it.
func TestEveryJSONFieldIsDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(text)
	for command, v := range map[string]reflect.Type{
		"check": reflect.TypeFor[checked](), "explain": reflect.TypeFor[explained](), "get": reflect.TypeFor[got](),
		"status": reflect.TypeFor[daemon.Status](), "version": reflect.TypeFor[build](), "verify": reflect.TypeFor[verify.Report](), "reload": reflect.TypeFor[daemon.Reloaded](),
	} {
		names := jsonNames(v)
		if len(names) < 5 {
			t.Errorf("%s: only the fields %v", command, names)
		}
		for _, name := range names {
			if !slices.ContainsFunc([]string{"`", "[]`", "{}`"}, func(end string) bool { return strings.Contains(doc, "`"+name+end) }) {
				t.Errorf("%s --json: docs/json.md lacks %q", command, name)
			}
		}
	}
}

func TestArguments(t *testing.T) {
	t.Parallel()
	params := []rule.Param{{Name: "id", Type: keytext.Int4}, {Name: "lang", Type: keytext.String}}
	tests := []struct {
		name         string
		texts, nulls []string
		want         []keytext.Arg
		err          string
	}{
		{"canonical", []string{"007", "en"}, nil, []keytext.Arg{{Text: "7"}, {Text: "en"}}, ""},
		{"first is NULL", []string{"en"}, []string{"id"}, []keytext.Arg{{Null: true}, {Text: "en"}}, ""},
		{"last is NULL", []string{"7"}, []string{"lang"}, []keytext.Arg{{Text: "7"}, {Null: true}}, ""},
		{"empty text", []string{"7", ""}, nil, []keytext.Arg{{Text: "7"}, {Text: ""}}, ""},
		{"missing", []string{"7"}, nil, nil, `the argument for parameter "lang" (text) is missing`},
		{"too many", []string{"7", "en", "x"}, nil, nil, "1 argument too many"},
		{"too many with NULL", []string{"7", "en"}, []string{"id"}, nil, "1 argument too many"},
		{"unknown NULL", []string{"7", "en"}, []string{"x"}, nil, `--null: there is no parameter "x"`},
		{"wrong type", []string{"seven", "en"}, nil, nil, `parameter "id": int4 "seven"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := arguments(params, tt.texts, tt.nulls)
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Fatalf("arguments = %v, want %q", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("arguments (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReachable(t *testing.T) {
	t.Parallel()
	for listen, want := range map[string]string{
		"127.0.0.1:1": "127.0.0.1:1", ":1": "127.0.0.1:1", "0.0.0.0:1": "127.0.0.1:1", "[::]:1": "127.0.0.1:1",
		"[::1]:1": "[::1]:1", "host:1": "host:1",
	} {
		if got := reachable(listen); got != want {
			t.Errorf("reachable(%s) = %s, want %s", listen, got, want)
		}
	}
}

// Every command that reads has --json, every one that people call has an example, and none is undocumented.
func TestCommands(t *testing.T) {
	t.Parallel()
	a := &app{Process: Process{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard}}
	root := a.root()
	for _, name := range []string{"check", "explain", "get", "status", "demo", "version", "config print"} {
		cmd, _, err := root.Find(strings.Fields(name))
		if err != nil || cmd.Flags().Lookup("json") == nil {
			t.Errorf("%s has no --json (%v)", name, err)
		}
	}
	for _, cmd := range all(root)[1:] {
		if cmd.Hidden || cmd.HasSubCommands() && cmd.Name() == "config" || cmd.Name() == "version" {
			continue
		}
		if cmd.Short == "" || cmd.Example == "" {
			t.Errorf("%s lacks a description or an example", cmd.CommandPath())
		}
	}
	if code := Run(context.Background(), Process{Args: []string{"nothing"}, Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard}); code != exitUsage {
		t.Errorf("an unknown command exits with %d, want %d", code, exitUsage)
	}
}
