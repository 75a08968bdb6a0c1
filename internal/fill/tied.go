package fill

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/near"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/store"
)

const (
	// epochMargin is how much longer than its value an epoch lives: the fill comes after it. One that ends earlier costs a miss.
	epochMargin = time.Minute
	// maxEpochs and maxEpochBytes bound what one value is tied to. Beyond it a rule's shared epoch stands for its tags.
	maxEpochs     = 256
	maxEpochBytes = 16 << 10
	// Tags are remembered of so many keys, where there are not too many of them.
	rememberedKeys = 4096
	rememberedMost = 64
)

// ties are the rules of an entry through which its values are tied to epochs.
type ties struct {
	rules []tie
	tags  []*rule.TagQuery // of the rules of the class TAG, in their order
	hand  bool             // the code that loads ties values to tags
}

type tie struct {
	number     int
	tag        bool
	determined []int // parameters
	types      []keytext.Type
}

// newTies is nil for an entry without such rules.
func newTies(e *rule.Entry) *ties {
	t := &ties{hand: e.Tags != ""}
	for i := range e.Rules {
		one := &e.Rules[i]
		if !one.Tied() {
			continue
		}
		r := tie{number: i, determined: one.Determined(), tag: one.Class == rule.Tag && one.Tag != nil}
		if r.tag {
			t.tags = append(t.tags, one.Tag)
			for _, typ := range one.Tag.Types {
				r.types = append(r.types, typ.Wide())
			}
		}
		t.rules = append(t.rules, r)
	}
	if len(t.rules) == 0 && !t.hand {
		return nil
	}
	return t
}

// certain are the epochs that every value of a key is tied to, whatever the database has.
func (t *ties) certain(args []keytext.Arg) []string {
	names := make([]string, 0, 2*len(t.rules))
	for i := range t.rules {
		r := &t.rules[i]
		names = append(names, string(rule.AppendOwnEpoch(nil, r.number)))
		if len(r.determined) > 0 {
			values := make([]keytext.Arg, len(r.determined))
			for n, place := range r.determined {
				values[n] = args[place]
			}
			names = append(names, string(rule.AppendEpoch(nil, r.number, values)))
		}
	}
	if t.hand {
		names = append(names, string(rule.AppendOwnTagEpoch(nil)))
	}
	return names
}

// of are all epochs that a load is to be tied to.
func (t *ties) of(args []keytext.Arg, loaded *pgload.Loaded) ([]string, error) {
	names := t.certain(args)
	if len(loaded.Tags) != len(t.tags) {
		return nil, fmt.Errorf("the load has found tags for %d rules of %d", len(loaded.Tags), len(t.tags))
	}
	left, bytes, at := maxEpochs, maxEpochBytes, 0
	for i := range t.rules {
		r := &t.rules[i]
		if !r.tag {
			continue
		}
		tags := &loaded.Tags[at]
		at++
		some, size, fits := r.spell(tags)
		if !fits || len(some) > left || size > bytes {
			names = append(names, string(rule.AppendSharedEpoch(nil, r.number)))
			continue
		}
		left, bytes = left-len(some), bytes-size
		names = append(names, some...)
	}
	if t.hand {
		names = append(names, handEpochs(loaded.ByHand, left, bytes)...)
	}
	return names, nil
}

// spell names the epochs of a rule's tags. It fails where there are too many, or where one has no canonical text.
func (r *tie) spell(tags *pgload.Tags) (names []string, size int, fits bool) {
	if tags.More {
		return nil, 0, false
	}
	names = make([]string, 0, len(tags.Values))
	for _, tuple := range tags.Values {
		if len(tuple) != len(r.types) {
			return nil, 0, false
		}
		values := make([]keytext.Arg, len(tuple))
		for n, text := range tuple {
			canonical, err := keytext.AppendCanonicalLog(nil, r.types[n], []byte(text))
			if err != nil {
				return nil, 0, false
			}
			values[n].Text = string(canonical)
		}
		name := string(rule.AppendEpoch(nil, r.number, values))
		names, size = append(names, name), size+len(name)
	}
	slices.Sort(names) // so that the same tags make the same record
	return slices.Compact(names), size, true
}

// place is where the epochs of a key's value are.
type place struct {
	name    string // of the record
	base    string // what the names of its epochs begin with
	certain []string
	e       *declared // nil: it is not to be held in memory
}

// place is that of a key, of which name is the record's and from where the key begins in it.
func (t *ties) place(name string, from int, args []keytext.Arg) *place {
	return &place{name: name, base: name[:from-1], certain: t.certain(args)}
}

// full are the names of epochs in the store.
func (p *place) full(epochs []string) []string {
	names := make([]string, len(epochs))
	for i, e := range epochs {
		names[i] = p.base + e
	}
	return names
}

// remembered are the epochs that values of keys were last seen tied to, so that they are asked for together with the record.
// It is a hint: what a record says itself counts.
type remembered struct {
	seed maphash.Seed
	keys [rememberedKeys]atomic.Pointer[memory]
}

type memory struct {
	name   string
	epochs []string
}

func (m *remembered) at(name string) *atomic.Pointer[memory] {
	return &m.keys[maphash.String(m.seed, name)%rememberedKeys]
}

// of are the epochs to be asked for together with a record: those that are certain, and what was seen besides.
func (m *remembered) of(p *place) []string {
	if known := m.at(p.name).Load(); known != nil && known.name == p.name {
		return known.epochs
	}
	return p.certain
}

func (m *remembered) see(p *place, epochs []fence.Epoch) {
	if len(epochs) == len(p.certain) || len(epochs) > rememberedMost {
		// What was seen before would be asked for with every read, in vain.
		if to := m.at(p.name); len(epochs) > 0 {
			if known := to.Load(); known != nil && known.name == p.name {
				to.CompareAndSwap(known, nil)
			}
		}
		return
	}
	seen := make([]string, len(epochs))
	for i, e := range epochs {
		seen[i] = e.Name
	}
	to := m.at(p.name)
	if known := to.Load(); known == nil || known.name != p.name || !slices.Equal(known.epochs, seen) {
		to.Store(&memory{name: p.name, epochs: seen})
	}
}

// peeked is what a record of an entry with epochs was found to be.
type peeked struct {
	text   []byte
	record fence.Record
	hit    bool   // it is live, and its epochs hold
	dead   string // of a live value whose epochs do not: what they are (fence.EpochsText)

	held   *near.Held
	proved bool // to meet the need of the read
}

// looks is how often a record is asked for, when each time it names other epochs than were asked for with it.
const looks = 4

// peek reads a record together with its epochs, in one command: one moment of one server.
func (r *Reader) peek(ctx context.Context, p *place, under *store.Under) (found peeked, err error) {
	asked := r.remembered.of(p)
	for range looks {
		full := p.full(asked)
		x := r.expect(p.e, p.name, full...)
		var held store.Tied
		if r.lone != nil && under != nil {
			held, err = r.lone.ReadUnder(ctx, p.name, full, under)
		} else {
			held, err = r.store.ReadTied(ctx, p.name, full)
		}
		if err != nil {
			x.cancel()
			return peeked{}, err
		}
		if found, asked = r.seen(p, asked, held); asked == nil {
			if found.hit {
				found.held = x.keep(p.name, found.text, &found.record, full)
			}
			x.cancel()
			return found, nil
		}
		x.cancel()
	}
	return found, nil // it does not hold still: no hit
}

// peekUnder reads HEAD, and then a record together with its epochs, if it has any, all on one connection: what one server says of
// an epoch is nothing that another one's HEAD vouches for.
func (r *Reader) peekUnder(ctx context.Context, e *declared, name string, p *place) (head fence.Head, headFound bool, found peeked, err error) {
	if p == nil {
		x := r.expect(e, name)
		defer x.cancel()
		head, headFound, held, err := r.store.ReadWithHead(ctx, name, nil)
		if err != nil {
			return fence.Head{}, false, peeked{}, err
		}
		found.text = held.Text
		if found.record, err = fence.ParseRecord(held.Text); err == nil {
			found.hit = found.record.State.Live() && len(found.record.Epochs) == 0
		}
		if found.hit {
			found.held = x.keep(name, found.text, &found.record, nil)
		}
		return head, headFound, found, nil
	}
	asked := r.remembered.of(p)
	for range looks {
		full := p.full(asked)
		x := r.expect(p.e, name, full...)
		var held store.Tied
		if head, headFound, held, err = r.store.ReadWithHead(ctx, name, full); err != nil {
			x.cancel()
			return fence.Head{}, false, peeked{}, err
		}
		if found, asked = r.seen(p, asked, held); asked == nil && found.hit {
			found.held = x.keep(name, found.text, &found.record, full)
		}
		x.cancel()
		if asked == nil {
			break
		}
	}
	return head, headFound, found, nil
}

// seen judges a record that was read together with the epochs that were asked for. If it names others, it says which: then all of it
// has to be asked for once more.
func (r *Reader) seen(p *place, asked []string, held store.Tied) (found peeked, others []string) {
	found.text = held.Text
	if held.Text == nil {
		return found, nil
	}
	record, err := fence.ParseRecord(held.Text)
	if err != nil {
		r.stats.corrupt.Add(1) // a LEASE puts a record in its place
		return found, nil
	}
	if found.record = record; !record.State.Live() {
		return found, nil
	}
	ties := p.ties(record.Epochs)
	if ties && !slices.EqualFunc(record.Epochs, asked, named) {
		others = make([]string, len(record.Epochs))
		for i, e := range record.Epochs {
			others[i] = e.Name
		}
		return found, others
	}
	r.remembered.see(p, record.Epochs)
	if found.hit = ties && fence.Hold(record.Epochs, held.IDs); !found.hit {
		r.stats.ended.Add(1)
		found.dead = fence.EpochsText(record.Epochs)
	}
	return found, nil
}

func named(e fence.Epoch, name string) bool { return e.Name == name }

// ties reports whether a value is tied to what every value of the key is.
func (p *place) ties(epochs []fence.Epoch) bool {
	return len(epochs) >= len(p.certain) && slices.EqualFunc(epochs[:len(p.certain)], p.certain, named)
}

// idsOf reads what the epochs of a record hold.
func (r *Reader) idsOf(ctx context.Context, p *place, epochs []fence.Epoch) ([]string, error) {
	names := make([]string, len(epochs))
	for i, e := range epochs {
		names[i] = p.base + e.Name
	}
	return r.store.Epochs(ctx, names)
}

// alive reports whether a live value, which the store showed after the read began, is a hit: of an entry without epochs always.
// What it is tied to is read now, so no change that was confirmed before the read began escapes.
func (r *Reader) alive(ctx context.Context, w *want, record *fence.Record) (bool, error) {
	if w.at == nil {
		return len(record.Epochs) == 0, nil
	}
	if !w.at.ties(record.Epochs) {
		return false, nil
	}
	ids, err := r.idsOf(ctx, w.at, record.Epochs)
	if err != nil {
		return false, err
	}
	return fence.Hold(record.Epochs, ids), nil
}

// lease asks for the right to fill the key, over what was found dead.
func (r *Reader) lease(ctx context.Context, w *want, token fence.Token) (reply store.LeaseReply, err error) {
	lasts := w.e.LoadTimeout + leaseMargin
	if w.dead == "" {
		reply, err = r.store.Lease(ctx, w.name, token, lasts)
	} else {
		reply, err = r.store.LeaseOver(ctx, w.name, w.dead, token, lasts)
	}
	if err != nil && ctx.Err() != nil {
		r.abandon(ctx, []string{w.name}, []fence.Token{token})
	}
	return reply, err
}

// pin finds the epochs that a load is to be tied to, makes those that are not there, and asks HEAD whether one of them was
// ended for what the load lacks. It goes between the load and the FILL.
func (r *Reader) pin(ctx context.Context, w *want, loaded *pgload.Loaded) ([]fence.Epoch, refusal) {
	if w.at == nil {
		return nil, 0
	}
	names, err := w.l.ties.of(w.args, loaded)
	if err != nil {
		r.logger.ErrorContext(ctx, "load is not stored", slog.String("entry", w.e.name), slog.String("error", err.Error()))
		return nil, refusedLoad
	}
	full := w.at.full(names)
	p, err := r.store.Pin(ctx, full, w.e.epochLife())
	return r.pinned(ctx, w, loaded, names, full, &p, err)
}

// epochLife is how long an epoch lives at least from now on, for a value that is about to be stored.
func (e *declared) epochLife() time.Duration { return max(e.TTL, e.NegativeTTL) + epochMargin }

// pinned judges what Pin has answered.
func (r *Reader) pinned(
	ctx context.Context, w *want, loaded *pgload.Loaded, names, full []string, p *store.Pinned, err error,
) ([]fence.Epoch, refusal) {
	if err != nil {
		r.logger.DebugContext(ctx, "epochs cannot be pinned", slog.String("entry", w.e.name), slog.String("error", err.Error()))
		return nil, refusedStore
	}
	r.stats.pins.Add(1)
	buckets := make([]fence.Bucket, len(full))
	epochs := make([]fence.Epoch, len(full))
	for i, name := range full {
		buckets[i] = fence.BucketOf(name)
		epochs[i] = fence.Epoch{Name: names[i], ID: p.IDs[i]}
	}
	switch {
	case !w.c.agrees(r.laneOf(w.name), &p.Head, p.HeadFound):
		r.expire(w.c)
		return nil, refusedNames
	case !fence.Pinned(p.Head, buckets, loaded.Coverage):
		return nil, refusedEpoch
	}
	return epochs, 0
}

// stands reports whether what a flight has stored is a hit now. A row from a standby may be older than what ended an epoch
// before a waiter came: HEAD's floor of the key's own bucket does not say so.
func (r *Reader) stands(ctx context.Context, w *want, f *flight) bool {
	if w.at == nil || f.err != nil || !f.loaded.Coverage.Standby() {
		return true
	}
	select {
	case <-f.done:
	default:
		return false
	}
	if f.reason != 0 || f.unstored != 0 {
		return false
	}
	ids, err := r.idsOf(ctx, w.at, f.epochs)
	return err == nil && fence.Hold(f.epochs, ids)
}
