package demo

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// shop is the demo's shop in a database of the test's own, with the plain code over it.
type shop struct {
	url, redisURL string
	pool          *pgxpool.Pool
	client        rueidis.Client
	plain         *cacheAside
}

func openShop(t *testing.T) *shop {
	t.Helper()
	server, redis := pgtest.Shared(t), redistest.Shared(t)
	s := &shop{url: server.Database(t), redisURL: redis.URL}
	server.Exec(t, s.url, shopSQL)
	pool, err := pgxpool.New(t.Context(), s.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	client, err := openRedis(redis.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	s.pool, s.client = pool, client
	s.plain = plainProducts(client, pool, time.Minute)
	s.plain.Prefix = redistest.Namespace(t) + ":"
	return s
}

// price is what the plain code returns for product 1.
func (s *shop) price(t *testing.T) string {
	t.Helper()
	value, err := s.plain.Get(t.Context(), 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, price, ok := strings.Cut(strings.TrimSuffix(value, "}"), `"price":`)
	if !ok {
		t.Fatalf("value = %s, want one with a price", value)
	}
	return price
}

func TestCacheAsideWorksWithoutFaults(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	old := s.price(t)
	if _, err := s.pool.Exec(t.Context(), setPrice, 1, "1.23"); err != nil {
		t.Fatal(err)
	}
	if got := s.price(t); got != old {
		t.Errorf("price after a write past the code = %s, want the cached %s", got, old)
	}
	if left, err := s.plain.Left(t.Context(), 1); err != nil || left <= 0 || left > time.Minute {
		t.Errorf("TTL left = %v, %v, want up to 1m", left, err)
	}
	if err := s.plain.Write(t.Context(), 1, setPrice, []any{1, "2.34"}, nil); err != nil {
		t.Fatal(err)
	}
	if got := s.price(t); got != "2.34" {
		t.Errorf("price after the code's own write = %s, want 2.34", got)
	}
}

// The race that no order of COMMIT and DEL avoids: a reader that loaded before and sets after.
func TestCacheAsideLosesTheRaceOfASlowReader(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	written := false
	value, err := s.plain.Get(t.Context(), 1, func() {
		if err := s.plain.Write(t.Context(), 1, setPrice, []any{1, "2.34"}, nil); err != nil {
			t.Error(err)
		}
		written = true
	})
	if err != nil || !written {
		t.Fatalf("Get = %s, %v", value, err)
	}
	if stale, err := s.plain.isStale(t.Context(), 1); err != nil || !stale {
		t.Errorf("isStale = %v, %v, want true: the reader has put the old row back", stale, err)
	}
	if err := s.plain.Forget(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if got := s.price(t); got != "2.34" {
		t.Errorf("price = %s, want 2.34", got)
	}
}

func TestPlainWriteStopsBetweenCommitAndDel(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	// Its keys are the demo's own; no other test of this package uses this one.
	const id = 4711
	plain := plainProducts(s.client, s.pool, time.Minute)
	if _, err := plain.Get(t.Context(), id, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	output, ended := newLineWatch(committedLine), make(chan error, 1)
	go func() { ended <- PlainWrite(ctx, output, s.url, s.redisURL, id, "9.87") }()
	select {
	case <-output.seen:
	case err := <-ended:
		t.Fatalf("PlainWrite ended before it was interrupted: %v", err)
	}
	if stale, err := plain.isStale(t.Context(), id); err != nil || !stale {
		t.Errorf("between COMMIT and DEL: isStale = %v, %v, want true", stale, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if stale, err := plain.isStale(t.Context(), id); err != nil || stale {
		t.Errorf("after DEL: isStale = %v, %v, want false", stale, err)
	}
}

func TestShopHasWhatTheStoryNeeds(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	for query, want := range map[string]string{
		"SELECT count(*) || ' ' || count(DISTINCT category_id) FROM products":                         "10000 250",
		"SELECT count(*)::text FROM profiles JOIN users ON id = user_id":                              "10000",
		"SELECT count(*) || ' ' || count(DISTINCT user_id) || ' ' || min(user_id % 5) FROM addresses": "8000 8000 1",
	} {
		var got string
		if err := s.pool.QueryRow(t.Context(), query).Scan(&got); err != nil || got != want {
			t.Errorf("%s = %s, %v, want %s", query, got, err, want)
		}
	}
}
