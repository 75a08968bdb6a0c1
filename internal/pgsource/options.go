package pgsource

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"

	"github.com/freshet/freshet/mvcc"
)

// Options says what a Stream reads.
type Options struct {
	URL         string // of the primary; any role that may replicate
	Slot        string
	Publication string
	// Server is the running server that the stream has to come from (wal.ServerSQL), since who asks what is visible asks there.
	// Empty: any.
	Server string
	// Near is a full transaction id of the same cluster, less than 2^31 away from those in the log, which carries
	// only 32 bits of each. Zero asks the server for one.
	Near   mvcc.XID
	Logger *slog.Logger // nil: silent
	// StatusInterval is the longest time between two status updates. Zero, or more than a third of the server's
	// wal_sender_timeout: 10 s or a third of that timeout, whichever is less.
	StatusInterval time.Duration
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

func (o Options) validate() error {
	if o.URL == "" {
		return errors.New("the database's URL is missing")
	}
	return validateNames(o.Slot, o.Publication)
}

// slotName is what PostgreSQL takes for a slot's name: so it never needs quoting, though it is quoted.
const slotName = `^[a-z0-9_]{1,63}$`

func validateNames(slot, publication string) error {
	if ok, err := regexp.MatchString(slotName, slot); err != nil || !ok {
		return &SetupError{Problems: []Problem{{
			What: fmt.Sprintf("replication slot name %q", slot),
			Why:  "PostgreSQL allows lower-case letters, digits and underscores, at most 63",
			Do:   "choose another slot name",
		}}}
	}
	if publication == "" || len(publication) > 63 || strings.ContainsRune(publication, 0) {
		return &SetupError{Problems: []Problem{{
			What: fmt.Sprintf("publication name %q", publication),
			Why:  "PostgreSQL allows 1 to 63 bytes",
			Do:   "choose another publication name",
		}}}
	}
	return nil
}

// quoteIdent quotes an identifier of SQL and of the replication grammar alike.
func quoteIdent(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// quoteLiteral quotes a string for the replication grammar, in which a backslash is a plain character.
func quoteLiteral(text string) string { return `'` + strings.ReplaceAll(text, `'`, `''`) + `'` }

// startCommand builds START_REPLICATION. serverVersion is the major one: an option that a server does not know is an
// error there.
func startCommand(slot, publication string, from mvcc.LSN, serverVersion int) string {
	options := []string{
		"proto_version '1'",
		// A list of identifiers inside a literal: quoted twice.
		"publication_names " + quoteLiteral(quoteIdent(publication)),
	}
	if serverVersion >= 14 {
		options = append(options, "messages 'true'")
	}
	// Left at their defaults on purpose: binary (off: values come as text) and origin (any: what was replicated into
	// this database from elsewhere is cached like the rest).
	return "START_REPLICATION SLOT " + quoteIdent(slot) + " LOGICAL " + from.String() +
		" (" + strings.Join(options, ", ") + ")"
}
