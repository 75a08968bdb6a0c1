package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/freshet/freshet/internal/envelope"
	"github.com/freshet/freshet/internal/fence"
)

const slowRounds = 10

// slowReader is step d: a reader has the old row in its hands while a write passes, and only then fills the cache.
func (s *stage) slowReader(ctx context.Context, step *Step) error {
	plain := plainProducts(s.client, s.pool, plainTTL)
	var total slowRead
	plainStale, servedOld := 0, 0
	for round := range slowRounds {
		// Rows of their own: what one write invalidates must not help the other's reader.
		plainID, freshetID := int64(20+round), int64(40+round)
		stale, err := s.plainSlowRead(ctx, plain, plainID)
		if err != nil {
			return err
		}
		if stale {
			plainStale++
		}
		// In every other round somebody else reads, and fills, before the slow reader comes back.
		seen, err := s.freshetSlowRead(ctx, freshetID, round%2 == 1)
		if err != nil {
			return fmt.Errorf("round %d: %w", round+1, err)
		}
		total.held += seen.held
		total.refused += seen.refused
		total.cachedOld += seen.cachedOld
		servedOld += seen.servedOld
	}
	step.Plain = fmt.Sprintf("cached the old row in %d of %d rounds, and served it", plainStale, slowRounds)
	step.Freshet = fmt.Sprintf("refused the old row in %d of %d rounds; every next read was fresh", total.refused, slowRounds)
	if servedOld > 0 {
		step.Freshet = fmt.Sprintf("served the old row in %d of %d rounds", servedOld, slowRounds)
	}
	step.Measured = fmt.Sprintf("old rows in Redis afterwards: plain %d, freshet %d", plainStale, total.cachedOld)
	step.count("rounds", slowRounds)
	step.count("plain_cached_old", plainStale)
	step.count("freshet_cached_old", total.cachedOld)
	step.count("freshet_served_old", servedOld)
	step.count("slow_reads_of_old_row", total.held)
	step.count("fills_refused", total.refused)
	step.require(total.held == slowRounds, "only %d of %d slow readers held the old row", total.held, slowRounds)
	step.require(total.refused == slowRounds, "freshet refused the fills of %d of %d slow readers", total.refused, slowRounds)
	step.require(total.cachedOld == 0, "freshet cached the old row in %d rounds", total.cachedOld)
	step.require(servedOld == 0, "freshet served the old row in %d rounds", servedOld)
	step.require(plainStale > 0, "the cache-aside code never cached the old row: this step shows nothing")
	return nil
}

// plainSlowRead tells whether the plain code serves the old row after COMMIT and DEL.
func (s *stage) plainSlowRead(ctx context.Context, plain *cacheAside, id int64) (stale bool, err error) {
	if err := plain.Forget(ctx, id); err != nil {
		return false, err
	}
	loaded, release, read := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := plain.Get(ctx, id, func() {
			close(loaded)
			<-release
		})
		read <- err
	}()
	select {
	case <-loaded:
	case err := <-read:
		return false, errors.Join(errors.New("the slow reader did not load"), err)
	}
	price, err := nextPrice(s.ledger.last(productRow(id)))
	if err == nil {
		_, err = s.ledger.write(productRow(id), price, func() error {
			return plain.Write(ctx, id, setPrice, []any{id, price}, nil)
		})
	}
	close(release)
	if err := errors.Join(err, <-read); err != nil {
		return false, err
	}
	return plain.isStale(ctx, id)
}

type slowRead struct {
	held      int // 1: the slow reader had the old row
	refused   int // 1: its fill was refused, as the library counts
	cachedOld int // 1: Redis has it afterwards
	servedOld int // 1: a reader that came after the write got it
}

type slowReply struct {
	price string
	err   error
}

func (s *stage) freshetSlowRead(ctx context.Context, id int64, between bool) (seen slowRead, err error) {
	old := s.ledger.last(productRow(id))
	release := s.library.hold()
	read := make(chan slowReply, 1)
	var reading sync.WaitGroup
	reading.Go(func() {
		tag, err := s.library.tags.Get(ctx, id)
		read <- slowReply{price: tag.Price, err: err}
	})
	defer reading.Wait()
	defer release()
	select {
	case price := <-s.library.loads:
		if price != old {
			return seen, fmt.Errorf("the slow reader loaded %s, want the old price %s", price, old)
		}
	case reply := <-read:
		return seen, errors.Join(errors.New("the slow reader did not load"), reply.err)
	}
	price, _, err := s.raisePrice(ctx, id)
	if err != nil {
		return seen, err
	}
	// The daemon fences the reader's lease, or takes it away.
	key := fmt.Sprintf("tag:%d", id)
	err = until(ctx, freshWithin, pollPause, func(ctx context.Context) error {
		record, err := s.record(ctx, "price_tag", key)
		if err == nil && !record.Lease.IsZero() && len(record.Fences) == 0 {
			err = fmt.Errorf("the lease of %s is still there without a fence", key)
		}
		return err
	})
	if err != nil {
		return seen, err
	}
	if between {
		if err := s.tagIs(ctx, id, price, &seen.servedOld); err != nil {
			return seen, err
		}
	}
	refused := s.library.refused() // nobody else reads price tags from here on
	release()
	reply := <-read
	if reply.err != nil {
		return seen, reply.err
	}
	if reply.price == old {
		seen.held = 1
	}
	seen.refused = s.library.refused() - refused
	record, err := s.record(ctx, "price_tag", key)
	if err != nil {
		return seen, err
	}
	if record.State == fence.Live {
		var tag priceTag
		payload, err := envelope.JSONOf(record.Payload)
		if err == nil {
			err = json.Unmarshal(payload, &tag)
		}
		if err != nil {
			return seen, fmt.Errorf("decode what Redis holds for %s: %w", key, err)
		}
		if tag.Price != price {
			seen.cachedOld = 1
		}
	}
	return seen, s.tagIs(ctx, id, price, &seen.servedOld)
}

func (s *stage) tagIs(ctx context.Context, id int64, price string, other *int) error {
	tag, err := s.library.tags.Get(ctx, id)
	if err == nil && tag.Price != price {
		*other = 1
	}
	return err
}
