// Package parts is how other packages of this module hand a Cache what it would otherwise open itself: embedded gives it the
// store of the daemon that runs beside it, freshettest a store and rows of a test. Users of the library see nothing of it.
package parts

import (
	"context"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/mvcc"
)

// Parts are what a Cache is given. What is not there it opens itself.
type Parts struct {
	Config    *config.Config
	Namespace string
	Store     fill.Store // closed by whoever gave it
	Loader    Loader     // closed with the Cache
}

// Loader is what a Cache needs of the database.
type Loader interface {
	fill.Loader
	// System identifies the cluster, and the database in it.
	System(ctx context.Context) (system, database string, err error)
	// Position is where the log ends now, and whose.
	Position(ctx context.Context) (pgload.Server, mvcc.LSN, error)
	// Emit puts intents, a JSON array of them, into the log, in a transaction of their own.
	Emit(ctx context.Context, messages []byte) (mvcc.Token, error)
	Close()
}

type key struct{}

// With has the Cache that is opened under the context take the parts.
func With(ctx context.Context, p Parts) context.Context { return context.WithValue(ctx, key{}, p) }

// From are the parts that a Cache is to take, mostly none.
func From(ctx context.Context) Parts {
	p, _ := ctx.Value(key{}).(Parts)
	return p
}
