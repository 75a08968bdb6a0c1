package freshet

import (
	"errors"
	"fmt"

	"github.com/freshet/freshet/internal/fill"
)

var (
	// ErrNotFound says that there is no such row. It is an answer: cached, and as fresh as any other.
	ErrNotFound = errors.New("freshet: not found")
	// ErrUnavailable says that neither the cache nor the database can answer at present.
	ErrUnavailable = errors.New("freshet: neither cache nor database can answer")
	// ErrTimeout says that a value did not come within the entry's load_timeout.
	ErrTimeout = errors.New("freshet: the value did not come within the load timeout")
	// ErrKey says that a Go value cannot be a key of the entry: out of range, of another type, an enum label that the database does not have,
	// which only a load finds.
	ErrKey = errors.New("freshet: not a key of the entry")
	// ErrUnknownEntry says that the configuration does not declare the entry.
	ErrUnknownEntry = errors.New("freshet: no such entry")
	// ErrTokenNotReached says that the database did not show, within the entry's load_timeout, a transaction that the read
	// had to contain: it is not committed, hangs in synchronous replication, or was lost with a server that is gone.
	ErrTokenNotReached = errors.New("freshet: the database does not show the transaction that the read has to contain")
	// ErrForeignToken says that a token, or what a session has seen, is of another database cluster.
	ErrForeignToken = errors.New("freshet: the token is of another database cluster")
	// ErrNotCommitted says that a transaction which was to be committed was rolled back instead.
	ErrNotCommitted = errors.New("freshet: the transaction was rolled back")
	// ErrOutcomeUnknown says that the connection was lost, or given up, while COMMIT was under way: the transaction may be
	// committed or not, and nobody but the database knows. The Token that comes with it names the transaction.
	ErrOutcomeUnknown = errors.New("freshet: it is not known whether the transaction was committed")
	// ErrNotFenced says that the keys of a Strict commit could not be fenced in time: the transaction was rolled back.
	ErrNotFenced = errors.New("freshet: the keys could not be fenced")
	// ErrSavepoint says that Commit was given a savepoint, which it does not commit: the transaction around it does.
	ErrSavepoint = errors.New("freshet: this is a savepoint, not the outermost transaction")
	// ErrTag says that the value which is being loaded cannot be tied to a tag: its entry does not say tags: by_hand, the
	// text cannot be a tag, or the context is not that of a load.
	ErrTag = errors.New("freshet: the value cannot be tied to the tag")
	// ErrClosed says that the Cache was closed.
	ErrClosed = errors.New("freshet: the cache is closed")
)

// public gives an error one of this package's sentinels, and keeps its text and chain.
func public(err error) error {
	for _, known := range []struct{ inner, outer error }{
		{fill.ErrTimeout, ErrTimeout},
		{fill.ErrUnavailable, ErrUnavailable},
		{fill.ErrArguments, ErrKey},
		{fill.ErrUnknownEntry, ErrUnknownEntry},
		{fill.ErrTokenNotReached, ErrTokenNotReached},
		{fill.ErrForeignToken, ErrForeignToken},
		{fill.ErrTag, ErrTag},
		{fill.ErrClosed, ErrClosed},
		{fill.ErrNotFenced, ErrNotFenced},
	} {
		if errors.Is(err, known.inner) {
			return fmt.Errorf("%w: %w", known.outer, err)
		}
	}
	return err
}
