package store

import (
	"slices"
	"sync"
	"sync/atomic"
)

// Ears are those who wait for keys to change that they look at. Nothing is held of what they read. Its methods may be called from any
// number of goroutines.
type Ears struct {
	any     atomic.Bool // somebody waits
	mu      sync.Mutex
	waiting map[string][]*hearing
}

// NewEars makes Ears that nobody waits with.
func NewEars() *Ears { return &Ears{waiting: map[string][]*hearing{}} }

// hearing is one who waits.
type hearing struct {
	by    *Ears
	names []string
	wires []*Wire // on which the names are read
	once  sync.Once
	wake  chan struct{}
}

// Add has whoever asks hear of names from now on, and of the end of connections that would have told of them.
func (e *Ears) Add(wires []*Wire, names []string) Listening {
	l := &hearing{by: e, names: slices.Clone(names), wires: wires, wake: make(chan struct{})}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.any.Store(true)
	for _, name := range names {
		e.waiting[name] = append(e.waiting[name], l)
	}
	return l
}

// Heard is closed when one of the keys has changed, or may have.
func (l *hearing) Heard() <-chan struct{} { return l.wake }

// Waiting is how many names somebody waits for.
func (e *Ears) Waiting() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.waiting)
}

func (l *hearing) hear() { l.once.Do(func() { close(l.wake) }) }

// Cancel ends it. It may be called more than once.
func (l *hearing) Cancel() {
	l.by.mu.Lock()
	defer l.by.mu.Unlock()
	for _, name := range l.names {
		rest := slices.DeleteFunc(l.by.waiting[name], func(x *hearing) bool { return x == l })
		if l.by.waiting[name] = rest; len(rest) == 0 {
			delete(l.by.waiting, name)
		}
	}
	l.names = nil
	l.by.any.Store(len(l.by.waiting) > 0)
}

// Invalidate wakes whoever waits for a key.
func (e *Ears) Invalidate(name string) {
	if !e.any.Load() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.waiting[name] {
		l.hear()
	}
}

// Drop wakes whoever waits for a key that was read on a connection.
func (e *Ears) Drop(wire *Wire) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, all := range e.waiting {
		for _, l := range all {
			if slices.Contains(l.wires, wire) {
				l.hear()
			}
		}
	}
}
