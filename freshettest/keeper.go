package freshettest

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/memstore"
	"github.com/freshet/freshet/internal/store"
)

// keeper is the store as readers see it: it may be down, and HEAD keeps up with what they count.
type keeper struct {
	*memstore.Store
	world *World
	down  atomic.Bool
}

// ask is an answer of the store, unless that is down.
func ask[T any](k *keeper, answer func() (T, error)) (T, error) {
	if k.down.Load() {
		var none T
		return none, fmt.Errorf("freshettest: the test has the store down: %w", store.ErrUnavailable)
	}
	return answer()
}

// Read implements fill.Store.
func (k *keeper) Read(ctx context.Context, name string) ([]byte, error) {
	return ask(k, func() ([]byte, error) { return k.Store.Read(ctx, name) })
}

// ReadTied implements fill.Store.
func (k *keeper) ReadTied(ctx context.Context, name string, epochs []string) (store.Tied, error) {
	return ask(k, func() (store.Tied, error) { return k.Store.ReadTied(ctx, name, epochs) })
}

// ReadWithHead implements fill.Store.
func (k *keeper) ReadWithHead(ctx context.Context, name string, epochs []string) (head fence.Head, found bool, held store.Tied, err error) {
	held, err = ask(k, func() (store.Tied, error) {
		var err error
		head, found, held, err = k.Store.ReadWithHead(ctx, name, epochs)
		return held, err
	})
	return head, found, held, err
}

// Epochs implements fill.Store.
func (k *keeper) Epochs(ctx context.Context, epochs []string) ([]string, error) {
	return ask(k, func() ([]string, error) { return k.Store.Epochs(ctx, epochs) })
}

// Pin implements fill.Store.
func (k *keeper) Pin(ctx context.Context, epochs []string, life time.Duration) (store.Pinned, error) {
	return ask(k, func() (store.Pinned, error) { return k.Store.Pin(ctx, epochs, life) })
}

// Tick implements fill.Store. The daemon of a World is as quick as can be: HEAD has the count before it is answered.
func (k *keeper) Tick(ctx context.Context, lane int) (fence.Tick, error) {
	return ask(k, func() (fence.Tick, error) {
		tick, err := k.Store.Tick(ctx, lane)
		if err == nil {
			err = k.world.vouch(ctx, tick)
		}
		return tick, err
	})
}

// Lease implements fill.Store.
func (k *keeper) Lease(ctx context.Context, name string, token fence.Token, lasts time.Duration) (store.LeaseReply, error) {
	return ask(k, func() (store.LeaseReply, error) { return k.Store.Lease(ctx, name, token, lasts) })
}

// LeaseOver implements fill.Store.
func (k *keeper) LeaseOver(ctx context.Context, name, dead string, token fence.Token, lasts time.Duration) (store.LeaseReply, error) {
	return ask(k, func() (store.LeaseReply, error) { return k.Store.LeaseOver(ctx, name, dead, token, lasts) })
}

// Fill implements fill.Store.
func (k *keeper) Fill(ctx context.Context, name string, f store.FillRequest) (fence.FillOutcome, error) {
	return ask(k, func() (fence.FillOutcome, error) { return k.Store.Fill(ctx, name, f) })
}

// Renew implements fill.Store.
func (k *keeper) Renew(ctx context.Context, name string, q store.RenewRequest) (fence.FillOutcome, error) {
	return ask(k, func() (fence.FillOutcome, error) { return k.Store.Renew(ctx, name, q) })
}

// Release implements fill.Store.
func (k *keeper) Release(ctx context.Context, name string, token fence.Token) error {
	_, err := ask(k, func() (struct{}, error) { return struct{}{}, k.Store.Release(ctx, name, token) })
	return err
}

// Early implements fill.Store.
func (k *keeper) Early(ctx context.Context, key store.Stamped) error {
	_, err := ask(k, func() (struct{}, error) { return struct{}{}, k.Store.Early(ctx, key) })
	return err
}

// Heads implements fill.Store.
func (k *keeper) Heads(ctx context.Context) []store.LaneHead {
	heads, err := ask(k, func() ([]store.LaneHead, error) { return k.Store.Heads(ctx), nil })
	if err != nil {
		return []store.LaneHead{{Err: err}}
	}
	return heads
}

// Roster implements fill.Store.
func (k *keeper) Roster(ctx context.Context) (text []byte, found bool, err error) {
	text, err = ask(k, func() ([]byte, error) {
		text, _, err := k.Store.Roster(ctx)
		return text, err
	})
	return text, text != nil, err
}

// Register implements fill.Store.
func (k *keeper) Register(ctx context.Context, u store.Use, who string, lasts time.Duration) error {
	_, err := ask(k, func() (struct{}, error) { return struct{}{}, k.Store.Register(ctx, u, who, lasts) })
	return err
}
