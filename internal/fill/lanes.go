package fill

import (
	"log/slog"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/store"
)

// parts are the lanes of a cluster as a confirmation found them: R0 holds for each of them by its own HEAD. It is not
// changed once it is made.
type parts struct {
	prefixes [fence.Lanes]string // of names, with the lane's generation; empty: the lane is not to be used, for why
	why      [fence.Lanes]bypassReason
	width    int  // of a prefix
	down     bool // one does not answer
}

// newParts judges the HEADs of all lanes under a roster.
func (r *Reader) newParts(heads []store.LaneHead, n *names) *parts {
	p := &parts{}
	for lane, h := range heads {
		switch {
		case unavailable(h.Err):
			p.why[lane], p.down = storeDown, true
		case h.Err != nil:
			p.why[lane], p.down = storeRefuses, true // its slot is on the move
		case !h.Found:
			p.why[lane] = noHead
		case h.Head.Generation != n.generation || h.Head.Revision != n.revision || h.Head.Lane == "":
			p.why[lane] = namesMoved
		default:
			p.prefixes[lane] = fence.LaneNamespace(r.namespace, len(heads), lane) + ":" + h.Head.Lane + ":"
			p.prefixes[lane] = "f:" + p.prefixes[lane]
			p.width = len(p.prefixes[lane])
		}
	}
	return p
}

// spell appends the name of a key. In a cluster it says why the key's lane is not to be used, if it is not.
func (c *confirmation) spell(dst []byte, l *live, t *rule.Template, args []keytext.Arg) (name []byte, lane int, why bypassReason) {
	if c.parts == nil {
		return t.Append(append(dst, l.prefix...), args), 0, 0
	}
	for range c.parts.width {
		dst = append(dst, 0)
	}
	dst = append(dst, l.tail...)
	from := len(dst)
	name = t.Append(dst, args)
	lane = fence.LaneOf(name[from:])
	prefix := c.parts.prefixes[lane]
	copy(name[from-len(l.tail)-c.parts.width:], prefix)
	return name, lane, c.parts.why[lane]
}

// keyFrom is where the key begins in a name that spell has made.
func (c *confirmation) keyFrom(l *live) int {
	if c.parts == nil {
		return len(l.prefix)
	}
	return c.parts.width + len(l.tail)
}

// agrees reports whether a HEAD is that of the names, and of the lane's own generation.
func (c *confirmation) agrees(lane int, head *fence.Head, found bool) bool {
	if !found || c.names == nil || head.Generation != c.names.generation || head.Revision != c.names.revision {
		return false
	}
	if c.parts == nil {
		return true
	}
	const colons = 2 // one before the generation, one after it
	prefix := c.parts.prefixes[lane]
	return len(prefix) > len(head.Lane)+colons && prefix[len(prefix)-len(head.Lane)-1:len(prefix)-1] == head.Lane
}

// laneOf is the lane of a name.
func (r *Reader) laneOf(name string) int {
	if r.lanesOf == 1 {
		return 0
	}
	lane, _ := fence.LaneIn(r.namespace, name)
	return lane
}

// lost takes note of a lane that does not answer; the others go on.
func (r *Reader) lost(lane int, err error) {
	now := r.confirmed.Load()
	if now == nil || now.parts == nil || now.parts.prefixes[lane] == "" {
		return
	}
	next, p := *now, *now.parts
	p.prefixes[lane], p.why[lane], p.down = "", storeDown, true
	next.parts = &p
	next.settle(nil)
	if r.confirmed.CompareAndSwap(now, &next) {
		r.logger.Warn("a lane of the cluster is away, reading its keys from the database",
			slog.Int("lane", lane), slog.String("error", err.Error()))
	}
}
