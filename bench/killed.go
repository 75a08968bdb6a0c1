package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/freshet/freshet"
	"github.com/jackc/pgx/v5"
	"github.com/redis/rueidis"
)

// writing is a way in which a writer sees to what is cached of a row that it changes.
type writing string

const (
	plainScheme  writing = "plain"  // cache-aside code: DEL after COMMIT
	logScheme    writing = "log"    // freshet, by a rule: the writer does nothing
	intentScheme writing = "intent" // freshet, of a row that no rule covers: an intent that commits with it
)

func writings() []writing { return []writing{plainScheme, logScheme, intentScheme} }

const (
	write       = "write"   // a child's kind of job: change one row, commit, invalidate
	quietTable  = "quiet"   // is in no publication
	intentEntry = "written" // over it
	committed   = "committed"
	// beforeDelete is how long a request goes on between its COMMIT and its DEL, at most.
	beforeDelete = 20 * time.Millisecond
)

// killed kills writers as soon as they have said that they committed, and counts what of it stays stale.
func killed(ctx context.Context, b *bench) error {
	a, err := newApplication(ctx, b, "killed")
	if err != nil {
		return err
	}
	defer a.close()
	written, err := openWritten(a.cache)
	if err != nil {
		return err
	}
	random := b.random(5)
	for id := 1; id <= b.sizes.kills; id++ {
		// The plain code's row and the others' are different ones: freshet's daemon knows nothing of its keys, and nobody
		// else deletes them.
		if err := a.client.Do(ctx, a.client.B().Set().Key(plainKey(id)).Value("0").Build()).Error(); err != nil {
			return fmt.Errorf("fill the store: %w", err)
		}
		if err := a.warm(ctx, func() error { _, err := a.items.Get(ctx, id); return err }); err != nil {
			return err
		}
		if err := a.warm(ctx, func() error { _, err := written.Get(ctx, id); return err }); err != nil {
			return err
		}
		for _, s := range writings() {
			rest := time.Duration(random.Int64N(int64(beforeDelete)))
			if err := a.killWriter(ctx, job{Scheme: string(s), ID: id, Rest: rest}); err != nil {
				return err
			}
		}
	}
	end, err := a.position(ctx)
	if err == nil {
		err = a.applied(ctx, end)
	}
	if err != nil {
		return err
	}
	return a.countStale(ctx, written)
}

// warm reads until a read is a hit: what is not cached cannot stay stale.
func (a *application) warm(ctx context.Context, read func() error) error {
	return until(ctx, time.Minute, "a hit", func() (bool, error) {
		before := a.cache.Stats().Hits
		err := read()
		return a.cache.Stats().Hits > before, err
	})
}

func plainKey(id int) string { return "plain:" + strconv.Itoa(id) }

func openWritten(cache *freshet.Cache) (*freshet.Typed[int, int], error) {
	return freshet.Entry(cache, intentEntry, freshet.Load(func(ctx context.Context, q freshet.Querier, id int) (n int, err error) {
		err = q.QueryRow(ctx, `SELECT n FROM `+quietTable+` WHERE id = $1`, id).Scan(&n)
		return n, err
	}))
}

// killWriter starts a writer and kills it when it says that it has committed.
func (a *application) killWriter(ctx context.Context, j job) error {
	j.Kind, j.Postgres, j.Redis, j.Config = write, a.url, a.b.servers.redis.URL(), a.file
	writer, err := start(ctx, j)
	if err != nil {
		return err
	}
	said := writer.says(ctx, committed)
	_ = writer.cmd.Process.Kill()
	_ = writer.stop() // it was killed
	return said
}

// countStale reads every key as its scheme does.
func (a *application) countStale(ctx context.Context, written *freshet.Typed[int, int]) error {
	stale := map[writing]int{}
	for id := 1; id <= a.b.sizes.kills; id++ {
		present, err := a.client.Do(ctx, a.client.B().Exists().Key(plainKey(id)).Build()).AsInt64()
		if err != nil {
			return fmt.Errorf("look into the store: %w", err)
		}
		row, err := a.items.Get(ctx, id)
		if err != nil {
			return err
		}
		quiet, err := written.Get(ctx, id)
		if err != nil {
			return err
		}
		stale[plainScheme] += int(present) // it holds what was there before the writer came
		if row.N == 0 {
			stale[logScheme]++
		}
		if quiet == 0 {
			stale[intentScheme]++
		}
	}
	for _, s := range writings() {
		share := 100 * float64(stale[s]) / float64(max(a.b.sizes.kills, 1))
		a.b.report("killed/"+string(s)+"/stale", share, fmt.Sprintf("%% of %d keys stay stale", a.b.sizes.kills))
	}
	return nil
}

// runWrite is a writer's whole life.
func runWrite(ctx context.Context, j job) error {
	conn, err := pgx.Connect(ctx, j.Postgres)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	change := func(table string, id int) (pgx.Tx, error) {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return nil, err
		}
		_, err = tx.Exec(ctx, `UPDATE `+table+` SET n = n + 1 WHERE id = $1`, id)
		return tx, err
	}
	switch writing(j.Scheme) {
	case plainScheme:
		client, err := rueidis.NewClient(rueidis.MustParseURL(j.Redis))
		if err != nil {
			return err
		}
		defer client.Close()
		tx, err := change(table, probeRows-j.ID)
		if err != nil {
			return err
		}
		if err := tx.Commit(ctx); err != nil {
			return err
		}
		say(committed)
		if err := pause(ctx, j.Rest); err != nil {
			return err
		}
		return client.Do(ctx, client.B().Del().Key(plainKey(j.ID)).Build()).Error()
	case logScheme:
		tx, err := change(table, j.ID)
		if err != nil {
			return err
		}
		if err := tx.Commit(ctx); err != nil {
			return err
		}
	case intentScheme:
		cache, err := freshet.Open(ctx, freshet.Options{Config: j.Config})
		if err != nil {
			return err
		}
		defer cache.Close()
		written, err := openWritten(cache)
		if err != nil {
			return err
		}
		tx, err := change(quietTable, j.ID)
		if err != nil {
			return err
		}
		if _, err := cache.Commit(ctx, tx, written.Key(j.ID)); err != nil {
			return err
		}
	default:
		return fmt.Errorf("no scheme is called %q", j.Scheme)
	}
	say(committed)
	return pause(ctx, j.Rest)
}
