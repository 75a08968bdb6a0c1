package freshet

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"unsafe"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
)

// Typed reads one entry, with keys of type K and values of type V. It may be used from any number of goroutines.
type Typed[K, V any] struct {
	cache *Cache
	name  string
	keys  *keyCodec
	load  func(ctx context.Context, q Querier, key K) (V, error)
	codec Codec
	shape string // of V, in the cache
	memo  *memo[V]
	clone func(V) V // nil: values are shared

	near  *recalled[V] // nil: nothing is held in memory, keys are not plain, or there are observers, who hear of what passes through watched
	plain plainKind
	size  uintptr // of a key

	requests sync.Pool // of *request[K], so that a hit need not allocate one
}

// request is a key on its way to the read path.
type request[K any] struct {
	codec *keyCodec
	key   K
	args  []keytext.Arg
}

// Args implements fill.Key.
func (r *request[K]) Args(params []rule.Param) (args []keytext.Arg, err error) {
	args, err = appendKey(r.args[:0], r.codec, params, &r.key)
	r.args = args
	return args, err
}

// Querier is what code that loads an entry may do: read. All its statements see one snapshot of the database.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Option changes how an entry is read.
type Option[K, V any] func(*Typed[K, V])

// Load gives the code that loads an entry declared with depends_on. It returns ErrNotFound, or pgx.ErrNoRows, when
// there is no such thing. It runs in a read-only transaction, under a context of its own that ends with the entry's
// load_timeout, and its value is stored as JSON, unless WithCodec says otherwise.
//
// It reads what the value is made of by q, one statement at a time, and leaves the transaction as it is; q is of no use once it has returned. Rows
// that it leaves open are closed for it, and their error is the load's. Any other error of its own is returned as it is.
//
// What it reads through a Cache instead, with the context that it was given, may be older than its transaction's snapshot. A value that is made of
// that is returned and not stored ("nested_read" in Stats.Refused), unless the entry says covers: none; and such a load takes a second connection
// while it holds the first. A read of the very key that is being loaded is an error.
func Load[K, V any](load func(ctx context.Context, q Querier, key K) (V, error)) Option[K, V] {
	return func(t *Typed[K, V]) { t.load = load }
}

// WithClone has each read of a value return a copy that clone makes of it, which its caller may change. Default: what a value points to is shared
// by all who read it, and a hit in memory costs no copy. clone must not change what it is given, and is called by many at a time.
func WithClone[K, V any](clone func(V) V) Option[K, V] {
	return func(t *Typed[K, V]) { t.clone = clone }
}

// Entry prepares reading the entry of that name. The type of K must fit the parameters of the entry's key: for one
// parameter anything that can be its value, otherwise a struct that has a field for each, found by its tag
// `freshet:"name"` or else by its name, where case and underscores do not matter. A nil pointer is NULL.
func Entry[K, V any](cache *Cache, name string, options ...Option[K, V]) (*Typed[K, V], error) {
	declared, ok := cache.config.Entries[name]
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrUnknownEntry, name)
	}
	template, err := rule.ParseTemplate(declared.Key)
	if err != nil {
		return nil, fmt.Errorf("entry %s: %w", name, err)
	}
	t := &Typed[K, V]{cache: cache, name: name, memo: newMemo[V]()}
	for _, option := range options {
		option(t)
	}
	if t.keys, err = newKeyCodec[K](template.Params()); err != nil {
		return nil, fmt.Errorf("entry %s: %w", name, err)
	}
	switch {
	case t.load == nil && declared.Query == "":
		return nil, fmt.Errorf("entry %s: it has no query: give freshet.Load the code that loads it", name)
	case t.load != nil && declared.Query != "":
		return nil, fmt.Errorf("entry %s: its query loads it, freshet.Load is for entries with depends_on", name)
	}
	if err := t.setCodec(); err != nil {
		return nil, fmt.Errorf("entry %s: %w", name, err)
	}
	if t.plain, t.size = plainKindOf(reflect.TypeFor[K]()); t.plain != notPlain && cache.held != nil && declared.L1 != config.Off && len(cache.observers) == 0 {
		t.near = recalledOf[K, V](cache, name, t.codec.Name(), t.shape)
	}
	return t, nil
}

// Get reads the value of a key: from the cache, or from the database, which then fills the cache. Options ask for more
// than a value that is kept fresh. It returns ErrNotFound when there is no such row. What the value points to is shared
// with other readers and is not to be changed, unless WithClone says how to copy it. A value that the process holds in memory is returned also when ctx is over.
func (t *Typed[K, V]) Get(ctx context.Context, key K, options ...ReadOption) (V, error) {
	var (
		value V
		plain plainKey
	)
	recalls := t.near != nil && len(options) == 0 && !fill.Nested(ctx)
	if recalls {
		if t.plain == plainWord {
			plain.number = *(*uint64)(unsafe.Pointer(&key)) //nolint:gosec // its kind says that it is one
		} else {
			plain = t.plain.plain(unsafe.Pointer(&key), t.size) //nolint:gosec // by its kind
		}
		if hit := t.near.find(t.cache.reader, &plain); hit != nil {
			value, err := hit.result()
			if err == nil {
				value = t.owned(value)
			}
			return value, err
		}
	}
	r, ok := t.requests.Get().(*request[K])
	if !ok {
		r = &request[K]{codec: t.keys}
	}
	r.key = key
	got, err := t.watched(ctx, r, t.loadFunc(key), options)
	if err == nil && got.Found {
		value, err = t.valueOf(&got)
		if errors.Is(err, errOther) { // a miss, for this reader
			if got, err = t.watched(ctx, r, t.loadFunc(key), append(slices.Clip(options), ReadOption{reload: true})); err == nil && got.Found {
				value, err = t.decode(got.Payload)
			}
		}
	}
	t.requests.Put(r)
	if err != nil {
		return value, public(err)
	}
	if recalls {
		t.note(&plain, &got)
	}
	if !got.Found {
		return value, ErrNotFound
	}
	return t.owned(value), nil
}

// owned is a value as its caller may have it.
func (t *Typed[K, V]) owned(value V) V {
	if t.clone == nil {
		return value
	}
	return t.clone(value)
}

// valueOf is the value that was read, which may be one that was read before.
func (t *Typed[K, V]) valueOf(got *fill.Value) (V, error) {
	held := got.Held()
	if held != nil {
		if m, ok := held.Decoded().(*made[V]); ok && t.made(m) {
			return m.value, nil
		}
	}
	value, ok := t.memo.get(got.Name, got.Payload)
	if !ok {
		var err error
		if value, err = t.decode(got.Payload); err != nil {
			return value, err
		}
		t.memo.put(got.Name, got.Payload, value)
	}
	if held != nil {
		held.Decode(&made[V]{codec: t.codec.Name(), shape: t.shape, value: value})
	}
	return value, nil
}

// made is a value that was decoded, and by what: another codec of the same type decodes the same bytes otherwise, or not at all.
type made[V any] struct {
	codec, shape string
	value        V
}

// made reports whether a value was decoded as this entry would.
func (t *Typed[K, V]) made(m *made[V]) bool { return m.codec == t.codec.Name() && m.shape == t.shape }

// loadFunc is the code that loads one key, as the read path runs it.
func (t *Typed[K, V]) loadFunc(key K) fill.LoadFunc {
	if t.load == nil {
		return nil
	}
	return func(ctx context.Context, q pgload.Querier) (payload []byte, found bool, err error) {
		value, err := t.load(ctx, q, key)
		if errors.Is(err, ErrNotFound) || errors.Is(err, pgx.ErrNoRows) {
			return nil, false, nil
		}
		if err != nil {
			return nil, false, err
		}
		payload, err = t.encode(value)
		return payload, err == nil, err
	}
}
