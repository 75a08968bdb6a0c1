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

// TestAgreesWithNaive appends and finishes in bursts, so that the finished ones make runs of every length between those
// that are open, some of which stay so to the end.
func TestAgreesWithNaive(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		start := mvcc.LSN(rapid.Uint64Range(0, 50).Draw(t, "start"))
		tracker := watermark.New(start)
		model := &naive{start: start, done: map[int]bool{}}
		ids := map[int]watermark.ID{}
		var open []int
		most := 0 // open at a time
		at := mvcc.LSN(rapid.Uint64Range(0, 60).Draw(t, "at"))
		last := start
		for range rapid.IntRange(0, 60).Draw(t, "bursts") {
			burst := rapid.IntRange(0, 30).Draw(t, "burst")
			if rapid.Bool().Draw(t, "appends") {
				for range burst {
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
				}
			} else {
				stays := rapid.IntRange(0, 3).Draw(t, "stay")
				for range min(burst, len(open)-stays) {
					i := rapid.IntRange(stays, len(open)-1).Draw(t, "which")
					which := open[i]
					open = append(open[:i], open[i+1:]...)
					model.done[which] = true
					if got := tracker.Done(ids[which]); got != model.end() {
						t.Fatalf("Done = %v, want %v", got, model.end())
					}
				}
			}
			most = max(most, len(open))
			if tracker.End() != model.end() || tracker.Last() != last {
				t.Fatalf("End, Last = %v, %v, want %v, %v", tracker.End(), tracker.Last(), model.end(), last)
			}
			if held, bound := tracker.Held(), max(64, 4*most+2); held < len(open) || held > bound {
				t.Fatalf("Held = %d with %d open, %d at most before, want %d at most", held, len(open), most, bound)
			}
		}
	})
}

func TestDoneTwicePanics(t *testing.T) {
	t.Parallel()
	tracker := watermark.New(0)
	first, _ := tracker.Append(10)
	var passed []watermark.ID
	for end := mvcc.LSN(20); end <= 1000; end += 10 { // enough for them to become a run
		id, _ := tracker.Append(end)
		tracker.Done(id)
		passed = append(passed, id)
	}
	last := passed[len(passed)-1]
	for name, id := range map[string]watermark.ID{
		"first of a run": passed[0], "within a run": passed[1], "finished": last, "unknown": last + 1,
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Done of a transaction that is %s did not panic", name)
				}
			}()
			tracker.Done(id)
		}()
	}
	if got := tracker.Done(first); got != 1000 {
		t.Errorf("Done = %v, want 0/3E8", got)
	}
}

// TestMemory has some transactions wait while very many others pass: those cost nothing.
func TestMemory(t *testing.T) {
	t.Parallel()
	tracker := watermark.New(0)
	const waiting, passing = 10, 1_000_000
	var waits []watermark.ID
	var end mvcc.LSN
	for range waiting {
		end++
		id, _ := tracker.Append(end)
		waits = append(waits, id)
		for range passing / waiting {
			end++
			id, _ := tracker.Append(end)
			tracker.Done(id)
		}
		if tracker.Held() > 100 {
			t.Fatalf("Held = %d behind %d that wait", tracker.Held(), len(waits))
		}
	}
	if tracker.End() != 0 {
		t.Errorf("End = %v while the first one waits", tracker.End())
	}
	for i, id := range waits {
		want := mvcc.LSN((i + 1) * (passing/waiting + 1))
		if got := tracker.Done(id); got != want {
			t.Errorf("Done of waiting transaction %d = %v, want %v", i, got, want)
		}
	}
	if tracker.Held() != 0 {
		t.Errorf("Held = %d with nothing open", tracker.Held())
	}
}

func TestSteadyStateDoesNotAllocate(t *testing.T) { //nolint:paralleltest // AllocsPerRun forbids it
	tracker := watermark.New(0)
	tracker.Append(1) // waits
	end := mvcc.LSN(1)
	allocs := testing.AllocsPerRun(10_000, func() {
		end++
		id, _ := tracker.Append(end)
		tracker.Done(id)
	})
	if allocs != 0 {
		t.Errorf("%v allocations per transaction in the steady state", allocs)
	}
}
