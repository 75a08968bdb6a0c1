package freshet

import (
	"context"
	"time"

	"github.com/freshet/freshet/internal/fill"
)

// ManyObserver is an Observer that hears of GetMany as well: of each call once, however its keys are read. They are no reads of
// which ReadStart is told.
type ManyObserver interface {
	Observer
	// ManyStart is told of a call before anything is asked, and returns the context under which it goes on.
	ManyStart(ctx context.Context, entry string, keys int) context.Context
	// ManyEnd is told what came of it, with the context that ManyStart returned.
	ManyEnd(ctx context.Context, m ManyDone)
}

// ManyDone is what came of a GetMany. A key that was given several times counts as often.
type ManyDone struct {
	Entry string
	Keys  int
	// Statuses is how many of the keys have which status (see ReadDone.Status), those without a row included. The others failed.
	Statuses map[string]int
	// Missing is how many have no row, which is an answer.
	Missing int
	// Failed is how many could not be read.
	Failed int
	// Err is what GetMany returns.
	Err  error
	Took time.Duration
	// Loads are the contexts that LoadStart returned for the loads by which values came, each once, also where another read began
	// them. There are none when all came from the cache.
	Loads []context.Context
}

// tally counts the keys of an observed GetMany. A nil one counts nothing.
type tally struct {
	statuses map[string]int
	missing  int
}

func (c *tally) add(v *fill.Value) {
	if c == nil {
		return
	}
	c.statuses[v.Status.String()]++
	if !v.Found {
		c.missing++
	}
}

// many are those of the observers who hear of GetMany.
func (o observers) many() (all []ManyObserver) {
	for _, one := range o {
		if m, ok := one.(ManyObserver); ok {
			all = append(all, m)
		}
	}
	return all
}

// watchedMany is getMany, in the sight of observers.
func (t *Typed[K, V]) watchedMany(ctx context.Context, keys []K, options []ReadOption) ([]Result[V], error) {
	heard := t.cache.observers.many()
	if len(heard) == 0 {
		results, _, err := t.getMany(ctx, keys, options, nil)
		return results, err
	}
	began := time.Now()
	for _, o := range heard {
		ctx = o.ManyStart(ctx, t.name, len(keys)) //nolint:fatcontext // one for each observer
	}
	reading, counted := &fill.Reading{}, &tally{statuses: map[string]int{}}
	results, failed, err := t.getMany(fill.Observe(ctx, reading), keys, options, counted)
	done := ManyDone{
		Entry: t.name, Keys: len(keys), Statuses: counted.statuses, Missing: counted.missing, Failed: failed, Err: err,
		Took: time.Since(began), Loads: reading.Loads(),
	}
	for i := range heard {
		heard[len(heard)-1-i].ManyEnd(ctx, done)
	}
	return results, err
}
