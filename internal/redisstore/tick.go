package redisstore

import (
	"context"
	"fmt"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
)

// Tick counts, and returns the new count. When HEAD shows it, Sa was taken after the call.
func (s *Store) Tick(ctx context.Context) (fence.Tick, error) {
	args := []string{Draw()}
	reply := s.client.Do(ctx, s.call(s.scripts.tick, s.tickKey(), args))
	if isNoScript(reply.Error()) {
		reply = s.client.Do(ctx, s.send(s.scripts.tick, s.tickKey(), args))
	}
	tick, err := parseTick(reply)
	if err != nil {
		return fence.Tick{}, fmt.Errorf("count tick: %w", err)
	}
	return tick, nil
}

// DrawTick begins a count under a new name. Whoever writes ticks into HEAD does so first, on the connection that it
// claimed HEAD on: counts of one name are of one history of the store then. Without it, a reader that was left behind
// with a server which others have failed over from could have counted there what others count here.
func (c *Conn) DrawTick(ctx context.Context) error {
	first := fence.Tick{ID: Draw()}
	draw := c.store.scripts.draw
	_, err := c.run(ctx, []script{draw}, func() []rueidis.Completed {
		return []rueidis.Completed{c.eval(draw, c.store.tickKey(), first.String())}
	})
	if err != nil {
		return fmt.Errorf("begin to count ticks: %w", err)
	}
	return nil
}

// Tick reads the count.
func (c *Conn) Tick(ctx context.Context) (fence.Tick, error) {
	replies, err := c.do(ctx, []rueidis.Completed{c.readTick()})
	if err != nil {
		return fence.Tick{}, fmt.Errorf("read tick: %w", err)
	}
	tick, err := parseTick(replies[0])
	if err != nil {
		return fence.Tick{}, fmt.Errorf("read tick: %w", err)
	}
	return tick, nil
}

func (c *Conn) readTick() rueidis.Completed {
	return c.client.B().Get().Key(c.store.tickKey()).Build()
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
