package near_test

import (
	"testing"
	"time"

	"github.com/freshet/freshet/internal/near"
)

// TestTicks: there is one in each nanosecond, at least as long as the processor is busy.
func TestTicks(t *testing.T) {
	t.Parallel()
	ticks, began := near.Ticks(), time.Now()
	for time.Since(began) < 20*time.Millisecond {
		if now := near.Ticks(); now < ticks {
			t.Fatalf("%d after %d", now, ticks)
		}
	}
	took := time.Since(began)
	if passed := near.Ticks() - ticks; passed < uint64(took) {
		t.Errorf("%d ticks in %v", passed, took)
	}
}

// TestGauge: a counter is relied on once it has been compared with a clock, until it is found to be slower, to have stopped, or to have
// begun anew; and then from the next comparison on that it stands.
func TestGauge(t *testing.T) {
	t.Parallel()
	var g near.Gauge
	for _, tt := range []struct {
		what  string
		ticks uint64
		clock time.Duration
		holds bool
	}{
		{"never compared", 1000, 0, false},
		{"three in a nanosecond", 1000 + 3000, 1000, true},
		{"one in a nanosecond", 1000 + 5000, 5000, true},
		{"less", 1000 + 5999, 6000, false},
		{"again", 1000 + 8000, 7000, true},
		{"it stood still while the clock went on", 1000 + 8001, time.Minute, false},
		{"and goes on", 1000 + 9001, time.Minute + 500, true},
		{"it began anew", 10, time.Minute + 1000, false},
		{"and goes on from there", 10 + 600, time.Minute + 1500, true},
		{"a second later it is compared with this", 4 << 30, time.Minute + 2*time.Second, true},
		{"so that what it was ahead by counts no more", 4<<30 + 100, time.Minute + 2*time.Second + 200, false},
	} {
		if got := g.Holds(tt.ticks, tt.clock); got != tt.holds {
			t.Errorf("%s: %t", tt.what, got)
		}
	}
}
