package fence_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/mvcc"
)

// TestLanesSpreadOverTheSlots: each lane lies in the middle of its sixteenth of the slots, so that no node which has an even share of
// them has fewer lanes than its share, less one.
func TestLanesSpreadOverTheSlots(t *testing.T) {
	t.Parallel()
	for lane := range fence.Lanes {
		if got, want := fence.Slot(lane), lane*fence.Slots/fence.Lanes+fence.Slots/fence.Lanes/2; got != want {
			t.Errorf("lane %d lies in slot %d, want %d", lane, got, want)
		}
	}
}

func TestLaneOfAName(t *testing.T) {
	t.Parallel()
	generations := make([]string, fence.Lanes)
	for i := range generations {
		generations[i] = fmt.Sprintf("%016x", i)
	}
	prefixes := fence.LanePrefixes("shop", "no", generations, "e.v.a:")
	var count [fence.Lanes]int
	const keys = 16_000
	for i := range keys {
		key := fmt.Sprintf("product:%d", i)
		lane := fence.LaneOf(key)
		if other := fence.LaneOf([]byte(key)); other != lane {
			t.Fatalf("%s is in lane %d and %d", key, lane, other)
		}
		count[lane]++
		name := prefixes[lane] + key
		if got, ok := fence.LaneIn("shop", name); !ok || got != lane {
			t.Fatalf("%s is found in lane %d, %v, want %d", name, got, ok, lane)
		}
	}
	for lane, n := range count {
		if n < keys/fence.Lanes/2 || n > keys/fence.Lanes*2 {
			t.Errorf("%d of %d keys are in lane %d", n, keys, lane)
		}
	}
	// Within a lane the keys fall into all buckets.
	seen := map[fence.Bucket]bool{}
	for i := range 400_000 {
		if key := fmt.Sprintf("product:%d", i); fence.LaneOf(key) == 3 {
			seen[fence.BucketOf(prefixes[3]+key)] = true
		}
	}
	if len(seen) < fence.Buckets*9/10 {
		t.Errorf("the keys of a lane fall into %d buckets of %d", len(seen), fence.Buckets)
	}
	for _, name := range []string{"", "f:shop:head", "f:shop:{}:head", "f:shop:{0ajvx}:head", "f:other:{0ajvz}:head", "f:shop:{0ajvz}head", "g:shop:{0ajvz}:head", "f:shop:{0ajvz}"} {
		if lane, ok := fence.LaneIn("shop", name); ok {
			t.Errorf("%q is in lane %d", name, lane)
		}
	}
	one := fence.LanePrefixes("shop", "generation", nil, "e.v.a:")
	if diff := cmp.Diff([]string{"f:shop:generation:e.v.a:"}, one); diff != "" {
		t.Errorf("on one server (-want +got):\n%s", diff)
	}
}

// TestJoinVouchesForNoMoreThanEachLane: what HEADs say together, each of them says.
func TestJoinVouchesForNoMoreThanEachLane(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		heads := make([]fence.Head, 4)
		for i := range heads {
			h := &heads[i]
			if rapid.IntRange(0, 4).Draw(t, "absent") == 0 {
				continue
			}
			h.Generation = rapid.SampledFrom([]string{"a", "a", "a", "b"}).Draw(t, "generation")
			h.Publication = rapid.SampledFrom([]string{"p", "p", "p", "q"}).Draw(t, "publication")
			h.Term = fence.NewTerm(1, mvcc.XID(rapid.Uint64Range(1, 3).Draw(t, "term")))
			h.Revision = rapid.Uint64Range(1, 3).Draw(t, "revision")
			h.Wc = mvcc.LSN(rapid.Uint64Range(1, 5).Draw(t, "wc"))
			x := mvcc.XID(rapid.Uint64Range(1, 3).Draw(t, "sa"))
			h.Sa, h.Si = mvcc.Snapshot{Xmin: x, Xmax: x}, mvcc.Snapshot{Xmin: x, Xmax: x}
			h.Lane = strings.Repeat(strconv.Itoa(i), 16)
		}
		joined, found, split := fence.Join(heads)
		var latest fence.Term
		for _, h := range heads {
			if h.Generation != "" {
				latest = max(latest, h.Term)
			}
		}
		if found != (latest != "") {
			t.Fatalf("found is %v of %+v", found, heads)
		}
		if !found {
			return
		}
		disagree := false
		for i, h := range heads {
			counts := h.Generation == joined.Generation
			if counts != (joined.Lanes[i].Generation != "") {
				t.Fatalf("lane %d is %+v in %+v", i, h, joined)
			}
			if h.Generation != "" && h.Term == latest && (!counts || h.Publication != joined.Publication) {
				disagree = true
			}
			if !counts {
				continue
			}
			if joined.Wc > h.Wc || joined.Revision < h.Revision || !joined.Si.Dominates(h.Si) || !joined.Sa.IsZero() && joined.Sa.Xmax != h.Sa.Xmax {
				t.Fatalf("together they say %+v, and lane %d only %+v", joined, i, h)
			}
		}
		if disagree != split || joined.Term != latest {
			t.Fatalf("split is %v, of term %s: %+v", split, joined.Term, heads)
		}
	})
}
