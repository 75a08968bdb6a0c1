package pipeline

import (
	"context"
	"log/slog"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/intent"
)

// tags routes an intent that names tags. What of it cannot be read may mean any of them.
func (s *sink) tags(ctx context.Context, m *change.Message, read *intent.Message) error {
	for tag, problem := range read.Tags() {
		part, err := s.queue.Acquire(ctx)
		if err != nil {
			return err
		}
		var known bool
		if problem == nil {
			known, problem = s.router.Tag(tag, part.Keys)
		}
		if problem != nil {
			known = s.router.AnyTag(part.Keys)
		}
		s.queue.Release()
		if problem != nil {
			s.intents.undecodable.Add(1)
			s.logger.WarnContext(ctx, "an intent has tags that cannot be read; every value that is tied to tags by hand is out of use",
				slog.String("lsn", m.LSN.String()), slog.String("reason", problem.Error()))
		}
		if !known {
			s.untagged(ctx, m)
		}
		if problem != nil || !known {
			return nil
		}
	}
	return nil
}

// noEntry stands for all entries, in what was logged of those that there are not.
const noEntry = ""

// untagged notes an intent that names tags where no value can be tied to one.
func (s *sink) untagged(ctx context.Context, m *change.Message) {
	s.intents.unknown.Add(1)
	if s.strange[noEntry] {
		return
	}
	s.strange[noEntry] = true
	s.logger.WarnContext(ctx, "an intent names tags, and no entry of this daemon has tags: by_hand; nothing that is cached is tied to any",
		slog.String("lsn", m.LSN.String()))
}
