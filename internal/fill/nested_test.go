package fill_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/mvcc"
)

// nested is a world with queries and code, and a Reader of all of them.
type nested struct {
	*withEpochs
	r   *fill.Reader
	log *journal
}

func newNested(t *testing.T, o fill.Options) *nested {
	t.Helper()
	n := &nested{withEpochs: newHand(t), log: &journal{}}
	n.reader(o)
	return n
}

// reader opens the Reader.
func (n *nested) reader(o fill.Options) {
	n.t.Helper()
	o.Entries = map[string]fill.Entry{}
	declared := declarations()
	for _, d := range handDeclarations() {
		declared[d.Name] = d
	}
	unknown := declared["code"] // to the daemon
	unknown.Name, unknown.Key = "unknown", "unknown:{id}"
	declared["unknown"] = unknown
	for name, d := range declared {
		o.Entries[name] = fill.Entry{Declared: d, TTL: time.Minute, NegativeTTL: time.Minute, LoadTimeout: 4 * time.Second, LoadUnproved: true}
		if name == "code" {
			e := o.Entries[name]
			e.MaxLoads = 2
			o.Entries[name] = e
		}
	}
	o.Namespace, o.Store, o.Patience = n.namespace, n.store, n.patience
	o.Logger = slog.New(slog.NewTextHandler(n.log, nil))
	if o.Loader == nil {
		o.Loader = n.loader
	}
	var err error
	if n.r, err = fill.New(o); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(n.r.Close)
}

// through is code that has a product by the Reader.
func (n *nested) through(id string) fill.LoadFunc {
	return func(ctx context.Context, _ pgload.Querier) ([]byte, bool, error) {
		v, err := n.r.Get(ctx, "product", arg(id), nil)
		return v.Payload, err == nil, err
	}
}

// TestNestedReadIsNotStored: what code makes of a cached value may be as old as that, while its transaction's snapshot is new.
func TestNestedReadIsNotStored(t *testing.T) {
	t.Parallel()
	n := newNested(t, fill.Options{})
	read(t, n.r, 1, fill.Miss, price(1, 10))
	read(t, n.r, 2, fill.Miss, price(2, 20))
	n.reprice() // nobody has applied it yet
	many := func(ctx context.Context, _ pgload.Querier) ([]byte, bool, error) {
		a := n.r.GetMany(ctx, "product", [][]keytext.Arg{arg("1"), arg("2")}, &fill.Demand{})
		return a[0].Value.Payload, a[0].Err == nil, a[0].Err
	}
	under := func(ctx context.Context, _ pgload.Querier) ([]byte, bool, error) {
		v, err := n.r.GetUnder(ctx, "product", arg("1"), nil, &fill.Demand{Session: &fill.Session{}})
		return v.Payload, err == nil, err
	}
	for i, load := range []fill.LoadFunc{n.through("1"), many, under} {
		for _, entry := range []string{"code", "hand"} {
			for range 2 {
				v, err := n.r.Get(t.Context(), entry, arg(strconv.Itoa(i)), load)
				if err != nil || v.Status != fill.Miss || v.Reason != "nested_read" || string(v.Payload) != price(1, 10) {
					t.Errorf("%s %d: %v (%s) %s, %v", entry, i, v.Status, v.Reason, v.Payload, err)
				}
			}
		}
	}
	if s := n.r.Stats(); s.Refused["nested_read"] != 12 || s.Fills != 2 {
		t.Errorf("Stats = %+v", s)
	}
	if n.log.count("reads another entry through the cache") != 2 || n.log.count("entry=code reads=product") != 1 {
		t.Errorf("the log:\n%s", n.log.text.String())
	}
	for _, status := range []fill.Status{fill.Miss, fill.Hit} { // it says that it covers nothing
		v, err := n.r.Get(t.Context(), "away", arg("1"), n.through("1"))
		if err != nil || v.Status != status || string(v.Payload) != price(1, 10) {
			t.Errorf("covers none: %v (%s) %s, %v", v.Status, v.Reason, v.Payload, err)
		}
	}
	for _, status := range []fill.Status{fill.Miss, fill.Hit} { // by q alone
		v, err := n.r.Get(t.Context(), "code", arg("9"), func(ctx context.Context, q pgload.Querier) (text []byte, found bool, err error) {
			err = q.QueryRow(ctx, "SELECT price::text FROM product WHERE id = 1").Scan(&text)
			return text, true, err
		})
		if err != nil || v.Status != status || string(v.Payload) != "11" {
			t.Errorf("by q: %v (%s) %s, %v", v.Status, v.Reason, v.Payload, err)
		}
	}
}

// TestNestedReadUnderADemand: a read that asks for more than what is cached is given nothing that was made of something older, also where
// others wait for such a value of the same key.
func TestNestedReadUnderADemand(t *testing.T) {
	t.Parallel()
	n := newNested(t, fill.Options{})
	read(t, n.r, 1, fill.Miss, price(1, 10))
	system, _, err := n.loader.System(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	token := mvcc.Token{System: system, Timeline: 1, XID: n.reprice()}
	many := func(ctx context.Context, _ pgload.Querier) ([]byte, bool, error) {
		a := n.r.GetMany(ctx, "product", [][]keytext.Arg{arg("1"), arg("2")}, &fill.Demand{})
		return a[0].Value.Payload, a[0].Err == nil, a[0].Err
	}
	under := func(ctx context.Context, _ pgload.Querier) ([]byte, bool, error) {
		v, err := n.r.GetUnder(ctx, "product", arg("1"), nil, &fill.Demand{Session: &fill.Session{}})
		return v.Payload, err == nil, err
	}
	slow := func(load fill.LoadFunc) fill.LoadFunc {
		return func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
			payload, found, err := load(ctx, q)
			pause(t, 200*time.Millisecond)
			return payload, found, err
		}
	}
	for i, d := range []*fill.Demand{
		{After: []mvcc.Token{token}}, {Bounded: true}, {Revalidate: true}, {Past: true}, {After: []mvcc.Token{token}, Session: &fill.Session{}},
	} {
		for j, load := range []fill.LoadFunc{n.through("1"), many, under} {
			key := arg(strconv.Itoa(10*i + j))
			var others sync.WaitGroup
			for range 3 { // one has the lease; the others wait for it in vain, and then load together
				others.Go(func() {
					if v, err := n.r.Get(t.Context(), "plain", key, slow(load)); err != nil {
						t.Errorf("a plain read beside %+v: %v %s, %v", d, v.Status, v.Payload, err)
					}
				})
			}
			pause(t, 50*time.Millisecond)
			v, err := n.r.GetUnder(t.Context(), "plain", key, load, d)
			if err != nil || string(v.Payload) != price(1, 11) {
				t.Errorf("%+v: %v (%s) %s, %v", d, v.Status, v.Reason, v.Payload, err)
			}
			others.Wait()
		}
	}
	if v, err := n.r.Get(t.Context(), "plain", arg("1"), n.through("1")); err != nil || string(v.Payload) != price(1, 10) || v.Reason != "nested_read" {
		t.Errorf("a plain read: %v (%s) %s, %v", v.Status, v.Reason, v.Payload, err)
	}
}

// TestNestedReadPastTheCache: a read past the cache does not join a load that others wait for, whose code may read what is cached.
func TestNestedReadPastTheCache(t *testing.T) {
	t.Parallel()
	n := newNested(t, fill.Options{})
	read(t, n.r, 1, fill.Miss, price(1, 10))
	n.reprice()
	slow := func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
		pause(t, 300*time.Millisecond)
		return n.through("1")(ctx, q)
	}
	var others sync.WaitGroup
	for range 2 { // the second is to load after the first
		others.Go(func() {
			v, err := n.r.Get(t.Context(), "unknown", arg("1"), slow)
			if err != nil || v.Status != fill.Bypass || string(v.Payload) != price(1, 10) {
				t.Errorf("a plain read: %v (%s) %s, %v", v.Status, v.Reason, v.Payload, err)
			}
		})
		pause(t, 100*time.Millisecond)
	}
	v, err := n.r.GetUnder(t.Context(), "unknown", arg("1"), n.through("1"), &fill.Demand{Past: true})
	if err != nil || string(v.Payload) != price(1, 11) {
		t.Errorf("%v (%s) %s, %v", v.Status, v.Reason, v.Payload, err)
	}
	others.Wait()
}

// TestNestedLoadsNeedNoPlaceOfTheirOwn: the loads that wait for them hold all there are.
func TestNestedLoadsNeedNoPlaceOfTheirOwn(t *testing.T) {
	t.Parallel()
	n := newNested(t, fill.Options{MaxLoads: 1})
	began := time.Now()
	for i := range 3 {
		id := strconv.Itoa(i + 1)
		v, err := n.r.Get(t.Context(), "code", arg(id), n.through(id))
		if err != nil || string(v.Payload) != price(i+1, 10*(i+1)) {
			t.Errorf("%v %s, %v", v.Status, v.Payload, err)
		}
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
	// Of the entry's own two places neither.
	deep := func(id string, then fill.LoadFunc) fill.LoadFunc {
		return func(ctx context.Context, _ pgload.Querier) ([]byte, bool, error) {
			v, err := n.r.Get(ctx, "code", arg(id), then)
			return v.Payload, err == nil, err
		}
	}
	v, err := n.r.Get(t.Context(), "code", arg("11"), deep("12", deep("13", n.through("9"))))
	if err != nil || string(v.Payload) != price(9, 90) {
		t.Errorf("%v %s, %v", v.Status, v.Payload, err)
	}
}

// TestNestedLoadsHaveConnections: once code was seen to load through the cache, so many run at a time that there is a connection for what each
// waits for.
func TestNestedLoadsHaveConnections(t *testing.T) {
	t.Parallel()
	const most = 3
	n := newNested(t, fill.Options{})
	config, err := pgxpool.ParseConfig(n.url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = most
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	n.reader(fill.Options{MaxLoads: most, Loader: pgload.New(pool)})
	if v, err := n.r.Get(t.Context(), "plain", arg("1"), n.through("1")); err != nil {
		t.Fatalf("%v, %v", v, err)
	}
	began := time.Now()
	var all sync.WaitGroup
	for i := range 4 * most {
		id := strconv.Itoa(i + 2)
		all.Go(func() {
			v, err := n.r.Get(t.Context(), "plain", arg(id), func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
				pause(t, 50*time.Millisecond) // all that may have begun by then
				return n.through(id)(ctx, q)
			})
			if err != nil || string(v.Payload) != price(i+2, 10*(i+2)) {
				t.Errorf("%v %s, %v", v.Status, v.Payload, err)
			}
		})
	}
	all.Wait()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestCodeThatReadsWhatItLoads would wait for itself.
func TestCodeThatReadsWhatItLoads(t *testing.T) {
	t.Parallel()
	n := newNested(t, fill.Options{})
	var itself fill.LoadFunc
	itself = func(ctx context.Context, _ pgload.Querier) ([]byte, bool, error) {
		v, err := n.r.Get(ctx, "code", arg("1"), itself)
		return v.Payload, err == nil, err
	}
	another := func(ctx context.Context, _ pgload.Querier) ([]byte, bool, error) {
		v, err := n.r.Get(ctx, "plain", arg("1"), itself)
		return v.Payload, err == nil, err
	}
	for name, load := range map[string]fill.LoadFunc{"itself": itself, "through another": another} {
		for _, d := range []*fill.Demand{{}, {Past: true}} {
			began := time.Now()
			_, err := n.r.GetUnder(t.Context(), "code", arg("1"), load, d)
			if took := time.Since(began); !errors.Is(err, fill.ErrRecursion) || took > 2*time.Second {
				t.Errorf("%s, %+v: %v, after %s", name, d, err, took)
			}
		}
	}
}

// TestErrorsOfCodeBreakNothing: code whose other service is down says nothing of the database, which everybody else goes on to be loaded from.
func TestErrorsOfCodeBreakNothing(t *testing.T) {
	t.Parallel()
	n := newNested(t, fill.Options{})
	for i := range 20 {
		var down error = &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
		if i < 10 {
			down = fmt.Errorf("%w: %w", pgload.ErrUnavailable, io.EOF) // of another database, of another cache
		}
		_, err := n.r.Get(t.Context(), "away", arg(strconv.Itoa(i)), func(context.Context, pgload.Querier) ([]byte, bool, error) { return nil, false, down })
		if !errors.Is(err, down) {
			t.Errorf("%d: %v", i, err)
		}
	}
	read(t, n.r, 1, fill.Miss, price(1, 10))
	if s := n.r.Stats().Database; s.Opened != 0 || s.Refused != 0 {
		t.Errorf("%+v", s)
	}
}
