package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet"
)

// reader reads one value as text; what is not there is the empty text.
type reader interface {
	read(ctx context.Context, entry string, id int64) (string, error)
	// entries are those that it can read.
	entries() []string
}

// library reads through the Go library, in this process.
type library struct {
	cache *freshet.Cache
	pool  *pgxpool.Pool
	typed map[string]*freshet.Typed[int64, json.RawMessage]
	coded *freshet.Typed[int64, coded]
}

func openLibrary(ctx context.Context, file, url string) (*library, error) {
	pool, err := pgxpool.New(ctx, url+"&application_name="+ourName)
	if err != nil {
		return nil, fmt.Errorf("open pool: %w", err)
	}
	l := &library{pool: pool, typed: map[string]*freshet.Typed[int64, json.RawMessage]{}}
	if l.cache, err = freshet.Open(ctx, freshet.Options{Config: file, Database: pool}); err != nil {
		pool.Close()
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

func (l *library) close() {
	l.cache.Close()
	l.pool.Close()
}

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

func (l *library) read(ctx context.Context, entry string, id int64) (string, error) {
	var (
		text []byte
		err  error
	)
	if entry == "coded" {
		var value coded
		if value, err = l.coded.Get(ctx, id); err == nil {
			text, err = json.Marshal(value)
		}
	} else {
		text, err = l.typed[entry].Get(ctx, id)
	}
	if errors.Is(err, freshet.ErrNotFound) {
		return "", nil
	}
	return string(text), err
}

func (l *library) entries() []string {
	return []string{"item", "item", "person", "category", "rate", "coded", "coded"}
}

// gateway reads over HTTP, from any of the daemons that are meant to run.
type gateway struct{ w *world }

func (g *gateway) entries() []string { return []string{"item", "item", "person", "category", "rate"} }

func (g *gateway) read(ctx context.Context, entry string, id int64) (string, error) {
	d := g.w.daemon(rand.IntN)
	if d == nil {
		return "", errors.New("no daemon runs")
	}
	code, header, body, err := d.Get(ctx, fmt.Sprintf("/v1/entries/%s/%d", entry, id))
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

// readOn reads at random, and judges what it gets while everything is whole.
func (w *world) readOn(ctx context.Context, name string, r reader, source *rand.Rand) {
	all := r.entries()
	for ctx.Err() == nil {
		entry := all[source.IntN(len(all))]
		id := someID(source, sizes()[entry])
		start := began{at: time.Now(), applied: w.applied.position(), whole: w.calm.Load()}
		value, err := r.read(ctx, entry, id)
		if ctx.Err() != nil {
			return
		}
		w.counts.reads.Add(1)
		if start.whole != w.calm.Load() {
			start.whole = nil
		}
		switch {
		case err != nil:
			w.counts.failedReads.Add(1)
			if start.whole != nil {
				w.violation("while nothing was broken, reading %s through the %s failed: %v", keyOf(entry, id), name, err)
			}
			wait(ctx, 20*time.Millisecond)
		case entry == "item" || entry == "coded": // these have the version in them
			w.judge(name, entry, id, value, &start)
		}
		wait(ctx, time.Duration(source.Int64N(int64(4*time.Millisecond))))
	}
}

func (w *world) judge(name, entry string, id int64, value string, start *began) {
	wrong, err := w.ledger.judge(id, value, start)
	if err != nil {
		wrong = err.Error()
	}
	if start.applied != 0 {
		w.counts.judgedApplied.Add(1)
	}
	if start.whole != nil && start.at.Sub(*start.whole) > bound {
		w.counts.judged.Add(1)
	}
	if wrong != "" {
		w.violation("%s through the %s: %s", keyOf(entry, id), name, wrong)
	}
}
