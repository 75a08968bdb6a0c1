package store

import "time"

// Note is what a reader says of a load under a lease: what came of it. Notes are for people who ask what happened to a key. Nothing
// rests on them: there is room for the last MostNotes, and some are left out when there are too many at a time.
type Note struct {
	At       time.Time     // when it was over, by the reader's clock
	By       string        // whose it is: as registrations of use name a process
	Entry    string        //
	Name     string        // of the record; empty in a note that stands for others
	Outcome  string        // NoteStored, NoteRenewed, NoteFailed, NoteLeftOut, or why a load was not stored, as Stats.Refused has it
	Negative bool          // there is no such row
	Coverage string        // what the load contains, as get prints a stamp; empty where nothing was loaded
	Took     time.Duration // the load, without what came before and after it
	Bytes    int           // of the value
	Replica  bool          // it came from a replica
	Epochs   []string      // names of those that a stored value is tied to, MostNotedEpochs at most
	Error    string        // of what kind it is, of a load that failed
	Count    int           // of a note that stands for others: how many
}

// The outcomes of a Note that are not reasons.
const (
	NoteStored  = "stored"
	NoteRenewed = "renewed" // the cached value was what the database has, and was stored anew without sending it
	NoteFailed  = "failed"
	NoteLeftOut = "left_out" // more loads than were noted
)

const (
	// MostNotes is about how many a store keeps.
	MostNotes = 10_000
	// NotesLast is for how long a store keeps notes when no more come.
	NotesLast = 24 * time.Hour
	// MostNotedEpochs bounds the epochs that a note names.
	MostNotedEpochs = 64
	// LongestNotedEpochs bounds their names, in bytes, with one between them.
	LongestNotedEpochs = 2 << 10
	// LongestNotedName bounds, in bytes, the name of a record that is noted.
	LongestNotedName = 1 << 10
)
