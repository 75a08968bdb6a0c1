package freshet

import "context"

// ReadRaw is what Get does but for decoding: past the place where observers hear of it, or through it.
func ReadRaw[K, V any](ctx context.Context, t *Typed[K, V], key K, watched bool) error {
	r, ok := t.requests.Get().(*request[K])
	if !ok {
		r = &request[K]{codec: t.keys}
	}
	r.key = key
	var err error
	if watched {
		_, err = t.watched(ctx, r, nil, nil)
	} else {
		_, err = t.read(ctx, r, nil, nil)
	}
	t.requests.Put(r)
	return err
}

// GetManyRaw is GetMany, past the place where observers hear of it.
func GetManyRaw[K, V any](ctx context.Context, t *Typed[K, V], keys []K) error {
	_, _, err := t.getMany(ctx, keys, nil, nil)
	return err
}
