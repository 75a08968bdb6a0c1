package redisstore

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
)

// Near is told what the server says of keys that were read, in its order: before any answer that the server gave later. It
// must be quick, since the answers wait for it.
type Near interface {
	Invalidate(name string) // the key has changed, or is gone
	Drop(wire *store.Wire)  // nothing will be heard any more of what was read on the connection
}

// wire is a connection of the readers' on which the server says what becomes of keys that were read on it. When the
// connection is lost, or the server has forgotten what was read on it, the wire is lost, and never comes back.
type wire struct {
	store.Wire

	conn   *watched    // nil: it was never made
	tracks atomic.Bool // the server was seen to say so
	vain   atomic.Bool // it does not: there is no use in asking again
}

// tracker knows the one connection that a readers' client has at a time. The client makes another one only when it has given
// the last up, and asks for it here: so whoever finds the same wire before a command is sent and after its answer has come
// knows that the command went over its connection.
type tracker struct {
	near   Near
	chosen bool // the server tells of those keys alone that are read after a CLIENT CACHING YES
	logger *slog.Logger
	dialer func(ctx context.Context, address string, d *net.Dialer, config *tls.Config) (net.Conn, error)
	wire   atomic.Pointer[wire]
	echo   atomic.Pointer[string] // a key that a push is waited for of
	why    atomic.Pointer[error]  // a server does not tell

	asked atomic.Int64 // when Listen tried a connection last

	mu sync.Mutex // held while a connection is tried
}

// trackWith has a client's connections tell of what is read on them: of all of it, or, for ears, of what they choose.
func trackWith(option *rueidis.ClientOption, near Near, logger *slog.Logger) *tracker {
	t := &tracker{near: near, logger: logger, dialer: dialOf(*option)}
	_, t.chosen = near.(*store.Ears)
	option.DialCtxFn = t.dial //nolint:forbidigo // the client's name for it
	option.DialFn = nil       //nolint:forbidigo // see above
	option.OnInvalidations = t.pushed
	// A pipeline of any length goes over the one connection.
	option.BlockingPipeline = -1
	return t
}

// dialOf is how the client would dial.
func dialOf(o rueidis.ClientOption) func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) {
	switch {
	case o.DialCtxFn != nil: //nolint:forbidigo // see above
		return o.DialCtxFn //nolint:forbidigo // see above
	case o.DialFn != nil: //nolint:forbidigo // an address of a socket has it
		dial := o.DialFn //nolint:forbidigo // see above
		return func(_ context.Context, address string, d *net.Dialer, config *tls.Config) (net.Conn, error) {
			return dial(address, d, config)
		}
	}
	return func(ctx context.Context, address string, d *net.Dialer, config *tls.Config) (net.Conn, error) {
		if config != nil {
			return (&tls.Dialer{NetDialer: d, Config: config}).DialContext(ctx, "tcp", address)
		}
		return d.DialContext(ctx, "tcp", address)
	}
}

func (t *tracker) dial(ctx context.Context, address string, d *net.Dialer, config *tls.Config) (net.Conn, error) {
	c := &watched{by: t}
	t.lose(t.wire.Swap(&wire{conn: c}))
	var err error
	if c.Conn, err = t.dialer(ctx, address, d, config); err != nil {
		c.ended()
		return nil, err
	}
	return c, nil
}

// lose ends a wire: first for those who hold what was read on it, then for what they hold.
func (t *tracker) lose(w *wire) {
	if w != nil && w.Lose() {
		t.near.Drop(&w.Wire)
	}
}

// watched is a connection whose end is noticed when it is read, before the client does anything about it.
type watched struct {
	net.Conn

	by    *tracker
	wrote atomic.Int64 // when something was written last, in nanoseconds
}

// ended loses what is the connection's. Whatever it was before the server last forgot what was read on it is lost already.
func (c *watched) ended() {
	if w := c.by.wire.Load(); w != nil && w.conn == c {
		c.by.lose(w)
	}
}

// Read reads, and takes note of an end.
func (c *watched) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.ended()
	}
	return n, err
}

// crowded is how soon a write follows another where several read. A reader that is alone with a server next door comes back later.
const crowded = 10 * time.Microsecond

// Write writes, and then lets those run first who can, if others write as well: by the time the client looks for more to write, they have
// come to their next command, and share a write with each other. Where processors are idle that takes no time.
func (c *watched) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	const enough = 1 << 10 // to see whether there is a second command in it
	now := time.Now().UnixNano()
	if last := c.wrote.Swap(now); now-last < int64(crowded) || bytes.Contains(b[:min(len(b), enough)], []byte("\r\n*")) {
		runtime.Gosched()
	}
	return n, err
}

// Close ends the connection.
func (c *watched) Close() error {
	c.ended()
	return c.Conn.Close()
}

// pushed is called with what the server says, in the goroutine that reads the connection; without keys when it has forgotten
// all of them, which is also what the client says when the connection has ended.
func (t *tracker) pushed(keys []rueidis.RedisMessage) {
	if keys == nil {
		if w := t.wire.Load(); w != nil && !w.Lost() {
			next := &wire{conn: w.conn}
			next.tracks.Store(w.tracks.Load())
			if t.wire.CompareAndSwap(w, next) {
				t.lose(w)
			}
		}
		return
	}
	for i := range keys {
		name, err := keys[i].ToString()
		if err != nil {
			continue // not a key
		}
		t.near.Invalidate(name)
		if echo := t.echo.Load(); echo != nil && *echo == name {
			t.echo.Store(nil)
		}
	}
}

// current is the wire on which the server tells of what is read; nil when there is none.
func (t *tracker) current() *wire {
	if w := t.wire.Load(); w != nil && w.tracks.Load() && !w.Lost() {
		return w
	}
	return nil
}

// errSilent says that a server takes CLIENT TRACKING and sends nothing.
var errSilent = errors.New("it does not say when a key has changed: what stands between does not let it, or the connection does not speak RESP3")

// begin has the server say what becomes of the keys that are read, and sees whether it does: a key is read and written, and
// what is to be heard of that has come before the answer to a command after it. echo is a key for this in a slot of the node.
func (t *tracker) begin(ctx context.Context, client rueidis.Client, echo string) {
	w := t.wire.Load()
	if w != nil && (w.tracks.Load() || w.vain.Load()) && !w.Lost() {
		return
	}
	if !t.mu.TryLock() {
		return // somebody is at it
	}
	defer t.mu.Unlock()
	if w == nil || w.Lost() {
		_ = client.Do(ctx, client.B().Ping().Build()) // connects; an error is the next command's as well
	}
	if w = t.wire.Load(); w == nil || w.Lost() || w.tracks.Load() || w.vain.Load() {
		return
	}
	t.echo.Store(&echo)
	defer t.echo.Store(nil)
	const life = 1                                 // it has done what it is for when it is written
	empty := string((&fence.Record{}).Append(nil)) // whoever looks through the records may meet it
	on := []rueidis.Completed{client.B().Arbitrary("CLIENT", "TRACKING", "ON").Build()}
	if t.chosen {
		on = []rueidis.Completed{client.B().Arbitrary("CLIENT", "TRACKING", "ON", "OPTIN").Build(), cachingOf(client)}
	}
	replies := client.DoMulti(ctx, append(on, client.B().Get().Key(echo).Build(),
		client.B().Set().Key(echo).Value(empty).PxMilliseconds(life).Build(), client.B().Ping().Build())...)
	if t.wire.Load() != w {
		return // another one is tried with the next
	}
	for i, r := range replies {
		switch err := r.Error(); {
		case err == nil || rueidis.IsRedisNil(err):
		case errors.Is(typed(err), ErrNoPermission), i < len(on) && errors.Is(typed(err), ErrRefused):
			t.refuse(w, typed(err))
			return
		default: // a server that is full, say, or on its way up: it may be otherwise with the next
			return
		}
	}
	if t.echo.Load() != nil {
		t.refuse(w, errSilent)
		return
	}
	w.tracks.Store(true)
}

// cachingOf has the server tell of the keys that the next command reads.
func cachingOf(client rueidis.Client) rueidis.Completed {
	return client.B().Arbitrary("CLIENT", "CACHING", "YES").Build()
}

func (s *Store) caching() rueidis.Completed { return cachingOf(s.client) }

// refuse says once why nothing is held in memory, or why others' loads are looked for.
func (t *tracker) refuse(w *wire, why error) {
	w.vain.Store(true)
	switch first := t.why.Swap(&why) == nil; {
	case first && t.chosen:
		t.logger.Info("whoever waits for another process's load looks for it every 2 to 50 ms: redis does not tell of changes by CLIENT TRACKING",
			slog.Any("err", why))
	case first:
		t.logger.Warn("nothing is held in this process's memory (l1): redis does not tell of changes by CLIENT TRACKING", slog.Any("err", why))
	}
}

// known is a wire as others know it.
func (w *wire) known() *store.Wire {
	if w == nil {
		return nil
	}
	return &w.Wire
}

// confirm has a connection tell on which all that is read is told of, and is held then.
func (t *tracker) confirm(ctx context.Context, client rueidis.Client, echo string) *wire {
	if t.chosen {
		return nil
	}
	t.begin(ctx, client, echo)
	return t.held()
}

// held is current, where all that is read is told of.
func (t *tracker) held() *wire {
	if t.chosen {
		return nil
	}
	return t.current()
}

// Wire is the connection on which a lane's records can be read to be held in memory; nil when there is none.
func (s *Store) Wire(lane int) *store.Wire {
	t := s.tracker
	if s.cluster != nil {
		if t = s.cluster.table.Load().lanes[lane].tracker; t == nil {
			return nil // no owner is known
		}
	}
	return t.held().known()
}

// Tracks says why nothing can be held of what is read, or, where nothing is to be, why whoever waits for another process's load is not told
// when it is there; nil when that can be had.
func (s *Store) Tracks(ctx context.Context) error {
	for lane, h := range s.Heads(ctx) {
		to, err := s.toLane(lane)
		if err != nil || h.Err != nil || h.Wire != nil {
			continue
		}
		if to.tracker.chosen {
			to.tracker.begin(ctx, to.client, s.echoKey(lane))
		}
		if why := to.tracker.why.Load(); why != nil {
			return *why
		}
	}
	return nil
}

// echoKey is a key by which it is seen whether a node tells of changes. It lives for a millisecond, and is named like a key of a
// generation that nobody has, so that whoever may fill may write it.
func (s *Store) echoKey(lane int) string { return s.laneKey(lane, store.Draw()+":echo") }

// HeadOn reads what HEAD vouches for, and says on which connection: what the server said of keys before is done with when it returns.
func (s *Store) HeadOn(ctx context.Context, lane int) (head fence.Head, found bool, wire *store.Wire, err error) {
	to, err := s.toLane(lane)
	if err != nil {
		return fence.Head{}, false, nil, fmt.Errorf("read head: %w", err)
	}
	on := to.tracker.held()
	fields := s.vouched
	reply := to.client.Do(ctx, s.headFor(lane, fields, s.callRead))
	if isNoScript(reply.Error()) {
		reply = to.client.Do(ctx, s.headFor(lane, fields, s.sendRead))
	}
	if head, found, err = parseHead(reply, fields); err != nil {
		_ = to.typed(reply.Error())
		return fence.Head{}, false, nil, err
	}
	if to.tracker.held() != on {
		on = nil
	}
	return head, found, on.known(), nil
}
