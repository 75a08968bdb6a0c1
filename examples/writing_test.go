package examples_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/localserver"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/lib/pq" // the driver "postgres"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/freshet/freshet/examples/shopdb"
)

// Product is a row of products.
type Product struct {
	ID       int64  `json:"id"`
	Name     string `json:"name"`
	Category string `json:"category"`
}

// app is what an application makes when it starts.
var app struct {
	url      string
	pool     *pgxpool.Pool
	cache    *freshet.Cache
	products *freshet.Typed[int64, Product]
	ratings  *freshet.Typed[int64, float64]
}

// A rating is of another system; no change of a table says that it changed.
const file = `
namespace: examples
database: {url: %q}
source: {postgres: {}}
regions: [{name: local, redis: {url: %q}}]
entries:
  product: {key: "product:{id}", query: "SELECT id, name, category FROM products WHERE id = @id"}
  rating: {key: "rating:{id}", depends_on: [], ttl: 5m}
`

func TestMain(m *testing.M) {
	if err := start(context.Background()); err != nil {
		panic(err)
	}
	testkit.Main(m)
}

func start(ctx context.Context) error {
	database, err := localserver.StartPostgres(ctx, localserver.PostgresOptions{})
	if err != nil {
		return err
	}
	testkit.AtEnd(database.Close)
	redis, err := localserver.StartRedis(ctx, localserver.RedisOptions{})
	if err != nil {
		return err
	}
	testkit.AtEnd(redis.Close)
	app.url = database.URL("postgres")
	if app.pool, err = pgxpool.New(ctx, app.url); err != nil {
		return err
	}
	if _, err := app.pool.Exec(ctx, `CREATE TABLE products (id int8 PRIMARY KEY, name text, category text);
		INSERT INTO products VALUES (1, 'kettle', 'kitchen'), (2, 'cup', 'kitchen')`); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "freshet-examples-")
	if err != nil {
		return err
	}
	testkit.AtEnd(func() error { return os.RemoveAll(dir) })
	config := filepath.Join(dir, "freshet.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, file, app.url, redis.URL()), 0o600); err != nil {
		return err
	}
	if app.cache, err = freshet.Open(ctx, freshet.Options{Config: config, Database: app.pool}); err != nil {
		return err
	}
	testkit.AtEnd(func() error {
		app.cache.Close()
		app.pool.Close()
		return nil
	})
	if app.products, err = freshet.Entry[int64, Product](app.cache, "product"); err != nil {
		return err
	}
	app.ratings, err = freshet.Entry(app.cache, "rating", freshet.Load(func(context.Context, freshet.Querier, int64) (float64, error) {
		return 4.5, nil // from the service that has them
	}))
	return err
}

// With sqlc the transaction is given to WithTx, or to New.
func Example_sqlc() {
	ctx := context.Background()
	token, err := app.cache.InTx(ctx, app.pool, func(tx pgx.Tx) ([]freshet.Key, error) {
		queries := shopdb.New(tx)
		if _, err := queries.Rename(ctx, shopdb.RenameParams{ID: 1, Name: "teapot"}); err != nil {
			return nil, err
		}
		ids, err := queries.Category(ctx, "kitchen")
		if err != nil {
			return nil, err
		}
		var keys []freshet.Key
		for _, id := range ids {
			keys = append(keys, app.ratings.Key(id))
		}
		return keys, nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	product, err := app.products.Get(ctx, 1, freshet.After(token))
	fmt.Println(product.Name, err)
	// Output: teapot <nil>
}

// GORM runs its transactions itself; the intent is a statement within one. SQL takes the transaction that GORM's own statements run in.
func Example_gorm() {
	ctx := context.Background()
	db, err := gorm.Open(postgres.Open(app.url), &gorm.Config{Logger: logger.Discard})
	if err != nil {
		fmt.Println(err)
		return
	}
	if pool, err := db.DB(); err == nil {
		defer func() { _ = pool.Close() }()
	}
	var token freshet.Token
	err = db.WithContext(ctx).Transaction(func(tx *gorm.DB) error {
		if err := tx.Model(&Product{}).Where("id = ?", 2).Update("name", "mug").Error; err != nil {
			return err
		}
		if err := app.cache.Intent(ctx, freshet.SQL(tx.Statement.ConnPool), app.ratings.Key(2)); err != nil {
			return err
		}
		var text string
		if err := tx.Raw(freshet.TokenSQL).Scan(&text).Error; err != nil {
			return err
		}
		token, err = freshet.ParseToken(text)
		return err
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	product, err := app.products.Get(ctx, 2, freshet.After(token))
	fmt.Println(product.Name, err)
	// Output: mug <nil>
}

// Any driver of database/sql will do, here lib/pq.
func Example_databaseSQL() {
	ctx := context.Background()
	db, err := sql.Open("postgres", app.url)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = db.Close() }()
	token, err := app.cache.InTxSQL(ctx, db, func(tx *sql.Tx) ([]freshet.Key, error) {
		_, err := tx.ExecContext(ctx, `UPDATE products SET category = 'garden' WHERE id = $1`, 1)
		return []freshet.Key{app.ratings.Key(1, freshet.Refresh())}, err
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	product, err := app.products.Get(ctx, 1, freshet.After(token))
	fmt.Println(product.Category, err)
	// Output: garden <nil>
}

// TestErrorsOfAnotherDriver: what an error of COMMIT means is read from what lib/pq tells of it.
func TestErrorsOfAnotherDriver(t *testing.T) {
	t.Parallel()
	db, err := sql.Open("postgres", app.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(t.Context(), `CREATE TABLE late (id int, UNIQUE (id) DEFERRABLE INITIALLY DEFERRED)`); err != nil {
		t.Fatal(err)
	}
	_, err = app.cache.InTxSQL(t.Context(), db, func(tx *sql.Tx) ([]freshet.Key, error) {
		_, err := tx.ExecContext(t.Context(), `INSERT INTO late VALUES (1), (1)`)
		return nil, err
	})
	if !errors.Is(err, freshet.ErrNotCommitted) || errors.Is(err, freshet.ErrOutcomeUnknown) {
		t.Errorf("a constraint at its end: %v", err)
	}
}
