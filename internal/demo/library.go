package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet"
)

// absent is the price of a product that is not there.
const absent = "no such product"

type product struct {
	ID    int64       `json:"id"`
	Name  string      `json:"name"`
	Price json.Number `json:"price"`
}

type profile struct {
	ID   int64   `json:"id"`
	Name string  `json:"name"`
	Bio  string  `json:"bio"`
	City *string `json:"city"`
}

func (p profile) city() string {
	if p.City == nil {
		return ""
	}
	return *p.City
}

// priceTag is an entry that application code loads.
type priceTag struct {
	ID    int64  `json:"id"`
	Price string `json:"price"`
}

// library reads through freshet's Go library, as services of the shop would: one of them is slow.
type library struct {
	cache    *freshet.Cache
	products *freshet.Typed[int64, product]
	profiles *freshet.Typed[int64, profile]

	slowCache *freshet.Cache // the slow service's own, so that its counts are
	tags      *freshet.Typed[int64, priceTag]

	mu    sync.Mutex
	slow  chan struct{} // what the next load waits for; nil: nothing
	loads chan string   // gets the price that a slow load has read
}

func openLibrary(ctx context.Context, configFile string, pool *pgxpool.Pool) (*library, error) {
	l := &library{loads: make(chan string, 1)}
	for _, cache := range []**freshet.Cache{&l.cache, &l.slowCache} {
		opened, err := freshet.Open(ctx, freshet.Options{Config: configFile, Database: pool})
		if err != nil {
			l.close()
			return nil, fmt.Errorf("open library: %w", err)
		}
		*cache = opened
	}
	var errs [3]error
	l.products, errs[0] = freshet.Entry[int64, product](l.cache, "product")
	l.profiles, errs[1] = freshet.Entry[int64, profile](l.cache, "user_profile")
	l.tags, errs[2] = freshet.Entry(l.slowCache, "price_tag", freshet.Load(l.loadTag))
	if err := errors.Join(errs[:]...); err != nil {
		l.close()
		return nil, fmt.Errorf("open library: %w", err)
	}
	return l, nil
}

func (l *library) close() {
	for _, cache := range []*freshet.Cache{l.cache, l.slowCache} {
		if cache != nil {
			cache.Close()
		}
	}
}

// refused is how many loads of price tags were not let into the cache.
func (l *library) refused() int {
	n := uint64(0)
	for _, count := range l.slowCache.Stats().Refused {
		n += count
	}
	return int(n)
}

func (l *library) price(ctx context.Context, id int64) (string, error) {
	p, err := l.products.Get(ctx, id)
	if errors.Is(err, freshet.ErrNotFound) {
		return absent, nil
	}
	return p.Price.String(), err
}

func (l *library) profile(ctx context.Context, id int64) (profile, error) {
	return l.profiles.Get(ctx, id)
}

// hold makes the next load of a price tag slow: it says what it read, and goes on when release is called.
func (l *library) hold() (release func()) {
	slow := make(chan struct{})
	l.mu.Lock()
	l.slow = slow
	l.mu.Unlock()
	return sync.OnceFunc(func() { close(slow) })
}

// loadTag is the application's own code: it reads the row and takes its time before it returns.
func (l *library) loadTag(ctx context.Context, q freshet.Querier, id int64) (priceTag, error) {
	tag := priceTag{ID: id}
	if err := q.QueryRow(ctx, "SELECT price::text FROM products WHERE id = $1", id).Scan(&tag.Price); err != nil {
		return priceTag{}, fmt.Errorf("load price tag: %w", err)
	}
	l.mu.Lock()
	slow := l.slow
	l.slow = nil
	l.mu.Unlock()
	if slow != nil {
		l.loads <- tag.Price
		select {
		case <-slow:
		case <-ctx.Done():
			return priceTag{}, context.Cause(ctx)
		}
	}
	return tag, nil
}
