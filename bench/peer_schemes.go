package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dtm-labs/rockscache"
	gocache "github.com/go-redis/cache/v9"
	"github.com/redis/go-redis/v9"
)

// schemes are all that take part, in the table's order.
func schemes(s sizes) []scheme {
	return []scheme{
		{name: "delete after write", open: opened(func(p peer) cache { return &deleting{p} })},
		{name: "delayed double delete", late: s.peerDelay, open: opened(func(p peer) cache { return &deletingTwice{peer: p, delay: s.peerDelay} })},
		{name: "rockscache, weak", open: opened(func(p peer) cache { return newRocks(p, false) })},
		{name: "rockscache, strong", open: opened(func(p peer) cache { return newRocks(p, true) })},
		{name: "go-redis/cache", open: opened(func(p peer) cache { return newGoCache(p, nil) })},
		{name: "go-redis/cache, local", open: opened(func(p peer) cache { return newGoCache(p, gocache.NewTinyLFU(2*peerRows, time.Minute)) })},
		{name: "naive CDC", open: openNaive},
		{name: freshetScheme, open: openFreshet},
		{name: tokensScheme, open: openTokens},
	}
}

// peer is what every peer has: its process's part of the arena, and a client.
type peer struct {
	a        *arena
	instance int
	client   *redis.Client
	later    *sync.WaitGroup // what its writers leave to be done later
}

func (p *peer) key(id int) string { return fmt.Sprint(peerPrefix, id) }

const peerPrefix = "peer:"

// opened makes the caches of a scheme that needs nothing but clients.
func opened(cacheOf func(p peer) cache) func(context.Context, *arena) (*entrant, error) {
	return func(_ context.Context, a *arena) (*entrant, error) {
		var (
			clients []*redis.Client
			later   sync.WaitGroup
		)
		e := &entrant{}
		for i := range e.caches {
			client := redis.NewClient(&redis.Options{Addr: a.b.servers.redis.Addr(), PoolSize: peerReaders + peerWriters})
			clients = append(clients, client)
			e.caches[i] = cacheOf(peer{a: a, instance: i, client: client, later: &later})
		}
		e.close = func() error {
			later.Wait()
			var err error
			for _, client := range clients {
				err = errors.Join(err, client.Close())
			}
			return err
		}
		return e, nil
	}
}

// read is plain cache-aside: GET, or load and SET.
func (p *peer) read(ctx context.Context, id int) (v value, err error) {
	text, err := p.client.Get(ctx, p.key(id)).Bytes()
	if err == nil {
		err = json.Unmarshal(text, &v)
		return v, err
	}
	if !errors.Is(err, redis.Nil) {
		return v, err
	}
	if v, err = p.a.load(ctx, p.instance, id); err != nil {
		return v, err
	}
	if text, err = json.Marshal(v); err != nil {
		return v, err
	}
	return v, p.client.Set(ctx, p.key(id), text, peerTTL).Err()
}

func (p *peer) remove(ctx context.Context, id int) error { return p.client.Del(ctx, p.key(id)).Err() }

// deleting deletes after every write.
type deleting struct{ peer }

func (c *deleting) wrote(ctx context.Context, u update) error {
	if err := c.remove(ctx, u.id); err != nil {
		return err
	}
	c.a.versions.apply(u)
	return nil
}

// deletingTwice deletes after every write, and once more when slow readers should be done. Its writers do not wait for
// that; what they wrote counts as applied only then.
type deletingTwice struct {
	peer
	delay time.Duration
}

func (c *deletingTwice) wrote(ctx context.Context, u update) error {
	if err := c.remove(ctx, u.id); err != nil {
		return err
	}
	c.later.Go(func() {
		if pause(ctx, c.delay) == nil && c.remove(ctx, u.id) == nil {
			c.a.versions.apply(u)
		}
	})
	return nil
}

// rocks is rockscache.
type rocks struct {
	peer
	cache *rockscache.Client
}

func newRocks(p peer, strong bool) *rocks {
	options := rockscache.NewDefaultOptions()
	options.StrongConsistency = strong
	// The default of 100 ms is for slower loads than these.
	options.LockSleep = peerLoad / 2
	return &rocks{peer: p, cache: rockscache.NewClient(p.client, options)}
}

func (c *rocks) read(ctx context.Context, id int) (v value, err error) {
	text, err := c.cache.Fetch2(ctx, c.key(id), peerTTL, func() (string, error) {
		v, err := c.a.load(ctx, c.instance, id)
		if err != nil {
			return "", err
		}
		text, err := json.Marshal(v)
		return string(text), err
	})
	if err != nil {
		return v, err
	}
	err = json.Unmarshal([]byte(text), &v)
	return v, err
}

func (c *rocks) wrote(ctx context.Context, u update) error {
	if err := c.cache.TagAsDeleted2(ctx, c.key(u.id)); err != nil {
		return err
	}
	c.a.versions.apply(u)
	return nil
}

// goCache is go-redis/cache, with its own encoding.
type goCache struct {
	peer
	cache *gocache.Cache
}

func newGoCache(p peer, local gocache.LocalCache) *goCache {
	return &goCache{peer: p, cache: gocache.New(&gocache.Options{Redis: p.client, LocalCache: local})}
}

func (c *goCache) read(ctx context.Context, id int) (v value, err error) {
	err = c.cache.Once(&gocache.Item{
		Ctx: ctx, Key: c.key(id), Value: &v, TTL: peerTTL,
		Do: func(*gocache.Item) (any, error) { return c.a.load(ctx, c.instance, id) },
	})
	return v, err
}

func (c *goCache) wrote(ctx context.Context, u update) error {
	if err := c.cache.Delete(ctx, c.key(u.id)); err != nil {
		return err
	}
	c.a.versions.apply(u)
	return nil
}
