package demo

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// redisEmpties is step f: Redis restarts without a memory, under writes and reads.
func (s *stage) redisEmpties(ctx context.Context, step *Step) error {
	plain := plainProducts(s.client, s.pool, 5*time.Minute)
	before, err := s.generation(ctx)
	if err != nil {
		return err
	}
	load := s.startWriters(ctx)
	back, err := s.restartRedis(ctx)
	if err == nil {
		s.say("hits again; caching 2,000 values under the writes")
		err = s.warm(ctx, plain)
	}
	if err := errors.Join(err, load.stop()); err != nil {
		return err
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	after, err := s.generation(ctx)
	if err != nil {
		return err
	}
	a, err := s.audit(ctx)
	if err != nil {
		return err
	}
	plainStale, err := countStale(ctx, plain)
	if err != nil {
		return err
	}
	step.Plain = fmt.Sprintf("began empty as well; %d of %d prices cached since are stale: other sessions wrote them", plainStale, plainRows)
	step.Freshet = fmt.Sprintf("new generation; %d of %d cached values and %d of %d reads stale", a.stale, a.cached, a.wrong, a.read)
	step.Measured = fmt.Sprintf("hits again %s after Redis answered (away for %s)", short(back.hits), short(back.away))
	step.count("writes", int(load.writes.Load()))
	step.milliseconds("away_ms", back.away)
	step.milliseconds("hits_again_ms", back.hits)
	step.count("plain_checked", plainRows)
	step.count("plain_stale", plainStale)
	a.note(step)
	step.require(before != "" && after != "" && before != after, "the generation was %q and is %q", before, after)
	return nil
}

type comeback struct {
	away time.Duration // from the stop until Redis answered again
	hits time.Duration // from then until the gateway served a hit
}

// restartRedis restarts it and waits for the first hit, on a row that nobody writes.
func (s *stage) restartRedis(ctx context.Context) (comeback, error) {
	const id = 2 * warmRows
	stopped := time.Now()
	s.say("restarting Redis empty")
	if err := s.redis.Restart(ctx); err != nil {
		return comeback{}, err
	}
	answers := time.Now()
	err := until(ctx, readyWithin, 5*time.Millisecond, func(ctx context.Context) error {
		var p product
		hit, _, err := s.gateway.read(ctx, "product", id, &p)
		if err == nil && !hit {
			err = errors.New("no hit yet")
		}
		return err
	})
	if err != nil {
		return comeback{}, fmt.Errorf("wait for a hit: %w; the daemon's log ends with:\n%s", err, s.logTail())
	}
	return comeback{away: answers.Sub(stopped), hits: time.Since(answers)}, nil
}
