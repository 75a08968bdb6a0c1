package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/freshet/freshet/internal/byhand"
	"github.com/freshet/freshet/internal/intent"
)

// hand is an Invalidator that notes what it is asked.
type hand struct {
	asked *byhand.What
	dry   bool
	done  byhand.Done
	err   error
}

func (h *hand) Invalidate(_ context.Context, w *byhand.What, dry bool) (*byhand.Done, error) {
	h.asked, h.dry = w, dry
	if h.err != nil {
		return nil, h.err
	}
	done := h.done
	return &done, nil
}

func (b *bench) post(t *testing.T, path, body string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(text)}
}

func TestInvalidateBodies(t *testing.T) {
	t.Parallel()
	h := &hand{done: byhand.Done{Entries: []string{"product"}, Applied: true}}
	b := start(t, func(_ *bench, o *Options) { o.Invalidate = h })
	for body, want := range map[string]string{
		`{"entry":"product","args":[42]}`:                   "0 product [{42 false}] .",
		`{"entry":"product","args":["0042"]}`:               "0 product [{42 false}] .",
		`{"entry":"page","args":["a/b",null]}`:              "0 page [{a/b false} { true}] .",
		`{"entry":"page","args":["",true]}`:                 "0 page [{ false} {true false}] .",
		`{"entry":"front","args":[]}`:                       "0 front [] .",
		` {"entry" : "product" , "dry_run" : true} ` + "\n": "1 product [] .",
		`{"table":"lines"}`:                                 "2  [] public.lines",
		`{"table":"shop.lines"}`:                            "2  [] shop.lines",
		`{"all":true}`:                                      "3  [] .",
	} {
		h.asked = nil
		got := b.post(t, "/v1/invalidate", body)
		if got.code != http.StatusOK || got.header.Get("Content-Type") != "application/json" || got.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %s", body, got.code, got.body)
			continue
		}
		if text := fmt.Sprintf("%d %s %v %s.%s", h.asked.Scope, h.asked.Entry, h.asked.Args, h.asked.Table.Schema, h.asked.Table.Name); text != want {
			t.Errorf("%s asks %s, want %s", body, text, want)
		}
		if h.dry != strings.Contains(body, "dry_run") {
			t.Errorf("%s: dry %v", body, h.dry)
		}
	}
	h.asked = nil
	for body, want := range map[string]struct {
		code int
		kind string
	}{
		``:                                     {400, problemArguments},
		`null`:                                 {400, problemArguments},
		`[]`:                                   {400, problemArguments},
		`{}`:                                   {400, problemArguments},
		`{"entry":"product","table":"lines"}`:  {400, problemArguments},
		`{"entry":"product","all":true}`:       {400, problemArguments},
		`{"all":false}`:                        {400, problemArguments},
		`{"all":1}`:                            {400, problemArguments},
		`{"table":"lines","args":[1]}`:         {400, problemArguments},
		`{"table":"."}`:                        {400, problemArguments},
		`{"tag":""}`:                           {400, problemArguments},
		`{"tag":7}`:                            {400, problemArguments},
		`{"entry":"product","args":[1,2]}`:     {400, problemArguments},
		`{"entry":"product","args":["x"]}`:     {400, problemArguments},
		`{"entry":"product","args":[1.5]}`:     {400, problemArguments},
		`{"entry":"product","args":[[1]]}`:     {400, problemArguments},
		`{"entry":"product","args":{"id":1}}`:  {400, problemArguments},
		`{"entry":"product","arg":[1]}`:        {400, problemArguments},
		`{"entry":"product"}{"entry":"front"}`: {400, problemArguments},
		`{"entry":"product","args":[1]`:        {400, problemArguments},
		"{\"entry\":\"page\",\"args\":[\"\xff\",\"\"]}": {400, problemArguments}, // not UTF-8: encoding/json would make another text of it
		`{"entry":"page","args":["\udc00",""]}`:         {400, problemArguments},
		"{\"tag\":\"tenant:\xff\"}":                     {400, problemArguments},
		`{"tag":"tenant:\ud83d"}`:                       {400, problemArguments},
		`{"entry":"produkt","args":[1]}`:                {404, problemNoEntry},
		`"` + strings.Repeat("x", maxAsked):             {413, problemTooLong},
	} {
		if got := b.post(t, "/v1/invalidate", body); got.code != want.code || !strings.Contains(got.body, want.kind) || strings.Contains(got.body, "Go ") {
			t.Errorf("%.100s: %d %s, want %d", body, got.code, got.body, want.code)
		}
		if h.asked != nil {
			t.Fatalf("%.100s was invalidated", body)
		}
	}
}

func TestInvalidateAnswers(t *testing.T) {
	t.Parallel()
	h := &hand{}
	b := start(t, func(_ *bench, o *Options) { o.Invalidate, o.Token = h, "right" })
	const body = `{"all":true}`
	post := func(headers ...string) answer {
		return b.post(t, "/v1/invalidate", body, append([]string{"Authorization", "Bearer right"}, headers...)...)
	}
	if got := b.post(t, "/v1/invalidate", body); got.code != http.StatusUnauthorized || h.asked != nil {
		t.Errorf("without the token: %d", got.code)
	}
	if got := post("Sec-Fetch-Site", "cross-site"); got.code != http.StatusForbidden || h.asked != nil {
		t.Errorf("from another site: %d", got.code)
	}
	if got := b.do(t, http.MethodGet, "/v1/invalidate", "Authorization", "Bearer right"); got.code != http.StatusMethodNotAllowed || got.header.Get("Allow") != "POST" {
		t.Errorf("GET: %d, Allow %q", got.code, got.header.Get("Allow"))
	}
	h.done = byhand.Done{Entries: []string{}, Token: "t", Pending: "the daemon has not applied it yet"}
	if got := post(); got.code != http.StatusAccepted || got.body != `{"entries":[],"dry_run":false,"token":"t","applied":false,"pending":"the daemon has not applied it yet"}`+"\n" {
		t.Errorf("not applied yet: %d %s", got.code, got.body)
	}
	for err, want := range map[error]struct {
		code  int
		kind  string
		retry string
	}{
		byhand.ErrEntry: {404, problemNoEntry, ""}, byhand.ErrTable: {404, problemNoTable, ""}, byhand.ErrTag: {404, problemNoTag, ""}, ErrReadOnly: {503, problemNotWritten, "1"},
		ErrMayNotWrite: {500, problemNotWritten, ""}, ErrUnavailable: {503, problemUnavailable, "1"}, errors.New("secret-host"): {500, problemNotWritten, ""},
	} {
		h.err = fmt.Errorf("of secret-host: %w", err)
		got := post()
		if got.code != want.code || !strings.Contains(got.body, want.kind) || got.header.Get("Retry-After") != want.retry || strings.Contains(got.body, "secret-host") {
			t.Errorf("%v: %d %s, Retry-After %q", err, got.code, got.body, got.header.Get("Retry-After"))
		}
	}
}

// FuzzInvalidateBody: no body makes the daemon fail, and none means more than it says.
func FuzzInvalidateBody(f *testing.F) {
	for _, seed := range []string{`{"entry":"product","args":[42]}`, `{"all":true}`, `{"table":"a.b"}`, `{"entry":"page","args":["",null]}`, `{"ENTRY":"front"}`, "\x00", `{"all":true`} {
		f.Add(seed)
	}
	s := &server{Options: Options{Reader: newShelf()}}
	f.Fuzz(func(t *testing.T, body string) {
		what, _, err := s.whatOf(t.Context(), strings.NewReader(body))
		switch {
		case err != nil:
			if _, ok := errors.AsType[*argumentError](err); !ok && !errors.Is(err, ErrNoEntry) {
				t.Errorf("%q: %v", body, err)
			}
		case what.Scope == intent.Everything && !strings.Contains(strings.ToLower(body), "all") && !strings.Contains(body, `\u`):
			t.Errorf("%q means everything", body)
		case what.Scope == intent.OfKeys && len(what.Args) != len(newShelf().params[what.Entry]):
			t.Errorf("%q has %d arguments", body, len(what.Args))
		}
	})
}
