package fill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/freshet/freshet/internal/pgload"
)

const (
	// breakAfter is how many loads in a row the database must fail to answer, until no more are sent.
	breakAfter = 8
	// firstBreak and longestBreak bound for how long that is, which doubles as long as the load that is let through then fails too.
	firstBreak, longestBreak = 250 * time.Millisecond, 2 * time.Second
)

// breaker keeps loads from a database that does not answer: they would each take their whole timeout, and add to what
// overloads it. Only what says that it does not answer counts, no error that it answers with.
type breaker struct {
	logger *slog.Logger

	mu       sync.Mutex
	failures int           // in a row
	pause    time.Duration // the present one; 0: it is closed
	until    time.Time
	trying   bool // one load is let through
	opened   uint64
	refused  uint64
}

// BreakerStats says whether the database is asked. It has no name of its own, so that Stats can become a type of another package.
type BreakerStats = struct {
	Open    bool   `json:"open"`    // loads are refused but for one now and then
	Opened  uint64 `json:"opened"`  // how often that began
	Refused uint64 `json:"refused"` // loads that were not sent
}

// ask asks whether a load may be sent. done is called with its outcome.
func (b *breaker) ask() (done func(err error), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pause == 0 {
		return b.done, nil
	}
	if left := time.Until(b.until); b.trying || left > 0 {
		b.refused++
		return nil, fmt.Errorf("%w: it has failed to answer %d loads in a row, and is asked again in %s", ErrUnavailable, b.failures,
			max(left, 0).Round(time.Millisecond))
	}
	b.trying = true
	return b.tried, nil
}

// silent reports whether an error says that the database does not answer.
func silent(err error) bool {
	return errors.Is(err, pgload.ErrUnavailable) || errors.Is(err, pgload.ErrTimeout) || mute(err)
}

// mute reports whether an error says nothing about the database.
func mute(err error) bool {
	for _, of := range []error{context.Canceled, ErrClosed, errExited, errSlow, errBusy, pgload.ErrBusy} {
		if errors.Is(err, of) {
			return true
		}
	}
	return false
}

// errBusy is the outcome of a load by code that took its whole time: perhaps with something else than the database.
var errBusy = errors.New("the loader took its whole time")

// outcome is what a load says of the database. An error of the code that loads says that it has answered.
func (w *want) outcome(err error) error {
	if _, own := errors.AsType[*pgload.CodeError](err); own {
		return nil
	}
	if w.load != nil && errors.Is(err, pgload.ErrTimeout) {
		return errBusy
	}
	return err
}

func (b *breaker) done(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.pause != 0: // opened while this one was under way
	case mute(err):
	case !silent(err):
		b.failures = 0
	default:
		b.failures++
		if b.failures >= breakAfter {
			b.opened++
			b.open(firstBreak)
			b.logger.Warn("the database does not answer: loads are refused, but for one now and then",
				slog.Int("failures", b.failures), slog.String("error", err.Error()))
		}
	}
}

// tried is done of the load that was let through.
func (b *breaker) tried(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trying = false
	switch {
	case mute(err): // another one may try
	case silent(err):
		b.failures++
		b.open(min(2*b.pause, longestBreak))
	default:
		b.logger.Info("the database answers again", slog.Int("failures", b.failures))
		b.failures, b.pause = 0, 0
	}
}

// open refuses loads for a time, which differs from process to process.
func (b *breaker) open(pause time.Duration) {
	b.pause = pause
	b.until = time.Now().Add(pause/2 + rand.N(pause/2)) //nolint:gosec // spread, no secret
}

func (b *breaker) stats() BreakerStats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return BreakerStats{Open: b.pause != 0, Opened: b.opened, Refused: b.refused}
}
