package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/api"
	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/pgurl"
	"github.com/freshet/freshet/internal/pipeline"
)

const (
	// planWithin bounds the planning of a file that is to be applied.
	planWithin = 30 * time.Second
	// liveWithin is how long a reload waits until the store has the roster of the new file.
	liveWithin = 10 * time.Second
	liveEvery  = 20 * time.Millisecond
	// undecidedFor is how long a reload waits that nobody will ask for again.
	undecidedFor = 5 * time.Second
)

// Reloaded is what POST /v1/reload answers and `freshet reload --json` prints: the entries by what became of them. Fields are only
// ever added.
type Reloaded struct {
	Added   []string `json:"added"`
	Changed []string `json:"changed"` // of them, a value that means the same stays cached: when only a TTL changed, say
	Removed []string `json:"removed"`
	// Live says that the store has the new declarations. Otherwise the file is in force, and Pending says what they wait for.
	Live    bool   `json:"live"`
	Pending string `json:"pending,omitempty"`
}

// errUndecided is wrapped by the error of a reload that could not find out whether the file holds.
var errUndecided = errors.New("whether the file holds is not known")

// obey reloads whenever something comes. Who sends a signal has no answer and does not come again: what cannot be decided is tried until
// it can.
func (d *daemon) obey(ctx context.Context, signals <-chan os.Signal) {
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
		case <-again:
		}
		again = nil
		switch _, err := d.reloadOnce(ctx); {
		case errors.Is(err, errUndecided):
			again = time.After(undecidedFor)
			d.logger.WarnContext(ctx, "the file is not applied yet, the one before stays in force", slog.Any("err", err))
		case err != nil:
			d.logger.ErrorContext(ctx, "the file is not applied, the one before stays in force", slog.Any("err", err))
		}
	}
}

// Reload implements api.Reloader.
func (d *daemon) Reload(ctx context.Context) (any, error) {
	switch done, err := d.reloadOnce(ctx); {
	case errors.Is(err, errUndecided):
		return nil, fmt.Errorf("%w: %w", api.ErrNotYet, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", api.ErrNotApplied, err)
	default:
		return done, nil
	}
}

// reloadOnce reloads, one after the other, and keeps what it came to for the status. A caller that has gone has called it off.
func (d *daemon) reloadOnce(ctx context.Context) (*Reloaded, error) {
	d.reloads.Lock()
	defer d.reloads.Unlock()
	done, err := d.reload(ctx)
	if err != nil && ctx.Err() == nil {
		d.refused.Store(&FileRefused{At: time.Now().UTC(), Why: err.Error()})
	}
	return done, err
}

// reload reads the file again and applies it, all of it or nothing: a file that does not hold, changes what only a restart can
// change, or has a query that is refused leaves the one before in force.
func (d *daemon) reload(ctx context.Context) (*Reloaded, error) {
	p := d.parts.Load()
	switch {
	case d.load == nil:
		return nil, errors.New("this daemon was not started from a file")
	case p == nil:
		return nil, fmt.Errorf("%w: the daemon is starting, and has not read its database yet: %s", errUndecided, *d.wait.Load())
	}
	next, err := d.load()
	if err != nil {
		return nil, err
	}
	before := d.file.Load()
	if fixed := next.Restarts(before); len(fixed) > 0 {
		return nil, fmt.Errorf("%s: differs from what the daemon was started with; a reload changes defaults and entries: restart the daemon for the rest",
			strings.Join(fixed, ", "))
	}
	done := compare(before, next)
	if len(done.Added)+len(done.Changed)+len(done.Removed) == 0 {
		d.refused.Store(nil)
		done.Live = true
		return done, nil
	}
	if err := d.plannable(ctx, next); err != nil {
		return nil, err
	}
	fresh, err := d.serve(p, next)
	if err != nil {
		return nil, err
	}
	d.obeyFile(next)
	old := p.served.Swap(fresh)
	d.refused.Store(nil)
	p.pipeline.Replan()
	d.logger.InfoContext(ctx, "the file was read again", slog.Any("added", done.Added), slog.Any("changed", done.Changed), slog.Any("removed", done.Removed))
	done.Pending = d.settled(ctx, p, next)
	done.Live = done.Pending == ""
	old.retire()
	return done, nil
}

// plannable has every entry of a file planned as the pipeline would.
func (d *daemon) plannable(ctx context.Context, c *config.Config) error {
	ctx, cancel := context.WithTimeout(ctx, planWithin)
	defer cancel()
	options, err := pgurl.Session(logURL(c), nil)
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, options)
	if err != nil {
		return fmt.Errorf("%w: plan the entries: %w", errUndecided, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // what was asked has been answered
	compiler := &compiler{config: func() *config.Config { return c }, logger: d.logger}
	switch _, err := compiler.compile(ctx, conn, nil, true); {
	case errors.Is(err, pipeline.ErrRefused):
		return fmt.Errorf("plan the entries: %w", err)
	case err != nil:
		return fmt.Errorf("%w: plan the entries: %w", errUndecided, err)
	}
	return nil
}

// settled waits until the pipeline serves every declaration of a file, and says what it waits for when that takes long.
func (d *daemon) settled(ctx context.Context, p *parts, c *config.Config) (pending string) {
	ctx, cancel := context.WithTimeout(ctx, liveWithin)
	defer cancel()
	ticker := time.NewTicker(liveEvery)
	defer ticker.Stop()
	for {
		st := p.pipeline.Status()
		missing := missing(&st, c)
		if len(missing) == 0 {
			return ""
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			pending = "the daemon is " + string(st.Phase)
			if st.Problem != "" {
				pending += " (" + st.Problem + ")"
			}
			return pending + "; not live yet: " + strings.Join(missing, ", ")
		}
	}
}

// missing are the entries whose declaration is not served yet, or is still, by the pipeline's own account.
func missing(st *pipeline.Status, c *config.Config) (names []string) {
	served := map[string]string{}
	for _, e := range st.Entries {
		if e.Retained == nil {
			served[e.Name] = e.Definition
		}
	}
	for _, declared := range c.Declared() {
		if served[declared.Name] != declared.Digest() {
			names = append(names, declared.Name)
		}
		delete(served, declared.Name)
	}
	for name := range served {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// compare says what became of the entries.
func compare(before, next *config.Config) *Reloaded {
	r := &Reloaded{Added: []string{}, Changed: []string{}, Removed: []string{}}
	for _, name := range next.Names() {
		old, ok := before.Entries[name]
		switch {
		case !ok:
			r.Added = append(r.Added, name)
		case !reflect.DeepEqual(old, next.Entries[name]):
			r.Changed = append(r.Changed, name)
		}
	}
	for _, name := range before.Names() {
		if _, ok := next.Entries[name]; !ok {
			r.Removed = append(r.Removed, name)
		}
	}
	return r
}

// served is the read path of the gateway under one file. When another is in force, whoever reads through it has his answer first.
type served struct {
	reader  *fill.Reader
	mu      sync.Mutex
	reading int
	retired bool
	idle    chan struct{} // closed when nobody reads any more
}

// serve makes the read path for a file.
func (d *daemon) serve(p *parts, c *config.Config) (*served, error) {
	reader, err := fill.New(fill.Options{
		Namespace: p.namespace, Store: p.store.Store, Loader: p.loader, Entries: fill.Entries(c), Logger: d.logger,
		Replicas: asReplicas(p.replicas),
	})
	if err != nil {
		return nil, err
	}
	return &served{reader: reader, idle: make(chan struct{})}, nil
}

// enter reports false when there is another one by now.
func (s *served) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.retired {
		return false
	}
	s.reading++
	return true
}

func (s *served) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reading--
	s.ended()
}

// retire waits for those who read, none of whom takes longer than his load timeout, and closes the reader.
func (s *served) retire() {
	s.mu.Lock()
	s.retired = true
	s.ended()
	s.mu.Unlock()
	<-s.idle
	s.reader.Close()
}

func (s *served) ended() {
	if s.retired && s.reading == 0 {
		close(s.idle)
	}
}
