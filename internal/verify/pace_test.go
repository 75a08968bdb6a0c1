package verify

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestPacer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pacer{rate: 100}
		began, taken := time.Now(), 0
		for taken < 1_000 {
			n := p.step()
			if err := p.take(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			taken += n
		}
		if took := time.Since(began); took < 9*time.Second || took > 11*time.Second {
			t.Errorf("%d values at 100 in a second took %v", taken, took)
		}
		stopped, stop := context.WithCancelCause(t.Context())
		enough := errors.New("enough")
		stop(enough)
		if err := p.take(stopped, 1); !errors.Is(err, enough) {
			t.Errorf("take() = %v after the end", err)
		}
		free := pacer{}
		began = time.Now()
		for range 1_000 {
			if err := free.take(t.Context(), free.step()); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("without a rate it took %v", took)
		}
	})
}

func TestMeter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var told []float64
		m := newMeter(func(r *Report) { told = append(told, r.Seconds) })
		r := newReport()
		for range 1_200 {
			time.Sleep(10 * time.Millisecond) //nolint:forbidigo // of the bubble's clock
			m.progress(r)
		}
		if len(told) != 2 || told[0] != 5 || told[1] != 10 {
			t.Errorf("it told of its progress after %v s, want 5 and 10", told)
		}
	})
}
