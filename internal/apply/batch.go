package apply

import (
	"context"
	"fmt"
	"math/bits"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
)

// What a batch says: the keys and epochs of parts, under the names that are live.

// stamped appends the keys of a small part under the names that are live now, each with those of its transactions that
// are chosen; keys without any are left out.
func (a *Applier) stamped(keys []store.Stamped, part *Part, choose func(it *item) bool) []store.Stamped {
	for i := range part.Keys.Len() {
		if !part.Keys.Key(i) {
			continue
		}
		var stamps []fence.Stamp
		for marks := part.Keys.Marks(i); marks != 0; marks &= marks - 1 {
			if it := &part.items[bits.TrailingZeros64(marks)]; choose(it) {
				stamps = append(stamps, fence.Stamp{XID: it.xid, End: it.end})
			}
		}
		if len(stamps) == 0 {
			continue
		}
		entry, key := part.Keys.At(i)
		if prefix := a.opts.Names.prefix(entry, key); prefix != "" {
			keys = append(keys, store.Stamped{Name: prefix + string(key), Stamps: stamps, Live: a.watch(entry, key)})
		}
	}
	return keys
}

// keys has the batch confirm the keys of the parts: those of small parts each with the transactions that have just become
// visible, the others by name. Epochs are always ended by name: there is no value in them that could contain a transaction.
func (a *Applier) keys(batch *store.Batch, parts []*pendingPart) {
	var large []*pendingPart
	for _, p := range parts {
		if p.part.small() && !p.overtaken {
			batch.Keys = a.stamped(batch.Keys, p.part, func(it *item) bool { return it.fresh })
		} else {
			large = append(large, p)
		}
		batch.Epochs = a.epochs(batch.Epochs, p.part)
	}
	batch.Names = a.names(large)
}

// epochs appends the epochs that the part ends, under the names that are live now: of a small part those of transactions
// that have just become visible, of a large one all.
func (a *Applier) epochs(names []string, part *Part) []string {
	small := part.small()
	for i := range part.Keys.Len() {
		if part.Keys.Epoch(i) && (!small || part.freshly(part.Keys.Marks(i))) {
			entry, epoch := part.Keys.At(i)
			names = a.opts.Names.appendEpochs(names, entry, epoch)
		}
	}
	return names
}

// names spells the keys of the parts under the names that are live now.
func (a *Applier) names(parts []*pendingPart) []string {
	count, size := 0, 0
	for _, p := range parts {
		count += p.part.Keys.Len()
		size += p.part.Keys.Bytes() + p.part.Keys.Len()*a.opts.Names.longest
	}
	if count == 0 {
		return nil
	}
	var text strings.Builder
	text.Grow(size)
	ends := make([]int, 0, count)
	for _, p := range parts {
		for i := range p.part.Keys.Len() {
			if !p.part.Keys.Key(i) {
				continue
			}
			entry, key := p.part.Keys.At(i)
			if prefix := a.opts.Names.prefix(entry, key); prefix != "" {
				text.WriteString(prefix)
				text.Write(key)
				ends = append(ends, text.Len())
			}
		}
	}
	all := text.String()
	names := make([]string, len(ends))
	from := 0
	for i, end := range ends {
		names[i] = all[from:end]
		from = end
	}
	return names
}

// early fences the keys of a small part that has just been taken, before the gate is asked whether its transactions are
// visible (D1): what is cached is gone a round trip earlier, and a reader that comes in between need not load twice. Behind
// a backlog it would only cost time. (To ask the gate at the same time makes both answers later where processors are few.)
func (a *Applier) early(ctx context.Context) error {
	if len(a.pending) == 0 || a.linger > 0 {
		return nil
	}
	p := a.pending[len(a.pending)-1]
	if p.started || p.part.Keys.Len() == 0 || !p.part.small() {
		return nil
	}
	keys := a.stamped(nil, p.part, func(*item) bool { return true })
	if len(keys) == 0 {
		return nil
	}
	result, err := a.opts.Store.Early(ctx, keys)
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	a.opts.Stats.Unlinked.Add(uint64(max(result.Removed, 0)))
	p.fenced, p.hot = time.Now(), append(p.hot, a.taken()...)
	return nil
}

// withdraw takes back the early fences of transactions that stay invisible. One that hangs in synchronous replication may
// do so for long, and its old row is what the database shows: better cached than loaded by every reader, and stored by none.
func (a *Applier) withdraw(batch *store.Batch, now time.Time) {
	for _, p := range a.pending {
		if p.fenced.IsZero() || p.unseen == 0 || now.Sub(p.fenced) < withdrawAfter {
			continue
		}
		p.fenced = time.Time{}
		for _, k := range a.stamped(nil, p.part, func(it *item) bool { return !it.seen }) {
			batch.Names = append(batch.Names, k.Name)
		}
	}
}
