package demo

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// daemonDies is step e: the daemon is killed while writers write, and comes back.
func (s *stage) daemonDies(ctx context.Context, step *Step) error {
	plain := plainProducts(s.client, s.pool, 5*time.Minute)
	s.say("caching 2,000 values, then writing all the time")
	if err := s.warm(ctx, plain); err != nil {
		return err
	}
	load := s.startWriters(ctx)
	down, err := s.crash(ctx, load)
	if err := errors.Join(err, load.stop()); err != nil {
		return err
	}
	if err := s.settle(ctx); err != nil {
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
	step.Plain = fmt.Sprintf("%d of %d cached prices stale: other sessions wrote them", plainStale, plainRows)
	step.Freshet = fmt.Sprintf("%d of %d cached values and %d of %d reads stale after catching up", a.stale, a.cached, a.wrong, a.read)
	step.Measured = fmt.Sprintf("%d writes while it was down for %s made %d cached values stale; caught up %s after its start",
		down.writes, short(down.lasted), down.stale, short(down.catchUp))
	step.count("writes", int(load.writes.Load()))
	step.count("writes_while_down", down.writes)
	step.count("stale_while_down", down.stale)
	step.milliseconds("down_ms", down.lasted)
	step.milliseconds("catch_up_ms", down.catchUp)
	step.count("plain_checked", plainRows)
	step.count("plain_stale", plainStale)
	a.note(step)
	step.require(down.writes > 0 && down.stale > 0, "%d writes made %d cached values stale while the daemon was down: this step shows nothing",
		down.writes, down.stale)
	return nil
}

// note puts the comparison into the step, and requires that nothing was stale and that there was something to compare.
func (a audited) note(step *Step) {
	step.count("cached", a.cached)
	step.count("cached_stale", a.stale)
	step.count("reads_compared", a.read)
	step.count("reads_stale", a.wrong)
	step.require(a.cached > 0, "nothing was cached: this step shows nothing")
	step.require(a.stale+a.wrong == 0, "%d cached values and %d reads are stale, such as %s", a.stale, a.wrong, a.sample)
}

type outage struct {
	lasted  time.Duration // from the kill to the next start
	writes  int           // meanwhile
	stale   int           // cached values that they have made stale
	catchUp time.Duration // from the start until what was written before it was applied
}

// crash kills the daemon and starts it again after more than a second.
func (s *stage) crash(ctx context.Context, load *load) (outage, error) {
	const before, pause, after = time.Second, 1200 * time.Millisecond, time.Second
	if !rest(ctx, before) {
		return outage{}, context.Cause(ctx)
	}
	killed, written := time.Now(), load.writes.Load()
	if err := s.daemon.kill(); err != nil {
		return outage{}, err
	}
	s.say("kill -9 of the daemon; %d writes before", written)
	if !rest(ctx, pause) {
		return outage{}, context.Cause(ctx)
	}
	// What is cached must be stale by now, or the comparison afterwards would show nothing.
	a, err := s.auditRedis(ctx)
	if err != nil {
		return outage{}, err
	}
	down := outage{writes: int(load.writes.Load() - written), stale: a.stale}
	position, err := s.position(ctx)
	if err != nil {
		return down, err
	}
	started := time.Now()
	down.lasted = started.Sub(killed)
	s.say("starting it again after %d more writes", down.writes)
	if err := s.startDaemon(ctx); err != nil {
		return down, err
	}
	if err := s.applied(ctx, position); err != nil {
		return down, fmt.Errorf("wait for the daemon to catch up: %w; its log ends with:\n%s", err, s.logTail())
	}
	down.catchUp = time.Since(started)
	if err := s.daemonReady(ctx); err != nil {
		return down, err
	}
	if !rest(ctx, after) {
		return down, context.Cause(ctx)
	}
	return down, nil
}
