package redisstore

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// sweepPause is between two steps of a sweep, so that it takes little of the server from those who read.
const sweepPause = 2 * time.Millisecond

// Live is what a sweep leaves: the prefixes of live names, and the retained versions of entries.
type Live struct {
	Prefixes []string
	Retained []Use
}

// Sweep removes the records of dead names, and what was registered of versions that are not retained; it asks anew what
// lives for every step, since names move. It is paced, and returns how many keys it removed. Nobody reads what it removes,
// so it may be broken off at any time. Keys of other kinds than it knows it leaves alone.
func (s *Store) Sweep(ctx context.Context, live func() Live) (int64, error) {
	return s.remove(ctx, sweepPause, func(names []string) []string {
		now := live()
		return slices.DeleteFunc(names, func(name string) bool { return !s.dead(name, &now) })
	})
}

func (s *Store) dead(name string, live *Live) bool {
	rest := strings.TrimPrefix(name, s.prefix())
	if u, ok := parseUse(rest); ok {
		return !slices.Contains(live.Retained, u)
	}
	generation, _, ok := strings.Cut(rest, ":")
	if _, err := strconv.ParseUint(generation, 16, 64); !ok || err != nil || len(generation) != 16 {
		return false
	}
	return !slices.ContainsFunc(live.Prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// DropAll removes every key of the namespace, HEAD first, so that nobody fills while it goes on.
func (s *Store) DropAll(ctx context.Context) (int64, error) {
	first, err := s.client.Do(ctx, s.client.B().Unlink().Key(s.headKey()).Build()).AsInt64()
	if err != nil {
		return 0, fmt.Errorf("drop namespace: %w", typed(err))
	}
	rest, err := s.remove(ctx, 0, func(names []string) []string { return names })
	return first + rest, err
}

func (s *Store) remove(ctx context.Context, pause time.Duration, choose func(names []string) []string) (int64, error) {
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
		if names := choose(page.Elements); len(names) > 0 {
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
