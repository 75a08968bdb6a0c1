package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/mvcc"
)

// openClients opens every way to look at Redis, and the library.
func (s *stage) openClients(ctx context.Context) error {
	client, err := openRedis(s.redis.URL())
	if err != nil {
		return err
	}
	s.client = client
	s.onClose(func() error { client.Close(); return nil })
	info, err := client.Do(ctx, client.B().Info().Section("server").Build()).ToString()
	if err != nil {
		return fmt.Errorf("ask Redis for its version: %w", err)
	}
	s.redisVersion = redisVersion(info)
	if s.store, err = redisstore.Open(ctx, redisstore.Options{URL: s.redis.URL(), Namespace: namespace}); err != nil {
		return err
	}
	s.onClose(func() error { s.store.Close(); return nil })
	if s.library, err = openLibrary(ctx, s.configFile(), s.pool); err != nil {
		return err
	}
	s.onClose(func() error { s.library.close(); return nil })
	return nil
}

// redisVersion reads the answer to INFO: of Valkey its own version, not the one of Redis that it is compatible with.
func redisVersion(info string) string {
	version := ""
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "valkey_version":
			return "(Valkey) " + value
		case "redis_version":
			version = value
		}
	}
	return version
}

// roster is what the daemon published.
func (s *stage) roster(ctx context.Context) (*rule.Roster, error) {
	text, found, err := s.store.Roster(ctx)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, errors.New("read roster: there is none")
	}
	return rule.ParseRoster(text)
}

// record is what Redis holds for one key of an entry.
func (s *stage) record(ctx context.Context, entry, key string) (fence.Record, error) {
	roster, err := s.roster(ctx)
	if err != nil {
		return fence.Record{}, err
	}
	e, ok := roster.Entries[entry]
	if !ok {
		return fence.Record{}, fmt.Errorf("read roster: it has no entry %s", entry)
	}
	return s.store.Get(ctx, rule.KeyPrefix(namespace, roster.Generation, e)+key)
}

// position is where PostgreSQL's log ends now, with all that was committed; the next record may begin behind the header of another page.
func (s *stage) position(ctx context.Context) (mvcc.LSN, error) {
	var text string
	if err := s.pool.QueryRow(ctx, "SELECT pg_current_wal_flush_lsn()::text").Scan(&text); err != nil {
		return 0, fmt.Errorf("ask PostgreSQL for its position: %w", err)
	}
	return mvcc.ParseLSN(text)
}

// generation is what HEAD names; empty when there is no HEAD.
func (s *stage) generation(ctx context.Context) (string, error) {
	head, found, err := s.store.Head(ctx)
	if err != nil || !found {
		return "", err
	}
	return head.Generation, nil
}

// applied waits until the daemon has applied everything before a position of the log, as HEAD in Redis says.
func (s *stage) applied(ctx context.Context, position mvcc.LSN) error {
	return until(ctx, readyWithin, pollPause, func(ctx context.Context) error {
		head, found, err := s.store.Head(ctx)
		if err == nil && (!found || head.Wc < position) {
			err = fmt.Errorf("applied up to %s of %s", head.Wc, position)
		}
		return err
	})
}
