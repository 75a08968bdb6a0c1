package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/freshet/freshet"
	"github.com/jackc/pgx/v5"
)

// staleAtMost is the bound of the bounded reads: one that an idle daemon proves all the time.
const staleAtMost = 10 * time.Second

// demand measures what it costs to ask more of a hit: reads with a token, with a bound and through a session, against
// plain reads of the same keys, all of them served from the cache.
func demand(ctx context.Context, b *bench) error {
	a, err := newApplication(ctx, b, "demand")
	if err != nil {
		return err
	}
	defer a.close()
	token, err := a.write(ctx)
	if err != nil {
		return err
	}
	through := freshet.Through(a.cache.Session())
	reading := func(options ...freshet.ReadOption) func(context.Context, int) error {
		return func(ctx context.Context, id int) error {
			_, err := a.items.Get(ctx, id, options...)
			return err
		}
	}
	plain := func(ctx context.Context, id int) error {
		_, err := a.items.Get(ctx, id)
		return err
	}
	token1, bounded, session := reading(freshet.After(token)), reading(freshet.MaxStale(staleAtMost)), reading(through)
	if err := a.settled(ctx, token1, bounded, session); err != nil {
		return err
	}
	before := a.cache.Stats()
	for _, goroutines := range []int{1, 16, 64} {
		readers := []*reader{
			{name: "plain", read: plain}, {name: "token", read: token1}, {name: "bounded", read: bounded}, {name: "session", read: session},
		}
		if err := b.race(ctx, "cached", readers, goroutines); err != nil {
			return err
		}
		floor := median(readers[0].took)
		b.printf("  %2d goroutines: a plain hit %.0f ns, with a token %.0f ns, with a bound %.0f ns, through a session %.0f ns\n",
			goroutines, floor, median(readers[1].took), median(readers[2].took), median(readers[3].took))
		for _, r := range readers[1:] {
			b.report(fmt.Sprintf("demand/%d/%s", goroutines, r.name), median(r.took)/floor, "times a plain hit")
		}
	}
	// A daemon that is held up for longer than the bound would send reads to the database.
	if after := a.cache.Stats(); after.Loads > before.Loads+hitKeys {
		return fmt.Errorf("not all of these were hits: %+v, before %+v", after, before)
	}
	return nil
}

// write changes a row that is not read, and returns the transaction's token.
func (a *application) write(ctx context.Context) (freshet.Token, error) {
	conn, err := pgx.Connect(ctx, a.url)
	if err != nil {
		return freshet.Token{}, err
	}
	defer func() { _ = conn.Close(ctx) }()
	var text string
	err = conn.QueryRow(ctx, `WITH x AS (UPDATE `+table+` SET n = n + 1 WHERE id = $1)
		SELECT system_identifier || '.' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || '.' || pg_current_xact_id()
		FROM pg_control_system()`, hitKeys+1).Scan(&text)
	if err != nil {
		return freshet.Token{}, err
	}
	return freshet.ParseToken(text)
}

// settled reads every key in each way until all of it comes from the cache.
func (a *application) settled(ctx context.Context, reads ...func(context.Context, int) error) error {
	for range 200 {
		before := a.cache.Stats()
		for _, read := range reads {
			for id := 1; id <= hitKeys; id++ {
				if err := read(ctx, id); err != nil {
					return err
				}
			}
		}
		if a.cache.Stats().Loads == before.Loads {
			return nil
		}
		timer := time.NewTimer(50 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.New("reads that ask for more go on coming from the database")
}
