package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// answerWithin bounds a question that is no work for the database: an answer that takes longer was lost on its way.
	answerWithin = 10 * time.Second
	// attendEvery is how often the database is asked whether it is still at what may take it long.
	attendEvery = 2 * time.Second
)

// answered asks the database something that is no work for it.
func answered(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	return ask(ctx)
}

// errSilent ends a session whose connection carries no answers any more.
var errSilent = errors.New("the database waits for the daemon, and the daemon for the database: their connection leads nowhere")

// attended does on the session's own connection what may take as long as others make it wait: for their locks, and for
// every transaction that is open while a slot is made. No time bounds that. But the database says over another connection
// whether it is at it. Once it has been idle for long, the question or its answer was lost on the way; and if it does not
// say, nothing gets through.
func (s *session) attended(ctx context.Context, do func(context.Context) error) error {
	doing, abort := context.WithCancel(ctx)
	defer abort()
	var lost error
	done, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		ticker := time.NewTicker(attendEvery)
		defer ticker.Stop()
		for lost == nil {
			select {
			case <-done:
				return
			case <-ticker.C:
			}
			var idle time.Duration
			if idle, lost = s.side.Idle(ctx, s.conn.PgConn().PID()); lost == nil && idle >= answerWithin {
				lost = errSilent
			}
		}
		abort()
	}()
	err := do(doing)
	close(done)
	<-over
	if lost != nil {
		return fmt.Errorf("watch the set-up: %w", lost) // whatever else went wrong is what came of it, or is met again
	}
	return err
}
