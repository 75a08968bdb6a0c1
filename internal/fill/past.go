package fill

import (
	"context"

	"github.com/freshet/freshet/internal/keytext"
)

// GetPast reads one value from the database past the cache, which it neither reads nor fills: for whoever demands a
// value that is younger than anything which can be proved of a cached one. The load begins after the call.
func (r *Reader) GetPast(ctx context.Context, entry string, args []keytext.Arg, load LoadFunc) (Value, error) {
	return r.ReadUnder(ctx, entry, canonical(args), load, &Demand{Past: true})
}

// GetUnder is ReadUnder for canonical arguments.
func (r *Reader) GetUnder(ctx context.Context, entry string, args []keytext.Arg, load LoadFunc, d *Demand) (Value, error) {
	return r.ReadUnder(ctx, entry, canonical(args), load, d)
}
