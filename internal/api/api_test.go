package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/goleak"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shelf is a Reader over a map: the key of a value is its entry and arguments, NULL as "-".
type shelf struct {
	params map[string][]rule.Param
	values map[string]Value
	err    error // of every read

	mu    sync.Mutex
	asked Demand // by the last one
}

func (s *shelf) Params(_ context.Context, entry string) ([]rule.Param, error) {
	params, ok := s.params[entry]
	if !ok {
		return nil, ErrNoEntry
	}
	return params, nil
}

func (s *shelf) Read(_ context.Context, entry string, args []keytext.Arg, d Demand) (Value, error) {
	s.mu.Lock()
	s.asked = d
	s.mu.Unlock()
	if s.err != nil {
		return Value{}, s.err
	}
	key := []string{entry}
	for _, a := range args {
		if a.Null {
			key = append(key, "-")
		} else {
			key = append(key, "="+a.Text)
		}
	}
	v := s.values[strings.Join(key, "|")]
	if v.Status == "" {
		v.Status = "miss"
	}
	if d.Revalidate {
		v.Status, v.Filled = "revalidated", time.Now()
	}
	return v, nil
}

func newShelf() *shelf {
	return &shelf{
		params: map[string][]rule.Param{
			"product": {{Name: "id", Type: keytext.Int8}},
			"user":    {{Name: "id", Type: keytext.UUID}},
			"page":    {{Name: "slug", Type: keytext.String}, {Name: "lang", Type: keytext.String}},
			"front":   {},
		},
		values: map[string]Value{
			"product|=7": {Found: true, Payload: []byte(`{"id": 7}`), Status: "hit", Filled: time.Now().Add(-90 * time.Second)},
			"user|=a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11": {Found: true, Payload: []byte(`{"id": "a0"}`), Status: "hit"},
			"page|=a/b|=":    {Found: true, Payload: []byte(`["slash, empty"]`), Status: "miss"},
			"page|=|=a":      {Found: true, Payload: []byte(`["empty first"]`), Status: "miss"},
			"page|=x y+ü|-":  {Found: true, Payload: []byte(`["null"]`), Status: "bypass"},
			"page|=none|=en": {Found: true, Payload: []byte(`[]`), Status: "hit"},
			"front":          {Found: true, Payload: []byte(`{"n": 1}`), Status: "hit"},
		},
	}
}

// bench is a server under test.
type bench struct {
	url     string
	shelf   *shelf
	metrics *Metrics
	live    error
	ready   error
}

func (b *bench) Live() error  { return b.live }
func (b *bench) Ready() error { return b.ready }
func (b *bench) Status() any  { return map[string]string{"phase": "streaming"} }

func start(t *testing.T, change ...func(*bench, *Options)) *bench {
	t.Helper()
	registry := prometheus.NewRegistry()
	b := &bench{shelf: newShelf(), metrics: NewMetrics(registry)}
	o := Options{
		Reader: b.shelf, Trace: b.shelf, Status: b, Health: b, Metrics: b.metrics,
		Scrape: promhttp.HandlerFor(registry, promhttp.HandlerOpts{}),
		Logger: slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(b, &o)
	}
	srv := httptest.NewServer(New(o))
	t.Cleanup(srv.Close)
	b.url = srv.URL
	return b
}

type answer struct {
	code   int
	header http.Header
	body   string
}

func (b *bench) do(t *testing.T, method, path string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, b.url+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

func TestReads(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, path string
		code       int
		body       string // the body, or the problem's type
	}{
		{"by path", "/v1/entries/product/7", 200, `{"id": 7}`},
		{"another spelling", "/v1/entries/product/007", 200, `{"id": 7}`},
		{"a sign", "/v1/entries/product/%2B7", 200, `{"id": 7}`},
		{"by name", "/v1/entries/product?id=7", 200, `{"id": 7}`},
		{"by name, another spelling", "/v1/entries/product?id=+07", 200, `{"id": 7}`},
		{"uuid in capitals", "/v1/entries/user/A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", 200, `{"id": "a0"}`},
		{"slash and empty argument", "/v1/entries/page/a%2Fb/", 200, `["slash, empty"]`},
		{"empty first argument", "/v1/entries/page//a", 200, `["empty first"]`},
		{"empty by name", "/v1/entries/page?slug=a/b&lang=", 200, `["slash, empty"]`},
		{"absent name is NULL", "/v1/entries/page?slug=x%20y%2B%C3%BC", 200, `["null"]`},
		{"empty array", "/v1/entries/page/none/en", 200, `[]`},
		{"no parameters", "/v1/entries/front", 200, `{"n": 1}`},
		{"no row", "/v1/entries/product/8", 404, problemNoRow},
		{"no row for NULL", "/v1/entries/product", 404, problemNoRow},
		{"no entry", "/v1/entries/produkt/7", 404, problemNoEntry},
		{"no entry at all", "/v1/entries/", 404, problemNoEntry},
		{"entry with a slash", "/v1/entries/product%2F7", 404, problemNoEntry},
		{"wrong type", "/v1/entries/product/seven", 400, problemArguments},
		{"out of range", "/v1/entries/product/9223372036854775808", 400, problemArguments},
		{"empty number", "/v1/entries/product/", 400, problemArguments},
		{"too many", "/v1/entries/product/7/8", 400, problemArguments},
		{"too few", "/v1/entries/page/a", 400, problemArguments},
		{"one too many of none", "/v1/entries/front/", 400, problemArguments},
		{"unknown name", "/v1/entries/product?ident=7", 400, problemArguments},
		{"name twice", "/v1/entries/product?id=7&id=8", 400, problemArguments},
		{"path and name", "/v1/entries/product/7?id=7", 400, problemArguments},
		{"wrong type by name", "/v1/entries/product?id=seven", 400, problemArguments},
		{"not UTF-8", "/v1/entries/page/%FF/a", 400, problemArguments},
		{"NUL", "/v1/entries/page/%00/a", 400, problemArguments},
		{"bad query", "/v1/entries/product?id=7;x=8", 400, problemArguments},
		{"elsewhere", "/v1/entry/product/7", 404, problemNoRoute},
	}
	b := start(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := b.do(t, http.MethodGet, tt.path)
			if got.code != tt.code {
				t.Fatalf("GET %s = %d %s, want %d", tt.path, got.code, got.body, tt.code)
			}
			if tt.code == http.StatusOK {
				if got.body != tt.body || got.header.Get("Content-Type") != "application/json" {
					t.Errorf("GET %s = %q (%s), want %q", tt.path, got.body, got.header.Get("Content-Type"), tt.body)
				}
				return
			}
			var p problem
			if err := json.Unmarshal([]byte(got.body), &p); err != nil {
				t.Fatalf("body %q: %v", got.body, err)
			}
			if p.Type != tt.body || p.Status != tt.code || p.Title == "" || got.header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("GET %s = %+v (%s), want type %s", tt.path, p, got.header.Get("Content-Type"), tt.body)
			}
		})
	}
}

func TestProblemNamesTheArgument(t *testing.T) {
	t.Parallel()
	got := start(t).do(t, http.MethodGet, "/v1/entries/product/seven")
	want := `{"type":"urn:freshet:problem:invalid-arguments","title":"Invalid arguments","status":400,` +
		`"detail":"Parameter \"id\": int8 \"seven\": not an integer.","entry":"product","argument":"id"}` + "\n"
	if diff := cmp.Diff(want, got.body); diff != "" {
		t.Errorf("body (-want +got):\n%s", diff)
	}
}

// aged reports whether an Age is that of a value which was so many seconds old at a time: each second makes it older by one.
func aged(age, was string, at time.Time) bool {
	n, err := strconv.Atoi(age)
	least, wrong := strconv.Atoi(was)
	return err == nil && wrong == nil && n >= least && n <= least+int(time.Since(at)/time.Second) && (least > 0 || n == 0)
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	began := time.Now()
	b := start(t)
	hit := b.do(t, http.MethodGet, "/v1/entries/product/7")
	for name, want := range map[string]string{
		"Cache-Control": "private, no-cache", "Freshet-Status": "hit", "Content-Length": "9",
		"Vary": "Freshet-After", "X-Content-Type-Options": "nosniff",
	} {
		if got := hit.header.Get(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	if age := hit.header.Get("Age"); !aged(age, "90", began) {
		t.Errorf("Age = %q, want 90 and what has gone by", age)
	}
	tag := hit.header.Get("ETag")
	if len(tag) != 24 || tag[0] != '"' {
		t.Errorf("ETag = %s, want a strong tag", tag)
	}
	if other := b.do(t, http.MethodGet, "/v1/entries/front").header.Get("ETag"); other == tag {
		t.Errorf("two bodies have the same ETag %s", tag)
	}
	if again := b.do(t, http.MethodGet, "/v1/entries/product?id=07").header.Get("ETag"); again != tag {
		t.Errorf("the same body has ETag %s and %s", tag, again)
	}
	if miss := b.do(t, http.MethodGet, "/v1/entries/page//a").header; miss.Get("Age") != "0" || miss.Get("Freshet-Status") != "miss" {
		t.Errorf("a miss has Age %s and status %s", miss.Get("Age"), miss.Get("Freshet-Status"))
	}
	gone := b.do(t, http.MethodGet, "/v1/entries/product/8").header
	if gone.Get("Cache-Control") != "private, no-cache" || gone.Get("Etag") != "" || gone.Get("Freshet-Status") == "" {
		t.Errorf("headers of 404: %v", gone)
	}
}

func TestMethods(t *testing.T) {
	t.Parallel()
	b := start(t)
	for _, path := range []string{"/v1/entries/product/7", "/v1/status", "/livez", "/readyz", "/metrics"} {
		got := b.do(t, http.MethodPost, path)
		if got.code != http.StatusMethodNotAllowed || got.header.Get("Allow") != "GET, HEAD" {
			t.Errorf("POST %s = %d, Allow %q", path, got.code, got.header.Get("Allow"))
		}
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		err   error
		code  int
		typ   string
		retry string
	}{
		{"unavailable", errors.Join(errors.New("dial tcp secret-host"), ErrUnavailable), 503, problemUnavailable, "1"},
		{"timeout", context.DeadlineExceeded, 503, problemUnavailable, "1"},
		{"no JSON", ErrNotJSON, 500, problemNotJSON, ""},
		{"refused argument", ErrArgument, 400, problemArguments, ""},
		{"loaded by code", ErrByCode, 404, problemByCode, ""},
		{"query fails", errors.New("secret-host: permission denied"), 500, problemLoad, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := start(t)
			b.shelf.err = tt.err
			got := b.do(t, http.MethodGet, "/v1/entries/product/7")
			if got.code != tt.code || !strings.Contains(got.body, tt.typ) || got.header.Get("Retry-After") != tt.retry {
				t.Errorf("read = %d %s, Retry-After %q", got.code, got.body, got.header.Get("Retry-After"))
			}
			if strings.Contains(got.body, "secret-host") {
				t.Errorf("the body repeats an inner error: %s", got.body)
			}
		})
	}
}

func TestAfter(t *testing.T) {
	t.Parallel()
	b := start(t)
	const text = "7351234567890123456.00000001.748.0/15B0001"
	if got := b.do(t, http.MethodGet, "/v1/entries/product/7", "Freshet-After", " "+text+" "); got.code != 200 || b.shelf.asked.After.String() != text {
		t.Errorf("Freshet-After = %d %s, asked %+v", got.code, got.body, b.shelf.asked)
	}
	b.do(t, http.MethodGet, "/v1/entries/product/7")
	if !b.shelf.asked.After.IsZero() {
		t.Errorf("without a token: asked %+v", b.shelf.asked)
	}
	for _, bad := range [][]string{{"Freshet-After", "1.2.3"}, {"Freshet-After", ""}, {"Freshet-After", text, "Freshet-After", text}} {
		got := b.do(t, http.MethodGet, "/v1/entries/product/7", bad...)
		if got.code != http.StatusBadRequest || !strings.Contains(got.body, "urn:freshet:problem:invalid-token") {
			t.Errorf("%q = %d %s", bad, got.code, got.body)
		}
	}
	for err, want := range map[error]struct {
		code int
		kind string
	}{
		ErrNotReached: {http.StatusPreconditionFailed, "urn:freshet:problem:token-not-reached"},
		ErrForeign:    {http.StatusBadRequest, "urn:freshet:problem:invalid-token"},
	} {
		failing := start(t, func(b *bench, _ *Options) { b.shelf.err = fmt.Errorf("entry product: %w", err) })
		got := failing.do(t, http.MethodGet, "/v1/entries/product/7", "Freshet-After", text)
		if got.code != want.code || !strings.Contains(got.body, want.kind) || got.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%v = %d %s", err, got.code, got.body)
		}
	}
}

func TestToken(t *testing.T) {
	t.Parallel()
	b := start(t, func(_ *bench, o *Options) { o.Token = "right" })
	tests := []struct {
		path   string
		header []string
		code   int
	}{
		{"/v1/entries/product/7", nil, 401},
		{"/v1/entries/product/7", []string{"Authorization", "Bearer wrong"}, 401},
		{"/v1/entries/product/7", []string{"Authorization", "Basic right"}, 401},
		{"/v1/entries/product/7", []string{"Authorization", "right"}, 401},
		{"/v1/entries/product/7", []string{"Authorization", "Bearer"}, 401},
		{"/v1/entries/product/7", []string{"Authorization", "Bearer right"}, 200},
		{"/v1/entries/product/7", []string{"Authorization", "bearer right"}, 200},
		{"/v1/status", nil, 401},
		{"/metrics", nil, 401},
		{"/nowhere", nil, 401},
		{"/metrics", []string{"Authorization", "Bearer right"}, 200},
		{"/livez", nil, 200}, // whoever restarts the process need not hold the token
		{"/readyz", nil, 200},
	}
	for _, tt := range tests {
		got := b.do(t, http.MethodGet, tt.path, tt.header...)
		if got.code != tt.code {
			t.Errorf("GET %s with %v = %d, want %d", tt.path, tt.header, got.code, tt.code)
		}
		if tt.code == 401 && got.header.Get("WWW-Authenticate") != `Bearer realm="freshet"` {
			t.Errorf("GET %s: WWW-Authenticate = %q", tt.path, got.header.Get("WWW-Authenticate"))
		}
	}
}

// TestForeignHost: without a token a page cannot read by having its site's name point to this machine (DNS rebinding).
func TestForeignHost(t *testing.T) {
	t.Parallel()
	without, with := start(t), start(t, func(_ *bench, o *Options) { o.Token = "right" })
	for host, code := range map[string]int{
		"127.0.0.1": 200, "127.0.0.1:7780": 200, "[::1]:7780": 200, "[::1]": 200, "LOCALHOST": 200, "localhost.:80": 200, "app.localhost": 200,
		"elsewhere.example": 421, "elsewhere.example:7780": 421, "127.0.0.1.elsewhere.example": 421, "notlocalhost": 421, "localhost.elsewhere.example": 421,
	} {
		if got := without.do(t, http.MethodGet, "/v1/entries/product/7", "Host", host); got.code != code {
			t.Errorf("Host %s = %d %s, want %d", host, got.code, got.body, code)
		}
		if got := without.do(t, http.MethodGet, "/livez", "Host", host); got.code != 200 {
			t.Errorf("a probe of %s = %d", host, got.code)
		}
		if got := with.do(t, http.MethodGet, "/v1/entries/product/7", "Host", host, "Authorization", "Bearer right"); got.code != 200 {
			t.Errorf("with a token, Host %s = %d", host, got.code)
		}
	}
}

func TestProbesAndStatus(t *testing.T) {
	t.Parallel()
	b := start(t, func(b *bench, _ *Options) { b.ready = errors.New("the log is not being read") })
	if got := b.do(t, http.MethodGet, "/livez"); got.code != 200 || got.body != `{"status":"ok"}`+"\n" {
		t.Errorf("/livez = %d %s", got.code, got.body)
	}
	if got := b.do(t, http.MethodGet, "/readyz"); got.code != 503 || !strings.Contains(got.body, "the log is not being read") || got.header.Get("Retry-After") != "1" {
		t.Errorf("/readyz = %d %s", got.code, got.body)
	}
	if got := b.do(t, http.MethodGet, "/v1/status"); got.code != 200 || got.body != `{"phase":"streaming"}`+"\n" {
		t.Errorf("/v1/status = %d %s", got.code, got.body)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	b := start(t)
	for _, path := range []string{"product/7", "product/007", "product/8", "product/x", "made-up-1/1", "made-up-2/1"} {
		b.do(t, http.MethodGet, "/v1/entries/"+path)
	}
	for _, path := range []string{"/v1/entries/product/7", "/v1/many/product?k=[7]"} {
		b.do(t, "BREW", path)
	}
	scraped := b.do(t, http.MethodGet, "/metrics").body
	for _, want := range []string{
		`freshet_gateway_requests_total{code="501",entry="",status=""} 2`,
		`freshet_gateway_requests_total{code="200",entry="product",status="hit"} 2`,
		`freshet_gateway_requests_total{code="400",entry="product",status=""} 1`,
		`freshet_gateway_requests_total{code="404",entry="",status=""} 2`, // no label from what a client makes up
		`freshet_gateway_requests_total{code="404",entry="product",status="miss"} 1`,
		`freshet_gateway_request_seconds_count{status="hit"} 2`,
	} {
		if !strings.Contains(scraped, want+"\n") {
			t.Errorf("/metrics lacks %s:\n%s", want, scraped)
		}
	}
	if strings.Contains(scraped, "made-up") {
		t.Error("/metrics has a label that a client made up")
	}
}

func FuzzArguments(f *testing.F) {
	f.Add("page/a%2Fb/", "")
	f.Add("page", "slug=%61&lang=")
	f.Fuzz(func(t *testing.T, path, query string) {
		name, parts, err := splitPath(path)
		if err != nil {
			return
		}
		params := newShelf().params["page"]
		args, err := arguments(params, parts, query)
		if err != nil {
			if _, ok := errors.AsType[*argumentError](err); !ok {
				t.Fatalf("arguments(%q, %q) of %s = %v, want an argumentError", parts, query, name, err)
			}
			return
		}
		if len(args) != len(params) {
			t.Fatalf("arguments(%q, %q) = %d, want %d", parts, query, len(args), len(params))
		}
	})
}
