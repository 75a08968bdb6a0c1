package redisstore

import (
	"context"
	"fmt"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
)

// Tick counts in a lane, and returns the new count. When the lane's HEAD shows it, Sa was taken after the call. Each lane counts for
// itself: a count and the HEAD that answers it have to be of one history.
func (s *Store) Tick(ctx context.Context, lane int) (fence.Tick, error) {
	reply, err := s.eval(ctx, s.scripts.tick, s.tickKey(lane), []string{store.Draw()})
	if err != nil {
		return fence.Tick{}, fmt.Errorf("count tick: %w", err)
	}
	tick, err := parseTick(reply)
	if err != nil {
		return fence.Tick{}, fmt.Errorf("count tick: %w", err)
	}
	return tick, nil
}

// parseTick reads a count. One that is not there, or that is somebody else's text, is none.
func parseTick(reply rueidis.RedisResult) (fence.Tick, error) {
	text, err := reply.ToString()
	if rueidis.IsRedisNil(err) {
		return fence.Tick{}, nil
	}
	if err != nil {
		return fence.Tick{}, typed(err)
	}
	tick, _ := fence.ParseTick(text)
	return tick, nil
}
