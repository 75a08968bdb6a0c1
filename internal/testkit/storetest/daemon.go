package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/mvcc"
)

func move(t *testing.T, w *world) {
	t.Helper()
	c := w.connect()
	head := w.begin(c, fence.NewTerm(1, 10))
	roster := func(revision int) []byte {
		return fmt.Appendf(nil, `{"format":1,"generation":%q,"term":%q,"revision":%d,"entries":{}}`, generation, head.Term, revision)
	}
	stored := func() []byte {
		t.Helper()
		text, found, err := w.Store.Roster(t.Context())
		if err != nil || !found {
			t.Fatalf("Roster = %s, %v, %v", text, found, err)
		}
		return text
	}
	if err := c.Move(t.Context(), expect(head), roster(2), 2, "q"); err != nil {
		t.Fatal(err)
	}
	if text := stored(); !bytes.Equal(text, roster(2)) {
		t.Fatalf("Roster = %s", text)
	}
	if got := w.head(); got.Revision != 2 || got.Publication != "q" {
		t.Fatalf("HEAD = %+v", got)
	}
	if err := c.Move(t.Context(), expect(head), roster(1), 1, "q"); !errors.Is(err, store.ErrRevision) {
		t.Fatalf("Move to a lower revision = %v", err)
	}
	late := w.connect()
	if _, _, err := late.Claim(t.Context(), fence.NewTerm(1, 11)); err != nil {
		t.Fatal(err)
	}
	if err := c.Move(t.Context(), expect(head), roster(3), 3, "q"); !errors.Is(err, store.ErrSuperseded) {
		t.Fatalf("Move by an older daemon = %v", err)
	}
	if text := stored(); !bytes.Equal(text, roster(2)) {
		t.Fatalf("the older daemon's roster is stored: %s", text)
	}
}

// theOlderDaemonIsRefused is T22: a daemon that was stopped and goes on after another took over writes nothing.
func theOlderDaemonIsRefused(t *testing.T, w *world) {
	t.Helper()
	older, later := w.connect(), w.connect()
	head := w.begin(older, fence.NewTerm(1, 10))
	got, found, err := later.Claim(t.Context(), fence.NewTerm(1, 11))
	if err != nil || !found || got.Wc != 100 || got.Term != fence.NewTerm(1, 11) {
		t.Fatalf("Claim = %+v, %v, %v", got, found, err)
	}
	before := w.head()
	if _, err := older.Apply(t.Context(), store.Batch{Expect: expect(head), Wi: 500, Si: Sees(50), Advance: 500}); !errors.Is(err, store.ErrSuperseded) {
		t.Errorf("Apply by the older daemon = %v", err)
	}
	if _, _, err := older.Claim(t.Context(), fence.NewTerm(1, 10)); !errors.Is(err, store.ErrSuperseded) {
		t.Errorf("Claim by the older daemon = %v", err)
	}
	if err := older.NewGeneration(t.Context(), head); !errors.Is(err, store.ErrSuperseded) {
		t.Errorf("NewGeneration by the older daemon = %v", err)
	}
	if diff := cmp.Diff(before, w.head()); diff != "" {
		t.Errorf("HEAD changed (-before +after):\n%s", diff)
	}
	head.Term = fence.NewTerm(1, 11)
	if _, err := later.Apply(t.Context(), store.Batch{Expect: expect(head), Wi: 200, Si: Sees(20), Advance: 200}); err != nil {
		t.Errorf("Apply by the later daemon: %v", err)
	}
}

func mismatchSaysWhatIsThere(t *testing.T, w *world) {
	t.Helper()
	c := w.connect()
	head := w.begin(c, fence.NewTerm(1, 10))
	for _, tt := range []struct {
		name   string
		change func(*store.Expected)
	}{
		{"other generation", func(e *store.Expected) { e.Generation = "00000000000000ab" }},
		{"history lost", func(e *store.Expected) { e.Wc = 101 }},
		{"term lost", func(e *store.Expected) { e.Term = fence.NewTerm(1, 11) }},
	} {
		e := expect(head)
		tt.change(&e)
		_, err := c.Apply(t.Context(), store.Batch{Expect: e, Wi: 200, Si: Sees(20), Advance: 200})
		var mismatch *store.MismatchError
		if !errors.As(err, &mismatch) || !mismatch.Found || mismatch.Head.Wc != 100 || mismatch.Replid != c.Replid() || len(c.Replid()) != 40 {
			t.Errorf("%s: Apply = %v", tt.name, err)
		}
	}
	if replid, err := w.Store.Replid(t.Context()); err != nil || replid != c.Replid() {
		t.Errorf("Replid = %q, %v; the connection has found %q", replid, err, c.Replid())
	}
	e := expect(head)
	e.Wc = 99
	if _, err := c.Apply(t.Context(), store.Batch{Expect: e, Wi: 200, Si: Sees(20), Advance: 200}); !errors.Is(err, store.ErrSuperseded) {
		t.Errorf("somebody confirmed more: Apply = %v, want ErrSuperseded", err)
	}
	if got := w.head(); got.Wc != 100 || got.Wi != 100 {
		t.Errorf("HEAD = %+v", got)
	}
	w.apply(c, store.Batch{Expect: expect(head), Wi: 150, All: true, Si: mvcc.Snapshot{Xmin: 9, Xmax: 12, Xip: []mvcc.XID{9}}})
	// Si sees 9 since the beginning, and 11 since now.
	if got := w.head(); got.Wc != 100 || got.Wi != 150 || !got.Si.Sees(9) || !got.Si.Sees(11) {
		t.Errorf("HEAD after INTENT alone = %+v", got)
	}
}

// replaceTakesOnlyTheTermThatWasJudged replaces a HEAD of another history, whose term is higher, and nothing else.
func replaceTakesOnlyTheTermThatWasJudged(t *testing.T, w *world) {
	t.Helper()
	c := w.connect()
	foreign, ours := fence.NewTerm(9, 9), fence.NewTerm(1, 5)
	head := func(term fence.Term) fence.Head {
		return fence.Head{Generation: "0123456789abcdef", Term: term, Si: Sees(3)}
	}
	if err := c.NewGeneration(t.Context(), head(foreign)); err != nil {
		t.Fatal(err)
	}
	if err := c.NewGeneration(t.Context(), head(ours)); !errors.Is(err, store.ErrSuperseded) {
		t.Errorf("NewGeneration() = %v over a higher term", err)
	}
	if err := c.Replace(t.Context(), head(ours), fence.NewTerm(9, 8)); !errors.Is(err, store.ErrSuperseded) {
		t.Errorf("Replace() = %v over another term than was judged", err)
	}
	if err := c.Replace(t.Context(), head(ours), foreign); err != nil {
		t.Errorf("Replace() = %v", err)
	}
	if got := w.head(); got.Term != ours {
		t.Errorf("Head() = %v", got.Term)
	}
}
