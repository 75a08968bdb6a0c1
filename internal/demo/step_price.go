package demo

import (
	"context"
	"fmt"
	"time"
)

const priceRounds = 50

// priceChanges is step a: what an application's cache never hears of, a write in another session.
func (s *stage) priceChanges(ctx context.Context, step *Step) error {
	plain := plainProducts(s.client, s.pool, time.Minute)
	var gateway, library []time.Duration
	plainStale, back := 0, 0
	for round := range priceRounds {
		id := int64(1 + round%hotRows)
		if _, err := plain.Get(ctx, id, nil); err != nil {
			return err
		}
		seen, err := freshReads(ctx, s.priceReaders(id), func(ctx context.Context) (string, time.Time, error) {
			return s.raisePrice(ctx, id)
		})
		if err != nil {
			return fmt.Errorf("round %d: %w", round+1, err)
		}
		gateway, library = append(gateway, seen[0].after), append(library, seen[1].after)
		back += seen[0].back + seen[1].back
		stale, err := plain.isStale(ctx, id)
		if err != nil {
			return err
		}
		if stale {
			plainStale++
		}
	}
	inserted, err := s.productAppears(ctx)
	if err != nil {
		return err
	}
	step.Measured = "COMMIT to fresh: gateway " + step.spread("gateway", gateway) + "; library " + step.spread("library", library)
	step.Plain = fmt.Sprintf("stale after %d of %d writes, until its TTL", plainStale, priceRounds)
	step.Freshet = fmt.Sprintf("fresh after %d of %d; \"not found\" is replaced %s after INSERT", len(gateway), priceRounds, short(inserted))
	step.milliseconds("insert_ms", inserted)
	step.count("writes", priceRounds)
	step.count("plain_stale", plainStale)
	step.count("stale_again", back)
	step.require(back == 0, "%d reads returned an old price after a fresh one", back)
	step.require(plainStale > 0, "the cache-aside code was never stale: this step shows nothing")
	return nil
}

func (s *stage) priceReaders(id int64) []reader {
	return []reader{
		{"gateway", func(ctx context.Context) (string, error) { return s.gateway.price(ctx, id) }},
		{"library", func(ctx context.Context) (string, error) { return s.library.price(ctx, id) }},
	}
}

// productAppears measures how long a cached "no such row" outlives the row's INSERT.
func (s *stage) productAppears(ctx context.Context) (time.Duration, error) {
	const id, price = productRows + 1, "42.00"
	s.ledger.know(productRow(id), absent)
	seen, err := freshReads(ctx, s.priceReaders(id), func(ctx context.Context) (string, time.Time, error) {
		committed, err := s.ledger.write(productRow(id), price, func() error {
			_, err := s.session.Exec(ctx, `INSERT INTO products VALUES ($1, 1, 'Brass doorbell', $2, 3)`, id, price)
			if err != nil {
				return fmt.Errorf("insert product: %w", err)
			}
			return nil
		})
		return price, committed, err
	})
	if err != nil {
		return 0, err
	}
	return max(seen[0].after, seen[1].after), nil
}

// isStale compares what the plain code returns with the database.
func (c *cacheAside) isStale(ctx context.Context, id int64) (bool, error) {
	cached, err := c.Get(ctx, id, nil)
	if err != nil {
		return false, err
	}
	truth, err := c.Load(ctx, id)
	return cached != truth, err
}
