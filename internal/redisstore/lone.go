package redisstore

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/store"
)

const (
	// aloneAfter is how many reads in a row have to meet no other one for those after them to be taken for a lone reader's.
	aloneAfter = 32
	// loneLook is the age at which HEAD is read anew on a lone reader's connection, before a record.
	loneLook = 250 * time.Millisecond
	// strangeLooks is after how many looks in a row at a HEAD that is not the one that was confirmed the connection is given up. When names move
	// there are one or two.
	strangeLooks = 4
	// loneIdle is how long such a connection may be silent. What stands between may have forgotten it by then, and nothing would say so.
	loneIdle = 30 * time.Second
	// loneRest is how long none is made after one has failed.
	loneRest = time.Second
)

// lone is a second connection, for a reader that is alone. Over the one that readers share, goroutines of the client's write and read for
// all of them, and who has nobody to share with waits for two to be woken: as long as for the server. Here whoever reads writes and waits
// for the answer, one command at a time. A reader that meets another one, and everything but the reads of a plain hit, uses the shared one.
//
// What is found here is a hit only under a HEAD that was read here as well (R0): two connections to one address need not lead to
// one server, as after a failover, or behind something that shares connections out.
type lone struct {
	option  rueidis.ClientOption
	main    *tracker
	logger  *slog.Logger
	headKey string
	fields  []string // of HEAD

	reads atomic.Int32 // under way
	calm  atomic.Int32 // in a row that met no other, aloneAfter at most

	mu     sync.Mutex // held by whoever uses what follows; nobody waits for it to read
	line   *line      // nil: there is none
	making bool
	rest   time.Duration // a time of store.Awake, before which none is made
	closed bool
	made   sync.WaitGroup
}

// line is the connection as long as it lasts.
type line struct {
	client rueidis.Client
	conn   net.Conn // closed by whoever gives up, which ends a read
	beside *watched // the shared connection: none outlives it
	give   func()   // cut
	used   time.Duration

	headKey string
	fields  []string // of HEAD

	generation string // as HEAD said when it was asked at looked
	revision   uint64
	behind     bool // what was confirmed before on the shared connection
	strange    int  // looks in a row at a HEAD that was not the one that was confirmed
	looked     time.Duration
}

// newLone makes no connection yet. option is the readers', as it is without a tracker.
func (s *Store) newLone(option rueidis.ClientOption) *lone {
	option.Dialer.KeepAlive = -1 // a PING of the client's would come at the same time as a command
	option.ReadBufferEachConn, option.WriteBufferEachConn, option.RingScaleEachConn = 16<<10, 4<<10, 1
	return &lone{option: option, main: s.tracker, logger: s.logger, headKey: s.headKey(0), fields: vouchedFields()}
}

// come is called before a read, and says whether it may be a lone reader's. leave is called after it.
func (l *lone) come() bool {
	if l.reads.Add(1) > 1 {
		l.calm.Store(0)
		return false
	}
	return l.calm.Load() == aloneAfter || l.calm.Add(1) == aloneAfter
}

func (l *lone) leave() { l.reads.Add(-1) }

// read reads a record with epochs over the connection. ok is false where it is to be read over the shared one instead.
func (l *lone) read(ctx context.Context, name string, epochs []string, under *store.Under) (held Tied, ok bool, err error) {
	if ctx.Err() != nil || !l.mu.TryLock() {
		return Tied{}, false, nil
	}
	defer l.mu.Unlock()
	now := store.Awake()
	n := l.ready(now)
	if n == nil {
		return Tied{}, false, nil
	}
	n.used = now
	// A context that can end would have the client hand the command to goroutines of its own. One that ends closes the connection instead.
	if ctx.Done() != nil {
		defer context.AfterFunc(ctx, n.give)()
	}
	held, ok, err = n.read(name, epochs, under, now) //nolint:contextcheck // see above
	switch _, refused := rueidis.IsRedisErr(err); {
	case err == nil:
		if n.strange == strangeLooks {
			l.drop(errElsewhere)
		}
		return held, ok, nil
	case refused: // as it will be on the shared one
		return Tied{}, false, nil
	case ctx.Err() != nil:
		err = ctx.Err()
		l.drop(err)
		return Tied{}, true, typed(err)
	case errors.Is(err, os.ErrDeadlineExceeded): // nor would the shared one have had an answer
		l.drop(err)
		return Tied{}, true, typed(err)
	}
	l.drop(err)
	return Tied{}, false, nil
}

// errElsewhere is why a connection is given up that leads to another server than the shared one, or did.
var errElsewhere = errors.New("its HEAD is not the one that was confirmed on the shared connection")

// of reports whether what was last read of HEAD allows to believe what is read under the names.
func (n *line) of(under *store.Under) bool {
	return !n.behind && n.generation == under.Generation && n.revision == under.Revision
}

// read is not ok where HEAD says something else than was confirmed, or is believed no longer when the answer has come.
func (n *line) read(name string, epochs []string, under *store.Under, now time.Duration) (held Tied, ok bool, err error) {
	ctx := context.Background()
	var reply rueidis.RedisResult
	switch {
	case now-n.looked >= loneLook:
		replies := n.client.DoMulti(ctx, n.client.B().Hmget().Key(n.headKey).Field(n.fields...).Build(), n.record(name, epochs))
		if err := replies[0].Error(); err != nil {
			return Tied{}, false, err
		}
		head, found, err := parseHead(replies[0], n.fields)
		if err != nil {
			return Tied{}, false, err
		}
		n.generation, n.revision, n.looked = head.Generation, head.Revision, now
		// Of one server's HEAD, Wc does not sink.
		n.behind = !found || head.Wc < under.Wc
		n.strange++
		if n.of(under) {
			n.strange = 0
		}
		reply = replies[1]
	case n.of(under):
		reply = n.client.Do(ctx, n.record(name, epochs))
	default:
		return Tied{}, false, nil
	}
	if len(epochs) > 0 {
		held, err = parseTied(reply, len(epochs))
	} else {
		held.Text, err = textOf(reply)
	}
	return held, n.of(under) && store.Awake()-n.looked < under.Trust, err
}

func (n *line) record(name string, epochs []string) rueidis.Completed {
	if len(epochs) > 0 {
		return n.client.B().Arbitrary("MGET").Args(name).Args(epochs...).ReadOnly()
	}
	return n.client.B().Arbitrary("GET").Args(name).ReadOnly()
}

// cut ends whatever is under way on the connection. That TLS would say good-bye could take as long as what it ends.
func (n *line) cut() {
	conn := n.conn
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	_ = conn.Close()
}

// ready is the connection, if there is one that can be used; otherwise one is made, for later reads. The caller holds mu.
func (l *lone) ready(now time.Duration) *line {
	w := l.main.wire.Load()
	if w == nil || w.conn == nil || w.Lost() { // the shared connection has to be made first
		return nil
	}
	if l.line != nil && (l.line.beside != w.conn || now-l.line.used >= loneIdle) {
		l.drop(nil)
	}
	if l.line == nil && !l.making && !l.closed && now >= l.rest {
		l.making = true
		l.made.Go(func() { l.dial(w.conn) })
	}
	return l.line
}

// dial makes a connection. The client would make another one behind our back when it is lost: it gets one only.
func (l *lone) dial(beside *watched) {
	n := &line{beside: beside, headKey: l.headKey, fields: l.fields, used: store.Awake()}
	n.give, n.looked = n.cut, n.used-loneLook
	option, dial := l.option, dialOf(l.option)
	option.DialFn = nil //nolint:forbidigo // the client's name for it
	//nolint:forbidigo // see above
	option.DialCtxFn = func(ctx context.Context, address string, d *net.Dialer, config *tls.Config) (net.Conn, error) {
		if n.conn != nil {
			return nil, net.ErrClosed
		}
		conn, err := dial(ctx, address, d, config)
		if err == nil {
			n.conn = conn
		}
		return conn, err
	}
	client, err := rueidis.NewClient(option)
	n.client = client
	l.mu.Lock()
	defer l.mu.Unlock()
	l.making = false
	switch {
	case err != nil || client == nil:
		l.logger.Debug("no connection for a lone reader", slog.Any("err", err))
		l.rest = store.Awake() + loneRest
		if client != nil {
			client.Close()
		}
	case l.closed:
		client.Close()
	default:
		l.line = n
	}
}

// drop ends the connection; why is nil where nothing is wrong with the server. The caller holds mu.
func (l *lone) drop(why error) {
	if l.line == nil {
		return
	}
	l.line.cut()
	l.line.client.Close()
	l.line = nil
	if why != nil {
		l.logger.Debug("the connection for a lone reader has ended", slog.Any("err", why))
		l.rest = store.Awake() + loneRest
	}
}

// close ends the connection for good.
func (l *lone) close() {
	l.mu.Lock()
	l.closed = true
	l.drop(nil)
	l.mu.Unlock()
	l.made.Wait()
}
