package daemon_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/testkit"
)

// TestBoundedReadsThroughTheGateway: served from the cache once HEAD proves the bound, on a database that is idle, and from
// the database when the log is not delivered, which /readyz and the metrics say.
func TestBoundedReadsThroughTheGateway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	w.configure(entries + "    max_staleness: 3s\n  quick:\n    key: quick:{id}\n    query: SELECT id FROM products WHERE id = @id\n" +
		"    ttl: 100ms\n    negative_ttl: 100ms\n    max_staleness: 2700ms\n")
	w.start()
	w.ready()
	bounded := func(seconds string) answer {
		return w.get("/v1/entries/product/7", "Cache-Control", "max-age="+seconds)
	}
	served := func(seconds, body string) {
		t.Helper()
		testkit.Eventually(t, patience, func() error {
			if a := bounded(seconds); a.cache != "hit" || a.body != body {
				return fmt.Errorf("max-age=%s: %+v", seconds, a)
			}
			return nil
		})
	}
	const old, changed = `{"id":7,"name":"product 7","price":7}`, `{"id":7,"name":"product 7","price":70}`
	served("2", old)
	hits := 0
	for range 40 {
		if bounded("5").cache == "hit" {
			hits++
		}
	}
	if hits < 35 {
		t.Errorf("%d of 40 bounded reads on an idle database are hits", hits)
	}
	metric := func(want string) func(a answer) bool {
		return func(a answer) bool { return strings.Contains(a.body, want+"\n") }
	}
	w.until("/metrics", metric(`freshet_entry_objective_met{entry="user_profile"} 1`))

	resume := w.stopSender()
	w.pg.Exec(t, w.url, `UPDATE products SET price = 70 WHERE id = 7`)
	stopped := time.Now()
	if a := w.get("/v1/entries/product/7"); a.cache != "hit" || a.body != old {
		t.Errorf("a read without a bound: %+v", a)
	}
	// The bound holds to the moment: from two seconds after the log stopped on, none is served from before.
	for time.Since(stopped) < 4*time.Second {
		began := time.Now()
		if a := bounded("2"); a.body == old && began.Sub(stopped) > 2*time.Second {
			t.Fatalf("%v after the change: %+v", began.Sub(stopped), a)
		}
	}
	if a := bounded("2"); a.body != changed {
		t.Errorf("with a log that is not delivered: %+v", a)
	}
	w.until("/metrics", metric(`freshet_entry_objective_met{entry="user_profile"} 0`))
	w.until("/metrics", metric(`freshet_entry_objective_met{entry="quick"} 1`)) // its TTL is short enough
	if a := w.until("/readyz", func(a answer) bool { return a.status == http.StatusServiceUnavailable }); !strings.Contains(a.body, "was delivered up to") ||
		!strings.Contains(a.body, "reads that bound staleness go to the database") {
		t.Errorf("/readyz says %s", a.body)
	}
	resume()
	w.ready()
	served("2", changed)
	w.until("/metrics", metric(`freshet_entry_objective_met{entry="user_profile"} 1`))
}

// TestBoundsWhileReplicationStalls: what cannot be proved is asked of the database, as the entry's policy says, once in the time
// that the bound allows, and no read gets what is older; conditional reads go on as ever.
func TestBoundsWhileReplicationStalls(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	w.configure(entries + "  whole:\n    key: whole:{id}\n    query: SELECT id, price FROM products WHERE id = @id\n    on_unproved: load\n")
	w.start()
	w.ready()
	for _, path := range []string{"/v1/entries/product/8", "/v1/entries/product/9", "/v1/entries/whole/8"} {
		w.until(path, func(a answer) bool { return a.cache == "hit" })
	}
	resume := w.stopSender()
	w.until("/readyz", func(a answer) bool { return a.status == http.StatusServiceUnavailable })
	// Four seconds of reads that may miss what is older than one. One after the other: on an idle database, what the process has
	// seen for one entry proves the other's bound too.
	for _, x := range []struct{ entry, asked string }{{"product", "revalidated"}, {"whole", "miss"}} {
		counts, began := map[string]int{}, time.Now()
		few := func() bool { return counts[x.asked] < 2 || counts["hit"] < 2*counts[x.asked] } // a busy machine reads little in a second
		for time.Since(began) < 4*time.Second || few() && time.Since(began) < patience {
			counts[w.get("/v1/entries/"+x.entry+"/8", "Cache-Control", "max-age=1").cache]++
		}
		if most := int(time.Since(began)/time.Second) + 2; few() || counts[x.asked] > most || len(counts) > 2 {
			t.Errorf("%s: %v: it is to be %s once a second, and a hit otherwise", x.entry, counts, x.asked)
		}
	}
	if a := w.get("/v1/entries/product/9", "Cache-Control", "no-cache"); a.cache != "revalidated" {
		t.Errorf("no-cache: %+v", a)
	}
	const changed = `{"id":8,"name":"product 8","price":80}`
	w.pg.Exec(t, w.url, `UPDATE products SET price = 80 WHERE id = 8`)
	for committed := time.Now(); time.Since(committed) < 2*time.Second; {
		began := time.Now()
		if a := w.get("/v1/entries/product/8", "Cache-Control", "max-age=1"); a.body != changed && began.Sub(committed) > time.Second {
			t.Fatalf("%v after the change: %+v", began.Sub(committed), a)
		}
	}
	w.pg.Exec(t, w.url, `UPDATE products SET price = 90 WHERE id = 9`)
	if a := w.get("/v1/entries/product/9", "Cache-Control", "no-cache"); a.cache != "miss" || a.body != `{"id":9,"name":"product 9","price":90}` {
		t.Errorf("no-cache after a change: %+v", a)
	}
	resume()
	w.ready()
}

// stopSender stops the server's process that sends the log, until resume is called.
func (w *world) stopSender() (resume func()) {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = conn.Close(w.t.Context()) }()
	var pid int
	if err := conn.QueryRow(w.t.Context(), `SELECT active_pid FROM pg_replication_slots WHERE database = current_database()`).Scan(&pid); err != nil {
		w.t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		w.t.Fatal(err)
	}
	resume = sync.OnceFunc(func() {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(resume)
	return resume
}
