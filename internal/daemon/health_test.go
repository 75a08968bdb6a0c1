package daemon

import (
	"testing"
	"time"

	"github.com/freshet/freshet/internal/pipeline"
)

// TestHealth judges a daemon that has been connected for an hour. A commit that hangs shows in Waiting, and in nothing that is
// judged; what may be visible shows in Oldest.
func TestHealth(t *testing.T) {
	t.Parallel()
	ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
	tests := []struct {
		name        string
		phase       pipeline.Phase
		waiting     int64
		oldest      time.Duration // 0: none
		progress    time.Duration
		horizon     time.Duration
		live, ready bool
	}{
		{"idle", pipeline.Streaming, 0, 0, time.Second, time.Second, true, true},
		{"under load", pipeline.Streaming, 0, time.Second, 0, time.Second, true, true},
		{"a commit hangs", pipeline.Streaming, 1, 0, time.Second, time.Second, true, true},
		{"behind, and getting on", pipeline.Streaming, 0, 2 * stuckAfter, time.Second, 2 * stuckAfter, true, false},
		{"behind, and getting on beside a commit that hangs", pipeline.Streaming, 1, 2 * stuckAfter, time.Second, 2 * stuckAfter, true, false},
		{"nothing is applied", pipeline.Streaming, 0, 2 * stuckAfter, 2 * stuckAfter, 2 * stuckAfter, false, false},
		{"nothing is applied, and a commit hangs", pipeline.Streaming, 1, 2 * stuckAfter, 2 * stuckAfter, 2 * stuckAfter, false, false},
		{"nothing is applied in catching up", pipeline.CatchingUp, 0, 2 * stuckAfter, 2 * stuckAfter, 2 * stuckAfter, false, false},
		{"the database is away", pipeline.Connecting, 0, 2 * stuckAfter, 2 * stuckAfter, 2 * stuckAfter, true, false},
		{"the log is not delivered", pipeline.Streaming, 0, 0, time.Second, 2 * vouchFor, true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			st := &pipeline.Status{Phase: tt.phase, Since: ago(time.Hour), Waiting: tt.waiting, Progress: ago(tt.progress), Horizon: ago(tt.horizon)}
			if tt.oldest != 0 {
				st.Oldest = ago(tt.oldest)
			}
			if err := live(st); (err == nil) != tt.live {
				t.Errorf("live() = %v", err)
			}
			if err := ready(st); (err == nil) != tt.ready {
				t.Errorf("ready() = %v", err)
			}
		})
	}
}
