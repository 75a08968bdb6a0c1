package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/freshet/freshet/internal/rule"
)

// environment is a lookup over name=value pairs.
func environment(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, p := range pairs {
			if value, ok := strings.CutPrefix(p, name+"="); ok {
				return value, true
			}
		}
		return "", false
	}
}

// minimal is the shortest file; tests put their lines after it.
const minimal = `database: {url: postgres://app@db/shop}
source: {postgres: }
regions:
  - {name: local, redis: {url: redis://127.0.0.1:6379}}
entries:
  product:
    key: product:{id}
    query: SELECT id FROM products WHERE id = @id
`

func mustParse(t *testing.T, text string, pairs ...string) *Config {
	t.Helper()
	c, err := Parse("freshet.yaml", []byte(text), environment(pairs...))
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return c
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	got := mustParse(t, minimal)
	want := &Config{
		Database: Database{URL: "postgres://app@db/shop"},
		Source: Source{Postgres: &Postgres{
			URL: "postgres://app@db/shop", Slot: "freshet", Publication: "freshet",
			Rewind: Rewind{Time: 30 * time.Second, WAL: 256 << 20},
		}},
		Regions: []Region{{Name: "local", Redis: Redis{URL: "redis://127.0.0.1:6379"}}},
		Listen:  "127.0.0.1:7780",
		L1:      L1{Size: 64 << 20},
		Defaults: Defaults{
			TTL: time.Hour, TTLJitter: new(Percent(10)), NegativeTTL: 30 * time.Second, LoadTimeout: 2 * time.Second,
			OnUnproved: UnprovedRevalidate, MaxValue: 64 << 20,
		},
		Entries: map[string]Entry{"product": {
			Key: "product:{id}", Query: "SELECT id FROM products WHERE id = @id", Result: rule.One,
			TTL: time.Hour, TTLJitter: new(Percent(10)), NegativeTTL: 30 * time.Second, LoadTimeout: 2 * time.Second,
			OnUnproved: UnprovedRevalidate, L1: On, OnChange: OnChange{Kind: Drop}, MaxValue: 64 << 20,
		}},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Config{})); diff != "" {
		t.Errorf("Parse(minimal) (-want +got):\n%s", diff)
	}
}

func TestEntriesTakeTheirOwnBeforeTheDefaults(t *testing.T) {
	t.Parallel()
	c := mustParse(t, minimal+`
    ttl: 10m
    ttl_jitter: 0%
    max_staleness: 5s
    result: many
    on_change: drop
    on_unproved: revalidate
    row_version: updated_at
    unsafe_ignore: [products.views]
  invoice:
    key: invoice:{id}
    negative_ttl: 7s
    load_timeout: 1s
    depends_on:
      - {table: invoices, key: "{id}"}
      - {table: invoice_lines, key: "{invoice_id}"}
defaults: {ttl: 2h, ttl_jitter: 25%, negative_ttl: 1m, load_timeout: 3s, on_unproved: load}
`)
	product, invoice := c.Entries["product"], c.Entries["invoice"]
	if product.OnUnproved != UnprovedRevalidate || invoice.OnUnproved != UnprovedLoad {
		t.Errorf("on_unproved = %q, %q", product.OnUnproved, invoice.OnUnproved)
	}
	type line struct {
		TTL, Negative, Timeout time.Duration
		Jitter                 float64
	}
	got := []line{
		{product.TTL, product.NegativeTTL, product.LoadTimeout, product.TTLJitter.Fraction()},
		{invoice.TTL, invoice.NegativeTTL, invoice.LoadTimeout, invoice.TTLJitter.Fraction()},
	}
	want := []line{
		{10 * time.Minute, time.Minute, 3 * time.Second, 0},
		{2 * time.Hour, 7 * time.Second, time.Second, 0.25},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("TTLs (-want +got):\n%s", diff)
	}
	wantDeclared := []rule.Declared{
		{Name: "invoice", Key: "invoice:{id}", Result: rule.One, DependsOn: []rule.Dependency{{Table: "invoices", Key: "{id}"}, {Table: "invoice_lines", Key: "{invoice_id}"}}},
		{Name: "product", Key: "product:{id}", Query: "SELECT id FROM products WHERE id = @id", Result: rule.Many, UnsafeIgnore: []string{"products.views"}, RowVersion: "updated_at"},
	}
	if diff := cmp.Diff(wantDeclared, c.Declared()); diff != "" {
		t.Errorf("Declared (-want +got):\n%s", diff)
	}
}

// What depends on the time is not kept longer than the file allows, whatever TTL it would have.
func TestMaxAgeCapsTheTTL(t *testing.T) {
	t.Parallel()
	const head = "database: {url: postgres://h/d}\nsource: {postgres: {}}\nregions: [{name: r, redis: {url: redis://h}}]\nentries:\n"
	c := mustParse(t, head+`  e:
    key: e
    query: SELECT id FROM t WHERE at < now()
    ttl: 10m
    negative_ttl: 20s
    depends_on_time: {max_age: 15s}
    rules: {t: broad}
    allow_broad: [t]
    functions: {f: {reads: [u]}, pure: {reads: []}}
`)
	e := c.Entries["e"]
	if e.TTL != 15*time.Second || e.NegativeTTL != 15*time.Second {
		t.Errorf("ttl %s, negative_ttl %s, want 15s", e.TTL, e.NegativeTTL)
	}
	want := []rule.Declared{{
		Name: "e", Key: "e", Query: "SELECT id FROM t WHERE at < now()", Result: rule.One, Rules: map[string]string{"t": "broad"}, AllowBroad: []string{"t"},
		DependsOnTime: true, Functions: map[string][]string{"f": {"u"}, "pure": {}},
	}}
	if diff := cmp.Diff(want, c.Declared()); diff != "" {
		t.Errorf("Declared (-want +got):\n%s", diff)
	}
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, value string
		env         []string
		want        string
	}{
		{"plain", "${SLOT}", []string{"SLOT=orders"}, "orders"},
		{"within text", "a_${SLOT}_b", []string{"SLOT=x"}, "a_x_b"},
		{"two", "${A}${B}", []string{"A=x", "B=y"}, "xy"},
		{"default of an unset one", "${SLOT:-orders}", nil, "orders"},
		{"default of an empty one", "${SLOT:-orders}", []string{"SLOT="}, "orders"},
		{"no default used", "${SLOT:-orders}", []string{"SLOT=x"}, "x"},
		{"double quoted", `"${SLOT}"`, []string{"SLOT=x"}, "x"},
		{"single quoted", `'${SLOT}'`, []string{"SLOT=x"}, "x"},
		{"looks like another type", "${SLOT}", []string{"SLOT=12"}, "12"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(minimal, "{postgres: }", "{postgres: {slot: "+tt.value+"}}", 1)
			if got := mustParse(t, text, tt.env...).Source.Postgres.Slot; got != tt.want {
				t.Errorf("slot %s = %q, want %q", tt.value, got, tt.want)
			}
		})
	}
}

// What a variable holds is text, whatever it looks like.
func TestEnvironmentIsNeverYAML(t *testing.T) {
	t.Parallel()
	text := strings.Replace(minimal, "key: product:{id}", "key: ${KEY}", 1)
	const evil = "a\nlisten: 0.0.0.0:1 # {id} [x"
	_, err := Parse("freshet.yaml", []byte(text), environment("KEY="+evil))
	all := Errors(err)
	if len(all) != 1 || all[0].Line != 7 || !strings.Contains(all[0].Message, "entries.product.key") {
		t.Errorf("Parse with KEY=%q = %v, want one error about entries.product.key in line 7", evil, err)
	}
	c := mustParse(t, minimal+"    ttl: ${TTL}\n    ttl_jitter: ${JITTER:-5%}\n", "TTL=3m")
	if got := c.Entries["product"]; got.TTL != 3*time.Minute || *got.TTLJitter != 5 {
		t.Errorf("ttl %v and jitter %v, want 3m and 5%%", got.TTL, got.TTLJitter)
	}
}

func TestLiteralReferenceAndDollarQuotes(t *testing.T) {
	t.Parallel()
	c := mustParse(t, strings.Replace(minimal, "SELECT id FROM products WHERE id = @id", "\"SELECT id, $$a$$, '$${X}' FROM products WHERE id = @id\"", 1))
	want := "SELECT id, $$a$$, '${X}' FROM products WHERE id = @id"
	if got := c.Entries["product"].Query; got != want {
		t.Errorf("query = %q, want %q", got, want)
	}
}

func TestSecretFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"db": "postgres://app@db/shop\n", "dbpw": "p@ss/w:rd\n", "redispw": "r%e d", "sentinelpw": "s p\n", "token": "tok\r\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "freshet.yaml")
	text := `database: {url_file: db, password_file: dbpw}
source: {postgres: {url: "host=db user=repl", password_file: dbpw}}
listen: 0.0.0.0:7780
auth: {token_file: ` + filepath.Join(dir, "token") + `}
regions: [{name: local, redis: {url: "rediss://app@r:1/2?master_set=m", password_file: redispw, sentinel: {password_file: sentinelpw}}}]
entries: {product: {key: "product:{id}", query: SELECT @id}}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(file, environment())
	if err != nil {
		t.Fatal(err)
	}
	got := []string{c.Database.URL.Reveal(), c.Source.Postgres.URL.Reveal(), c.Regions[0].Redis.URL.Reveal(), c.Regions[0].Redis.Sentinel.Password.Reveal(), c.Auth.Token.Reveal()}
	want := []string{"postgres://app:p%40ss%2Fw%3Ard@db/shop", `host=db user=repl password='p@ss/w:rd'`, "rediss://app:r%25e%20d@r:1/2?master_set=m", "s p", "tok"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("secrets (-want +got):\n%s", diff)
	}
}

func TestSecretFilesRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "empty"), []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, database, want string }{
		{"missing", "{url_file: nowhere}", "database.url_file: open " + filepath.Join(dir, "nowhere")},
		{"empty", "{url_file: empty}", "database.url_file: the file is empty"},
		{"both", "{url: postgres://x/y, url_file: empty}", "database.url_file: both url and url_file are given"},
		{"two passwords", "{url: postgres://a:b@x/y, password_file: load}", "password_file gives another"},
	}
	if err := os.WriteFile(filepath.Join(dir, "load"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(minimal, "{url: postgres://app@db/shop}", tt.database, 1)
			_, err := Parse(filepath.Join(dir, "freshet.yaml"), []byte(text), environment())
			all := Errors(err)
			if len(all) != 1 || all[0].Line != 1 || !strings.Contains(all[0].Message, tt.want) {
				t.Errorf("Parse = %v, want one error in line 1 with %q", err, tt.want)
			}
		})
	}
}

// An application brings its own connections: what only the daemon uses may be unset, but not misspelled.
func TestLoadForLibrary(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "freshet.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := strings.Replace(minimal, "postgres://app@db/shop", "${DATABASE_URL}", 1) + "listen: ${LISTEN}\nauth: {token_file: /nowhere/at/all}\n"
	write(text)
	if _, err := LoadForLibrary(file, environment()); err != nil {
		t.Errorf("LoadForLibrary without DATABASE_URL: %v", err)
	}
	if _, err := Load(file, environment()); len(Errors(err)) != 2 {
		t.Errorf("Load without DATABASE_URL = %v, want 2 errors", err)
	}
	write(strings.Replace(text, "database: {url", "database: {ulr", 1))
	if _, err := LoadForLibrary(file, environment()); len(Errors(err)) != 1 {
		t.Errorf("LoadForLibrary with an unknown key = %v, want 1 error", err)
	}
	write(strings.Replace(text, "redis://127.0.0.1:6379", "${REDIS}", 1))
	if _, err := LoadForLibrary(file, environment()); len(Errors(err)) != 1 {
		t.Errorf("LoadForLibrary without REDIS = %v, want 1 error", err)
	}
}

func TestLoadMissingFile(t *testing.T) {
	t.Parallel()
	_, err := Load(filepath.Join(t.TempDir(), "freshet.yaml"), environment())
	var e *Error
	if !errors.As(err, &e) || e.Hint != "name the file with --config" {
		t.Errorf("Load of a missing file = %v, want an Error with a hint", err)
	}
}

func TestNamespaceFor(t *testing.T) {
	t.Parallel()
	c := mustParse(t, minimal)
	if got, want := c.NamespaceFor("7312", "my shop:ü"), "7312-my%20shop%3A%C3%BC"; got != want || !validNamespace(got) {
		t.Errorf("NamespaceFor = %q, want %q", got, want)
	}
	c = mustParse(t, "namespace: shop\n"+minimal)
	if got := c.NamespaceFor("7312", "x"); got != "shop" {
		t.Errorf("NamespaceFor = %q, want shop", got)
	}
}

func TestErrorAt(t *testing.T) {
	t.Parallel()
	c := mustParse(t, minimal)
	tests := []struct {
		path         string
		line, column int
	}{
		{"entries.product.query", 8, 12},
		{"entries.product.ttl", 6, 3}, // not in the file: the entry
		{"regions.0.redis.url", 4, 32},
		{"nothing", 0, 0},
	}
	for _, tt := range tests {
		e := c.ErrorAt(tt.path, "m", "h")
		if e.Line != tt.line || e.Column != tt.column {
			t.Errorf("ErrorAt(%s) at %d:%d, want %d:%d", tt.path, e.Line, e.Column, tt.line, tt.column)
		}
	}
	if got := (&Config{}).ErrorAt("a.b", "m", "").Error(); got != "a.b: m" {
		t.Errorf("ErrorAt without a file = %q", got)
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	t.Parallel()
	text := strings.Replace(minimal, "postgres://app@db/shop", "postgres://app:hunter2@db/shop?sslpassword=hunter2&x=1", 1)
	text = strings.Replace(text, "{postgres: }", "{postgres: {url: \"host=db password = 'hun\\\\'ter2 hunter2' user=x\"}}", 1)
	text = strings.Replace(text, "redis://127", "redis://u:hunter2@127", 1) + "auth: {token: hunter2}\n"
	c := mustParse(t, text)
	masked, err := c.Masked()
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := c.MaskedJSON()
	if err != nil {
		t.Fatal(err)
	}
	for _, printed := range []string{
		string(masked), string(asJSON),
		fmt.Sprintf("%v %+v", *c, c), fmt.Sprintf("%#v", c.Database), fmt.Sprintf("%#v %q %s", c.Auth, c.Auth.Token, c.Auth.Token),
		fmt.Sprintf("%+v %#v", *c.Source.Postgres, *c.Source.Postgres),
	} {
		if strings.Contains(printed, "hunter2") {
			t.Errorf("a secret prints: %s", printed)
		}
	}
	for _, want := range []string{"postgres://app:***@db/shop?sslpassword=***&x=1", "redis://u:***@127.0.0.1:6379", "host=db password=*** user=x", "token: \"***\""} {
		if !strings.Contains(string(masked), want) {
			t.Errorf("Masked lacks %q:\n%s", want, masked)
		}
	}
}

// What is printed is a file again, apart from the secrets.
func TestMaskedParses(t *testing.T) {
	t.Parallel()
	c := mustParse(t, minimal+"    ttl: 90m\n")
	masked, err := c.Masked()
	if err != nil {
		t.Fatal(err)
	}
	again := mustParse(t, string(masked))
	if diff := cmp.Diff(c, again, cmpopts.IgnoreUnexported(Config{})); diff != "" {
		t.Errorf("printed and read again (-want +got):\n%s", diff)
	}
}
