package fill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/freshet/freshet/internal/rule"
)

// ErrRecursion is the error of a read by code that loads, of the very key that it loads: it would wait for itself.
var ErrRecursion = errors.New("the code that loads the value reads the same value through the cache")

// coding is how much code loads something in this process at present. While there is none no read need ask its context whether it is made by such
// code, which every hit would pay for.
var coding atomic.Int64 //nolint:gochecknoglobals // of the process, since code may read through another Reader than the one that it loads for

// loading is the load whose code makes a read, nil of all other reads.
func loading(ctx context.Context) *handTags {
	if coding.Load() == 0 {
		return nil
	}
	h, _ := ctx.Value(handTagsKey{}).(*handTags)
	return h
}

// Nested reports whether a read under the context is made by code that loads a value.
func Nested(ctx context.Context) bool { return coding.Load() != 0 && loading(ctx) != nil }

// runs reports whether the code has not returned yet.
func (h *handTags) runs() bool {
	if h == nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.over
}

// nests has the load know whose code makes a read of an entry, if one's does: the value that is made of it may be as old as what is cached, and
// the load's snapshot does not tell. past asks for a value from the database, by a load that begins after the call: whoever waits for the outer one
// has asked for more than what is cached, and that snapshot has to prove it.
func nests(ctx context.Context, entry string) (past bool) {
	h := loading(ctx)
	if h == nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		return false
	}
	if h.through == "" {
		h.through = entry
		h.w.e.nests.Store(true)
	}
	return h.w.n != nil && !h.free()
}

// free reports whether the load's value may be made of anything.
func (h *handTags) free() bool { return h.w.e.coversNone() }

// coversNone reports whether no snapshot is said to cover what the entry's code reads.
func (e *declared) coversNone() bool { return e.Declared.Covers == rule.CoversNone }

// recurses is an error if the value is wanted by the code of its own load, or by that of a load which that waits for.
func (w *want) recurses(ctx context.Context) error {
	for h := loading(ctx); h.runs(); h = h.outer {
		if h.w.e == w.e && slices.Equal(h.w.args, w.args) {
			return fmt.Errorf("entry %s: %w: read by q what it is made of", w.e.name, ErrRecursion)
		}
	}
	return nil
}

// inner reports whether a load is one that the code of another load of the Reader waits for.
func (r *Reader) inner(ctx context.Context) bool {
	h := loading(ctx)
	return h.runs() && r.entries[h.w.e.name] == h.w.e
}

// takes is given as many places among the loads at a time as a load needs: none where the code of another waits for it, which has its own, and two
// for an entry whose code was seen to wait for others, each of which takes a connection as well. Where there is but one, it makes do with that.
func (r *Reader) takes(ctx context.Context, e *declared, slot func(chan struct{}) error) (places int, err error) {
	switch {
	case r.inner(ctx):
		return 0, nil
	case e.nests.Load() && cap(r.loads) > 1:
		places = 2
		if err := slot(r.pairs); err != nil { // or each might have one, and wait for that of another
			return 0, err
		}
		defer func() { <-r.pairs }()
	default:
		places = 1
	}
	for taken := range places {
		if err := slot(r.loads); err != nil {
			for range taken {
				<-r.loads
			}
			return 0, err
		}
	}
	return places, nil
}

// placesOf are the places that a load of the entry takes one of: none where it is one that another load of the entry waits for.
func (e *declared) placesOf(ctx context.Context) chan struct{} {
	for h := loading(ctx); h.runs(); h = h.outer {
		if h.w.e == e {
			return nil
		}
	}
	return e.loads
}
