package pipeline_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// count has the store count, as a reader that bounds staleness does.
func (r *rig) count() fence.Tick {
	r.t.Helper()
	tick, err := r.store.Tick(r.t.Context(), 0)
	if err != nil {
		r.t.Fatal(err)
	}
	return tick
}

// reached waits until HEAD has come to a tick, and says how long that took.
func (r *rig) reached(tick fence.Tick) time.Duration {
	r.t.Helper()
	began := time.Now()
	testkit.Eventually(r.t, patience, func() error {
		if head := r.head(); !head.Tick.Reaches(tick) {
			return fmt.Errorf("asked for %v, HEAD has %v", tick, head.Tick)
		}
		return nil
	})
	return time.Since(began)
}

// TestIdleDatabaseKeepsTheBoundTight: nothing is written, and HEAD answers all the same, without going further for it. When
// nobody asks, nothing is written to the store but now and then.
func TestIdleDatabaseKeepsTheBoundTight(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t, pgtest.Options{})
	r := newRig(t, options{pg: pg})
	d := r.start()
	d.streaming()
	r.reached(r.count()) // the daemon looks often from now on
	var took []time.Duration
	for range 20 {
		took = append(took, r.reached(r.count()))
	}
	slices.Sort(took)
	t.Logf("HEAD answered after %v (median), %v at most", took[len(took)/2], took[len(took)-1])
	if median := took[len(took)/2]; median > 500*time.Millisecond {
		t.Errorf("HEAD answered after %v", median)
	}
	testkit.Eventually(t, patience, func() error {
		if since := time.Since(d.Status().Horizon); since > 2*time.Second {
			return fmt.Errorf("the daemon knows of no bound below %v", since)
		}
		return nil
	})
	tick := r.head().Tick
	before, began := d.Stats().Batches.Load(), time.Now()
	pauseFor(t, 3*time.Second)
	if batches, took := d.Stats().Batches.Load()-before, time.Since(began); float64(batches) > 5*took.Seconds() {
		t.Errorf("%d batches in %v in which nobody asked", batches, took)
	}
	if now := r.head().Tick; now != tick {
		t.Errorf("the tick went from %v to %v, and nobody asked", tick, now)
	}
}

// pauseFor lets time pass, for what is about time itself.
func pauseFor(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// TestSaIsConfirmed checks D6 under writers, of which one hangs in synchronous replication now and then: whatever HEAD's Sa
// sees was visible, and its key had been unlinked, when HEAD was read. And a tick is reached only by a snapshot that was taken
// after it was asked for: it sees all that had been committed then.
func TestSaIsConfirmed(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t, pgtest.Options{})
	r := newRig(t, options{pg: pg})
	r.start().streaming()
	var committed atomic.Uint64 // the last one that has returned
	stop := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		conn := r.connect()
		defer func() { _ = conn.Close(context.Background()) }()
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			var x uint64
			err := conn.QueryRow(context.Background(),
				`UPDATE items SET v = 'x' WHERE id = 1 RETURNING pg_current_xact_id()::text::bigint`).Scan(&x)
			if err != nil {
				done <- err
				return
			}
			committed.Store(x)
		}
	}()
	for range 40 {
		before := committed.Load()
		tick := r.count()
		r.reached(tick)
		if sa := r.head().Sa; before != 0 && uint64(sa.Xmax) <= before {
			t.Fatalf("HEAD has reached a tick that was asked for after %d was committed, and Sa is %v", before, sa)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestHungCommitDoesNotHoldUpTheBound: Wc waits for it; Sa, which does not see it, goes on, with what was committed meanwhile.
func TestHungCommitDoesNotHoldUpTheBound(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t, pgtest.Options{})
	r := newRig(t, options{pg: pg})
	d := r.start()
	d.streaming()
	r.synchronous()
	hung, free := r.cached("items", 1), r.cached("items", 2)
	show := r.hang(`UPDATE items SET v = 'hangs' WHERE id = 1`)
	d.await("holding the hung commit", func(st pipeline.Status) bool { return st.Waiting > 0 })
	stuck := r.head()
	var x uint64
	conn := r.connect()
	if _, err := conn.Exec(t.Context(), `SET synchronous_commit = local`); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(t.Context(), `UPDATE items SET v = 'passes' WHERE id = 2 RETURNING pg_current_xact_id()::text::bigint`).Scan(&x); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close(t.Context())
	r.reached(r.count())
	r.reached(r.count())
	head := r.head()
	if head.Wc != stuck.Wc {
		t.Errorf("Wc went from %v to %v past a commit that hangs", stuck.Wc, head.Wc)
	}
	if uint64(head.Sa.Xmax) <= x || len(head.Sa.Xip) == 0 {
		t.Errorf("Sa is %v, and %d was committed while another hangs", head.Sa, x)
	}
	if r.present(free) {
		t.Error("Sa sees a transaction whose key is still there")
	}
	show()
	r.gone(hung)
	r.reached(r.count())
	if sa := r.head().Sa; len(sa.Xip) != 0 {
		t.Errorf("Sa is %v after the end of the hung commit", sa)
	}
}

// TestStalledLogProvesNothing stops the server's sender: HEAD does not answer until it goes on.
func TestStalledLogProvesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	d := r.start()
	d.streaming()
	r.reached(r.count())
	sender, err := os.FindProcess(int(r.slotState().ActivePID))
	if err != nil {
		t.Fatal(err)
	}
	signal := func(s syscall.Signal) {
		if err := sender.Signal(s); err != nil {
			t.Errorf("%v: %v", s, err)
		}
	}
	signal(syscall.SIGSTOP)
	t.Cleanup(func() { signal(syscall.SIGCONT) })
	r.exec(`UPDATE items SET v = 'late' WHERE id = 1`)
	tick := r.count()
	horizon := d.Status().Horizon
	pauseFor(t, 2*time.Second)
	if head := r.head(); head.Tick.Reaches(tick) {
		t.Fatalf("HEAD has reached %v, which was asked for after a change that it cannot know: %v", tick, head.Tick)
	}
	if now := d.Status().Horizon; !now.Equal(horizon) && time.Since(now) < time.Second {
		t.Errorf("the daemon believes that the store was up to date %v ago", time.Since(now))
	}
	signal(syscall.SIGCONT)
	r.reached(tick)
}

// TestTicksAcrossDaemonsAndGenerations: a daemon that takes over answers under a name of its own, and a new generation
// begins with none.
func TestTicksAcrossDaemonsAndGenerations(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	first := r.start()
	first.streaming()
	tick := r.count()
	r.reached(tick)
	first.stop()
	left := r.count() // asked for while nobody answers
	second := r.start()
	second.streaming()
	next := r.count()
	if next.ID == left.ID {
		t.Errorf("the daemon that took over goes on with the count %v of the one before", left)
	}
	r.reached(next)
	if r.head().Tick.Reaches(left) {
		t.Errorf("what was asked of the daemon before is answered by %v", r.head().Tick)
	}
	second.stop()
	redisDo(t, r.redisURL, "DEL", "f:"+r.namespace+":head")
	third := r.start()
	third.streaming()
	again := r.count()
	if r.head().Tick.Reaches(next) {
		t.Errorf("the new generation has the tick %v of the one before", r.head().Tick)
	}
	r.reached(again)
}
