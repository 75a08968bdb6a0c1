package daemon_test

import (
	"strings"
	"testing"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
)

// TestCompressedOverHTTP: the answer of an entry whose values are compressed is that of one whose values are not, byte for byte, its ETag as well;
// and changing the setting changes neither the entry's version nor what is cached.
func TestCompressedOverHTTP(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	const two = `entries:
  plain: {key: "plain:{least}", query: SELECT name FROM products WHERE id >= @least ORDER BY id, result: many, allow_broad: [products]}
  small: {key: "small:{least}", query: SELECT name FROM products WHERE id >= @least ORDER BY id, result: many, allow_broad: [products]%s}
`
	w.configure(strings.Replace(two, "%s", "", 1))
	r := w.start()
	w.ready()
	before := w.until("/v1/entries/small/1", hit)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	w.rewrite(strings.Replace(two, "%s", ", compress_above: 100B", 1))
	w.start()
	w.ready()
	if a := w.until("/v1/entries/small/1", hit); a != before {
		t.Errorf("with the setting %+v, before %+v", a, before)
	}
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{w.redis.Addr}, DisableCache: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	packed := func(entry string) int {
		t.Helper()
		names, err := client.Do(t.Context(), client.B().Keys().Pattern("f:"+w.namespace+":*:"+entry+".*").Build()).AsStrSlice()
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, name := range names {
			text, err := client.Do(t.Context(), client.B().Get().Key(name).Build()).AsBytes()
			if _, _, is := fence.Packed(text); err == nil && is {
				n++
			}
		}
		return n
	}
	if n := packed("small"); n != 0 {
		t.Errorf("%d values are compressed of before the setting", n)
	}
	plain, small := w.until("/v1/entries/plain/2", hit), w.until("/v1/entries/small/2", hit)
	if plain != small || len(small.body) < 200 || small.etag == "" {
		t.Errorf("compressed %+v, plain %+v", small, plain)
	}
	if packed("small") != 1 || packed("plain") != 0 {
		t.Errorf("%d and %d values are compressed", packed("small"), packed("plain"))
	}
	for _, header := range [][]string{{"Cache-Control", "no-cache"}, {"If-None-Match", plain.etag}, {"Cache-Control", "no-cache", "If-None-Match", plain.etag}} {
		if a, b := w.get("/v1/entries/plain/2", header...), w.get("/v1/entries/small/2", header...); a != b {
			t.Errorf("%v: compressed %+v, plain %+v", header, b, a)
		}
	}
	w.pg.Exec(t, w.url, `UPDATE products SET name = 'renamed' WHERE id = 7`)
	w.until("/v1/entries/small/2", func(a answer) bool { return hit(a) && strings.Contains(a.body, `"renamed"`) })
}
