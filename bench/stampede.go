package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dtm-labs/rockscache"
	"github.com/freshet/freshet"
	gocache "github.com/go-redis/cache/v9"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"golang.org/x/sync/errgroup"
)

const (
	crowd           = "crowd" // a child's kind of job: many goroutines that want the same key at the same time, again and again
	crowdProcesses  = 4
	crowdGoroutines = 200
	crowdLoad       = 10 * time.Millisecond
	crowdInterval   = 400 * time.Millisecond // between the rounds of two schemes
	crowdGo         = "stampede:go"          // where children find when the first round begins, in microseconds
	crowdReady      = "ready"
	crowdRound      = "round " // a round's outcome follows
	crowdTable      = "crowd"
	// crowdEntry leaves a busy machine time enough: a read that is given up says nothing of the rest.
	crowdEntry = "  " + crowdTable + `:
    key: crowd:{id}
    load_timeout: 1m
    depends_on:
      - {table: items, key: "{id}"}
`
	warmRow = 1 // is read before the first round, which is of the next one
)

// The schemes of stampede. rockscache sleeps 100 ms between looks for another's load unless it is told otherwise, as it is in tuned.
const (
	crowdFreshet = "freshet"
	crowdRocks   = "rockscache"
	crowdTuned   = "rockscache, 5 ms"
	crowdGoCache = "go-redis/cache"
)

func crowdSchemes() []string { return []string{crowdFreshet, crowdRocks, crowdTuned, crowdGoCache} }

// crowded is what one process saw of one round.
type crowded struct {
	Loads int64   `json:"loads"`
	Took  []int64 `json:"took"` // microseconds, of each goroutine

	p99 []int64 // of each round, by process
}

// stampede has 4 processes with 200 goroutines each read the same key, which is not cached, at the same time, and counts how often it
// is loaded. Rounds of the schemes take turns.
func stampede(ctx context.Context, b *bench) error {
	a, err := newApplication(ctx, b, "stampede", crowdEntry)
	if err != nil {
		return err
	}
	defer a.close()
	if err := a.client.Do(ctx, a.client.B().Del().Key(crowdGo).Build()).Error(); err != nil {
		return err
	}
	names := crowdSchemes()
	var children []*child
	defer func() {
		for _, c := range children {
			_ = c.stop() // what it said is all that matters
		}
	}()
	for i, name := range names {
		for range crowdProcesses {
			c, err := start(ctx, job{
				Kind: crowd, Scheme: name, Postgres: a.url, Redis: b.servers.redis.URL(), Config: a.file,
				Rounds: b.sizes.stampedes, Rest: time.Duration(i) * crowdInterval,
			})
			if err != nil {
				return err
			}
			children = append(children, c)
		}
	}
	for _, c := range children {
		if err := c.says(ctx, crowdReady); err != nil {
			return err
		}
	}
	begin := strconv.FormatInt(time.Now().Add(crowdInterval).UnixMicro(), 10)
	if err := a.client.Do(ctx, a.client.B().Set().Key(crowdGo).Value(begin).Build()).Error(); err != nil {
		return err
	}
	outcomes, err := b.hear(children)
	if err != nil {
		return err
	}
	b.conclusions(names, outcomes)
	return nil
}

// hear collects what the children say of their rounds.
func (b *bench) hear(children []*child) ([]crowded, error) {
	outcomes := make([]crowded, len(children))
	var group errgroup.Group
	for i, c := range children {
		group.Go(func() error {
			for range b.sizes.stampedes {
				line, ok := <-c.lines
				text, isRound := strings.CutPrefix(line, crowdRound)
				if !ok || !isRound {
					return errors.New("a process of stampede ended early")
				}
				var r crowded
				if err := json.Unmarshal([]byte(text), &r); err != nil {
					return err
				}
				outcomes[i].Loads += r.Loads
				outcomes[i].Took = append(outcomes[i].Took, r.Took...)
				outcomes[i].p99 = append(outcomes[i].p99, quantile(r.Took, 0.99))
			}
			return nil
		})
	}
	return outcomes, group.Wait()
}

// conclusions reports the loads of a key by the whole fleet, and how long its readers waited: the loader takes 10 ms of that. The best
// peer is the quickest, as it comes, of those that load a key once.
func (b *bench) conclusions(names []string, outcomes []crowded) {
	p99, loads := map[string]float64{}, map[string]float64{}
	for i, name := range names {
		var all crowded
		for _, o := range outcomes[i*crowdProcesses : (i+1)*crowdProcesses] {
			all.Loads += o.Loads
			all.Took = append(all.Took, o.Took...)
			for _, us := range o.p99 {
				b.sample("missed/goroutines=200", name, float64(us)*1000, "p99-ns/op")
			}
		}
		loads[name] = float64(all.Loads) / float64(b.sizes.stampedes)
		p99[name] = float64(quantile(all.Took, 0.99)) / 1000
		b.printf("  %-18s %5.2f loads of a key; its readers wait %7.2f ms, p99 %7.2f ms\n", name, loads[name], float64(median(all.Took))/1000, p99[name])
	}
	b.report("stampede/loads", loads[crowdFreshet], "loads of a key")
	b.report("stampede/loads/rockscache", loads[crowdRocks], "loads of a key")
	b.report("stampede/loads/go-redis", loads[crowdGoCache], "loads of a key")
	b.report("stampede/p99", p99[crowdFreshet]/p99[crowdRocks], "times as long as rockscache, the best peer that loads a key once")
	b.report("stampede/p99/tuned", p99[crowdFreshet]/p99[crowdTuned], "times as long as rockscache that looks every 5 ms")
	b.report("stampede/p99/ms", p99[crowdFreshet], "ms, of which the load takes 10")
}

// runCrowd is the whole life of one of the processes.
func runCrowd(ctx context.Context, j job) error {
	client, err := rueidis.NewClient(rueidis.MustParseURL(j.Redis))
	if err != nil {
		return err
	}
	defer client.Close()
	m, err := openCrowd(ctx, j)
	if err != nil {
		return err
	}
	defer m.close()
	if err := m.read(ctx, warmRow); err != nil {
		return err
	}
	say(crowdReady)
	var begin time.Time
	err = until(ctx, 3*time.Minute, "the beginning", func() (bool, error) {
		at, err := client.Do(ctx, client.B().Get().Key(crowdGo).Build()).AsInt64()
		if rueidis.IsRedisNil(err) {
			return false, nil
		}
		begin = time.UnixMicro(at).Add(j.Rest)
		return err == nil, err
	})
	if err != nil {
		return err
	}
	for round := range j.Rounds {
		if err := pause(ctx, time.Until(begin.Add(time.Duration(round*len(crowdSchemes()))*crowdInterval))); err != nil {
			return err
		}
		outcome, err := m.round(ctx, warmRow+1+round)
		if err != nil {
			return err
		}
		text, err := json.Marshal(outcome)
		if err != nil {
			return err
		}
		say(crowdRound + string(text))
	}
	<-ctx.Done() // the parent has heard it all
	return nil
}

// member is a process of one scheme.
type member struct {
	loads atomic.Int64
	read  func(ctx context.Context, id int) error
	close func()
}

// round has all goroutines read a row.
func (m *member) round(ctx context.Context, id int) (crowded, error) {
	before := m.loads.Load()
	outcome := crowded{Took: make([]int64, crowdGoroutines)}
	var group errgroup.Group
	for i := range outcome.Took {
		group.Go(func() error {
			began := time.Now()
			err := m.read(ctx, id)
			outcome.Took[i] = time.Since(began).Microseconds()
			return err
		})
	}
	err := group.Wait()
	outcome.Loads = m.loads.Load() - before
	return outcome, err
}

func openCrowd(ctx context.Context, j job) (*member, error) {
	m := &member{}
	if j.Scheme == crowdFreshet {
		err := m.freshet(ctx, j)
		return m, err
	}
	pool, err := pgxpool.New(ctx, j.Postgres)
	if err != nil {
		return nil, err
	}
	options, err := redis.ParseURL(j.Redis)
	if err != nil {
		pool.Close()
		return nil, err
	}
	options.PoolSize = crowdGoroutines
	client := redis.NewClient(options)
	m.close = sync.OnceFunc(func() {
		_ = client.Close()
		pool.Close()
	})
	load := func(ctx context.Context, id int) (v item, _ error) {
		m.loads.Add(1)
		if err := pool.QueryRow(ctx, `SELECT id, v, n FROM `+table+` WHERE id = $1`, id).Scan(&v.ID, &v.V, &v.N); err != nil {
			return v, err
		}
		return v, pause(ctx, crowdLoad)
	}
	key := func(id int) string { return fmt.Sprintf("stampede:%s:%d", j.Scheme, id) }
	switch j.Scheme {
	case crowdRocks, crowdTuned:
		options := rockscache.NewDefaultOptions()
		if j.Scheme == crowdTuned {
			options.LockSleep = crowdLoad / 2
		}
		rocks := rockscache.NewClient(client, options)
		m.read = func(ctx context.Context, id int) error {
			_, err := rocks.Fetch2(ctx, key(id), peerTTL, func() (string, error) {
				v, err := load(ctx, id)
				if err != nil {
					return "", err
				}
				text, err := json.Marshal(v)
				return string(text), err
			})
			return err
		}
	case crowdGoCache:
		cache := gocache.New(&gocache.Options{Redis: client})
		m.read = func(ctx context.Context, id int) error {
			var v item
			return cache.Once(&gocache.Item{
				Ctx: ctx, Key: key(id), Value: &v, TTL: peerTTL, Do: func(*gocache.Item) (any, error) { return load(ctx, id) },
			})
		}
	default:
		m.close()
		return nil, fmt.Errorf("no scheme is called %q", j.Scheme)
	}
	return m, nil
}

func (m *member) freshet(ctx context.Context, j job) error {
	cache, err := freshet.Open(ctx, freshet.Options{Config: j.Config})
	if err != nil {
		return err
	}
	m.close = func() { cache.Close() }
	slow, err := freshet.Entry(cache, crowdTable, freshet.Load(func(ctx context.Context, q freshet.Querier, id int) (v item, _ error) {
		m.loads.Add(1)
		if err := q.QueryRow(ctx, `SELECT id, v, n FROM `+table+` WHERE id = $1`, id).Scan(&v.ID, &v.V, &v.N); err != nil {
			return v, err
		}
		return v, pause(ctx, crowdLoad)
	}))
	if err != nil {
		cache.Close()
		return err
	}
	m.read = func(ctx context.Context, id int) error {
		_, err := slow.Get(ctx, id)
		return err
	}
	return nil
}
