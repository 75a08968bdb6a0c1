package cluster

import (
	"testing"
	"time"
)

// TestEveryLane: nothing happens but writes and reads, in all lanes.
func TestEveryLane(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	for lane := range 16 {
		if len(keysOf(lane)) == 0 {
			t.Fatalf("no item is in lane %d", lane)
		}
	}
	w.through(func() { w.pause(700 * time.Millisecond) })
	if n := w.pipeline.Stats().Mended.Load(); n != 0 {
		t.Errorf("%d lanes were begun anew", n)
	}
}
