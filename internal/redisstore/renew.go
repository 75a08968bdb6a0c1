package redisstore

import (
	"context"
	"fmt"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
)

// Renew is Fill of the value that is stored, without sending it (R5): if the token's lease allows it, the value has the
// request's coverage from now on. A repeat could do no harm: it uses its lease up.
func (s *Store) Renew(ctx context.Context, name string, q RenewRequest) (fence.FillOutcome, error) {
	outcome, _, err := s.renew(ctx, name, q)
	return outcome, err
}

func (s *Store) renew(ctx context.Context, name string, q RenewRequest) (fence.FillOutcome, int64, error) {
	args := []string{string(q.Token), q.Coverage.String(), fence.EscapeVersion(q.RowVersion), millis(q.TTL), fence.KeepText(q.Keep.Microseconds())}
	if len(q.Epochs) > 0 {
		args = append(args, fence.EpochsText(q.Epochs))
	}
	reply, err := s.eval(ctx, s.scripts.renew, name, args)
	if err != nil {
		return 0, 0, fmt.Errorf("renew key: %w", err)
	}
	return fillOutcome("renew key", reply)
}

// fillOutcome reads the answer to a FILL or a RENEW: what came of it, and the store's clock.
func fillOutcome(verb string, reply rueidis.RedisResult) (fence.FillOutcome, int64, error) {
	answer, err := reply.ToArray()
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w", verb, typed(err))
	}
	if len(answer) != 2 {
		return 0, 0, fmt.Errorf("%s: answer of %d parts: %w", verb, len(answer), ErrRefused)
	}
	now, err := clock(answer[1])
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w", verb, err)
	}
	text, err := answer[0].ToString()
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w", verb, typed(err))
	}
	for outcome := fence.Filled; outcome <= fence.NoValue; outcome++ {
		if outcome.String() == text {
			return outcome, now, nil
		}
	}
	return 0, 0, fmt.Errorf("%s: answer %q: %w", verb, text, ErrRefused)
}
