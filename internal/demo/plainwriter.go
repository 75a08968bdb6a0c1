package demo

import (
	"context"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"
)

// committedLine is what the plain writer says between COMMIT and DEL.
const committedLine = "committed"

// PlainWrite is the whole life of the process that step b kills: the cache-aside code changes a price, commits, and
// before it gets to its DEL it is held up, as by a garbage collection or a slow network, until somebody kills it. It
// says "committed" on stdout when COMMIT has returned. When ctx ends instead, it goes on to its DEL.
func PlainWrite(ctx context.Context, stdout io.Writer, databaseURL, redisURL string, id int64, price string) error {
	pool, err := pgxpool.New(ctx, databaseURL)
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	defer pool.Close()
	redis, err := openRedis(redisURL)
	if err != nil {
		return err
	}
	defer redis.Close()
	var said error
	err = plainProducts(redis, pool, plainTTL).Write(context.WithoutCancel(ctx), id, setPrice, []any{id, price}, func() {
		_, said = fmt.Fprintln(stdout, committedLine)
		if said == nil {
			<-ctx.Done()
		}
	})
	if said != nil {
		return fmt.Errorf("say that the price is committed: %w", said)
	}
	return err
}

func openRedis(url string) (rueidis.Client, error) {
	options, err := rueidis.ParseURL(url)
	if err != nil {
		return nil, fmt.Errorf("open Redis: %w", err)
	}
	options.DisableCache = true
	client, err := rueidis.NewClient(options)
	if err != nil {
		return nil, fmt.Errorf("open Redis: %w", err)
	}
	return client, nil
}
