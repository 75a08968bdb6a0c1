package fence

import (
	"fmt"
	"hash/crc32"
	"slices"
	"testing"

	"github.com/freshet/freshet/mvcc"
)

func TestBucketOf(t *testing.T) {
	t.Parallel()
	counts := make([]int, Buckets)
	const names = 20 * Buckets
	for i := range names {
		name := fmt.Sprintf("f:shop:9f1c66d2a0b34e57:product.0123456789abcdef.fedcba9876543210:product:%d", i)
		got := BucketOf(name)
		if want := Bucket(crc32.ChecksumIEEE([]byte(name)) % Buckets); got != want {
			t.Fatalf("BucketOf(%s) = %d, want %d", name, got, want)
		}
		if back, ok := parseBucket(got.Field(), "b"); !ok || back != got {
			t.Fatalf("parseBucket(%s) = %d, %v", got.Field(), back, ok)
		}
		counts[got]++
	}
	if most := slices.Max(counts); most > 60 {
		t.Errorf("one bucket has %d of %d names, with %d buckets", most, names, Buckets)
	}
	for _, field := range []string{"b", "b-1", "b4096", "b1x", "c1", "bx"} {
		if b, ok := parseBucket(field, "b"); ok {
			t.Errorf("parseBucket(%s) = %d", field, b)
		}
	}
}

// TestFloorsPerBucket holds that a batch raises the floors of its own keys alone, and one for all raises every one.
func TestFloorsPerBucket(t *testing.T) {
	t.Parallel()
	e := Expected{Generation: "00000000000000aa", Term: "1"}
	s := Shard{Found: true, Head: Head{Generation: e.Generation, Term: e.Term, Wi: 10}}
	si := mvcc.Snapshot{Xmin: 5, Xmax: 5}
	before := s
	for _, step := range []struct {
		raise Raise
		want  [3]mvcc.LSN // floors of buckets 1, 2 and 3
	}{
		{Raise{To: 20, Buckets: []Bucket{1}}, [3]mvcc.LSN{20, 10, 10}},
		{Raise{To: 30}, [3]mvcc.LSN{20, 10, 10}}, // a batch without keys
		{Raise{To: 15, Buckets: []Bucket{1, 2}}, [3]mvcc.LSN{20, 15, 10}},
		{Raise{To: 18, All: true}, [3]mvcc.LSN{20, 18, 18}},
		{Raise{To: 5, All: true}, [3]mvcc.LSN{20, 18, 18}},
		{Raise{To: 40, Buckets: []Bucket{3}}, [3]mvcc.LSN{20, 18, 40}},
	} {
		var outcome HeadOutcome
		if s, outcome = Intent(s, e, step.raise, si); outcome != Applied {
			t.Fatalf("Intent = %v", outcome)
		}
		for i, want := range step.want {
			h := s.Head.For(Bucket(i + 1))
			if h.Wi != want {
				t.Errorf("after %+v: the floor of bucket %d is %v, want %v", step.raise, i+1, h.Wi, want)
			}
			for _, l := range []mvcc.LSN{want - 1, want, want + 1} {
				if Floor(h, Coverage{Replay: l}) != (l >= want) {
					t.Errorf("after %+v: a standby at %v may fill bucket %d: %v", step.raise, l, i+1, l < want)
				}
			}
		}
	}
	if before.Head.Floors != nil || before.Head.For(1).Wi != 10 {
		t.Errorf("an earlier HEAD was changed: %+v", before.Head)
	}
}
