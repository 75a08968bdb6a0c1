package configschema

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.uber.org/goleak"

	"github.com/freshet/freshet/internal/config"
)

var update = flag.Bool("update", false, "write docs/configuration.md anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func compile(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := JSON()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource("freshet.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("freshet.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

func validate(t *testing.T, schema *jsonschema.Schema, text string) error {
	t.Helper()
	asJSON, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		t.Fatal(err)
	}
	return schema.Validate(value)
}

// everything uses each key that the file has, also those that this version refuses.
const everything = `namespace: shop
database: {url: "${DATABASE_URL}", replicas: ["${REPLICA_URL}"]}
source:
  postgres:
    slot: freshet
    publication: freshet
    rewind: {time: 30s, wal: 256MiB}
regions:
  - name: local
    redis: {url: "redis://127.0.0.1:6379", password_file: /run/secrets/redis}
bus:
  nats: {embedded: {dir: ./freshet-data}, replicas: 3}
listen: 127.0.0.1:7780
auth: {token_file: /run/secrets/freshet}
tls: {cert_file: freshet.pem, key_file: freshet.key}
defaults: {ttl: 1h, ttl_jitter: 10%, negative_ttl: 30s, load_timeout: 2s, on_unproved: load, max_value: 1MiB}
entries:
  product:
    key: product:{id}
    query: SELECT id, name, price FROM products WHERE id = @id
    ttl: 10m
    max_staleness: 5s
  category_page:
    key: category:{slug}
    query: SELECT 1
    result: many
    ttl: ${TTL:-1m}
    negative_ttl: 30s
    on_change: refresh
    on_unproved: revalidate
    row_version: p.updated_at
    cache_control: private, max-age=5
    rules: {categories: lookup}
    allow_broad: [products]
    depends_on_time: {max_age: 30s}
    functions: {price_of: {reads: [prices]}}
    unsafe_ignore: [products.views]
  hot:
    key: hot
    query: SELECT 1
    on_change: {serve_stale: {for: 2s}}
    serve_stale_on_error: 10s
    soft_timeout: 200ms
    eager_refresh: 20%
    max_loads: 8
    max_value: 2MiB
  invoice:
    key: invoice:{id}
    depends_on:
      - {table: invoices, key: "{id}"}
      - {table: invoice_lines, key: "{invoice_id}"}
`

func TestSchemaAccepts(t *testing.T) {
	t.Parallel()
	schema := compile(t)
	for name, text := range map[string]string{
		"everything":         everything,
		"the sample":         Sample(),
		"source of defaults": strings.Replace(everything, "    slot: freshet\n    publication: freshet\n    rewind: {time: 30s, wal: 256MiB}\n", "", 1),
	} {
		if err := validate(t, schema, text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSchemaRefuses(t *testing.T) {
	t.Parallel()
	schema := compile(t)
	for _, tt := range []struct{ name, old, with string }{
		{"unknown key", "listen:", "lissten:"},
		{"unknown key of an entry", "    max_staleness: 5s", "    max_stale: 5s"},
		{"bad duration", "ttl: 10m", "ttl: 10 minutes"},
		{"bad percentage", "10%", "ten"},
		{"bad size", "256MiB", "256MB"},
		{"bad result", "result: many", "result: two"},
		{"bad on_unproved", "on_unproved: revalidate", "on_unproved: reload"},
		{"bad on_change", "on_change: refresh", "on_change: renew"},
		{"no query", "    query: SELECT id, name, price FROM products WHERE id = @id\n", ""},
		{"no key", "    key: product:{id}\n", ""},
		{"no region name", "  - name: local\n    redis:", "  - redis:"},
		{"bad entry name", "  product:", "  pro.duct:"},
		{"entries of another type", "unsafe_ignore: [products.views]", "unsafe_ignore: products.views"},
	} {
		text := strings.Replace(everything, tt.old, tt.with, 1)
		if text == everything {
			t.Fatalf("%s: nothing replaced", tt.name)
		}
		if err := validate(t, schema, text); err == nil {
			t.Errorf("%s: accepted", tt.name)
		}
	}
}

func TestSampleLoads(t *testing.T) {
	t.Parallel()
	lookup := func(name string) (string, bool) {
		if name == "DATABASE_URL" {
			return "postgres://app@db/shop", true
		}
		return "", false
	}
	c, err := config.Parse("freshet.yaml", []byte(Sample()), lookup)
	if err != nil {
		t.Fatalf("the sample is refused: %v", err)
	}
	if got := c.Names(); len(got) != 1 || got[0] != "product" {
		t.Errorf("entries %v, want product", got)
	}
}

// Every line of the sample that is a comment around a key is one that decodes: an option that somebody uncomments
// must not be unknown. Contradictions (url and url_file) are left to the reader.
func TestSampleOptionsDecode(t *testing.T) {
	t.Parallel()
	option := regexp.MustCompile(`(?m)^( *)# ( *)([a-z_0-9]+:( .*)?)$`)
	text := option.ReplaceAllString(Sample(), "$1$2$3")
	if strings.Count(text, "\n") < 50 || text == Sample() {
		t.Fatal("the sample has no options")
	}
	_, err := config.Parse("freshet.yaml", []byte(text), func(name string) (string, bool) { return "postgres://" + name + "/x", true })
	for _, e := range config.Errors(err) {
		switch {
		case strings.Contains(e.Message, "_file: "), strings.Contains(e.Message, "either query or depends_on"),
			strings.Contains(e.Message, "the URL names no Sentinels"), strings.Contains(e.Message, "memory: there are regions"):
		default:
			t.Errorf("an option of the sample: %v", e)
		}
	}
}

// The tags state the defaults for readers; the code applies them. They are the same.
func TestDefaultsAreAsDescribed(t *testing.T) {
	t.Parallel()
	c, err := config.Parse("freshet.yaml", []byte(Sample()), func(string) (string, bool) { return "postgres://db/x", true })
	if err != nil {
		t.Fatal(err)
	}
	printed, err := c.MaskedJSON()
	if err != nil {
		t.Fatal(err)
	}
	var effective map[string]any
	if err := json.Unmarshal(printed, &effective); err != nil {
		t.Fatal(err)
	}
	var found int
	var walk func(path string, schemaOf []field, value map[string]any)
	walk = func(path string, all []field, value map[string]any) {
		for _, f := range all {
			if f.fallback != "" {
				found++
				if value[f.name] != f.fallback {
					t.Errorf("%s%s is %v, described as %s", path, f.name, value[f.name], f.fallback)
				}
			}
			if s, ok := section(f.Type); ok && !f.later {
				if inner, ok := value[f.name].(map[string]any); ok {
					if product, ok := inner["product"].(map[string]any); ok {
						inner = product
					}
					walk(path+f.name+".", fields(s), inner)
				}
			}
		}
	}
	walk("", configFields(), effective)
	if found < 10 {
		t.Errorf("only %d defaults found", found)
	}
}

func TestReferenceIsCurrent(t *testing.T) {
	t.Parallel()
	path := filepath.Join("..", "..", "docs", "configuration.md")
	if *update {
		if err := os.WriteFile(path, []byte(Reference()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Reference(), string(text)); diff != "" {
		t.Errorf("docs/configuration.md is outdated, run: go test ./internal/configschema -update\n%s", diff)
	}
}

// Every key says what it means.
func TestEveryKeyIsDescribed(t *testing.T) {
	t.Parallel()
	check := func(where string, all []field) {
		for _, f := range all {
			if !strings.HasSuffix(f.doc, ".") && !strings.HasSuffix(f.doc, ")") {
				t.Errorf("%s.%s: description %q", where, f.name, f.doc)
			}
		}
	}
	check("Config", configFields())
	for _, s := range structs() {
		check(s.Name(), fields(s))
	}
}
