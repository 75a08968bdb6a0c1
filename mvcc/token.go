package mvcc

import (
	"fmt"
	"strconv"
	"strings"
)

// Token names a transaction, so that a read can be asked to contain it. Its text is
//
//	<system identifier>.<timeline>.<xid8>[.<lsn>]
//
// with the timeline in the 8 hexadecimal digits of a WAL file's name and everything else as PostgreSQL prints it. Any
// session can compute it in plain SQL, inside the transaction that it names:
//
//	SELECT system_identifier || '.' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || '.' || pg_current_xact_id()
//	FROM pg_control_system()
//
// A token is a claim by whoever made it, not a secret: the worst that a forged one can cause is a slower read.
type Token struct {
	System   string // the cluster's system identifier, decimal
	Timeline uint32
	XID      XID
	// After is a position read with pg_current_wal_insert_lsn() after COMMIT returned, 0 when nobody did. It lets a
	// reader recognise values and standbys that are new enough without knowing the transaction.
	After LSN
}

// The longest parts that a token can have: 20 decimal digits of 64 bits, 8 of the timeline, two halves of a position.
const maxTokenText = 20 + 1 + 8 + 1 + 20 + 1 + 17

// ParseToken reads a token's text.
func ParseToken(s string) (Token, error) {
	bad := fmt.Errorf("token: %w", ErrSyntax) // without its text, which is a stranger's
	if len(s) > maxTokenText {
		return Token{}, bad
	}
	parts := strings.Split(s, ".")
	if len(parts) != 3 && len(parts) != 4 {
		return Token{}, bad
	}
	for _, p := range parts {
		if p == "" || p[0] == '+' || p[0] == '-' {
			return Token{}, bad
		}
	}
	system, err := strconv.ParseUint(parts[0], 10, 64)
	if err != nil || len(parts[1]) != 8 {
		return Token{}, bad
	}
	timeline, err := strconv.ParseUint(parts[1], 16, 32)
	if err != nil || timeline == 0 {
		return Token{}, bad
	}
	t := Token{System: strconv.FormatUint(system, 10), Timeline: uint32(timeline)}
	// The first ids are the bootstrap's and no writer's; PostgreSQL counts in 64 bits, of which it will never use the last.
	if t.XID, err = ParseXID(parts[2]); err != nil || t.XID < firstNormalXID || t.XID > maxTokenXID {
		return Token{}, bad
	}
	if len(parts) == 4 {
		if t.After, err = ParseLSN(parts[3]); err != nil || t.After == 0 {
			return Token{}, bad
		}
	}
	return t, nil
}

const (
	firstNormalXID = 3
	maxTokenXID    = 1<<63 - 1
)

// String is the token's text.
func (t Token) String() string {
	text := fmt.Sprintf("%s.%08X.%d", t.System, t.Timeline, uint64(t.XID))
	if t.After != 0 {
		text += "." + t.After.String()
	}
	return text
}

// IsZero reports whether t is the zero Token, which names no transaction.
func (t Token) IsZero() bool { return t.XID == 0 }
