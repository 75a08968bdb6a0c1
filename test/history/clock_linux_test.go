package history

import (
	"testing"
	"time"

	"github.com/freshet/freshet/internal/localserver"
	"github.com/freshet/freshet/internal/testkit/clocktest"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// TestClocksJump has the clocks of Redis and of PostgreSQL jump by an hour, forward and back, under load, together and
// apart: entries may expire early or live longer, and nothing is ever stale for good, nor is anything given up for it.
func TestClocksJump(t *testing.T) {
	t.Parallel()
	ofRedis, ofPostgres := clocktest.New(t), clocktest.New(t)
	redis := redistest.StartWith(t, localserver.RedisOptions{Env: ofRedis.Env})
	w := newWorld(t, redis, options{pg: pgtest.Start(t, pgtest.Options{Env: ofPostgres.Env})})
	before := w.live().Generation
	jump := func(redis, postgres time.Duration) func() {
		return func() {
			ofRedis.Shift(t, redis)
			ofPostgres.Shift(t, postgres)
		}
	}
	for _, tt := range []struct {
		name string
		do   func()
	}{
		{"Redis an hour forward, PostgreSQL an hour back", jump(time.Hour, -time.Hour)},
		{"Redis two hours back, PostgreSQL two hours forward", jump(-time.Hour, time.Hour)},
	} {
		w.under(tt.do)
		if after := w.settle(tt.name); after.Generation != before {
			t.Errorf("%s: a new generation began", tt.name)
		}
	}
}
