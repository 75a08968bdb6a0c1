package daemon

import (
	"context"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/rule"
)

const (
	// refreshing is how many values are refreshed at a time.
	refreshing = 4
	// refreshQueue bounds how many wait for that. What does not fit is loaded by whoever reads it next.
	refreshQueue = 1024
	// hotFor is how many changes in a row a value is refreshed for on the strength of one reader having filled it. Nobody can see
	// a plain GET, so after these the daemon leaves the key to its readers: one miss tells that it is read still.
	hotFor = 8
	// hotKeys is of how many keys that is remembered.
	hotKeys = 8192
)

// hotKey is a key of an entry, in canonical text.
type hotKey struct{ entry, key string }

// refresher does on_change: refresh. What is invalidated while it is live is loaded again, by an ordinary load under a lease, which
// the store takes under the rules for all. It is paced, and never holds up what invalidates.
type refresher struct {
	d     *daemon
	queue chan hotKey

	mu      sync.Mutex
	waiting map[hotKey]bool // in the queue
	spent   map[hotKey]int  // refreshes since a reader has filled it

	stored, needless, failed, dropped, left atomic.Uint64
}

// Refreshes counts what was refreshed since the daemon started.
type Refreshes struct {
	Stored   uint64 `json:"stored"`   // loaded and stored
	Needless uint64 `json:"needless"` // a reader was quicker
	Failed   uint64 `json:"failed"`   // not stored
	Dropped  uint64 `json:"dropped"`  // not begun: too many were waiting
	Left     uint64 `json:"left"`     // not begun: not known to be read any more
}

func newRefresher(d *daemon) *refresher {
	return &refresher{d: d, queue: make(chan hotKey, refreshQueue), waiting: map[hotKey]bool{}, spent: map[hotKey]int{}}
}

// Wants reports whether values of this version of an entry are refreshed: of the one that the file declares.
func (r *refresher) Wants(e *rule.Entry) bool {
	if r.d.file.Load().Entries[e.Name].OnChange.Kind != config.Refresh {
		return false
	}
	p := r.d.parts.Load()
	if p == nil {
		return false
	}
	digest, ok := p.served.Load().reader.Digest(e.Name)
	return ok && digest == e.Definition
}

// Changed takes note of a key whose live value was invalidated.
func (r *refresher) Changed(e *rule.Entry, key string) {
	k := hotKey{entry: e.Name, key: key}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting[k] {
		return
	}
	if r.spent[k] >= hotFor {
		delete(r.spent, k) // whoever finds it live next finds what a reader has filled
		r.left.Add(1)
		return
	}
	select {
	case r.queue <- k:
	default:
		r.dropped.Add(1)
		return
	}
	r.waiting[k] = true
	if len(r.spent) >= hotKeys {
		for other := range r.spent { // any
			delete(r.spent, other)
			break
		}
	}
	r.spent[k]++
}

// run refreshes until ctx ends.
func (r *refresher) run(ctx context.Context) error {
	var group errgroup.Group
	for range refreshing {
		group.Go(func() error {
			for {
				select {
				case k := <-r.queue:
					r.refresh(ctx, k)
				case <-ctx.Done():
					return nil
				}
			}
		})
	}
	return group.Wait()
}

func (r *refresher) refresh(ctx context.Context, k hotKey) {
	r.mu.Lock()
	delete(r.waiting, k) // a change from now on may be one that this load does not see
	r.mu.Unlock()
	reader, done, err := (&gateway{r.d}).reader()
	if err != nil {
		r.failed.Add(1)
		return
	}
	defer done()
	switch reader.Reload(ctx, k.entry, k.key) {
	case fill.ReloadStored:
		r.stored.Add(1)
	case fill.ReloadNeedless:
		r.needless.Add(1)
		r.mu.Lock()
		delete(r.spent, k) // it is read
		r.mu.Unlock()
	default:
		r.failed.Add(1)
	}
}

func (r *refresher) stats() Refreshes {
	return Refreshes{
		Stored: r.stored.Load(), Needless: r.needless.Load(), Failed: r.failed.Load(), Dropped: r.dropped.Load(), Left: r.left.Load(),
	}
}

func (r Refreshes) byOutcome() map[string]uint64 {
	return map[string]uint64{"stored": r.Stored, "needless": r.Needless, "failed": r.Failed, "dropped": r.Dropped, "left": r.Left}
}
