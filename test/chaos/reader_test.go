package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/freshet/freshet"
)

// reader reads one value as text; what is not there is the empty text.
type reader interface {
	read(ctx context.Context, entry string, id int64, a *ask) (string, error)
	// entries are those that it can read.
	entries() []string
}

// ask is what a read asks of its value beyond being one that is maintained.
type ask struct {
	after   freshet.Token
	bounded bool
	stale   time.Duration
	past    bool // from the database alone; over HTTP there is no such thing
	again   bool // compared with the database
	session *freshet.Session
}

func (a *ask) options() (options []freshet.ReadOption) {
	if !a.after.IsZero() {
		options = append(options, freshet.After(a.after))
	}
	if a.bounded {
		options = append(options, freshet.MaxStale(a.stale))
	}
	if a.past {
		options = append(options, freshet.Bypass())
	}
	if a.again {
		options = append(options, freshet.Revalidate())
	}
	if a.session != nil {
		options = append(options, freshet.Through(a.session))
	}
	return options
}

func (a *ask) headers() http.Header {
	h := http.Header{}
	if !a.after.IsZero() {
		h.Set("Freshet-After", a.after.String())
	}
	if a.bounded {
		h.Add("Cache-Control", fmt.Sprintf("max-age=%d", a.stale/time.Second))
	}
	if a.again {
		h.Add("Cache-Control", "no-cache")
	}
	return h
}

// library reads through the Go library, in this process.
type library struct {
	cache *freshet.Cache
	holds bool     // values in this process's memory
	reads []string // entries that it can read, some more often than others
	typed map[string]*freshet.Typed[int64, json.RawMessage]
	coded *freshet.Typed[int64, coded]
}

func openLibrary(ctx context.Context, file string, logger *slog.Logger) (*library, error) {
	l := &library{
		holds: true,
		reads: []string{"item", "item", "person", "category", "rate", "coded", "coded"},
		typed: map[string]*freshet.Typed[int64, json.RawMessage]{},
	}
	var err error
	if l.cache, err = freshet.Open(ctx, freshet.Options{Config: file, Logger: logger}); err != nil {
		return nil, fmt.Errorf("open library: %w", err)
	}
	errs := make([]error, 0, len(sizes()))
	for entry := range sizes() {
		if entry == "coded" {
			l.coded, err = freshet.Entry(l.cache, entry, freshet.Load(loadSlowly))
		} else {
			l.typed[entry], err = freshet.Entry[int64, json.RawMessage](l.cache, entry)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		l.close()
		return nil, fmt.Errorf("open library: %w", err)
	}
	return l, nil
}

func (l *library) close() { l.cache.Close() }

// loadSlowly is an application's code: it reads the row, and takes its time before it returns, so that the row is often
// superseded meanwhile.
func loadSlowly(ctx context.Context, q freshet.Querier, id int64) (coded, error) {
	value := coded{ID: id}
	if err := q.QueryRow(ctx, "SELECT v FROM items WHERE id = $1", id).Scan(&value.V); err != nil {
		return coded{}, fmt.Errorf("load: %w", err)
	}
	longest := 20 * time.Millisecond
	if rand.IntN(4) == 0 {
		longest *= 5
	}
	wait(ctx, time.Duration(rand.Int64N(int64(longest))))
	return value, nil
}

func (l *library) read(ctx context.Context, entry string, id int64, a *ask) (string, error) {
	var (
		text []byte
		err  error
	)
	if entry == "coded" {
		var value coded
		if value, err = l.coded.Get(ctx, id, a.options()...); err == nil {
			text, err = json.Marshal(value)
		}
	} else {
		text, err = l.typed[entry].Get(ctx, id, a.options()...)
	}
	if errors.Is(err, freshet.ErrNotFound) {
		return "", nil
	}
	return string(text), err
}

func (l *library) entries() []string { return l.reads }

// gateway reads over HTTP, from any of the daemons that are meant to run.
type gateway struct{ w *world }

func (g *gateway) entries() []string { return []string{"item", "item", "person", "category", "rate"} }

func (g *gateway) read(ctx context.Context, entry string, id int64, a *ask) (string, error) {
	d := g.w.daemon(rand.IntN)
	if d == nil {
		return "", errors.New("no daemon runs")
	}
	code, header, body, err := d.GetWith(ctx, fmt.Sprintf("/v1/entries/%s/%d", entry, id), a.headers())
	switch {
	case err != nil:
		return "", err
	case code == http.StatusOK:
		g.w.counts.gateway(header.Get("Freshet-Status"))
		return string(body), nil
	case code == http.StatusNotFound && header.Get("Freshet-Status") != "": // the row, not the entry
		g.w.counts.gateway(header.Get("Freshet-Status"))
		return "", nil
	}
	return "", fmt.Errorf("GET %s/%d: %d %s", entry, id, code, body)
}

// wants is what the next read asks, of which item, and which version of it the token's transaction made. Tokens are for
// the items with an odd number, and so are conditional reads: they bring what is cached up to date, and so hide what a
// bound would let pass.
func (w *world) wants(source *rand.Rand, seconds bool) (id int64, a ask, after int64) {
	id = someID(source, items)
	choose := source.IntN(10)
	switch {
	case choose == 0 && !seconds:
		return id, ask{past: true}, 0
	case id%2 == 1 && choose >= 7:
		return id, ask{again: true}, 0
	}
	if c, ok := w.ledger.recent(source.IntN(4)); ok && choose < 4 {
		for _, wrote := range slices.Sorted(maps.Keys(c.wrote)) {
			if wrote%2 == 1 {
				return wrote, ask{after: c.token}, c.wrote[wrote].version
			}
		}
	}
	if id%2 == 0 && choose < 7 {
		stale := []time.Duration{50 * time.Millisecond, 300 * time.Millisecond, time.Second, 2 * time.Second}[source.IntN(4)]
		if seconds { // HTTP has no parts of them
			stale = time.Duration(1+source.IntN(2)) * time.Second
		}
		return id, ask{bounded: true, stale: stale}, 0
	}
	return id, ask{}, 0
}

// readOn reads at random, and judges what it gets.
func (w *world) readOn(ctx context.Context, name string, r reader, source *rand.Rand) {
	all := r.entries()
	_, seconds := r.(*gateway)
	l, _ := r.(*library)
	for ctx.Err() == nil {
		entry := all[source.IntN(len(all))]
		var (
			a  ask
			p  promise
			id = someID(source, sizes()[entry])
		)
		versioned := entry == "item" || entry == "coded" || entry == "sure" // these have the version in them
		if versioned {
			id, a, p.after = w.wants(source, seconds)
			p.bounded, p.stale, p.again = a.bounded || a.past || a.again, a.stale, a.again
		}
		p.memory = l != nil && l.holds
		p.at = time.Now()
		value, err := r.read(ctx, entry, id, &a)
		if ctx.Err() != nil {
			return
		}
		w.counts.reads.Add(1)
		switch {
		case err != nil:
			w.counts.failedReads.Add(1)
			if w.wholeSince(p.at) {
				w.violation("while nothing was broken, reading %s through the %s failed: %v", keyOf(entry, id), name, err)
			}
			wait(ctx, 20*time.Millisecond)
		case versioned:
			w.judge(ctx, name, entry, id, value, p)
		}
		wait(ctx, time.Duration(source.Int64N(int64(4*time.Millisecond))))
	}
}

// crowd has several read one item at about the same time, again and again, so that they wait for one another's loads, which
// are slow.
func (w *world) crowd(ctx context.Context, l *library, source *rand.Rand) {
	const many = 6
	for ctx.Err() == nil {
		id := 1 + source.Int64N(hot)
		var reading sync.WaitGroup
		for range many {
			late := time.Duration(source.Int64N(int64(60 * time.Millisecond)))
			reading.Go(func() {
				wait(ctx, late)
				began := time.Now()
				value, err := l.read(ctx, "coded", id, &ask{})
				if ctx.Err() != nil {
					return
				}
				if err == nil {
					w.judge(ctx, "library, in a crowd", "coded", id, value, promise{at: began, memory: l.holds})
				} else if w.wholeSince(began) {
					w.violation("while nothing was broken, reading %s in a crowd failed: %v", keyOf("coded", id), err)
				}
			})
		}
		reading.Wait()
		w.counts.reads.Add(many)
		wait(ctx, time.Duration(source.Int64N(int64(100*time.Millisecond))))
	}
}

// judge holds a read that is over against what it was promised: by what it asked, and by what was known when it began.
func (w *world) judge(ctx context.Context, name, entry string, id int64, value string, p promise) {
	if !w.kept.since(p.at) {
		return
	}
	seen, believed := w.applied.before(p.at)
	if believed && p.memory {
		seen, believed = w.applied.before(p.at.Add(-memory))
	}
	if believed {
		p.applied = seen.wc
		// The others are loaded also from a replica, which may lag behind a fence that has ended.
		p.strict = entry == "sure"
		w.counts.judgedApplied.Add(1)
	}
	if whole := w.calm.Load(); whole != nil && whole.Before(p.at) {
		p.whole = *whole
	}
	w.count(&p)
	wrong, err := w.ledger.judge(id, value, &p)
	if err != nil {
		wrong = err.Error()
	}
	if wrong != "" && p.strict {
		lax := p
		lax.strict = false
		if other, _ := w.ledger.judge(id, value, &lax); other == "" && !w.applied.still(ctx, p.at) {
			return // names moved: for a second that is allowed
		}
	}
	if wrong != "" {
		w.violation("%s through the %s: %s", keyOf(entry, id), name, wrong)
	}
}

func (w *world) count(p *promise) {
	if p.after != 0 {
		w.counts.byToken.Add(1)
	}
	switch {
	case p.again:
		w.counts.byDatabase.Add(1)
	case p.bounded:
		w.counts.byBound.Add(1)
	}
	if p.strict {
		w.counts.byStrict.Add(1)
	}
	if !p.whole.IsZero() && p.at.Sub(p.whole) > bound {
		w.counts.judged.Add(1)
	}
}
