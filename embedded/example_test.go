package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/embedded"
	"github.com/freshet/freshet/internal/localserver"
	"github.com/freshet/freshet/internal/testkit"
)

// exampleFile is a freshet.yaml without regions, of a database with products.
var exampleFile string

// openExample makes that database. Examples have no testing.TB.
func openExample(ctx context.Context) error {
	server, err := localserver.StartPostgres(ctx, localserver.PostgresOptions{})
	if err != nil {
		return err
	}
	testkit.AtEnd(server.Close)
	conn, err := pgx.Connect(ctx, server.URL("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, `CREATE TABLE products (id int8 PRIMARY KEY, name text NOT NULL); INSERT INTO products VALUES (42, 'kettle')`); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "freshet-example-")
	if err != nil {
		return err
	}
	testkit.AtEnd(func() error { return os.RemoveAll(dir) })
	exampleFile = filepath.Join(dir, "freshet.yaml")
	text := fmt.Sprintf("database: {url: %q}\nsource: {postgres: {}}\nlisten: 127.0.0.1:0\nentries:\n"+
		"  product: {key: 'product:{id}', query: 'SELECT name FROM products WHERE id = @id'}\n", server.URL("postgres"))
	return os.WriteFile(exampleFile, []byte(text), 0o600)
}

// A program that needs nothing but its database: it runs the daemon itself, and reads what that keeps fresh.
func ExampleOpen() {
	ctx := context.Background()
	cache, daemon, err := embedded.Open(ctx, freshet.Options{Config: exampleFile})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = daemon.Stop() }()
	defer cache.Close()
	products, err := freshet.Entry[int64, struct{ Name string }](cache, "product")
	if err != nil {
		fmt.Println(err)
		return
	}
	p, err := products.Get(ctx, 42)
	fmt.Println(p.Name, err)
	// Output: kettle <nil>
}

// A service says that it is ready when the daemon vouches for what is cached, and ends when the daemon does.
func ExampleDaemon() {
	ctx := context.Background()
	run := func(cache *freshet.Cache, daemon *embedded.Daemon) error {
		defer cache.Close()
		for daemon.Ready() != nil { // a probe would say so: 503, and why
			select {
			case <-daemon.Done():
				return daemon.Stop() // what it ended with
			case <-time.After(10 * time.Millisecond):
			}
		}
		answer, err := http.Get("http://" + daemon.Addr() + "/livez")
		if err != nil {
			return err
		}
		fmt.Println(answer.Status)
		return errors.Join(answer.Body.Close(), daemon.Stop())
	}
	cache, daemon, err := embedded.Open(ctx, freshet.Options{Config: exampleFile})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = run(cache, daemon)
	<-daemon.Done()
	fmt.Println(err)
	// Output:
	// 200 OK
	// <nil>
}
