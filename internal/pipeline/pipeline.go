// Package pipeline runs the daemon's main loop: it takes the stream up where the store has it, or starts a new
// generation where it cannot, then reads, routes, applies and confirms until something breaks, and begins again.
package pipeline

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/apply"
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/pggate"
	"github.com/freshet/freshet/internal/pgsource"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/internal/trail"
)

// Compiled is what the entries of the configuration come to in the database as it is now.
type Compiled struct {
	Entries []*rule.Entry
	Tables  []schema.Name            // every table that a rule of Entries names
	Keys    map[schema.Name][]string // the columns of the primary keys of tables that have one
	// Refused are entries that cannot be planned, with the reason: readers load them from the database.
	Refused map[string]string
	// Templates are the keys of refused entries, as the configuration has them.
	Templates map[string]string
	// Mentioned are tables and views that refused entries may read: once they look otherwise, the entries are planned anew.
	Mentioned []schema.Name
	// Called are names, without schemas, of functions of users that entries call, refused ones too, and Functions what those of
	// these names were made of when the entries were planned: once they are made otherwise, the entries are planned anew.
	Called    []string
	Functions map[schema.Name]string
	// Retained are the versions that were asked for besides, less those that the configuration declares itself, and those
	// that cannot be planned any more.
	Retained []*rule.Entry
}

// all are the tables and the views of all versions, and those that refused entries may read.
func (c *Compiled) all() []schema.Name {
	all := slices.Clone(c.Tables)
	add := func(name schema.Name) {
		if !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	for _, name := range c.Mentioned {
		add(name)
	}
	for _, e := range slices.Concat(c.Entries, c.Retained) {
		for _, r := range e.Rules {
			add(schema.Name{Schema: r.Schema, Name: r.Table})
		}
		for _, v := range e.Views {
			add(schema.Name{Schema: v.Schema, Name: v.Name})
		}
	}
	return all
}

// CompileFunc plans the entries against the database's catalog. When it is strict, an entry that is refused is an error
// that wraps ErrRefused; otherwise the others go on without it. retained are versions of entries that another file
// declares or declared; one of them that cannot be planned is left out, and is said to be.
type CompileFunc func(ctx context.Context, conn *pgx.Conn, retained []rule.Declared, strict bool) (*Compiled, error)

// ErrRefused is wrapped by errors that end the pipeline: what was asked for cannot be had until someone changes the
// configuration or the database.
var ErrRefused = errors.New("refused")

// Options configure a Pipeline.
type Options struct {
	URL         string // of the database whose log is followed
	Slot        string
	Publication string
	Namespace   string
	Store       Store
	Compile     CompileFunc
	Rewind      apply.Rewind
	Observe     func(committed time.Time)
	Refresher   apply.Refresher // nil: nothing that was invalidated is loaded again
	Logger      *slog.Logger
	// Unused is how long a version that only other files declare is retained at least after its use was last seen (D7).
	// Default: 1 minute.
	Unused time.Duration
	// SweepAfter is how long names have to be quiet before the records of dead ones are swept. Default: 1 minute.
	SweepAfter time.Duration
}

// mark is what this daemon's row in freshet.alive is called.
func (o *Options) mark() string { return pggate.Mark(o.Namespace, o.Slot) }

// Pipeline is the loop and what it knows of itself.
type Pipeline struct {
	opts      Options
	state     state
	gap       string // a gap that the next session has to answer with a new generation
	condemned bool   // what was cached before the gap was taken out of use, in the history that the store had then
	term      fence.Term
	tables    []schema.Name       // those that were planned last
	kept      map[store.Use]*kept // versions of entries that were found in a roster
	followed  bool                // the log was followed once: what is wrong now went wrong later, and may be mended meanwhile
	replan    chan struct{}       // capacity 1: what Compile plans is another thing now
	trail     *trail.Log
}

// New makes a Pipeline.
func New(opts Options) *Pipeline {
	opts.Unused = cmp.Or(opts.Unused, unusedFor)
	opts.SweepAfter = cmp.Or(opts.SweepAfter, sweepAfter)
	p := &Pipeline{opts: opts, kept: map[store.Use]*kept{}, replan: make(chan struct{}, 1), trail: trail.New(0)}
	p.state.status = Status{Phase: Connecting, Since: time.Now()}
	return p
}

// Replan has the entries planned anew, for what Compile plans has changed. It returns at once. Entries that come to the same plan
// stay as they are, and what is cached of them; the log is taken up where it was left.
func (p *Pipeline) Replan() {
	select {
	case p.replan <- struct{}{}:
	default:
	}
}

// Status says what the pipeline is doing.
func (p *Pipeline) Status() Status { return p.state.read() }

// Stats are the applier's counters over all sessions.
func (p *Pipeline) Stats() *apply.Stats { return &p.state.apply }

// Trail remembers what the log did to keys.
func (p *Pipeline) Trail() *trail.Log { return p.trail }

// Rows counts the rows that were routed.
func (p *Pipeline) Rows() *atomic.Uint64 { return &p.state.rows }

// How long the pipeline waits between two attempts.
const (
	firstRetry   = 100 * time.Millisecond
	lastRetry    = 5 * time.Second
	standbyRetry = 500 * time.Millisecond
	// steady is how long a session lasts that did not fail at once: after it, retries begin anew.
	steady = 10 * time.Second
)

// Run follows the log until ctx ends, and returns nil then, with everything applied that had been read. It returns
// an error only for what no retry can mend.
func (p *Pipeline) Run(ctx context.Context) error {
	defer p.state.update(func(st *Status) { st.Phase = Stopped })
	retry := firstRetry
	gapBefore := false
	for {
		began := time.Now()
		err := p.session(ctx)
		if ctx.Err() != nil {
			if err != nil && !errors.Is(err, context.Canceled) {
				p.opts.Logger.WarnContext(ctx, "stopped before everything was applied; it will be read again", slog.Any("err", err))
			}
			return nil
		}
		if time.Since(began) > steady {
			retry, gapBefore = firstRetry, false
		}
		var (
			setup *pgsource.SetupError
			wait  time.Duration
		)
		gap := isGap(err)
		switch {
		case errors.Is(err, errShape), errors.Is(err, errDeclared):
			p.opts.Logger.InfoContext(ctx, "planning the entries anew", slog.Any("cause", err))
		case errors.Is(err, ErrRefused), errors.As(err, &setup) && !p.followed:
			return err
		case gap && !gapBefore:
			// Answered at once, and only once: a gap that comes right again is not, since each answer costs all readers their cache.
		case errors.Is(err, pgsource.ErrSlotInUse), errors.Is(err, store.ErrSuperseded):
			p.standby(err)
			wait = standbyRetry
		default:
			wait = retry
			retry = min(2*retry, lastRetry)
			p.failed(err, wait)
		}
		gapBefore = gap
		if err := sleep(ctx, jitter(wait)); err != nil {
			return nil
		}
	}
}

func (p *Pipeline) standby(err error) {
	entered := false
	p.state.update(func(st *Status) {
		entered = st.Phase != Standby
		st.Phase, st.Problem = Standby, err.Error()
	})
	if !entered {
		return
	}
	if errors.Is(err, store.ErrSuperseded) {
		p.opts.Logger.Info("a later daemon has claimed the store; waiting as standby", slog.Any("err", err))
	} else {
		p.opts.Logger.Info("another daemon holds the slot; waiting as standby", slog.String("slot", p.opts.Slot), slog.Any("err", err))
	}
}

func (p *Pipeline) failed(err error, wait time.Duration) {
	if err == nil {
		err = errors.New("the stream ended")
	}
	p.state.update(func(st *Status) {
		st.Phase, st.Problem = Connecting, err.Error()
		st.Reconnects++
	})
	p.opts.Logger.Warn("not following the log; trying again", slog.Any("err", err), slog.Duration("retry_in", wait))
}

// declare makes a gap public. The next session starts a new generation.
func (p *Pipeline) declare(err error) error {
	cause := err.Error()
	var found *gapError
	if errors.As(err, &found) {
		cause = found.cause
	}
	p.gap = cause
	if found != nil && found.first {
		p.opts.Logger.Info("starting a new generation", slog.String("cause", cause))
		return err
	}
	now := time.Now()
	p.state.update(func(st *Status) {
		st.Gaps++
		st.LastGap, st.LastGapAt = cause, &now
	})
	p.opts.Logger.Error("gap: starting a new generation, nothing cached before it is read again", slog.String("cause", cause))
	return err
}

func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d/2 + rand.N(d) //nolint:gosec // spreads retries, guards nothing
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
