package redisstore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// sweepPause is between two steps of a sweep, so that it takes little of the server from those who read.
const sweepPause = 2 * time.Millisecond

// Sweep removes the records of dead names: all of the namespace that start with none of the prefixes in keep. It is
// paced, and returns how many it removed. Nobody reads what it removes, so it may be broken off at any time.
func (s *Store) Sweep(ctx context.Context, keep []string) (int64, error) {
	special := []string{s.headKey(), s.rosterKey(), s.tickKey()}
	return s.remove(ctx, sweepPause, func(name string) bool {
		return slices.Contains(special, name) || slices.ContainsFunc(keep, func(p string) bool { return strings.HasPrefix(name, p) })
	})
}

// DropAll removes every key of the namespace, HEAD first, so that nobody fills while it goes on.
func (s *Store) DropAll(ctx context.Context) (int64, error) {
	first, err := s.client.Do(ctx, s.client.B().Unlink().Key(s.headKey()).Build()).AsInt64()
	if err != nil {
		return 0, fmt.Errorf("drop namespace: %w", typed(err))
	}
	rest, err := s.remove(ctx, 0, func(string) bool { return false })
	return first + rest, err
}

func (s *Store) remove(ctx context.Context, pause time.Duration, keep func(string) bool) (int64, error) {
	var (
		removed int64
		cursor  uint64
	)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		page, err := s.client.Do(ctx, s.client.B().Scan().Cursor(cursor).Match(s.prefix()+"*").Count(namesPerUnlink).Build()).AsScanEntry()
		if err != nil {
			return removed, fmt.Errorf("sweep: scan: %w", typed(err))
		}
		if names := slices.DeleteFunc(page.Elements, keep); len(names) > 0 {
			n, err := s.client.Do(ctx, s.client.B().Unlink().Key(names...).Build()).AsInt64()
			if err != nil && !rueidis.IsRedisNil(err) {
				return removed, fmt.Errorf("sweep: unlink: %w", typed(err))
			}
			removed += n
		}
		if cursor = page.Cursor; cursor == 0 {
			return removed, nil
		}
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return removed, ctx.Err()
		}
	}
}
