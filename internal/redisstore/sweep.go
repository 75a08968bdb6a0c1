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
	if s.lanes > 1 {
		_, rest, _ = strings.Cut(rest, "}:")
	}
	if u, ok := parseUse(rest); ok {
		return !slices.Contains(live.Retained, u)
	}
	return live.Dead(name, rest)
}

// DropAll removes every key of the namespace, HEAD first, so that nobody fills while it goes on.
func (s *Store) DropAll(ctx context.Context) (int64, error) {
	var first int64
	for lane := range s.lanes {
		to, err := s.toLane(lane)
		if err != nil {
			return first, fmt.Errorf("drop namespace: %w", err)
		}
		n, err := to.client.Do(ctx, s.client.B().Unlink().Key(s.headKey(lane)).Build()).AsInt64()
		if err != nil {
			return first, fmt.Errorf("drop namespace: %w", to.typed(err))
		}
		first += n
	}
	rest, err := s.remove(ctx, 0, func(names []string) []string { return names })
	return first + rest, err
}

// remove removes those of the namespace's keys that are chosen, on every server.
func (s *Store) remove(ctx context.Context, pause time.Duration, choose func(names []string) []string) (int64, error) {
	var removed int64
	seen := map[rueidis.Client]bool{}
	for lane := range s.lanes {
		to, err := s.toLane(lane)
		if err != nil {
			return removed, fmt.Errorf("sweep: %w", err)
		}
		if seen[to.client] {
			continue
		}
		seen[to.client] = true
		n, err := s.removeFrom(ctx, to.client, pause, choose)
		removed += n
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}

func (s *Store) removeFrom(ctx context.Context, client rueidis.Client, pause time.Duration, choose func(names []string) []string) (int64, error) {
	var (
		removed int64
		cursor  uint64
	)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		page, err := client.Do(ctx, s.client.B().Scan().Cursor(cursor).Match(s.prefix()+"*").Count(namesPerUnlink).Build()).AsScanEntry()
		if err != nil {
			return removed, fmt.Errorf("sweep: scan: %w", typed(err))
		}
		for _, names := range s.bySlot(client, page.Elements) {
			if names = choose(names); len(names) == 0 {
				continue
			}
			n, err := client.Do(ctx, s.client.B().Unlink().Key(names...).Build()).AsInt64()
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

// bySlot divides names by what one command may name together. In a cluster it leaves out those that are of no lane, and those
// whose lane is another node's now, which a move has left behind: this node would refuse to remove them.
func (s *Store) bySlot(client rueidis.Client, names []string) [][]string {
	if s.lanes == 1 {
		return [][]string{names}
	}
	all := make([][]string, s.lanes)
	for _, name := range names {
		if to, err := s.to(name); err == nil && to.client == client {
			all[to.lane] = append(all[to.lane], name)
		}
	}
	return all
}
