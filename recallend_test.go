package freshet_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"weak"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// page is a value that is worth its memory.
type page struct{ Text string }

// TestNothingIsKeptOfWhatHasEnded: values that gave way to those of other entries, and all of them once the connection is lost, can be
// collected, though they were found by their keys.
func TestNothingIsKeptOfWhatHasEnded(t *testing.T) {
	t.Parallel()
	own := redistest.Start(t)
	s := newShop(t.Context(), "ended")
	s.redis = own.URL
	s.file = s.write("ended", own.URL)
	text, err := os.ReadFile(s.file)
	if err != nil {
		t.Fatal(err)
	}
	const size, each = 16 << 20, 64 << 10
	changed := strings.Replace(string(text), "\nentries:", fmt.Sprintf("\nl1: {size: %dMiB}\nentries:", size>>20), 1)
	if err := os.WriteFile(s.file, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	cache := openCache(t, freshet.Options{Config: s.file})
	var all []weak.Pointer[page]
	alive := func() (n int) {
		runtime.GC()
		for _, p := range all {
			if p.Value() != nil {
				n++
			}
		}
		return n
	}
	entries := map[string]*freshet.Typed[string, *page]{}
	for reads, name := range []string{"weather", "profile", "report"} {
		e, err := freshet.Entry(cache, name, freshet.Load(func(context.Context, freshet.Querier, string) (*page, error) {
			return &page{Text: strings.Repeat("x", each)}, nil
		}))
		if err != nil {
			t.Fatal(err)
		}
		entries[name] = e
		for i := range 120 {
			for range 4 << reads { // so that those that come later are kept rather
				v, err := e.Get(t.Context(), strconv.Itoa(i))
				if err != nil {
					t.Fatal(err)
				}
				if len(all) == 0 || all[len(all)-1].Value() != v {
					all = append(all, weak.Make(v))
				}
			}
		}
	}
	st := cache.Stats()
	if st.L1.Records == 0 || st.L1.Evicted == 0 {
		t.Fatalf("nothing was held, or nothing gave way: %+v", st.L1)
	}
	const room = size / (2 * each) // what was read counts, and what it was decoded to
	if n := alive(); n < 10 || n > room+10 {
		t.Errorf("%d values of %d bytes are in memory, in room for %d", n, each, room)
	}
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{own.Addr}, DisableCache: true})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Do(t.Context(), client.B().Arbitrary("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, func() error {
		if n := alive(); n > 0 {
			return fmt.Errorf("the connection is lost, and %d values are in memory still", n)
		}
		return nil
	})
	runtime.KeepAlive(entries)
}
