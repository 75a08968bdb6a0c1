package fill

import (
	"context"
	"time"

	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/mvcc"
)

// sighting is one look at what is visible in the database. All reads that wait for a transaction share it, whatever they
// read: however many there are, and whoever made their tokens up, the database answers one small statement at a time.
type sighting struct {
	done     chan struct{}
	began    time.Time
	snapshot mvcc.Snapshot
	server   pgload.Server
	err      error
}

// lookGap is the least time between two looks.
const lookGap = 2 * time.Millisecond

// look looks at what is visible, or joins a look that is under way or was a moment ago: what one shows stays visible.
func (r *Reader) look(ctx context.Context, timeout time.Duration) (*sighting, error) {
	r.mu.Lock()
	s := r.sighting
	if s == nil || time.Since(s.began) >= lookGap && isClosed(s.done) {
		s = &sighting{done: make(chan struct{}), began: time.Now()}
		r.sighting = s
		r.mu.Unlock()
		err := r.begin(ctx, timeout, func(ctx context.Context) {
			defer close(s.done)
			s.snapshot, s.server, s.err = r.loader.Visible(ctx)
		})
		if err != nil {
			s.err = err
			close(s.done)
		}
	} else {
		r.mu.Unlock()
	}
	select {
	case <-s.done:
		return s, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// await waits until the database shows what a read needs, within the load timeout of the read. why is what it lacked,
// and pause how long to wait before the first look.
func (r *Reader) await(ctx context.Context, began time.Time, e *declared, n *need, why error, pause time.Duration) error {
	for ; ; pause = min(2*pause, longestPause) {
		if time.Since(began)+pause > e.LoadTimeout {
			return why
		}
		if err := r.pause(ctx, pause); err != nil {
			return err
		}
		s, err := r.look(ctx, e.LoadTimeout)
		switch {
		case err != nil:
			return err
		case s.err != nil:
			return typed(s.err)
		}
		if why = n.shown(s.server, s.snapshot); why == nil || !waitable(why) {
			return why
		}
	}
}

func (r *Reader) pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-r.closing:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}
