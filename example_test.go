package freshet_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/freshetmsgpack"
	"github.com/freshet/freshet/internal/testkit"
)

var example *shop

// app is what an application makes when it starts, as the examples of Entry show.
var app struct {
	cache    *freshet.Cache
	products *freshet.Typed[int64, Product]
	lines    *freshet.Typed[LineKey, Line]
}

func openExample(ctx context.Context) error {
	example = newShop(ctx, "example")
	if err := example.publish(ctx); err != nil {
		return err
	}
	var err error
	if app.cache, err = freshet.Open(ctx, freshet.Options{Config: example.file}); err != nil {
		return err
	}
	testkit.AtEnd(func() error {
		app.cache.Close()
		return nil
	})
	if app.products, err = freshet.Entry[int64, Product](app.cache, "product"); err != nil {
		return err
	}
	app.lines, err = freshet.Entry[LineKey, Line](app.cache, "line")
	return err
}

type Product struct {
	ID    int64   `json:"id"`
	Name  string  `json:"name"`
	Price float64 `json:"price"`
}

// An entry that the file declares with a query is read by its key, here a single parameter.
func ExampleEntry() {
	ctx := context.Background()
	cache, err := freshet.Open(ctx, freshet.Options{Config: example.file})
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
	for range 2 { // the first read fills the cache, unless another did before, the second is a hit
		p, err := products.Get(ctx, 1)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s costs %.2f\n", p.Name, p.Price)
	}
	_, err = products.Get(ctx, 999)
	fmt.Println(errors.Is(err, freshet.ErrNotFound))
	fmt.Println(cache.Stats().Hits >= 1)
	// Output:
	// kettle costs 24.50
	// kettle costs 24.50
	// true
	// true
}

type LineKey struct {
	Order  int32 `freshet:"order_id"`
	Number int16
}

type Line struct {
	SKU string `json:"sku"`
}

// A key of several parameters is a struct.
func ExampleEntry_structKey() {
	ctx := context.Background()
	cache, err := freshet.Open(ctx, freshet.Options{Config: example.file})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cache.Close()

	lines, err := freshet.Entry[LineKey, Line](cache, "line")
	if err != nil {
		fmt.Println(err)
		return
	}
	line, err := lines.Get(ctx, LineKey{Order: 7, Number: 2})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(line.SKU)
	// Output: C-2
}

// An entry with depends_on is loaded by code, with as many statements as it takes: they see one snapshot.
func ExampleLoad() {
	ctx := context.Background()
	type Total struct{ Lines int }
	totals, err := freshet.Entry(app.cache, "total", freshet.Load(
		func(ctx context.Context, q freshet.Querier, order int32) (Total, error) {
			var t Total
			err := q.QueryRow(ctx, "SELECT count(*) FROM lines WHERE order_id = $1", order).Scan(&t.Lines)
			return t, err
		}))
	if err != nil {
		fmt.Println(err)
		return
	}
	total, err := totals.Get(ctx, 7)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(total.Lines)
	// Output: 2
}

// What code loads may be stored otherwise than as JSON.
func ExampleWithCodec() {
	ctx := context.Background()
	load := func(ctx context.Context, q freshet.Querier, order int) (lines []string, err error) {
		rows, err := q.Query(ctx, "SELECT sku FROM lines WHERE order_id = $1 ORDER BY number", order)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowTo[string])
	}
	totals, err := freshet.Entry(app.cache, "total", freshet.Load(load), freshet.WithCodec[int, []string](freshetmsgpack.Codec{}))
	if err != nil {
		fmt.Println(err)
		return
	}
	lines, err := totals.Get(ctx, 7)
	fmt.Println(lines, err)
	// Output: [K-1 C-2] <nil>
}

// A caller who changes what he reads asks for copies.
func ExampleWithClone() {
	ctx := context.Background()
	load := func(ctx context.Context, q freshet.Querier, order int) (lines []string, err error) {
		rows, err := q.Query(ctx, "SELECT sku FROM lines WHERE order_id = $1 ORDER BY number", order)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowTo[string])
	}
	totals, err := freshet.Entry(app.cache, "total", freshet.Load(load), freshet.WithClone[int](slices.Clone[[]string]))
	if err != nil {
		fmt.Println(err)
		return
	}
	lines, err := totals.Get(ctx, 7)
	if err != nil {
		fmt.Println(err)
		return
	}
	slices.Sort(lines)
	fmt.Println(lines)
	// Output: [C-2 K-1]
}

// A writer's token has a read contain what was written, whoever reads, and whatever is cached. Any session computes it in
// plain SQL, in the transaction that it names.
func ExampleAfter() {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, example.url)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = conn.Close(ctx) }()

	var text string
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO lines VALUES (8, 1, 'P-3')"); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT system_identifier || '.' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || '.' ||
			pg_current_xact_id() FROM pg_control_system()`).Scan(&text)
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	token, err := freshet.ParseToken(text)
	if err != nil {
		fmt.Println(err)
		return
	}
	line, err := app.lines.Get(ctx, LineKey{Order: 8, Number: 1}, freshet.After(token))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(line.SKU)
	// Output: P-3
}

// Reads through a session never go back in time, whatever keys they read; and they contain what the session was told of.
func ExampleCache_Session() {
	ctx := context.Background()
	session := app.cache.Session()
	for _, id := range []int64{1, 2} {
		// Of two products that one transaction changes, the second is not read from before it when the first was not.
		p, err := app.products.Get(ctx, id, freshet.Through(session))
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(p.Name)
	}
	// Output:
	// kettle
	// cup
}

// MaxStale bounds how old what is read may be. What the cache cannot prove comes from the database.
func ExampleMaxStale() {
	ctx := context.Background()
	p, err := app.products.Get(ctx, 2, freshet.MaxStale(2*time.Second))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(p.Name)
	// Output: cup
}

// A conditional read has the database say that what is cached is what it has. The value is sent only where it is not.
func ExampleRevalidate() {
	ctx := context.Background()
	cache, err := freshet.Open(ctx, freshet.Options{Config: example.file})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cache.Close()
	lines, err := freshet.Entry[LineKey, Line](cache, "line")
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 2 {
		line, err := lines.Get(ctx, LineKey{Order: 7, Number: 2}, freshet.Revalidate())
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(line.SKU)
	}
	// Output:
	// C-2
	// C-2
}

// A transaction names the keys that it affects and that no rule can derive. They are invalidated with its commit.
func ExampleCache_Commit() {
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
	defer tx.Rollback(ctx) // does nothing after Commit
	if _, err := tx.Exec(ctx, "UPDATE products SET stage = 'sold' WHERE id = $1", 1); err != nil {
		fmt.Println(err)
		return
	}
	token, err := app.cache.Commit(ctx, tx, app.products.Key(1), app.products.Key(2, freshet.Strict(), freshet.Refresh()))
	switch {
	case errors.Is(err, freshet.ErrNotCommitted):
		fmt.Println("rolled back:", err)
	case errors.Is(err, freshet.ErrOutcomeUnknown):
		fmt.Println("ask the database for", token)
	case err == nil:
		fmt.Println("committed, as transaction", token.XID > 0)
	}
	// Output: committed, as transaction true
}

// A function's changes are committed together with the keys that it returns.
func ExampleCache_InTx() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, example.url)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	token, err := app.cache.InTx(ctx, pool, func(tx pgx.Tx) ([]freshet.Key, error) {
		_, err := tx.Exec(ctx, "UPDATE products SET price = 25 WHERE id = $1", 1)
		return []freshet.Key{app.products.Key(1)}, err
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	kettle, err := app.products.Get(ctx, 1, freshet.After(token))
	fmt.Println(kettle.Price, err)
	// Output: 25 <nil>
}

// With database/sql, and any of its PostgreSQL drivers.
func ExampleCache_InTxSQL() {
	ctx := context.Background()
	db, err := sql.Open("pgx", example.url)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = db.Close() }()
	token, err := app.cache.InTxSQL(ctx, db, func(tx *sql.Tx) ([]freshet.Key, error) {
		_, err := tx.ExecContext(ctx, "UPDATE products SET price = 4 WHERE id = $1", 2)
		return []freshet.Key{app.products.Key(2)}, err
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	cup, err := app.products.Get(ctx, 2, freshet.After(token))
	fmt.Println(cup.Price, err)
	// Output: 4 <nil>
}

// A transaction of database/sql that was begun elsewhere.
func ExampleCache_CommitSQL() {
	ctx := context.Background()
	db, err := sql.Open("pgx", example.url)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = db.Close() }()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = tx.Rollback() }() // does nothing after CommitSQL
	if _, err := tx.ExecContext(ctx, "UPDATE products SET price = 3 WHERE id = $1", 2); err != nil {
		fmt.Println(err)
		return
	}
	token, err := app.cache.CommitSQL(ctx, tx, app.products.Key(2))
	fmt.Println(!token.IsZero(), err)
	// Output: true <nil>
}

// With database/sql, intent and token are statements of their own within the transaction.
func ExampleCache_Intent() {
	ctx := context.Background()
	db, err := sql.Open("pgx", example.url)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = db.Close() }()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit
	if err := app.cache.Intent(ctx, freshet.SQL(tx), app.products.Key(2)); err != nil {
		fmt.Println(err)
		return
	}
	var text string
	if err := tx.QueryRowContext(ctx, freshet.TokenSQL).Scan(&text); err != nil {
		fmt.Println(err)
		return
	}
	if err := tx.Commit(); err != nil {
		fmt.Println(err)
		return
	}
	token, err := freshet.ParseToken(text)
	fmt.Println(token.String() == text, err)
	// Output: true <nil>
}

// What the database does not know of is invalidated by hand: here a value that code makes, after the code has changed. A read
// that is given the token has nothing from before it.
func ExampleCache_Invalidate() {
	ctx := context.Background()
	token, err := app.cache.Invalidate(ctx, app.products.Key(1), app.cache.AllOf("total"))
	if err != nil {
		fmt.Println(err)
		return
	}
	p, err := app.products.Get(ctx, 1, freshet.After(token))
	fmt.Println(p.Name, err)
	// Output: kettle <nil>
}
