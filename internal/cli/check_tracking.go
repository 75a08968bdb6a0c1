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

// judgeTracking says whether readers with the file's user can hold values in their memory, as the file has them do, and whether those that
// hold nothing are told when what they wait for is there. It writes keys that live for a millisecond.
func (r *checked) judgeTracking(ctx context.Context, namespace string) {
	if namespace == "" {
		return
	}
	note := func(err error, then, do string) {
		r.note("redis", fmt.Sprintf("region %s: the server does not tell this user of changes: %v", r.conf.Regions[0].Name, err), then, do)
	}
	if r.conf.L1.Size.Bytes() > 0 {
		if err := r.tracks(ctx, namespace, deaf{}); err != nil {
			note(err, "an application that reads as this user holds no values in its own memory (l1), and asks Redis for each",
				"grant the user client|tracking (docs/operations.md has all of it), or say l1: {size: off}; nothing, where only the daemon is this user")
			return
		}
	}
	if err := r.tracks(ctx, namespace, nil); err != nil {
		note(err, "a reader that holds nothing in memory (the gateway, l1: {size: off}) looks every 2 to 50 ms for what another process loads, instead of being told",
			"grant the user client|tracking and client|caching (docs/operations.md has all of it)")
	}
}

// tracks says why a reader is not told of changes: one that holds values where near is given, and otherwise one that waits.
func (r *checked) tracks(ctx context.Context, namespace string, near redisstore.Near) error {
	options := storeOptions(r.conf, namespace, slog.New(slog.DiscardHandler))
	options.Near = near
	opened, err := redisstore.Open(ctx, options)
	if err != nil {
		return nil
	}
	defer opened.Close()
	return opened.Tracks(ctx)
}
