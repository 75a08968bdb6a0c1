package watermark_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/freshet/freshet/internal/watermark"
	"github.com/freshet/freshet/mvcc"
)

// naive keeps every transaction for ever and looks at all of them each time.
type naive struct {
	start mvcc.LSN
	ends  []mvcc.LSN
	done  map[int]bool
}

func (n *naive) end() mvcc.LSN {
	end := n.start
	for i, e := range n.ends {
		if !n.done[i] {
			return end
		}
		end = max(end, e)
	}
	return end
}

func TestAgreesWithNaive(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		start := mvcc.LSN(rapid.Uint64Range(0, 50).Draw(t, "start"))
		tracker := watermark.New(start)
		model := &naive{start: start, done: map[int]bool{}}
		ids := map[int]watermark.ID{}
		var open []int
		at := mvcc.LSN(rapid.Uint64Range(0, 60).Draw(t, "at"))
		last := start
		for range rapid.IntRange(0, 200).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0, 1:
				at += mvcc.LSN(rapid.Uint64Range(1, 9).Draw(t, "by"))
				id, skip := tracker.Append(at)
				if want := at <= last; skip != want {
					t.Fatalf("Append(%v) skip = %v, want %v", at, skip, want)
				}
				if skip {
					continue
				}
				last = at
				model.ends = append(model.ends, at)
				ids[len(model.ends)-1] = id
				open = append(open, len(model.ends)-1)
			case 2, 3:
				if len(open) == 0 {
					continue
				}
				i := rapid.IntRange(0, len(open)-1).Draw(t, "which")
				which := open[i]
				open = append(open[:i], open[i+1:]...)
				model.done[which] = true
				if got := tracker.Done(ids[which]); got != model.end() {
					t.Fatalf("Done = %v, want %v", got, model.end())
				}
			case 4:
				to := at + mvcc.LSN(rapid.Uint64Range(0, 9).Draw(t, "idle"))
				if len(open) == 0 {
					model.ends = append(model.ends, to)
					model.done[len(model.ends)-1] = true
					at, last = max(at, to), max(last, to)
				}
				tracker.Advance(to)
			}
			if tracker.End() != model.end() || tracker.Open() != len(open) {
				t.Fatalf("End, Open = %v, %d, want %v, %d", tracker.End(), tracker.Open(), model.end(), len(open))
			}
			if len(open) == 0 && tracker.Held() != 0 {
				t.Fatalf("Held = %d with nothing open", tracker.Held())
			}
		}
	})
}

func TestDoneTwicePanics(t *testing.T) {
	t.Parallel()
	tracker := watermark.New(0)
	first, _ := tracker.Append(10)
	second, _ := tracker.Append(20)
	tracker.Done(second)
	for name, id := range map[string]watermark.ID{"finished": second, "unknown": second + 1} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Done of a transaction that is %s did not panic", name)
				}
			}()
			tracker.Done(id)
		}()
	}
	if got := tracker.Done(first); got != 20 {
		t.Errorf("Done = %v, want 0/14", got)
	}
}

// TestMemory has one transaction wait while many others pass, then many rounds without a wait.
func TestMemory(t *testing.T) {
	t.Parallel()
	tracker := watermark.New(0)
	waits, _ := tracker.Append(1)
	for end := mvcc.LSN(2); end <= 1000; end++ {
		id, _ := tracker.Append(end)
		tracker.Done(id)
	}
	if tracker.Held() != 1000 || tracker.End() != 0 {
		t.Errorf("Held, End = %d, %v, want 1000, 0/0", tracker.Held(), tracker.End())
	}
	if got := tracker.Done(waits); got != 1000 || tracker.Held() != 0 {
		t.Errorf("Done, Held = %v, %d, want 0/3E8, 0", got, tracker.Held())
	}
}

func TestSteadyStateDoesNotAllocate(t *testing.T) { //nolint:paralleltest // AllocsPerRun forbids it
	tracker := watermark.New(0)
	end := mvcc.LSN(0)
	allocs := testing.AllocsPerRun(10_000, func() {
		end++
		id, _ := tracker.Append(end)
		tracker.Done(id)
	})
	if allocs != 0 {
		t.Errorf("%v allocations per transaction in the steady state", allocs)
	}
}
