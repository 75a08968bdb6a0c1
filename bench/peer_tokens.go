package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"

	"github.com/freshet/freshet"
)

// tokensScheme is freshet with every read asking for the newest write of its row: a write counts as applied when its
// COMMIT has returned.
const tokensScheme = freshetScheme + ", tokens"

// asking is freshet whose readers know the token of each row's newest write.
type asking struct {
	library
	a      *arena
	system string // what the tokens of a database have in common
	newest *[peerRows + 1]atomic.Pointer[named]
}

// named is a write of a row, and the token of its transaction.
type named struct {
	n     int64
	token freshet.Token
}

func openTokens(ctx context.Context, a *arena) (*entrant, error) {
	e, err := openFreshet(ctx, a)
	if err != nil {
		return nil, err
	}
	var system string
	err = a.pools[0].QueryRow(ctx, `SELECT system_identifier || '.' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)
		FROM pg_control_system()`).Scan(&system)
	if err != nil {
		return nil, errors.Join(err, e.close())
	}
	newest := &[peerRows + 1]atomic.Pointer[named]{}
	for i, c := range e.caches {
		l, ok := c.(*library)
		if !ok {
			return nil, errors.Join(fmt.Errorf("%T is not the library", c), e.close())
		}
		e.caches[i] = &asking{library: *l, a: a, system: system, newest: newest}
	}
	e.position = nil
	return e, nil
}

func (c *asking) read(ctx context.Context, id int) (value, error) {
	if w := c.newest[id].Load(); w != nil {
		return c.values.Get(ctx, id, freshet.After(w.token))
	}
	return c.values.Get(ctx, id)
}

func (c *asking) wrote(_ context.Context, u update) error {
	token, err := freshet.ParseToken(c.system + "." + strconv.FormatUint(uint64(u.xid), 10))
	if err != nil {
		return err
	}
	// Of two writers of a row, the one that comes last may have been the first one, whatever their transactions' ids.
	w := &named{n: u.n, token: token}
	for old := c.newest[u.id].Load(); old == nil || old.n < u.n; old = c.newest[u.id].Load() {
		if c.newest[u.id].CompareAndSwap(old, w) {
			break
		}
	}
	c.a.versions.apply(u)
	return nil
}
