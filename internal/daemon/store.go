package daemon

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/freshet/freshet/internal/api"
	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/memstore"
	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/trace"
)

// opened is the store: as the gateway reads it, and as the pipeline keeps it.
type opened struct {
	fill.Store
	pipeline pipeline.Store
	traced   trace.Store
	memory   *memstore.Store // it, where it is in this process's memory
	close    func()
}

// open opens the store that the file names: that of its region, or one in memory.
func (d *daemon) open(ctx context.Context, c *config.Config, namespace string) (*opened, error) {
	if c.InMemory() {
		memory := d.memory
		if memory == nil {
			memory = memstore.New(memstore.Options{Namespace: namespace, Size: int64(c.Memory.Size)})
		}
		d.logger.InfoContext(ctx, "the store is in this process's own memory: what is cached is gone when it ends",
			slog.String("size", c.Memory.Size.String()))
		// Emptied in the end: whoever reads it besides would go on with what nobody keeps fresh.
		return &opened{Store: memory, pipeline: pipeline.StoreOf(memory), traced: memory, memory: memory, close: memory.Forget}, nil
	}
	region := c.Regions[0]
	redis := region.Redis
	store, err := redisstore.Open(ctx, redisstore.Options{
		URL: redis.URL.Reveal(), SentinelUsername: redis.Sentinel.Username, SentinelPassword: redis.Sentinel.Password.Reveal(),
		Namespace: namespace, Logger: d.logger,
	})
	if err != nil {
		return nil, fmt.Errorf("region %s: %w", region.Name, err)
	}
	return &opened{Store: store, pipeline: pipeline.StoreOf(store), traced: store, close: store.Close}, nil
}

// Memory is the store in this process's memory, for commands that look at it from outside.
func (d *daemon) Memory() (memory api.Memory, why string) {
	p := d.parts.Load()
	switch {
	case p == nil:
		return nil, "the daemon is starting: " + *d.wait.Load()
	case p.store.memory == nil:
		return nil, "the store is in Redis, and is read there"
	}
	return p.store.memory, ""
}

// MemoryStatus is how full a store in the daemon's own memory is.
type MemoryStatus struct {
	SizeBytes int64  `json:"size_bytes"` // what it may take
	Bytes     int64  `json:"bytes"`      // what it takes
	Records   int    `json:"records"`    // with the epochs
	Evicted   uint64 `json:"evicted"`    // given up for want of room
}

// memoryStatus is nil when the store is elsewhere.
func (p *parts) memoryStatus() *MemoryStatus {
	if p.store.memory == nil {
		return nil
	}
	u := p.store.memory.Usage()
	return &MemoryStatus{SizeBytes: u.Size, Bytes: u.Bytes, Records: u.Records, Evicted: u.Evicted}
}
