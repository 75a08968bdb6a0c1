// Package operations holds docs/operations.md against real servers: the privileges that it grants are enough, and no
// more than it says, and the metrics that it names are there.
package operations

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/internal/testkit/servetest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const patience = 30 * time.Second

type product struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
}

// block is the only fenced block of a kind in the document.
func block(t *testing.T, doc, kind string) []string {
	t.Helper()
	found := regexp.MustCompile("(?ms)^```"+kind+"\n(.*?)^```$").FindAllStringSubmatch(doc, -1)
	if len(found) != 1 {
		t.Fatalf("docs/operations.md has %d blocks of %s, want 1", len(found), kind)
	}
	return strings.Split(strings.TrimSpace(found[0][1]), "\n")
}

func document(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// statements are those of lines, without comments.
func statements(lines []string) []string {
	var kept []string
	for _, line := range lines {
		if !strings.HasPrefix(line, "--") {
			kept = append(kept, line)
		}
	}
	var all []string
	for statement := range strings.SplitSeq(strings.Join(kept, "\n"), ";") {
		if statement = strings.TrimSpace(statement); statement != "" {
			all = append(all, statement)
		}
	}
	return all
}

// as is an address of another user.
func as(t *testing.T, address, user, password string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(user)
	if password != "" {
		u.User = url.UserPassword(user, password)
	}
	return u.String()
}

func TestLeastPrivileges(t *testing.T) {
	t.Parallel()
	doc := document(t)
	pg := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"max_slot_wal_keep_size": "1GB"}})
	redis := redistest.Start(t)
	super := pg.URL("shop")
	pg.Exec(t, pg.URL("postgres"), `CREATE DATABASE shop`)
	pg.Exec(
		t, super, `REVOKE ALL ON DATABASE shop FROM PUBLIC`, `REVOKE ALL ON SCHEMA public FROM PUBLIC`,
		`CREATE TABLE public.products (id int8 PRIMARY KEY, name text NOT NULL)`, `INSERT INTO public.products VALUES (42, 'kettle')`,
	)
	pg.Exec(t, super, statements(block(t, doc, "sql"))...)
	acl(t, redis, block(t, doc, "acl"))

	config := func(name, query, database, source, user, password string) string {
		file := filepath.Join(t.TempDir(), name)
		text := fmt.Sprintf("namespace: shop\ndatabase: {url: %q}\nsource: {postgres: {url: %q}}\nregions: [{name: local, redis: {url: %q}}]\n"+
			"listen: 127.0.0.1:0\nentries:\n  product: {key: \"product:{id}\", query: \"%s\", max_staleness: 10s}\n",
			as(t, super, database, ""), as(t, super, source, ""), as(t, strings.TrimSuffix(redis.URL, "/0"), user, password), query)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	const query = "SELECT id, name FROM products WHERE id = @id"
	daemon := config("freshet.yaml", query, "freshet_gateway", "freshet_daemon", "freshet", "daemon-secret")
	later := config("later.yaml", "SELECT name, id FROM products WHERE id = @id", "freshet_gateway", "freshet_daemon", "freshet", "daemon-secret")
	app := config("app.yaml", query, "shop_app", "shop_app", "shop_app", "app-secret")

	freshetRuns(t, daemon, "check")
	d := servetest.Start(t, "daemon", daemon)
	served(t, d, "hit", `{"id":42,"name":"kettle"}`)
	pg.Exec(t, super, `UPDATE public.products SET name = 'pot' WHERE id = 42`)
	served(t, d, "hit", `{"id":42,"name":"pot"}`)

	cache, err := freshet.Open(t.Context(), freshet.Options{Config: app})
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	products, err := freshet.Entry[int64, product](cache, "product")
	if err != nil {
		t.Fatal(err)
	}
	read := func(id int64, want string) {
		testkit.Eventually(t, patience, func() error {
			p, err := products.Get(t.Context(), id)
			if err == nil && p.Name != want {
				return fmt.Errorf("the library reads %+v, want %s; %+v", p, want, cache.Stats())
			}
			return err
		})
	}
	read(42, "pot")
	pg.Exec(t, super, `INSERT INTO public.products VALUES (43, 'cup')`)
	testkit.Eventually(t, patience, func() error { // a fill loses its lease while the INSERT is being applied
		read(43, "cup")
		if s := cache.Stats(); s.Hits < 2 || s.Fills < 1 {
			return fmt.Errorf("the library's reads: %+v, want hits and a fill", s)
		}
		return nil
	})
	pg.Exec(t, super, `UPDATE public.products SET name = 'mug' WHERE id = 43`)
	read(43, "mug")
	testkit.Eventually(t, patience, func() error { // the count may be written, or nothing could be proved
		before := cache.Stats().Hits
		if _, err := products.Get(t.Context(), 43, freshet.MaxStale(5*time.Second)); err != nil || cache.Stats().Hits == before {
			return fmt.Errorf("a bounded read is no hit: %w, %+v", err, cache.Stats())
		}
		return nil
	})
	traced(t, d, "/v1/trace/product/43")
	commits(t, app, as(t, super, "shop_app", ""))
	freshetRuns(t, daemon, "verify")
	freshetRuns(t, config("verify.yaml", query, "freshet_gateway", "freshet_gateway", "shop_verify", "verify-secret"), "verify")
	named(t, d, doc)
	refusedNothing(t, redis)
	denied(t, super, redis)

	// A daemon with another file: the library registers what it uses, and goes on.
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	d = servetest.Start(t, "later", later)
	testkit.Eventually(t, patience, func() error {
		read(43, "mug")
		_, _, body, err := d.Get(t.Context(), "/v1/status")
		if err == nil && !strings.Contains(string(body), `"used_by":"`) {
			err = fmt.Errorf("the daemon does not see the library: %s", body)
		}
		return err
	})
	hits := cache.Stats().Hits
	read(43, "mug")
	read(43, "mug")
	if s := cache.Stats(); s.Hits == hits {
		t.Errorf("the library does not hit any more: %+v", s)
	}
	refusedNothing(t, redis)

	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	freshetRuns(t, daemon, "status")
	freshetRuns(t, daemon, "drop", "--yes", "--keep-publication")
	refusedNothing(t, redis)
}

// TestLookUpsNeedSelect: the role that follows the log asks for keys, where the file says so. check says what it lacks.
func TestLookUpsNeedSelect(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"max_slot_wal_keep_size": "1GB"}})
	redis := redistest.Start(t)
	super := pg.URL("shop")
	pg.Exec(t, pg.URL("postgres"), `CREATE DATABASE shop`)
	pg.Exec(t, super, `CREATE TABLE public.products (id int8 PRIMARY KEY, name text NOT NULL)`,
		`CREATE TABLE public.offers (id int8 PRIMARY KEY, product int8 NOT NULL)`)
	pg.Exec(t, super, statements(block(t, document(t), "sql"))...)
	pg.Exec(t, super, `ALTER PUBLICATION freshet ADD TABLE public.offers`, `GRANT SELECT ON public.offers TO freshet_gateway`)
	file := filepath.Join(t.TempDir(), "freshet.yaml")
	text := fmt.Sprintf("namespace: shop\ndatabase: {url: %q}\nsource: {postgres: {url: %q}}\nregions: [{name: local, redis: {url: %q}}]\n"+
		"entries:\n  offer:\n    key: offer:{id}\n    query: SELECT o.id, p.name FROM offers o JOIN products p ON p.id = o.product WHERE o.id = @id\n"+
		"    rules: {products: lookup}\n", as(t, super, "freshet_gateway", ""), as(t, super, "freshet_daemon", ""), redis.URL)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), servetest.Binary(t), "check", "--config", file).CombinedOutput()
	if want := `role "freshet_daemon" may not read table "public.products"`; err == nil || !strings.Contains(string(out), want) {
		t.Errorf("check: %v\n%s\nwant %s", err, out, want)
	}
	pg.Exec(t, super, `GRANT SELECT ON public.products, public.offers TO freshet_daemon`)
	freshetRuns(t, file, "check")
}

// commits has the application write through, with everything that there is to it. It may read the table only; what it
// writes is the intent.
func commits(t *testing.T, config, database string) {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	cache, err := freshet.Open(t.Context(), freshet.Options{Config: config, Database: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	products, err := freshet.Entry[int64, product](cache, "product")
	if err != nil {
		t.Fatal(err)
	}
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var text string
	if err := tx.QueryRow(t.Context(), freshet.TokenSQL).Scan(&text); err != nil {
		t.Error(err)
	}
	token, err := cache.Commit(t.Context(), tx, products.Key(42, freshet.Strict(), freshet.Refresh()))
	if err != nil || token.After == 0 || !strings.HasPrefix(token.String(), text+".") || cache.Stats().Refreshed != 1 {
		t.Errorf("Commit() = %v, %v, and in SQL %s; %+v", token, err, text, cache.Stats())
	}
	if _, err := products.Get(t.Context(), 42, freshet.Revalidate()); err != nil || cache.Stats().Renewals != 1 {
		t.Errorf("a conditional read: %v, %+v", err, cache.Stats())
	}
}

func freshetRuns(t *testing.T, config string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), servetest.Binary(t), append(args, "--config", config)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("freshet %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// traced waits until the history of a key has a load and an invalidation, and lacks nothing.
func traced(t *testing.T, d *servetest.Daemon, path string) {
	t.Helper()
	testkit.Eventually(t, patience, func() error {
		code, _, body, err := d.Get(t.Context(), path)
		if text := string(body); err != nil || code != http.StatusOK || !strings.Contains(text, `"problems":[]`) || !strings.Contains(text, `"kind":"stored"`) ||
			!strings.Contains(text, `"kind":"invalidated"`) {
			return fmt.Errorf("%d %s, %w", code, body, err)
		}
		return nil
	})
}

// served waits until the gateway serves a body with a status.
func served(t *testing.T, d *servetest.Daemon, status, want string) {
	t.Helper()
	testkit.Eventually(t, patience, func() error {
		code, header, body, err := d.Get(t.Context(), "/v1/entries/product/42")
		if err != nil {
			return err
		}
		if code != http.StatusOK || header.Get("Freshet-Status") != status || string(body) != want {
			return fmt.Errorf("the gateway: %d %s %s\n%s", code, header.Get("Freshet-Status"), body, d.Log())
		}
		return nil
	})
}

// named holds the metrics of the document against those that there are.
func named(t *testing.T, d *servetest.Daemon, doc string) {
	t.Helper()
	_, alerts, found := strings.Cut(doc, "## Alerts worth having\n")
	alerts, _, _ = strings.Cut(alerts, "\n## ")
	names := regexp.MustCompile(`\bfreshet_[a-z_]+`).FindAllString(alerts, -1)
	if !found || len(names) < 10 {
		t.Fatalf("the document names the metrics %v", names)
	}
	testkit.Eventually(t, patience, func() error { // some are there once the slot was looked at
		_, _, body, err := d.Get(t.Context(), "/metrics")
		if err != nil {
			return err
		}
		for _, name := range names {
			if !strings.Contains(string(body), "# TYPE "+name+" ") {
				return fmt.Errorf("there is no metric %s", name)
			}
		}
		return nil
	})
}

// denied tries what the parties are not to do.
func denied(t *testing.T, super string, redis *redistest.Server) {
	t.Helper()
	for role, statement := range map[string]string{
		"freshet_daemon":  `SELECT * FROM public.products`,
		"freshet_gateway": `DELETE FROM public.products`,
		"shop_app":        `CREATE TEMPORARY TABLE t ()`,
	} {
		conn, err := pgx.Connect(t.Context(), as(t, super, role, ""))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), statement); err == nil || !strings.Contains(err.Error(), "42501") {
			t.Errorf("%s as %s: %v, want that it is denied", statement, role, err)
		}
		_ = conn.Close(t.Context())
	}
	app := dial(t, redis, "shop_app", "app-secret")
	for _, command := range []string{
		"HSET f:shop:head gen x", "SET f:shop:roster x", "DEL f:shop:head", "GET f:other:head", "SET f:other:use:x x", "GET x", "FLUSHALL", "SCAN 0", "CONFIG GET save",
	} {
		if err := app.Do(t.Context(), app.B().Arbitrary(strings.Fields(command)...).Build()).Error(); err == nil || !strings.Contains(err.Error(), "NOPERM") {
			t.Errorf("%s as an application: %v, want that it is denied", command, err)
		}
	}
	root := dial(t, redis, "", "")
	if err := root.Do(t.Context(), root.B().Arbitrary("ACL", "LOG", "RESET").Build()).Error(); err != nil {
		t.Fatal(err)
	}
}

func dial(t *testing.T, redis *redistest.Server, user, password string) rueidis.Client {
	t.Helper()
	client, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{redis.Addr}, DisableCache: true, ForceSingleClient: true, Username: user, Password: password,
		ClientSetInfo: rueidis.DisableClientSetInfo,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func acl(t *testing.T, redis *redistest.Server, lines []string) {
	t.Helper()
	root := dial(t, redis, "", "")
	for _, line := range lines {
		if err := root.Do(context.Background(), root.B().Arbitrary(strings.Fields(line)...).Build()).Error(); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
}

// refusedNothing holds that Redis has refused no command and no key.
func refusedNothing(t *testing.T, redis *redistest.Server) {
	t.Helper()
	root := dial(t, redis, "", "")
	entries, err := root.Do(t.Context(), root.B().Arbitrary("ACL", "LOG").Build()).ToArray()
	if err != nil {
		t.Fatal(err)
	}
	for i := range entries {
		if entry, err := entries[i].AsStrMap(); err == nil && entry["object"] == "config|get" {
			continue // check asks, and does without
		}
		t.Errorf("Redis refused: %s", entries[i].String())
	}
}
