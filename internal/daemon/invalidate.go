package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/freshet/freshet/internal/api"
	"github.com/freshet/freshet/internal/byhand"
	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/pgload"
)

const (
	// emitWithin bounds the wait for the log, and appliedWithin the one for the store after it.
	emitWithin    = 5 * time.Second
	appliedWithin = 5 * time.Second
)

// openWriter opens the database whose log is followed: what is invalidated by hand is written there, by the daemon's role.
func (p *parts) openWriter(ctx context.Context, c *config.Config) (err error) {
	if p.writer = p.loader; logURL(c) == c.Database.URL.Reveal() {
		return nil
	}
	if p.writer, err = pgload.Open(ctx, logURL(c)); err != nil {
		return fmt.Errorf("the database whose log is read: %w", err)
	}
	return nil
}

func (p *parts) closeWriter() {
	if p.writer != p.loader {
		p.writer.Close()
	}
}

// Invalidate implements api.Invalidator.
func (d *daemon) Invalidate(ctx context.Context, w *byhand.What, dry bool) (*byhand.Done, error) {
	p := d.parts.Load()
	if p == nil {
		return nil, fmt.Errorf("%w: the daemon is starting: %s", api.ErrUnavailable, *d.wait.Load())
	}
	ctx, cancel := context.WithTimeout(ctx, emitWithin+appliedWithin)
	defer cancel()
	hand := byhand.Hand{Database: p.writer, Store: p.store, Declared: d.file.Load().Declared()}
	done, err := hand.Invalidate(ctx, w, dry, appliedWithin)
	if err != nil {
		for _, pair := range []struct{ from, to error }{
			{pgload.ErrReadOnly, api.ErrReadOnly},
			{pgload.ErrMayNotEmit, api.ErrMayNotWrite},
			{pgload.ErrUnavailable, api.ErrUnavailable},
			{pgload.ErrTimeout, api.ErrUnavailable},
		} {
			if errors.Is(err, pair.from) {
				return nil, fmt.Errorf("%w: %w", pair.to, err)
			}
		}
		return nil, err
	}
	if !dry {
		d.logger.InfoContext(ctx, "invalidated by hand", slog.Any("entries", done.Entries), slog.Bool("whole", done.Key == ""),
			slog.String("token", done.Token), slog.Bool("applied", done.Applied))
	}
	return done, nil
}
