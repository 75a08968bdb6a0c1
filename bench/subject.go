package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/mvcc"
	"github.com/redis/rueidis"
)

// subject is a database with one table, followed into one namespace of the store.
type subject struct {
	b         *bench
	url       string
	namespace string
	slot      string
	more      string // entries of the configuration beside those of every part
	store     *redisstore.Store
	client    rueidis.Client // for what a store does not do
}

func newSubject(ctx context.Context, b *bench, name string, rows int) (*subject, error) {
	s := &subject{b: b, namespace: name, slot: name}
	var err error
	if s.url, err = b.servers.database(ctx, name); err != nil {
		return nil, err
	}
	err = b.servers.exec(ctx, s.url,
		`CREATE TABLE `+table+` (id int PRIMARY KEY, v text NOT NULL, n int NOT NULL) WITH (fillfactor = 50)`,
		fmt.Sprintf(`INSERT INTO %s SELECT g, 'value ' || g, 0 FROM generate_series(1, %d) g`, table, rows),
		fmt.Sprintf(`CREATE TABLE %s AS SELECT id, 0 AS n FROM %s`, quietTable, table),
		`ALTER TABLE `+quietTable+` ADD PRIMARY KEY (id)`,
		`CREATE TABLE `+pageTable+` (id int PRIMARY KEY, v text NOT NULL, n int NOT NULL)`,
		`VACUUM ANALYZE `+table)
	if err != nil {
		return nil, err
	}
	s.store, err = redisstore.Open(ctx, redisstore.Options{URL: b.servers.redis.URL(), Namespace: name})
	if err != nil {
		return nil, err
	}
	s.client, err = rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{b.servers.redis.Addr()}, DisableCache: true})
	if err != nil {
		s.store.Close()
		return nil, err
	}
	return s, nil
}

func (s *subject) close() {
	s.client.Close()
	s.store.Close()
}

// follower starts the daemon's main loop on a slot.
func (s *subject) follower(ctx context.Context, j job) (*child, error) {
	j.Kind, j.Postgres, j.Redis, j.Namespace = follow, s.url, s.b.servers.redis.URL(), s.namespace
	return start(ctx, j)
}

// prefix is what the names of the entry's keys begin with at present.
func (s *subject) prefix(ctx context.Context) (string, error) {
	text, found, err := s.store.Roster(ctx)
	if err != nil || !found {
		return "", fmt.Errorf("no roster: %w", err)
	}
	roster, err := rule.ParseRoster(text)
	if err != nil {
		return "", err
	}
	return rule.KeyPrefix(s.namespace, roster.Generation, roster.Entries[table]) + table + ":", nil
}

// record is a cached value as the store holds it.
func record(size int) string {
	r := fence.Record{
		State: fence.Live, Coverage: fence.Coverage{Snapshot: mvcc.Snapshot{Xmin: 3, Xmax: 3}}, // of before every change
		Filled: time.Now().UnixMicro(), Payload: []byte(`"` + strings.Repeat("x", size-2) + `"`),
	}
	return string(r.Append(nil))
}

// cache puts a record for each of the rows 1 to n into the store.
func (s *subject) cache(ctx context.Context, prefix string, n int) error {
	const together = 1000
	value := record(200)
	commands := make([]rueidis.Completed, 0, together)
	for id := 1; id <= n; id++ {
		commands = append(commands, s.client.B().Set().Key(prefix+strconv.Itoa(id)).Value(value).Build())
		if len(commands) == together || id == n {
			for _, reply := range s.client.DoMulti(ctx, commands...) {
				if err := reply.Error(); err != nil {
					return fmt.Errorf("fill the store: %w", err)
				}
			}
			commands = commands[:0]
		}
	}
	return nil
}

// cached counts which of the rows 1 to n are in the store.
func (s *subject) cached(ctx context.Context, prefix string, n int) (int64, error) {
	var total int64
	const together = 1000
	for id := 1; id <= n; {
		var names []string
		for ; id <= n && len(names) < together; id++ {
			names = append(names, prefix+strconv.Itoa(id))
		}
		count, err := s.client.Do(ctx, s.client.B().Exists().Key(names...).Build()).AsInt64()
		if err != nil {
			return 0, fmt.Errorf("look into the store: %w", err)
		}
		total += count
	}
	return total, nil
}

// position is where the log ends now, with all that was committed.
func (s *subject) position(ctx context.Context) (mvcc.LSN, error) {
	return s.lsn(ctx, `SELECT pg_current_wal_flush_lsn()::text`)
}
