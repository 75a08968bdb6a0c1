package archtest_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestGoroutinesAreDocumented holds every function that starts a goroutine, outside tests, against the table of
// ARCHITECTURE.md, which says who waits for it.
func TestGoroutinesAreDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, begun := strings.Cut(string(text), "<!-- goroutines:begin -->")
	table, _, ended := strings.Cut(section, "<!-- goroutines:end -->")
	if !begun || !ended {
		t.Fatal("ARCHITECTURE.md has no table between <!-- goroutines:begin --> and <!-- goroutines:end -->")
	}
	quoted := regexp.MustCompile("`([^`]+)`")
	documented := map[string]bool{}
	for line := range strings.Lines(table) {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			for _, name := range quoted.FindAllStringSubmatch(cells[2], -1) {
				documented[name[1]] = true
			}
		}
	}
	started := map[string]bool{}
	err = filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		switch name := entry.Name(); {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains([]string{".git", "bench", "bin", "testdata", "testkit"}, name):
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		names, err := starters(path, nil)
		for _, name := range names {
			started[name] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(documented, started); diff != "" {
		t.Errorf("who starts goroutines differs from the table of ARCHITECTURE.md (-document +code):\n%s", diff)
	}
}

func TestStartersAreFound(t *testing.T) {
	t.Parallel()
	const source = `package p
func plain() { go func() {}() }
func (t *T) named() { go t.run() }
func group(g *errgroup.Group) { if true { g.Go(func() error { return nil }) } }
func later(ctx context.Context) { context.AfterFunc(ctx, func() { t.CatchUp() }) }
func none() { other.Do(func() {}) }
`
	names, err := starters("p.go", source)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"p.plain", "p.named", "p.group"}, names); diff != "" {
		t.Error(diff)
	}
}

// starters are the functions of a file that start goroutines, as package.function: by a go statement, or through a group.
// What context.AfterFunc and time.AfterFunc run is not counted: it is to return at once.
func starters(path string, source any) (names []string, err error) {
	file, err := parser.ParseFile(token.NewFileSet(), path, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	for _, declared := range file.Decls {
		function, ok := declared.(*ast.FuncDecl)
		if !ok {
			continue
		}
		starts := false
		ast.Inspect(function, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				starts = true
			case *ast.CallExpr:
				called, ok := n.Fun.(*ast.SelectorExpr)
				starts = starts || ok && called.Sel.Name == "Go"
			}
			return !starts
		})
		if starts {
			names = append(names, file.Name.Name+"."+function.Name.Name)
		}
	}
	return names, nil
}
