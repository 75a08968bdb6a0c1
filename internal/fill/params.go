package fill

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
)

// Params are an entry's parameters with their types: as the roster has them, or, where none does, as the database says.
// The type is empty where neither can tell, which is so for an entry that code loads before a daemon ever ran.
func (r *Reader) Params(ctx context.Context, entry string) ([]rule.Param, error) {
	e := r.entries[entry]
	if e == nil {
		return nil, fmt.Errorf("entry %s: %w", entry, ErrUnknownEntry)
	}
	c, began := r.names(ctx)
	if live, _ := c.live(e); live != nil {
		return live.entry.Params, nil
	}
	return r.described(ctx, began, e)
}

// Named is Params where nothing is to be loaded: of an entry that the database does not describe it has the types that were known last, and
// keytext.Unknown where none ever were.
func (r *Reader) Named(ctx context.Context, entry string) ([]rule.Param, error) {
	params, err := r.Params(ctx, entry)
	if err == nil || errors.Is(err, ErrUnknownEntry) || ctx.Err() != nil {
		return params, err
	}
	if known := r.Known(entry); known != nil {
		return known, nil
	}
	for _, name := range r.entries[entry].template.Params() {
		params = append(params, rule.Param{Name: name, Type: keytext.Unknown})
	}
	return params, nil
}

// described are the parameters of a declared entry, with the types that the database gives them.
func (r *Reader) described(ctx context.Context, began time.Time, e *declared) ([]rule.Param, error) {
	if known := e.types.Load(); known != nil {
		return *known, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("entry %s: %w", e.name, err)
	}
	params := make([]rule.Param, len(e.template.Params()))
	for i, name := range e.template.Params() {
		params[i].Name = name
	}
	if e.Declared.Query == "" {
		return params, nil
	}
	sql, err := e.sql(nil)
	if err != nil {
		return nil, err
	}
	timed, cancel := context.WithTimeout(ctx, e.left(began))
	defer cancel()
	types, err := r.loader.Types(timed, sql)
	if err != nil && timed.Err() != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("entry %s: %w: %w", e.name, ErrTimeout, err)
	}
	if err != nil {
		return nil, fmt.Errorf("entry %s: %w", e.name, untyped(typed(r.orClosed(err))))
	}
	for i := range min(len(types), len(params)) {
		params[i].Type = types[i]
	}
	e.types.Store(&params)
	return params, nil
}

// untyped says what to do about a parameter whose type PostgreSQL does not find out by itself, as in (@id IS NULL OR id = @id).
// The planner does, so that this is an error for as long as no daemon serves the entry.
func untyped(err error) error {
	const ambiguous, indeterminate = "42P08", "42P18"
	var query *pgload.QueryError
	if !errors.As(err, &query) || query.Code != ambiguous && query.Code != indeterminate {
		return err
	}
	return fmt.Errorf("%w: no daemon serves the entry as it is declared here, and PostgreSQL does not know a parameter's type by itself; "+
		"start the daemon, or write the type into the query, as in @id::int8: %w", ErrUnavailable, err)
}

// Digest identifies an entry's declaration, as the roster's Definition does.
func (r *Reader) Digest(entry string) (string, bool) {
	e := r.entries[entry]
	if e == nil {
		return "", false
	}
	return e.digest, true
}
