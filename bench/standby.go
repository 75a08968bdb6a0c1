package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/localserver"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"
)

const (
	standbyRows    = 20_000               // that are written
	standbyWriters = 4                    // connections
	standbyThink   = 2 * time.Millisecond // between two reads
)

// standby measures which share of loads a standby that lags can have, of keys that nobody writes while others are
// written: the standby's row has to be proved recent enough, or the load goes to the primary.
func standby(ctx context.Context, b *bench) error {
	a, err := newApplication(ctx, b, "standby")
	if err != nil {
		return err
	}
	defer a.close()
	fill := fmt.Sprintf(`INSERT INTO %s SELECT g, 'value ' || g, 0 FROM generate_series(%d, %d) g`, table, probeRows+1, probeRows+standbyRows)
	if err := b.servers.exec(ctx, a.url, fill); err != nil {
		return err
	}
	for _, lag := range []time.Duration{5 * time.Millisecond, 50 * time.Millisecond, 300 * time.Millisecond} {
		if err := a.lagging(ctx, lag); err != nil {
			return fmt.Errorf("lag of %v: %w", lag, err)
		}
	}
	return nil
}

// lagging measures with a standby that applies each commit so long after it was made.
func (a *application) lagging(ctx context.Context, lag time.Duration) error {
	server, err := localserver.StartStandby(ctx, a.b.servers.pg, localserver.PostgresOptions{Settings: map[string]string{
		"recovery_min_apply_delay": fmt.Sprintf("%dms", lag.Milliseconds()),
	}})
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }() // its supervisor ends it in any case
	primary, err := pgxpool.New(ctx, a.url)
	if err != nil {
		return err
	}
	defer primary.Close()
	replica, err := pgxpool.New(ctx, server.URL("standby"))
	if err != nil {
		return err
	}
	defer replica.Close()
	path, err := a.configuration(a.dir)
	if err != nil {
		return err
	}
	cache, err := freshet.Open(ctx, freshet.Options{Config: path, Database: primary, Replicas: []*pgxpool.Pool{replica}})
	if err != nil {
		return err
	}
	defer cache.Close()
	items, err := freshet.Entry[int, item](cache, table)
	if err != nil {
		return err
	}
	for _, rate := range []int{10, 100, 1000} {
		if err := a.share(ctx, cache, items, lag, rate); err != nil {
			return fmt.Errorf("%d transactions a second: %w", rate, err)
		}
	}
	return nil
}

// share writes at a rate and reads keys that are neither written nor cached.
func (a *application) share(ctx context.Context, cache *freshet.Cache, items *freshet.Typed[int, item], lag time.Duration, rate int) error {
	prefix, err := a.prefix(ctx)
	if err != nil {
		return err
	}
	// The standby has replayed what was written before.
	running, stop := context.WithTimeout(ctx, lag+a.b.sizes.standbyTime)
	defer stop()
	group, running := errgroup.WithContext(running)
	for i := range uint64(standbyWriters) {
		group.Go(func() error {
			return a.keepWriting(ctx, running, a.b.random(100+i), float64(rate)/standbyWriters)
		})
	}
	var used, all uint64
	group.Go(func() error {
		if pause(running, lag) != nil {
			return nil //nolint:nilerr // over
		}
		before := cache.Stats().Replicas
		random := a.b.random(99)
		for running.Err() == nil {
			id := 1 + random.IntN(probeRows)
			if err := a.client.Do(ctx, a.client.B().Unlink().Key(prefix+strconv.Itoa(id)).Build()).Error(); err != nil {
				return err
			}
			if _, err := items.Get(ctx, id); err != nil {
				return err
			}
			if pause(running, standbyThink) != nil {
				break
			}
		}
		for outcome, n := range cache.Stats().Replicas {
			all += n - before[outcome]
			if outcome == "used" {
				used = n - before[outcome]
			}
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return err
	}
	a.b.report(fmt.Sprintf("standby/%d/%dms/share", rate, lag.Milliseconds()), 100*float64(used)/float64(max(all, 1)), "% of loads")
	return nil
}

// keepWriting changes a row of those that nobody reads, so many times a second, until running ends.
func (a *application) keepWriting(ctx, running context.Context, random *rand.Rand, rate float64) error {
	conn, err := pgx.Connect(ctx, a.url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	began := time.Now()
	for n := 0; ; n++ {
		if pause(running, time.Until(began.Add(time.Duration(float64(n)*float64(time.Second)/rate)))) != nil {
			return nil
		}
		if _, err := conn.Exec(ctx, `UPDATE `+table+` SET n = n + 1 WHERE id = $1`, probeRows+1+random.IntN(standbyRows)); err != nil {
			return err
		}
	}
}
