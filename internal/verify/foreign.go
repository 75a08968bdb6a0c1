package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/sqlparam"
	"github.com/freshet/freshet/internal/store"
)

// ForeignOptions say how keys that freshet does not maintain are compared with the database. Keys, Truth, Pattern and
// Query are needed.
//
// Nothing vouches for such keys, so staleness is what can be seen: a value that differs is looked at again and again, and
// is stale when the very same value differed for Grace. How long it had been so before is not known.
type ForeignOptions struct {
	Keys     Keys
	Truth    Truth
	Pattern  *Pattern
	Query    string // with parameters as @name, each of them in the pattern
	Many     bool   // the value is a list of rows
	Format   Format // default JSON
	Field    string // compare this column alone; a text is compared with the only column unless this names one
	Ignore   []string
	Sample   Sample
	Rate     float64       // values per second, those included that are looked at again; 0: as fast as it goes
	Loads    int           // loads at a time; default 4
	Grace    time.Duration // default 1 s
	Watch    time.Duration // how long a value that differs is watched; default 10 s, at least Grace
	Progress func(*Report)
}

const (
	defaultGrace = time.Second
	defaultWatch = 10 * time.Second
)

// ErrQuery wraps the error of a query that cannot be used.
var ErrQuery = errors.New("the query cannot be used")

// RunForeign compares. It fails when it cannot begin; what ends it later is in Report.Stopped, with what was found until
// then.
func RunForeign(ctx context.Context, o ForeignOptions) (*Report, error) {
	o.Loads, o.Grace, o.Format = cmp.Or(o.Loads, defaultLoads), cmp.Or(o.Grace, defaultGrace), cmp.Or(o.Format, JSON)
	o.Watch = max(o.Grace, cmp.Or(o.Watch, defaultWatch))
	f := &foreign{ForeignOptions: o, report: newReport(), meter: newMeter(o.Progress), pace: pacer{rate: o.Rate}}
	if err := f.prepare(ctx); err != nil {
		return nil, err
	}
	f.report.count(o.Pattern.String())
	err := f.walk(ctx)
	if err == nil {
		err = f.settle(ctx, 0)
	}
	for _, w := range f.watched {
		if w.last.Sub(w.found) >= f.Grace {
			f.over(w, true)
			continue
		}
		f.counts().Undecided++
		f.report.Reasons["verify ended before it could be judged"]++
	}
	f.report.end(ctx, err, f.meter.took())
	return f.report, nil
}

// foreign is one run.
type foreign struct {
	ForeignOptions
	shape   shape
	sql     string
	used    []int // the places of the query's parameters in the pattern
	result  rule.Result
	report  *Report
	meter   meter
	pace    pacer
	watched []*watched
}

// watched is a value that differs.
type watched struct {
	name  string
	args  []keytext.Arg
	text  string
	ttl   time.Duration
	truth pgload.Loaded
	found time.Time // when it was first seen to differ
	last  time.Time // when it was last seen to differ
	due   time.Time // when it is to be looked at again
}

func (f *foreign) counts() *Counts { return f.report.count(f.Pattern.String()) }

// prepare makes the query one that PostgreSQL takes, and asks it whether it does.
func (f *foreign) prepare(ctx context.Context) error {
	var err error
	if f.sql, f.used, err = numbered(f.Query, f.Pattern.Params()); err != nil {
		return err
	}
	f.result = rule.One
	if f.Many {
		f.result = rule.Many
	}
	f.shape = shape{
		format: f.Format, field: f.Field, ignore: f.Ignore, bag: f.Many && !ordered(f.sql),
	}
	return described(ctx, f.Truth, f.sql)
}

// numbered makes a query one that PostgreSQL takes. used are the places among the parameters of those that it has.
func numbered(query string, params []string) (sql string, used []int, err error) {
	rewritten, err := sqlparam.Rewrite(query, params)
	if err == nil { // once more, with those alone that it has: PostgreSQL wants no gaps between their numbers
		rewritten, err = sqlparam.Rewrite(query, rewritten.Used)
	}
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w", ErrQuery, err)
	}
	for _, name := range rewritten.Used {
		used = append(used, slices.Index(params, name))
	}
	return rewritten.SQL, used, nil
}

// described asks PostgreSQL whether it takes a query.
func described(ctx context.Context, truth Truth, sql string) error {
	_, err := truth.Describe(ctx, sql)
	if _, refused := errors.AsType[*pgload.QueryError](err); refused {
		return fmt.Errorf("%w: %w", ErrQuery, err)
	}
	return err
}

func (f *foreign) walk(ctx context.Context) error {
	if f.Sample.Count == 0 {
		return f.Keys.Walk(ctx, f.Pattern.Glob(), func(found []string) error {
			return f.checkAll(ctx, slices.DeleteFunc(found, func(name string) bool { return !f.Sample.has(name) }))
		})
	}
	some := newReservoir(f.Sample)
	err := f.Keys.Walk(ctx, f.Pattern.Glob(), func(found []string) error {
		for _, name := range found {
			if _, ok := f.Pattern.Match(name); ok {
				some.offer(name)
			}
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	return f.checkAll(ctx, some.names())
}

func (f *foreign) checkAll(ctx context.Context, all []string) error {
	for some := range slices.Chunk(all, f.pace.step()) {
		if err := f.check(ctx, some); err != nil {
			return err
		}
		if err := f.again(ctx); err != nil {
			return err
		}
		if err := f.settle(ctx, maxPending); err != nil {
			return err
		}
		f.meter.progress(f.report)
	}
	return nil
}

// settle goes on watching until no more than so many values are watched.
func (f *foreign) settle(ctx context.Context, most int) error {
	for len(f.watched) > most {
		if err := f.again(ctx); err != nil {
			return err
		}
		f.meter.progress(f.report)
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
	return nil
}

// check looks at values for the first time.
func (f *foreign) check(ctx context.Context, some []string) error {
	var all []*watched
	for _, name := range some {
		if texts, ok := f.Pattern.Match(name); ok {
			w := &watched{name: name, args: make([]keytext.Arg, len(f.used))}
			for i, place := range f.used {
				w.args[i] = keytext.Arg{Text: texts[place]}
			}
			all = append(all, w)
		}
	}
	held, err := f.read(ctx, all)
	if err != nil {
		return err
	}
	kept := all[:0]
	for i, w := range all {
		switch {
		case !held[i].Found:
		case held[i].Other:
			f.counts().Unreadable++
		default:
			w.text, w.ttl = string(held[i].Text), held[i].TTL
			kept = append(kept, w)
		}
	}
	outcomes, err := f.compare(ctx, kept)
	if err != nil {
		return err
	}
	now := time.Now()
	for i, w := range kept {
		if outcomes[i].unreadable {
			f.counts().Unreadable++
			continue
		}
		f.counts().Checked++
		if w.ttl == 0 {
			f.counts().WithoutTTL++
		}
		switch {
		case outcomes[i].failed != nil:
			f.failed(outcomes[i].failed)
		case outcomes[i].same:
			f.counts().Fresh++
		default:
			w.found, w.last, w.due = now, now, now.Add(f.Grace/10)
			f.watched = append(f.watched, w)
		}
	}
	return nil
}

func (f *foreign) read(ctx context.Context, all []*watched) ([]store.Held, error) {
	names := make([]string, len(all))
	for i, w := range all {
		names[i] = w.name
	}
	if f.Format == Hash {
		return f.Keys.ReadHashes(ctx, names)
	}
	return f.Keys.Read(ctx, names)
}

func (f *foreign) failed(err error) {
	f.counts().Undecided++
	f.report.Reasons[err.Error()]++
}

// outcome is what comparing one value came to.
type outcome struct {
	same       bool
	unreadable bool  // the value, or its key's arguments, are not of the kind that was said
	failed     error // the query failed
}

// compare loads the truth of each value and compares.
func (f *foreign) compare(ctx context.Context, all []*watched) ([]outcome, error) {
	outcomes := make([]outcome, len(all))
	if err := f.pace.take(ctx, len(all)); err != nil {
		return nil, err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(f.Loads)
	for i, w := range all {
		group.Go(func() error {
			timeout, cancel := context.WithTimeout(groupCtx, loadTimeout)
			defer cancel()
			loaded, err := f.Truth.Load(timeout, f.sql, f.result, w.args)
			refused, answered := errors.AsType[*pgload.QueryError](err)
			const dataException = "22" // such as the text of no number
			switch {
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case answered && strings.HasPrefix(refused.Code, dataException):
				outcomes[i].unreadable = true
			case answered, errors.Is(err, pgload.ErrTimeout), errors.Is(err, pgload.ErrManyRows):
				outcomes[i].failed = err
			case err != nil:
				return err
			case loaded.Refuse != "":
				return fmt.Errorf("%w: %s", ErrNoTruth, loaded.Refuse)
			default:
				w.truth = loaded
				outcomes[i].same, err = f.shape.same(w.text, loaded.Found, loaded.Payload)
				outcomes[i].unreadable = err != nil
			}
			return nil
		})
	}
	return outcomes, group.Wait()
}

// again looks once more at the values that are due.
func (f *foreign) again(ctx context.Context) error {
	now := time.Now()
	var due, rest []*watched
	for _, w := range f.watched {
		if len(due) < together && !now.Before(w.due) {
			due = append(due, w)
		} else {
			rest = append(rest, w)
		}
	}
	if len(due) == 0 {
		return nil
	}
	held, err := f.read(ctx, due)
	if err != nil {
		return err
	}
	outcomes, err := f.compare(ctx, due)
	if err != nil {
		return err
	}
	now = time.Now()
	f.watched = rest
	for i, w := range due {
		switch {
		case outcomes[i].failed != nil && held[i].Found:
			f.failed(outcomes[i].failed)
		case !held[i].Found, held[i].Other, string(held[i].Text) != w.text, outcomes[i].same, outcomes[i].unreadable:
			f.over(w, false)
		case now.Sub(w.found) >= f.Watch:
			w.last = now
			f.over(w, true)
		default:
			w.last, w.due = now, f.next(w.found, now)
			f.watched = append(f.watched, w)
		}
	}
	return nil
}

// next is when a value is looked at again: at times that grow with how long it has differed, and at the grace's end.
func (f *foreign) next(found, now time.Time) time.Time {
	for _, after := range []time.Duration{f.Grace / 3, f.Grace, 3 * f.Grace, f.Watch} {
		if at := found.Add(min(after, f.Watch)); at.After(now) {
			return at
		}
	}
	return found.Add(max(f.Watch, 2*now.Sub(found)))
}

// over counts a value that is watched no more, since it is right, gone or another by now, or still differs.
func (f *foreign) over(w *watched, still bool) {
	lasted := w.last.Sub(w.found)
	if still {
		into(f.report.Differed, lasted)
	} else {
		into(f.report.Differed, time.Since(w.found))
	}
	if lasted < f.Grace {
		f.counts().InFlight++
		return
	}
	f.counts().Violations++
	if len(f.report.Findings) == maxFindings {
		return
	}
	finding := Finding{Entry: f.Pattern.String(), Key: w.name, Cached: excerpt([]byte(w.text)), Seen: lasted.Seconds(), TTL: ttlOf(w.ttl)}
	if w.truth.Found {
		finding.Database = excerpt(w.truth.Payload)
	}
	f.report.Findings = append(f.report.Findings, finding)
}

// Valid reports whether a format is known.
func (f Format) Valid() bool { return f == JSON || f == Text || f == Hash }
