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
	if a := bounded("2"); a.cache != "miss" || a.body != changed {
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
