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
