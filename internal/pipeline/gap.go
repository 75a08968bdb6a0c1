package pipeline

import (
	"errors"
	"fmt"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/pggate"
	"github.com/freshet/freshet/internal/pgsource"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/mvcc"
)

const alteredPublication = "the publication was altered by someone else: changes may be missing from the stream"

// gapError ends a session that found a gap; the next one starts a new generation at once.
type gapError struct {
	cause string
	first bool // nothing was ever cached that could be wrong
}

func (e *gapError) Error() string { return "gap: " + e.cause }

// isGap reports whether err means that the stream may lack a change.
func isGap(err error) bool {
	var (
		found *gapError
		read  *pgsource.GapError
	)
	return errors.As(err, &found) || errors.As(err, &read)
}

// foreign returns why a stored term that is higher than this daemon's is not a later daemon's: it belongs to another
// history of the database than the one that the daemon follows. Empty when it may be a later daemon's. now was taken
// after the term was read, so a transaction of this history that gave it is below its Xmax.
func foreign(head fence.Head, id pggate.Identity, now mvcc.Snapshot) string {
	switch {
	case head.System != id.SystemID:
		return otherSystem(head, id)
	case head.Timeline > id.Timeline:
		return otherTimeline(head, id)
	case head.Term.XID() >= now.Xmax:
		return fmt.Sprintf("the store was last owned under transaction %d, which this database has not come to: it was restored",
			head.Term.XID())
	}
	return ""
}

func otherSystem(head fence.Head, id pggate.Identity) string {
	return fmt.Sprintf("another database cluster: system identifier %s, the store follows %s", id.SystemID, head.System)
}

func otherTimeline(head fence.Head, id pggate.Identity) string {
	return fmt.Sprintf("another timeline: %d, the store follows %d; a standby was promoted or a backup restored", id.Timeline, head.Timeline)
}

func otherDatabase(stored, own rule.Database) string {
	return fmt.Sprintf("another database of the cluster: %v, the store follows %v", own, stored)
}

// Evidence is what a session knows when it decides whether the stream continues what the store has.
type Evidence struct {
	HeadFound   bool
	Head        fence.Head
	Identity    pggate.Identity
	SlotCreated bool     // the slot did not exist and was made now
	Confirmed   mvcc.LSN // where the slot's stream begins; earlier changes cannot be had again
	Insert      mvcc.LSN // the end of the log now
	Alive       bool     // the unlogged marker is there: no crash recovery since it was written
	Claimed     bool     // and it knows of the daemon that the store obeys
	Publication string   // fingerprint before this daemon altered anything
}

// Gap returns why the stream may lack a change, or the store hold one that never happened; empty when neither can be.
// Each reason costs a new generation: nothing that is cached now is ever read again.
func (e *Evidence) Gap() string {
	switch {
	case !e.HeadFound:
		return "the store has no HEAD: it is new, or it lost its history"
	case e.Head.Publication == condemned:
		return "an earlier gap was not answered yet"
	case e.Head.System != e.Identity.SystemID:
		return otherSystem(e.Head, e.Identity)
	case e.Head.Timeline != e.Identity.Timeline:
		return otherTimeline(e.Head, e.Identity)
	case e.SlotCreated:
		return "the replication slot was missing or lost: changes since then are not in the stream"
	case e.Head.Publication != e.Publication:
		return alteredPublication
	case e.Head.Wc < e.Confirmed:
		return fmt.Sprintf("the log no longer reaches back: the store has applied up to %v, the slot begins at %v", e.Head.Wc, e.Confirmed)
	case e.Head.Wc > e.Insert:
		return fmt.Sprintf("the log ends at %v, before what the store has applied, %v: the database was restored", e.Insert, e.Head.Wc)
	case !e.Alive:
		return "the database went through crash recovery: commits may be lost and their transaction ids given out again"
	case !e.Claimed:
		return "the store was claimed by a daemon that this database does not know of: a copy of the database was restored"
	}
	return ""
}
