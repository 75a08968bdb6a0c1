package verify

import (
	"container/heap"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Sample says how many of the values to look at. The zero Sample is all of them. The same seed takes the same keys, as
// long as these are there.
type Sample struct {
	Count int     // so many; 0: no such bound
	Share float64 // of all, above 0 and at most 1; 0: all
	Seed  uint64
}

var errSample = errors.New("write a number of values, like 1000, or a share of them, like 5%")

// ParseSample reads "1000" or "5%". The empty text is all.
func ParseSample(text string, seed uint64) (Sample, error) {
	if text == "" {
		return Sample{}, nil
	}
	if number, ok := strings.CutSuffix(text, "%"); ok {
		share, err := strconv.ParseFloat(number, 64)
		if err != nil || math.IsNaN(share) || share <= 0 || share > 100 {
			return Sample{}, fmt.Errorf("sample %q: %w", text, errSample)
		}
		return Sample{Share: share / 100, Seed: seed}, nil
	}
	count, err := strconv.Atoi(text)
	if err != nil || count <= 0 {
		return Sample{}, fmt.Errorf("sample %q: %w", text, errSample)
	}
	return Sample{Count: count, Seed: seed}, nil
}

// rank gives every name a number that looks random and depends on the seed.
func (s Sample) rank(name string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	// FNV leaves similar names close to each other; these steps spread them (splitmix64).
	x := h.Sum64() ^ s.Seed*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// has reports whether a name is in the share.
func (s Sample) has(name string) bool {
	return s.Share == 0 || s.Share >= 1 || float64(s.rank(name)) < s.Share*math.MaxUint64
}

// reservoir keeps the names of the lowest ranks: a random sample of what was offered, in which a name that is offered
// twice is once.
type reservoir struct {
	sample Sample
	top    ranked
	inside map[string]bool
}

func newReservoir(s Sample) *reservoir { return &reservoir{sample: s, inside: map[string]bool{}} }

func (r *reservoir) offer(name string) {
	rank := r.sample.rank(name)
	if r.inside[name] || len(r.top) == r.sample.Count && rank >= r.top[0].rank {
		return
	}
	heap.Push(&r.top, rankedName{rank: rank, name: name})
	r.inside[name] = true
	if len(r.top) > r.sample.Count {
		if gone, ok := heap.Pop(&r.top).(rankedName); ok {
			delete(r.inside, gone.name)
		}
	}
}

func (r *reservoir) names() []string {
	names := make([]string, len(r.top))
	for i, n := range r.top {
		names[i] = n.name
	}
	slices.Sort(names)
	return names
}

type rankedName struct {
	rank uint64
	name string
}

// ranked is a heap with the highest rank first.
type ranked []rankedName

func (h *ranked) Len() int           { return len(*h) }
func (h *ranked) Less(i, j int) bool { return (*h)[i].rank > (*h)[j].rank }
func (h *ranked) Swap(i, j int)      { (*h)[i], (*h)[j] = (*h)[j], (*h)[i] }

// Push is container/heap's.
func (h *ranked) Push(x any) {
	if n, ok := x.(rankedName); ok {
		*h = append(*h, n)
	}
}

// Pop is container/heap's.
func (h *ranked) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
