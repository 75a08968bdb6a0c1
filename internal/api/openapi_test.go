package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/freshet/freshet/internal/byhand"
	"github.com/freshet/freshet/internal/page"
)

// described is what the tests read of the document.
type described struct {
	OpenAPI string `json:"openapi"`
	Info    struct {
		Description string `json:"description"`
	} `json:"info"`
	Paths map[string]map[string]describedAnswers `json:"paths"`
}

type describedAnswers struct {
	Responses map[string]struct {
		Headers map[string]struct {
			Required bool `json:"required"`
		} `json:"headers"`
		Content map[string]any `json:"content"`
	} `json:"responses"`
}

func document(t *testing.T) described {
	t.Helper()
	var d described
	if err := json.Unmarshal(openAPI, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestEveryRouteIsDescribed holds the paths in the code that routes against those of the document.
func TestEveryRouteIsDescribed(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	routed := map[string]bool{}
	path := regexp.MustCompile(`^/[a-z0-9/.]+$`)
	for file := range page.Files() {
		routed[file] = true
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
				if text, err := strconv.Unquote(literal.Value); err == nil && path.MatchString(text) {
					routed[text] = true
				}
			}
			return true
		})
	}
	for _, own := range []string{storePath, "/names", "/read", "/roster"} { // what this program's own commands ask, and nobody is to rely on
		delete(routed, own)
	}
	said := map[string]bool{}
	for p := range document(t).Paths {
		p, _, _ = strings.Cut(p, "{")
		said[p] = true
	}
	if diff := cmp.Diff(said, routed); diff != "" {
		t.Errorf("routes (-document +code):\n%s", diff)
	}
	text, err := os.ReadFile("../../docs/http.md")
	if err != nil {
		t.Fatal(err)
	}
	beginning, _, _ := strings.Cut(string(text), "\n## ")
	for _, apart := range []string{storePath, "404", "405", "431", "501"} { // what is under no path of the document
		if !strings.Contains(document(t).Info.Description, apart) || !strings.Contains(beginning, apart) {
			t.Errorf("the document's description, or the beginning of docs/http.md, is silent of %s", apart)
		}
	}
}

// probe is a request, and the operation and the status of the document that it is to be answered by.
type probe struct {
	path, method string
	status       int
	url, body    string
	headers      []string
	change       func(b *bench, o *Options) // nil: the usual server
}

func probes() []probe {
	const one, byName, byPath = "/v1/entries/product/7", "/v1/entries/{entry}", "/v1/entries/{entry}/{arguments}"
	guarded := func(_ *bench, o *Options) { o.Token = "right" }
	failing := func(err error) func(b *bench, _ *Options) {
		return func(b *bench, _ *Options) { b.shelf.err = err }
	}
	all := []probe{
		{"/v1/invalidate", "post", 200, "/v1/invalidate", `{"all":true}`, nil, nil},
		{"/v1/invalidate", "post", 202, "/v1/invalidate", `{"all":true}`, nil, func(_ *bench, o *Options) {
			o.Invalidate = &hand{done: byhand.Done{Entries: []string{}, Pending: "why"}}
		}},
		{"/v1/invalidate", "post", 400, "/v1/invalidate", `{}`, nil, nil},
		{"/v1/invalidate", "post", 401, "/v1/invalidate", `{}`, nil, guarded},
		{"/v1/invalidate", "post", 403, "/v1/invalidate", `{}`, []string{"Sec-Fetch-Site", "cross-site"}, nil},
		{"/v1/invalidate", "post", 404, "/v1/invalidate", `{"entry":"produkt","args":[]}`, nil, nil},
		{"/v1/invalidate", "post", 413, "/v1/invalidate", strings.Repeat(" ", maxAsked+1), nil, nil},
		{"/v1/invalidate", "post", 500, "/v1/invalidate", `{"all":true}`, nil, func(_ *bench, o *Options) { o.Invalidate = &hand{err: ErrMayNotWrite} }},
		{"/v1/invalidate", "post", 503, "/v1/invalidate", `{"all":true}`, nil, func(_ *bench, o *Options) { o.Invalidate = &hand{err: ErrReadOnly} }},
		{"/v1/reload", "post", 200, "/v1/reload", "", nil, nil},
		{"/v1/reload", "post", 401, "/v1/reload", "", nil, guarded},
		{"/v1/reload", "post", 403, "/v1/reload", "", []string{"Origin", "https://elsewhere.example"}, nil},
		{"/v1/reload", "post", 422, "/v1/reload", "", nil, func(_ *bench, o *Options) { o.Reload = reloader{ErrNotApplied} }},
		{"/v1/reload", "post", 503, "/v1/reload", "", nil, func(_ *bench, o *Options) { o.Reload = reloader{ErrNotYet} }},
		{"/v1/reload", "post", 500, "/v1/reload", "", nil, func(_ *bench, o *Options) { o.Reload = reloader{errors.New("broken")} }},
	}
	for _, method := range []string{"get", "head"} {
		for _, path := range []string{byName, byPath} {
			url := one
			if path == byName {
				url = "/v1/entries/product?id=7"
			}
			all = append(all,
				probe{path, method, 200, url, "", nil, nil},
				probe{path, method, 304, url, "", []string{"If-None-Match", "*"}, nil},
				probe{path, method, 400, strings.Replace(url, "7", "seven", 1), "", nil, nil},
				probe{path, method, 400, url, "", []string{"Freshet-After", "x"}, nil},
				probe{path, method, 401, url, "", nil, guarded},
				probe{path, method, 404, strings.Replace(url, "7", "8", 1), "", nil, nil},
				probe{path, method, 404, strings.Replace(url, "product", "produkt", 1), "", nil, nil},
				probe{path, method, 404, url, "", nil, failing(ErrByCode)},
				probe{path, method, 412, url, "", []string{"If-Match", `"x"`}, nil},
				probe{path, method, 412, url, "", nil, failing(ErrNotReached)},
				probe{path, method, 500, url, "", nil, failing(errors.New("refused"))},
				probe{path, method, 503, url, "", nil, failing(ErrUnavailable)},
			)
		}
		for path := range page.Files() {
			all = append(all,
				probe{path, method, 200, path, "", nil, guarded},
				probe{path, method, 304, path, "", []string{"If-None-Match", "*"}, nil},
				probe{path, method, 412, path, "", []string{"If-Match", `"x"`}, nil},
				probe{path, method, 421, path, "", []string{"Host", "elsewhere.example"}, nil},
			)
		}
		for path, url := range map[string]string{"/v1/trace/{entry}": "/v1/trace/product?id=7", "/v1/trace/{entry}/{arguments}": "/v1/trace/product/7"} {
			all = append(all,
				probe{path, method, 200, url, "", nil, nil},
				probe{path, method, 400, strings.Replace(url, "7", "seven", 1), "", nil, nil},
				probe{path, method, 401, url, "", nil, guarded},
				probe{path, method, 404, strings.Replace(url, "product", "produkt", 1), "", nil, nil},
				probe{path, method, 500, url, "", nil, failing(errors.New("refused"))},
				probe{path, method, 503, url, "", nil, failing(ErrUnavailable)},
			)
		}
		const several, ofMany = "/v1/many/product?k=[7]&k=[8]", "/v1/many/{entry}"
		all = append(all,
			probe{ofMany, method, 200, several, "", nil, nil},
			probe{ofMany, method, 304, several, "", []string{"If-None-Match", "*"}, nil},
			probe{ofMany, method, 400, strings.Replace(several, "7", "true", 1), "", nil, nil},
			probe{ofMany, method, 400, several, "", []string{"Freshet-After", "x"}, nil},
			probe{ofMany, method, 401, several, "", nil, guarded},
			probe{ofMany, method, 404, strings.Replace(several, "product", "produkt", 1), "", nil, nil},
			probe{ofMany, method, 404, several, "", nil, failing(ErrByCode)},
			probe{ofMany, method, 412, several, "", []string{"If-Match", `"x"`}, nil},
			probe{ofMany, method, 412, several, "", nil, failing(ErrNotReached)},
			probe{ofMany, method, 413, manyOf("product", slices.Repeat([]string{"[9]"}, 65)...), "", nil, func(b *bench, _ *Options) {
				b.shelf.values["product|=9"] = Value{Found: true, Payload: mebibyte(), Status: "hit"}
			}},
			probe{ofMany, method, 500, several, "", nil, failing(errors.New("refused"))},
			probe{ofMany, method, 503, several, "", nil, failing(ErrUnavailable)},
		)
		for _, path := range []string{"/v1/status", "/v1/openapi.json", "/metrics"} {
			all = append(all, probe{path, method, 200, path, "", nil, nil}, probe{path, method, 401, path, "", nil, guarded})
		}
		ill := func(b *bench, _ *Options) { b.live, b.ready = errors.New("ill"), errors.New("ill") }
		for _, path := range []string{"/livez", "/readyz"} {
			all = append(all, probe{path, method, 200, path, "", nil, guarded}, probe{path, method, 503, path, "", nil, ill})
		}
	}
	for _, p := range slices.Clone(all) {
		if p.status == http.StatusUnauthorized { // what needs no token where there is none is not for every page that a browser shows
			p.status, p.headers, p.change = http.StatusMisdirectedRequest, []string{"Host", "elsewhere.example"}, nil
			all = append(all, p)
		}
	}
	return all
}

// reloader is a Reloader that answers the same each time.
type reloader struct{ err error }

func (r reloader) Reload(context.Context) (any, error) {
	return map[string]any{"added": []string{}, "changed": []string{}, "removed": []string{}, "live": true}, r.err
}

// TestAnswersAreAsDescribed has every answer of the document given, and holds its headers and its body against it; and has no
// answer given that is not in it.
func TestAnswersAreAsDescribed(t *testing.T) {
	t.Parallel()
	d := document(t)
	if !strings.HasPrefix(d.OpenAPI, "3.1.") {
		t.Errorf("openapi: %s", d.OpenAPI)
	}
	given := map[string]bool{}
	for _, p := range probes() {
		b := start(t, func(b *bench, o *Options) {
			o.Invalidate, o.Reload = &hand{done: byhand.Done{Entries: []string{"product"}, Applied: true}}, reloader{}
			if p.change != nil {
				p.change(b, o)
			}
		})
		var got answer
		if p.method == "post" {
			got = b.post(t, p.url, p.body, p.headers...)
		} else {
			got = b.do(t, strings.ToUpper(p.method), p.url, p.headers...)
		}
		name := fmt.Sprintf("%s %s %d", p.method, p.path, p.status)
		given[name] = true
		said, found := d.Paths[p.path][p.method].Responses[strconv.Itoa(p.status)]
		if got.code != p.status || !found {
			t.Errorf("%s: %s %q is answered with %d, and described: %v", name, p.url, p.headers, got.code, found)
			continue
		}
		listed := map[string]bool{}
		for header, is := range said.Headers {
			listed[http.CanonicalHeaderKey(header)] = true
			if is.Required && got.header.Get(header) == "" {
				t.Errorf("%s: there is no %s", name, header)
			}
		}
		for header := range got.header {
			common := slices.Contains([]string{"Content-Type", "Content-Length", "Date", "X-Content-Type-Options", "Connection", "Transfer-Encoding"}, header)
			ofARow := p.status == http.StatusNotFound || p.status == http.StatusPreconditionFailed // which is an answer, or is not
			if !listed[header] && !common && (!ofARow || !slices.Contains([]string{"Vary", "Age", "Freshet-Status"}, header)) {
				t.Errorf("%s: %s is not described", name, header)
			}
		}
		media, _, _ := strings.Cut(got.header.Get("Content-Type"), ";")
		if _, is := said.Content[media]; p.method != "head" && !is && p.status != http.StatusNotModified {
			t.Errorf("%s: the body is %s", name, media)
		}
		if (p.method == "head" || p.status == http.StatusNotModified) && got.body != "" {
			t.Errorf("%s has a body: %s", name, got.body)
		}
		if strings.HasSuffix(media, "json") && got.body != "" {
			pointer := fmt.Sprintf("#/paths/%s/%s/responses/%d/content/%s/schema", strings.ReplaceAll(p.path, "/", "~1"), p.method, p.status, strings.ReplaceAll(media, "/", "~1"))
			if err := validate(t, pointer, got.body); err != nil {
				t.Errorf("%s: %s: %v", name, got.body, err)
			}
		}
	}
	for path, methods := range d.Paths {
		for method, operation := range methods {
			for status := range operation.Responses {
				if name := fmt.Sprintf("%s %s %s", method, path, status); !given[name] {
					t.Errorf("%s is described, and was not given", name)
				}
			}
		}
	}
}

// validate holds a body against a schema within the document.
func validate(t *testing.T, pointer, body string) error {
	t.Helper()
	whole, err := jsonschema.UnmarshalJSON(bytes.NewReader(openAPI))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("mem:openapi.json", whole); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("mem:openapi.json" + strings.NewReplacer("{", "%7B", "}", "%7D", "+", "%2B").Replace(pointer))
	if err != nil {
		t.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
	if err != nil {
		return err
	}
	return schema.Validate(value)
}

// TestProblemsAreListed holds the types of problems against the document and against docs/http.md, in both directions.
func TestProblemsAreListed(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("problem.go")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../docs/http.md")
	if err != nil {
		t.Fatal(err)
	}
	find := func(in []byte) map[string]bool {
		all := map[string]bool{}
		for _, m := range regexp.MustCompile(`urn:freshet:problem:([a-z]+(?:-[a-z]+)*)`).FindAllSubmatch(in, -1) {
			all[string(m[1])] = true
		}
		return all
	}
	want := find(source)
	if diff := cmp.Diff(want, find(text)); diff != "" {
		t.Errorf("docs/http.md (-code +page):\n%s", diff)
	}
	for _, anywhere := range []string{"method-not-allowed", "method-not-implemented", "no-such-resource", "internal"} {
		delete(want, anywhere) // the answer to any request, or to none that is described
	}
	said := find(openAPI)
	delete(said, "internal")
	if diff := cmp.Diff(want, said); diff != "" {
		t.Errorf("the document (-code +document):\n%s", diff)
	}
}
