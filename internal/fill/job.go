package fill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/sqlparam"
	"github.com/freshet/freshet/internal/store"
)

// begin runs do in a goroutine of its own, under a context that outlives the caller's but neither the entry's load
// timeout nor the Reader: others may wait for what one caller began.
func (r *Reader) begin(ctx context.Context, timeout time.Duration, do func(context.Context)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return ErrClosed
	}
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	r.cancels[&cancel] = struct{}{}
	r.running.Go(func() {
		defer func() {
			cancel()
			r.mu.Lock()
			delete(r.cancels, &cancel)
			r.mu.Unlock()
		}()
		do(own)
	})
	return nil
}

// load asks the database, as one of a limited number. A load under a lease has its answer, and may come from a standby.
func (r *Reader) load(ctx context.Context, w *want, reply *store.LeaseReply) (pgload.Loaded, error) {
	leave, err := r.enter(ctx, w.e)
	if err != nil {
		return pgload.Loaded{}, err
	}
	defer leave()
	if reply != nil && len(r.standbys) > 0 && (w.e.coversNone() || !w.e.nests.Load()) { // what is not stored is not taken from there
		if loaded, ok := r.fromReplica(ctx, w, reply); ok {
			r.stats.loads.Add(1)
			return loaded, nil
		}
	}
	done, err := r.breaker.ask()
	if err != nil {
		return pgload.Loaded{}, err
	}
	r.stats.loads.Add(1)
	outcome := errExited // unless it returns
	defer func() { done(outcome) }()
	loaded, err := r.compare(ctx, w)
	r.learn(loaded.Database)
	outcome = w.outcome(err)
	return loaded, r.failure(w, err)
}

// failure counts an error of the database, and gives it one of this package's types.
func (r *Reader) failure(w *want, err error) error {
	if err == nil {
		return nil
	}
	var query *pgload.QueryError
	if errors.As(err, &query) && query.Code == invalidText && w.e.unchecked(w.l) {
		err = fmt.Errorf("%w: %w", ErrArguments, err)
	}
	r.stats.loadErrors.Add(1)
	return typed(r.orClosed(err))
}

// orClosed is ErrClosed in the place of an error that a Reader which was closed may have caused itself.
func (r *Reader) orClosed(err error) error {
	select {
	case <-r.closing:
		return ErrClosed
	default:
		return err
	}
}

func (r *Reader) ask(ctx context.Context, w *want) (pgload.Loaded, error) {
	if w.load != nil {
		return w.byCode(func(load LoadFunc) (pgload.Loaded, error) { return r.loader.LoadFunc(ctx, guarded(load)) })
	}
	sql, err := w.e.sql(w.l)
	if err != nil {
		return pgload.Loaded{}, err
	}
	if tags := w.tags(); len(tags) > 0 {
		return r.loader.LoadTagged(ctx, pgload.Query{SQL: sql, Result: w.e.Declared.Result, Tags: tags}, w.args)
	}
	return r.loader.Load(ctx, sql, w.e.Declared.Result, w.args)
}

// tags are what a load that may be stored has to ask for besides the value.
func (w *want) tags() []*rule.TagQuery {
	if w.at == nil {
		return nil
	}
	return w.l.ties.tags
}

// ended says why a context of begin ended.
func (r *Reader) ended(ctx context.Context) error {
	select {
	case <-r.closing:
		return ErrClosed
	default:
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ErrTimeout
	}
	return ctx.Err()
}

// sql is the text that loads the entry: canonical, as the roster has it, or the declared one with its parameters
// numbered.
func (e *declared) sql(l *live) (string, error) {
	if l != nil && l.entry.SQL != "" {
		return l.entry.SQL, nil
	}
	if e.Declared.Query == "" {
		return "", ErrNoLoader
	}
	rewritten, err := sqlparam.Rewrite(e.Declared.Query, e.template.Params())
	if err != nil {
		return "", fmt.Errorf("query: %w", err)
	}
	return rewritten.SQL, nil
}

// typed gives an error of loading one of this package's types.
func typed(err error) error {
	switch {
	case errors.Is(err, pgload.ErrUnavailable):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	case errors.Is(err, pgload.ErrTimeout):
		return fmt.Errorf("%w: %w", ErrTimeout, err)
	}
	return err
}

// invalidText is the SQLSTATE of a text that is not a value of its type.
const invalidText = "22P02"

// unchecked reports that an argument may be invalid although it was canonical: a label that the enum does not have, or
// a value of a type that is not known here.
func (e *declared) unchecked(l *live) bool {
	var params []rule.Param
	if l != nil {
		params = l.entry.Params
	} else if known := e.types.Load(); known != nil {
		params = *known
	}
	return len(params) == 0 || slices.ContainsFunc(params, func(p rule.Param) bool { return p.Type == keytext.Enum || p.Type == "" })
}
