package apply

import "github.com/freshet/freshet/internal/rule"

// Refresher loads values again that were invalidated while they were live.
type Refresher interface {
	// Wants reports whether it does that for keys of the entry.
	Wants(e *rule.Entry) bool
	// Changed tells of such a key, once what it was invalidated for is confirmed. It is called on the applier's goroutine, and does
	// not wait.
	Changed(e *rule.Entry, key string)
}

// watched is a key of which it is to be known whether a live value was invalidated.
type watched struct {
	entry int
	key   string
	live  *bool
}

// watch is what the store is to tell that of a key in; nil where nobody wants to know.
func (a *Applier) watch(entry int, key []byte) *bool {
	if a.opts.Refresher == nil || !a.opts.Refresher.Wants(a.opts.Names.entries[entry]) {
		return nil
	}
	live := new(bool)
	a.watched = append(a.watched, watched{entry: entry, key: string(key), live: live})
	return live
}

// taken are the keys that were watched and found live.
func (a *Applier) taken() (live []watched) {
	for _, w := range a.watched {
		if *w.live {
			live = append(live, w)
		}
	}
	a.watched = a.watched[:0]
	return live
}

// refresh tells of what was found live by the batch that was just applied, and before by the early fences of the parts that
// are done with it.
func (a *Applier) refresh(ready []*pendingPart) {
	if a.opts.Refresher == nil {
		return
	}
	hot := a.taken()
	for _, p := range ready {
		if p.unseen == 0 {
			hot = append(hot, p.hot...)
			p.hot = nil
		}
	}
	for _, w := range hot {
		a.opts.Refresher.Changed(a.opts.Names.entries[w.entry], w.key)
	}
}
