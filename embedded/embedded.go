// Package embedded runs freshet's daemon inside a program that reads through the cache: one process, no Redis. What the
// configuration file says decides where values are kept; without regions it is the program's own memory. With regions it is
// Redis, and nothing but the file has to change for that.
//
// A program that links this package links the daemon, with the SQL parser and its C code. A program that reads a cache which
// another process keeps fresh uses package freshet alone.
//
// One process at a time follows the database's log. Where several instances of a program run a daemon each, the others wait as
// standby: with Redis they read what the first keeps fresh, without it they read from the database.
package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/daemon"
	"github.com/freshet/freshet/internal/memstore"
	"github.com/freshet/freshet/internal/parts"
	"github.com/freshet/freshet/internal/pgload"
)

// Daemon is a daemon that runs in this process.
type Daemon struct {
	cache  *freshet.Cache
	cancel context.CancelFunc
	done   chan struct{}
	err    error // once done is closed

	addr  string // both before Open returns
	ready func() error
}

// Open starts a daemon by the file that the options name, and opens a Cache over its store. It returns as soon as the daemon
// listens on the file's address: until it follows the log, reads go to the database. The database has to be there when the
// file does not set namespace.
//
// The context bounds the opening, and not the daemon, which runs until Stop.
func Open(ctx context.Context, o freshet.Options) (*freshet.Cache, *Daemon, error) {
	path := cmp.Or(o.Config, config.DefaultFile)
	load := func() (*config.Config, error) { return config.Load(path, os.LookupEnv) }
	file, err := load()
	if err != nil {
		return nil, nil, fmt.Errorf("open cache with a daemon: %w", err)
	}
	given := parts.Parts{Config: file}
	var memory *memstore.Store
	if file.InMemory() {
		if given.Namespace, err = namespace(ctx, file, o); err != nil {
			return nil, nil, fmt.Errorf("open cache with a daemon: %w", err)
		}
		memory = memstore.New(memstore.Options{Namespace: given.Namespace, Size: int64(file.Memory.Size)})
		given.Store = memory
	}
	logger := o.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	d := &Daemon{cancel: cancel, done: make(chan struct{})}
	listening := make(chan struct{})
	go func() {
		defer close(d.done)
		d.err = daemon.Run(running, daemon.Options{
			Config: file, Load: load, Logger: logger, Memory: memory,
			Watch: func(ready func() error) { d.ready = ready },
			Ready: func(addr string) { d.addr = addr; close(listening) },
		})
	}()
	select {
	case <-listening:
	case <-ctx.Done():
		return nil, nil, errors.Join(fmt.Errorf("open cache with a daemon: %w", context.Cause(ctx)), d.Stop())
	case <-d.done:
		cancel()
		return nil, nil, fmt.Errorf("open cache with a daemon: %w", d.err)
	}
	if d.cache, err = freshet.Open(parts.With(ctx, given), o); err != nil {
		return nil, nil, errors.Join(err, d.Stop())
	}
	return d.cache, d, nil
}

// namespace is the file's, or derived from the database.
func namespace(ctx context.Context, file *config.Config, o freshet.Options) (string, error) {
	if file.Namespace != "" {
		return file.Namespace, nil
	}
	open := func() (*pgload.Loader, error) { return pgload.Open(ctx, file.Database.URL.Reveal()) }
	if o.Database != nil {
		open = func() (*pgload.Loader, error) { return pgload.New(o.Database), nil }
	}
	loader, err := open()
	if err != nil {
		return "", err
	}
	defer loader.Close()
	system, database, err := loader.System(ctx)
	if err != nil {
		return "", fmt.Errorf("derive the namespace from the database (set namespace in the file to do without it): %w", err)
	}
	return file.NamespaceFor(system, database), nil
}

// Addr is the address that the daemon listens on, for the gateway and the commands.
func (d *Daemon) Addr() string { return d.addr }

// Ready says why the store may not vouch for its freshness now, and nil when it may.
func (d *Daemon) Ready() error { return d.ready() }

// Done is closed when the daemon has ended: by Stop, or by an error that no retry mends, which Stop returns. What was cached in
// this process's memory is gone then, and reads go to the database.
func (d *Daemon) Done() <-chan struct{} { return d.done }

// Stop closes the Cache and ends the daemon: what it has read of the log is applied first. It may be called more than once, and
// returns the error that the daemon ended with.
func (d *Daemon) Stop() error {
	if d.cache != nil {
		d.cache.Close()
	}
	d.cancel()
	<-d.done
	return d.err
}
