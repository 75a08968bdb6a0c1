package api

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/mvcc"
)

func (s *shelf) ReadMany(ctx context.Context, entry string, keys [][]keytext.Arg, d Demand) ([]Value, []error) {
	values, errs := make([]Value, len(keys)), make([]error, len(keys))
	for i, key := range keys {
		if values[i], errs[i] = s.Read(ctx, entry, key, d); len(key) > 0 && key[0].Text == "500" {
			errs[i] = ErrUnavailable
		}
	}
	return values, errs
}

// manyOf is a path with keys.
func manyOf(entry string, keys ...string) string {
	return "/v1/many/" + entry + "?" + url.Values{"k": keys}.Encode()
}

func TestReadsOfMany(t *testing.T) {
	t.Parallel()
	b := start(t)
	for _, tt := range []struct {
		name, path string
		code       int
		body       string // the body, or what the problem says
	}{
		{"in order, null where there is none", manyOf("product", "[8]", "[7]", "[9]", `["7"]`, `["007"]`), 200, `[null,{"id": 7},null,{"id": 7},{"id": 7}]`},
		{"as it may be written by hand", "/v1/many/product?k=[7]&k=[8]", 200, `[{"id": 7},null]`},
		{"of several parameters, NULL among them", manyOf("page", `["a/b",""]`, `["x y+ü",null]`, `["none","en"]`), 200, `[["slash, empty"],["null"],[]]`},
		{"without parameters", manyOf("front", "[]"), 200, `[{"n": 1}]`},
		{"not declared", manyOf("nothing", "[7]"), 404, problemNoEntry},
		{"no key", "/v1/many/product", 400, `"k"`},
		{"a name", "/v1/many/product?k=[7]&id=7", 400, `"argument":"id"`},
		{"in the path", "/v1/many/product/7", 400, problemArguments},
		{"no JSON", manyOf("product", "[7]", "7]"), 400, `"argument":"k[2]"`},
		{"no array", manyOf("product", "[7]", "[8]", "7"), 400, `"argument":"k[3]"`},
		{"null", manyOf("product", "null"), 400, `"argument":"k[1]"`},
		{"an object", manyOf("product", `[{"id":7}]`), 400, `"argument":"k[1]"`},
		{"something behind", manyOf("product", "[7] [8]"), 400, `"argument":"k[1]"`},
		{"too many arguments", manyOf("product", "[7]", "[7,8]"), 400, `"argument":"k[2]"`},
		{"another type", manyOf("product", "[7]", `["seven"]`), 400, `"argument":"k[2]"`},
		{"a fraction", manyOf("product", "[7.5]"), 400, `"argument":"k[1]"`},
		{"too large", manyOf("product", "[9223372036854775808]"), 400, `"argument":"k[1]"`},
		{"not UTF-8", manyOf("page", "[\"a\",null]", "[\"\xff\",null]"), 400, `"argument":"k[2]"`},
		{"half a surrogate pair", manyOf("page", `["\ud800",null]`), 400, `"argument":"k[1]"`},
		{"NUL", manyOf("page", `["\u0000",null]`), 400, `"argument":"k[1]"`},
		{"escapes", manyOf("page", `["\u0061\/b",""]`), 200, `[["slash, empty"]]`},
		{"too many keys", manyOf("product", strings.Split(strings.Repeat("[7],", maxMany), ",")...), 400, "501 keys"},
		{"one that cannot be read", manyOf("product", "[7]", "[500]"), 503, `"argument":"k[2]"`},
	} {
		got := b.do(t, "GET", tt.path)
		if got.code != tt.code || tt.code == 200 && got.body != tt.body || !strings.Contains(got.body, tt.body) {
			t.Errorf("%s: %d %s, want %d %s", tt.name, got.code, got.body, tt.code, tt.body)
		}
		if tt.code != 200 && got.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %v", tt.name, got.header)
		}
		if retry := got.header.Get("Retry-After"); (retry != "") != (tt.code == 503) {
			t.Errorf("%s: Retry-After %q", tt.name, retry)
		}
	}
}

// TestManyInPart: what could be read is in the answer that says what could not.
func TestManyInPart(t *testing.T) {
	t.Parallel()
	b := start(t)
	got := b.do(t, "GET", manyOf("product", "[500]", "[7]", "[8]", "[500]"))
	var p struct {
		Status   int               `json:"status"`
		Argument string            `json:"argument"`
		Values   []json.RawMessage `json:"values"`
		Errors   []failure         `json:"errors"`
	}
	if err := json.Unmarshal([]byte(got.body), &p); err != nil || got.code != 503 || p.Status != 503 || p.Argument != "k[1]" {
		t.Fatalf("%d %s, %v", got.code, got.body, err)
	}
	if diff := cmp.Diff("[null {\"id\":7} null null]", fmt.Sprintf("%s", p.Values)); diff != "" {
		t.Errorf("values:\n%s", diff)
	}
	const why = "Neither the cache nor the database can answer now."
	want := []failure{{"k[1]", problemUnavailable, 503, why}, {"k[4]", problemUnavailable, 503, why}}
	if diff := cmp.Diff(want, p.Errors); diff != "" {
		t.Errorf("errors:\n%s", diff)
	}
	if err := validate(t, "#/components/schemas/Problem", got.body); err != nil {
		t.Error(err)
	}
	if got := b.do(t, "GET", manyOf("product", "[500]", "[500]")); got.code != 503 || strings.Contains(got.body, "values") {
		t.Errorf("where nothing could be read: %d %s", got.code, got.body)
	}
}

// TestManyAsTypesAre: arguments of JSON are the texts that PostgreSQL has, digit for digit.
func TestManyAsTypesAre(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"12345678901234567890": "12345678901234567890", "1.50": "1.50", "true": "true", `"a\"b"`: `a"b`, "[1,2]": `{"1","2"}`,
		`["a\"","\\",null,true]`: `{"a\"","\\",NULL,"true"}`, "[]": "{}",
	} {
		keys, err := keyOf(newShelf().params["page"][:1], "["+text+"]")
		if err != nil || keys[0].Text != want {
			t.Errorf("%s: %v, %v, want %s", text, keys, err, want)
		}
	}
	for _, text := range []string{"[[1]]", `{"a":1}`, `[{"a":1}]`} {
		if keys, err := keyOf(newShelf().params["page"][:1], "["+text+"]"); err == nil {
			t.Errorf("%s: %v", text, keys)
		}
	}
}

// TestManyHeaders: what is said about one value is said about all of them, preconditions and demands as well.
func TestManyHeaders(t *testing.T) {
	t.Parallel()
	began := time.Now()
	b := start(t)
	path := manyOf("product", "[7]", "[8]", "[7]")
	got := b.do(t, "GET", path)
	tag := got.header.Get("ETag")
	if got.header.Get("Freshet-Status") != "hit=2, miss=1" || !aged(got.header.Get("Age"), "90", began) || tag != entityTag([]byte(got.body)) ||
		got.header.Get("Cache-Control") != "private, no-cache" || got.header.Get("Vary") != tokenHeader || got.header.Get("Content-Type") != "application/json" {
		t.Errorf("%v", got.header)
	}
	if head := b.do(t, "HEAD", path); head.code != 200 || head.body != "" || head.header.Get("ETag") != tag || head.header.Get("Content-Length") != got.header.Get("Content-Length") {
		t.Errorf("HEAD: %d %v", head.code, head.header)
	}
	for headers, code := range map[[2]string]int{
		{"If-None-Match", tag}: 304, {"If-None-Match", "*"}: 304, {"If-Match", `"other"`}: 412, {"If-Match", tag}: 200,
		{"Freshet-After", "no token"}: 400, {"Cache-Control", "no-cache"}: 200,
	} {
		if got := b.do(t, "GET", path, headers[0], headers[1]); got.code != code || code == 304 && got.body != "" {
			t.Errorf("%v: %d %s", headers, got.code, got.body)
		}
	}
	if got := b.do(t, "POST", path); got.code != 405 {
		t.Errorf("POST: %d", got.code)
	}
	token := mvcc.Token{System: "7", Timeline: 1, XID: 5}
	b.do(t, "GET", path, "Freshet-After", token.String(), "Cache-Control", "max-age=3")
	if asked := b.shelf.asked; asked.After != token || !asked.Bounded || asked.MaxStale != 3*time.Second {
		t.Errorf("asked for %+v", asked)
	}
	if metrics := b.do(t, "GET", "/metrics").body; !strings.Contains(metrics, fmt.Sprintf(`entry="product",status=%q`, statusMany)) || strings.Contains(metrics, "hit=2") {
		t.Errorf("metrics:\n%s", metrics)
	}
}

// TestManyAreOneAnswer: the array is as old as its oldest value, in whatever order they come, and with one that is stale it may not be kept.
func TestManyAreOneAnswer(t *testing.T) {
	t.Parallel()
	now := time.Now()
	put := func(id, status, kept string, filled time.Time) func(*bench, *Options) {
		return func(b *bench, _ *Options) {
			b.shelf.values["product|="+id] = Value{Found: true, Payload: []byte(id), Status: status, CacheControl: kept, Filled: filled}
		}
	}
	b := start(t,
		put("1", "hit", "max-age=60", now.Add(-10*time.Second)), put("2", "hit", "max-age=60", now.Add(-90*time.Second)),
		put("3", "miss", "max-age=60", time.Time{}), put("4", "stale", "", now.Add(-time.Second)),
		put("5", "hit", "max-age=60", now.Add(time.Minute))) // by a store's clock that is ahead of this one
	for _, tt := range []struct {
		keys                       []string
		age, kept, status, payload string
	}{
		{[]string{"[1]", "[2]", "[3]"}, "90", "max-age=60", "hit=2, miss=1", "[1,2,3]"},
		{[]string{"[3]", "[2]", "[1]"}, "90", "max-age=60", "hit=2, miss=1", "[3,2,1]"},
		{[]string{"[3]"}, "0", "max-age=60", "miss=1", "[3]"},
		{[]string{"[5]"}, "0", "max-age=60", "hit=1", "[5]"},
		{[]string{"[3]", "[4]"}, "1", "private, no-cache", "miss=1, stale=1", "[3,4]"},
		{[]string{"[4]", "[3]"}, "1", "private, no-cache", "miss=1, stale=1", "[4,3]"},
	} {
		got := b.do(t, "GET", manyOf("product", tt.keys...))
		if h := got.header; !aged(h.Get("Age"), tt.age, now) || h.Get("Cache-Control") != tt.kept || h.Get("Freshet-Status") != tt.status || got.body != tt.payload {
			t.Errorf("%v: %s, %v, want %+v", tt.keys, got.body, h, tt)
		}
	}
}

// mebibyte is a value of that length.
func mebibyte() []byte { return []byte(`"` + strings.Repeat("x", 1<<20-2) + `"`) }

// TestManyAreBounded: what one request has sent is bounded, however often it asks for a value, and whether all were read or not.
func TestManyAreBounded(t *testing.T) {
	t.Parallel()
	b := start(t, func(b *bench, _ *Options) {
		b.shelf.values["product|=9"] = Value{Found: true, Payload: mebibyte(), Status: "hit"}
	})
	one := string(mebibyte())
	for _, tt := range []struct {
		times, code int
		more        []string
		body        string // the body, or what the problem says
	}{
		{64, 200, nil, "[" + strings.Repeat(one+",", 63) + one + "]"},
		{65, 413, nil, `"argument":"k[65]"`},
		{maxMany, 413, nil, `"argument":"k[65]"`},
		{65, 413, []string{"[500]"}, problemAnswerTooLong},
		{2, 503, []string{"[500]"}, `"values":[` + one + "," + one + ",null]"},
	} {
		keys := append(slices.Repeat([]string{"[9]"}, tt.times), tt.more...)
		got := b.do(t, "GET", manyOf("product", keys...))
		if matches := got.body == tt.body || tt.code != 200 && strings.Contains(got.body, tt.body); got.code != tt.code || !matches {
			t.Errorf("%d times and %v: %d with %d bytes, want %d", tt.times, tt.more, got.code, len(got.body), tt.code)
		}
		if tt.code == 413 && len(got.body) > 1000 {
			t.Errorf("%d times and %v: a problem of %d bytes", tt.times, tt.more, len(got.body))
		}
		if tag := got.header.Get("ETag"); tt.code == 200 && tag != entityTag([]byte(got.body)) {
			t.Errorf("the tag %s is not that of the bytes that are sent", tag)
		}
	}
}

// TestProblemsAreAlwaysAnswered: among what could be read may be what is no JSON. The problem is said without it.
func TestProblemsAreAlwaysAnswered(t *testing.T) {
	t.Parallel()
	b := start(t, func(b *bench, _ *Options) {
		b.shelf.values["product|=9"] = Value{Found: true, Payload: []byte("<9>"), Status: "hit"}
	})
	got := b.do(t, "GET", manyOf("product", "[7]", "[9]", "[500]"))
	var p problem
	if err := json.Unmarshal([]byte(got.body), &p); err != nil || got.code != 503 || p.Type != problemUnavailable || p.Argument != "k[3]" || p.Values != nil {
		t.Errorf("%d %s, %v", got.code, got.body, err)
	}
}

// counter is a client that keeps nothing.
type counter struct {
	header http.Header
	code   int
	length int
}

func (c *counter) Header() http.Header  { return c.header }
func (c *counter) WriteHeader(code int) { c.code = code }
func (c *counter) Write(p []byte) (int, error) {
	c.length += len(p)
	return len(p), nil
}

// TestManyAreNotCopied: a value that is asked for many times is in memory once.
//
//nolint:paralleltest // it counts what the process allocates
func TestManyAreNotCopied(t *testing.T) {
	shelf := newShelf()
	shelf.values["product|=9"] = Value{Found: true, Payload: mebibyte(), Status: "hit"}
	handler := New(Options{Reader: shelf, Metrics: NewMetrics(prometheus.NewRegistry()), Logger: slog.New(slog.DiscardHandler)})
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, manyOf("product", slices.Repeat([]string{"[9]"}, 60)...), http.NoBody)
	req.Host = "localhost"
	var before, after runtime.MemStats
	c := &counter{header: http.Header{}}
	runtime.ReadMemStats(&before)
	handler.ServeHTTP(c, req)
	runtime.ReadMemStats(&after)
	if c.code != http.StatusOK || c.length != 60<<20+61 {
		t.Fatalf("%d with %d bytes", c.code, c.length)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 1<<20 {
		t.Errorf("%d bytes are allocated for an answer of %d", took, c.length)
	}
}

// TestKeysAreBounded: what is read becomes the name of a record, also where there is no such row.
func TestKeysAreBounded(t *testing.T) {
	t.Parallel()
	b := start(t)
	fits, more := strings.Repeat("x", maxKey-1), strings.Repeat("x", maxKey)
	for path, code := range map[string]int{
		"/v1/entries/page/" + fits + "/y":              404,
		"/v1/entries/page/" + more + "/y":              400,
		"/v1/entries/page?lang=y&slug=" + fits:         404,
		"/v1/entries/page?lang=y&slug=" + more:         400,
		"/v1/entries/page?slug=" + fits + "x":          404,
		manyOf("page", `["`+fits+`","y"]`):             200,
		manyOf("page", `["a",""]`, `["`+more+`","y"]`): 400,
	} {
		got := b.do(t, "GET", path)
		if got.code != code || code == 400 && !strings.Contains(got.body, "8193 bytes together, and 8192 are the most") {
			t.Errorf("%.40s, of %d bytes: %d %.300s", path, len(path), got.code, got.body)
		}
		if strings.HasPrefix(path, manyPath) && code == 400 && !strings.Contains(got.body, `"argument":"k[2]"`) {
			t.Errorf("which key is too long is not said: %.300s", got.body)
		}
	}
}

// FuzzKeyOf: whatever is sent as a key, it is a key with an argument for each parameter, or an error that says what is wrong.
func FuzzKeyOf(f *testing.F) {
	for _, text := range []string{"[7]", `["a",null]`, "[[1,2],3]", "[", "null", `[{"a":1},2]`, "[1e400,2]"} {
		f.Add(text)
	}
	params := newShelf().params["page"]
	f.Fuzz(func(t *testing.T, text string) {
		args, err := keyOf(params, text)
		if (err == nil) != (len(args) == len(params)) || err != nil && err.Error() == "" {
			t.Errorf("%q: %v, %v", text, args, err)
		}
	})
}
