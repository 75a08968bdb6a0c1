package verify

import (
	"context"
	"time"
)

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// together is how many values are read in one go.
const together = 64

// pacer spreads values over time.
type pacer struct {
	rate float64
	next time.Time
}

// take waits until n more values are due.
func (p *pacer) take(ctx context.Context, n int) error {
	if p.rate <= 0 {
		return ctx.Err()
	}
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	wait := p.next.Sub(now)
	p.next = p.next.Add(time.Duration(float64(n) / p.rate * float64(time.Second)))
	if wait <= 0 {
		return ctx.Err()
	}
	return sleep(ctx, wait)
}

// step is how many values are to be taken at a time: so few that the rate is kept within a quarter of a second too.
func (p *pacer) step() int {
	if p.rate <= 0 {
		return together
	}
	return int(min(max(p.rate/4, 1), together))
}

// meter tells now and then how far a run has come.
type meter struct {
	tell        func(*Report)
	began, told time.Time
}

func newMeter(tell func(*Report)) meter { return meter{tell: tell, began: time.Now()} }

func (m *meter) took() time.Duration { return time.Since(m.began) }

func (m *meter) progress(r *Report) {
	const every = 5 * time.Second
	if now := time.Now(); m.tell != nil && now.Sub(m.began) >= every && now.Sub(m.told) >= every {
		m.told = now
		r.finish(m.took())
		m.tell(r)
	}
}
