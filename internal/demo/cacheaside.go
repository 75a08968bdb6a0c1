package demo

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"
)

// cacheAside is the code that the story compares with: the cache-aside pattern as applications have it, with a TTL and
// with DEL after COMMIT. It is written as well as the pattern allows: every miss loads from the primary, nothing is
// cached before it is committed, and every value has a TTL. Its keys are its own.
type cacheAside struct {
	Redis rueidis.Client
	Pool  *pgxpool.Pool
	// Query loads the JSON text of what is cached under Prefix and an id.
	Query, Prefix string
	TTL           time.Duration
}

// Get is GET; on a miss SELECT, then SET. A slow process, a garbage collection or a lost packet can stretch the time
// between the last two; loaded stands for it and may be nil.
func (c *cacheAside) Get(ctx context.Context, id int64, loaded func()) (string, error) {
	cached, err := c.Redis.Do(ctx, c.Redis.B().Get().Key(c.key(id)).Build()).ToString()
	if err == nil {
		return cached, nil
	}
	if !rueidis.IsRedisNil(err) {
		return "", fmt.Errorf("get %s: %w", c.key(id), err)
	}
	value, err := c.Load(ctx, id)
	if err != nil {
		return "", err
	}
	if loaded != nil {
		loaded()
	}
	set := c.Redis.B().Set().Key(c.key(id)).Value(value).Px(c.TTL).Build()
	if err := c.Redis.Do(ctx, set).Error(); err != nil {
		return "", fmt.Errorf("set %s: %w", c.key(id), err)
	}
	return value, nil
}

// Load is what the database says.
func (c *cacheAside) Load(ctx context.Context, id int64) (string, error) {
	var value string
	if err := c.Pool.QueryRow(ctx, c.Query, id).Scan(&value); err != nil {
		return "", fmt.Errorf("load %s: %w", c.key(id), err)
	}
	return value, nil
}

// Write is COMMIT, then DEL. committed stands between the two and may be nil.
func (c *cacheAside) Write(ctx context.Context, id int64, statement string, args []any, committed func()) error {
	if _, err := c.Pool.Exec(ctx, statement, args...); err != nil {
		return fmt.Errorf("write %s: %w", c.key(id), err)
	}
	if committed != nil {
		committed()
	}
	if err := c.Redis.Do(ctx, c.Redis.B().Del().Key(c.key(id)).Build()).Error(); err != nil {
		return fmt.Errorf("del %s: %w", c.key(id), err)
	}
	return nil
}

// Forget removes the cached value, so that the next Get is a miss.
func (c *cacheAside) Forget(ctx context.Context, id int64) error {
	if err := c.Redis.Do(ctx, c.Redis.B().Del().Key(c.key(id)).Build()).Error(); err != nil {
		return fmt.Errorf("del %s: %w", c.key(id), err)
	}
	return nil
}

// Left is how long the cached value will live on; 0 when there is none.
func (c *cacheAside) Left(ctx context.Context, id int64) (time.Duration, error) {
	left, err := c.Redis.Do(ctx, c.Redis.B().Pttl().Key(c.key(id)).Build()).AsInt64()
	if err != nil {
		return 0, fmt.Errorf("pttl %s: %w", c.key(id), err)
	}
	return time.Duration(max(left, 0)) * time.Millisecond, nil
}

func (c *cacheAside) key(id int64) string { return c.Prefix + strconv.FormatInt(id, 10) }

const (
	productQuery = `SELECT row_to_json(q)::text FROM (SELECT id, name, price FROM products WHERE id = $1) q`
	profileQuery = `SELECT row_to_json(q)::text FROM (SELECT u.id, u.name, p.bio, a.city FROM users u
		JOIN profiles p ON p.user_id = u.id LEFT JOIN addresses a ON a.user_id = u.id WHERE u.id = $1) q`
	setPrice = `UPDATE products SET price = $2 WHERE id = $1`
)

func plainProducts(redis rueidis.Client, pool *pgxpool.Pool, ttl time.Duration) *cacheAside {
	return &cacheAside{Redis: redis, Pool: pool, Query: productQuery, Prefix: "plain:product:", TTL: ttl}
}

func plainProfiles(redis rueidis.Client, pool *pgxpool.Pool, ttl time.Duration) *cacheAside {
	return &cacheAside{Redis: redis, Pool: pool, Query: profileQuery, Prefix: "plain:profile:", TTL: ttl}
}
