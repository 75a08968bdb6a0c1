package freshetotel_test

import (
	"context"
	"fmt"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/freshetotel"
)

// Spans and durations come from an observer, counts from the cache itself: here by the process's own providers.
func Example() {
	observer, err := freshetotel.Observer(freshetotel.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	cache, err := freshet.Open(context.Background(), freshet.Options{Config: "testdata/freshet.yaml", Observers: []freshet.Observer{observer}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cache.Close()
	stop, err := freshetotel.Count(cache, freshetotel.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(stop())
	// Output: <nil>
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
	var source freshetotel.Source = fleet{}
	stop, err := freshetotel.Count(source, freshetotel.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(stop())
	// Output: <nil>
}
