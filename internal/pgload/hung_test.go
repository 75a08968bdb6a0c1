package pgload_test

import (
	"context"
	"errors"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/testkit/faultproxy"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// through is a database by way of a proxy.
func through(t *testing.T, address string) (string, *faultproxy.Proxy) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	proxy := faultproxy.Start(t, net.JoinHostPort(u.Hostname(), u.Port()))
	u.Host = proxy.Addr
	return u.String(), proxy
}

// TestLoadThatFailsOnAHungConnection: the end of a transaction that came to nothing does not hold a load up, though nobody answers it.
func TestLoadThatFailsOnAHungConnection(t *testing.T) {
	t.Parallel()
	const enough = 30 * time.Second
	address, proxy := through(t, pgtest.Shared(t).Database(t))
	l, err := pgload.Open(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	own := errors.New("not today")
	for what, load := range map[string]func() error{
		"its code fails": func() error {
			_, err := l.LoadFunc(t.Context(), func(context.Context, pgload.Querier) ([]byte, bool, error) {
				proxy.Hold(faultproxy.Both)
				return nil, false, own
			})
			if !errors.Is(err, own) {
				t.Errorf("the error of the code is lost: %v", err)
			}
			return err
		},
		"its time is over": func() error {
			ctx, cancel := context.WithCancel(t.Context())
			_, err := l.LoadFunc(ctx, func(context.Context, pgload.Querier) ([]byte, bool, error) {
				proxy.Hold(faultproxy.Both)
				cancel()
				return nil, false, ctx.Err()
			})
			return err
		},
	} {
		ended := make(chan error, 1)
		go func() { ended <- load() }()
		select {
		case err := <-ended:
			if err == nil {
				t.Errorf("%s: no error", what)
			}
		case <-time.After(enough):
			t.Fatalf("%s: it has not ended after %s", what, enough)
		}
		proxy.Reset()
		proxy.Heal()
	}
}
