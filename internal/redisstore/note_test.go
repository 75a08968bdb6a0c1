package redisstore

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// TestNotesAreNotBelieved: any client may write notes. What is none is passed over, and nothing of one is longer than may be.
func TestNotesAreNotBelieved(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	add := func(fields ...string) {
		t.Helper()
		command := s.client.B().Xadd().Key(s.noteKey()).Id("*").FieldValue()
		for i := 0; i < len(fields); i += 2 {
			command = command.FieldValue(fields[i], fields[i+1])
		}
		if err := s.client.Do(t.Context(), command.Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	add("at", "1", "outcome", "stored", "bytes", "-7", "took", "9223372036854775807", "count", "many", "unknown", "field", "replica", "yes",
		"by", "x\x1b[31m\n", "epochs", strings.Repeat("~0 ", 100), "error", strings.Repeat("e", 2*longestNote))
	add("at", "soon", "outcome", "stored")
	add("at", "1")
	add("hello", "world")
	notes, err := s.Notes(t.Context())
	want := []store.Note{{
		At: time.UnixMicro(1), Outcome: "stored", Took: time.Hour, By: "x?[31m?", Epochs: strings.Fields(strings.Repeat("~0 ", store.MostNotedEpochs)),
		Error: strings.Repeat("e", longestNote),
	}}
	if diff := cmp.Diff(want, notes); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if err := s.client.Do(t.Context(), s.client.B().Set().Key(s.noteKey()).Value("somebody's").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if notes, err := s.Notes(t.Context()); err != nil || len(notes) != 0 {
		t.Errorf("of a key that is somebody's: %v, %v", notes, err)
	}
	if err := s.Note(t.Context(), want); !errors.Is(err, ErrRefused) {
		t.Errorf("Note = %v", err)
	}
}

// TestNotesEnd: they go by themselves when no more come, with a namespace that is out of use.
func TestNotesEnd(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	if err := s.Note(t.Context(), []store.Note{{At: time.Now(), Outcome: store.NoteStored}}); err != nil {
		t.Fatal(err)
	}
	left, err := s.client.Do(t.Context(), s.client.B().Pttl().Key(s.noteKey()).Build()).AsInt64()
	if lasts := time.Duration(left) * time.Millisecond; err != nil || lasts < store.NotesLast-time.Minute || lasts > store.NotesLast {
		t.Errorf("they last for %s, %v", lasts, err)
	}
	if _, err := s.Sweep(t.Context(), func() Live { return Live{} }); err != nil {
		t.Fatal(err)
	}
	if notes, err := s.Notes(t.Context()); err != nil || len(notes) != 1 {
		t.Errorf("after a sweep: %v, %v", notes, err)
	}
	if _, err := s.DropAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if notes, err := s.Notes(t.Context()); err != nil || len(notes) != 0 {
		t.Errorf("after the namespace was dropped: %v, %v", notes, err)
	}
}
