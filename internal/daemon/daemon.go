// Package daemon puts the parts together: it builds every concrete type, owns every long-lived goroutine and stops
// them in order.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/freshet/freshet/internal/api"
	"github.com/freshet/freshet/internal/apply"
	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/memstore"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/pipeline"
)

// Options configure Run.
type Options struct {
	Config *config.Config
	// Load reads the file again, for Reload and for POST /v1/reload. Without it the daemon keeps Config.
	Load func() (*config.Config, error)
	// Reload has the file read again whenever something comes. Optional.
	Reload <-chan os.Signal
	Logger *slog.Logger
	// Ready is called with the address as soon as the daemon listens on it. Optional.
	Ready func(addr string)
	// Watch is called, before Ready, with what says whether the store may vouch for its freshness. Optional.
	Watch func(ready func() error)
	// Unused is how long a version of an entry that only other files declare is retained at least. Default: pipeline's.
	Unused time.Duration
	// Memory is the store to keep where the file has no regions, for who reads it in the same process. nil: one of the daemon's own.
	Memory *memstore.Store
}

// How long a graceful stop waits for requests that are being answered.
const shutdown = 5 * time.Second

// daemon is everything that Run builds.
type daemon struct {
	file     atomic.Pointer[config.Config] // the one in force
	within   atomic.Int64                  // nanoseconds that an answer may take by that file
	load     func() (*config.Config, error)
	reloads  sync.Mutex                  // one at a time
	refused  atomic.Pointer[FileRefused] // what became of the last one; nil: it was applied, or there was none
	logger   *slog.Logger
	unused   time.Duration
	memory   *memstore.Store // given by who reads it too; nil: none
	registry *prometheus.Registry
	metrics  *metrics
	started  time.Time

	refresher *refresher
	// What needs the namespace, and with it perhaps the database, comes later than the listener does.
	parts atomic.Pointer[parts]
	// wait says what the daemon needs before it has parts.
	wait atomic.Pointer[string]
}

// parts are what exists once the namespace is known.
type parts struct {
	namespace string
	store     *opened
	loader    *pgload.Loader
	writer    *pgload.Loader // of the database whose log is followed; the loader where that is the same
	replicas  []*pgload.Replica
	served    atomic.Pointer[served]
	pipeline  *pipeline.Pipeline
}

// Run runs the daemon until ctx ends, and returns nil then: requests answered, everything read from the log applied,
// the slot's confirmation sent. An error means that it could not start, or cannot go on.
func Run(ctx context.Context, o Options) error {
	d := &daemon{load: o.Load, logger: o.Logger, unused: o.Unused, memory: o.Memory, registry: prometheus.NewRegistry(), started: time.Now()}
	d.obeyFile(o.Config)
	d.refresher = newRefresher(d)
	d.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	d.metrics = newMetrics(d.registry, d)
	d.waiting("starting")
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp", o.Config.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", o.Config.Listen, err)
	}
	certificate, err := certificates(o.Config.TLS)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	server := &http.Server{
		TLSConfig: certificate,
		Handler: d.bounded(api.New(api.Options{
			Reader: &gateway{d}, Status: d, Health: d, Reload: d, Memory: d, Trace: &gateway{d}, Invalidate: d, Metrics: api.NewMetrics(d.registry), Logger: o.Logger,
			Scrape: promhttp.HandlerFor(d.registry, promhttp.HandlerOpts{}), Token: o.Config.Auth.Token.Reveal(),
		})),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelWarn),
	}
	o.Logger.InfoContext(ctx, "listening", slog.String("addr", listener.Addr().String()))
	if o.Watch != nil {
		o.Watch(d.Ready)
	}
	if o.Ready != nil {
		o.Ready(listener.Addr().String())
	}
	group, working := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := serve(server, listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		<-working.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(working), shutdown)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			return errors.Join(server.Close(), fmt.Errorf("stop serving: %w", err))
		}
		return nil
	})
	group.Go(func() error { return d.follow(working) })
	group.Go(func() error { return d.refresher.run(working) })
	group.Go(func() error { d.obey(working, o.Reload); return nil })
	err = group.Wait()
	// Last, since the gateway's readers and the pipeline's last writes need them.
	if p := d.parts.Load(); p != nil {
		p.served.Load().reader.Close()
		closeLoaders(p.loader, p.replicas)
		p.closeWriter()
		p.store.close()
	}
	o.Logger.InfoContext(ctx, "stopped")
	return err
}

// obeyFile puts a file in force.
func (d *daemon) obeyFile(c *config.Config) {
	d.file.Store(c)
	d.within.Store(int64(answerWithin(c)))
}

// bounded gives each answer the time that the file in force allows.
func (d *daemon) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Duration(d.within.Load()))) // the server's own connections have deadlines
		next.ServeHTTP(w, r)
	})
}

// answerWithin bounds the time from a request to the end of its answer: a load may take as long as its entry says, and some of
// that once more where Redis hangs; who reads the answer has a minute.
func answerWithin(c *config.Config) time.Duration {
	longest := time.Duration(0)
	for _, e := range fill.Entries(c) {
		longest = max(longest, e.LoadTimeout)
	}
	return 2*longest + time.Minute
}

// follow opens what readers and the pipeline share, and runs the pipeline.
func (d *daemon) follow(ctx context.Context) error {
	c := d.file.Load()
	loader, err := pgload.Open(ctx, c.Database.URL.Reveal())
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	replicas, err := openReplicas(ctx, c.Database.Replicas)
	if err != nil {
		loader.Close()
		return err
	}
	namespace, err := d.namespace(ctx, loader)
	if err != nil {
		closeLoaders(loader, replicas)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // stopped before it began
		}
		return err
	}
	store, err := d.open(ctx, c, namespace)
	if err != nil {
		closeLoaders(loader, replicas)
		return err
	}
	made := &parts{namespace: namespace, store: store, loader: loader, replicas: replicas}
	first, err := d.serve(made, c)
	if err == nil {
		err = made.openWriter(ctx, c)
	}
	if err != nil {
		if first != nil {
			first.reader.Close()
		}
		closeLoaders(loader, replicas)
		store.close()
		return err
	}
	made.served.Store(first)
	source := c.Source.Postgres
	compiler := &compiler{config: d.file.Load, logger: d.logger}
	made.pipeline = pipeline.New(pipeline.Options{
		URL: logURL(c), Slot: source.Slot, Publication: source.Publication, Namespace: namespace, Store: store.pipeline,
		Compile: compiler.compile, Rewind: apply.Rewind{Time: source.Rewind.Time, WAL: int64(source.Rewind.WAL)},
		Observe: d.metrics.applied, Logger: d.logger, Unused: d.unused, Refresher: d.refresher,
	})
	d.parts.Store(made)
	return made.pipeline.Run(ctx)
}

// logURL leads to the database whose log is followed.
func logURL(c *config.Config) string {
	if url := c.Source.Postgres.URL; url != "" {
		return url.Reveal()
	}
	return c.Database.URL.Reveal()
}

func openReplicas(ctx context.Context, urls []config.URL) ([]*pgload.Replica, error) {
	var all []*pgload.Replica
	for i, url := range urls {
		replica, err := pgload.OpenReplica(ctx, url.Reveal())
		if err != nil {
			closeLoaders(nil, all)
			return nil, fmt.Errorf("replica %d: %w", i+1, err)
		}
		all = append(all, replica)
	}
	return all, nil
}

func closeLoaders(loader *pgload.Loader, replicas []*pgload.Replica) {
	for _, r := range replicas {
		r.Close()
	}
	if loader != nil {
		loader.Close()
	}
}

func asReplicas(replicas []*pgload.Replica) []fill.Replica {
	all := make([]fill.Replica, len(replicas))
	for i, r := range replicas {
		all[i] = r
	}
	return all
}

// namespace is the configured one, or derived from the database, for which the database has to be there.
func (d *daemon) namespace(ctx context.Context, loader *pgload.Loader) (string, error) {
	file := d.file.Load()
	if file.Namespace != "" {
		return file.Namespace, nil
	}
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		system, database, err := loader.System(ctx)
		if err == nil {
			return file.NamespaceFor(system, database), nil
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		d.waiting(err.Error())
		d.logger.WarnContext(ctx, "the database is needed once, to name the keys; trying again",
			slog.Any("err", err), slog.Duration("retry_in", wait))
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return "", context.Cause(ctx)
		}
	}
}

func (d *daemon) waiting(why string) { d.wait.Store(&why) }
