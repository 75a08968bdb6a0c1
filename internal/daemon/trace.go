package daemon

import (
	"context"
	"fmt"
	"time"

	"github.com/freshet/freshet/internal/api"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/trace"
)

// Named are the parameters of an entry, as far as their types are known: those of one that is refused, since a column is gone, are not.
func (g *gateway) Named(ctx context.Context, entry string) ([]rule.Param, error) {
	if _, ok := g.d.file.Load().Entries[entry]; !ok {
		return nil, fmt.Errorf("entry %s: %w", entry, api.ErrNoEntry)
	}
	reader, done, err := g.reader()
	if err != nil {
		return nil, err
	}
	defer done()
	params, err := reader.Named(ctx, entry)
	return params, translate(err)
}

// Trace says what happened to a key: what the log did to it, as this daemon remembers it, what readers noted of their loads, and what the
// store has.
func (g *gateway) Trace(ctx context.Context, entry string, args []keytext.Arg) (any, error) {
	reader, done, err := g.reader()
	if err != nil {
		return nil, err
	}
	defer done()
	spelled, err := reader.Spell(ctx, entry, args)
	if err != nil {
		return nil, translate(err)
	}
	p := g.d.parts.Load() // there is one: there is a reader
	h := trace.Of(ctx, trace.Where{
		Entry: entry, Args: args, Key: spelled.Key, Name: spelled.Name, Epochs: spelled.Epochs, Tied: spelled.Tied, Why: spelled.Why,
	}, p.store.traced, p.pipeline.Trail())
	if st := p.pipeline.Status(); h.Since != nil && st.Phase != pipeline.CatchingUp && st.Phase != pipeline.Streaming {
		h.Problems = append(h.Problems, fmt.Sprintf("the daemon has not followed the log since %s (%s): what happened since then is not known here",
			st.Since.Format(time.RFC3339), st.Phase))
	}
	return h, nil
}
