package demo

import (
	"context"
	"fmt"
	"time"
)

const profileRounds = 10

// profileChanges is step c: an entry over three tables, of which each changes in turn.
func (s *stage) profileChanges(ctx context.Context, step *Step) error {
	plain := plainProfiles(s.client, s.pool, time.Minute)
	var all []time.Duration
	plainStale, back := 0, 0
	for _, table := range []struct {
		name  string
		of    func(profile) string
		write func(ctx context.Context, user int64, round int) (string, time.Time, error)
	}{
		{"addresses", profile.city, func(ctx context.Context, user int64, _ int) (string, time.Time, error) {
			return s.move(ctx, user)
		}},
		{"users", func(p profile) string { return p.Name }, func(ctx context.Context, user int64, round int) (string, time.Time, error) {
			return s.set(ctx, "UPDATE users SET name = $2 WHERE id = $1", user, fmt.Sprintf("Robin Newname %d", round))
		}},
		{"profiles", func(p profile) string { return p.Bio }, func(ctx context.Context, user int64, round int) (string, time.Time, error) {
			return s.set(ctx, "UPDATE profiles SET bio = $2 WHERE user_id = $1", user, fmt.Sprintf("Wrote this line %d times.", round))
		}},
	} {
		var seen []time.Duration
		for round := range profileRounds {
			user := int64(5*round + 1) // has an address
			if _, err := plain.Get(ctx, user, nil); err != nil {
				return err
			}
			fresh, err := freshReads(ctx, s.profileReaders(user, table.of), func(ctx context.Context) (string, time.Time, error) {
				return table.write(ctx, user, round+1)
			})
			if err != nil {
				return fmt.Errorf("table %s, round %d: %w", table.name, round+1, err)
			}
			seen = append(seen, fresh[0].after, fresh[1].after)
			back += fresh[0].back + fresh[1].back
			stale, err := plain.isStale(ctx, user)
			if err != nil {
				return err
			}
			if stale {
				plainStale++
			}
			if err := plain.Forget(ctx, user); err != nil {
				return err
			}
		}
		step.spread(table.name, seen)
		all = append(all, seen...)
	}
	writes := 3 * profileRounds
	step.Plain = fmt.Sprintf("stale after %d of %d writes: a write to any of three tables has to know the key", plainStale, writes)
	step.Freshet = fmt.Sprintf("fresh after %d of %d writes, the keys come from the query", len(all)/2, writes)
	step.Measured = "COMMIT to fresh profile: " + step.spread("profile", all)
	step.count("writes", writes)
	step.count("plain_stale", plainStale)
	step.count("stale_again", back)
	step.require(back == 0, "%d reads returned an old profile after a fresh one", back)
	step.require(plainStale > 0, "the cache-aside code was never stale: this step shows nothing")
	return nil
}

func (s *stage) profileReaders(user int64, of func(profile) string) []reader {
	read := func(profileOf func(context.Context, int64) (profile, error)) func(context.Context) (string, error) {
		return func(ctx context.Context) (string, error) {
			p, err := profileOf(ctx, user)
			return of(p), err
		}
	}
	return []reader{{"gateway", read(s.gateway.profile)}, {"library", read(s.library.profile)}}
}

// set writes one value in the writer's session.
func (s *stage) set(ctx context.Context, statement string, id int64, value string) (string, time.Time, error) {
	if _, err := s.session.Exec(ctx, statement, id, value); err != nil {
		return "", time.Time{}, fmt.Errorf("%s: %w", statement, err)
	}
	return value, time.Now(), nil
}
