package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet"
)

// angled is a codec whose bytes are no JSON, under a name as long as that of JSON.
type angled struct{}

func (angled) Name() string { return "angl" }

func (angled) Encode(value any) ([]byte, error) { return fmt.Appendf(nil, "<%v>", value), nil }

func (angled) Decode(data []byte, into any) error {
	text, ok := into.(*string)
	if !ok {
		return errors.New("only texts")
	}
	*text = string(bytes.Trim(data, "<>"))
	return nil
}

// TestStoredAsJSONAndNone: what any program has stored under the name of JSON, and is none, is a problem of that key: it is neither sent, nor the end
// of a request for others.
func TestStoredAsJSONAndNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.configure("entries:\n  total: {key: \"total:{id}\", depends_on: [{table: products, key: \"{id}\"}]}\n")
	w.start()
	w.ready()
	cache, err := freshet.Open(t.Context(), freshet.Options{Config: w.file})
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	load := freshet.Load(func(context.Context, freshet.Querier, int64) (string, error) { return "tea", nil })
	plain, err := freshet.Entry(cache, "total", load)
	if err != nil {
		t.Fatal(err)
	}
	other, err := freshet.Entry(cache, "total", load, freshet.WithCodec[int64, string](angled{}))
	if err != nil {
		t.Fatal(err)
	}
	for key, typed := range map[int64]*freshet.Typed[int64, string]{1: plain, 2: other, 3: other} {
		if v, err := typed.Get(t.Context(), key); err != nil || v != "tea" {
			t.Fatalf("Get(%d) = %q, %v", key, v, err)
		}
	}
	w.until("/v1/entries/total/1", bodyIs(`"tea"`))
	w.rename("total:2", "\x01angl\x00", "\x01json\x00")

	const none, foreign = "urn:freshet:problem:value-not-json", "urn:freshet:problem:entry-loaded-by-code"
	for path, want := range map[string]struct {
		status int
		body   []string
	}{
		"/v1/entries/total/1":              {http.StatusOK, []string{`"tea"`}},
		"/v1/entries/total/2":              {http.StatusInternalServerError, []string{none, `"entry":"total"`}},
		"/v1/entries/total/3":              {http.StatusNotFound, []string{foreign}},
		"/v1/many/total?k=[1]&k=[2]":       {http.StatusInternalServerError, []string{none, `"argument":"k[2]"`, `"values":["tea",null]`}},
		"/v1/many/total?k=[1]&k=[3]":       {http.StatusNotFound, []string{foreign, `"values":["tea",null]`}},
		"/v1/many/total?k=[2]&k=[3]&k=[1]": {http.StatusInternalServerError, []string{none, foreign, `"argument":"k[1]"`, `"values":[null,null,"tea"]`}},
	} {
		a := w.get(path)
		for _, text := range want.body {
			if a.status != want.status || !strings.Contains(a.body, text) || strings.Contains(a.body, "<tea>") {
				t.Errorf("GET %s = %d %s, want %d with %s", path, a.status, a.body, want.status, text)
			}
		}
	}
}

// rename has the record of a key say something else in one place.
func (w *world) rename(key, was, is string) {
	w.t.Helper()
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{w.redis.Addr}, DisableCache: true})
	if err != nil {
		w.t.Fatal(err)
	}
	defer client.Close()
	names, err := client.Do(w.t.Context(), client.B().Keys().Pattern("f:"+w.namespace+":*:"+key).Build()).AsStrSlice()
	if err != nil || len(names) != 1 {
		w.t.Fatalf("the records of %s are %q, %v", key, names, err)
	}
	record, err := client.Do(w.t.Context(), client.B().Get().Key(names[0]).Build()).ToString()
	if err != nil || !strings.Contains(record, was) {
		w.t.Fatalf("the record of %s is %q, %v", key, record, err)
	}
	changed := strings.Replace(record, was, is, 1)
	if err := client.Do(w.t.Context(), client.B().Set().Key(names[0]).Value(changed).Keepttl().Build()).Error(); err != nil {
		w.t.Fatal(err)
	}
}
