package page

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/freshet/freshet/internal/testkit/browsertest"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// behind puts something before the daemon that answers in its place where answer says what, and returns its address.
func (w *world) behind(answer func(path string) string) string {
	w.t.Helper()
	target := &url.URL{Scheme: "http", Host: w.addr}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = w.addr }}
	s := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		if body := answer(r.URL.Path); body != "" {
			_, _ = io.WriteString(out, body)
			return
		}
		proxy.ServeHTTP(out, r)
	}))
	w.t.Cleanup(s.Close)
	return s.URL
}

// TestAnswersOfAnother: what answers in the daemon's place, as a proxy whose login has run out does, is no daemon that says FRESH.
func TestAnswersOfAnother(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{"html": "<html>Log in</html>", "an empty object": "{}"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pgtest.Shared(t), "")
			w.serve()
			var away atomic.Bool
			between := w.behind(func(path string) string {
				if away.Load() && strings.HasPrefix(path, "/v1/") {
					return body
				}
				return ""
			})
			tab := browsertest.Open(t, 1280, 900)
			tab.Goto(between + "/")
			tab.Await(word, "FRESH")
			away.Store(true)
			tab.Await(contact, "The daemon does not answer: ")
			if got, title := tab.Eval(word), tab.Eval(`document.title`); got != "NOT KNOWN" || title != "no answer · freshet" {
				t.Errorf("the page says %q, the title %q", got, title)
			}
			away.Store(false)
			tab.Await(word, "FRESH")
		})
	}
}

// TestHistoryThatIsNotKnown: what could not be read is not taken for nothing.
func TestHistoryThatIsNotKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t), "")
	w.serve()
	between := w.behind(func(path string) string {
		if strings.HasPrefix(path, "/v1/trace/") {
			return `{"entry":"product","key":"product:7","events":[],"problems":["the record could not be read: it is away"]}`
		}
		return ""
	})
	tab := browsertest.Open(t, 1280, 900)
	tab.Goto(between + "/#trace=product&arg.id=7")
	tab.Await(timeline, "No more is known of this key.")
	if got := tab.Eval(timeline); strings.Contains(got, "Nothing is remembered") || !strings.Contains(got, "Not known: the record could not be read: it is away.") {
		t.Errorf("the page says %q", got)
	}
}
