package api

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/freshet/freshet/internal/page"
)

// TestPageFiles: each file under its own type and policy, to whoever may come, and by its tag not again.
func TestPageFiles(t *testing.T) {
	t.Parallel()
	open, guarded := start(t), start(t, func(_ *bench, o *Options) { o.Token = "right" })
	for path, want := range map[string]string{
		"/": "text/html; charset=utf-8", "/page/app.js": "text/javascript; charset=utf-8", "/page/style.css": "text/css; charset=utf-8",
	} {
		for name, b := range map[string]*bench{"open": open, "guarded": guarded} {
			got := b.do(t, http.MethodGet, path)
			if got.code != http.StatusOK || got.header.Get("Content-Type") != want || len(got.body) < 100 {
				t.Errorf("%s %s = %d %s, %d bytes", name, path, got.code, got.header.Get("Content-Type"), len(got.body))
			}
			for header, value := range map[string]string{
				"Content-Security-Policy": page.Policy, "Referrer-Policy": "no-referrer", "Cross-Origin-Opener-Policy": "same-origin",
				"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache",
			} {
				if is := got.header.Get(header); is != value {
					t.Errorf("%s %s: %s is %q", name, path, header, is)
				}
			}
			again := b.do(t, http.MethodGet, path, "If-None-Match", got.header.Get("ETag"))
			if again.code != http.StatusNotModified || again.body != "" || again.header.Get("ETag") != got.header.Get("ETag") {
				t.Errorf("%s %s again = %d %q", name, path, again.code, again.body)
			}
			if other := b.do(t, http.MethodGet, path, "If-None-Match", `"another"`); other.code != http.StatusOK {
				t.Errorf("%s %s, of another tag = %d", name, path, other.code)
			}
			if head := b.do(t, http.MethodHead, path); head.code != http.StatusOK || head.body != "" || head.header.Get("Content-Length") != got.header.Get("Content-Length") {
				t.Errorf("%s HEAD %s = %d %q", name, path, head.code, head.body)
			}
			if post := b.post(t, path, "{}"); post.code != http.StatusMethodNotAllowed || post.header.Get("Allow") != "GET, HEAD" {
				t.Errorf("%s POST %s = %d", name, path, post.code)
			}
		}
		if foreign := open.do(t, http.MethodGet, path, "Host", "elsewhere.example"); foreign.code != http.StatusMisdirectedRequest {
			t.Errorf("%s for another site's name = %d", path, foreign.code)
		}
	}
	if data := guarded.do(t, http.MethodGet, "/v1/status"); data.code != http.StatusUnauthorized {
		t.Errorf("the status without a token = %d", data.code)
	}
	for _, path := range []string{"/page", "/page/", "/page/app.js/", "/page/../v1/status", "/page/index.html", "//"} {
		if got := open.do(t, http.MethodGet, path); got.code != http.StatusNotFound {
			t.Errorf("%s = %d", path, got.code)
		}
	}
}

// TestPageIsWhole: the page refers to its own files alone, and has nothing in it that its policy forbids.
func TestPageIsWhole(t *testing.T) {
	t.Parallel()
	files := page.Files()
	html := string(files["/"].Body)
	refers := regexp.MustCompile(`(?:src|href)="([^"]*)"`)
	for _, m := range refers.FindAllStringSubmatch(html, -1) {
		if _, ok := files[m[1]]; !ok && m[1] != "data:," {
			t.Errorf("the page refers to %s", m[1])
		}
	}
	for name, pattern := range map[string]string{"a script": `<script>`, "a style": `<style|\sstyle=`, "a handler": `\son[a-z]+=`} {
		if found := regexp.MustCompile(pattern).FindString(html); found != "" {
			t.Errorf("%s stands in the page: %s", name, found)
		}
	}
	script := string(files["/page/app.js"].Body)
	for _, word := range []string{"eval(", "innerHTML =", "insertAdjacent", "document.write", "localStorage", "http:", "https:"} {
		if strings.Contains(strings.ReplaceAll(script, "http://www.w3.org/2000/svg", ""), word) {
			t.Errorf("the script has %s", word)
		}
	}
}
