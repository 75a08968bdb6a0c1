package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/trace"
)

// Named is Params: the types are known here.
func (s *shelf) Named(ctx context.Context, entry string) ([]rule.Param, error) {
	return s.Params(ctx, entry)
}

// Trace answers with one of everything, and with the arguments that it was asked for.
func (s *shelf) Trace(_ context.Context, entry string, args []keytext.Arg) (any, error) {
	if s.err != nil {
		return nil, s.err
	}
	now, id := time.Now(), "7"
	h := trace.History{
		Entry: entry, Args: []*string{}, Key: "product:7", Name: "f:shop:1:product.2.3:product:7", Since: &now, Problems: []string{},
		Record: &trace.Record{State: "live", Stamp: "748:748:", Filled: &now, Fences: []trace.Fence{{XID: 7, End: "0/7"}}, Epochs: []string{"~0"}},
		Events: []trace.Event{
			{
				At: now, Kind: "invalidated", Why: "why", XID: 748, LSN: "0/7", Committed: &now, Applied: &now, Version: "1", Table: "public.products",
				Op: "UPDATE", Row: map[string]*string{"id": &id, "name": nil}, Image: "old", Rule: 1, Class: "EXACT", Epoch: "~0",
			},
			{
				At: now, Kind: "refused", Why: "why", By: "host/1", Outcome: "below_floor", Negative: true, Coverage: "748:748:", Took: 0.5, Bytes: 7,
				Replica: true, Error: "none", Count: 1,
			},
		},
	}
	for i := range args {
		if args[i].Null {
			h.Args = append(h.Args, nil)
		} else {
			h.Args = append(h.Args, &args[i].Text)
		}
	}
	return &h, nil
}

// TestTrace: the arguments of a trace are those of a read, in the path or by name, in canonical text.
func TestTrace(t *testing.T) {
	t.Parallel()
	b := start(t)
	for path, want := range map[string]string{
		"/v1/trace/product/7":               `["7"]`,
		"/v1/trace/product/007":             `["7"]`,
		"/v1/trace/product?id=7":            `["7"]`,
		"/v1/trace/product":                 `[null]`,
		"/v1/trace/page/a%2Fb/":             `["a/b",""]`,
		"/v1/trace/page?slug=":              `["",null]`,
		"/v1/trace/page?lang=en&slug=%22x+": `["\"x ","en"]`,
		"/v1/trace/front":                   `[]`,
	} {
		got := b.do(t, http.MethodGet, path)
		var h struct {
			Args json.RawMessage `json:"args"`
		}
		if err := json.Unmarshal([]byte(got.body), &h); err != nil || got.code != http.StatusOK || string(h.Args) != want {
			t.Errorf("%s = %d %s, want the arguments %s", path, got.code, got.body, want)
		}
		if control := got.header.Get("Cache-Control"); control != "no-store" {
			t.Errorf("%s: Cache-Control %q", path, control)
		}
	}
	for path, want := range map[string]int{
		"/v1/trace/product/seven": 400, "/v1/trace/product/7/8": 400, "/v1/trace/product?ID=7": 400, "/v1/trace/product/7?id=7": 400,
		"/v1/trace/produkt/7": 404, "/v1/trace/": 404, "/v1/trace": 404,
	} {
		if got := b.do(t, http.MethodGet, path); got.code != want {
			t.Errorf("%s = %d %s, want %d", path, got.code, got.body, want)
		}
	}
	if diff := cmp.Diff("GET, HEAD", b.do(t, http.MethodDelete, "/v1/trace/product/7").header.Get("Allow")); diff != "" {
		t.Error(diff)
	}
	if got := b.do(t, http.MethodHead, "/v1/trace/product/7"); got.code != http.StatusOK || got.body != "" {
		t.Errorf("HEAD = %d %q", got.code, got.body)
	}
}

// TestTraceLoadsNothing: a trace reads no value.
func TestTraceLoadsNothing(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.shelf.asked.Bounded = true // a read would overwrite it
	if got := b.do(t, http.MethodGet, "/v1/trace/product/7", "Cache-Control", "no-cache"); got.code != http.StatusOK || !b.shelf.asked.Bounded {
		t.Errorf("%d, %+v", got.code, b.shelf.asked)
	}
	if metrics := b.do(t, http.MethodGet, "/metrics").body; strings.Contains(metrics, `freshet_gateway_requests_total{code="200"`) {
		t.Error("a trace counts as a read")
	}
}
