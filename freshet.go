package freshet

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/near"
	"github.com/freshet/freshet/internal/parts"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/redisstore"
)

// Options say how to open a Cache. The zero Options read ./freshet.yaml and use the database that it names.
type Options struct {
	// Config is the path of the configuration file. Default: freshet.yaml in the current directory.
	Config string
	// Database is the application's own pool, to load with. It is not closed with the Cache. Default: a pool of the
	// Cache's own, to the database that the file names.
	Database *pgxpool.Pool
	// Replicas are the application's own pools of hot standbys of that database, used for a load whose row can be proved
	// recent enough. They are not closed with the Cache. Default: pools of the Cache's own to database.replicas of the
	// file, or none where Database is given. What code loads (freshet.Load) may run there too, and once more on the primary.
	Replicas []*pgxpool.Pool
	// Logger gets what an operator should know: that the store went away, why values are not stored. Default: none.
	Logger *slog.Logger
	// Observers hear of reads and loads: metrics and traces. Default: none, which costs nothing.
	Observers []Observer
	// MaxLoads is how many loads run at a time. Default: 32, or as many as Database and Replicas have connections for (pool_max_conns), if that
	// is less.
	MaxLoads int
	// Region is the name of the region whose store is used. Default: the first one of the file.
	Region string
}

// Cache reads the entries of one configuration file. Its methods may be called from any number of goroutines.
type Cache struct {
	config   *config.Config
	reader   *fill.Reader
	store    *redisstore.Store // nil: it is another's
	loader   parts.Loader
	replicas []*pgload.Replica
	logger   *slog.Logger

	observers observers
	held      *near.Store // what is held in memory; nil: nothing is
	recalled  sync.Map    // from a recalledKey to a *recalled, one for all who prepare the same entry in the same way
	closed    atomic.Bool
}

// Open opens a cache. Neither the daemon nor Redis needs to be there; and the database only when the file does not set
// namespace, which is derived from the database then. Close ends it.
func Open(ctx context.Context, o Options) (*Cache, error) {
	given := parts.From(ctx)
	file, err := o.file(given)
	if err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	if o.MaxLoads < 0 {
		return nil, fmt.Errorf("open cache: Options.MaxLoads is %d: leave it out for the default, or say how many loads may run at a time", o.MaxLoads)
	}
	c := &Cache{config: file, logger: o.Logger, observers: o.Observers}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case given.Loader != nil:
		c.loader = given.Loader
	case o.Database != nil:
		c.loader = pgload.New(o.Database)
	default:
		loader, err := pgload.Open(ctx, file.Database.URL.Reveal())
		if err != nil {
			return nil, fmt.Errorf("open cache: %w", err)
		}
		c.loader = loader
	}
	if err := c.open(ctx, o, given); err != nil {
		c.Close()
		return nil, fmt.Errorf("open cache: %w", err)
	}
	return c, nil
}

// file is the one that was given, or reads the one that is named.
func (o *Options) file(given parts.Parts) (*config.Config, error) {
	if given.Config != nil {
		return given.Config, nil
	}
	path := cmp.Or(o.Config, "freshet.yaml")
	read := config.Load
	if o.Database != nil {
		read = config.LoadForLibrary
	}
	file, err := read(path, os.LookupEnv)
	if err == nil && given.Store == nil {
		_, err = choose(file, o.Region)
	}
	return file, err
}

func choose(file *config.Config, name string) (*config.Region, error) {
	if file.InMemory() {
		return nil, file.ErrorAt("regions", "the file has no regions, so what is cached is in the memory of the daemon, which no other process reads",
			"run the daemon in this process (embedded.Open of github.com/freshet/freshet/embedded), read over HTTP, or name a Redis under regions")
	}
	for i := range file.Regions {
		if name == "" || file.Regions[i].Name == name {
			return &file.Regions[i], nil
		}
	}
	return nil, file.ErrorAt("regions", fmt.Sprintf("there is no region %q", name), "name one of regions in Options.Region, or none")
}

func (c *Cache) open(ctx context.Context, o Options, given parts.Parts) error {
	namespace := cmp.Or(given.Namespace, c.config.Namespace)
	if namespace == "" {
		system, database, err := c.loader.System(ctx)
		if err != nil {
			return fmt.Errorf("derive the namespace from the database (set namespace in the file to do without it): %w", err)
		}
		namespace = c.config.NamespaceFor(system, database)
	}
	if err := c.openReplicas(ctx, o); err != nil {
		return err
	}
	replicas := make([]fill.Replica, len(c.replicas))
	for i, r := range c.replicas {
		replicas[i] = r
	}
	reading := fill.Options{
		Namespace: namespace, Store: given.Store, Loader: c.loader, Entries: fill.Entries(c.config), Logger: o.Logger, MaxLoads: o.MaxLoads,
		Replicas: replicas,
	}
	if reading.Store == nil { // one that is given is in this process's memory: nothing is held twice
		if size := c.config.L1.Size.Bytes(); size > 0 {
			c.held = near.New(size)
			reading.Near = c.held
		}
		var err error
		if c.store, err = openRegion(ctx, c.config, o, namespace, reading.Near); err != nil {
			return err
		}
		reading.Store = c.store
	}
	if len(c.observers) > 0 {
		reading.Observer = c.observers
	}
	var err error
	c.reader, err = fill.New(reading)
	return err
}

func openRegion(ctx context.Context, file *config.Config, o Options, namespace string, held *near.Store) (*redisstore.Store, error) {
	region, err := choose(file, o.Region)
	if err != nil {
		return nil, err
	}
	options := redisstore.Options{
		URL: region.Redis.URL.Reveal(), SentinelUsername: region.Redis.Sentinel.Username,
		SentinelPassword: region.Redis.Sentinel.Password.Reveal(), Namespace: namespace, Logger: o.Logger,
	}
	if held != nil {
		options.Near = held
	}
	return redisstore.Open(ctx, options)
}

func (c *Cache) openReplicas(ctx context.Context, o Options) error {
	for _, pool := range o.Replicas {
		c.replicas = append(c.replicas, pgload.NewReplica(pool))
	}
	if len(o.Replicas) > 0 || o.Database != nil {
		return nil
	}
	for i, url := range c.config.Database.Replicas {
		replica, err := pgload.OpenReplica(ctx, url.Reveal())
		if err != nil {
			return fmt.Errorf("database.replicas.%d: %w", i, err)
		}
		c.replicas = append(c.replicas, replica)
	}
	return nil
}

// Close ends loads that are under way and closes what Open opened.
func (c *Cache) Close() {
	c.closed.Store(true)
	if c.reader != nil {
		c.reader.Close()
	}
	if c.store != nil {
		c.store.Close()
	}
	if c.held != nil {
		c.held.Close()
	}
	for _, r := range c.replicas {
		r.Close()
	}
	c.loader.Close()
}
