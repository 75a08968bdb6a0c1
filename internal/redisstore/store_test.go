package redisstore

import (
	"strconv"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

func wait(tb testing.TB, d time.Duration) {
	tb.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-tb.Context().Done():
		tb.Fatal(tb.Context().Err())
	}
}

func TestScriptsAreFlushed(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Start(t))
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	for i := range 3 {
		if err := s.client.Do(t.Context(), s.client.B().ScriptFlush().Build()).Error(); err != nil {
			t.Fatal(err)
		}
		name := s.testName(strconv.Itoa(i))
		if reply := leased(t, s, name, token('a')); !reply.HeadFound {
			t.Fatal("no HEAD with the lease")
		}
		if err := s.client.Do(t.Context(), s.client.B().ScriptFlush().Build()).Error(); err != nil {
			t.Fatal(err)
		}
		if got := filled(t, s, name, token('a'), 10); got != fence.Filled {
			t.Fatalf("Fill = %v", got)
		}
		if _, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: head.Wc + 1, Si: sees(11), Names: []string{name}, Advance: head.Wc + 1}); err != nil {
			t.Fatal(err)
		}
		head.Wc++
	}
}

func TestApplyOfManyNames(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	// More than one pipeline, and not a round number.
	names := make([]string, unlinksPerPipeline*namesPerUnlink+123)
	for i := range names {
		names[i] = s.testName(strconv.Itoa(i))
		if i%1000 == 0 {
			leased(t, s, names[i], token('a'))
		}
	}
	result, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 200, Si: sees(20), Names: names, Advance: 200})
	if want := int64(len(names)/1000 + 1); err != nil || result.Removed != want {
		t.Fatalf("Apply = %+v, %v; want %d unlinked", result, err, want)
	}
	if got, _, err := s.Head(t.Context()); err != nil || got.Wc != 200 {
		t.Fatalf("HEAD = %+v, %v", got, err)
	}
}

func TestSweepAndDrop(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	other := openNamespace(t, redistest.Shared(t), s.namespace+"x")
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	if err := c.Move(t.Context(), expect(head), []byte(`{"generation":"x"}`), 2, "p"); err != nil {
		t.Fatal(err)
	}
	for i := range 1200 {
		leased(t, s, s.testName(strconv.Itoa(i)), token('a'))
	}
	live := s.prefix() + generation + ":live.v.a:"
	leased(t, s, live+"1", token('a'))
	leased(t, other, other.testName("1"), token('a'))
	used, unused := Use{Entry: "live", Definition: "d"}, Use{Entry: "dead", Definition: "d"}
	for _, u := range []Use{used, unused} {
		if err := s.Register(t.Context(), u, "a library", time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	later := s.prefix() + "what a later version keeps"
	if err := s.client.Do(t.Context(), s.client.B().Set().Key(later).Value("x").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	alive := func() Live { return Live{Prefixes: []string{live}, Retained: []Use{used}} }
	if n, err := s.Sweep(t.Context(), alive); err != nil || n != 1201 {
		t.Fatalf("Sweep = %d, %v; want 1200 records and a registration", n, err)
	}
	if _, found, err := s.Head(t.Context()); err != nil || !found {
		t.Fatalf("HEAD after Sweep: %v, %v", found, err)
	}
	if n, err := s.DropAll(t.Context()); err != nil || n != 5 {
		t.Fatalf("DropAll = %d, %v; want HEAD, roster, one record, a registration and another key", n, err)
	}
	if r, err := other.Get(t.Context(), other.testName("1")); err != nil || r.Lease.IsZero() {
		t.Fatalf("another namespace's record = %+v, %v", r, err)
	}
}
