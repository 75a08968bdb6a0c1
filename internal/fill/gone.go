package fill

import (
	"context"
	"log/slog"

	"github.com/freshet/freshet/internal/fence"
)

// abandon gives leases back that were asked for, by a caller that has gone before it had the answers. They may have been granted, and nobody
// would load under them: until their end all others would wait in vain. What is sent now comes after them, on the connection that they were
// asked for on.
func (r *Reader) abandon(ctx context.Context, names []string, tokens []fence.Token) {
	err := r.begin(ctx, r.fillWithin, func(ctx context.Context) {
		if err := r.batches.ReleaseMany(ctx, names, tokens); err != nil {
			r.logger.DebugContext(ctx, "release failed", slog.String("error", err.Error()))
		}
	})
	if err != nil {
		r.logger.DebugContext(ctx, "release failed", slog.String("error", err.Error()))
	}
}

// abandon does so for items.
func (b *batch) abandon(ctx context.Context, items []*item) {
	if len(items) > 0 {
		names, tokens := leases(items)
		b.Reader.abandon(ctx, names, tokens)
	}
}

// leases are those that were asked for of items.
func leases(items []*item) (names []string, tokens []fence.Token) {
	for _, it := range items {
		names, tokens = append(names, it.w.name), append(tokens, it.token)
	}
	return names, tokens
}
