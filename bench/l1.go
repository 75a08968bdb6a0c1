package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/near"
	"github.com/freshet/freshet/internal/store"
	gocache "github.com/go-redis/cache/v9"
	"github.com/maypok86/otter/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/viccon/sturdyc"
)

// memoryPart is the part of which the library holds values in memory; everywhere else that is off, so that what is measured is Redis.
const memoryPart = "l1"

// memory measures a hit in the process's memory, decoded, against otter's own of the same keys and of their names in the store, and
// against what a Go program would use otherwise: each as it is used, those that keep bytes with the decoding that they do themselves.
func memory(ctx context.Context, b *bench) error {
	a, err := newApplication(ctx, b, memoryPart)
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
		names[id] = prefix + strconv.Itoa(id)
	}
	readers, closeAll, err := b.memories(ctx, a, names)
	if err != nil {
		return err
	}
	defer closeAll()
	for _, r := range readers {
		for id := 1; id <= 4*hitKeys; id++ { // until everything is held
			if err := r.read(ctx, 1+id%hitKeys); err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
		}
	}
	before := a.cache.Stats()
	for _, goroutines := range []int{1, 64} {
		for _, r := range readers {
			r.took = nil
		}
		if err := b.race(ctx, "held", readers, goroutines); err != nil {
			return err
		}
		library := median(readers[0].took)
		b.printf("  %2d goroutines: ", goroutines)
		for _, r := range readers {
			b.printf("%s %.0f ns, ", r.name, median(r.took))
		}
		b.printf("a read\n")
		for _, r := range readers[1:] {
			b.report(fmt.Sprintf("l1/%d/%s", goroutines, strings.ReplaceAll(r.name, " ", "-")), library/median(r.took), "times "+r.name)
		}
	}
	// Where 64 goroutines that never wait share two processors with others, a confirmation may take longer than it is given.
	const least = 0.999
	after := a.cache.Stats()
	served := float64(after.Hits + after.Loads - before.Hits - before.Loads)
	if share := float64(after.HitsL1-before.HitsL1) / served; share < least {
		return fmt.Errorf("only %.4f of these were hits in memory: %+v", share, after)
	}
	for _, r := range readers {
		if err := b.allocations(ctx, memoryPart, r); err != nil {
			return err
		}
	}
	b.footprint()
	return b.memoryOfMany(ctx, a)
}

// memoryOfMany measures the same with so many keys that what is found of one is in no cache of the processor, and what they take with their
// decoded values.
func (b *bench) memoryOfMany(ctx context.Context, a *application) error {
	const perStatement, records = 500, 1_000_000
	keys := b.sizes.held
	if err := b.servers.exec(ctx, a.url, fmt.Sprintf(
		`INSERT INTO %s SELECT g, 'value ' || g, 0 FROM generate_series(1, %d) g ON CONFLICT DO NOTHING`, table, keys)); err != nil {
		return err
	}
	peer := otter.Must(&otter.Options[int, *item]{MaximumWeight: 512 << 20, Weigher: func(int, *item) uint32 { return 1 << 9 }})
	for id := 1; id <= keys; id++ {
		peer.Set(id, &item{ID: id, V: "value " + strconv.Itoa(id)})
	}
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	before := stats.HeapAlloc
	ids := make([]int, 0, perStatement)
	for id := 1; id <= keys; id++ { // loaded together: singly that takes a while
		if ids = append(ids, id); len(ids) == perStatement || id == keys {
			if _, err := a.items.GetMany(ctx, ids); err != nil {
				return err
			}
			ids = ids[:0]
		}
	}
	readers := []*reader{
		{name: "freshet", keys: keys, read: func(ctx context.Context, id int) error {
			_, err := a.items.Get(ctx, id)
			return err
		}},
		{name: "otter", keys: keys, read: func(_ context.Context, id int) error {
			if v, ok := peer.GetIfPresent(id); !ok || v.ID != id {
				return errors.New("it is not there")
			}
			return nil
		}},
	}
	for range 3 { // what is read a second time is held, and what is hit is decoded
		for id := 1; id <= keys; id++ {
			if err := readers[0].read(ctx, id); err != nil {
				return err
			}
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&stats)
	b.report("l1/memory/decoded", float64(stats.HeapAlloc-before)/float64(keys)*records/(1<<20), "MiB for a million small records, decoded, found by their keys")
	first := a.cache.Stats()
	if err := b.race(ctx, "held-many", readers, 1); err != nil {
		return err
	}
	last := a.cache.Stats()
	b.printf("  %d keys: freshet %.0f ns, otter %.0f ns a read; %.4f of the hits were in memory\n", keys, median(readers[0].took), median(readers[1].took),
		float64(last.HitsL1-first.HitsL1)/float64(last.Hits+last.Loads-first.Hits-first.Loads))
	b.report("l1/many/otter", median(readers[0].took)/median(readers[1].took), fmt.Sprintf("times otter, of %d keys", keys))
	return nil
}

// allocations measures what a read allocates once nothing is new to it.
func (b *bench) allocations(ctx context.Context, part string, r *reader) error {
	reads := b.sizes.counted
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for n := range reads {
		if err := r.read(ctx, 1+n%hitKeys); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	runtime.ReadMemStats(&after)
	name := part + "/allocations/" + strings.ReplaceAll(r.name, " ", "-")
	b.report(name, float64(after.Mallocs-before.Mallocs)/float64(reads), "allocations a read")
	b.report(name+"/bytes", float64(after.TotalAlloc-before.TotalAlloc)/float64(reads), "bytes a read")
	return nil
}

// memories are the ways to read a value from the process's memory, freshet's first.
func (b *bench) memories(ctx context.Context, a *application, names []string) (readers []*reader, closeAll func(), err error) {
	const size = 64 << 20
	var (
		byKey  = otter.Must(&otter.Options[int, *item]{MaximumWeight: size, Weigher: func(int, *item) uint32 { return 1 << 9 }})
		byName = otter.Must(&otter.Options[string, *item]{MaximumWeight: size, Weigher: func(string, *item) uint32 { return 1 << 9 }})
		sturdy = sturdyc.New[*item](1<<16, 64, time.Hour, 10, sturdyc.WithNoContinuousEvictions())
		client = redis.NewClient(&redis.Options{Addr: b.servers.redis.Addr()})
		local  = gocache.New(&gocache.Options{Redis: client, LocalCache: gocache.NewTinyLFU(1<<16, time.Hour)})
	)
	tracking, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{b.servers.redis.Addr()}, ForceSingleClient: true})
	if err != nil {
		return nil, nil, errors.Join(err, client.Close())
	}
	for id := 1; id <= hitKeys; id++ {
		v, err := a.items.Get(ctx, id)
		if err == nil {
			err = local.Set(&gocache.Item{Ctx: ctx, Key: names[id] + ":copy", Value: &v, TTL: time.Hour})
		}
		if err != nil {
			tracking.Close()
			return nil, nil, errors.Join(err, client.Close())
		}
		byKey.Set(id, &v)
		byName.Set(names[id], &v)
		sturdy.Set(names[id], &v)
	}
	missing := errors.New("it is not there")
	found := func(ok bool) error {
		if !ok {
			return missing
		}
		return nil
	}
	readers = []*reader{
		{name: "freshet", read: func(ctx context.Context, id int) error {
			_, err := a.items.Get(ctx, id)
			return err
		}},
		{name: "otter", read: func(_ context.Context, id int) error {
			_, ok := byKey.GetIfPresent(id)
			return found(ok)
		}},
		{name: "otter by name", read: func(_ context.Context, id int) error {
			_, ok := byName.GetIfPresent(names[id])
			return found(ok)
		}},
		{name: "sturdyc", read: func(_ context.Context, id int) error {
			_, ok := sturdy.Get(names[id])
			return found(ok)
		}},
		{name: "rueidis DoCache", read: func(ctx context.Context, id int) error {
			_, err := tracking.DoCache(ctx, tracking.B().Get().Key(names[id]).Cache(), time.Hour).AsBytes()
			return err
		}},
		{name: "go-redis cache", read: func(ctx context.Context, id int) error {
			var v item
			return local.Get(ctx, names[id]+":copy", &v)
		}},
	}
	return readers, func() {
		tracking.Close()
		_ = client.Close()
	}, nil
}

// footprint measures what records take that are held, of 100 bytes each, not decoded.
func (b *bench) footprint() {
	const records = 1_000_000
	many := b.sizes.transactions / 2 // a hundred thousand of the full size
	var (
		stats runtime.MemStats
		wire  store.Wire
		table = near.New(1 << 40)
	)
	runtime.GC()
	runtime.ReadMemStats(&stats)
	before := stats.HeapAlloc
	for i := range many {
		name := "f:shop:0123456789abcdef:item.0123456789abcdef.0123456789abcdef:item:" + strconv.Itoa(i)
		text := []byte("f1 V - - - s:0000000000000001,0000000000000001, - 0000000000000001\n" + strings.Repeat("x", 100))
		table.Expect(&wire, name).Put(near.Value{Name: name, Text: text, Found: true, Payload: text[len(text)-100:]}, nil, time.Hour)
	}
	runtime.GC()
	runtime.ReadMemStats(&stats)
	held := table.Stats()
	b.report("l1/memory", float64(stats.HeapAlloc-before)/float64(many)*records/(1<<20), "MiB for a million records of 100 bytes")
	b.report("l1/memory/estimated", float64(held.Bytes)/float64(many)*records/(1<<20), "MiB, as they are counted")
}
