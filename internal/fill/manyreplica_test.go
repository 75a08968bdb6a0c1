package fill_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/rule"
)

// TestManyFromAReplica: a standby has what may be stored from there, the primary the rest, by one statement each.
func TestManyFromAReplica(t *testing.T) {
	t.Parallel()
	w := newStandby(t)
	w.batches()
	if statuses := readMany(t, w.r, nil, upTo(10), nil); statuses["miss"] != 10 {
		t.Errorf("%v", statuses)
	}
	if record, _ := w.record(w.name("product", "3")); !record.Coverage.Standby() || w.outcome("used") != 10 {
		t.Errorf("%+v, %d used", record, w.outcome("used"))
	}
	w.standby.Pause(t)
	w.change() // of product 1
	loads := w.r.Stats().Loads
	ids := []int{1, 11, 12}
	if statuses := readMany(t, w.r, nil, ids, map[int]int{1: 11}); statuses["miss"] != 3 {
		t.Errorf("%v", statuses)
	}
	for _, id := range ids {
		record, _ := w.record(w.name("product", strconv.Itoa(id)))
		if fromStandby := id != 1; record.Coverage.Standby() != fromStandby {
			t.Errorf("product %d: %+v", id, record)
		}
	}
	if s := w.r.Stats(); s.Replicas["used"] != 12 || s.Replicas["behind"] != 1 || s.Loads-loads != 1 {
		t.Errorf("%+v", s)
	}
}

// TestTiedManyFromAReplica: what ended an epoch keeps an older row of a standby out, also in a batch.
func TestTiedManyFromAReplica(t *testing.T) {
	t.Parallel()
	w := newTied(t, options{ownPostgres: true})
	w.batches()
	standby := &withStandby{world: w.world}
	standby.attach(t)
	r := w.tiedReader(nil, nil, standby.replica)
	first := r.GetMany(t.Context(), "teams", numbered(1, 2), &fill.Demand{})
	for _, a := range first {
		if record, _ := w.record(a.Value.Name); a.Err != nil || !record.Coverage.Standby() {
			t.Fatalf("%+v: %+v", a, record)
		}
	}
	standby.standby.Pause(t)
	w.pg.Exec(t, w.url, "UPDATE team SET name = 'renamed' WHERE id = 8")
	w.end(w.epoch("teams", string(rule.AppendEpoch(nil, 1, arg("8")))))
	for i, a := range r.GetMany(t.Context(), "teams", numbered(1, 2), &fill.Demand{}) {
		record, _ := w.record(a.Value.Name)
		if a.Err != nil || a.Value.Status != fill.Miss || !strings.Contains(string(a.Value.Payload), "renamed") || record.Coverage.Standby() {
			t.Errorf("user %d: %s, %v; stored %+v", i+1, a.Value.Payload, a.Err, record)
		}
	}
	for i, a := range r.GetMany(t.Context(), "teams", numbered(1, 2), &fill.Demand{}) {
		if a.Err != nil || a.Value.Status != fill.Hit {
			t.Errorf("user %d: %+v", i+1, a)
		}
	}
}
