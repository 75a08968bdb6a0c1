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

// TestAnswersOfAnother: what answers in the daemon's place, as a proxy whose login has run out does, is no daemon that says FRESH.
func TestAnswersOfAnother(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{"html": "<html>Log in</html>", "an empty object": "{}"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pgtest.Shared(t), "")
			w.serve()
			var away atomic.Bool
			target := &url.URL{Scheme: "http", Host: w.addr}
			proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = w.addr }}
			s := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
				if away.Load() && strings.HasPrefix(r.URL.Path, "/v1/") {
					_, _ = io.WriteString(out, body)
					return
				}
				proxy.ServeHTTP(out, r)
			}))
			t.Cleanup(s.Close)
			tab := browsertest.Open(t, 1280, 900)
			tab.Goto(s.URL + "/")
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
	target := &url.URL{Scheme: "http", Host: w.addr}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = w.addr }}
	s := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1/trace/") {
			_, _ = io.WriteString(out, `{"entry":"product","key":"product:7","events":[],"problems":["the record could not be read: it is away"]}`)
			return
		}
		proxy.ServeHTTP(out, r)
	}))
	t.Cleanup(s.Close)
	tab := browsertest.Open(t, 1280, 900)
	tab.Goto(s.URL + "/#trace=product&arg.id=7")
	tab.Await(timeline, "No more is known of this key.")
	if got := tab.Eval(timeline); strings.Contains(got, "Nothing is remembered") || !strings.Contains(got, "Not known: the record could not be read: it is away.") {
		t.Errorf("the page says %q", got)
	}
}
