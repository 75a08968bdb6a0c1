package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// hitKeys are read in turn.
const hitKeys = 64

// reader is one way to read the value of a row.
type reader struct {
	name string
	read func(ctx context.Context, id int) error
	took []float64 // nanoseconds per read, by block
}

// hit measures a hit through the library, decoded into a struct, against a plain GET of the very same record.
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
				_, err := a.items.Get(ctx, id)
				return err
			}},
		}
		if err := b.race(ctx, readers, goroutines); err != nil {
			return err
		}
		plain, decoded, library := median(readers[0].took), median(readers[1].took), median(readers[2].took)
		b.printf("  %2d goroutines: plain GET %.0f ns, with decoding %.0f ns, library %.0f ns a read\n",
			goroutines, plain, decoded, library)
		b.report(fmt.Sprintf("hit/%d", goroutines), library/plain, "times a plain GET")
		b.report(fmt.Sprintf("hit/%d/decoded", goroutines), library/decoded, "times a GET and decode")
	}
	if after := a.cache.Stats(); after.Loads != before.Loads {
		return fmt.Errorf("not all of these were hits: %+v", after)
	}
	return nil
}

// race lets the readers read in turn, in blocks, every second time in the other order.
func (b *bench) race(ctx context.Context, readers []*reader, goroutines int) error {
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
	began := time.Now()
	for g := range goroutines {
		group.Go(func() {
			n := g
			for ; !over.Load(); n++ {
				if err := r.read(ctx, 1+n%hitKeys); err != nil {
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
