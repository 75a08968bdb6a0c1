package apply

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/mvcc"
)

// TestHorizon takes views one after the other while the log is read in jumps: a view is never settled before the log was
// read to its position, those that are settled get newer, and none waits when the log has been read to the end.
func TestHorizon(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var (
			h            horizon
			read, insert mvcc.LSN
			last         mvcc.XID
		)
		for n := mvcc.XID(1); n < 40; n++ {
			insert += mvcc.LSN(rapid.IntRange(0, 3).Draw(t, "written"))
			read += mvcc.LSN(rapid.Uint64Range(0, uint64(insert-read)).Draw(t, "read"))
			v := view{snapshot: mvcc.Snapshot{Xmin: n, Xmax: n}, insert: insert, ticks: fence.Ticks{{N: uint64(n)}}}
			waited := h.waiting
			reached := h.settle(v, read)
			switch x := reached.snapshot.Xmax; {
			case x == 0:
				if read >= insert || waited.insert != 0 && read >= waited.insert {
					t.Fatalf("nothing is settled: read to %v, the view is of %v, the one that waits of %v", read, insert, waited.insert)
				}
			case reached.insert > read:
				t.Fatalf("a view of %v is settled when the log was read to %v", reached.insert, read)
			case x <= last:
				t.Fatalf("view %d is settled after view %d", x, last)
			case reached.ticks[0].N != uint64(x):
				t.Fatalf("view %d is settled with the tick of %d", x, reached.ticks[0].N)
			default:
				last = x
			}
			if h.waiting.snapshot.IsZero() != (read >= insert) {
				t.Fatalf("read to %v of %v, and %+v waits", read, insert, h.waiting)
			}
		}
	})
}

// TestAsking: the daemon looks often while the count moves, and seldom when it does not.
func TestAsking(t *testing.T) {
	t.Parallel()
	var k asking
	now := time.Now()
	k.saw(fence.Ticks{}, now)
	if k.lively(now) || k.lookAt.Sub(now) != lookSeldom {
		t.Errorf("with no count it is lively: %t, and looks after %v", k.lively(now), k.lookAt.Sub(now))
	}
	k.saw(fence.Ticks{{ID: "a", N: 1}}, now)
	if !k.lively(now) || k.lookAt.Sub(now) != lookOften {
		t.Errorf("with a new count it is lively: %t, and looks after %v", k.lively(now), k.lookAt.Sub(now))
	}
	now = now.Add(askedFor)
	k.saw(fence.Ticks{{ID: "a", N: 1}}, now)
	if k.lively(now) || k.lookAt.Sub(now) != lookSeldom {
		t.Errorf("long after the last count it is lively: %t, and looks after %v", k.lively(now), k.lookAt.Sub(now))
	}
}
