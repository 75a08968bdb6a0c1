package daemon_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/byhand"
	"github.com/freshet/freshet/internal/testkit"
)

// post sends a body to POST /v1/invalidate.
func (w *world) post(body string) (code int, done byhand.Done, text string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.base+"/v1/invalidate", strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	if resp.StatusCode < http.StatusBadRequest {
		if err := json.Unmarshal(answer, &done); err != nil {
			w.t.Fatalf("%s: %v", answer, err)
		}
	}
	return resp.StatusCode, done, string(answer)
}

// TestInvalidateByHand plants values that the log knows nothing of, by changing rows where nothing is published, and has them
// gone as soon as the answer is there: those that are named, and no others.
func TestInvalidateByHand(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.configure(entries + "  quiet: {key: 'quiet:{id}', query: 'SELECT price FROM products WHERE id = @id', unsafe_ignore: [products.price]}\n" +
		"  tagged: {key: 'tagged:{id}', depends_on: [], tags: by_hand}\n")
	w.pg.Exec(t, w.url, `ALTER TABLE products REPLICA IDENTITY FULL`) // so that what is ignored can be told
	w.start()
	w.ready()
	price := 1000
	quiet := func(id int) string { return fmt.Sprintf("/v1/entries/quiet/%d", id) }
	for name, tt := range map[string]struct {
		body string
		gone [3]bool // quiet 1, quiet 2, product 1
		want byhand.Done
	}{
		"a key":                {`{"entry":"quiet","args":["01"]}`, [3]bool{true, false, false}, byhand.Done{Key: "quiet:1", Entries: []string{"quiet"}}},
		"a key by its number":  {`{"entry":"quiet","args":[1]}`, [3]bool{true, false, false}, byhand.Done{Key: "quiet:1", Entries: []string{"quiet"}}},
		"an entry":             {`{"entry":"quiet"}`, [3]bool{true, true, false}, byhand.Done{Entries: []string{"quiet"}}},
		"a table":              {`{"table":"products"}`, [3]bool{true, true, true}, byhand.Done{Entries: []string{"product", "quiet"}}},
		"a table, in full":     {`{"table":"public.products"}`, [3]bool{true, true, true}, byhand.Done{Entries: []string{"product", "quiet"}}},
		"everything":           {`{"all":true}`, [3]bool{true, true, true}, byhand.Done{Entries: []string{"product", "quiet", "tagged", "user_profile"}}},
		"a key that is cached": {`{"entry":"product","args":[1]}`, [3]bool{false, false, true}, byhand.Done{Key: "product:1", Entries: []string{"product"}}},
		"a tag":                {`{"tag":"tenant:7"}`, [3]bool{false, false, false}, byhand.Done{Tag: "tenant:7", Entries: []string{"tagged"}}},
		"another table":        {`{"table":"users"}`, [3]bool{false, false, false}, byhand.Done{Entries: []string{"user_profile"}}},
		"nothing, for a look":  {`{"all":true,"dry_run":true}`, [3]bool{false, false, false}, byhand.Done{Entries: []string{"product", "quiet", "tagged", "user_profile"}, DryRun: true}},
	} {
		price++
		paths := [3]string{quiet(1), quiet(2), "/v1/entries/product/1"}
		w.pg.Exec(t, w.url, fmt.Sprintf("UPDATE products SET price = %d WHERE id IN (1, 2)", price))
		w.until(paths[2], func(a answer) bool { return strings.Contains(a.body, fmt.Sprintf(`"price":%d`, price)) }) // its rule finds that
		var before [3]string
		for i, path := range paths {
			before[i] = w.until(path, hit).body
		}
		w.pg.Exec(t, w.url, fmt.Sprintf("UPDATE products SET name = 'named by %s' WHERE id = 3", name)) // a change beside it
		code, done, text := w.post(tt.body)
		if want := tt.want; code != http.StatusOK || done.Key != want.Key || done.Tag != want.Tag || fmt.Sprint(done.Entries) != fmt.Sprint(want.Entries) ||
			done.DryRun != want.DryRun || done.Applied == done.DryRun || (done.Token == "") != done.DryRun || done.Pending != "" {
			t.Errorf("%s: POST %s = %d %s", name, tt.body, code, text)
		}
		for i, path := range paths {
			if now := w.get(path); (now.cache != "hit") != tt.gone[i] || !tt.gone[i] && now.body != before[i] {
				t.Errorf("%s: %s is a %s, %s, was %s", name, path, now.cache, now.body, before[i])
			}
		}
	}
	for body, want := range map[string]int{
		`{"entry":"nothing"}`: 404, `{"entry":"nothing","args":[1]}`: 404, `{"table":"nothing"}`: 404, `{"table":"other.products"}`: 404,
		`{"entry":"product","args":["x"]}`: 400, `{"entry":"product","args":[]}`: 400, `{"entry":"product","args":[[1]]}`: 400, `{"tag":""}`: 400,
	} {
		if code, _, text := w.post(body); code != want || !strings.Contains(text, "urn:freshet:problem:") {
			t.Errorf("POST %s = %d %s, want %d", body, code, text, want)
		}
	}
}

// TestInvalidateKeepsLoadsOut: a load that began before, and whose row is from before, is not stored after it.
func TestInvalidateKeepsLoadsOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.pg.Exec(t, w.url, `CREATE TABLE slow (id int8 PRIMARY KEY)`, `INSERT INTO slow VALUES (1)`,
		`CREATE FUNCTION elsewhere(int8) RETURNS int8 LANGUAGE plpgsql STABLE AS 'BEGIN PERFORM pg_advisory_xact_lock(77); RETURN $1; END'`)
	w.configure(strings.Replace(entries, "load_timeout: 2s", "load_timeout: 20s", 1) +
		"  slow: {key: 'slow:{id}', query: 'SELECT elsewhere(id) AS v FROM slow WHERE id = @id', functions: {elsewhere: {reads: []}}}\n")
	w.start()
	w.ready()
	w.until("/v1/entries/slow/1", hit)
	if code, _, text := w.post(`{"entry":"slow","args":[1]}`); code != http.StatusOK {
		t.Fatalf("%d %s", code, text)
	}
	conn, err := pgx.Connect(t.Context(), w.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT pg_advisory_xact_lock(77)`); err != nil {
		t.Fatal(err)
	}
	loaded := make(chan answer, 1)
	go func() { loaded <- w.get("/v1/entries/slow/1") }()
	testkit.Eventually(t, patience, func() error {
		if n := w.pg.Ask(t, w.url, `SELECT count(*)::text FROM pg_locks WHERE NOT granted AND locktype = 'advisory' AND objid = 77 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`); n != "1" {
			return fmt.Errorf("%s loads wait", n)
		}
		return nil
	})
	code, done, text := w.post(`{"entry":"slow","args":[1]}`)
	if code != http.StatusOK || !done.Applied {
		t.Errorf("POST = %d %s", code, text)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case first := <-loaded:
		if first.cache != "miss" {
			t.Errorf("the load was a %s", first.cache)
		}
	case <-time.After(patience):
		t.Fatal("the load does not end")
	}
	if second := w.get("/v1/entries/slow/1"); second.cache != "miss" {
		t.Errorf("what was loaded from before is a %s", second.cache)
	}
}
