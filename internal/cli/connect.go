package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/pgcatalog"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/pgurl"
	"github.com/freshet/freshet/internal/plan"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
)

// patience is how long a command waits for a server to answer.
const patience = 10 * time.Second

// connect opens one connection for loading. The caller closes it with closeConn.
func connect(ctx context.Context, c *config.Config) (*pgx.Conn, error) {
	return dial(ctx, "the database", "database.url", c.Database.URL)
}

// connectSource opens one connection to the database whose log is read, as the daemon does. The caller closes it with
// closeConn.
func connectSource(ctx context.Context, c *config.Config) (*pgx.Conn, error) {
	session := func(url string) (*pgx.ConnConfig, error) { return pgurl.Session(url, nil) }
	if url := c.Source.Postgres.URL; url != c.Database.URL {
		return open(ctx, "the database whose log is read", "source.postgres.url", url, session)
	}
	return open(ctx, "the database", "database.url", c.Database.URL, session)
}

// dial opens a connection that may lead through a pooler, and is left as it is.
func dial(ctx context.Context, what, key string, url config.URL) (*pgx.Conn, error) {
	return open(ctx, what, key, url, pgurl.Parse)
}

func open(ctx context.Context, what, key string, url config.URL, parse func(string) (*pgx.ConnConfig, error)) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	options, err := parse(url.Reveal())
	if err != nil {
		return nil, &exitError{code: exitFailure, err: &dialError{fmt.Errorf("connect to %s: %w", what, err)}, try: "correct " + key}
	}
	options.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe // there may be a pooler between
	conn, err := pgx.ConnectConfig(ctx, options)
	if err != nil {
		return nil, &exitError{code: exitFailure, err: &dialError{fmt.Errorf("connect to %s: %w", what, err)}, try: reachIt(key)}
	}
	return conn, nil
}

// reachIt is what to do about a database that cannot be connected to.
func reachIt(key string) string { return "start PostgreSQL, or correct " + key }

// dialError is an error of connecting that says each of its lines once: the driver tries every address with and
// without TLS, and repeats itself.
type dialError struct{ err error }

func (e *dialError) Error() string {
	var lines []string
	for line := range strings.Lines(e.err.Error()) {
		if line = strings.TrimSpace(line); !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n  ")
}

func (e *dialError) Unwrap() error { return e.err }

// unconnected makes an error of connecting, however deep, one that says it once and what to do.
func unconnected(err error) error {
	if _, ok := errors.AsType[*pgconn.ConnectError](err); !ok {
		return err
	}
	return &exitError{code: exitFailure, err: &dialError{err}, try: reachIt("database.url")}
}

func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // what was asked has been answered
}

// servers are what an entry's readers read: the database, and the store of the namespace that belongs to it.
type servers struct {
	namespace string
	loader    *pgload.Loader
	store     *redisstore.Store
}

// openServers opens both. The caller closes them.
func openServers(ctx context.Context, c *config.Config, logger *slog.Logger) (s *servers, err error) {
	s = &servers{}
	if s.loader, err = pgload.Open(ctx, c.Database.URL.Reveal()); err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	if s.namespace, err = namespaceOf(ctx, c, s.loader); err == nil {
		s.store, err = openStore(ctx, c, s.namespace, logger)
	}
	if err != nil {
		s.loader.Close()
		return nil, err
	}
	return s, nil
}

// reader reads as a process of the library does. The caller closes it.
func (s *servers) reader(c *config.Config, logger *slog.Logger) (*fill.Reader, error) {
	return fill.New(fill.Options{Namespace: s.namespace, Store: s.store, Loader: s.loader, Entries: fill.Entries(c), Logger: logger})
}

func (s *servers) close() {
	s.store.Close()
	s.loader.Close()
}

// namespaceOf is the configured namespace, or the one that the database gives.
func namespaceOf(ctx context.Context, c *config.Config, loader *pgload.Loader) (string, error) {
	if c.Namespace != "" {
		return c.Namespace, nil
	}
	system, database, err := loader.System(ctx)
	if err != nil {
		return "", fmt.Errorf("ask the database for its identity, which names the keys: %w", err)
	}
	return c.NamespaceFor(system, database), nil
}

func openStore(ctx context.Context, c *config.Config, namespace string, logger *slog.Logger) (*redisstore.Store, error) {
	store, err := redisstore.Open(ctx, storeOptions(c, namespace, logger))
	if err != nil {
		return nil, fmt.Errorf("region %s: %w", c.Regions[0].Name, err)
	}
	return store, nil
}

func storeOptions(c *config.Config, namespace string, logger *slog.Logger) redisstore.Options {
	region := c.Regions[0]
	return redisstore.Options{
		URL: region.Redis.URL.Reveal(), SentinelUsername: region.Redis.Sentinel.Username,
		SentinelPassword: region.Redis.Sentinel.Password.Reveal(), Namespace: namespace, Logger: logger,
	}
}

// planned is one entry of the file as the database has it.
type planned struct {
	name     string
	catalog  *schema.Catalog
	declared rule.Declared
	compiled *plan.Compiled
	err      error
}

// planEntries plans entries against the database; each has its own verdict.
func planEntries(ctx context.Context, conn *pgx.Conn, c *config.Config, only string) ([]planned, error) {
	catalog, err := pgcatalog.Read(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("read the catalog: %w", err)
	}
	var all []planned
	for _, declared := range c.Declared() {
		if only != "" && declared.Name != only {
			continue
		}
		p := planned{name: declared.Name, catalog: catalog, declared: declared}
		p.compiled, p.err = plan.Compile(catalog, declared, plan.Served()...)
		if p.err == nil {
			p.err = pgcatalog.Verify(ctx, conn, p.compiled.Entry, p.compiled.Ignored...)
		}
		if p.err != nil && conn.IsClosed() {
			return nil, p.err
		}
		p.err = atQuery(c, p.name, p.err)
		all = append(all, p)
	}
	return all, nil
}

// noSuchEntry refuses a name that the file does not declare.
func noSuchEntry(c *config.Config, name string) error {
	if _, ok := c.Entries[name]; ok {
		return nil
	}
	return &exitError{
		code: exitUsage, err: fmt.Errorf("the configuration declares no entry %q", name),
		try: "one of: " + join(c.Names()),
	}
}
