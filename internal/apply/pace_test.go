package apply

import (
	"testing"
	"time"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/mvcc"
)

// TestPatientQueue holds that commits leave an applier alone which said that it comes by itself, until there is much
// to do, and wake one that waits.
func TestPatientQueue(t *testing.T) {
	t.Parallel()
	q := NewQueue(nil)
	woken := func() bool {
		select {
		case <-q.wake:
			return true
		default:
			return false
		}
	}
	commit := func(x int) (wakes bool) {
		t.Helper()
		if err := q.Begin(t.Context(), change.Begin{XID: mvcc.XID(x), End: mvcc.LSN(x)}); err != nil {
			t.Fatal(err)
		}
		if err := q.Commit(t.Context(), change.Commit{Position: change.Position(x)}); err != nil {
			t.Fatal(err)
		}
		return woken()
	}
	if !commit(1) {
		t.Error("a commit did not wake the applier")
	}
	if part, _ := q.take(); part == nil {
		t.Fatal("nothing to take")
	}
	if q.wait() {
		t.Error("wait() = true with nothing there")
	}
	for x := 2; x < wakeItems+1; x++ {
		if commit(x) {
			t.Fatalf("transaction %d woke a patient applier", x)
		}
	}
	if !commit(wakeItems + 2) {
		t.Error("a part with much in it did not wake a patient applier")
	}
	if !q.wait() {
		t.Error("wait() = false with much there")
	}
	q.take()
	if !commit(wakeItems + 3) {
		t.Error("a commit did not wake an applier that has taken and not said to wait")
	}
	q.take()
	if q.wait() {
		t.Error("wait() = true with nothing left")
	}
	q.Close()
	if !woken() || !q.wait() {
		t.Error("a patient applier was not told of the end")
	}
}

// TestPace holds that only an applier far behind the log lets parts fill, and not for long.
func TestPace(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name            string
		newest, insert  mvcc.LSN
		least, greatest time.Duration
	}{
		{"up to date", 1 << 30, 1 << 30, 0, 0},
		{"a little behind", 1 << 30, 1<<30 + farBehind, 0, 0},
		{"behind", 1 << 30, 1<<30 + 2*farBehind, time.Millisecond, lastLinger},
		{"far behind", 1 << 30, 1 << 40, lastLinger, lastLinger},
		{"ahead of what the gate saw", 1 << 30, 1 << 20, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := New(Options{Queue: NewQueue(nil)})
			a.newest = tt.newest
			a.pace(tt.insert)
			if a.linger < tt.least || a.linger > tt.greatest {
				t.Errorf("pace() lingers %v, want %v to %v", a.linger, tt.least, tt.greatest)
			}
			if got := a.ready(time.Now()); got != (tt.greatest == 0) {
				t.Errorf("ready() = %t at once", got)
			}
			if !a.ready(time.Now().Add(lastLinger)) {
				t.Error("ready() = false after the longest time")
			}
		})
	}
}
