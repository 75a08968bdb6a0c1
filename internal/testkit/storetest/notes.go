package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/store"
)

// notesAreKept: notes are read as they were written, in their order, and of too many the oldest are gone.
func notesAreKept(t *testing.T, w *world) {
	t.Helper()
	ctx := t.Context()
	if notes, err := w.Store.Notes(ctx); err != nil || len(notes) != 0 {
		t.Fatalf("of an empty store: %v, %v", notes, err)
	}
	all := []store.Note{
		{
			At: time.UnixMicro(1), By: "host, process 1", Entry: "e", Name: w.Name("k"), Outcome: store.NoteStored, Coverage: "s:1:1:", Took: time.Millisecond,
			Bytes: 7, Replica: true, Epochs: []string{"~0", "~1:a%20b"},
		},
		{At: time.UnixMicro(2), Entry: "e", Name: w.Name("k"), Outcome: "below_floor", Negative: true},
		{At: time.UnixMicro(3), Entry: "e", Name: w.Name("k"), Outcome: store.NoteFailed, Error: "why, in words"},
		{At: time.UnixMicro(4), Outcome: store.NoteLeftOut, Count: 3},
	}
	for _, some := range [][]store.Note{all[:1], all[1:]} {
		if err := w.Store.Note(ctx, some); err != nil {
			t.Fatal(err)
		}
	}
	notes, err := w.Store.Notes(ctx)
	if diff := cmp.Diff(all, notes); err != nil || diff != "" {
		t.Errorf("%v (-written +read):\n%s", err, diff)
	}

	// A store that is full of them.
	const together = 500
	many := make([]store.Note, together)
	for n := range store.MostNotes/together + 4 {
		for i := range many {
			many[i] = store.Note{At: time.UnixMicro(int64(10 + n*together + i)), Entry: "e", Outcome: fmt.Sprint("outcome ", i)}
		}
		if err := w.Store.Note(ctx, many); err != nil {
			t.Fatal(err)
		}
	}
	notes, err = w.Store.Notes(ctx)
	last := int64(10 + (store.MostNotes/together+4)*together - 1)
	if n := len(notes); err != nil || n < store.MostNotes || n > store.MostNotes+together || notes[n-1].At.UnixMicro() != last {
		t.Fatalf("%v, %d notes, the last %+v", err, n, notes[n-1])
	}
	for i := range notes {
		if want := last - int64(len(notes)-1-i); notes[i].At.UnixMicro() != want {
			t.Fatalf("note %d is of %d, want %d", i, notes[i].At.UnixMicro(), want)
		}
	}
}
