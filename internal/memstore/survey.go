package memstore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/store"
)

// namesPerPage is how many names a step of a walk visits.
const namesPerPage = 250

// Shards is how many pages Names has.
func (s *Store) Shards() int { return shards }

// Names are the names of one shard's keys, in order.
func (s *Store) Names(shard int) []string {
	now := s.now()
	part := &s.shards[shard]
	part.mu.RLock()
	defer part.mu.RUnlock()
	names := make([]string, 0, len(part.items))
	for name := range part.items {
		if part.get(name, now) != nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Walk visits the names of all keys that begin as the pattern says, which ends with an asterisk and has no other. A key that is
// there from the beginning to the end is visited once.
func (s *Store) Walk(ctx context.Context, pattern string, visit func(names []string) error) error {
	prefix, ok := strings.CutSuffix(pattern, "*")
	if !ok || strings.ContainsAny(prefix, `*?[]\`) {
		return fmt.Errorf("walk: the pattern %q is not the beginning of names and an asterisk", pattern)
	}
	for shard := range s.Shards() {
		names := slices.DeleteFunc(s.Names(shard), func(name string) bool { return !strings.HasPrefix(name, prefix) })
		for some := range slices.Chunk(names, namesPerPage) {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("walk: %w", err)
			}
			if err := visit(some); err != nil {
				return err
			}
		}
	}
	return nil
}

// Held reads what keys hold, in the order of the names, without marking them as read.
func (s *Store) Held(_ context.Context, names []string) ([]store.Held, error) {
	held := make([]store.Held, len(names))
	now := s.now()
	for n, name := range names {
		part := s.shardOf(name)
		part.mu.RLock()
		if i := part.get(name, now); i != nil {
			held[n] = store.Held{Found: true, Text: i.text, TTL: time.Duration(i.expires-now) * time.Microsecond}
		}
		part.mu.RUnlock()
	}
	return held, nil
}
