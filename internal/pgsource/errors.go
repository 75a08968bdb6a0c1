package pgsource

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// ErrSlotInUse says that another process reads the slot at the moment. Wait and try again.
var ErrSlotInUse = errors.New("replication slot is in use")

// ErrStandby says that the server is a standby. A slot is read on the primary: connect again, to that one.
var ErrStandby = errors.New("the server is a standby")

// ErrOtherServer says that the address leads to another server than it did a moment ago. Connect again, with everything.
var ErrOtherServer = errors.New("the database's address leads to several servers")

// ErrShuttingDown says that the server shuts down, and waits for us to leave. Close the stream and connect again.
var ErrShuttingDown = errors.New("the server is shutting down")

// GapError says that the stream may lack a change, now and after every reconnect: what was derived from it can no
// longer be trusted. Everything else that ends a stream is passing, and a new stream continues where it ended.
type GapError struct {
	Reason string // what happened, for the operator
	Err    error  // the server's or the decoder's error; nil when there is none
}

// Error says what happened.
func (e *GapError) Error() string {
	if e.Err == nil {
		return "the log has a gap: " + e.Reason
	}
	return fmt.Sprintf("the log has a gap: %s: %v", e.Reason, e.Err)
}

// Unwrap returns the cause.
func (e *GapError) Unwrap() error { return e.Err }

// Problem is one thing that an operator has to mend before the log can be read.
type Problem struct {
	What string // where and what: `table "public.t" has no replica identity`
	Why  string // why that is refused
	Do   string // what to run or to set
	Mend string // a statement that does it and loses nothing; empty: somebody has to decide
	// Privilege says that it is a privilege that the role lacks.
	Privilege bool
}

// SetupError says that the database, as it is, cannot be read. Trying again without mending it is of no use.
type SetupError struct {
	Problems []Problem
	Err      error // the server's error, when it was one
}

// Error lists every problem with its reason and its remedy.
func (e *SetupError) Error() string {
	var b strings.Builder
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(p.What + ": " + p.Why + " (" + p.Do + ")")
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	return b.String()
}

// Unwrap returns the server's error.
func (e *SetupError) Unwrap() error { return e.Err }

// malformed is the gap of a message that the decoder does not understand: to skip it could be to skip a change, and
// the server would send it again after every reconnect.
func malformed(format string, args ...any) error {
	return &GapError{Reason: "a replication message cannot be decoded", Err: fmt.Errorf(format, args...)} //nolint:err113 // built from its caller's text
}

// classify turns the server's error into what the caller has to do about it: wait (ErrSlotInUse), rebuild (GapError),
// call the operator (SetupError) or, for all else, reconnect.
func classify(doing string, err error) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	switch pgErr.Code {
	case "55006": // object_in_use
		return fmt.Errorf("%s: %w: %w", doing, ErrSlotInUse, err)
	case "42704": // undefined_object: the slot, or the publication at the moment that is being decoded
		return &GapError{Reason: "the replication slot or the publication does not exist", Err: err}
	case "55000": // object_not_in_prerequisite_state: invalidated, or of another database
		return &GapError{Reason: "the replication slot can no longer be read", Err: err}
	case "58P01": // undefined_file: a log segment is gone
		return &GapError{Reason: "the log that the slot needs was removed", Err: err}
	case "0A000": // feature_not_supported: what the publication asks for cannot be decoded, now or later
		return &GapError{Reason: "the server cannot decode the stream", Err: err}
	case "28P01": // invalid_password
		return &SetupError{
			Problems: []Problem{{
				What: "the database does not let the user in",
				Why:  "the password is not the one that the server knows, or there is no such user",
				Do:   "correct the password in source.postgres.url, which is database.url where it is not set",
			}},
			Err: err,
		}
	case "42501", "28000": // insufficient_privilege, invalid_authorization
		return &SetupError{
			Problems: []Problem{{
				What: "the database user may not read the log",
				Why:  "logical replication needs a role with the REPLICATION attribute that may log in",
				Do:   "run: ALTER ROLE ... WITH REPLICATION LOGIN, and allow it in pg_hba.conf",
			}},
			Err: err,
		}
	}
	return fmt.Errorf("%s: %w", doing, err)
}
