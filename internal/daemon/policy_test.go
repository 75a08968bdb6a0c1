package daemon_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/daemon"
	"github.com/freshet/freshet/internal/testkit"
)

const policies = `
entries:
  product:
    key: product:{id}
    query: SELECT id, name, price FROM products WHERE id = @id
    max_staleness: 5m
    on_change: {serve_stale: {for: 4m}}
    serve_stale_on_error: 4m
    cache_control: private, max-age=60
  user:
    key: user:{id}
    query: SELECT id, name FROM users WHERE id = @id
    on_change: refresh
`

// locked keeps every reader from a table until release is called.
func (w *world) locked(table string) (release func()) {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close(w.t.Context()) })
	if _, err := conn.Exec(w.t.Context(), "BEGIN; LOCK TABLE "+table+" IN ACCESS EXCLUSIVE MODE"); err != nil {
		w.t.Fatal(err)
	}
	return func() {
		if _, err := conn.Exec(w.t.Context(), "COMMIT"); err != nil {
			w.t.Fatal(err)
		}
	}
}

// TestStaleOverHTTP: what has just changed is served at once, and says that it is stale; a request that asks for more does not get it,
// and neither does a library's read with NoStale.
func TestStaleOverHTTP(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.configure(policies)
	w.start()
	w.ready()
	const old, changed = `{"id":1,"name":"product 1","price":1}`, `{"id":1,"name":"product 1","price":2}`
	if a := w.until("/v1/entries/product/1", hit); a.caching != "private, max-age=60" {
		t.Errorf("a hit: %+v", a)
	}
	library := w.library("reader", w.file)
	library.hits(old)
	w.pg.Exec(t, w.url, "UPDATE products SET price = 2 WHERE id = 1")
	release := w.locked("products")
	a := w.until("/v1/entries/product/1", func(a answer) bool { return a.cache != "hit" })
	if a.status != http.StatusOK || a.cache != "stale" || a.body != old || a.etag == "" || a.caching != "private, no-cache" {
		t.Errorf("after the change: %+v", a)
	}
	if a := w.get("/v1/many/product?k=[1]"); a.status != http.StatusOK || a.cache != "stale=1" || a.body != "["+old+"]" || a.caching != "private, no-cache" {
		t.Errorf("as one of many: %+v", a)
	}
	if a := w.get("/v1/entries/product/1", "If-None-Match", a.etag); a.status != http.StatusNotModified || a.cache != "stale" {
		t.Errorf("a conditional request: %+v", a)
	}
	for _, directive := range []string{"no-cache", "max-age=3600", "max-age=0"} {
		if a := w.get("/v1/entries/product/1", "Cache-Control", directive); a.status != http.StatusServiceUnavailable || a.retry == "" {
			t.Errorf("%s: %+v", directive, a)
		}
	}
	if got, err := library.read(); err != nil || got != old {
		t.Errorf("the library reads %s, %v", got, err)
	}
	if v, err := library.products.Get(t.Context(), 1, freshet.NoStale()); err == nil {
		t.Errorf("with NoStale it reads %s", v)
	}
	metrics := w.get("/metrics").body
	if !strings.Contains(metrics, `freshet_reads_stale_total{cause="changed"}`) || strings.Contains(metrics, `freshet_reads_stale_total{cause="changed"} 0`) {
		t.Error("no metric counts what was served stale")
	}
	release()
	w.until("/v1/entries/product/1", func(a answer) bool { return hit(a) && a.body == changed })
	library.hits(changed)
	a = w.get("/metrics")
	if !strings.Contains(a.body, `freshet_entry_objective_met{entry="product"} 1`) {
		t.Error("the objective is not met although the bound and what is served stale are within it")
	}
}

// TestRefreshOnChange: the daemon loads again what was cached when it changed, so that its readers hit; what they have stopped to read
// it soon leaves alone.
func TestRefreshOnChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.configure(policies)
	w.start()
	w.ready()
	refreshes := func() (r daemon.Refreshes) {
		var st daemon.Status
		if err := json.Unmarshal([]byte(w.get("/v1/status").body), &st); err != nil {
			t.Fatal(err)
		}
		return st.Refreshes
	}
	w.pg.Exec(t, w.url, "INSERT INTO users VALUES (2, 'Bo')")
	w.pg.Exec(t, w.url, "UPDATE users SET name = 'Not read' WHERE id = 2")
	w.until("/v1/entries/user/1", hit)
	var before uint64
	for i := range 5 {
		name := fmt.Sprintf("name %d", i)
		w.pg.Exec(t, w.url, fmt.Sprintf("UPDATE users SET name = '%s' WHERE id = 1", name))
		testkit.Eventually(t, patience, func() error {
			if r := refreshes(); r.Stored != before+1 {
				return fmt.Errorf("after change %d: %+v", i, r)
			}
			return nil
		})
		before++
		if a := w.get("/v1/entries/user/1"); a.cache != "hit" || a.body != `{"id":1,"name":"`+name+`"}` {
			t.Errorf("change %d: %+v", i, a)
		}
	}
	// Nobody fills it any more: the daemon gives up, and what it was invalidated for is loaded by the next reader.
	for i := range 20 {
		sent := refreshes() // before the change: its refresh may be over soon
		w.pg.Exec(t, w.url, fmt.Sprintf("UPDATE users SET name = 'unread %d' WHERE id = 1", i))
		if refreshes().Left > 0 {
			break
		}
		testkit.Eventually(t, patience, func() error {
			if r := refreshes(); r.Left == sent.Left && r.Stored == sent.Stored {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})
	}
	r := refreshes()
	if r.Left != 1 || r.Stored > 16 || r.Dropped != 0 {
		t.Errorf("%+v", r)
	}
	for range 5 {
		w.pg.Exec(t, w.url, "UPDATE users SET name = 'still unread' WHERE id = 1")
	}
	w.until("/v1/entries/user/1", bodyIs(`{"id":1,"name":"still unread"}`))
}
