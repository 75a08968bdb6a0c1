package fill

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// TestNoAnswerFromBeforeItWasAsked: of any number who ask, each gets an answer that was asked for after he came, and most of them one that
// others have, too.
func TestNoAnswerFromBeforeItWasAsked(t *testing.T) {
	t.Parallel()
	var (
		questions together[int64]
		clock     atomic.Int64
		asked     atomic.Int64
		all       sync.WaitGroup
	)
	const askers, rounds = 64, 200
	for i := range askers {
		all.Go(func() {
			for range rounds {
				came := clock.Add(1)
				what := "a"
				if i%8 == 0 {
					what = "b"
				}
				answer, _, err := questions.ask(t.Context(), what, func() (int64, error) {
					asked.Add(1)
					at := clock.Add(1)
					runtime.Gosched() // others come while it is asked
					return at, nil
				})
				if err != nil || answer <= came {
					t.Errorf("asked at %d, after the answer at %d; %v", came, answer, err)
				}
			}
		})
	}
	all.Wait()
	if n := asked.Load(); n > askers*rounds/2 {
		t.Errorf("%d questions were asked %d times", askers*rounds, n)
	}
	if n := len(questions.open); n != 0 {
		t.Errorf("%d questions are left", n)
	}
}

// TestWhoAsksGoes: those who have joined a question whose asker has gone, or has ended his goroutine, ask for themselves, or are told.
func TestWhoAsksGoes(t *testing.T) {
	t.Parallel()
	// joined has one who waits for the answer of another, who then does as he is told.
	joined := func(ctx context.Context, asker func() (int, error)) (answer int, first bool, err error) {
		var questions together[int]
		questions.asking.Add(1) // so that the asker lets others join
		var waiter sync.WaitGroup
		begun := make(chan struct{})
		q := &question[int]{done: make(chan struct{})}
		questions.open = map[string]*question[int]{"a": q}
		waiter.Go(func() { //nolint:contextcheck // it is not the asker, whose context may be over
			close(begun)
			answer, first, err = questions.ask(t.Context(), "a", func() (int, error) { return 2, nil })
		})
		<-begun
		for questions.asking.Load() < 2 {
			runtime.Gosched()
		}
		q.answer, q.err = asker()
		q.gone = q.err != nil && ctx.Err() != nil
		questions.mu.Lock()
		delete(questions.open, "a")
		questions.mu.Unlock()
		close(q.done)
		waiter.Wait()
		return answer, first, err
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if answer, first, err := joined(gone, func() (int, error) { return 0, gone.Err() }); answer != 2 || !first || err != nil {
		t.Errorf("whose asker has gone: %d %v %v", answer, first, err)
	}
	failure := errors.New("it fails")
	if _, first, err := joined(t.Context(), func() (int, error) { return 0, failure }); !errors.Is(err, failure) || first {
		t.Errorf("whose asker has failed: %v %v", first, err)
	}
	var questions together[int]
	var ended sync.WaitGroup
	ended.Go(func() {
		_, _, _ = questions.ask(t.Context(), "a", func() (int, error) { runtime.Goexit(); return 1, nil })
	})
	ended.Wait()
	if answer, first, err := questions.ask(t.Context(), "a", func() (int, error) { return 3, nil }); answer != 3 || !first || err != nil {
		t.Errorf("after one who ended his goroutine: %d %v %v", answer, first, err)
	}
}
