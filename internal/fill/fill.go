// Package fill is the one read path, shared by library and gateway: a hit from the store, or a load from the database
// that is filled under the rules R0 to R6 of docs/protocol.md, or, where the cache cannot be used, a load alone.
package fill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/near"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/mvcc"
)

// Store is what reading needs of the store.
type Store interface {
	Names
	Records
}

// Records are the records of keys, by name.
type Records interface { //nolint:interfacebloat // what one key's record goes through, and the count beside it
	Read(ctx context.Context, name string) ([]byte, error)
	ReadTied(ctx context.Context, name string, epochs []string) (store.Tied, error)
	ReadWithHead(ctx context.Context, name string, epochs []string) (head fence.Head, found bool, record store.Tied, err error)
	Epochs(ctx context.Context, epochs []string) ([]string, error)
	Pin(ctx context.Context, epochs []string, life time.Duration) (store.Pinned, error)
	Tick(ctx context.Context, lane int) (fence.Tick, error)
	Lease(ctx context.Context, name string, token fence.Token, lasts time.Duration) (store.LeaseReply, error)
	LeaseOver(ctx context.Context, name, dead string, token fence.Token, lasts time.Duration) (store.LeaseReply, error)
	Fill(ctx context.Context, name string, f store.FillRequest) (fence.FillOutcome, error)
	Renew(ctx context.Context, name string, q store.RenewRequest) (fence.FillOutcome, error)
	Release(ctx context.Context, name string, token fence.Token) error
	Early(ctx context.Context, key store.Stamped) error
}

// Lone is a Store that reads in another way where nobody else does: what is found is a hit only under the names.
type Lone interface {
	ReadUnder(ctx context.Context, name string, epochs []string, under *store.Under) (store.Tied, error)
}

// Names is what a Store says of live names, and is told of their use.
type Names interface {
	Lanes() int
	Heads(ctx context.Context) []store.LaneHead
	Roster(ctx context.Context) ([]byte, bool, error)
	Register(ctx context.Context, u store.Use, who string, lasts time.Duration) error
	Note(ctx context.Context, notes []store.Note) error
}

// Loader is what reading needs of the database.
type Loader interface {
	Load(ctx context.Context, sql string, result rule.Result, args []keytext.Arg) (pgload.Loaded, error)
	LoadTagged(ctx context.Context, q pgload.Query, args []keytext.Arg) (pgload.Loaded, error)
	LoadChanged(ctx context.Context, q pgload.Query, args []keytext.Arg, known pgload.Known) (pgload.Loaded, error)
	LoadFunc(ctx context.Context, load LoadFunc) (pgload.Loaded, error)
	Types(ctx context.Context, sql string) ([]keytext.Type, error)
	Visible(ctx context.Context) (mvcc.Snapshot, pgload.Server, error)
}

// LoadFunc loads one value of an entry that code loads: JSON, and whether there is such a thing.
type LoadFunc = pgload.Func

// Status says where a value came from.
type Status uint8

// The statuses of a value.
const (
	_           Status = iota
	Hit                // from the store
	Miss               // from the database, under a lease
	Bypass             // from the database; the cache could not be used, for Value.Reason
	Revalidated        // from the store, and the database has said that it has the same
	Stale              // from the store, and invalidated, for Value.Reason
)

// String is the status as HTTP answers spell it.
func (s Status) String() string {
	switch s {
	case Hit:
		return "hit"
	case Miss:
		return "miss"
	case Bypass:
		return "bypass"
	case Revalidated:
		return "revalidated"
	case Stale:
		return "stale"
	}
	return fmt.Sprintf("Status(%d)", uint8(s))
}

// Value is what was read. Payload may be shared with other readers and is not to be changed.
type Value struct {
	Found   bool
	Payload []byte
	Status  Status
	Reason  string // of a Bypass, or why a Miss was not filled, or what was Revalidated not renewed, or why it is Stale
	Name    string // the key in the store; empty when there is none

	coverage  fence.Coverage // of a load, or of a hit under a demand
	server    pgload.Server  // whom the coverage is of
	confirmed mvcc.Snapshot  // of a hit under a demand: what the store had confirmed
	record    []byte         // of a hit

	StaleBy time.Duration // how long ago a Stale one was invalidated
	held    *near.Held    // of a hit that is held in memory
	under   *confirmation // of such a hit
	lane    int
}

// Stamp says when the value was loaded, by the clock of the store or, just now, of this process, and what it covers.
func (v *Value) Stamp() (filled time.Time, c fence.Coverage) {
	if v.record == nil {
		return time.Now(), v.coverage
	}
	record, err := fence.ParseRecord(v.record)
	if err != nil {
		return time.Time{}, fence.Coverage{} // live, and otherwise not readable: nothing is known of it
	}
	return time.UnixMicro(record.Filled), record.Coverage
}

var (
	// ErrUnknownEntry is the error of an entry that is not declared.
	ErrUnknownEntry = errors.New("no such entry")
	// ErrArguments is wrapped by errors of arguments that the entry's key cannot have.
	ErrArguments = errors.New("wrong arguments")
	// ErrUnavailable is the error when neither cache nor database can answer.
	ErrUnavailable = errors.New("neither cache nor database can answer")
	// ErrTimeout is the error of a value that did not come within the entry's load timeout.
	ErrTimeout = errors.New("the value did not come within the load timeout")
	// ErrNoLoader is the error of a value that is not cached and that only the application's code can load.
	ErrNoLoader = errors.New("the entry is loaded by application code, and its value is not cached")
	// ErrClosed is the error of a Reader that was closed.
	ErrClosed = errors.New("closed")
)

// Reader reads entries. Its methods may be called from any number of goroutines.
type Reader struct {
	namespace  string
	store      Store
	loader     Loader
	logger     *slog.Logger
	observer   Observer
	entries    map[string]*declared
	loads      chan struct{} // one token for each load under way
	pairs      chan struct{} // held by a load that takes two
	waiting    atomic.Int64  // loads that wait for one
	mayWait    int64         // so many at most
	breaker    breaker
	eager      eagers
	skew       skew
	standbys   []*standby
	followed   time.Duration
	turn       atomic.Uint64 // of the standbys
	stats      counters
	notes      notes
	clock      func() time.Duration
	ticks      [fence.Lanes]ticks // by lane
	sights     sights
	place      whereabouts // of the loader
	remembered remembered
	lanesOf    int // the store
	batches    Batches
	many       ManyLoader
	near       *near.Store // nil: nothing is held
	tells      Tells       // of the store; nil: of what is in it nobody holds anything
	rings      Rings       // of the store; nil: it does not
	lone       Lone        // the store; nil: it reads in one way, or what is read is held
	gauge      near.Gauge
	leases     together[leased]
	glances    together[looked]

	confirmWithin, fillWithin time.Duration // what the store may take

	confirmed atomic.Pointer[confirmation]
	asking    chan struct{} // held by whoever confirms the roster
	stale     chan struct{} // asks the confirmer to confirm
	closing   chan struct{}
	running   sync.WaitGroup

	process    string          // who registers
	uses       chan []use      // asks the confirmer to register them
	registered time.Duration   // when that was asked last, a time of store.Awake; of whoever holds asking
	unknown    map[string]bool // entries of which it was said that the daemon does not know them; of whoever holds asking

	mu      sync.Mutex
	closed  bool
	cancels map[*context.CancelFunc]struct{}
	flights map[fence.Token]*flight
	lanes   map[string]*lane

	sighting *sighting // the last look at what is visible
}

// declared is an entry with what follows from its declaration.
type declared struct {
	Entry
	name     string
	digest   string
	template *rule.Template
	loads    chan struct{}                // as of the Reader; nil: no limit of its own
	types    atomic.Pointer[[]rule.Param] // of an entry that no roster knows
	seen     atomic.Pointer[[]rule.Param] // as the last roster had them
	batch    atomic.Pointer[rule.Batch]   // the same
	nests    atomic.Bool                  // its code was seen to read through the cache
	told     atomic.Bool                  // the log was
}

// New makes a Reader. It does not need store or database to be there.
func New(o Options) (*Reader, error) {
	r := &Reader{
		namespace: o.Namespace, store: o.Store, loader: o.Loader, logger: o.Logger, clock: o.Clock, followed: cmp.Or(o.Followed, Followed), entries: map[string]*declared{},
		observer: o.Observer,
		loads:    make(chan struct{}, o.loads()),
		mayWait:  queuePerLoad * int64(cmp.Or(o.MaxLoads, defaultLoads)),
		pairs:    make(chan struct{}, 1),
		asking:   make(chan struct{}, 1),
		stale:    make(chan struct{}, 1),
		closing:  make(chan struct{}),
		process:  process(),
		uses:     make(chan []use, 1),
		unknown:  map[string]bool{},
		cancels:  map[*context.CancelFunc]struct{}{},
		flights:  map[fence.Token]*flight{},
		lanes:    map[string]*lane{},
		lanesOf:  o.Store.Lanes(),

		confirmWithin: cmp.Or(o.Patience, confirmTimeout),
		fillWithin:    cmp.Or(o.Patience, fillTimeout),
	}
	r.remembered.seed, r.eager.seed = maphash.MakeSeed(), maphash.MakeSeed()
	r.eager.slots = make(chan struct{}, max(cap(r.loads)/eagerShare, 1))
	r.batches, r.many = batchesOf(o.Store), manyOf(o.Loader)
	r.rings, _ = o.Store.(Rings)
	if o.Near == nil {
		r.lone, _ = o.Store.(Lone)
	}
	if tells, ok := o.Store.(Tells); ok {
		if r.tells = tells; o.Near != nil {
			r.near = o.Near
		}
	}
	if r.logger == nil {
		r.logger = slog.New(slog.DiscardHandler)
	}
	for i, replica := range o.Replicas {
		r.standbys = append(r.standbys, &standby{replica: replica, number: i + 1})
	}
	if r.clock == nil {
		r.clock = store.Awake
	}
	r.breaker.logger = r.logger
	for name, e := range o.Entries {
		template, err := rule.ParseTemplate(e.Declared.Key)
		if err != nil {
			return nil, fmt.Errorf("entry %s: %w", name, err)
		}
		e.LoadTimeout = cmp.Or(e.LoadTimeout, defaultLoadTimeout)
		e.TTL = cmp.Or(e.TTL, defaultTTL)
		e.NegativeTTL = cmp.Or(e.NegativeTTL, defaultNegativeTTL)
		d := &declared{Entry: e, name: name, digest: e.Declared.Digest(), template: template}
		if e.MaxLoads > 0 {
			d.loads = make(chan struct{}, e.MaxLoads)
		}
		r.entries[name] = d
	}
	r.running.Go(r.keepConfirmed)
	return r, nil
}

// Close ends loads that are under way; whoever waits for one gets ErrClosed. Store and Loader are the caller's.
func (r *Reader) Close() {
	r.mu.Lock()
	if !r.closed {
		r.closed = true
		close(r.closing)
		for cancel := range r.cancels {
			(*cancel)()
		}
	}
	r.mu.Unlock()
	r.running.Wait()
}

// attempts is how often a read begins anew because names moved under it.
const attempts = 3

// Get reads one value. args are canonical, in the order of the key's parameters. load is for entries that code loads,
// and nil for others.
//
// Read is better where arguments are made from something else: the types of parameters may change with the roster.
func (r *Reader) Get(ctx context.Context, entry string, args []keytext.Arg, load LoadFunc) (Value, error) {
	return r.Read(ctx, entry, canonical(args), load)
}

// Key is something that can be made into the canonical arguments for an entry's parameters.
type Key interface {
	// Args returns one argument for each parameter. It may be called several times; what it returns is not changed, and
	// not kept past the end of the read.
	Args(params []rule.Param) ([]keytext.Arg, error)
}

// canonical arguments are their own key.
type canonical []keytext.Arg

func (c canonical) Args([]rule.Param) ([]keytext.Arg, error) { return c, nil }

// Read reads one value, of the key that is made for the parameters of the very roster that the read
// happens under. An error of the key is returned with ErrArguments.
func (r *Reader) Read(ctx context.Context, entry string, key Key, load LoadFunc) (Value, error) {
	return r.plain(ctx, entry, key, load, false)
}

// plain is Read, of nothing stale where fresh is asked for.
func (r *Reader) plain(ctx context.Context, entry string, key Key, load LoadFunc, fresh bool) (Value, error) {
	if nests(ctx, entry) {
		return r.ReadUnder(ctx, entry, key, load, &Demand{Past: true})
	}
	e := r.entries[entry]
	if e == nil {
		return Value{}, fmt.Errorf("entry %s: %w", entry, ErrUnknownEntry)
	}
	// All that follows comes out of one load timeout, which begins here. A hit has no timer of its own: the store's client
	// bounds the wait for its answer.
	var began time.Time
	for i := range attempts {
		c, called := r.names(ctx)
		if i == 0 {
			began = called
		}
		live, why := c.live(e)
		if live == nil {
			return r.readAlone(ctx, began, e, key, load, nil, why)
		}
		args, err := e.args(key, live.entry.Params)
		if err != nil {
			return Value{}, err
		}
		var space [192]byte
		spelled, lane, unusable := c.spell(space[:0], live, e.template, args)
		if unusable != 0 {
			return r.bypass(ctx, &want{e: e, l: live, args: slices.Clone(args), load: load, came: began, began: began}, unusable)
		}
		if v, ok := r.recall(c, e, spelled, lane); ok {
			return v, nil
		}
		name := string(spelled)
		seen, err := r.first(ctx, c, e, live, name, args)
		if err != nil {
			if ctx.Err() != nil {
				return Value{}, fmt.Errorf("entry %s: %w", entry, ctx.Err())
			}
			return r.bypass(ctx, &want{e: e, l: live, args: slices.Clone(args), load: load, came: began, began: began}, r.failed(c, lane, err))
		}
		if !seen.hit {
			v, again, err := r.miss(ctx, &want{
				e: e, l: live, c: c, name: name, at: seen.at, dead: seen.dead, args: slices.Clone(args), load: load, came: began, began: began,
				fresh: fresh,
			})
			if again {
				continue
			}
			return v, err
		}
		if r.stillConfirmed(c, lane) {
			r.stats.hits.Add(1)
			if e.Eager > 0 {
				r.ahead(ctx, &want{e: e, l: live, c: c, name: name, at: seen.at, args: args, load: load}, seen.text)
			}
			return Value{
				Found: seen.found, Payload: seen.payload, Status: Hit, Name: name, record: seen.text, held: seen.held, under: c, lane: lane,
			}, nil
		}
		r.stats.dropped.Add(1)
	}
	return r.readAlone(ctx, began, e, key, load, nil, namesMoved)
}

// first is what a plain read finds in the store (R1).
type first struct {
	text, payload []byte
	hit, found    bool
	at            *place // of an entry with epochs
	dead          string // what is there and tied to epochs that do not hold
	held          *near.Held
}

func (r *Reader) first(ctx context.Context, c *confirmation, e *declared, l *live, name string, args []keytext.Arg) (f first, err error) {
	if l.ties != nil {
		f.at = l.ties.place(name, c.keyFrom(l), args)
		f.at.e = e
		p, err := r.peek(ctx, f.at, c.under)
		f.text, f.payload, f.hit, f.found, f.dead, f.held = p.text, p.record.Payload, p.hit, p.record.State == fence.Live, p.dead, p.held
		return f, err
	}
	x := r.expect(e, name)
	defer x.cancel()
	if r.lone != nil {
		var held store.Tied
		held, err = r.lone.ReadUnder(ctx, name, nil, c.under)
		f.text = held.Text
	} else {
		f.text, err = r.store.Read(ctx, name)
	}
	if err != nil || f.text == nil {
		return f, err
	}
	if f.payload, f.found, f.hit = fence.Hit(f.text); !f.hit {
		if _, err := fence.ParseRecord(f.text); err != nil {
			r.stats.corrupt.Add(1) // a LEASE puts a record in its place
		}
		return f, nil
	}
	f.held = x.keepPlain(name, f.text)
	return f, nil
}

// readAlone reads an entry that no roster knows.
func (r *Reader) readAlone(
	ctx context.Context, began time.Time, e *declared, key Key, load LoadFunc, n *need, why bypassReason,
) (Value, error) {
	params, err := r.described(ctx, began, e)
	if err != nil {
		return Value{}, err
	}
	args, err := e.args(key, params)
	if err != nil {
		return Value{}, err
	}
	return r.bypass(ctx, &want{e: e, args: slices.Clone(args), load: load, n: n, came: time.Now(), began: began}, why)
}

func (e *declared) args(key Key, params []rule.Param) ([]keytext.Arg, error) {
	args, err := key.Args(params)
	if err != nil {
		return nil, fmt.Errorf("entry %s: %w: %w", e.name, ErrArguments, err)
	}
	if len(args) != len(params) {
		return nil, fmt.Errorf("entry %s: it takes %d arguments, not %d: %w", e.name, len(params), len(args), ErrArguments)
	}
	return args, nil
}

// hit is a live record that was found on the way to a load, under a HEAD.
func hit(name string, record fence.Record, head *fence.Head) Value {
	return Value{
		Found: record.State == fence.Live, Payload: record.Payload, Status: Hit, Name: name, record: record.Append(nil),
		coverage: record.Coverage, server: pgload.Server{System: head.System, Timeline: head.Timeline},
	}
}

// shorten takes up to the entry's jitter off a TTL, so that values filled together do not end together.
func (e *declared) shorten(ttl time.Duration) time.Duration {
	return ttl - time.Duration(rand.Float64()*e.Jitter*float64(ttl)) //nolint:gosec // spread, no secret
}
