package memstore

import (
	"container/heap"
	"sync"
	"sync/atomic"

	"github.com/freshet/freshet/internal/store"
)

// shard is a part of the keys under a lock of its own.
//
// What has expired goes with the next write to the shard, by a heap. What goes for want of room is chosen by SIEVE: a hand
// passes over the items from the oldest to the newest, forgives those that were read since it came by last, and takes the
// first that was not. A read marks its item and moves nothing, so that readers share the lock.
type shard struct {
	mu      sync.RWMutex
	items   map[string]*item
	expiry  byExpiry
	newest  *item
	oldest  *item
	hand    *item // the next that is looked at; nil: the oldest
	evicted uint64
	ears    *store.Ears
}

// item is what is stored under one name: a record, or the id of an epoch. Its text is replaced and not changed: readers have it in hand.
type item struct {
	name    string
	text    []byte
	expires int64 // the store's clock
	place   int   // in the heap
	read    atomic.Bool
	newer   *item
	older   *item
}

// overhead is what an item takes besides its name and its text: itself, and its places in map, heap and list.
const overhead = 192

func (i *item) cost() int64 { return int64(len(i.name)+len(i.text)) + overhead }

// get is the item of a name at the given time. The caller holds mu, for reading at least.
func (s *shard) get(name string, now int64) *item {
	if i := s.items[name]; i != nil && now < i.expires {
		return i
	}
	return nil
}

// put stores text under a name, and returns by how much the shard has grown.
func (s *shard) put(name string, text []byte, expires int64) (grown int64) {
	s.ears.Invalidate(name)
	i := s.items[name]
	if i == nil {
		i = &item{name: name, expires: expires}
		s.items[name] = i
		heap.Push(&s.expiry, i)
		s.link(i)
		i.text = text
		return i.cost()
	}
	grown = int64(len(text) - len(i.text))
	i.text = text
	if i.expires != expires {
		i.expires = expires
		heap.Fix(&s.expiry, i.place)
	}
	return grown
}

// remove returns by how much the shard has grown: it is negative.
func (s *shard) remove(i *item) (grown int64) {
	s.ears.Invalidate(i.name)
	delete(s.items, i.name)
	heap.Remove(&s.expiry, i.place)
	if s.hand == i {
		s.hand = i.newer
	}
	if i.newer != nil {
		i.newer.older = i.older
	} else {
		s.newest = i.older
	}
	if i.older != nil {
		i.older.newer = i.newer
	} else {
		s.oldest = i.newer
	}
	return -i.cost()
}

func (s *shard) link(i *item) {
	i.older = s.newest
	if s.newest != nil {
		s.newest.newer = i
	} else {
		s.oldest = i
	}
	s.newest = i
}

// expire removes what has expired.
func (s *shard) expire(now int64) (grown int64) {
	for len(s.expiry) > 0 && s.expiry[0].expires <= now {
		grown += s.remove(s.expiry[0])
	}
	return grown
}

// evict removes one item, if there is any.
func (s *shard) evict() (grown int64) {
	if s.oldest == nil {
		return 0
	}
	for {
		i := s.hand
		if i == nil {
			i = s.oldest
		}
		if !i.read.Swap(false) {
			s.hand = i.newer
			s.evicted++
			return s.remove(i)
		}
		s.hand = i.newer
	}
}

// byExpiry is a heap of items, with the first to expire on top.
type byExpiry []*item

func (h *byExpiry) Len() int           { return len(*h) }
func (h *byExpiry) Less(a, b int) bool { return (*h)[a].expires < (*h)[b].expires }
func (h *byExpiry) Swap(a, b int) {
	all := *h
	all[a], all[b] = all[b], all[a]
	all[a].place, all[b].place = a, b
}

// Push is container/heap's.
func (h *byExpiry) Push(x any) {
	if i, ok := x.(*item); ok {
		i.place = len(*h)
		*h = append(*h, i)
	}
}

// Pop is container/heap's.
func (h *byExpiry) Pop() any {
	last := (*h)[len(*h)-1]
	(*h)[len(*h)-1] = nil
	*h = (*h)[:len(*h)-1]
	return last
}
