package fill_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/testkit/faultproxy"
)

// asked is the real store, with a step before leases are asked for.
type asked struct {
	*redisstore.Store

	before func()
}

func (a *asked) Lease(ctx context.Context, name string, token fence.Token, lasts time.Duration) (redisstore.LeaseReply, error) {
	a.before()
	return a.Store.Lease(ctx, name, token, lasts)
}

func (a *asked) LeaseMany(ctx context.Context, all []redisstore.Leasing) []redisstore.Leased {
	a.before()
	return a.Store.LeaseMany(ctx, all)
}

// TestCallerGoesWhileItsLeaseIsAsked: a caller that goes before it has the answer to its LEASE leaves none behind, for which all others
// would wait until its end; of one key, and of many.
func TestCallerGoesWhileItsLeaseIsAsked(t *testing.T) {
	t.Parallel()
	for what, get := range map[string]func(ctx context.Context, r *fill.Reader) error{
		"one": func(ctx context.Context, r *fill.Reader) error {
			_, err := r.Get(ctx, "product", arg("1"), nil)
			return err
		},
		"many": func(ctx context.Context, r *fill.Reader) error {
			return r.GetMany(ctx, "product", numbered(1, 2, 3), &fill.Demand{})[0].Err
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{})
			read(t, w.reader(nil, nil), 50, fill.Miss, price(50, 500)) // the server knows the scripts: it need not be asked twice
			store, proxy := w.through()
			r := w.reader(&asked{Store: store, before: func() { proxy.Hold(faultproxy.ToClient) }}, nil)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			gone := make(chan error, 1)
			go func() { gone <- get(ctx, r) }()
			eventually(t, func() error {
				if record, _ := w.record(w.name("product", "1")); record.Lease.IsZero() {
					return errors.New("no lease is granted")
				}
				return nil
			})
			cancel()
			if err := <-gone; !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			left := time.Now()
			proxy.Heal()
			eventually(t, func() error {
				for id := range 3 {
					if record, text := w.record(w.name("product", strconv.Itoa(id+1))); !record.Lease.IsZero() {
						return fmt.Errorf("the record of %d is %q", id+1, text)
					}
				}
				return nil
			})
			if took := time.Since(left); took > unhurried/2 {
				t.Errorf("its leases were there for %v", took)
			}
		})
	}
}
