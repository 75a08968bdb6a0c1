// Package memstore keeps the store in the process's own memory: HEAD, roster and records, as redisstore keeps them in Redis.
// Every decision is fence's; what is here is where things lie, how long, and what goes when there is no room. It is one lane,
// of one process, and ends with it: whoever opens one anew finds no HEAD, and begins a generation.
package memstore

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
)

// DefaultSize is how many bytes records may take where nothing else is said.
const DefaultSize = 256 << 20

// shards is how many parts the records are in, so that those who write different keys rarely wait for each other.
const shards = 64

// largest is the share of the store that one record may take: a larger one would drive out too much, and is not kept.
const largest = 8

// Options say which store to open.
type Options struct {
	Namespace string
	// Size bounds, in bytes, what records and epochs take. Beyond it those go that were not read for longest; HEAD and roster
	// never do. 0: DefaultSize.
	Size int64
}

// Store is one namespace. Its methods may be called from any number of goroutines.
type Store struct {
	namespace string
	size      int64
	replid    string // the name of its history
	began     time.Time
	seed      maphash.Seed

	shards [shards]shard
	used   atomic.Int64
	ears   *store.Ears // of readers in this process that share the store

	mu     sync.Mutex // of what follows, and never held together with a shard's
	head   fence.Shard
	roster []byte // nil: none
	tick   fence.Tick
	uses   map[store.Use]use
	notes  []store.Note
}

// use is a registration.
type use struct {
	who     string
	expires int64
}

// New makes an empty store.
func New(o Options) *Store {
	s := &Store{
		namespace: o.Namespace, size: o.Size, began: time.Now(), seed: maphash.MakeSeed(), uses: map[store.Use]use{}, ears: store.NewEars(),
		replid: (store.Draw() + store.Draw() + store.Draw())[:40], // as long as Redis' names of histories
	}
	if s.size <= 0 {
		s.size = DefaultSize
	}
	s.head.Replid = s.replid
	for i := range s.shards {
		s.shards[i].items, s.shards[i].ears = map[string]*item{}, s.ears
	}
	return s
}

// now is the store's clock, in microseconds: it began with the system's, and goes on steadily whatever is done to that.
func (s *Store) now() int64 { return s.began.UnixMicro() + time.Since(s.began).Microseconds() }

func (s *Store) shardOf(name string) *shard {
	return &s.shards[maphash.String(s.seed, name)%shards]
}

// Usage is what a store holds.
type Usage struct {
	Size    int64  // bytes that it may take
	Bytes   int64  // that it takes
	Records int    // and epochs
	Evicted uint64 // for want of room, since it was made
}

// Usage counts what the store holds.
func (s *Store) Usage() Usage {
	u := Usage{Size: s.size, Bytes: s.used.Load()}
	for i := range s.shards {
		part := &s.shards[i]
		part.mu.RLock()
		u.Records += len(part.items)
		u.Evicted += part.evicted
		part.mu.RUnlock()
	}
	return u
}

// Namespace is what the names of all keys have.
func (s *Store) Namespace() string { return s.namespace }

// Lanes is 1: there is one HEAD.
func (s *Store) Lanes() int { return 1 }

// Replid is the name of the store's history, which is that of the process.
func (s *Store) Replid(context.Context) (string, error) { return s.replid, nil }

// vouched reads HEAD.
func (s *Store) vouched() (fence.Head, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.head.Head, s.head.Found
}

// Heads reads HEAD, without the floors of buckets.
func (s *Store) Heads(ctx context.Context) []store.LaneHead {
	head, found, err := s.Head(ctx)
	return []store.LaneHead{{Head: head, Found: found, Err: err}}
}

// Head reads HEAD, without the floors of buckets.
func (s *Store) Head(context.Context) (fence.Head, bool, error) {
	head, found := s.vouched()
	head.Floors, head.Ended = nil, nil
	return head, found, nil
}

// Roster reads the roster's text.
func (s *Store) Roster(context.Context) (text []byte, found bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.roster, s.roster != nil, nil
}

// published is the roster that is stored, as far as another one is held against it. One that cannot be read says nothing.
func (s *Store) published() (p fence.Published) {
	if json.Unmarshal(s.roster, &p) != nil {
		return fence.Published{}
	}
	return p
}

// Tick counts, and returns the new count. When HEAD shows it, Sa was taken after the call.
func (s *Store) Tick(context.Context, int) (fence.Tick, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tick.ID == "" {
		s.tick.ID = store.Draw()
	}
	s.tick.N++
	return s.tick, nil
}

// Register says that who uses a version, for as long as it lasts.
func (s *Store) Register(_ context.Context, u store.Use, who string, lasts time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uses[u] = use{who: who[:min(len(who), store.LongestUser)], expires: s.after(lasts)}
	return nil
}

// Note appends notes. The oldest go.
func (s *Store) Note(_ context.Context, notes []store.Note) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.notes = append(s.notes, notes...); len(s.notes) > store.MostNotes+store.MostNotes/10 {
		s.notes = slices.Clone(s.notes[len(s.notes)-store.MostNotes:])
	}
	return nil
}

// Notes are those that are kept, the oldest first.
func (s *Store) Notes(context.Context) ([]store.Note, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.notes[max(len(s.notes)-store.MostNotes, 0):]), nil
}

// Uses returns who registered each use last, for the uses that are registered.
func (s *Store) Uses(_ context.Context, uses []store.Use) (map[store.Use]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[store.Use]string{}
	for _, u := range uses {
		if registered, ok := s.uses[u]; ok && s.now() < registered.expires {
			found[u] = store.Printable(registered.who)
		}
	}
	return found, nil
}

// Sweep removes the records of dead names, and what was registered of versions that are not retained. It asks anew what lives
// for every shard, since names move.
func (s *Store) Sweep(ctx context.Context, live func() store.Live) (removed int64, err error) {
	prefix := "f:" + s.namespace + ":"
	for i := range s.shards {
		if err := ctx.Err(); err != nil {
			return removed, fmt.Errorf("sweep: %w", err)
		}
		now := live()
		part := &s.shards[i]
		part.mu.Lock()
		for name, it := range part.items {
			if now.Dead(name, strings.TrimPrefix(name, prefix)) {
				s.used.Add(part.remove(it))
				removed++
			}
		}
		part.mu.Unlock()
	}
	retained := live().Retained
	s.mu.Lock()
	defer s.mu.Unlock()
	for u := range s.uses {
		if !slices.Contains(retained, u) {
			delete(s.uses, u)
			removed++
		}
	}
	return removed, nil
}

// Forget empties the store, HEAD and roster first: nothing keeps what is in it fresh any more.
func (s *Store) Forget() {
	s.mu.Lock()
	s.head.Head, s.head.Found = fence.Head{}, false
	s.roster = nil
	s.mu.Unlock()
	for i := range s.shards {
		part := &s.shards[i]
		part.mu.Lock()
		for _, it := range part.items {
			s.used.Add(part.remove(it))
		}
		part.mu.Unlock()
	}
}

// after is the time of the store's clock when something ends that begins now.
func (s *Store) after(d time.Duration) int64 {
	return s.now() + max(d, time.Millisecond).Microseconds()
}

// Listen is called before keys are read: what it returns hears of whatever changes one of them after that.
func (s *Store) Listen(_ context.Context, names ...string) store.Listening {
	return s.ears.Add(nil, names)
}
