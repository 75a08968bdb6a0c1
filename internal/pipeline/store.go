package pipeline

import (
	"context"

	"github.com/freshet/freshet/internal/apply"
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
)

// Store is what the loop needs of the store, besides what it writes through a Conn.
type Store interface {
	Named
	// Connect opens what a session writes through.
	Connect(ctx context.Context) (Conn, error)
}

// Named is what a store says of live names, and does about dead ones.
type Named interface {
	Head(ctx context.Context) (fence.Head, bool, error)
	Roster(ctx context.Context) (text []byte, found bool, err error)
	Lanes() int
	// Uses are those of the given versions that libraries have registered, with who did last.
	Uses(ctx context.Context, uses []store.Use) (map[store.Use]string, error)
	// Sweep removes what is under names that are not live, and returns how many.
	Sweep(ctx context.Context, live func() store.Live) (int64, error)
	// Replid is the name of the history that the store's address leads to now.
	Replid(ctx context.Context) (string, error)
}

// Conn is what a session writes through. It never silently becomes another.
type Conn interface { //nolint:interfacebloat // all that a session does to a store
	apply.Store
	Claim(ctx context.Context, term fence.Term) (head fence.Head, found bool, err error)
	NewGeneration(ctx context.Context, head fence.Head) error
	// Replace is NewGeneration over a HEAD of another history of the database, whose term is foreign.
	Replace(ctx context.Context, head fence.Head, foreign fence.Term) error
	DrawTick(ctx context.Context) error
	// Replid is the name of the history that was claimed, empty in a cluster.
	Replid() string
	Close()
}

// StoreOf is a store whose connections have a type of their own.
func StoreOf[C Conn, S connects[C]](s S) Store { return connecting[C, S]{Named: s, store: s} }

type connects[C Conn] interface {
	Named
	Connect(ctx context.Context) (C, error)
}

type connecting[C Conn, S connects[C]] struct {
	Named
	store S
}

func (c connecting[C, S]) Connect(ctx context.Context) (Conn, error) {
	conn, err := c.store.Connect(ctx)
	if err != nil {
		return nil, err // no connection that is nil in an interface that is not
	}
	return conn, nil
}
