package freshet_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet"
)

// A program opens one Cache, and closes it when it ends. Loads take turns on the application's own pool.
func ExampleOpen() {
	ctx, file := context.Background(), example.file // freshet.yaml
	pool, err := pgxpool.New(ctx, example.url)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()

	cache, err := freshet.Open(ctx, freshet.Options{Config: file, Database: pool, MaxLoads: 8})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cache.Close()
	fmt.Println(cache.Stats().Loads)
	// Output: 0
}

// An entry of many rows is a slice. A nil pointer in a key is NULL.
func ExampleTyped_Get() {
	ctx := context.Background()
	stages, err := freshet.Entry[*string, []struct{ ID int64 }](app.cache, "stage")
	if err != nil {
		fmt.Println(err)
		return
	}
	none, err := stages.Get(ctx, nil)
	fmt.Println(len(none), err)
	// Output: 0 <nil>
}

// Bypass leaves the cache as it is: for a look at what the database has, by a person or a test.
func ExampleBypass() {
	p, err := app.products.Get(context.Background(), 1, freshet.Bypass())
	fmt.Println(p.Name, err)
	// Output: kettle <nil>
}

// NoStale is for a read that has no use for what its entry may serve for a while after a change.
func ExampleNoStale() {
	p, err := app.products.Get(context.Background(), 1, freshet.NoStale())
	fmt.Println(p.Name, err)
	// Output: kettle <nil>
}

// Through is given with every read of one user, whose pages then never go back in time.
func ExampleThrough() {
	ctx := context.Background()
	session := app.cache.Session() // one for each user, kept with the login
	p, err := app.products.Get(ctx, 1, freshet.Through(session), freshet.MaxStale(time.Minute))
	fmt.Println(p.Name, err)
	// Output: kettle <nil>
}

// A session that is told of a write contains it from then on.
func ExampleSession_Observe() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, example.url)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	session := app.cache.Session()
	token, err := app.cache.InTx(ctx, pool, func(tx pgx.Tx) ([]freshet.Key, error) {
		_, err := tx.Exec(ctx, "INSERT INTO lines VALUES (9, 1, 'S-9')")
		return nil, err // the entry's query tells which keys that affects
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	session.Observe(token)
	line, err := app.lines.Get(ctx, LineKey{Order: 9, Number: 1}, freshet.Through(session))
	fmt.Println(line.SKU, err)
	// Output: S-9 <nil>
}

// A token is text to everybody else: a header, a cookie, a field of a message.
func ExampleParseToken() {
	token, err := freshet.ParseToken("7351234567890123456.00000001.745")
	fmt.Println(token.XID, err)
	_, err = freshet.ParseToken("yesterday")
	fmt.Println(err != nil)
	// Output:
	// 745 <nil>
	// true
}

// The answer of another service is covered by no snapshot: in the file, the entry says covers: none. It is served until its TTL ends, and no read
// that asks for more takes it for proof.
func ExampleLoad_otherService() {
	ctx := context.Background()
	weather, err := freshet.Entry(app.cache, "weather", freshet.Load(
		func(ctx context.Context, _ freshet.Querier, city string) (string, error) {
			return forecast(ctx, city)
		}))
	if err != nil {
		fmt.Println(err)
		return
	}
	today, err := weather.Get(ctx, "Bergen")
	fmt.Println(today, err)
	// Output: rain in Bergen <nil>
}

// forecast asks another service.
func forecast(_ context.Context, city string) (string, error) { return "rain in " + city, nil }

// gobs is a Codec of an application's own.
type gobs struct{}

func (gobs) Name() string { return "gob" }

func (gobs) Encode(value any) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(value)
	return b.Bytes(), err
}

func (gobs) Decode(data []byte, into any) error {
	return gob.NewDecoder(bytes.NewReader(data)).Decode(into)
}

// An application may store what its code loads in a form of its own. A type that has changed is a miss, and no error.
func ExampleCodec() {
	ctx := context.Background()
	skus := func(ctx context.Context, q freshet.Querier, order int) (skus map[int]string, err error) {
		skus = map[int]string{}
		rows, err := q.Query(ctx, "SELECT number, sku FROM lines WHERE order_id = $1", order)
		if err != nil {
			return nil, err
		}
		var (
			number int
			sku    string
		)
		_, err = pgx.ForEachRow(rows, []any{&number, &sku}, func() error {
			skus[number] = sku
			return nil
		})
		return skus, err
	}
	totals, err := freshet.Entry(app.cache, "total", freshet.Load(skus), freshet.WithCodec[int, map[int]string](gobs{}))
	if err != nil {
		fmt.Println(err)
		return
	}
	of7, err := totals.Get(ctx, 7)
	fmt.Println(of7, err)
	// Output: map[1:K-1 2:C-2] <nil>
}

// versioned is a Codec whose bytes can be read by every type that says it has the same version.
type versioned struct{ gobs }

func (versioned) Name() string { return "versioned" }

func (versioned) Shape(t reflect.Type) string {
	if v, ok := reflect.TypeAssert[interface{ Version() string }](reflect.Zero(t)); ok {
		return v.Version()
	}
	return t.String()
}

type basket struct{ Lines int }

func (basket) Version() string { return "basket 2" }

// A Codec that tolerates other types than the one that was stored says so itself: here what counts is a version that the types have.
func ExampleShaper() {
	var codec freshet.Codec = versioned{}
	shaper, ok := codec.(freshet.Shaper)
	fmt.Println(ok, shaper.Shape(reflect.TypeFor[basket]()))
	// Output: true basket 2
}

// Whoever writes what it does not read names a key by its arguments.
func ExampleCache_Key() {
	ctx := context.Background()
	token, err := app.cache.Invalidate(ctx, app.cache.Key("total", 7))
	fmt.Println(!token.IsZero(), err)
	// Output: true <nil>
}

// Options of a key are for Commit.
func ExampleKey_With() {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, example.url)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = conn.Close(ctx) }()
	tx, err := conn.Begin(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	total := app.cache.Key("total", 7)
	_, err = app.cache.Commit(ctx, tx, total.With(freshet.Strict()))
	fmt.Println(err)
	// Output: <nil>
}

// After a mistake that somebody mends by hand: every key of the entries that read a table, and all that there is.
func ExampleCache_AllReading() {
	ctx := context.Background()
	_, err := app.cache.Invalidate(ctx, app.cache.AllReading("products"))
	fmt.Println(err)
	_, err = app.cache.Invalidate(ctx, app.cache.All())
	fmt.Println(err)
	// Output:
	// <nil>
	// <nil>
}

// Counts say how a cache does; package freshetprom exports them.
func ExampleCache_Stats() {
	before := app.cache.Stats()
	if _, err := app.products.Get(context.Background(), 2, freshet.Bypass()); err != nil {
		fmt.Println(err)
		return
	}
	after := app.cache.Stats()
	fmt.Println(after.Loads > before.Loads, after.Bypassed["asked_for"] > before.Bypassed["asked_for"])
	// Output: true true
}

// slow notes reads that take long.
type slow struct{ noted *strings.Builder }

func (slow) ReadStart(ctx context.Context, _ string) context.Context { return ctx }

func (s slow) ReadEnd(_ context.Context, r freshet.ReadDone) {
	const long = 0 // for this example every read does
	if r.Took >= long {
		fmt.Fprintln(s.noted, r.Entry, r.Status, r.Reason)
	}
}

func (slow) LoadStart(ctx context.Context, _ string) context.Context { return ctx }
func (slow) LoadEnd(context.Context, freshet.LoadDone)               {}

// An Observer hears of every read and load.
func ExampleObserver() {
	ctx, noted := context.Background(), &strings.Builder{}
	cache, err := freshet.Open(ctx, freshet.Options{Config: example.file, Observers: []freshet.Observer{slow{noted}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cache.Close()
	products, err := freshet.Entry[int64, Product](cache, "product")
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := products.Get(ctx, 1, freshet.Bypass()); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(noted)
	// Output: product bypass asked_for
}
