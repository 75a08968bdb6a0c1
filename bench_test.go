package freshet_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/redis/rueidis"

	"github.com/freshet/freshet"
)

// BenchmarkHit compares a hit, decoded into a struct, with a plain GET of rueidis of the same bytes, and with a GET whose
// reply is decoded as well. Rounds alternate, so that the machine's moods meet all; ratios are of the medians.
func BenchmarkHit(b *testing.B) {
	s := newShop(b.Context(), "bench")
	if err := s.publish(b.Context()); err != nil {
		b.Fatal(err)
	}
	text, err := os.ReadFile(s.file)
	if err != nil {
		b.Fatal(err)
	}
	file := s.file + ".l2"
	if err := os.WriteFile(file, append([]byte("l1: {size: off}\n"), text...), 0o600); err != nil {
		b.Fatal(err)
	}
	cache, err := freshet.Open(b.Context(), freshet.Options{Config: file})
	if err != nil {
		b.Fatal(err)
	}
	defer cache.Close()
	products, err := freshet.Entry[int64, Product](cache, "product")
	if err != nil {
		b.Fatal(err)
	}
	if _, err := products.Get(b.Context(), 1); err != nil {
		b.Fatal(err)
	}
	option := rueidis.MustParseURL(servers.redis.URL())
	option.DisableCache, option.ForceSingleClient, option.PipelineMultiplex = true, true, -1
	client, err := rueidis.NewClient(option)
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	names, err := client.Do(b.Context(), client.B().Keys().Pattern("f:"+s.namespace+":*product:1").Build()).AsStrSlice()
	if err != nil || len(names) != 1 {
		b.Fatal(names, err)
	}
	plain := func() error {
		_, err := client.Do(b.Context(), client.B().Get().Key(names[0]).Build()).AsBytes()
		return err
	}
	decoded := func() error {
		text, err := client.Do(b.Context(), client.B().Get().Key(names[0]).Build()).AsBytes()
		if err != nil {
			return err
		}
		var p Product
		return json.Unmarshal(text[bytes.IndexByte(text, '\n')+1:], &p)
	}
	hit := func() error {
		_, err := products.Get(b.Context(), 1)
		return err
	}
	for _, goroutines := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("goroutines=%d", goroutines), func(b *testing.B) {
			const each = 200
			var took [3][]time.Duration
			for b.Loop() {
				for i, read := range []func() error{plain, decoded, hit} {
					start := time.Now()
					var group sync.WaitGroup
					for range goroutines {
						group.Go(func() {
							for range each {
								if err := read(); err != nil {
									b.Error(err)
								}
							}
						})
					}
					group.Wait()
					took[i] = append(took[i], time.Since(start)/time.Duration(each*goroutines))
				}
			}
			median := func(d []time.Duration) float64 {
				slices.Sort(d)
				return float64(d[len(d)/2].Nanoseconds())
			}
			b.ReportMetric(median(took[0]), "plain-ns")
			b.ReportMetric(median(took[1]), "decoded-ns")
			b.ReportMetric(median(took[2]), "hit-ns")
			b.ReportMetric(median(took[2])/median(took[0]), "ratio-to-plain")
			b.ReportMetric(median(took[2])/median(took[1]), "ratio-to-decoded")
		})
	}
	if stats := cache.Stats(); stats.Loads != 1 {
		b.Errorf("these were not hits: %+v", stats)
	}
}

// BenchmarkHitInMemory compares a hit that is held in memory with otter's GetIfPresent of the same decoded values, by the same keys and by
// the names that they have in the store. Rounds alternate, and the least of each counts, which is what a busy machine spoils last.
func BenchmarkHitInMemory(b *testing.B) {
	s := newShop(b.Context(), "benchmemory")
	if err := s.publish(b.Context()); err != nil {
		b.Fatal(err)
	}
	cache, err := freshet.Open(b.Context(), freshet.Options{Config: s.file})
	if err != nil {
		b.Fatal(err)
	}
	defer cache.Close()
	products, err := freshet.Entry[int64, *Product](cache, "product")
	if err != nil {
		b.Fatal(err)
	}
	const keys = 64
	byKey := otter.Must(&otter.Options[int64, *Product]{MaximumSize: 1 << 16})
	byName := otter.Must(&otter.Options[string, *Product]{MaximumSize: 1 << 16})
	var names [keys]string
	for id := range int64(keys) {
		names[id] = fmt.Sprintf("f:shop:0123456789abcdef:product.0123456789abcdef.0123456789abcdef:product:%d", id)
		p, err := products.Get(b.Context(), id)
		if err != nil && !errors.Is(err, freshet.ErrNotFound) {
			b.Fatal(err)
		}
		byKey.Set(id, p)
		byName.Set(names[id], p)
		for range 2 {
			_, _ = products.Get(b.Context(), id)
		}
	}
	const each = 2000
	var least [3]time.Duration
	before := cache.Stats()
	for b.Loop() {
		for i := range least {
			began := time.Now()
			for n := range int64(each) {
				switch id := n % keys; i {
				case 0:
					byKey.GetIfPresent(id)
				case 1:
					byName.GetIfPresent(names[id])
				default:
					_, _ = products.Get(b.Context(), id)
				}
			}
			if took := time.Since(began); least[i] == 0 || took < least[i] {
				least[i] = took
			}
		}
	}
	if after, reads := cache.Stats(), uint64(b.N*each); after.HitsL1-before.HitsL1 < reads-reads/100 {
		b.Errorf("of %d reads not all were hits in memory: %+v", reads, after)
	}
	ns := func(i int) float64 { return float64(least[i].Nanoseconds()) / each }
	b.ReportMetric(ns(0), "otter-ns")
	b.ReportMetric(ns(1), "otter-by-name-ns")
	b.ReportMetric(ns(2), "hit-ns")
	b.ReportMetric(ns(2)/ns(0), "ratio")
	b.ReportMetric(ns(2)/ns(1), "ratio-by-name")
}

// BenchmarkHitAllocs is for -benchmem.
func BenchmarkHitAllocs(b *testing.B) {
	s := newShop(b.Context(), "allocs")
	if err := s.publish(b.Context()); err != nil {
		b.Fatal(err)
	}
	cache, err := freshet.Open(b.Context(), freshet.Options{Config: s.file})
	if err != nil {
		b.Fatal(err)
	}
	defer cache.Close()
	products, err := freshet.Entry[int64, Product](cache, "product")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := products.Get(b.Context(), 1); err != nil {
			b.Fatal(err)
		}
	}
}
