package freshet

import (
	"context"
	"encoding/json"

	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/intent"
	"github.com/freshet/freshet/internal/rule"
)

// Tag ties the value that is being loaded to tags: texts such as "tenant:7", of 512 bytes at most. A transaction that names one of them (Cache.Tagged)
// takes every value out of use that is tied to it, of all entries, however many those are. It is called from the code of
// Load, with the context that this was given or one made from it, any number of times, and from any goroutine until the code returns. The entry has
// to be declared with tags: by_hand. "Not found" is tied to tags as well.
//
// The error is ErrTag. It need not be looked at where the context is surely that of a load: the load fails of it too.
func Tag(ctx context.Context, tags ...string) error {
	if err := fill.Tag(ctx, tags...); err != nil {
		return public(err)
	}
	return nil
}

// Tagged names every key, of every entry of the database, whose value is tied to a tag, for Commit, Intent and Invalidate.
func (c *Cache) Tagged(tag string) Key {
	return c.several("", func() (json.RawMessage, error) {
		if err := rule.CheckTag(tag); err != nil {
			return nil, err
		}
		return intent.Tagged(tag)
	})
}
