package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestChaos breaks one thing after the other under load. After each, everything must come to rest by itself, with
// nothing stale.
//
//nolint:paralleltest // it measures times, and needs the machine for itself
func TestChaos(t *testing.T) {
	seed := seedOf(t)
	t.Logf("SEED=%d", seed)
	if *chaosCluster {
		newWorldOn(t, seed, newNodes(t)).chaos(*chaosTime)
	} else {
		newWorld(t, seed).chaos(*chaosTime)
	}
}

// TestChaosInACluster is the short form where the store is a Redis Cluster.
//
//nolint:paralleltest // it measures times, and needs the machine for itself
func TestChaosInACluster(t *testing.T) {
	seed := seedOf(t)
	t.Logf("SEED=%d", seed)
	newWorldOn(t, seed, newNodes(t)).chaos(0)
}

// chaos runs for as long as that, or in the short form.
func (w *world) chaos(lasts time.Duration) {
	t, seed := w.t, w.seed
	w.serve()
	if err := w.whole(t.Context()); err != nil {
		t.Fatalf("the daemon does not start: %v", err)
	}
	stop := w.load()
	defer stop()
	w.runFaults(lasts)
	w.summary()
	stop()
	w.stopDaemons()
	w.nothingLeft()

	count, texts := w.violations.read()
	const shown = 100
	for _, text := range texts[:min(len(texts), shown)] {
		t.Error(text)
	}
	if unseen := w.unseen(); count == 0 && len(unseen) > 0 {
		t.Errorf("there was none of these, and nothing was shown about them: %s", strings.Join(unseen, ", "))
	}
	t.Logf("SEED=%d, violations %d", seed, count)
}

// runFaults goes through the faults: all of them in random order and over again until the time is up, or, in the short
// form, the most important ones, once.
func (w *world) runFaults(lasts time.Duration) {
	source := rand.New(rand.NewPCG(w.seed, 0))
	short := lasts == 0
	end := time.Now().Add(lasts)
	pause := 2 * time.Second
	if short {
		pause = 500 * time.Millisecond
	}
	all := slices.DeleteFunc(w.faults(short), func(f fault) bool {
		return short && !f.short && *chaosOnly == "" || !strings.Contains(f.name, *chaosOnly)
	})
	if len(all) == 0 {
		w.t.Fatalf("no fault is named like %q", *chaosOnly)
	}
	if short && testing.Short() {
		all = all[:min(len(all), 2)]
	}
	if !w.restOrStop("nothing was broken yet") {
		return
	}
	w.stayCalm(bound + 1500*time.Millisecond)
	var left []fault
	next := func() fault {
		if len(left) == 0 {
			if left = slices.Clone(all); !short {
				source.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
			}
		}
		f := left[0]
		left = left[1:]
		return f
	}
	for round := 1; short && round <= len(all) || !short && time.Now().Before(end); round++ {
		began := time.Now()
		f := next()
		name := f.name
		if !w.breaks(f, source) {
			return
		}
		if !short && source.IntN(3) == 0 { // another one, before the first is mended
			f = next()
			name += ", and " + f.name
			if !w.breaks(f, source) {
				return
			}
		}
		w.some(source, pause) // the load goes on over what it left
		done := time.Now()
		if !w.restOrStop(name) {
			return
		}
		w.t.Logf("%s: %v, at rest %v later", name, done.Sub(began).Round(time.Millisecond), time.Since(done).Round(time.Millisecond))
		if *chaosOnly != "" {
			w.logs()
		}
		if !short && round%4 == 0 {
			w.stayCalm(bound + 2*time.Second)
		}
	}
}

// breaks does one fault, and says whether it could.
func (w *world) breaks(f fault, source *rand.Rand) bool {
	w.counts.fault(f.name)
	if f.forgets != nobody {
		w.applied.believe(false)
	}
	if f.forgets == theDatabase {
		w.kept.lose()
	}
	if err := f.do(w, source); err != nil {
		w.violation("%s: %v", f.name, err)
		w.logs()
		return false
	}
	return true
}

// restOrStop has everything come to rest, and says whether it makes sense to go on.
func (w *world) restOrStop(after string) bool {
	if err := w.rest(w.t.Context()); err != nil {
		w.violation("after this: %s: it does not come to rest: %v", after, err)
	}
	w.diedByThemselves()
	if count, _ := w.violations.read(); count > 0 {
		w.t.Logf("violations after this: %s", after)
		w.logs()
		return false
	}
	return true
}

// stayCalm breaks nothing for a while, in which readers judge what they get.
func (w *world) stayCalm(d time.Duration) {
	now := time.Now()
	w.calm.Store(&now)
	wait(w.t.Context(), d)
	w.calm.Store(nil)
}

func (w *world) logs() {
	for _, d := range w.running() {
		lines := strings.Split(d.Log(), "\n")
		w.t.Logf("the end of the log of daemon %s:\n%s", d.Name, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}

// unseen are the things of which a run must have had some, and did not.
func (w *world) unseen() (none []string) {
	c, stats := &w.counts, w.library.cache.Stats()
	for name, n := range map[string]int64{
		"commits": c.committed.Load(), "commits of psql": c.psql.Load(), "commits in two phases": c.prepared.Load(), "strict commits": c.strict.Load(),
		"reads judged by what was applied": c.judgedApplied.Load(), "reads judged while nothing was broken": c.judged.Load(),
		"values judged by what they claim": c.witnessed.Load(), "values of the replica": c.witnessedReplica.Load(), "reads by token": c.byToken.Load(),
		"reads by a bound": c.byBound.Load(), "conditional reads": c.byDatabase.Load(), "renewals": int64(stats.Renewals), "reads held against strict commits": c.byStrict.Load(), "reads through sessions": c.bySession.Load(),
		"sessions": c.chapters.Load(), "refused fills": int64(refusedFills(stats.Refused)),
		"hits in memory": int64(stats.HitsL1), "hits without memory": int64(w.bare.cache.Stats().Hits), "values that memory was told of": int64(stats.L1.Pushed),
	} {
		if n == 0 {
			none = append(none, name)
		}
	}
	slices.Sort(none)
	return none
}

func refusedFills(byReason map[string]uint64) (all uint64) {
	for _, n := range byReason {
		all += n
	}
	return all
}

// summary prints what happened.
func (w *world) summary() {
	c := &w.counts
	stats := w.library.cache.Stats()
	c.mu.Lock()
	defer c.mu.Unlock()
	names := make([]string, 0, len(c.faults))
	for name, n := range c.faults {
		names = append(names, fmt.Sprintf("%s %d", name, n))
	}
	slices.Sort(names)
	w.t.Logf("transactions %d, of psql %d, rolled back %d, in two phases %d, strict %d; undone by faults or deadlocks %d, known only from the database %d, cached and lost by a crash %d; "+
		"of all %d stayed open a while, %d truncated", c.committed.Load(), c.psql.Load(), c.rolledBack.Load(), c.prepared.Load(), c.strict.Load(),
		c.undone.Load(), c.settled.Load(), c.lost.Load(), c.long.Load(), c.truncates.Load())
	w.t.Logf("reads %d, failed %d; library: hits %d (%d in memory), loads %d, fills %d, refused fills %d (%v), replicas %v; gateway: hits %d, others %d",
		c.reads.Load(), c.failedReads.Load(), stats.Hits, stats.HitsL1, stats.Loads, stats.Fills, refusedFills(stats.Refused), stats.Refused, stats.Replicas, c.gatewayHits.Load(), c.gatewayOthers.Load())
	w.t.Logf("judged: by what was applied %d, by a bound of %v while nothing was broken %d, by what they claim to contain %d, from a replica %d, "+
		"by token %d, by a bound %d, conditional reads %d (%d unchanged, %d renewed), by strict commits %d, through sessions %d (%d)", c.judgedApplied.Load(), bound, c.judged.Load(), c.witnessed.Load(),
		c.witnessedReplica.Load(), c.byToken.Load(), c.byBound.Load(), c.byDatabase.Load(), stats.Unchanged, stats.Renewals, c.byStrict.Load(),
		c.bySession.Load(), c.chapters.Load())
	w.t.Logf("at rest %d times, records compared %d, found fresh by verify %d, generations %d, daemons %d, applications %d",
		c.quiescent.Load(), c.compared.Load(), c.verified.Load(), len(c.generations), c.daemons.Load(), w.applications)
	w.t.Logf("faults: %s", strings.Join(names, "; "))
}

// stopDaemons ends the run in order.
func (w *world) stopDaemons() {
	w.diedByThemselves()
	for _, d := range w.running() {
		w.dismiss(d)
		if err := d.Stop(); err != nil {
			w.violation("at the end: %v", err)
		}
	}
}

// nothingLeft checks that no session of freshet is left in the database, nor in Redis.
func (w *world) nothingLeft() {
	err := until(w.t.Context(), func(ctx context.Context) error {
		left, err := w.query(ctx, `SELECT application_name || ': ' || query FROM pg_stat_activity
			WHERE backend_type IN ('client backend', 'walsender') AND pid <> pg_backend_pid() AND datname = current_database()`)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("sessions are left in the database: %q", left)
		}
		return err
	})
	if err != nil {
		w.violation("at the end: %v", err)
	}
}
