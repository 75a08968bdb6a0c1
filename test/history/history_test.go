package history

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// TestRedisIsEmptied takes everything away at once, in every way that there is, and single keys that matter.
func TestRedisIsEmptied(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	w := newWorld(t, redis, options{})
	head, roster := "f:"+namespace+":head", "f:"+namespace+":roster"
	for _, tt := range []struct {
		name  string
		fault func()
		lost  bool // HEAD, and with it everything
	}{
		{"killed, and empty again", func() { redis.Kill(t); redis.Start(t) }, true},
		{"FLUSHALL", func() { redis.FlushAll(t) }, true},
		{"FLUSHDB", func() { redis.Do(t, "FLUSHDB", "ASYNC") }, true},
		{"DEL of HEAD", func() { redis.Do(t, "DEL", head) }, true},
		{"DEL of the roster", func() { redis.Do(t, "DEL", roster) }, false},
		{"DEL of HEAD and roster", func() { redis.Do(t, "DEL", head, roster) }, true},
		{"DEL of every record and lease", func() {
			for range 20 {
				if names := w.records(); len(names) > 0 {
					redis.Do(t, append([]string{"DEL"}, names...)...)
				}
			}
		}, false},
	} {
		before := w.live()
		w.under(tt.fault)
		after := w.settle(tt.name)
		if moved := after.Generation != before.Generation; moved != tt.lost {
			t.Errorf("%s: a new generation began: %t, want %t", tt.name, moved, tt.lost)
		}
	}
}

// TestRedisFromAnOldDump kills Redis and has it come back with the dump of half a second before: within the rewind
// depth what it missed is delivered again, beyond it a new generation begins.
func TestRedisFromAnOldDump(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		rewind time.Duration
		lost   bool
	}{{"within the rewind depth", time.Hour, false}, {"beyond it", time.Millisecond, true}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			redis := redistest.Start(t)
			w := newWorld(t, redis, options{rewind: tt.rewind})
			before := w.live()
			w.under(func() {
				redis.Do(t, "SAVE")
				w.confirmedPastNow()
				w.quiet.Store(true)
				redis.Kill(t)
				redis.Start(t)
			})
			after := w.settle(tt.name)
			if moved := after.Generation != before.Generation; moved != tt.lost {
				t.Errorf("a new generation began: %t, want %t", moved, tt.lost)
			}
		})
	}
}

// confirmedPastNow waits until HEAD has moved a good deal, and PostgreSQL has been told as far as the rewind depth lets.
func (w *world) confirmedPastNow() {
	w.t.Helper()
	writes := w.writes.Load()
	testkit.Eventually(w.t, patience, func() error {
		if n := w.writes.Load() - writes; n < 50 {
			return fmt.Errorf("%d writes", n)
		}
		return nil
	})
	wait(w.t.Context(), 500*time.Millisecond) // the slot is told every now and then
}

// TestSentinelPromotesAReplicaThatMissedWrites cuts the replica off under load, kills the master, and has Sentinels
// promote what is left: UNLINKs and HEADs are lost that were answered. The old master comes back, and is made a replica.
func TestSentinelPromotesAReplicaThatMissedWrites(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		rewind time.Duration
		lost   bool
	}{{"within the rewind depth", time.Hour, false}, {"beyond it", time.Millisecond, true}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			master := redistest.Start(t)
			replica := master.Replica(t)
			sentinels := master.Watch(t, 3, 1)
			w := newWorld(t, master, options{redis: sentinels.URL, rewind: tt.rewind})
			before := w.live()
			var killed time.Time
			term := w.term()
			w.under(func() {
				master.ShutOut(t)
				w.confirmedPastNow()
				w.quiet.Store(true)
				master.Kill(t)
				killed = time.Now()
				sentinels.Master(t, replica)
				w.redis = replica
				w.claimedAgain(term)
				t.Logf("taken up again %v after the master was killed", time.Since(killed).Round(time.Millisecond))
				master.Start(t) // empty, and a master until the Sentinels make it a replica
			})
			after := w.settle(tt.name)
			if moved := after.Generation != before.Generation; moved != tt.lost {
				t.Errorf("a new generation began: %t, want %t", moved, tt.lost)
			}
		})
	}
}

// term is that of the daemon whom the present master obeys.
func (w *world) term() string {
	w.t.Helper()
	term, err := w.redis.Ask(w.t, "HGET", "f:"+namespace+":head", "term").ToString()
	if err != nil && !rueidis.IsRedisNil(err) {
		w.t.Fatal(err)
	}
	return term
}

// claimedAgain waits until the daemon has begun anew, on the present master.
func (w *world) claimedAgain(before string) {
	w.t.Helper()
	testkit.Eventually(w.t, patience, func() error {
		if term := w.term(); term <= before {
			return fmt.Errorf("the term is %q, and was %q", term, before)
		}
		return nil
	})
}

// TestPromotionUnderAFill has a reader hold its lease and an old row while a replica is promoted that has the lease and
// missed the confirm: the fill is accepted there (T8), and removed again when the confirm is delivered once more.
func TestPromotionUnderAFill(t *testing.T) {
	t.Parallel()
	master := redistest.Start(t)
	replica := master.Replica(t)
	sentinels := master.Watch(t, 1, 1)
	w := newWorld(t, master, options{redis: sentinels.URL, rewind: time.Hour, timeout: patience})
	slow := &gate{reached: make(chan struct{}, 1), open: make(chan struct{})}
	w.slow.Store(slow)
	read := make(chan error, 1)
	go func() {
		_, err := w.coded.Get(t.Context(), 7)
		read <- err
	}()
	<-slow.reached // the old row is loaded, under a lease
	w.slow.Store(nil)
	name := w.roster().name("coded", 7)
	master.CaughtUp(t, replica)
	master.ShutOut(t)
	if _, err := w.pool.Exec(t.Context(), "UPDATE items SET v = nextval('versions') WHERE id = 7"); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), w.url)
	if err != nil {
		t.Fatal(err)
	}
	w.applied(conn) // the confirm takes the lease away, or fences it, on the master alone
	_ = conn.Close(t.Context())
	w.daemon.Freeze()
	master.Kill(t)
	sentinels.Master(t, replica)
	w.redis = replica
	testkit.Eventually(t, patience, func() error { // readers follow by themselves
		_, err := w.queried.Get(t.Context(), 1)
		if err == nil && w.cache.Stats().Hits+w.cache.Stats().Fills == 0 {
			err = errors.New("the library does not use the new master")
		}
		return err
	})
	close(slow.open)
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	if !w.cached(name) {
		t.Fatalf("the old row is not filled: the test does not show what it is about (%v)", w.cache.Stats())
	}
	w.daemon.Thaw()
	w.settle("promoted under a fill")
}

// TestPromotionInSync promotes a replica that has everything, while the old master goes on answering.
func TestPromotionInSync(t *testing.T) {
	t.Parallel()
	master := redistest.Start(t)
	replica := master.Replica(t)
	sentinels := master.Watch(t, 1, 1)
	w := newWorld(t, master, options{redis: sentinels.URL})
	term := w.term()
	w.under(func() {
		sentinels.Failover(t, replica)
		w.redis = replica
		w.claimedAgain(term)
	})
	w.settle("promoted in sync")
}

// TestEvictionUnderEveryPolicy leaves Redis too little memory under each policy that it has.
func TestEvictionUnderEveryPolicy(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	w := newWorld(t, redis, options{})
	for _, policy := range sample(
		"noeviction", "allkeys-random", "volatile-lru", "allkeys-lru", "allkeys-lfu", "volatile-lfu", "volatile-random", "volatile-ttl",
	) {
		redis.Do(t, "CONFIG", "RESETSTAT")
		w.under(func() {
			redis.Do(t, "CONFIG", "SET", "maxmemory-policy", policy)
			used, err := strconv.ParseInt(w.info("memory", "used_memory"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			redis.Do(t, "CONFIG", "SET", "maxmemory", strconv.FormatInt(used-100<<10, 10))
			wait(t.Context(), 500*time.Millisecond)
			redis.Do(t, "CONFIG", "SET", "maxmemory", "0")
		})
		evicted, full := w.info("stats", "evicted_keys"), w.info("errorstats", "errorstat_OOM")
		if policy == "noeviction" && full == "" || policy != "noeviction" && evicted == "0" {
			t.Errorf("%s: %s keys evicted, refusals %q: the memory was never short", policy, evicted, full)
		}
		status := w.settle(policy)
		t.Logf("%s: %s keys evicted, refused for want of memory: %q, gaps so far %d", policy, evicted, full, status.Gaps)
	}
}

// sample is the list, and for quick tests no more than its beginning.
func sample[T any](list ...T) []T {
	if testing.Short() {
		return list[:min(len(list), 2)]
	}
	return list
}

// info is one field of what Redis says about itself.
func (w *world) info(section, field string) string {
	w.t.Helper()
	text, err := w.redis.Ask(w.t, "INFO", section).ToString()
	if err != nil {
		w.t.Fatal(err)
	}
	lines := strings.Split(text, "\r\n")
	at := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, field+":") })
	if at < 0 {
		return ""
	}
	return strings.TrimPrefix(lines[at], field+":")
}

// TestTooFewReplicas has a master refuse writes because too few replicas follow it: nothing is applied, nothing is
// confirmed, and nothing is lost.
func TestTooFewReplicas(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	w := newWorld(t, redis, options{})
	if _, err := w.queried.Get(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	name := w.roster().name("item", 3)
	testkit.Eventually(t, patience, func() error {
		if w.cached(name) {
			return nil
		}
		_, err := w.queried.Get(t.Context(), 3)
		return fmt.Errorf("not cached yet: %w", err)
	})
	redis.Do(t, "CONFIG", "SET", "min-replicas-to-write", "1")
	// Not even an idle daemon can compare HEAD any more.
	testkit.Eventually(t, patience, func() error {
		s, err := w.daemon.Status(t.Context())
		if err == nil && (s.Phase == "streaming" || !strings.Contains(s.Problem, "NOREPLICAS")) {
			err = fmt.Errorf("the daemon is %s: %s", s.Phase, s.Problem)
		}
		return err
	})
	wc := w.wc()
	if _, err := w.pool.Exec(t.Context(), "UPDATE items SET v = nextval('versions') WHERE id = 3"); err != nil {
		t.Fatal(err)
	}
	wait(t.Context(), 500*time.Millisecond) // what must not happen has had its time
	if now := w.wc(); now != wc {
		t.Errorf("HEAD moved from %s to %s on a server that refuses writes", wc, now)
	}
	if !w.cached(name) {
		t.Error("the record is gone from a server that refuses writes")
	}
	redis.Do(t, "CONFIG", "SET", "min-replicas-to-write", "0")
	w.settle("too few replicas")
}
