package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/internal/trace"
	"github.com/freshet/freshet/mvcc"
)

// hanging is for how long a node hangs: longer than the daemon waits for it, by far.
const hanging = 8 * time.Second

// TestEveryLane: nothing happens but writes and reads, in all lanes.
func TestEveryLane(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	for lane := range fence.Lanes {
		if len(keysOf(lane)) == 0 {
			t.Fatalf("no item is in lane %d", lane)
		}
	}
	w.through(func() { w.pause(700 * time.Millisecond) })
	if n := w.pipeline.Stats().Mended.Load(); n != 0 {
		t.Errorf("%d lanes were begun anew", n)
	}
	// A bound is proved by the lane's own count, and a session follows from lane to lane.
	session := &fill.Session{}
	testkit.Eventually(t, patience, func() error {
		for id := 1; id <= rows; id++ {
			v, err := w.readers[0].GetUnder(t.Context(), "item", key(id), nil, &fill.Demand{Bounded: true, MaxStale: 2 * time.Second, Session: session})
			if err != nil {
				t.Fatal(err)
			}
			if v.Status != fill.Hit {
				return fmt.Errorf("item %d in lane %d is %v under a bound", id, laneOf(id), v.Status)
			}
		}
		return nil
	})
	// What the primary showed is renewed where it is, when it is compared again.
	w.primary.Exec(t, w.url, `UPDATE item SET n = n + 1`)
	w.settle()
	testkit.Eventually(t, patience, func() error {
		for id := 1; id <= rows; id++ {
			if v, err := w.readers[0].Get(t.Context(), "item", key(id), nil); err != nil || v.Status != fill.Hit {
				return fmt.Errorf("item %d is %v (%s), %w", id, v.Status, v.Reason, err)
			}
		}
		return nil
	})
	before := w.readers[0].Stats()
	for id := 1; id <= rows; id++ {
		v, err := w.readers[0].GetUnder(t.Context(), "item", key(id), nil, &fill.Demand{Revalidate: true})
		if err != nil || v.Status != fill.Revalidated {
			t.Errorf("item %d in lane %d is %v (%s) when it is compared, %v", id, laneOf(id), v.Status, v.Reason, err)
		}
	}
	if n := w.readers[0].Stats().Renewals - before.Renewals; n != rows {
		t.Errorf("%d renewals of %d items", n, rows)
	}
	w.histories()
}

// histories asks for that of a key in each lane, also of one that somebody has just loaded. What is noted in one lane is of all.
func (w *world) histories() {
	w.t.Helper()
	w.pause(2 * time.Second) // of so many loads as there were not every one is noted
	for lane := range fence.Lanes {
		id := keysOf(lane)[0]
		w.primary.Exec(w.t, w.url, fmt.Sprintf(`UPDATE item SET n = n + 1 WHERE id = %d`, id))
		w.settle()
		if _, err := w.readers[0].Get(w.t.Context(), "item", key(id), nil); err != nil {
			w.t.Fatal(err)
		}
		spelled, err := w.readers[0].Spell(w.t.Context(), "item", key(id))
		if err != nil || spelled.Name == "" {
			w.t.Fatalf("item %d: %+v, %v", id, spelled, err)
		}
		testkit.Eventually(w.t, patience, func() error {
			h := trace.Of(w.t.Context(), trace.Where{
				Entry: "item", Args: key(id), Key: spelled.Key, Name: spelled.Name, Epochs: spelled.Epochs,
			}, w.store, w.pipeline.Trail())
			applied, stored := false, false
			for i := range h.Events {
				switch e := &h.Events[i]; {
				case e.Kind == "invalidated" && e.Why == fmt.Sprintf("UPDATE of public.item where id = %d", id):
					applied, stored = e.Applied != nil, false
				case e.Kind == trace.Stored:
					stored = true
				}
			}
			if len(h.Problems) > 0 || h.Record == nil || h.Record.State != "live" || !applied || !stored {
				return fmt.Errorf("item %d in lane %d: applied %v, then stored %v, %+v", id, lane, applied, stored, h)
			}
			return nil
		})
	}
}

// moved moves a lane's slot key by key, in the given order of HEAD and records, slowly enough for the daemon to meet it half-way.
func (w *world) moved(lane int, headFirst bool) {
	w.t.Helper()
	from := w.master(lane)
	to := w.redis.Masters[0]
	if to == from {
		to = w.redis.Masters[1]
	}
	head := "f:" + fence.LaneNamespace(w.namespace, fence.Lanes, lane) + ":head"
	move := w.redis.Open(w.t, fence.Slot(lane), from, to)
	for i, key := range move.Keys(w.t) {
		if (key == head) == headFirst {
			move.Key(w.t, key, "REPLACE")
			if i%4 == 0 {
				w.pause(20 * time.Millisecond)
			}
		}
	}
	w.pause(100 * time.Millisecond)
	move.Finish(w.t)
}

// T16, T23: slots are moved key by key while writes and fills go on, HEAD before the records and after them, and a standby that
// stands still is loaded from.
func TestSlotsAreMovedKeyByKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.through(func() {
		w.standby.Pause(t)
		for _, lane := range []int{7, 12} {
			w.moved(lane, lane == 7)
		}
	})
	if n := w.pipeline.Stats().Mended.Load(); n < 2 || n > 6 {
		t.Errorf("%d lanes were begun anew, want those that were moved, and perhaps some more than once", n)
	}
}

// T16: the same while no daemon runs. Readers leave a lane that was moved: nobody vouches for it where it is now.
func TestSlotIsMovedWithoutDaemon(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.through(func() {
		w.stop()
		w.standby.Pause(t)
		w.moved(7, true)
		w.pause(time.Second)
		w.follow()
	})
}

// A copy of a record that a move which was given up has left behind is no value of the lane once the slot does move, though HEAD comes
// with it, and vouches for a change that the copy lacks. Every process is asked at once, and later.
func TestWhatAMoveLeftBehind(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	const lane = 7
	id := keysOf(lane)[0]
	from, to := w.master(lane), w.redis.Masters[0]
	if _, err := w.readers[0].Get(t.Context(), "item", key(id), nil); err != nil {
		t.Fatal(err)
	}
	name := w.nameOf(id)
	w.stop() // had a daemon met the open slot, the copy would be of a generation that is over
	move := w.redis.Open(t, fence.Slot(lane), from, to)
	move.Key(t, name, "COPY")
	move.Cancel(t)
	w.follow()
	w.live()
	if now := w.nameOf(id); now != name {
		t.Fatalf("the lane was begun anew: %s is %s now", name, now)
	}
	w.primary.Exec(t, w.url, fmt.Sprintf(`UPDATE item SET n = 1 WHERE id = %d`, id))
	w.settle()
	w.stop() // nobody is there to notice
	w.redis.Open(t, fence.Slot(lane), from, to).Finish(t)
	if left, err := to.Ask(t, "GET", name).ToString(); err != nil || !strings.Contains(left, `"n":0`) {
		t.Fatalf("what was left behind is %q, %v", left, err)
	}
	token := mvcc.Token{System: w.system, Timeline: 1, XID: 1} // every snapshot sees it
	ask := func(when string) {
		t.Helper()
		for range 20 { // in the first of these they learn where the lane is
			for i, r := range w.readers {
				v, err := r.Get(t.Context(), "item", key(id), nil)
				if err != nil || number(v) != 1 {
					t.Fatalf("%s reader %d has %s (%v), %v", when, i, v.Payload, v.Status, err)
				}
				v, err = r.GetUnder(t.Context(), "item", key(id), nil, &fill.Demand{After: []mvcc.Token{token}})
				if err != nil || number(v) != 1 {
					t.Fatalf("%s reader %d has %s (%v) under a token, %v", when, i, v.Payload, v.Status, err)
				}
			}
			w.pause(50 * time.Millisecond)
		}
	}
	for _, r := range w.readers { // a token is exact at once
		for range 5 {
			v, err := r.GetUnder(t.Context(), "item", key(id), nil, &fill.Demand{After: []mvcc.Token{token}})
			if err != nil || number(v) != 1 {
				t.Fatalf("a reader has %s (%v) under a token, %v", v.Payload, v.Status, err)
			}
			w.pause(50 * time.Millisecond)
		}
	}
	w.pause(1100 * time.Millisecond) // T_r: until then the others may go on with what they know
	ask("without a daemon")
	w.follow()
	w.live()
	ask("with a daemon")
}

// A gap that cannot be answered yet takes all lanes out of use. One that is of another generation after that, say because its node stood still while the
// next one was begun, is taken out of use again, and does not keep the daemon from going on.
func TestLanesDisagreeAfterAGap(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.primary.Exec(t, w.url, `ALTER TABLE item REPLICA IDENTITY NOTHING`, `ALTER PUBLICATION freshet DROP TABLE item`)
	condemned := func() error {
		head, found, err := w.store.Head(t.Context())
		if err != nil || !found || head.Publication != "condemned" || w.pipeline.Status().Phase != pipeline.Connecting {
			return fmt.Errorf("HEAD (there: %t) is of publication %q, %w", found, head.Publication, err)
		}
		return nil
	}
	testkit.Eventually(t, patience, condemned)
	const lane = 7
	split := func() {
		t.Helper()
		name := "f:" + fence.LaneNamespace(w.namespace, fence.Lanes, lane) + ":head"
		if n, err := w.master(lane).Ask(t, "HSET", name, "gen", "00000000000000aa", "pub", "another").AsInt64(); err != nil || n != 0 {
			t.Fatalf("HSET %s = %d, %v", name, n, err)
		}
	}
	split()
	testkit.Eventually(t, patience, condemned)
	split()
	w.primary.Exec(t, w.url, `ALTER TABLE item REPLICA IDENTITY DEFAULT`)
	w.live()
}

// A master is killed, and its replica takes its place without the last confirms.
func TestMasterFailsOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	w.through(func() {
		w.standby.Pause(t)
		w.redis.Masters[1].ShutOut(t)
		w.pause(300 * time.Millisecond) // what is confirmed now is lost
		w.redis.Masters[1].Kill(t)
		w.redis.FailOver(t, 1)
	})
	if n := w.pipeline.Stats().Mended.Load(); n < 6 {
		t.Errorf("%d lanes were begun anew, want the six of the master that was lost", n)
	}
}

// All of them speak TLS: nodes with each other, the daemon and readers with all nodes, those too to which a lane comes.
func TestClusterWithTLS(t *testing.T) {
	t.Parallel()
	w := newWorldOn(t, redistest.StartTLSCluster(t, 3, true))
	w.through(func() {
		w.standby.Pause(t)
		w.moved(7, true)
		w.redis.Masters[2].ShutOut(t)
		w.pause(300 * time.Millisecond)
		w.redis.Masters[2].Kill(t)
		w.redis.FailOver(t, 2)
	})
	if n := w.pipeline.Stats().Mended.Load(); n < 6 {
		t.Errorf("%d lanes were begun anew, want the one that was moved and the five of the master that was lost", n)
	}
}

// Somebody empties one node.
func TestOneNodeIsFlushed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.through(func() {
		w.standby.Pause(t)
		w.redis.Masters[0].FlushAll(t)
	})
	if n := w.pipeline.Stats().Mended.Load(); n < 5 {
		t.Errorf("%d lanes were begun anew, want the five of the node", n)
	}
}

// A node is away for good, and has no replica: its keys come from the database, the others are cached and maintained.
func TestOneNodeIsDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.redis.Masters[2].Stop(t)
	lost := func(id int) bool { return w.master(laneOf(id)) == w.redis.Masters[2] }
	testkit.Eventually(t, patience, func() error {
		for id := 1; id <= rows; id++ {
			v, err := w.readers[0].Get(t.Context(), "item", key(id), nil)
			if err != nil {
				t.Fatal(err)
			}
			if lost(id) != (v.Status == fill.Bypass) {
				return fmt.Errorf("item %d in lane %d is %v (%s)", id, laneOf(id), v.Status, v.Reason)
			}
		}
		return nil
	})
	w.primary.Exec(t, w.url, `UPDATE item SET n = 5`)
	testkit.Eventually(t, patience, func() error {
		for id := 1; id <= rows; id++ {
			v, err := w.readers[0].Get(t.Context(), "item", key(id), nil)
			if err != nil {
				t.Fatal(err)
			}
			if number(v) != 5 || !lost(id) && v.Status != fill.Hit {
				return fmt.Errorf("item %d in lane %d is %s, %v (%s)", id, laneOf(id), v.Payload, v.Status, v.Reason)
			}
		}
		return nil
	})
	w.redis.Masters[2].Start(t)
	w.through(func() {})
	if n := w.pipeline.Stats().Mended.Load(); n < 5 {
		t.Errorf("%d lanes were begun anew, want the five of the node", n)
	}
}

// A node hangs, as one does that swaps. The others are read as ever, and what is written in them is applied at once but for the
// moment in which the daemon gives the node up.
func TestOneNodeHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	hangs := w.redis.Masters[2]
	var (
		here       []int // items of the others
		took, gone time.Duration
		late, slow int
		reads      int
		hits       int
	)
	for id := 1; id <= rows; id++ {
		if w.master(laneOf(id)) != hangs {
			here = append(here, id)
		}
	}
	w.through(func() {
		w.standby.Pause(t)
		hangs.Freeze(t)
		began := time.Now()
		for i := 0; time.Since(began) < hanging; i++ {
			id := here[i%len(here)]
			wrote := time.Now()
			w.primary.Exec(t, w.url, fmt.Sprintf(`UPDATE item SET n = n + 1 WHERE id = %d`, id))
			w.appliedIn(laneOf(id))
			if lasted := time.Since(wrote); i == 0 {
				gone = lasted
			} else if took = max(took, lasted); lasted > time.Second {
				late++
			}
			for _, id := range here {
				asked := time.Now()
				v, err := w.readers[0].Get(t.Context(), "item", key(id), nil)
				if err != nil {
					t.Fatal(err)
				}
				if lasted := time.Since(asked); lasted > time.Second {
					t.Logf("a read of item %d, in lane %d, takes %v (%v)", id, laneOf(id), lasted, v.Status)
					slow++
				}
				reads++
				if v.Status == fill.Hit {
					hits++
				}
			}
		}
		hangs.Thaw(t)
	})
	t.Logf("the first write is applied after %v, the others after %v at most; %d of %d reads are hits", gone, took, hits, reads)
	// A machine that stands still makes a few of them late, and a node that held the others up would make all.
	if gone > 10*time.Second || late > 3 || slow > 5 {
		t.Errorf("the first write is applied after %v, %d others after more than a second, %v at most; %d of %d reads take more than a second",
			gone, late, took, slow, reads)
	}
	if hits < reads/2 {
		t.Errorf("%d of %d reads of the other nodes are hits", hits, reads)
	}
	if n := w.pipeline.Stats().Mended.Load(); n != 5 {
		t.Errorf("%d lanes were begun anew, want the five of the node", n)
	}
}
