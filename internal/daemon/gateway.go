package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/freshet/freshet/internal/api"
	"github.com/freshet/freshet/internal/envelope"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/mvcc"
)

// gateway reads for HTTP through the same path as the library.
type gateway struct{ d *daemon }

// reader is the read path, once there is one. The caller calls done when it has its answer.
func (g *gateway) reader() (reader *fill.Reader, done func(), err error) {
	p := g.d.parts.Load()
	if p == nil {
		return nil, nil, fmt.Errorf("%w: the daemon is starting: %s", api.ErrUnavailable, *g.d.wait.Load())
	}
	for {
		if s := p.served.Load(); s.enter() {
			return s.reader, s.leave, nil
		}
	}
}

// Params are the parameters of an entry.
func (g *gateway) Params(ctx context.Context, entry string) ([]rule.Param, error) {
	if _, ok := g.d.file.Load().Entries[entry]; !ok {
		return nil, fmt.Errorf("entry %s: %w", entry, api.ErrNoEntry)
	}
	reader, done, err := g.reader()
	if err != nil {
		return nil, err
	}
	defer done()
	params, err := reader.Params(ctx, entry)
	return params, translate(err)
}

// Read reads a value that meets a demand.
func (g *gateway) Read(ctx context.Context, entry string, args []keytext.Arg, d api.Demand) (api.Value, error) {
	reader, done, err := g.reader()
	if err != nil {
		return api.Value{}, err
	}
	defer done()
	v, err := reader.GetUnder(ctx, entry, args, nil, demanded(d))
	if err != nil {
		return api.Value{}, translate(err)
	}
	return g.shown(entry, &v)
}

// ReadMany reads many values that meet a demand.
func (g *gateway) ReadMany(ctx context.Context, entry string, keys [][]keytext.Arg, d api.Demand) ([]api.Value, []error) {
	values, errs := make([]api.Value, len(keys)), make([]error, len(keys))
	reader, done, err := g.reader()
	if err != nil {
		for i := range errs {
			errs[i] = err
		}
		return values, errs
	}
	defer done()
	for i, a := range reader.GetMany(ctx, entry, keys, demanded(d)) {
		if errs[i] = translate(a.Err); a.Err == nil {
			values[i], errs[i] = g.shown(entry, &a.Value)
		}
	}
	return values, errs
}

func demanded(d api.Demand) *fill.Demand {
	demand := &fill.Demand{Revalidate: d.Revalidate, Bounded: d.Bounded, MaxStale: d.MaxStale}
	if !d.After.IsZero() {
		demand.After = []mvcc.Token{d.After}
	}
	return demand
}

func (g *gateway) shown(entry string, v *fill.Value) (api.Value, error) {
	filled, _ := v.Stamp()
	payload, err := envelope.JSONOf(v.Payload)
	switch {
	case errors.Is(err, envelope.ErrNotJSON):
		return api.Value{}, fmt.Errorf("%w: entry %s: %w", api.ErrNotJSON, entry, err)
	case err != nil:
		return api.Value{}, fmt.Errorf("%w: entry %s: %w", api.ErrByCode, entry, err)
	}
	shown := api.Value{Found: v.Found, Payload: payload, Status: v.Status.String(), Filled: filled}
	if v.Status != fill.Stale { // nobody is to keep what is known to be outdated
		shown.CacheControl = g.d.file.Load().Entries[entry].CacheControl
	}
	return shown, nil
}

// translate gives an error of the read path the kind that decides the HTTP status.
func translate(err error) error {
	for _, pair := range []struct{ from, to error }{
		{fill.ErrUnknownEntry, api.ErrNoEntry},
		{fill.ErrArguments, api.ErrArgument},
		{fill.ErrUnavailable, api.ErrUnavailable},
		{fill.ErrTimeout, api.ErrUnavailable},
		{fill.ErrNoLoader, api.ErrByCode},
		{fill.ErrClosed, api.ErrUnavailable},
		{fill.ErrTokenNotReached, api.ErrNotReached},
		{fill.ErrForeignToken, api.ErrForeign},
	} {
		if errors.Is(err, pair.from) {
			return fmt.Errorf("%w: %w", pair.to, err)
		}
	}
	return err
}
