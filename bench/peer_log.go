package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/mvcc"
	"github.com/redis/rueidis"
)

// freshetScheme is freshet without anything asked of a read: a write counts as applied when HEAD has passed it.
const freshetScheme = "freshet"

// ours reports whether a scheme is no peer.
func ours(name string) bool { return strings.HasPrefix(name, freshetScheme) }

// positionKey is where the naive follower says how far it has come.
const positionKey = "naive:position"

// followed is plain cache-aside whose deletions are a follower's.
type followed struct{ peer }

func (*followed) wrote(context.Context, update) error { return nil }

// openNaive starts a follower that deletes on delivery, beside plain cache-aside. A write counts as applied when the
// follower has had the answer to its deletion.
func openNaive(ctx context.Context, a *arena) (*entrant, error) {
	err := a.b.servers.exec(ctx, a.url, `CREATE PUBLICATION `+publication+` FOR TABLE `+table,
		`SELECT pg_create_logical_replication_slot('`+a.slot+`', 'pgoutput')`)
	if err != nil {
		return nil, err
	}
	e, err := opened(func(p peer) cache { return &followed{p} })(ctx, a)
	if err != nil {
		return nil, err
	}
	closeClients := e.close
	e.close = func() error { return errors.Join(a.endFollower(ctx, e.follower), closeClients()) }
	e.position = func(ctx context.Context) (mvcc.LSN, error) {
		text, err := a.client.Do(ctx, a.client.B().Get().Key(positionKey).Build()).ToString()
		switch {
		case rueidis.IsRedisNil(err):
			return 0, nil // nothing was written yet
		case err != nil:
			return 0, err
		}
		return mvcc.ParseLSN(text)
	}
	e.follower, err = start(ctx, job{
		Kind: loop, Postgres: a.url, Redis: a.b.servers.redis.URL(), Slot: a.slot, Prefix: peerPrefix, Position: positionKey,
	})
	if err == nil {
		err = e.follower.says(ctx, live)
	}
	if err != nil {
		return nil, errors.Join(err, e.close())
	}
	return e, nil
}

// endFollower ends a follower and removes its slot.
func (a *arena) endFollower(ctx context.Context, c *child) error {
	ctx = context.WithoutCancel(ctx)
	var err error
	if c != nil {
		err = c.stop()
	}
	return errors.Join(err, a.dropSlot(ctx, a.slot))
}

// openFreshet starts the daemon's main loop, and opens the library as each process would.
func openFreshet(ctx context.Context, a *arena) (_ *entrant, err error) {
	e := &entrant{}
	var opened []*freshet.Cache
	dir, err := os.MkdirTemp("", "freshet-bench-")
	if err != nil {
		return nil, err
	}
	e.close = func() error {
		for _, c := range opened {
			c.Close()
		}
		return errors.Join(a.endFollower(ctx, e.follower), os.RemoveAll(dir))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.close())
		}
	}()
	path, err := a.configuration(dir)
	if err != nil {
		return nil, err
	}
	if e.follower, err = a.follower(ctx, job{Slot: a.slot, Config: path}); err != nil {
		return nil, err
	}
	if err := e.follower.says(ctx, live); err != nil {
		return nil, err
	}
	for i := range e.caches {
		cache, err := freshet.Open(ctx, freshet.Options{Config: path, Database: a.pools[i], Replicas: a.replicas()})
		if err != nil {
			return nil, err
		}
		opened = append(opened, cache)
		if e.caches[i], err = newLibrary(a, cache); err != nil {
			return nil, err
		}
	}
	e.position = func(ctx context.Context) (mvcc.LSN, error) {
		head, _, err := a.store.Head(ctx)
		return head.Wc, err
	}
	return e, nil
}

// library is freshet, with code that loads.
type library struct {
	values *freshet.Typed[int, value]
}

func newLibrary(a *arena, c *freshet.Cache) (*library, error) {
	values, err := freshet.Entry(c, slowTable, freshet.Load(func(ctx context.Context, q freshet.Querier, id int) (value, error) {
		return a.loadFrom(ctx, q, id)
	}))
	if err != nil {
		return nil, fmt.Errorf("entry %s: %w", slowTable, err)
	}
	return &library{values}, nil
}

func (c *library) read(ctx context.Context, id int) (value, error) { return c.values.Get(ctx, id) }

func (*library) wrote(context.Context, update) error { return nil }
