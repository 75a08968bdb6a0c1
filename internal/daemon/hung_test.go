package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/testkit"
)

// TestHungCommitKeepsTheDaemonReady: a commit that hangs in synchronous replication is in the log, and what everybody sees is
// its old row, so the store vouches for what it serves for as long as it lasts, and so does a daemon that starts meanwhile.
func TestHungCommitKeepsTheDaemonReady(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	r := w.start()
	w.ready()
	const old, changed = `{"id":7,"name":"product 7","price":7}`, `{"id":7,"name":"product 7","price":70}`
	w.until("/v1/entries/product/7", hit)
	release := w.hang(`UPDATE products SET price = 70 WHERE id = 7`)
	w.until("/metrics", func(a answer) bool { return figureOf(t, a, "freshet_waiting_parts") == 1 })

	vouches := func(price int) {
		t.Helper()
		w.pg.Exec(t, w.url, fmt.Sprintf(`SET synchronous_commit = local; UPDATE products SET price = %d WHERE id = 8`, price))
		w.until("/v1/entries/product/8", bodyIs(fmt.Sprintf(`{"id":8,"name":"product 8","price":%d}`, price)))
		if a := w.get("/v1/entries/product/7"); a.body != old {
			t.Fatalf("what nobody can see yet is served: %+v", a)
		}
		for _, path := range []string{"/readyz", "/livez"} {
			if a := w.get(path); a.status != http.StatusOK {
				t.Fatalf("GET %s beside a commit that hangs = %+v", path, a)
			}
		}
		a := w.get("/metrics")
		fresh, lag, waits := figureOf(t, a, "freshet_fresh"), figureOf(t, a, "freshet_applied_lag_seconds"), figureOf(t, a, "freshet_waiting_parts")
		if fresh != 1 || lag > 5 || waits == 0 {
			t.Fatalf("beside a commit that hangs freshet_fresh is %v, freshet_applied_lag_seconds %v and freshet_waiting_parts %v", fresh, lag, waits)
		}
	}
	// Longer than the daemon vouches for a store that is not brought up to date.
	pace := time.NewTicker(300 * time.Millisecond)
	defer pace.Stop()
	price := 1000
	for until := time.Now().Add(13 * time.Second); time.Now().Before(until); price++ {
		vouches(price)
		<-pace.C
	}
	// A stop in order waits for it, and not for ever.
	stopping := time.Now()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(stopping); took < 8*time.Second || took > 40*time.Second {
		t.Errorf("beside a commit that hangs a stop took %v", took)
	}
	w.start()
	w.ready()
	w.until("/metrics", func(a answer) bool { return figureOf(t, a, "freshet_waiting_parts") > 0 })
	vouches(price)
	release()
	w.until("/v1/entries/product/7", bodyIs(changed))
	w.until("/metrics", func(a answer) bool { return figureOf(t, a, "freshet_waiting_parts") == 0 })
}

// figureOf reads a metric without labels; -1: it is not there.
func figureOf(t *testing.T, a answer, name string) float64 {
	t.Helper()
	found := regexp.MustCompile(`(?m)^` + name + ` (.+)$`).FindStringSubmatch(a.body)
	if found == nil {
		return -1
	}
	value, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// hang has a statement's commit wait for a standby that does not exist, until release is called. Commits that pass have to
// say so.
func (w *world) hang(statement string) (release func()) {
	w.t.Helper()
	w.pg.Exec(w.t, w.url, `ALTER SYSTEM SET synchronous_standby_names = 'nobody'`, `SELECT pg_reload_conf()`)
	look, err := pgx.Connect(w.t.Context(), w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = look.Close(context.Background()) })
	// A server process reads a new setting when it next has nothing to do, a new one when it starts.
	testkit.Eventually(w.t, patience, func() error {
		fresh, err := pgx.Connect(w.t.Context(), w.url)
		if err != nil {
			return err
		}
		defer func() { _ = fresh.Close(context.Background()) }()
		var names string
		if err := fresh.QueryRow(w.t.Context(), `SHOW synchronous_standby_names`).Scan(&names); err != nil || names != "nobody" {
			return fmt.Errorf("synchronous_standby_names is %q: %w", names, err)
		}
		return nil
	})
	writer, err := pgx.Connect(w.t.Context(), w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	committed := make(chan error, 1)
	go func() {
		_, err := writer.Exec(context.Background(), statement)
		committed <- errors.Join(err, writer.Close(context.Background()))
	}()
	pid := writer.PgConn().PID()
	testkit.Eventually(w.t, patience, func() error {
		var waits bool
		err := look.QueryRow(w.t.Context(), `SELECT wait_event IS NOT DISTINCT FROM 'SyncRep' FROM pg_stat_activity WHERE pid = $1`, pid).Scan(&waits)
		if err == nil && !waits {
			err = errors.New("the commit does not hang")
		}
		return err
	})
	return func() {
		w.t.Helper()
		if _, err := look.Exec(w.t.Context(), `SELECT pg_cancel_backend($1)`, pid); err != nil {
			w.t.Fatal(err)
		}
		if err := <-committed; err != nil {
			w.t.Fatal(err)
		}
	}
}
