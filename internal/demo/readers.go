package demo

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"
)

// readEvery is the pause of each background reader: a modest rate, beside which everything is measured.
const readEvery = 10 * time.Millisecond

// readers read hot rows all the time, one through the gateway and one through the library, and judge every read.
type readers struct {
	mu    sync.Mutex
	reads Reads
}

// take returns what was counted since the last call.
func (r *readers) take() Reads {
	r.mu.Lock()
	defer r.mu.Unlock()
	reads := r.reads
	r.reads = Reads{}
	return reads
}

// startReaders starts both; stop returns when they have ended.
func (s *stage) startReaders(ctx context.Context) (r *readers, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	r = &readers{}
	var group sync.WaitGroup
	group.Go(func() {
		s.readOn(ctx, r, &r.reads.Gateway, func(ctx context.Context, id int64, row string) (string, bool, error) {
			if row == productRow(id) {
				var p product
				hit, _, err := s.gateway.read(ctx, "product", id, &p)
				return p.Price.String(), hit, err
			}
			var p profile
			hit, _, err := s.gateway.read(ctx, "user_profile", id, &p)
			return p.city(), hit, err
		})
	})
	group.Go(func() {
		s.readOn(ctx, r, &r.reads.Library, func(ctx context.Context, id int64, row string) (string, bool, error) {
			if row == productRow(id) {
				price, err := s.library.price(ctx, id)
				return price, false, err
			}
			p, err := s.library.profile(ctx, id)
			return p.city(), false, err
		})
	})
	return r, func() { cancel(); group.Wait() }
}

type readFunc func(ctx context.Context, id int64, row string) (value string, hit bool, err error)

func (s *stage) readOn(ctx context.Context, r *readers, counts *Counts, read readFunc) {
	for rest(ctx, readEvery) {
		id := 1 + rand.Int64N(hotRows) //nolint:gosec // which row is read is no secret
		row := productRow(id)
		if rand.IntN(2) == 0 { //nolint:gosec // neither is which entry
			row = userRow(id)
		}
		started := time.Now()
		value, hit, err := read(ctx, id, row)
		if ctx.Err() != nil {
			return
		}
		stale, isTrue := s.ledger.judge(row, value, started)
		r.mu.Lock()
		counts.Reads++
		switch {
		case err != nil:
			counts.Errors++
			counts.lastError = err
		case !isTrue:
			counts.Untrue++
		default:
			if hit {
				counts.Hits++
			}
			if stale > 0 {
				counts.Stale++
				counts.StaleMS = max(counts.StaleMS, milliseconds(stale))
			}
		}
		r.mu.Unlock()
	}
}

func productRow(id int64) string { return "product:" + strconv.FormatInt(id, 10) }

func userRow(id int64) string { return "user:" + strconv.FormatInt(id, 10) }
