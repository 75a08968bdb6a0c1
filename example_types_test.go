package freshet_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet"
)

// Options of entries are values, which code that opens many entries hands on.
func ExampleOption() {
	open := func(options ...freshet.Option[int64, []Product]) (*freshet.Typed[int64, []Product], error) {
		return freshet.Entry(app.cache, "product", options...)
	}
	_, err := open(freshet.WithClone[int64](func(products []Product) []Product { return append([]Product(nil), products...) }))
	fmt.Println(err)
	// Output: <nil>
}

// What a read asks for beyond a value that is kept fresh may come with a request: here a token, and nothing that is known to be stale.
func ExampleReadOption() {
	wanted := func(after string) ([]freshet.ReadOption, error) {
		options := []freshet.ReadOption{freshet.NoStale()}
		if after == "" {
			return options, nil
		}
		token, err := freshet.ParseToken(after)
		return append(options, freshet.After(token)), err
	}
	options, err := wanted("") // what a header of the request says
	if err != nil {
		fmt.Println(err)
		return
	}
	p, err := app.products.Get(context.Background(), 1, options...)
	fmt.Println(p.Name, err)
	// Output: kettle <nil>
}

// What is done about each key of a commit may be decided for all of them at once.
func ExampleKeyOption() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, example.url)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	how := []freshet.KeyOption{freshet.Strict(), freshet.Refresh()}
	_, err = app.cache.InTx(ctx, pool, func(tx pgx.Tx) ([]freshet.Key, error) {
		_, err := tx.Exec(ctx, "UPDATE products SET stage = 'sold' WHERE id = 1")
		return []freshet.Key{app.products.Key(1, how...), app.products.Key(2, how...)}, err
	})
	fmt.Println(err)
	// Output: <nil>
}

// stock writes by whatever begins a transaction: the pool of the application, or one connection.
type stock struct {
	db freshet.Beginner
}

func (s stock) sell(ctx context.Context, id int64) (freshet.Token, error) {
	return app.cache.InTx(ctx, s.db, func(tx pgx.Tx) ([]freshet.Key, error) {
		_, err := tx.Exec(ctx, "UPDATE products SET stage = 'sold' WHERE id = $1", id)
		return []freshet.Key{app.products.Key(id)}, err
	})
}

// Code that writes asks for a Beginner, and is given a pool where it serves, a connection where it is a script.
func ExampleBeginner() {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, example.url)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = conn.Close(ctx) }()
	token, err := stock{db: conn}.sell(ctx, 2)
	fmt.Println(!token.IsZero(), err)
	// Output: true <nil>
}

// Code that is handed a transaction, by pgx or by database/sql (freshet.SQL), writes and names the keys that it affects, and leaves the commit to
// whoever began it.
func ExampleExecer() {
	ctx := context.Background()
	rename := func(tx freshet.Execer, id int64, name string) error {
		_, err := tx.Exec(ctx, "UPDATE products SET name = $2 WHERE id = $1", id, name)
		return errors.Join(err, app.cache.Intent(ctx, tx, app.products.Key(id)))
	}
	conn, err := pgx.Connect(ctx, example.url)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = conn.Close(ctx) }()
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return rename(tx, 2, "cup") })
	fmt.Println(err)
	// Output: <nil>
}

// What GetMany has for each key is a value or an error of its own.
func ExampleResult() {
	names := func(found []freshet.Result[Product]) (names []string) {
		for _, p := range found {
			switch {
			case errors.Is(p.Err, freshet.ErrNotFound):
				names = append(names, "(sold out)")
			case p.Err != nil:
				names = append(names, "(try again)")
			default:
				names = append(names, p.Value.Name)
			}
		}
		return names
	}
	found, _ := app.products.GetMany(context.Background(), []int64{1, 404, 2}) // its error is one of those in found
	fmt.Println(strings.Join(names(found), ", "))
	// Output: kettle, (sold out), cup
}

// A session is kept for as long as what it has shown is to hold: with a login, or a request that reads several times.
func ExampleSession() {
	ctx := context.Background()
	sessions := map[string]*freshet.Session{} // by login
	session := func(login string) *freshet.Session {
		if sessions[login] == nil {
			sessions[login] = app.cache.Session()
		}
		return sessions[login]
	}
	for range 2 {
		p, err := app.products.Get(ctx, 1, freshet.Through(session("ada")))
		fmt.Println(p.Name, err)
	}
	// Output:
	// kettle <nil>
	// kettle <nil>
}

// Counts only grow: what became of the reads of some time is the difference of two.
func ExampleStats() {
	share := func(before, after freshet.Stats) float64 {
		hits, misses := after.Hits-before.Hits, after.Misses-before.Misses
		return float64(hits) / float64(hits+misses)
	}
	fmt.Println(share(freshet.Stats{Hits: 90, Misses: 10}, freshet.Stats{Hits: 105, Misses: 15}))
	// Output: 0.75
}

// pages notes how many keys pages read at a time, and how long that took.
type pages struct {
	slow // as of single reads
	keys *[]freshet.ManyDone
}

func (pages) ManyStart(ctx context.Context, _ string, _ int) context.Context { return ctx }
func (p pages) ManyEnd(_ context.Context, m freshet.ManyDone)                { *p.keys = append(*p.keys, m) }

// A ManyObserver hears of calls of GetMany as well, of each once.
func ExampleManyObserver() {
	ctx := context.Background()
	var (
		done     []freshet.ManyDone
		observer freshet.ManyObserver = pages{slow{&strings.Builder{}}, &done}
	)
	cache, err := freshet.Open(ctx, freshet.Options{Config: example.file, Observers: []freshet.Observer{observer}})
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
	if _, err := products.GetMany(ctx, []int64{1, 2, 404}); err != nil {
		fmt.Println(err)
		return
	}
	for _, m := range done {
		fmt.Println(m.Entry, m.Keys, "keys,", m.Missing, "without a row,", m.Failed, "failed, in time:", m.Took < time.Minute)
	}
	// Output: product 3 keys, 1 without a row, 0 failed, in time: true
}
