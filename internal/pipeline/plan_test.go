package pipeline_test

import (
	"sync/atomic"
	"testing"
)

// TestPlanIsOfTheTablesThatAreWatched: a table that changes while entries are planned has them planned again, or the plan would be of
// a table that nobody compares with. Where none changes they are planned once, whether tables are known from an earlier time or not.
func TestPlanIsOfTheTablesThatAreWatched(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	var plans atomic.Int64
	r.planned = func() { plans.Add(1) }
	d := r.start()
	d.streaming()
	if n := plans.Load(); n != 1 {
		t.Errorf("planned %d times, want once", n)
	}
	d.stop()

	r.planned = func() {
		if plans.Add(1) == 2 {
			r.exec(`ALTER TABLE items ALTER COLUMN v TYPE varchar(100)`)
		}
	}
	d = r.start()
	d.streaming()
	if n := plans.Load(); n != 3 {
		t.Errorf("planned %d times, want once more, and again for the column that was altered meanwhile", n-1)
	}
	name := r.cached("items", 1)
	r.exec(`UPDATE items SET v = 'changed' WHERE id = 1`)
	r.gone(name)
}
