package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/mvcc"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

const (
	hotReaders = 64
	hotThink   = 5 * time.Millisecond // between two reads of one reader
	hotLoad    = 20 * time.Millisecond
	hotRow     = 1
)

// hot measures what a key costs that is written again and again while many read it, and whether any read is stale.
func hot(ctx context.Context, b *bench) error {
	a, err := newApplication(ctx, b, "hot")
	if err != nil {
		return err
	}
	defer a.close()
	slow, err := freshet.Entry(a.cache, slowTable, freshet.Load(func(ctx context.Context, q freshet.Querier, id int) (item, error) {
		var v item
		if err := q.QueryRow(ctx, `SELECT id, v, n FROM `+table+` WHERE id = $1`, id).Scan(&v.ID, &v.V, &v.N); err != nil {
			return v, err
		}
		return v, pause(ctx, hotLoad) // the row is read, and may change before the value is stored
	}))
	if err != nil {
		return err
	}
	for _, rate := range []int{1, 10, 100} {
		if err := a.heat(ctx, slow, rate); err != nil {
			return fmt.Errorf("%d writes a second: %w", rate, err)
		}
	}
	return nil
}

// ledger knows how far the row and the store have come.
type ledger struct {
	mu        sync.Mutex
	open      []written
	committed atomic.Int64 // the newest value whose COMMIT has returned
	applied   atomic.Int64 // the newest value that HEAD says is applied
	longest   time.Duration
}

type written struct {
	value int64
	end   mvcc.LSN
	at    time.Time
}

func (l *ledger) add(w written) {
	l.mu.Lock()
	l.open = append(l.open, w)
	l.mu.Unlock()
	l.committed.Store(w.value)
}

func (l *ledger) reach(head mvcc.LSN, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.open) > 0 && l.open[0].end <= head {
		l.applied.Store(l.open[0].value)
		l.longest = max(l.longest, now.Sub(l.open[0].at))
		l.open = l.open[1:]
	}
}

// seen is what one reader counted.
type seen struct {
	took   []time.Duration
	stale  int // older than what was applied before the read began
	window int // older than what was committed before the read began, and not applied yet then
}

func (a *application) heat(ctx context.Context, slow *freshet.Typed[int, item], rate int) error {
	var l ledger
	conn, err := pgx.Connect(ctx, a.url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	var start int64
	if err := conn.QueryRow(ctx, `SELECT n FROM `+table+` WHERE id = $1`, hotRow).Scan(&start); err != nil {
		return err
	}
	l.committed.Store(start)
	running, stop := context.WithTimeout(ctx, a.b.sizes.hotTime)
	defer stop()
	group, running := errgroup.WithContext(running)
	before := a.cache.Stats()
	began := time.Now()
	readers := make([]seen, hotReaders)
	for i := range readers {
		group.Go(func() error { return readHot(ctx, running, slow, &l, &readers[i]) })
	}
	group.Go(func() error { return a.watchHead(ctx, running, &l) })
	group.Go(func() error {
		for n := 0; ; n++ {
			if pause(running, time.Until(began.Add(time.Duration(n)*time.Second/time.Duration(rate)))) != nil {
				return nil //nolint:nilerr // over
			}
			var w written
			// The statement's COMMIT is in the log before the position that is asked for after it.
			if err := conn.QueryRow(ctx, `UPDATE `+table+` SET n = n + 1 WHERE id = $1 RETURNING n`, hotRow).Scan(&w.value); err != nil {
				return err
			}
			w.at = time.Now()
			var text string
			if err := conn.QueryRow(ctx, `SELECT pg_current_wal_flush_lsn()::text`).Scan(&text); err != nil {
				return err
			}
			var err error
			if w.end, err = mvcc.ParseLSN(text); err != nil {
				return err
			}
			l.add(w)
		}
	})
	if err := group.Wait(); err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	after := a.cache.Stats()
	var all seen
	for i := range readers {
		all.took = append(all.took, readers[i].took...)
		all.stale += readers[i].stale
		all.window += readers[i].window
	}
	name := fmt.Sprintf("hot/%d/", rate)
	reads := float64(max(len(all.took), 1))
	a.b.report(name+"reads", reads/took, "a second")
	a.b.report(name+"loads", float64(after.Loads-before.Loads)/took, "a second")
	a.b.report(name+"hits", 100*float64(after.Hits-before.Hits)/reads, "% of reads")
	a.b.report(name+"p50", float64(median(all.took).Microseconds())/1000, "ms")
	a.b.report(name+"p99", float64(quantile(all.took, 0.99).Microseconds())/1000, "ms")
	a.b.report(name+"window", float64(l.longest.Microseconds())/1000, "ms at most from COMMIT to applied")
	a.b.report(name+"within", 100*float64(all.window)/reads, "% of reads older than a COMMIT not applied yet")
	a.b.report(name+"stale", float64(all.stale), "reads older than what was applied")
	return nil
}

// readHot reads the row until running ends.
func readHot(ctx, running context.Context, slow *freshet.Typed[int, item], l *ledger, s *seen) error {
	for running.Err() == nil {
		applied, committed := l.applied.Load(), l.committed.Load()
		began := time.Now()
		v, err := slow.Get(ctx, hotRow)
		if err != nil {
			return err
		}
		s.took = append(s.took, time.Since(began))
		switch n := int64(v.N); {
		case n < applied:
			s.stale++
		case n < committed:
			s.window++
		}
		if pause(running, hotThink) != nil {
			return nil //nolint:nilerr // over
		}
	}
	return nil
}

// watchHead follows HEAD until running ends.
func (a *application) watchHead(ctx, running context.Context, l *ledger) error {
	for pause(running, time.Millisecond) == nil {
		head, _, err := a.store.Head(ctx)
		if err != nil {
			return err
		}
		l.reach(head.Wc, time.Now())
	}
	return nil
}
