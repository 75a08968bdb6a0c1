package freshetprom_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/freshetprom"
	"github.com/freshet/freshet/internal/near"
)

type counts freshet.Stats

func (c counts) Stats() freshet.Stats { return freshet.Stats(c) }

// TestCollector: two caches of one process, told apart by a label.
func TestCollector(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	for name, hits := range map[string]uint64{"a": 3, "b": 5} {
		registry.MustRegister(freshetprom.Collector(counts{Hits: hits, Refused: map[string]uint64{"below_floor": 2}}, prometheus.Labels{"cache": name}))
	}
	registry.MustRegister(freshetprom.Collector(counts{HitsL1: 2, L1: &near.Stats{Records: 4, Bytes: 4096}}, prometheus.Labels{"cache": "c"}))
	want := `# HELP freshet_fills_refused_total Loaded values that were not stored, by reason.
# TYPE freshet_fills_refused_total counter
freshet_fills_refused_total{cache="a",reason="below_floor"} 2
freshet_fills_refused_total{cache="b",reason="below_floor"} 2
# HELP freshet_l1_held_bytes What they take, by an estimate that counts decoded values in.
# TYPE freshet_l1_held_bytes gauge
freshet_l1_held_bytes{cache="a"} 0
freshet_l1_held_bytes{cache="b"} 0
freshet_l1_held_bytes{cache="c"} 4096
# HELP freshet_reads_hit_l1_total Of them, served from the memory of the process.
# TYPE freshet_reads_hit_l1_total counter
freshet_reads_hit_l1_total{cache="a"} 0
freshet_reads_hit_l1_total{cache="b"} 0
freshet_reads_hit_l1_total{cache="c"} 2
# HELP freshet_reads_hit_total Reads served from the cache.
# TYPE freshet_reads_hit_total counter
freshet_reads_hit_total{cache="a"} 3
freshet_reads_hit_total{cache="b"} 5
freshet_reads_hit_total{cache="c"} 0
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "freshet_fills_refused_total", "freshet_reads_hit_total",
		"freshet_reads_hit_l1_total", "freshet_l1_held_bytes"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

func TestObserver(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	o := freshetprom.Observer(registry)
	ctx := o.LoadStart(o.ReadStart(t.Context(), "product"), "product")
	for _, l := range []freshet.LoadDone{
		{Entry: "product", Found: true, Took: time.Millisecond},
		{Entry: "product"},
		{Entry: "product", Found: true, Unchanged: true},
		{Entry: "product", Err: errors.New("refused")},
	} {
		o.LoadEnd(ctx, l)
	}
	for _, r := range []freshet.ReadDone{
		{Entry: "product", Status: "hit", Found: true, Took: time.Millisecond}, {Entry: "product", Status: "miss"}, {Entry: "product", Err: context.Canceled},
	} {
		o.ReadEnd(ctx, r)
	}
	for name, want := range map[string]int{"freshet_load_seconds": 4, "freshet_read_seconds": 3} {
		if n, err := testutil.GatherAndCount(registry, name); err != nil || n != want {
			t.Errorf("%s has %d series, %v; want %d", name, n, err, want)
		}
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// TestManyObserver: keys of GetMany are counted by status, and are none of the reads of single keys.
func TestManyObserver(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	o, ok := freshetprom.Observer(registry).(freshet.ManyObserver)
	if !ok {
		t.Fatal("it does not hear of GetMany")
	}
	ctx := o.ManyStart(t.Context(), "product", 5)
	o.ManyEnd(ctx, freshet.ManyDone{Entry: "product", Keys: 5, Statuses: map[string]int{"hit": 3, "miss": 2}, Missing: 1, Took: time.Millisecond})
	o.ManyEnd(ctx, freshet.ManyDone{Entry: "product", Keys: 4, Statuses: map[string]int{"hit": 1}, Failed: 3, Err: errors.New("refused")})
	want := `# HELP freshet_many_keys_total Keys of reads of many, by entry and by where each value came from.
# TYPE freshet_many_keys_total counter
freshet_many_keys_total{entry="product",status="error"} 3
freshet_many_keys_total{entry="product",status="hit"} 4
freshet_many_keys_total{entry="product",status="miss"} 2
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "freshet_many_keys_total"); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]int{"freshet_many_seconds": 2, "freshet_read_seconds": 0} {
		if n, err := testutil.GatherAndCount(registry, name); err != nil || n != want {
			t.Errorf("%s has %d series, %v; want %d", name, n, err, want)
		}
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}
