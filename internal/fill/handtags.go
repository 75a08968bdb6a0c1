package fill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
)

// ErrTag is the error of a tag that a value cannot be tied to.
var ErrTag = errors.New("the value cannot be tied to the tag")

// handTags gathers the tags of one load, while its code runs, and what it reads through the cache.
type handTags struct {
	w     *want
	outer *handTags // of the load whose code waits for this one

	mu      sync.Mutex
	over    bool
	tags    []string
	wrong   error
	through string // the first entry that the code has read
}

type handTagsKey struct{}

// Tag ties the value that is being loaded to tags. ctx is the one that the code which loads was given, or one made from it. A mistake
// fails the load too, so that nothing is stored without a tag that was meant, also where the error is passed over; but for the one
// that no load can be blamed for, that ctx is of none.
func Tag(ctx context.Context, tags ...string) error {
	h, ok := ctx.Value(handTagsKey{}).(*handTags)
	if !ok {
		return fmt.Errorf("%w: the context is not that of a load", ErrTag)
	}
	return h.add(tags)
}

func (h *handTags) add(tags []string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var err error
	entry := h.w.e.name
	switch {
	case h.over:
		return fmt.Errorf("entry %s: %w: its load is over", entry, ErrTag)
	case h.w.e.Declared.Tags == "":
		err = fmt.Errorf("entry %s: %w: add tags: by_hand to the entry, so that those who read it and the daemon know", entry, ErrTag)
	}
	for _, tag := range tags {
		if bad := rule.CheckTag(tag); bad != nil && err == nil {
			err = fmt.Errorf("entry %s: %w: %w", entry, ErrTag, bad)
		}
	}
	if err != nil {
		h.wrong = errors.Join(h.wrong, err)
		return err
	}
	h.tags = append(h.tags, tags...)
	return nil
}

// end ends the gathering.
func (h *handTags) end() (tags []string, through string, wrong error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	slices.Sort(h.tags) // so that the same tags make the same record
	return slices.Compact(h.tags), h.through, h.wrong
}

// byCode has the code run that loads the value, and gathers the tags that it gives.
//
// A value that was made of what is cached covers nothing, unless a read that asks for more has had it made of what the database has (nests).
func (w *want) byCode(run func(LoadFunc) (pgload.Loaded, error)) (pgload.Loaded, error) {
	var tags []string
	through := ""
	loaded, err := run(func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
		gathered := &handTags{w: w, outer: loading(ctx)}
		coding.Add(1)
		defer coding.Add(-1)
		payload, found, err := w.load(context.WithValue(ctx, handTagsKey{}, gathered), q)
		var wrong error
		tags, through, wrong = gathered.end()
		if err == nil && wrong != nil {
			return nil, false, wrong
		}
		return payload, found, err
	})
	loaded.ByHand = tags
	if through != "" && !w.e.coversNone() {
		if loaded.Through = through; w.n == nil {
			loaded.Coverage = fence.Coverage{}
		}
	}
	return loaded, err
}

// handEpochs are those of tags, or the shared one where they are too many for what is left of a value's.
func handEpochs(tags []string, left, bytes int) []string {
	names := make([]string, 0, len(tags))
	for _, tag := range tags {
		name := string(rule.AppendTagEpoch(nil, tag))
		if bytes -= len(name); bytes < 0 || len(names) == left {
			return []string{string(rule.AppendSharedTagEpoch(nil))}
		}
		names = append(names, name)
	}
	return names
}
