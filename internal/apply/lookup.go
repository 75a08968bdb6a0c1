package apply

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/internal/watermark"
	"github.com/freshet/freshet/mvcc"
)

const (
	// mostFound is how many keys one change may affect through a look-up before the entry's name moves instead.
	mostFound = 32 << 10
	// mostAsked is how many rows one look-up is for.
	mostAsked = 1 << 10
)

// hold keeps Wc and Sa from passing transactions whose keys were looked up (docs/protocol.md, LOOKUP). The look-up saw the database as
// it was later: another transaction may have taken the way to a key apart by then, and it is that transaction's own rows which
// lead to the key. So the first ones are applied when everything is that the look-up can have seen: all of the log up to the position
// that was read after it. Those transactions may have been looked up in turn, over a way that is shorter by one table at least, so
// it is waited as many times over as the way has tables.
//
// A hold is never over before one that is older: each waits at least for what those before it wait for. So what waits for the last
// one waits for all.
type hold struct {
	ids    []watermark.ID
	until  mvcc.LSN
	rounds int // 0: it is over
}

// later is a view that becomes Sa when a hold is over.
type later struct {
	view view
	hold *hold
}

// ask is a look-up of a step: for one rule, of the rows that it is for, column by column.
type ask struct {
	entry, number int
	columns       [][]string
	first, last   mvcc.LSN // where the first and the last of the transactions end that the rows may be of
	xid           mvcc.XID // of the last
}

// of says that rows of some of the transactions of a part are among those asked for: all, or the ones that marks stand for.
func (k *ask) of(part *Part, marks uint64, all bool) {
	for i := range part.items {
		if it := &part.items[i]; it.xid != 0 && (all || i < smallItems && marks&(1<<i) != 0) {
			if k.first == 0 || it.end < k.first {
				k.first = it.end
			}
			if it.end >= k.last {
				k.last, k.xid = it.end, it.xid
			}
		}
	}
}

// found is what came of the look-ups of a step.
type found struct {
	until  mvcc.LSN
	rounds int // 0: nothing was looked up
	moved  bool
}

// lookUp finds the keys that rows of the parts affect through other tables, and has the batch take them.
func (a *Applier) lookUp(ctx context.Context, ready []*pendingPart, batch *store.Batch) (f found, err error) {
	for _, k := range asks(ready) {
		e := a.opts.Names.entries[k.entry]
		r := &e.Rules[k.number]
		if !a.opts.Names.isLive(k.entry) {
			continue // nothing of it is cached
		}
		rows, read, refused, err := a.opts.Gate.LookUp(ctx, r.Lookup.SQL, k.columns, mostFound+1)
		if err != nil {
			return f, fmt.Errorf("apply: entry %s: %w", e.Name, err)
		}
		a.opts.Stats.LookUps.Add(1)
		if refused == "" && len(rows) > mostFound {
			refused = fmt.Sprintf("a change of %s.%s affects more than %d keys", r.Schema, r.Table, mostFound)
		}
		if refused == "" {
			batch.Names, refused = a.spell(batch.Names, k, r, rows)
		}
		if refused != "" {
			if a.opts.Names.Move(k.entry, refused, time.Now()) {
				f.moved = true
				a.opts.Stats.Moves.Add(1)
				a.opts.Logger.WarnContext(ctx, "an entry has a new name: the keys that a change affects could not be looked up, all of them may be",
					slog.String("entry", e.Name), slog.String("cause", refused))
			}
			continue // under the new name nothing is cached that could lack the change
		}
		f.until, f.rounds = max(f.until, read), max(f.rounds, r.Lookup.Rank)
	}
	return f, nil
}

// asks gathers what is to be looked up: for the transactions of small parts that have just become visible, for all of large ones.
func asks(ready []*pendingPart) (all []*ask) {
	type which struct{ entry, number int }
	open := map[which]*ask{}
	for _, p := range ready {
		small := p.part.small()
		for i := range p.part.Keys.Len() {
			number, values, ok := p.part.Keys.LookUp(i)
			if !ok || small && !p.part.freshly(p.part.Keys.Marks(i)) {
				continue
			}
			entry, _ := p.part.Keys.At(i)
			k := open[which{entry, number}]
			if k == nil || len(k.columns[0]) == mostAsked {
				k = &ask{entry: entry, number: number, columns: make([][]string, len(values))}
				open[which{entry, number}] = k
				all = append(all, k)
			}
			for j, v := range values {
				k.columns[j] = append(k.columns[j], v)
			}
			k.of(p.part, p.part.Keys.Marks(i), !small)
		}
	}
	return all
}

// spell appends the live names of the keys that a look-up found.
func (a *Applier) spell(names []string, k *ask, r *rule.Rule, rows [][]*string) (all []string, refused string) {
	e := a.opts.Names.entries[k.entry]
	template, err := rule.ParseTemplate(e.Key)
	if err != nil {
		return names, err.Error()
	}
	args := make([]keytext.Arg, len(e.Params))
	var key []byte
	for _, row := range rows {
		if err := r.Found(e.Params, row, args); err != nil {
			return names, err.Error()
		}
		key = template.Append(key[:0], args)
		if prefix := a.opts.Names.prefix(k.entry, key); prefix != "" {
			names = append(names, strings.Clone(prefix)+string(key))
			if a.opts.Trail != nil {
				a.opts.Trail.Found(k.entry, k.number, key, k.xid, k.first, k.last, len(k.columns[0]))
			}
		}
	}
	return names, ""
}

// wait counts a round of every hold whose transactions have all been delivered before this step's gate was asked: what they
// affect is in this batch, or was in one before. next is a position that was read after this step's look-ups.
func (a *Applier) wait(read, next mvcc.LSN) {
	kept := a.waits[:0]
	for _, h := range a.waits {
		if read >= h.until {
			h.rounds--
			h.until = next
		}
		if h.rounds > 0 {
			kept = append(kept, h)
			continue
		}
		for _, id := range h.ids {
			a.prefix.Done(id)
		}
		h.ids = nil
	}
	clear(a.waits[len(kept):])
	a.waits = kept
}

// holdUp has the transactions that have just become visible wait for what their look-ups may have missed. The end of one that
// spans parts waits for the look-ups of every piece.
func (a *Applier) holdUp(ready []*pendingPart, f found) {
	var h *hold
	if f.rounds > 0 {
		h = &hold{until: f.until, rounds: f.rounds}
		for _, older := range a.waits {
			h.until, h.rounds = max(h.until, older.until), max(h.rounds, older.rounds)
		}
		a.waits = append(a.waits, h)
		a.overtake()
	}
	for _, p := range ready {
		for i := range p.part.items {
			it := &p.part.items[i]
			if !it.fresh {
				continue
			}
			if it.held = h; h == nil {
				it.held = a.pieces[it.xid]
			}
			switch {
			case it.position != 0:
				delete(a.pieces, it.xid)
			case it.held != nil:
				a.pieces[it.xid] = it.held
			}
		}
	}
}

// overtake takes note of the transactions that are not visible though later ones were looked up. The look-ups have not seen their
// rows, which a standby may show already: a value from there can contain the one that hangs, lack the later one, and depend on that
// by a row that nobody found. So what hangs counts as contained in nothing once it is visible, and a standby that has not replayed
// all that was looked up by then fills none of its keys.
func (a *Applier) overtake() {
	for _, p := range a.pending {
		p.overtaken = p.overtaken || p.unseen > 0
	}
}

// ripe reports whether a step would count a round.
func (a *Applier) ripe() bool { return len(a.waits) > 0 && a.prefix.Last() >= a.waits[0].until }

// honest keeps a view from becoming Sa while something that is visible in it is held up. Of those that wait the oldest is kept.
func (a *Applier) honest(v view) (reached view) {
	if a.later.hold != nil && a.later.hold.rounds <= 0 {
		reached, a.later = a.later.view, later{}
	}
	switch {
	case v.snapshot.IsZero():
	case len(a.waits) == 0:
		reached, a.later = v, later{}
	case a.later.hold == nil:
		a.later = later{view: v, hold: a.waits[len(a.waits)-1]}
	}
	return reached
}
