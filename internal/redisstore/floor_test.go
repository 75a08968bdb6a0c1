package redisstore

import (
	"slices"
	"strconv"
	"testing"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// BenchmarkIntent is INTENT alone, by the number of buckets that it raises, over a HEAD in which every bucket has a floor.
func BenchmarkIntent(b *testing.B) {
	for _, n := range []int{0, 1, 16, store.RaisedAtMost, store.RaisedAtMost + 1} {
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
			if n > store.RaisedAtMost {
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
