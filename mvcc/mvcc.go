// Package mvcc holds PostgreSQL's own notions of "when": log positions (LSN), 64-bit transaction ids (XID) and the
// snapshots that statements read under. Everything freshet promises is decided by these three, never by a clock.
package mvcc

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// LSN is a position in PostgreSQL's write-ahead log, in bytes.
type LSN uint64

// ErrSyntax is wrapped by every parse error of this package.
var ErrSyntax = errors.New("invalid syntax")

// ParseLSN reads the form that PostgreSQL prints, two hexadecimal halves: "16/B374D848".
func ParseLSN(s string) (LSN, error) {
	high, low, ok := strings.Cut(s, "/")
	if !ok {
		return 0, fmt.Errorf("lsn %q: %w", s, ErrSyntax)
	}
	h, err := strconv.ParseUint(high, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("lsn %q: %w", s, ErrSyntax)
	}
	l, err := strconv.ParseUint(low, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("lsn %q: %w", s, ErrSyntax)
	}
	return LSN(h<<32 | l), nil
}

// String prints the LSN as PostgreSQL does.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint64(l)>>32, uint64(l)&math.MaxUint32) }

// XID is a full 64-bit top-level transaction id (PostgreSQL's xid8).
type XID uint64

// ParseXID reads a decimal xid8.
func ParseXID(s string) (XID, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("xid %q: %w", s, ErrSyntax)
	}
	return XID(n), nil
}

// String prints the XID in decimal.
func (x XID) String() string { return strconv.FormatUint(uint64(x), 10) }

// Extend completes a 32-bit transaction id, as the log carries it, to the full one, given any full id of the same
// cluster that is less than 2^31 away (consistency: section 2, "64 bit").
func Extend(low uint32, near XID) XID {
	return XID(int64(near) + int64(int32(low-uint32(near)))) //nolint:gosec // modular arithmetic is the point
}

// Snapshot is what pg_current_snapshot() reports: every transaction before Xmin is over, none from Xmax on had
// ended, and those in Xip (sorted) were running. Only top-level ids appear in it.
//
// It is exact on a primary only: a hot standby leaves Xip empty.
type Snapshot struct {
	Xmin, Xmax XID
	Xip        []XID
}

// ParseSnapshot reads PostgreSQL's text form, "xmin:xmax:xip,xip".
func ParseSnapshot(s string) (Snapshot, error) {
	bad := fmt.Errorf("snapshot %q: %w", s, ErrSyntax)
	low, rest, ok := strings.Cut(s, ":")
	if !ok {
		return Snapshot{}, bad
	}
	high, list, ok := strings.Cut(rest, ":")
	if !ok {
		return Snapshot{}, bad
	}
	var (
		snap Snapshot
		err  error
	)
	if snap.Xmin, err = ParseXID(low); err != nil {
		return Snapshot{}, bad
	}
	if snap.Xmax, err = ParseXID(high); err != nil || snap.Xmax < snap.Xmin {
		return Snapshot{}, bad
	}
	if list == "" {
		return snap, nil
	}
	snap.Xip = make([]XID, 0, strings.Count(list, ",")+1)
	for part := range strings.SplitSeq(list, ",") {
		x, err := ParseXID(part)
		if err != nil || x < snap.Xmin || x >= snap.Xmax {
			return Snapshot{}, bad
		}
		snap.Xip = append(snap.Xip, x)
	}
	slices.Sort(snap.Xip)
	snap.Xip = slices.Compact(snap.Xip)
	return snap, nil
}

// String prints the snapshot as PostgreSQL does.
func (s Snapshot) String() string {
	var b strings.Builder
	b.WriteString(s.Xmin.String())
	b.WriteByte(':')
	b.WriteString(s.Xmax.String())
	b.WriteByte(':')
	for i, x := range s.Xip {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(x.String())
	}
	return b.String()
}

// IsZero reports whether s is the zero Snapshot, which no server ever reports.
func (s Snapshot) IsZero() bool { return s.Xmax == 0 }

// Sees reports whether the effects of x are visible under s.
func (s Snapshot) Sees(x XID) bool {
	if x < s.Xmin {
		return true
	}
	if x >= s.Xmax {
		return false
	}
	_, running := slices.BinarySearch(s.Xip, x)
	return !running
}

// Dominates reports whether s sees every transaction that t sees: Xmax is no smaller, and whatever s still waits for
// below t's Xmax, t waited for too.
func (s Snapshot) Dominates(t Snapshot) bool {
	if s.Xmax < t.Xmax {
		return false
	}
	for _, x := range s.Xip {
		if x >= t.Xmax {
			break
		}
		if t.Sees(x) {
			return false
		}
	}
	return true
}
