package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dtm-labs/rockscache"
	"github.com/freshet/freshet"
	gocache "github.com/go-redis/cache/v9"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
)

// hitKeys are read in turn.
const hitKeys = 64

// reader is one way to read the value of a row.
type reader struct {
	name string
	read func(ctx context.Context, id int) error
	keys int       // that are read; 0: hitKeys
	took []float64 // nanoseconds per read, by block
}

// hit measures a hit through the library against a plain GET of the very same record: its bytes as they are against a GET that decodes
// nothing, and decoded into a struct against a GET that decodes as well, and against peers that do.
func hit(ctx context.Context, b *bench) error {
	a, err := newApplication(ctx, b, "hit")
	if err != nil {
		return err
	}
	defer a.close()
	prefix, err := a.prefix(ctx)
	if err != nil {
		return err
	}
	names := make([]string, hitKeys+1)
	for id := 1; id <= hitKeys; id++ {
		names[id] = fmt.Sprint(prefix, id)
		if _, err := a.items.Get(ctx, id); err != nil {
			return err
		}
	}
	if n, err := a.cached(ctx, prefix, hitKeys); err != nil || n != hitKeys {
		return errors.Join(fmt.Errorf("%d of %d keys are cached", n, hitKeys), err)
	}
	// The options that the library's own client has.
	client, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{b.servers.redis.Addr()}, ForceSingleClient: true, PipelineMultiplex: -1,
		DisableCache: true, DisableRetry: true,
	})
	if err != nil {
		return err
	}
	defer client.Close()
	get := func(ctx context.Context, id int) ([]byte, error) {
		return client.Do(ctx, client.B().Get().Key(names[id]).Build()).AsBytes()
	}
	peers, err := newHitPeers(ctx, b)
	if err != nil {
		return err
	}
	defer peers.close()
	raw, err := freshet.Entry[int, json.RawMessage](a.cache, table)
	if err != nil {
		return err
	}
	before := a.cache.Stats()
	for _, goroutines := range []int{1, 16, 64} {
		readers := []*reader{
			{name: "plain GET", read: func(ctx context.Context, id int) error {
				_, err := get(ctx, id)
				return err
			}},
			{name: "GET and decode", read: func(ctx context.Context, id int) error {
				text, err := get(ctx, id)
				if err != nil {
					return err
				}
				var v item
				return json.Unmarshal(text[bytes.IndexByte(text, '\n')+1:], &v)
			}},
			{name: "library", read: func(ctx context.Context, id int) error {
				_, err := raw.Get(ctx, id)
				return err
			}},
			{name: "library, decoded", read: func(ctx context.Context, id int) error {
				_, err := a.items.Get(ctx, id)
				return err
			}},
			{name: "rockscache", read: peers.rockscache},
			{name: "go-redis/cache", read: peers.goCache},
		}
		if err := b.race(ctx, "cached", readers, goroutines); err != nil {
			return err
		}
		plain, decode, library, decoded := median(readers[0].took), median(readers[1].took), median(readers[2].took), median(readers[3].took)
		rocks, goCache := median(readers[4].took), median(readers[5].took)
		b.printf("  %2d goroutines: plain GET %.0f ns, with decoding %.0f ns, library %.0f ns, with decoding %.0f ns, rockscache %.0f ns, go-redis/cache %.0f ns a read\n",
			goroutines, plain, decode, library, decoded, rocks, goCache)
		b.report(fmt.Sprintf("hit/%d", goroutines), library/plain, "times a plain GET, both of bytes as they are")
		b.report(fmt.Sprintf("hit/%d/decoded", goroutines), decoded/decode, "times a GET and decode")
		b.report(fmt.Sprintf("hit/%d/peers", goroutines), decoded/min(rocks, goCache), "times the faster of rockscache and go-redis/cache, decoded as well")
		if goroutines == 1 {
			for _, r := range readers {
				if err := b.allocations(ctx, "hit", r); err != nil {
					return err
				}
			}
		}
	}
	if after := a.cache.Stats(); after.Loads != before.Loads {
		return fmt.Errorf("not all of these were hits: %+v", after)
	}
	return nil
}

// hitPeers are peers whose values are all cached.
type hitPeers struct {
	client *redis.Client
	rocks  *rockscache.Client
	cache  *gocache.Cache
}

func newHitPeers(ctx context.Context, b *bench) (*hitPeers, error) {
	client := redis.NewClient(&redis.Options{Addr: b.servers.redis.Addr(), PoolSize: 64}) // a connection for each goroutine: they send nothing together
	p := &hitPeers{client: client, rocks: rockscache.NewClient(client, rockscache.NewDefaultOptions()), cache: gocache.New(&gocache.Options{Redis: client})}
	for id := 1; id <= hitKeys; id++ {
		v := item{ID: id, V: fmt.Sprint("value ", id)}
		text, err := json.Marshal(v)
		if err == nil {
			_, err = p.rocks.Fetch2(ctx, fmt.Sprint("rocks:", id), time.Hour, func() (string, error) { return string(text), nil })
		}
		if err == nil {
			err = p.cache.Set(&gocache.Item{Ctx: ctx, Key: fmt.Sprint("gocache:", id), Value: v, TTL: time.Hour})
		}
		if err != nil {
			p.close()
			return nil, err
		}
	}
	return p, nil
}

func (p *hitPeers) close() { _ = p.client.Close() }

var errNotCached = errors.New("it is not cached")

func (p *hitPeers) rockscache(ctx context.Context, id int) error {
	text, err := p.rocks.Fetch2(ctx, fmt.Sprint("rocks:", id), time.Hour, func() (string, error) { return "", errNotCached })
	if err != nil {
		return err
	}
	var v item
	return json.Unmarshal([]byte(text), &v)
}

func (p *hitPeers) goCache(ctx context.Context, id int) error {
	var v item
	return p.cache.Get(ctx, fmt.Sprint("gocache:", id), &v)
}

// race lets the readers read in turn, in blocks, every second time in the other order. what is read is the samples' name.
func (b *bench) race(ctx context.Context, what string, readers []*reader, goroutines int) error {
	const warmup = 1
	for block := range warmup + b.sizes.hits {
		turn := slices.Clone(readers)
		if block%2 != 0 {
			slices.Reverse(turn)
		}
		for _, r := range turn {
			took, err := readFor(ctx, r, goroutines, b.sizes.hitTime)
			if err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			if block >= warmup {
				r.took = append(r.took, took)
				b.sample(fmt.Sprintf("%s/goroutines=%d", what, goroutines), r.name, took, "ns/op")
			}
		}
	}
	return nil
}

// readFor reads for a while and returns the nanoseconds that each read took, all goroutines together.
func readFor(ctx context.Context, r *reader, goroutines int, d time.Duration) (float64, error) {
	var (
		group sync.WaitGroup
		reads atomic.Int64
		over  atomic.Bool
		fails = make(chan error, goroutines)
	)
	timer := time.AfterFunc(d, func() { over.Store(true) })
	defer timer.Stop()
	keys := cmp.Or(r.keys, hitKeys)
	began := time.Now()
	for g := range goroutines {
		group.Go(func() {
			n := g
			for ; !over.Load(); n++ {
				if err := r.read(ctx, 1+n%keys); err != nil {
					fails <- err
					return
				}
			}
			reads.Add(int64(n - g))
		})
	}
	group.Wait()
	took := time.Since(began)
	select {
	case err := <-fails:
		return 0, err
	default:
	}
	return float64(took.Nanoseconds()) / float64(max(reads.Load(), 1)), nil
}
