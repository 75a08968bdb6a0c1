package freshetprom_test

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/freshetprom"
)

// What a cache counts is read when Prometheus asks. How long reads and loads take is observed as they end.
func Example() {
	registry := prometheus.NewRegistry() // the program's own
	cache, err := freshet.Open(context.Background(), freshet.Options{
		Config: "testdata/freshet.yaml", Observers: []freshet.Observer{freshetprom.Observer(registry)},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cache.Close()
	registry.MustRegister(freshetprom.Collector(cache, prometheus.Labels{"cache": "shop"}))

	fmt.Println(testutil.GatherAndCount(registry, "freshet_reads_hit_total"))
	// Output: 1 <nil>
}

// fleet counts what several caches do together.
type fleet []*freshet.Cache

func (f fleet) Stats() (sum freshet.Stats) {
	for _, cache := range f {
		s := cache.Stats()
		sum.Hits, sum.Misses, sum.Loads = sum.Hits+s.Hits, sum.Misses+s.Misses, sum.Loads+s.Loads
	}
	return sum
}

// Whatever counts reads can be exported: here a program's caches as one.
func ExampleSource() {
	var source freshetprom.Source = fleet{}
	registry := prometheus.NewRegistry()
	registry.MustRegister(freshetprom.Collector(source, nil))
	fmt.Println(testutil.GatherAndCount(registry, "freshet_reads_hit_total"))
	// Output: 1 <nil>
}
