package docs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// imported is what the documents' code may use, by the name that it has there.
func imported() map[string]string {
	const library = "github.com/freshet/freshet"
	return map[string]string{
		"context": "context", "errors": "errors", "fmt": "fmt", "slog": "log/slog", "testing": "testing", "time": "time",
		"pgx": "github.com/jackc/pgx/v5", "pgxpool": "github.com/jackc/pgx/v5/pgxpool", "prometheus": "github.com/prometheus/client_golang/prometheus",
		"freshet": library, "embedded": library + "/embedded", "freshetmsgpack": library + "/freshetmsgpack", "freshetotel": library + "/freshetotel",
		"freshetprom": library + "/freshetprom", "freshettest": library + "/freshettest",
	}
}

// assumed is what the documents' code has been given by what is around it, in an application.
const assumed = `
type Product struct { ID int64; Name string; Price float64 }
type Line struct { SKU string }
type Total struct { Lines int; Price float64 }
var (
	ctx      context.Context
	t        *testing.T
	pool     *pgxpool.Pool
	tx       pgx.Tx
	registry *prometheus.Registry
	cache    *freshet.Cache
	products *freshet.Typed[int64, Product]
	rates    *freshet.Typed[string, float64]
	session  *freshet.Session
	token    freshet.Token
	use      func(...any)
	loadLines func(ctx context.Context, q freshet.Querier, order int64) ([]Line, error)
)
`

// TestCode type-checks the Go code of the documents. What it declares and does not use is no error: it goes on after its end. Code with
// sqlc, GORM and other drivers is compiled and run in the module examples.
func TestCode(t *testing.T) {
	t.Parallel()
	universe := exports(t)
	blocks := 0
	for _, document := range []string{"README.md", "docs/library.md", "docs/metrics.md"} {
		for _, block := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(read(t, document), -1) {
			blocks++
			if err := check(universe, block[1]); err != nil {
				t.Errorf("%s: %v in\n%s", document, err, block[1])
			}
		}
	}
	if blocks < 15 {
		t.Errorf("%d blocks of code: more were expected", blocks)
	}
	for _, wrong := range []string{"products.Got(ctx, 42)", "p, err := products.Get(ctx)", "type T struct { X freshet.Nothing }"} {
		if err := check(universe, wrong); err == nil {
			t.Errorf("no error in %s", wrong)
		}
	}
}

// check type-checks a block: declarations, or what stands in a function.
func check(universe types.Importer, block string) error {
	var errs []error
	for _, form := range []string{block, "func _() error {\n{\n" + block + "\n}\nreturn nil\n}"} {
		var source strings.Builder
		_, _ = source.WriteString("package app\n") // a Builder takes everything
		for name, path := range imported() {
			_, _ = fmt.Fprintf(&source, "import %s %q\n", name, path)
		}
		_, _ = source.WriteString(assumed + form)
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, "block.go", source.String(), 0)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		var hard []error
		config := types.Config{Importer: universe, Error: func(err error) {
			if one := (types.Error{}); errors.As(err, &one) && one.Soft {
				return // declared or imported, and not used
			}
			hard = append(hard, err)
		}}
		_, _ = config.Check("app", fset, []*ast.File{file}, nil) // each error was heard of
		return errors.Join(hard...)
	}
	return errors.Join(errs...)
}

// exports reads what the compiler knows of the packages that the documents use.
func exports(t *testing.T) types.Importer {
	t.Helper()
	return exportsOf(t, slices.Collect(maps.Values(imported()))...)
}

// exportsOf reads what the compiler knows of packages, which go list builds as far as need be.
func exportsOf(t *testing.T, paths ...string) types.Importer {
	t.Helper()
	args := append([]string{"list", "-export", "-deps", "-json=ImportPath,Export"}, paths...)
	c := exec.CommandContext(t.Context(), "go", args...)
	c.Dir = root
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, stderr.String())
	}
	files := map[string]string{}
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath string `json:"ImportPath"` //nolint:tagliatelle // the spelling of go list
			Export     string `json:"Export"`     //nolint:tagliatelle // likewise
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		files[p.ImportPath] = p.Export
	}
	return importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) {
		if files[path] == "" {
			return nil, fmt.Errorf("no export data of %s", strings.Trim(path, `"`))
		}
		return os.Open(files[path])
	})
}
