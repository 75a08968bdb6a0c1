package daemon_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/daemon"
)

// retries collects how long the daemon says that it waits before it tries again.
type retries struct {
	mu    sync.Mutex
	waits []time.Duration
}

func (r *retries) Write(p []byte) (int, error) {
	if found := regexp.MustCompile(`trying again.* retry_in=(\S+)`).FindSubmatch(p); found != nil {
		if d, err := time.ParseDuration(string(found[1])); err == nil {
			r.mu.Lock()
			r.waits = append(r.waits, d)
			r.mu.Unlock()
		}
	}
	return len(p), nil
}

func (r *retries) taken() []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.waits)
}

// TestAMinuteAway has Redis, and in another world PostgreSQL, away for a whole minute in which prices change and readers
// read: they get answers from the other one, where there is one, the daemon tries less and less often, and comes back by itself
// to what was written last, without a gap.
func TestAMinuteAway(t *testing.T) {
	t.Parallel()
	const away = time.Minute
	for _, tt := range []struct {
		name      string
		goes      func(w *world)
		comes     func(w *world)
		writable  bool
		cached    func(a answer) bool // product 1, which was cached
		elsewhere func(a answer) bool // product 2, which was not
	}{
		{
			name: "Redis", goes: func(w *world) { w.redis.Kill(w.t) }, comes: func(w *world) { w.redis.Start(w.t) }, writable: true,
			cached:    func(a answer) bool { return a.status == http.StatusOK && a.cache == "bypass" },
			elsewhere: func(a answer) bool { return a.status == http.StatusOK && a.cache == "bypass" },
		},
		{
			name: "PostgreSQL", goes: func(w *world) { w.pg.Stop(w.t) }, comes: func(w *world) { w.pg.Start(w.t) },
			cached:    hit,
			elsewhere: func(a answer) bool { return a.status == http.StatusServiceUnavailable && a.retry != "" },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, true, "--appendonly", "yes", "--appendfsync", "always")
			c, err := config.Load(w.file, os.LookupEnv)
			if err != nil {
				t.Fatal(err)
			}
			var log retries
			w.serve(daemon.Options{Config: c, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			w.ready()
			w.until("/v1/entries/product/1", hit)
			tt.goes(w)
			w.until("/v1/entries/product/1", tt.cached) // readers, too, may take a moment to notice
			w.until("/v1/entries/product/2", tt.elsewhere)
			price := 1
			tick := time.NewTicker(500 * time.Millisecond)
			defer tick.Stop()
			heldUp := 0
			for began := time.Now(); time.Since(began) < away; <-tick.C {
				if tt.writable {
					price++
					w.pg.Exec(t, w.url, fmt.Sprintf(`UPDATE products SET price = %d WHERE id = 1`, price))
				}
				want := fmt.Sprintf(`{"id":1,"name":"product 1","price":%d}`, price)
				a := w.get("/v1/entries/product/1")
				if a.status == http.StatusServiceUnavailable { // a machine that stands still makes the other server one that does not answer, for a moment
					heldUp++
					w.until("/v1/entries/product/1", tt.cached)
				} else if !tt.cached(a) || a.body != want {
					t.Errorf("after %v, product 1: %+v, want %s", time.Since(began), a, want)
				}
				if a := w.get("/v1/entries/product/2"); !tt.elsewhere(a) {
					t.Errorf("after %v, product 2: %+v", time.Since(began), a)
				}
			}
			if heldUp > 5 {
				t.Errorf("%d reads of a value that is cached had none", heldUp)
			}
			waits := log.taken()
			if len(waits) < 5 || len(waits) > 30 || !slices.IsSorted(waits) || waits[len(waits)-1] > 5*time.Second || waits[len(waits)-1] < 2*time.Second {
				t.Errorf("in a minute, the daemon waited %v", waits)
			}
			tt.comes(w)
			w.pg.Exec(t, w.url, `UPDATE products SET price = 1000 WHERE id = 1`)
			w.until("/v1/entries/product/1", bodyIs(`{"id":1,"name":"product 1","price":1000}`))
			w.ready()
			w.until("/v1/entries/product/1", func(a answer) bool { return hit(a) && strings.Contains(a.body, "1000") })
			if m := w.get("/metrics").body; !strings.Contains(m, "freshet_gaps_total 0\n") {
				t.Errorf("there was a gap, or it is not counted: %s", regexp.MustCompile(`(?m)^freshet_gaps.*$`).FindString(m))
			}
		})
	}
}
