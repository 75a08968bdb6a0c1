package freshet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/freshet/freshet/internal/intent"
	"github.com/freshet/freshet/internal/pgload"
)

// ErrReadOnly says that what was to be invalidated has to be said in the log, and that the database which the Cache loads
// from is a standby, which writes none.
var ErrReadOnly = errors.New("freshet: the database writes no log")

// Invalidate takes keys out of the cache, whatever is in the database: it says so in the log, in a transaction of its own,
// and returns that one's token. The keys are gone when the daemon has applied it, mostly within milliseconds; a read After
// the token has nothing from before it at once. No load that was under way can bring back what was there.
//
// It is for what the database does not know of: a value that code loads from elsewhere, or whose code has changed. Within a
// transaction that changes something, Commit and Intent do the same.
//
// The error is ErrKey or ErrUnknownEntry for what is no key, ErrReadOnly on a standby, ErrClosed when the Cache was closed, ErrUnavailable
// when the database does not answer: then the keys may be invalidated or not, and the call may be repeated. Without keys it does nothing, and
// the token is zero. Options of the keys, which are Commit's, are refused.
func (c *Cache) Invalidate(ctx context.Context, keys ...Key) (Token, error) {
	if err := withoutOptions(keys); err != nil {
		return Token{}, fmt.Errorf("invalidate: %w", err)
	}
	if len(keys) == 0 {
		return Token{}, nil
	}
	if c.closed.Load() { // a pool that is the application's would still answer
		return Token{}, fmt.Errorf("invalidate: %w", ErrClosed)
	}
	text, err := c.messages(ctx, keys)
	if err != nil {
		return Token{}, fmt.Errorf("invalidate: %w", err)
	}
	token, err := c.loader.Emit(ctx, []byte(text))
	switch {
	case err != nil && c.closed.Load():
		return Token{}, fmt.Errorf("invalidate: %w: %w", ErrClosed, err)
	case errors.Is(err, pgload.ErrReadOnly):
		return Token{}, fmt.Errorf("invalidate: %w: %w", ErrReadOnly, err)
	case errors.Is(err, pgload.ErrUnavailable), errors.Is(err, pgload.ErrTimeout):
		return Token{}, fmt.Errorf("invalidate: %w: %w", ErrUnavailable, err)
	case err != nil:
		return Token{}, fmt.Errorf("invalidate: %w", err)
	}
	token.After = c.after(ctx, token)
	return token, nil
}

// AllOf names every key of an entry, for Invalidate, Commit and Intent.
func (c *Cache) AllOf(entry string) Key {
	if _, ok := c.config.Entries[entry]; !ok {
		return Key{cache: c, entry: entry, err: fmt.Errorf("%w: %s", ErrUnknownEntry, entry)}
	}
	return c.several(entry, func() (json.RawMessage, error) { return intent.Whole(entry) })
}

// AllReading names every key of the entries that read a table, as a TRUNCATE of it would, for Invalidate, Commit and
// Intent. The table is NAME, or SCHEMA.NAME unless the schema is public, as the catalog spells them. One that no entry reads
// has no keys.
func (c *Cache) AllReading(table string) Key {
	schema, name, found := strings.Cut(table, ".")
	if !found {
		schema, name = "public", table
	}
	if schema == "" || name == "" {
		return Key{cache: c, err: fmt.Errorf("%w: table %q: write it as NAME or SCHEMA.NAME", ErrKey, table)}
	}
	return c.several("", func() (json.RawMessage, error) { return intent.Reading(intent.Table{Schema: schema, Name: name}) })
}

// All names every key of every entry of the database, those of other files included, for Invalidate, Commit and Intent.
func (c *Cache) All() Key {
	return c.several("", func() (json.RawMessage, error) { return intent.All(), nil })
}

// several is a Key that stands for more than one.
func (c *Cache) several(entry string, spell func() (json.RawMessage, error)) Key {
	text, err := spell()
	if err != nil {
		return Key{cache: c, entry: entry, err: fmt.Errorf("%w: %w", ErrKey, err)}
	}
	return Key{cache: c, entry: entry, several: text}
}

func withoutOptions(keys []Key) error {
	for i := range keys {
		if keys[i].refresh || keys[i].strict {
			return fmt.Errorf("%w: entry %s: options of a key are for Commit", ErrKey, keys[i].entry)
		}
	}
	return nil
}
