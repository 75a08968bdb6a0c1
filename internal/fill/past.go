package fill

import (
	"context"
	"fmt"
	"slices"

	"github.com/freshet/freshet/internal/keytext"
)

// GetPast reads one value from the database past the cache, which it neither reads nor fills: for whoever demands a
// value that is younger than anything which can be proved of a cached one. The load begins after the call.
func (r *Reader) GetPast(ctx context.Context, entry string, args []keytext.Arg, load LoadFunc) (Value, error) {
	e := r.entries[entry]
	if e == nil {
		return Value{}, fmt.Errorf("entry %s: %w", entry, ErrUnknownEntry)
	}
	c, began := r.names(ctx)
	l, _ := c.live(e)
	if l == nil {
		return r.readAlone(ctx, began, e, canonical(args), load, askedFor)
	}
	checked, err := e.args(canonical(args), l.entry.Params)
	if err != nil {
		return Value{}, err
	}
	return r.bypass(ctx, began, e, l, slices.Clone(checked), load, askedFor)
}
