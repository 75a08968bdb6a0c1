package fill

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/store"
)

// A Reader notes in the store what came of each load under a lease, for people who ask what happened to a key: about a second later, and
// not of more loads than these in that time. Those that were stored are the most, and the least that anybody asks for.
const (
	noteEvery  = time.Second
	mostNoted  = 128
	mostStored = 64
	// mutedFor is for how long nothing is noted where the store does not allow it.
	mutedFor = time.Minute
	// longestCoverage bounds the text of a snapshot, which has every transaction that ran.
	longestCoverage = 512
)

// notes are those that were not sent yet.
type notes struct {
	mu     sync.Mutex
	list   []store.Note
	stored int           // of them
	left   int           // loads that are not among them
	begun  bool          // somebody is about to send them
	muted  time.Duration // until then, by the Reader's clock, nothing is noted
}

// note notes what came of a flight.
func (r *Reader) note(ctx context.Context, w *want, f *flight) {
	if errors.Is(f.err, ErrClosed) {
		return
	}
	why := f.reason
	if why == 0 {
		why = f.unstored
	}
	stored := f.err == nil && why == 0
	n := &r.notes
	n.mu.Lock()
	switch {
	case n.muted > 0 && r.clock() < n.muted:
		n.mu.Unlock()
		return
	case len(n.list) >= mostNoted, stored && n.stored >= mostStored, len(w.name) > store.LongestNotedName:
		n.left++
	default:
		n.list = append(n.list, r.noted(w, f, why))
		if stored {
			n.stored++
		}
	}
	begin := !n.begun
	n.begun = true
	n.mu.Unlock()
	if !begin {
		return
	}
	// It ends by itself long before its timeout, or at once when the Reader is closed.
	if err := r.begin(ctx, noteEvery+time.Minute, r.sendNotes); err != nil {
		n.mu.Lock()
		n.begun = false
		n.mu.Unlock()
	}
}

// noted is the note of a flight.
func (r *Reader) noted(w *want, f *flight, why refusal) store.Note {
	l := &f.loaded
	note := store.Note{
		At: time.Now(), By: r.process, Entry: w.e.name, Name: w.name, Outcome: store.NoteStored, Took: f.took,
	}
	if f.err != nil {
		note.Outcome = store.NoteFailed
		note.Error = classOf(f.err, w.load != nil)
		return note
	}
	note.Negative, note.Bytes, note.Replica = !l.Found, len(l.Payload), l.Coverage.Standby()
	note.Coverage = l.Coverage.String()
	note.Coverage = note.Coverage[:min(len(note.Coverage), longestCoverage)]
	switch {
	case why != 0:
		note.Outcome = why.String()
	case l.Same != pgload.Different:
		note.Outcome = store.NoteRenewed
	}
	left := store.LongestNotedEpochs
	for _, e := range f.epochs[:min(len(f.epochs), store.MostNotedEpochs)] {
		if left -= len(e.Name) + 1; left < 0 {
			break
		}
		note.Epochs = append(note.Epochs, e.Name)
	}
	return note
}

// classOf says what kind of error it is. Its text is the log's: it may hold what the database or the code that loads says, and whoever may read the
// entry may read the notes.
func classOf(err error, byCode bool) string {
	var query *pgload.QueryError
	switch {
	case errors.As(err, &query):
		return "the database refuses it: SQLSTATE " + query.Code
	case errors.Is(err, ErrTimeout):
		return "it took longer than it may"
	case errors.Is(err, ErrUnavailable):
		return "the database does not answer, or too many loads are under way"
	case errors.Is(err, ErrArguments):
		return "an argument is not of its type"
	}
	if byCode {
		return "the code that loads it failed"
	}
	return "it could not be loaded; the log of who tried says why"
}

// sendNotes sends what is noted within a second.
func (r *Reader) sendNotes(ctx context.Context) {
	timer := time.NewTimer(noteEvery)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	n := &r.notes
	n.mu.Lock()
	list, left := n.list, n.left
	n.list, n.stored, n.left, n.begun = nil, 0, 0, false
	n.mu.Unlock()
	if left > 0 {
		list = append(list, store.Note{At: time.Now(), By: r.process, Outcome: store.NoteLeftOut, Count: left})
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.fillWithin)
	defer cancel()
	err := r.store.Note(ctx, list)
	if err == nil {
		return
	}
	r.logger.DebugContext(ctx, "cannot note what came of loads", slog.String("error", err.Error()))
	n.mu.Lock()
	defer n.mu.Unlock()
	n.left += len(list)
	if left > 0 {
		n.left += left - 1
	}
	if errors.Is(err, store.ErrNoPermission) {
		n.muted, n.left = r.clock()+mutedFor, 0
	}
}
