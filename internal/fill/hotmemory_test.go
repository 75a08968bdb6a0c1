package fill_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fill"
)

// TestHotKeyInMemory: 64 readers of a key that a process holds in its memory while it changes 100 times a second. None misses what was
// confirmed T_r before it began, and none that follows a session sees it fall back.
func TestHotKeyInMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	m := w.memory("", nil)
	w.pg.Exec(t, w.url, "UPDATE product SET price = 0 WHERE id = 1")
	const readers, changes = 64, 400
	var (
		all       sync.WaitGroup
		reads     atomic.Int64
		confirmed [changes + 1]atomic.Int64 // when each price was, in nanoseconds since began
		latest    atomic.Int64
	)
	began := time.Now()
	stop := make(chan struct{})
	for n := range readers {
		all.Go(func() {
			session, seen := &fill.Session{}, 0
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				d := &fill.Demand{}
				if n%4 == 0 {
					d.Session = session
					d.Revalidate, d.Past = i%400 == 0, i%400 == 200
				}
				since, known := time.Since(began), int(latest.Load())
				v, err := m.GetUnder(t.Context(), "product", arg("1"), nil, d)
				var id, got int
				if err == nil {
					_, err = fmt.Sscanf(string(v.Payload), `{"id":%d,"price":%d}`, &id, &got)
				}
				if err == nil && d.Session != nil && got < seen {
					err = fmt.Errorf("%v price %d after %d", v.Status, got, seen)
				}
				if late := known - got; err == nil && late > 0 && since-time.Duration(confirmed[got+1].Load()) > trust {
					err = fmt.Errorf("%v price %d, although the next was confirmed more than %v before", v.Status, got, trust)
				}
				if err != nil {
					t.Error(err)
					return
				}
				seen = got
				reads.Add(1)
				if i%20 == 0 {
					pause(t, time.Millisecond) // so that others have their turn on few processors
				}
			}
		})
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for p := 1; p <= changes && time.Since(began) < 5*time.Second && !t.Failed(); p++ {
		<-tick.C
		w.raise()
		confirmed[p].Store(int64(time.Since(began)))
		latest.Store(int64(p))
	}
	close(stop)
	all.Wait()
	s := m.Stats()
	t.Logf("%d reads, %d hits, %d of them in memory, %d loads; %+v", reads.Load(), s.Hits, s.HitsL1, s.Loads, *s.L1)
	if s.HitsL1 == 0 || s.L1.Pushed == 0 {
		t.Errorf("Stats = %+v, %+v", s, *s.L1)
	}
}
