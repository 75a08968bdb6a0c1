package api

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestHead: HEAD is GET without the body, whatever the answer (RFC 9110, 9.3.2).
func TestHead(t *testing.T) {
	t.Parallel()
	b := start(t)
	tag := entityTag([]byte(`{"id": 7}`))
	for path, headers := range map[string][]string{
		"/v1/entries/product/7":    nil,
		"/v1/entries/product?id=7": {"If-None-Match", tag},
		"/v1/entries/product/8":    nil,
		"/v1/entries/product/x":    nil,
		"/v1/entries/nothing/7":    nil,
		"/v1/entries/product/+7":   {"If-Match", `"another"`},
		"/v1/entries/product/07":   {"Cache-Control", "no-cache"},
	} {
		get, head := b.do(t, http.MethodGet, path, headers...), b.do(t, http.MethodHead, path, headers...)
		get.header.Del("Date")
		head.header.Del("Date")
		if head.code != get.code || head.body != "" {
			t.Errorf("HEAD %s = %d %q, GET %d", path, head.code, head.body, get.code)
		}
		if diff := cmp.Diff(get.header, head.header); diff != "" {
			t.Errorf("headers of HEAD %s (-GET +HEAD):\n%s", path, diff)
		}
	}
}

// TestPreconditions are those of RFC 9110, 13: If-Match by strong comparison, then If-None-Match by weak comparison, and no
// others.
func TestPreconditions(t *testing.T) {
	t.Parallel()
	b := start(t)
	tag := b.do(t, http.MethodGet, "/v1/entries/product/7").header.Get("ETag")
	bare := strings.Trim(tag, `"`)
	const none, match = "If-None-Match", "If-Match"
	for name, tt := range map[string]struct {
		headers []string
		code    int
	}{
		"none of the same":                {[]string{none, tag}, 304},
		"none of the same, weak":          {[]string{none, "W/" + tag}, 304},
		"none of any":                     {[]string{none, "*"}, 304},
		"none of any, with space":         {[]string{none, " \t* "}, 304},
		"none in a list":                  {[]string{none, `"a,b" , ,W/"c",` + tag}, 304},
		"none in the second line":         {[]string{none, `"a"`, none, tag}, 304},
		"none, first of a list":           {[]string{none, tag + `,"a"`}, 304},
		"none of another":                 {[]string{none, `"a"`}, 200},
		"none of others":                  {[]string{none, `"a", "b"`}, 200},
		"none within a tag":               {[]string{none, `"x` + bare + `"`}, 200},
		"none without quotes":             {[]string{none, bare}, 200},
		"none, a broken list":             {[]string{none, `"a, ` + bare}, 200},
		"none, no list":                   {[]string{none, `"a" ` + tag}, 200},
		"none, after what is no tag":      {[]string{none, "x, " + tag}, 200},
		"none, a small w":                 {[]string{none, "w/" + tag}, 200},
		"none of nothing":                 {[]string{none, ""}, 200},
		"none, a star in a list":          {[]string{none, `"a", *`}, 200},
		"one of the same":                 {[]string{match, tag}, 200},
		"one of any":                      {[]string{match, "*"}, 200},
		"one in a list":                   {[]string{match, `"a", ` + tag}, 200},
		"one of the same, weak":           {[]string{match, "W/" + tag}, 412},
		"one of another":                  {[]string{match, `"a"`}, 412},
		"one of nothing":                  {[]string{match, ""}, 412},
		"both":                            {[]string{match, tag, none, tag}, 304},
		"both, and the first one decides": {[]string{match, `"a"`, none, tag}, 412},
		"by date, which nothing has":      {[]string{"If-Modified-Since", "Fri, 27 Nov 2099 00:00:00 GMT", "If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT"}, 200},
		"a range, which nothing has":      {[]string{"Range", "bytes=0-1", "If-Range", tag}, 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			got := b.do(t, http.MethodGet, "/v1/entries/product/7", tt.headers...)
			if got.code != tt.code {
				t.Fatalf("%q = %d, want %d", tt.headers, got.code, tt.code)
			}
			switch got.code {
			case http.StatusNotModified:
				// RFC 9110, 15.4.5: Cache-Control, Date, ETag, Vary as 200 has them, and no other metadata of a representation.
				whole := b.do(t, http.MethodGet, "/v1/entries/product/7").header
				for _, name := range []string{"Cache-Control", "Etag", "Vary", "Freshet-Status"} {
					if got.header.Get(name) == "" || got.header.Get(name) != whole.Get(name) {
						t.Errorf("304 has %s %q, 200 has %q", name, got.header.Get(name), whole.Get(name))
					}
				}
				least, err := strconv.Atoi(got.header.Get("Age"))
				// It may have begun another second after 304 was asked for.
				if age := whole.Get("Age"); err != nil || age != strconv.Itoa(least) && !aged(age, strconv.Itoa(least), began.Add(-time.Second)) {
					t.Errorf("304 has Age %q, 200 has %q", got.header.Get("Age"), age)
				}
				if got.header.Get("Date") == "" || got.body != "" || got.header.Get("Content-Type") != "" || got.header.Get("Content-Length") != "" {
					t.Errorf("304 has body %q and headers %v", got.body, got.header)
				}
			case http.StatusPreconditionFailed:
				if got.header.Get("Content-Type") != "application/problem+json" || !strings.Contains(got.body, "urn:freshet:problem:precondition-failed") {
					t.Errorf("412 is %s %s", got.header.Get("Content-Type"), got.body)
				}
			}
		})
	}
	// What would not be answered with 200 has no preconditions (RFC 9110, 13.2.1).
	for _, header := range []string{none, match} {
		if got := b.do(t, http.MethodGet, "/v1/entries/product/8", header, "*"); got.code != 404 {
			t.Errorf("no row, with %s: * = %d, want 404", header, got.code)
		}
	}
}

// TestRefusalsAreNotStored: what is said of one request is no answer to the next one, however long the entry's values may be kept. Without
// no-store a cache may keep a 412 that has a max-age (RFC 9111, 3), and Vary does not name If-Match.
func TestRefusalsAreNotStored(t *testing.T) {
	t.Parallel()
	const kept = "public, max-age=60"
	b := start(t, func(b *bench, _ *Options) {
		for key, v := range b.shelf.values {
			v.CacheControl = kept
			b.shelf.values[key] = v
		}
	})
	many := manyOf("product", "[7]")
	for path, want := range map[string]string{"/v1/entries/product/7": kept, many: kept, "/v1/entries/product/x": "no-store", "/v1/entries/nothing/7": "no-store"} {
		if got := b.do(t, http.MethodGet, path); got.header.Get("Cache-Control") != want {
			t.Errorf("GET %s = %d, Cache-Control %q, want %q", path, got.code, got.header.Get("Cache-Control"), want)
		}
	}
	for _, path := range []string{"/v1/entries/product/7", many} {
		got := b.do(t, http.MethodGet, path, "If-Match", `"another"`)
		if got.code != http.StatusPreconditionFailed || got.header.Get("Cache-Control") != "no-store" {
			t.Errorf("GET %s with If-Match = %d, Cache-Control %q", path, got.code, got.header.Get("Cache-Control"))
		}
	}
}

func TestCacheControlOfRequests(t *testing.T) {
	t.Parallel()
	b := start(t)
	within := func(d time.Duration) Demand { return Demand{Bounded: true, MaxStale: d} }
	revalidated := Demand{Revalidate: true}
	never := Demand{Revalidate: true, Bounded: true}
	for _, tt := range []struct {
		want    Demand
		headers []string
	}{
		{Demand{}, nil},
		{Demand{}, []string{"Cache-Control", ""}},
		{Demand{}, []string{"Cache-Control", "max-stale=5, no-transform"}},
		{Demand{}, []string{"Cache-Control", `x="no-cache`}},
		{Demand{}, []string{"Cache-Control", `x="a, no-cache, b"`}},
		{Demand{}, []string{"Cache-Control", `x="a\", no-cache, b"`}},
		{Demand{}, []string{"Cache-Control", `x="a, max-age=0", y`}},
		{revalidated, []string{"Pragma", "no-cache"}}, // net/http takes it for the other, as RFC 7234, 5.4, wanted
		{Demand{}, []string{"Pragma", "no-cache", "Cache-Control", "no-transform"}},
		{revalidated, []string{"Cache-Control", "no-cache"}},
		{revalidated, []string{"Cache-Control", "No-Cache"}},
		{revalidated, []string{"Cache-Control", `x="a\\", no-cache`}},
		{revalidated, []string{"Cache-Control", "no-transform", "Cache-Control", "no-cache"}},
		{never, []string{"Cache-Control", "max-age=0"}},
		{never, []string{"Cache-Control", "max-age=5, max-age=0"}},
		{never, []string{"Cache-Control", "max-age = much"}},
		{never, []string{"Cache-Control", "max-age"}},
		{never, []string{"Cache-Control", "max-age=-5"}},
		{within(time.Hour), []string{"Cache-Control", "max-age=3600"}},
		{within(2 * time.Second), []string{"Cache-Control", "max-age=5", "Cache-Control", "Max-Age=2"}},
		{within(5 * time.Second), []string{"Cache-Control", "no-transform,\tmax-age=\"5\""}},
		{within(365 * 24 * time.Hour), []string{"Cache-Control", "max-age=99999999999999999999"}},
		{Demand{Revalidate: true, Bounded: true, MaxStale: 5 * time.Second}, []string{"Cache-Control", "max-age=5, no-cache"}},
	} {
		got := b.do(t, http.MethodGet, "/v1/entries/product/7", tt.headers...)
		if diff := cmp.Diff(tt.want, b.shelf.asked); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tt.headers, diff)
		}
		status := "hit"
		if tt.want.Revalidate {
			status = "revalidated"
		}
		if got.code != 200 || got.header.Get("Freshet-Status") != status || got.body != `{"id": 7}` {
			t.Errorf("%q: %d %s %s, want %s", tt.headers, got.code, got.header.Get("Freshet-Status"), got.body, status)
		}
		if age := got.header.Get("Age"); (age == "0") != tt.want.Revalidate {
			t.Errorf("%q: Age %s", tt.headers, age)
		}
	}
	got := b.do(t, http.MethodGet, "/v1/entries/product/7", "Cache-Control", "max-age=0", "If-None-Match", entityTag([]byte(`{"id": 7}`)))
	if got.code != http.StatusNotModified || got.header.Get("Freshet-Status") != "revalidated" {
		t.Errorf("validated: %d %s", got.code, got.header.Get("Freshet-Status"))
	}
}

// FuzzRequestHeaders: no header makes the gateway fail, and what it asks for is never less than a header's strictest reading.
func FuzzRequestHeaders(f *testing.F) {
	for _, seed := range []string{`no-cache, max-age="5"`, `"a", W/"b", *`, `x="\"`, `"`, `,,=,`, `W/`, "max-age=\x00"} {
		f.Add(seed)
	}
	tag := entityTag([]byte("x"))
	f.Fuzz(func(t *testing.T, text string) {
		d := cacheControl([]string{text})
		if d.Bounded && d.MaxStale == 0 && !d.Revalidate || d.MaxStale < 0 {
			t.Errorf("cacheControl(%q) = %+v", text, d)
		}
		again := cacheControl([]string{text, "no-cache, max-age=1"})
		if !again.Revalidate || !again.Bounded || again.MaxStale > time.Second {
			t.Errorf("cacheControl(%q, no-cache, max-age=1) = %+v", text, again)
		}
		if !named([]string{text, tag}, tag, false) {
			t.Errorf("named(%q, tag): the second line was not read", text)
		}
		if named([]string{text}, tag, true) && !strings.Contains(text, tag) && strings.TrimSpace(text) != "*" {
			t.Errorf("named(%q): the tag is not there", text)
		}
	})
}
