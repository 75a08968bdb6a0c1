package fill

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/freshet/freshet/internal/store"
)

const (
	// registerEvery is how often a process that reads says again that it uses a retained version (D7).
	registerEvery = 15 * time.Second
	// registeredFor is how long the store remembers it: some failed attempts do not matter.
	registeredFor = 4 * registerEvery
)

// use is a version of an entry that no file of a daemon declares any more, and this process's file does.
type use struct{ entry, definition string }

// register has the retained versions registered, when that is due. The caller holds asking. Versions that a daemon's own
// file declares need no registration, so that a fleet which is all of one version writes none.
func (r *Reader) register(before, next *confirmation) {
	if next.names == nil || len(next.names.retained) == 0 {
		return
	}
	moved := before == nil || before.names != next.names
	if !moved && next.sent-r.registered < registerEvery {
		return
	}
	r.registered = next.sent
	select {
	case r.uses <- next.names.retained:
	default:
	}
}

// registerAll tells the store which retained versions this process uses.
func (r *Reader) registerAll(uses []use) {
	ctx, cancel := context.WithTimeout(context.Background(), r.confirmWithin)
	defer cancel()
	for _, u := range uses {
		if err := r.store.Register(ctx, store.Use{Entry: u.entry, Definition: u.definition}, r.process, registeredFor); err != nil {
			r.logger.Warn("cannot register that an older version of an entry is used; the daemon will give it up when nobody else does",
				slog.String("entry", u.entry), slog.String("definition", u.definition), slog.String("error", err.Error()))
			return // the others would fare alike
		}
	}
}

// process says who a registration is from.
func process() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return fmt.Sprintf("%s, process %d", host, os.Getpid())
}

// announce logs what the cache is bypassed for, when that changes. The caller holds asking.
func (r *Reader) announce(ctx context.Context, before, next *confirmation) {
	if next.why == noHead && (before == nil || before.why != noHead) {
		r.logger.WarnContext(ctx, "no daemon vouches for the cache, reading from the database and storing nothing")
	}
	if next.names == nil || before != nil && before.names == next.names {
		return
	}
	for name, e := range r.entries {
		_, known := next.names.entries[name]
		if known != r.unknown[name] {
			continue
		}
		r.unknown[name] = !known
		attrs := []any{slog.String("entry", name), slog.String("definition", e.digest)}
		if known {
			r.logger.InfoContext(ctx, "the daemon serves the entry as it is declared here", attrs...)
		} else {
			r.logger.WarnContext(ctx, "the daemon does not serve the entry as it is declared here, reading it from the database and "+
				"storing nothing; its file is another one, or it refuses the entry: freshet status says which", attrs...)
		}
	}
}
