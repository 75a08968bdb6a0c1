package archtest_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestArchitecture(t *testing.T) {
	t.Parallel()
	packages, err := list("")
	if err != nil {
		t.Fatal(err)
	}
	for _, breach := range check(packages) {
		t.Error(breach)
	}
}

// Each kind of breach, planted into the module as the go command sees it, is found, and is the only one found.
func TestPlantedBreachIsFound(t *testing.T) {
	t.Parallel()
	packages, err := list("")
	if err != nil {
		t.Fatal(err)
	}
	clean := check(packages)

	imports := func(name, path string) string { return "package " + name + "\n\nimport _ \"" + path + "\"\n" }
	tests := []struct {
		name  string
		files map[string]string
		want  string
	}{
		{
			"upwards",
			map[string]string{"internal/fence/breach.go": imports("fence", module+"/internal/redisstore")},
			"internal/fence (layer 2) imports internal/redisstore (layer 3): upwards",
		},
		{
			"sideways",
			map[string]string{"internal/route/breach.go": imports("route", module+"/internal/watermark")},
			"internal/route imports internal/watermark of the same layer 2: sideways",
		},
		{
			"unlisted",
			map[string]string{"internal/helper/helper.go": "// Package helper is new.\npackage helper\n"},
			"internal/helper is not in the layer table",
		},
		{
			"the parser in the library",
			map[string]string{
				"breach.go":               imports("freshet", module+"/internal/fill"),
				"internal/fill/breach.go": imports("fill", module+"/internal/plan"),
			},
			"freshet links github.com/freshet/freshet/internal/plan: " +
				"a program that uses the library must not link the daemon's side",
		},
		{
			"commands in the library",
			map[string]string{
				"breach.go":                     imports("freshet", module+"/internal/redisstore"),
				"internal/redisstore/breach.go": imports("redisstore", "github.com/spf13/cobra"),
			},
			"freshet links github.com/spf13/cobra: a program that uses the library must not link the daemon's side",
		},
		{
			"the parser in the catalog",
			map[string]string{"internal/pgcatalog/breach.go": imports("pgcatalog", module+"/internal/plan")},
			"internal/pgcatalog links github.com/freshet/freshet/internal/plan: reading a catalog needs no SQL parser",
		},
		{
			"another's driver",
			map[string]string{"internal/pgload/breach.go": imports("pgload", "github.com/redis/rueidis")},
			"internal/pgload imports github.com/redis/rueidis of github.com/redis/rueidis, which is not its driver",
		},
		{
			"a driver in a pure package",
			map[string]string{"internal/watermark/breach.go": imports("watermark", "golang.org/x/sync/errgroup")},
			"internal/watermark imports golang.org/x/sync/errgroup of golang.org/x/sync, which is not its driver",
		},
		{
			"I/O in a pure package",
			map[string]string{"mvcc/breach.go": imports("mvcc", "net/netip")},
			"mvcc is pure and imports net/netip",
		},
		{
			"no package comment",
			map[string]string{"internal/testkit/silent/silent.go": "package silent\n"},
			"internal/testkit/silent has no package comment",
		},
		{
			"test servers in production",
			map[string]string{"internal/apply/breach.go": imports("apply", module+"/internal/testkit")},
			"internal/apply imports internal/testkit, which is for tests",
		},
		{
			"testing in production",
			map[string]string{"internal/change/breach.go": imports("change", "testing")},
			"internal/change imports testing, which is for tests",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			packages, err := list(plant(t, tt.files))
			if err != nil {
				t.Fatal(err)
			}
			var found []string
			for _, breach := range check(packages) {
				if !slices.Contains(clean, breach) {
					found = append(found, breach)
				}
			}
			if !slices.Contains(found, tt.want) {
				t.Errorf("found %q, want %q", found, tt.want)
			}
		})
	}
}

// A row of the table that stands for nothing is found too.
func TestMissingPackageIsFound(t *testing.T) {
	t.Parallel()
	if found, want := check(nil), "mvcc is in the layer table and does not exist"; !slices.Contains(found, want) {
		t.Errorf("check = %q, want %q", found, want)
	}
}

// plant writes an overlay that adds files to the module, and returns its path.
func plant(t *testing.T, files map[string]string) string {
	t.Helper()
	top, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	replace := map[string]string{}
	for file, code := range files {
		planted := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		replace[filepath.Join(top, file)] = planted
		if err := os.WriteFile(planted, []byte(code), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(path, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestArchitectureDocumentShowsTheTable(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	got := documented(t, string(text))
	want := layers()
	for _, names := range slices.Concat(got, want) {
		slices.Sort(names)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the layers of ARCHITECTURE.md differ from the table here (-here +document):\n%s", diff)
	}
}

func TestDocumentedFindsADrift(t *testing.T) {
	t.Parallel()
	const document = "text\n<!-- layers:begin -->\n| layer | packages | what |\n|---|---|---|\n" +
		"| 0 | `mvcc` | `not this` |\n| 1 | `internal/change`, `internal/rule` | x |\n<!-- layers:end -->\n| 2 | `no` | |\n"
	want := [][]string{{"mvcc"}, {"internal/change", "internal/rule"}}
	if diff := cmp.Diff(want, documented(t, document)); diff != "" {
		t.Error(diff)
	}
}

// documented reads the table between the two marks: the layer's number, then its packages in back quotes.
func documented(t *testing.T, document string) [][]string {
	t.Helper()
	_, rest, begun := strings.Cut(document, "<!-- layers:begin -->")
	table, _, ended := strings.Cut(rest, "<!-- layers:end -->")
	if !begun || !ended {
		t.Fatal("ARCHITECTURE.md has no table between <!-- layers:begin --> and <!-- layers:end -->")
	}
	quoted := regexp.MustCompile("`([^`]+)`")
	var layers [][]string
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		layer, err := strconv.Atoi(strings.TrimSpace(cells[1]))
		if err != nil {
			continue // the head of the table
		}
		if layer != len(layers) {
			t.Fatalf("ARCHITECTURE.md has layer %d after %d", layer, len(layers)-1)
		}
		var names []string
		for _, match := range quoted.FindAllStringSubmatch(cells[2], -1) {
			names = append(names, match[1])
		}
		layers = append(layers, names)
	}
	return layers
}
