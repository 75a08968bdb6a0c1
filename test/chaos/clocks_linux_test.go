package chaos

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/testkit/clocktest"
)

// clocks are the wall clocks of Redis and of the database. The replica's is right.
type clocks struct{ redis, database *clocktest.Clock }

func newClocks(t *testing.T) *clocks {
	t.Helper()
	return &clocks{clocktest.New(t), clocktest.New(t)}
}

func (c *clocks) ofRedis() []string    { return c.redis.Env }
func (c *clocks) ofDatabase() []string { return c.database.Env }

// clockFaults have a clock jump, and leave it there until the next one.
func clockFaults() []fault {
	jump := func(of func(*clocks) *clocktest.Clock) func(*world, *rand.Rand) error {
		return func(w *world, r *rand.Rand) error {
			of(w.clocks).Shift(w.t, []time.Duration{-time.Hour, 0, time.Hour}[r.IntN(3)])
			w.some(r, time.Second)
			of(w.clocks).Shift(w.t, []time.Duration{-time.Hour, 0, time.Hour}[r.IntN(3)])
			w.some(r, time.Second)
			return nil
		}
	}
	return []fault{
		{name: "Redis' clock jumps", do: jump(func(c *clocks) *clocktest.Clock { return c.redis })},
		{name: "the database's clock jumps", do: jump(func(c *clocks) *clocktest.Clock { return c.database })},
	}
}
