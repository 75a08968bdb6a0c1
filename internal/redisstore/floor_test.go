package redisstore

import (
	"slices"
	"strconv"
	"testing"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/mvcc"
)

// TestFloorsOfBuckets confirms keys, and looks at what a standby must have replayed to fill these and others.
func TestFloorsOfBuckets(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	floor := func(key string) mvcc.LSN {
		t.Helper()
		name := s.testName(key)
		reply := leased(t, s, name, token('a'))
		if _, err := s.release(t.Context(), name, token('a')); err != nil {
			t.Fatal(err)
		}
		return reply.Head.Wi
	}
	apply := func(b Batch) {
		t.Helper()
		b.Expect, b.Si = expect(head), sees(20)
		if _, err := c.Apply(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	if fence.BucketOf(s.testName("written")) == fence.BucketOf(s.testName("quiet")) {
		t.Fatal("the test's two keys are in one bucket")
	}
	apply(Batch{Wi: 200, Names: []string{s.testName("written")}})
	if written, quiet := floor("written"), floor("quiet"); written != 200 || quiet != 100 {
		t.Errorf("floors are %d and %d, want 200 for the key that was written, 100 for the other", written, quiet)
	}
	apply(Batch{Wi: 300}) // without keys
	apply(Batch{Wi: 150, Names: []string{s.testName("written")}})
	if written, quiet := floor("written"), floor("quiet"); written != 200 || quiet != 100 {
		t.Errorf("floors are %d and %d after batches without keys and of an older transaction", written, quiet)
	}
	apply(Batch{Wi: 400, All: true})
	if written, quiet := floor("written"), floor("quiet"); written != 400 || quiet != 400 {
		t.Errorf("floors are %d and %d, want 400 after names moved", written, quiet)
	}
	many := make([]string, 4*raisedAtMost)
	for i := range many {
		many[i] = s.testName(strconv.Itoa(i))
	}
	apply(Batch{Wi: 500, Names: many})
	if quiet := floor("quiet"); quiet != 500 {
		t.Errorf("the floor is %d after a batch with keys in many buckets, want 500", quiet)
	}
	if err := c.NewGeneration(t.Context(), head); err != nil {
		t.Fatal(err)
	}
	if written := floor("written"); written != 100 {
		t.Errorf("the floor is %d in a new generation", written)
	}
}

// BenchmarkIntent is INTENT alone, by the number of buckets that it raises, over a HEAD in which every bucket has a floor.
func BenchmarkIntent(b *testing.B) {
	for _, n := range []int{0, 1, 16, raisedAtMost, raisedAtMost + 1} {
		b.Run("buckets="+strconv.Itoa(n), func(b *testing.B) {
			s := open(b, redistest.Shared(b))
			c := connect(b, s)
			h := begin(b, c, fence.NewTerm(1, 10))
			all := s.client.B().Hset().Key(s.headKey(0)).FieldValue()
			for i := range fence.Bucket(fence.Buckets) {
				all = all.FieldValue(i.Field(), fence.LSNText(1))
			}
			if err := s.client.Do(b.Context(), all.Build()).Error(); err != nil {
				b.Fatal(err)
			}
			var fields []string
			for i := range n {
				fields = append(fields, fence.Bucket(i*fence.Buckets/max(n, 1)).Field())
			}
			if n > raisedAtMost {
				fields = []string{"wi"}
			}
			size, err := s.client.Do(b.Context(), s.client.B().MemoryUsage().Key(s.headKey(0)).Samples(0).Build()).AsInt64()
			if err != nil {
				b.Fatal(err)
			}
			next := h.Wc
			for b.Loop() {
				next++
				c.heads(b.Context(), "intent", s.scripts.intent, c.lanes, func(k *lane) []string {
					return slices.Concat(c.expected(k, expect(h)), []string{fence.LSNText(next), fence.SnapshotText(sees(10))}, fields)
				})
				if err := c.lanes[0].err; err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(size)/1024, "head-KiB")
		})
	}
}
