package fill

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/freshet/freshet/internal/rule"
)

// whereabouts is in which database of its server the loader was when it last said so. Databases of one cluster have system
// identifier, timeline and transaction ids in common, so that nothing else tells their rows apart.
type whereabouts struct {
	said  atomic.Pointer[rule.Database] // nil: it has not
	asked atomic.Bool                   // it is being asked now
	first bool                          // it was asked once; of whoever holds asking
}

// Located is a Loader that can be asked in which database of its server it is.
type Located interface {
	Database(ctx context.Context) (rule.Database, error)
}

const (
	// askDatabaseWait is how long the first confirmation waits for the loader's answer. A database that is away does not keep
	// cached values from being read.
	askDatabaseWait = 250 * time.Millisecond
	// askDatabaseTimeout bounds the question itself.
	askDatabaseTimeout = 5 * time.Second
)

// elsewhere reports that values in that database are not those which are cached under the names.
func (c *confirmation) elsewhere(loads rule.Database) bool {
	return c != nil && c.names != nil && c.names.database.Other(loads)
}

// learn takes note of the database that the loader was in. Names that are not of it are not used any more.
func (r *Reader) learn(d rule.Database) {
	if d.OID == 0 {
		return
	}
	if before := r.place.said.Load(); before == nil || before.OID != d.OID {
		r.place.said.Store(&d)
	}
	if c := r.confirmed.Load(); c != nil && c.elsewhere(d) {
		r.expire(c)
	}
}

// refuseElsewhere takes the names out of use if they are of another database than the loader's. The caller holds asking.
func (r *Reader) refuseElsewhere(ctx context.Context, before, next *confirmation) {
	if next.names == nil || next.names.database.OID == 0 {
		return
	}
	if r.place.said.Load() == nil {
		r.askDatabase(ctx)
	}
	here := r.place.said.Load()
	if here == nil || !next.elsewhere(*here) {
		return
	}
	if before == nil || before.why != otherDatabase {
		r.logger.ErrorContext(ctx, "the cache is of another database of the same cluster, reading from the database and storing nothing: "+
			"let database.url name the daemon's database, or give each database a namespace of its own",
			slog.String("database", here.String()), slog.String("database_of_the_daemon", next.names.database.String()))
	}
	next.names, next.parts, next.why = nil, nil, otherDatabase
}

// askDatabase asks the loader where it is, in the background. Only the first time is its answer waited for.
func (r *Reader) askDatabase(ctx context.Context) {
	located, ok := r.loader.(Located)
	if !ok || !r.place.asked.CompareAndSwap(false, true) {
		return
	}
	answered := make(chan struct{})
	err := r.begin(ctx, askDatabaseTimeout, func(ctx context.Context) {
		defer close(answered)
		defer r.place.asked.Store(false)
		if d, err := located.Database(ctx); err == nil {
			r.learn(d)
		} else {
			r.logger.DebugContext(ctx, "the database does not say which it is", slog.String("error", err.Error()))
		}
	})
	if err != nil || r.place.first {
		return
	}
	r.place.first = true
	timer := time.NewTimer(askDatabaseWait)
	defer timer.Stop()
	select {
	case <-answered:
	case <-timer.C:
	case <-ctx.Done():
	}
}
