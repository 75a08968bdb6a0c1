package fill

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/store"
)

// manyAtOnce is how many keys are read together. More are read in turns: leases are taken for what is loaded next, and each
// turn has the whole load timeout.
const manyAtOnce = 1000

// Answer is what a read of many has for one key.
type Answer struct {
	Value Value
	Err   error
}

// ReadMany reads many values of an entry, in the order of the keys, each under the same rules as a read of it alone, and in as few
// round trips as there are kinds of steps: one for what is in the store, one for the leases of what is missing, one for
// the database, one for what is to be stored. What is cached and cannot be shown to meet the demand is loaded with what is missing. What cannot be
// loaded together is loaded as by reads of single keys, a few at a time (line). Keys that are the same are read once. load gives the code that loads the i-th key, where code loads the entry.
func (r *Reader) ReadMany(ctx context.Context, entry string, keys []Key, load func(i int) LoadFunc, d *Demand) []Answer {
	answers := make([]Answer, len(keys))
	e := r.entries[entry]
	if e == nil {
		for i := range answers {
			answers[i].Err = fmt.Errorf("entry %s: %w", entry, ErrUnknownEntry)
		}
		return answers
	}
	if nests(ctx, entry) {
		past := *d
		past.Past, d = true, &past
	}
	for from := 0; from < len(keys); from += manyAtOnce {
		to := min(from+manyAtOnce, len(keys))
		b := &batch{Reader: r, e: e, demand: d, n: r.need(e, d), keys: keys[from:to], answers: answers[from:to], reading: r.reading(ctx), gone: ctx.Err}
		if load != nil {
			b.code = func(i int) LoadFunc { return load(from + i) }
		}
		b.whole(ctx, 1)
	}
	return answers
}

// GetMany is ReadMany for canonical arguments, of an entry that its query loads.
func (r *Reader) GetMany(ctx context.Context, entry string, keys [][]keytext.Arg, d *Demand) []Answer {
	made := make([]Key, len(keys))
	for i, args := range keys {
		made[i] = canonical(args)
	}
	return r.ReadMany(ctx, entry, made, nil, d)
}

// batch is one turn of a ReadMany.
type batch struct {
	*Reader
	e      *declared
	demand *Demand
	n      *need
	c      *confirmation
	l      *live // nil: no roster knows the entry

	came, began time.Time
	since       time.Time // when the first batch began that these keys were read with

	keys    []Key
	code    func(i int) LoadFunc // nil: the entry's query loads it
	answers []Answer
	items   []*item
	apart   sync.WaitGroup // reads of single keys
	reading *Reading       // nil: nobody observes the read
	gone    func() error   // says that the caller has gone
	line    line
	anew    onceMore // what is to be read from the beginning
}

// item is a key, which may have been asked for several times.
type item struct {
	places []int
	w      *want
	lane   int
	asked  []string // epochs
	// holding is nil where nothing is to be held of it.
	holding *holding
	why     bypassReason
	token   fence.Token
	reply   store.LeaseReply
	flight  *flight // of our own, or of somebody else in this process
	joined  bool    // it is somebody else's
	ended   bool    // by a stale value; the flight is nobody's to wait for
	// inherited says that another process was loading it, which did not.
	inherited bool
	trip      *trip
	turn      *turn // nil: it is not read by itself, or not yet
}

// answer is the end of an item.
func (b *batch) answer(it *item, v Value, err error) {
	for _, at := range it.places {
		b.answers[at] = Answer{Value: v, Err: err}
	}
}

// fail ends items by an error that is not the database's.
func (b *batch) fail(items []*item, err error) {
	for _, it := range items {
		b.answer(it, Value{}, fmt.Errorf("entry %s: %w", b.e.name, err))
	}
}

// settle ends an item if its value meets the need, as ReadUnder does. What may yet be shown is waited for, and then read anew.
func (b *batch) settle(it *item, v Value, err error) {
	if err == nil && b.n != nil && v.Status != Hit {
		if err = b.n.shown(v.server, v.coverage.Snapshot); waitable(err) {
			b.anew.add(it, err)
			return
		}
		if err != nil {
			v, err = Value{}, fmt.Errorf("entry %s: %w", b.e.name, err)
		}
	}
	if err == nil && b.n != nil && b.n.session != nil {
		b.n.session.saw(v.server, v.seen())
	}
	b.answer(it, v, err)
}

// alone reads an item as a read of it alone does, from the beginning: what somebody else is loading is waited for so.
func (b *batch) alone(ctx context.Context, it *item) {
	b.apart.Go(func() {
		v, err := b.ReadUnder(ctx, b.e.name, b.keys[it.places[0]], it.w.load, b.demand)
		b.answer(it, v, err)
	})
}

func (b *batch) read(ctx context.Context) {
	b.c, b.began = b.names(ctx)
	if b.came = b.began; b.n != nil {
		b.came = time.Now()
	}
	if b.since.IsZero() {
		b.since = b.began
	}
	var why bypassReason
	var params []rule.Param
	if b.l, why = b.c.live(b.e); b.l != nil {
		params = b.l.entry.Params
	} else {
		var err error
		if params, err = b.described(ctx, b.began, b.e); err != nil {
			for i := range b.answers {
				b.answers[i].Err = err
			}
			return
		}
	}
	b.gather(params)
	if b.n != nil && b.n.past {
		why = askedFor
	}
	switch {
	case len(b.items) == 1:
		b.alone(ctx, b.items[0])
		return
	case why != 0:
		for _, it := range b.items {
			it.why = why
		}
		b.bypassMany(ctx, b.items)
		return
	}
	var there, away []*item
	for _, it := range b.items {
		spelled, lane, unusable := b.c.spell(nil, b.l, b.e.template, it.w.args)
		it.w.name, it.lane, it.why = string(spelled), lane, unusable
		if unusable != 0 {
			away = append(away, it)
			continue
		}
		there = append(there, it)
		if b.l.ties != nil {
			it.w.at = b.l.ties.place(it.w.name, b.c.keyFrom(b.l), it.w.args)
			it.asked = b.remembered.of(it.w.at)
		}
	}
	missing, lost := b.look(ctx, there)
	b.stats.misses.Add(uint64(len(missing))) // once, however often they are leased
	granted, more := b.lease(ctx, missing)
	b.launch(ctx, granted)
	b.bypassMany(ctx, slices.Concat(away, lost, more))
	b.collect(ctx, missing)
}

// gather makes the items of the keys.
func (b *batch) gather(params []rule.Param) {
	seen := make(map[string]*item, len(b.keys))
	for i, key := range b.keys {
		args, err := b.e.args(key, params)
		if err != nil {
			b.answers[i].Err = err
			continue
		}
		w := &want{e: b.e, l: b.l, c: b.c, args: slices.Clone(args), n: b.n, came: b.came, began: b.began, fresh: b.demand.Fresh, reading: b.reading}
		if b.code != nil {
			w.load = b.code(i)
		}
		id := w.lane()
		if it := seen[id]; it != nil {
			it.places = append(it.places, i)
			continue
		}
		it := &item{places: []int{i}, w: w}
		seen[id] = it
		b.items = append(b.items, it)
	}
}

// look reads what is in the store (R1), and ends what is a hit. missing are those to be leased, lost those that the store did not
// answer about.
func (b *batch) look(ctx context.Context, items []*item) (missing, lost []*item) {
	if b.n != nil && b.n.asksNothingOfHead() {
		return items, nil
	}
	if b.n != nil && b.n.bounded && !b.n.verify {
		for _, it := range items {
			b.count(ctx, it.lane) // which it does seldom
		}
	}
	items = b.recallMany(items)
	var head *fence.Head
	for round := 0; len(items) > 0; round++ {
		asked := readings(items)
		forget := b.expectMany(items, asked)
		found := b.batches.ReadMany(ctx, asked, b.n != nil)
		var again []*item
		for i, it := range items {
			f := &found[i]
			switch {
			case f.Err != nil && ctx.Err() != nil:
				b.fail([]*item{it}, ctx.Err())
				continue
			case f.Err != nil:
				it.why = b.failed(b.c, it.lane, f.Err)
				lost = append(lost, it)
				continue
			case b.n != nil && !b.c.agrees(it.lane, &f.Head, f.HeadFound):
				b.expire(b.c)
				b.stats.dropped.Add(1)
				b.anew.add(it, nil)
				continue
			}
			p, others := b.peeked(it, f.Tied)
			switch {
			case others != nil && round+1 < looks:
				it.asked = others
				again = append(again, it)
			case p.hit && b.hit(ctx, it, f, &p):
			default:
				head = &f.Head
				it.w.dead = p.dead
				missing = append(missing, it)
			}
		}
		forget()
		items = again
	}
	if head != nil && b.n != nil && len(b.n.tokens) > 0 {
		if err := b.refuseForeign(ctx, b.e, b.n, head); err != nil {
			for _, it := range missing {
				b.answer(it, Value{}, err)
			}
			return nil, lost
		}
	}
	return missing, lost
}

// readings are what is asked for of items.
func readings(items []*item) []store.Reading {
	all := make([]store.Reading, len(items))
	for i, it := range items {
		if all[i].Name = it.w.name; it.w.at != nil {
			all[i].Epochs = it.w.at.full(it.asked)
		}
	}
	return all
}

// peeked is what a record was found to be; others are the epochs that it is to be asked for with instead.
func (b *batch) peeked(it *item, held store.Tied) (p peeked, others []string) {
	if it.w.at != nil {
		return b.seen(it.w.at, it.asked, held)
	}
	if p.text = held.Text; held.Text == nil {
		return p, nil
	}
	if b.n == nil {
		var there bool
		if p.record.Payload, there, p.hit = fence.Hit(held.Text); p.hit {
			if p.record.State = fence.Negative; there {
				p.record.State = fence.Live
			}
			return p, nil
		}
	}
	record, err := fence.ParseRecord(held.Text)
	if err != nil {
		b.stats.corrupt.Add(1) // a LEASE puts a record in its place
		return p, nil
	}
	p.record, p.hit = record, record.State.Live() && len(record.Epochs) == 0
	return p, nil
}

// hit ends an item by a live value, if that meets the need.
func (b *batch) hit(ctx context.Context, it *item, f *store.Found, p *peeked) bool {
	switch {
	case !b.stillConfirmed(b.c, it.lane):
		b.stats.dropped.Add(1)
		b.anew.add(it, nil)
		return true
	case b.n != nil && !b.vouched(b.n, it.lane, &f.Head, p.record.Coverage):
		b.stats.unproven.Add(1)
		return false
	}
	b.stats.hits.Add(1)
	b.refresh(ctx, it, p.text)
	v := Value{
		Found: p.record.State == fence.Live, Payload: p.record.Payload, Status: Hit, Name: it.w.name, record: p.text,
		held: it.keep(p), under: b.c, lane: it.lane,
	}
	if b.n != nil {
		v.coverage, v.confirmed = p.record.Coverage, f.Head.Si
		v.server = pgload.Server{System: f.Head.System, Timeline: f.Head.Timeline}
	}
	b.settle(it, v, nil)
	return true
}

// collect waits for flights, and then for those turns that items of theirs have.
func (b *batch) collect(ctx context.Context, items []*item) {
	hard, soft := b.patience()
	defer hard.Stop()
	defer soft.Stop()
	var turns []*item
	for _, it := range items {
		switch {
		case it.ended:
			continue
		case it.flight == nil:
			if it.turn != nil {
				turns = append(turns, it)
			}
			continue
		}
		if it.w.timer = hard; it.w.standIn != nil && it.w.standIn.outlives(it.w) {
			it.w.timer = soft
		}
		if it.joined {
			if v, fits, err := b.join(ctx, it.w, it.flight, &it.reply); err != nil || fits {
				b.settleOr(ctx, it, v, err)
			} else {
				b.anew.add(it, nil)
			}
			continue
		}
		if err := it.flight.wait(ctx, it.w.timer); err != nil {
			b.settleOr(ctx, it, Value{}, fmt.Errorf("entry %s: %w", b.e.name, err))
			continue
		}
		if it.turn != nil {
			turns = append(turns, it)
			continue
		}
		v, err := it.flight.value(it.w)
		b.settleOr(ctx, it, v, err)
	}
	for _, it := range turns {
		b.finish(ctx, it, soft)
	}
}
