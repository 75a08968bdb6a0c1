package cli

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/store"
)

// deaf holds nothing.
type deaf struct{}

func (deaf) Invalidate(string) {}
func (deaf) Drop(*store.Wire)  {}

// judgeTracking says whether readers with the file's user can hold values in their memory, as the file has them do. It writes a key that
// lives for a second.
func (r *checked) judgeTracking(ctx context.Context, namespace string) {
	if namespace == "" || r.conf.L1.Size.Bytes() == 0 {
		return
	}
	options := storeOptions(r.conf, namespace, slog.New(slog.DiscardHandler))
	options.Near = deaf{}
	opened, err := redisstore.Open(ctx, options)
	if err != nil {
		return // which has been said of the first one
	}
	defer opened.Close()
	if err := opened.Tracks(ctx); err != nil {
		r.note("redis", fmt.Sprintf("region %s: the server does not tell this user of changes: %v", r.conf.Regions[0].Name, err),
			"an application that reads as this user holds no values in its own memory (l1), and asks Redis for each",
			"grant the user client|tracking (docs/operations.md has all of it), or say l1: {size: off}; nothing, where only the daemon is this user")
	}
}
