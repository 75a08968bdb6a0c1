package freshet_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet"
)

func open(t *testing.T, o freshet.Options) *freshet.Cache {
	t.Helper()
	cache, err := freshet.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cache.Close)
	return cache
}

func entry[K, V any](t *testing.T, cache *freshet.Cache, name string, options ...freshet.Option[K, V]) *freshet.Typed[K, V] {
	t.Helper()
	e, err := freshet.Entry(cache, name, options...)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func published(t *testing.T) *shop {
	t.Helper()
	s := newShop(t.Context(), "test")
	if err := s.publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func get[K, V any](t *testing.T, e *freshet.Typed[K, V], key K, want V) {
	t.Helper()
	got, err := e.Get(t.Context(), key)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Fatalf("Get(%v): %v (-want +got):\n%s", key, err, diff)
	}
}

func TestGet(t *testing.T) {
	t.Parallel()
	cache := open(t, freshet.Options{Config: published(t).file})
	products := entry[int64, Product](t, cache, "product")
	kettle := Product{ID: 1, Name: "kettle", Price: 24.5}
	get(t, products, 1, kettle)
	get(t, products, 1, kettle)
	for range 2 {
		if _, err := products.Get(t.Context(), 99); !errors.Is(err, freshet.ErrNotFound) {
			t.Errorf("error = %v", err)
		}
	}
	if s := cache.Stats(); s.Hits != 2 || s.Fills != 2 || s.Loads != 2 {
		t.Errorf("Stats = %+v", s)
	}
	// Whatever spells the key, it is one key.
	get(t, entry[string, Product](t, cache, "product"), "0001", kettle)
	one := 1
	get(t, entry[*int, Product](t, cache, "product"), &one, kettle)
	get(t, entry[struct{ ID uint8 }, Product](t, cache, "product"), struct{ ID uint8 }{1}, kettle)
	if s := cache.Stats(); s.Hits != 5 || s.Loads != 2 {
		t.Errorf("Stats = %+v", s)
	}
	if _, err := entry[*int, Product](t, cache, "product").Get(t.Context(), nil); !errors.Is(err, freshet.ErrNotFound) {
		t.Errorf("NULL: %v", err)
	}
	get(t, entry[string, []struct{ ID int }](t, cache, "stage"), "sold", []struct{ ID int }{{2}})
	get(t, entry[int64, map[string]any](t, cache, "product"), 2, map[string]any{"id": 2.0, "name": "cup", "price": 3.0})
	get(t, entry[int64, json.RawMessage](t, cache, "product"), 2, json.RawMessage(`{"id":2,"name":"cup","price":3.00}`))
	get(t, entry[LineKey, *Line](t, cache, "line"), LineKey{Order: 7, Number: 1}, &Line{SKU: "K-1"})
}

func TestGetErrors(t *testing.T) {
	t.Parallel()
	cache := open(t, freshet.Options{Config: published(t).file})
	if _, err := entry[LineKey, Line](t, cache, "line").Get(t.Context(), LineKey{Order: -1 << 31}); !errors.Is(err, freshet.ErrNotFound) {
		t.Errorf("no such line: %v", err)
	}
	if _, err := entry[float64, Product](t, cache, "product").Get(t.Context(), 1); !errors.Is(err, freshet.ErrKey) {
		t.Errorf("a float for a key: %v", err)
	}
	if _, err := entry[string, Product](t, cache, "product").Get(t.Context(), "one"); !errors.Is(err, freshet.ErrKey) || !strings.Contains(err.Error(), "parameter id") {
		t.Errorf("a word for a number: %v", err)
	}
	if _, err := entry[string, []Product](t, cache, "stage").Get(t.Context(), "lost"); !errors.Is(err, freshet.ErrKey) {
		t.Errorf("a label that the enum does not have: %v", err)
	}
	if _, err := entry[string, []Product](t, cache, "stage").Get(t.Context(), "lost"); !errors.Is(err, freshet.ErrKey) || cache.Stats().LoadErrors != 2 {
		t.Errorf("the same again: %v; each asks the database: %+v", err, cache.Stats())
	}
	if _, err := entry[int64, []int](t, cache, "product").Get(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "decode value into []int") {
		t.Errorf("a value of another form: %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := entry[int64, Product](t, cache, "product").Get(cancelled, 2); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	products := entry[int64, Product](t, cache, "product")
	cache.Close()
	if _, err := products.Get(t.Context(), 2); err == nil {
		t.Error("a closed cache answers")
	}
}

func TestEntryErrors(t *testing.T) {
	t.Parallel()
	cache := open(t, freshet.Options{Config: published(t).file})
	load := freshet.Load(func(context.Context, freshet.Querier, int64) (int, error) { return 0, nil })
	for name, want := range map[string]struct {
		err  error
		text string
	}{
		"unknown":        {second(freshet.Entry[int64, int](cache, "nothing")), "no such entry: nothing"},
		"too few":        {second(freshet.Entry[int64, int](cache, "line")), "takes a struct with a field for each, not int64"},
		"missing field":  {second(freshet.Entry[struct{ Number int }, int](cache, "line")), "no field for parameter order_id"},
		"other field":    {second(freshet.Entry[struct{ OrderID, Number, Size int }, int](cache, "line")), "field Size of"},
		"two fields":     {second(freshet.Entry[struct{ OrderID, Order_ID, Number int }, int](cache, "line")), "two fields of"},
		"no code":        {second(freshet.Entry[int64, int](cache, "total")), "give freshet.Load"},
		"needless code":  {second(freshet.Entry(cache, "product", load)), "for entries with depends_on"},
		"untagged field": {second(freshet.Entry[struct{ Order, Number int }, int](cache, "line")), "field Order of"},
	} {
		if want.err == nil || !strings.Contains(want.err.Error(), want.text) {
			t.Errorf("%s: %v, want %q", name, want.err, want.text)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestLoad(t *testing.T) {
	t.Parallel()
	cache := open(t, freshet.Options{Config: published(t).file})
	calls := 0
	totals := entry(t, cache, "total", freshet.Load(func(ctx context.Context, q freshet.Querier, order int) ([]string, error) {
		calls++
		rows, err := q.Query(ctx, "SELECT sku FROM lines WHERE order_id = $1 ORDER BY number", order)
		if err != nil {
			return nil, err
		}
		skus, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err == nil && len(skus) == 0 {
			err = pgx.ErrNoRows
		}
		return skus, err
	}))
	for range 2 {
		get(t, totals, 7, []string{"K-1", "C-2"})
		if _, err := totals.Get(t.Context(), 8); !errors.Is(err, freshet.ErrNotFound) {
			t.Errorf("error = %v", err)
		}
	}
	if calls != 2 {
		t.Errorf("the code ran %d times, want once for each key", calls)
	}
}

// TestNothingButTheDatabase reads without daemon and without Redis.
func TestNothingButTheDatabase(t *testing.T) {
	t.Parallel()
	s := newShop(t.Context(), "bare")
	for _, redis := range []string{servers.redis.URL(), "redis://127.0.0.1:1"} {
		cache := open(t, freshet.Options{Config: s.write("bare.yaml", redis)})
		get(t, entry[int64, Product](t, cache, "product"), 1, Product{ID: 1, Name: "kettle", Price: 24.5})
		get(t, entry[LineKey, Line](t, cache, "line"), LineKey{Order: 7, Number: 1}, Line{SKU: "K-1"})
		totals := entry(t, cache, "total", freshet.Load(func(context.Context, freshet.Querier, *int) (string, error) { return "loaded", nil }))
		seven := 7
		get(t, totals, &seven, "loaded")
		get(t, totals, nil, "loaded")
		if stats := cache.Stats(); stats.Hits != 0 || stats.Fills != 0 || stats.Loads != 4 {
			t.Errorf("%s: Stats = %+v", redis, stats)
		}
	}
}

func TestNeitherAnswers(t *testing.T) {
	t.Parallel()
	s := newShop(t.Context(), "neither")
	s.url = "postgres://127.0.0.1:1/nothing"
	cache := open(t, freshet.Options{Config: s.write("neither.yaml", "redis://127.0.0.1:1")})
	if _, err := entry[int64, Product](t, cache, "product").Get(t.Context(), 1); !errors.Is(err, freshet.ErrUnavailable) {
		t.Errorf("error = %v", err)
	}
}

// TestOwnPool uses the application's pool, whose sessions have settings under which values would have another text.
func TestOwnPool(t *testing.T) {
	t.Parallel()
	s := published(t)
	pool, err := pgxpool.New(t.Context(), s.url+"&timezone=Europe%2FBerlin&datestyle=German")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	s.url = "postgres://127.0.0.1:1/unused"
	var log bytes.Buffer
	cache := open(t, freshet.Options{
		Config: s.write("pool.yaml", servers.redis.URL()), Database: pool, Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	products := entry[int64, Product](t, cache, "product")
	for range 2 {
		get(t, products, 1, Product{ID: 1, Name: "kettle", Price: 24.5})
	}
	if stats := cache.Stats(); stats.Fills != 1 || stats.Hits != 1 {
		t.Errorf("Stats = %+v\n%s", stats, log.String())
	}
	cache.Close()
	var zone string
	if err := pool.QueryRow(t.Context(), "SHOW TimeZone").Scan(&zone); err != nil || zone != "Europe/Berlin" {
		t.Errorf("after Close the pool has TimeZone %q, %v", zone, err)
	}
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	s := newShop(t.Context(), "open")
	if _, err := freshet.Open(t.Context(), freshet.Options{Config: filepath.Join(servers.dir, "nowhere.yaml")}); err == nil {
		t.Error("a file that is not there opens")
	}
	if _, err := freshet.Open(t.Context(), freshet.Options{Config: s.file, Region: "moon"}); err == nil || !strings.Contains(err.Error(), `no region "moon"`) {
		t.Errorf("error = %v", err)
	}
	nameless := filepath.Join(t.TempDir(), "freshet.yaml")
	write := func(url string) {
		t.Helper()
		text := fmt.Sprintf("database: {url: %q}\nsource: {postgres: {}}\nregions: [{name: local, redis: {url: %q}}]\n%s", url, servers.redis.URL(), entries)
		if err := os.WriteFile(nameless, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("postgres://127.0.0.1:1/nothing")
	if _, err := freshet.Open(t.Context(), freshet.Options{Config: nameless}); err == nil || !strings.Contains(err.Error(), "set namespace") {
		t.Errorf("error = %v", err)
	}
	write(s.url)
	cache := open(t, freshet.Options{Config: nameless})
	get(t, entry[int64, Product](t, cache, "product"), 2, Product{ID: 2, Name: "cup", Price: 3})
}

// TestClosed: whatever is asked of a Cache that was closed is ErrClosed, also of an entry that it has never read; where its database was closed
// instead, which is the application's, that is away.
func TestClosed(t *testing.T) {
	t.Parallel()
	s := newShop(t.Context(), "closed")
	if err := s.publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.New(t.Context(), s.url)
	if err != nil {
		t.Fatal(err)
	}
	closed, err := freshet.Open(t.Context(), freshet.Options{Config: s.file})
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	own, err := pgxpool.New(t.Context(), s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	before, err := freshet.Open(t.Context(), freshet.Options{Config: s.file, Database: own}) // which still answers
	if err != nil {
		t.Fatal(err)
	}
	before.Close()
	without := openCache(t, freshet.Options{Config: s.file, Database: pool})
	pool.Close()
	for _, tt := range []struct {
		cache *freshet.Cache
		want  error
	}{{closed, freshet.ErrClosed}, {before, freshet.ErrClosed}, {without, freshet.ErrUnavailable}} {
		products, err := freshet.Entry[int64, Product](tt.cache, "product")
		if err != nil {
			t.Fatal(err)
		}
		for _, options := range [][]freshet.ReadOption{nil, {freshet.Bypass()}, {freshet.Revalidate()}, {freshet.MaxStale(time.Second)}} {
			if _, err := products.Get(t.Context(), 1, options...); !errors.Is(err, tt.want) {
				t.Errorf("Get: %v, want %v", err, tt.want)
			}
			if _, err := products.GetMany(t.Context(), []int64{1, 2}, options...); !errors.Is(err, tt.want) {
				t.Errorf("GetMany: %v, want %v", err, tt.want)
			}
		}
		if token, err := tt.cache.Invalidate(t.Context(), products.Key(1)); !errors.Is(err, tt.want) || !token.IsZero() {
			t.Errorf("Invalidate: %v, %v, want %v", token, err, tt.want)
		}
	}
}
