package main

import (
	"context"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/freshet/freshet/mvcc"
	"github.com/jackc/pgx/v5"
)

// forgetful says that it has dealt with every write, and never deletes.
type forgetful struct{ peer }

func (c *forgetful) wrote(_ context.Context, u update) error {
	c.a.versions.apply(u)
	return nil
}

// TestJudgeFindsStaleValues plants values that nothing will ever take away.
func TestJudgeFindsStaleValues(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s, err := startServers(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	b := &bench{out: io.Discard, sizes: shortSizes(), seed: 1, servers: s}
	a, err := newArena(ctx, b, "judge", workload{name: "primary"}, nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.leave(ctx); err != nil {
			t.Error(err)
		}
	}()
	e, err := opened(func(p peer) cache { return &forgetful{p} })(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.close(); err != nil {
			t.Error(err)
		}
	}()
	// The first look caches everything.
	if first, left, err := a.judge(ctx, e, 0); first != 0 || left != 0 || err != nil {
		t.Fatalf("judge() = %d, %d, %v before any write", first, left, err)
	}
	conn, err := pgx.Connect(ctx, a.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, id := range []int{1, 2, 3, 3, peerRows} {
		if err := a.write(ctx, conn, e, e.caches[0], id); err != nil {
			t.Fatal(err)
		}
	}
	const planted = 4
	if first, left, err := a.judge(ctx, e, 0); first != planted || left != planted || err != nil {
		t.Errorf("judge() = %d, %d, %v, want %d stale rows at first and later", first, left, err, planted)
	}
	got, err := a.race(ctx, e, 200*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	// A read may begin between a COMMIT and the moment at which the write says that it is applied.
	between := got.stale - got.after
	if got.reads == 0 || got.hits != got.reads || got.after == 0 || between < 0 || between > got.stale/100+1 || got.fresh != got.hits-got.stale {
		t.Errorf("race() = %+v, want hits, some of them older than what is said to be applied", got)
	}
}

// TestCompare: the share of fresh hits is compared with every peer's, the rate of reads only with that of peers that
// never left anything stale, and both within the rounds.
func TestCompare(t *testing.T) {
	t.Parallel()
	run := func(reads, fresh, left int) tally {
		return tally{reads: reads, hits: fresh, fresh: fresh, left: left, took: time.Second}
	}
	results := map[string][]tally{
		freshetScheme:       {run(100, 90, 0), run(1000, 900, 0), run(10, 9, 0)},
		"sound and slow":    {run(50, 25, 0), run(500, 250, 0), run(5, 2, 0)},
		"fast and stale":    {run(400, 400, 0), run(4000, 4000, 1), run(40, 40, 0)},
		freshetScheme + "!": {run(900, 900, 0), run(9000, 9000, 0), run(90, 90, 0)}, // no peer
	}
	b := &bench{out: io.Discard}
	b.compare("p/", results[freshetScheme], results)
	for _, want := range []figure{{name: "p/left/stale"}, {name: "p/after/stale"}, {name: "p/fresh", value: 0.9}, {name: "p/throughput", value: 2}} {
		i := slices.IndexFunc(b.figures, func(f figure) bool { return f.name == want.name })
		if i < 0 || b.figures[i].value != want.value {
			t.Errorf("figures = %+v, want %s = %g", b.figures, want.name, want.value)
		}
	}
	stale := []tally{{first: 2, left: 1, after: 3}, {left: 1}}
	b = &bench{out: io.Discard}
	b.compare("p/", stale, nil)
	if left, after := b.figures[0].value, b.figures[1].value; left != 4 || after != 3 {
		t.Errorf("left = %g, after = %g, want 4 and 3", left, after)
	}
}

func TestVersionsReach(t *testing.T) {
	t.Parallel()
	v := newVersions()
	// Of two writers, the one that is told last may have been the first one.
	for _, u := range []update{{id: 1, n: 2, end: 20}, {id: 1, n: 1, end: 10}, {id: 2, n: 1, end: 30}} {
		v.commit(u)
	}
	if got := v.committed[1].Load(); got != 2 {
		t.Errorf("committed = %d, want 2", got)
	}
	for _, tt := range []struct {
		position mvcc.LSN
		want     []int64
	}{{9, []int64{0, 0}}, {10, []int64{1, 0}}, {29, []int64{2, 0}}, {30, []int64{2, 1}}} {
		v.reach(tt.position)
		if got := []int64{v.applied[1].Load(), v.applied[2].Load()}; !slices.Equal(got, tt.want) {
			t.Errorf("at %d applied = %v, want %v", tt.position, got, tt.want)
		}
	}
	if len(v.open) != 0 {
		t.Errorf("still open: %v", v.open)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Log("no /proc: nothing is measured")
		if got := cpuOf(os.Getpid()); got != (processTime{}) {
			t.Errorf("cpuOf() = %+v, want nothing", got)
		}
		return
	}
	before := cpuOf(os.Getpid())
	if before.parent != os.Getppid() {
		t.Errorf("parent = %d, want %d", before.parent, os.Getppid())
	}
	deadline := time.Now().Add(20 * time.Second)
	for cpuOf(os.Getpid()).own < before.own+0.05 {
		if time.Now().After(deadline) {
			t.Fatal("20 s of work took no time")
		}
	}
}

func TestCommitted(t *testing.T) {
	t.Parallel()
	message := []byte("C\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00")
	if got, want := commitEnd(message), mvcc.LSN(1<<32+2); got != want {
		t.Errorf("commitEnd() = %v, want %v", got, want)
	}
	for _, other := range [][]byte{nil, []byte("C"), append([]byte("B"), message[1:]...)} {
		if got := commitEnd(other); got != 0 {
			t.Errorf("commitEnd(%q) = %v, want nothing", other, got)
		}
	}
}
