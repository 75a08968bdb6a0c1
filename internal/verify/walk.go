package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
)

// walk looks at every name, or at a sample.
func (v *verifier) walk(ctx context.Context) error {
	pattern := "f:" + v.Namespace + ":*"
	if v.Sample.Count == 0 {
		return v.Store.Walk(ctx, pattern, func(found []string) error {
			return v.checkAll(ctx, slices.DeleteFunc(found, func(name string) bool { return !v.Sample.has(name) }))
		})
	}
	some := newReservoir(v.Sample)
	err := v.Store.Walk(ctx, pattern, func(found []string) error {
		if _, err := v.inForce(ctx); err != nil {
			return err
		}
		for _, name := range found {
			if l, _ := v.names.find(name); l != nil && v.wanted(l) {
				some.offer(name)
			}
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	return v.checkAll(ctx, some.names())
}

// checkAll looks at the records of these names, and at what is not decided yet.
func (v *verifier) checkAll(ctx context.Context, all []string) error {
	for some := range slices.Chunk(all, v.pace.step()) {
		if err := v.check(ctx, some); err != nil {
			return err
		}
		if err := v.reconsider(ctx); err != nil {
			return err
		}
		if err := v.settle(ctx, maxPending); err != nil {
			return err
		}
		v.meter.progress(v.report)
	}
	return nil
}

// one is a record and what it is compared with.
type one struct {
	*live
	name   string
	base   string // what the names of the key's epochs begin with
	args   []keytext.Arg
	ttl    time.Duration
	record fence.Record

	truth pgload.Loaded
	err   error
}

// check reads some records and compares them with the database.
func (v *verifier) check(ctx context.Context, some []string) error {
	head, err := v.inForce(ctx)
	if err != nil {
		return err
	}
	all, err := v.read(ctx, v.choose(some))
	if err != nil {
		return err
	}
	if err := v.pace.take(ctx, len(all)); err != nil {
		return err
	}
	if err := v.load(ctx, all, &head); err != nil {
		return err
	}
	var differing []*candidate
	for _, o := range all {
		v.report.checked(o)
		if o.err != nil {
			v.undecided(&candidate{one: o}, o.err.Error())
		} else if like := o.compare(); like == equal {
			v.report.count(o.entry.Name).Fresh++
		} else {
			differing = append(differing, &candidate{one: o, like: like, found: time.Now()})
		}
	}
	return v.keep(ctx, differing)
}

// choose finds the entries and arguments of names that readers would use.
func (v *verifier) choose(some []string) []*one {
	chosen := make([]*one, 0, len(some))
	for _, name := range some {
		l, key := v.names.find(name)
		if l == nil || !v.wanted(l) {
			continue
		}
		args, ok := l.arguments(key)
		if !ok {
			v.report.count(l.entry.Name).Unreadable++
			continue
		}
		chosen = append(chosen, &one{live: l, name: name, base: name[:len(name)-len(key)-1], args: args})
	}
	return chosen
}

// read reads records and keeps those that readers would take and that can be compared.
func (v *verifier) read(ctx context.Context, all []*one) ([]*one, error) {
	held, err := v.Store.Read(ctx, namesOf(all))
	if err != nil {
		return nil, err
	}
	kept := all[:0]
	for i, o := range all {
		if !held[i].Found {
			continue
		}
		counts := v.report.count(o.entry.Name)
		if o.record, err = fence.ParseRecord(held[i].Text); err != nil || held[i].Other {
			counts.Unreadable++ // a reader treats it as absent
			continue
		}
		switch {
		case !o.record.State.Live():
		case o.sql == "", o.shape != nil && !readable(&o.record):
			counts.Unverifiable++
		default:
			o.ttl = held[i].TTL
			kept = append(kept, o)
		}
	}
	holds, err := v.holding(ctx, kept)
	if err != nil {
		return nil, err
	}
	hits := kept[:0]
	for i, o := range kept {
		if holds[i] {
			hits = append(hits, o)
		}
	}
	return hits, nil
}

// holding reports for each value whether the epochs that it is tied to hold, as they do for readers who come now: a value
// without any does not have to be asked about, unless its entry has them, and then it is nobody's.
func (v *verifier) holding(ctx context.Context, all []*one) ([]bool, error) {
	var names []string
	for _, o := range all {
		for _, e := range o.record.Epochs {
			names = append(names, o.base+e.Name)
		}
	}
	ids := make([]string, 0, len(names))
	for some := range slices.Chunk(names, together) {
		held, err := v.Store.Read(ctx, some)
		if err != nil {
			return nil, err
		}
		for i := range held {
			ids = append(ids, string(held[i].Text))
		}
	}
	holds := make([]bool, len(all))
	for i, o := range all {
		n := len(o.record.Epochs)
		holds[i] = o.entry.Tied() == (n > 0) && (n == 0 || fence.Hold(o.record.Epochs, ids[:n]))
		ids = ids[n:]
	}
	return holds, nil
}

func namesOf[T interface{ key() string }](all []T) []string {
	names := make([]string, len(all))
	for i, o := range all {
		names[i] = o.key()
	}
	return names
}

func (o *one) key() string { return o.name }

func (o *one) compare() likeness {
	if o.shape != nil {
		return o.shape.compare(&o.record, o.truth.Found, o.truth.Payload)
	}
	return compare(&o.record, o.truth.Found, o.truth.Payload, o.entry)
}

// asked are the arguments of the statement that loads the truth.
func (o *one) asked() []keytext.Arg {
	if o.shape == nil {
		return o.args
	}
	asked := make([]keytext.Arg, len(o.used))
	for i, place := range o.used {
		asked[i] = o.args[place]
	}
	return asked
}

// load loads the truth of each. It fails when the database does not answer, or its answers mean nothing; a query that
// fails, or takes too long, is the value's own misfortune.
func (v *verifier) load(ctx context.Context, all []*one, head *fence.Head) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(v.Loads)
	for _, o := range all {
		group.Go(func() error {
			timeout, cancel := context.WithTimeout(groupCtx, loadTimeout)
			defer cancel()
			o.truth, o.err = v.Truth.Load(timeout, o.sql, o.entry.Result, o.asked())
			_, answered := errors.AsType[*pgload.QueryError](o.err)
			switch {
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case answered, errors.Is(o.err, pgload.ErrTimeout), errors.Is(o.err, pgload.ErrManyRows):
				return nil
			case o.err != nil:
				return o.err
			}
			return usable(&o.truth, head)
		})
	}
	return group.Wait()
}

// usable says why a truth cannot be compared with what the store has.
func usable(l *pgload.Loaded, h *fence.Head) error {
	switch {
	case l.Refuse != "":
		return fmt.Errorf("%w: %s", ErrNoTruth, l.Refuse)
	case h.System != "" && l.Server.System != h.System:
		return fmt.Errorf("%w: its system identifier is %s, that of the store's is %s", ErrOtherDatabase, l.Server.System, h.System)
	case h.Timeline != 0 && l.Server.Timeline != h.Timeline:
		return fmt.Errorf("%w: its timeline is %d, that of the store's is %d: no daemon has followed it since it was promoted",
			ErrOtherDatabase, l.Server.Timeline, h.Timeline)
	}
	return nil
}
