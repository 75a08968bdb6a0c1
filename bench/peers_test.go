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
	if got.reads == 0 || got.hits != got.reads || got.after == 0 || got.after != got.stale || got.fresh != got.hits-got.stale {
		t.Errorf("race() = %+v, want hits, some of them older than what is said to be applied", got)
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
	if got, want := committed(message), mvcc.LSN(1<<32+2); got != want {
		t.Errorf("committed() = %v, want %v", got, want)
	}
	for _, other := range [][]byte{nil, []byte("C"), append([]byte("B"), message[1:]...)} {
		if got := committed(other); got != 0 {
			t.Errorf("committed(%q) = %v, want nothing", other, got)
		}
	}
}
