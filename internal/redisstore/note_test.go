package redisstore

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/fence"
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

// TestFullServerTakesNoNotes: that notes find no room is said, and nothing else comes of it.
func TestFullServerTakesNoNotes(t *testing.T) {
	t.Parallel()
	f := becomesFull(t, func(*Store) {})
	some := []store.Note{{At: time.UnixMicro(1), Outcome: store.NoteStored}, {At: time.UnixMicro(2), Outcome: store.NoteStored}}
	if err := f.Note(t.Context(), some); !errors.Is(err, ErrOutOfMemory) {
		t.Errorf("Note = %v", err)
	}
	if r, err := f.Get(t.Context(), f.cached); err != nil || r.State != fence.Live {
		t.Errorf("a cached value afterwards: %+v, %v", r, err)
	}
	f.memory(t, "0")
	if notes, err := f.Notes(t.Context()); err != nil || len(notes) != 0 {
		t.Errorf("Notes = %v, %v", notes, err)
	}
	if err := f.Note(t.Context(), some); err != nil {
		t.Errorf("with room again: %v", err)
	}
	if notes, err := f.Notes(t.Context()); err != nil || len(notes) != len(some) {
		t.Errorf("with room again: %v, %v", notes, err)
	}
}

// TestReplicaTakesNoNotes: a server that became a replica refuses notes, and has those from before.
func TestReplicaTakesNoNotes(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Start(t))
	some := []store.Note{{At: time.UnixMicro(1), Outcome: store.NoteStored}}
	if err := s.Note(t.Context(), some); err != nil {
		t.Fatal(err)
	}
	// Of a master that is not there.
	if err := s.client.Do(t.Context(), s.client.B().Replicaof().Host("127.0.0.1").Port(1).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if err := s.Note(t.Context(), some); !errors.Is(err, ErrReadOnly) {
		t.Errorf("Note = %v", err)
	}
	if notes, err := s.Notes(t.Context()); err != nil || len(notes) != 1 {
		t.Errorf("Notes = %v, %v", notes, err)
	}
}

// TestNotesInACluster: they are in the first lane, for whoever reads, whichever lanes the keys are in.
func TestNotesInACluster(t *testing.T) {
	t.Parallel()
	_, s, c, _ := clusterStore(t)
	want := []store.Note{
		{At: time.UnixMicro(1), Name: s.nameIn(c, 1, "a"), Outcome: store.NoteStored},
		{At: time.UnixMicro(2), Name: s.nameIn(c, 2, "b"), Outcome: "lease_lost"},
	}
	if err := s.Note(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	notes, err := s.Notes(t.Context())
	if diff := cmp.Diff(want, notes); err != nil || diff != "" {
		t.Errorf("%v (-written +read):\n%s", err, diff)
	}
	if _, err := s.DropAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if notes, err := s.Notes(t.Context()); err != nil || len(notes) != 0 {
		t.Errorf("after the namespace was dropped: %v, %v", notes, err)
	}
}
