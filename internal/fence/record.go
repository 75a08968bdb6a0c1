package fence

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/freshet/freshet/mvcc"
)

// ErrFormat is wrapped by every error about stored bytes that are not in the layout of docs/redis.md.
var ErrFormat = errors.New("not in freshet's format")

// recordMagic opens every record; its digit is the layout's number.
const recordMagic = "f1 "

// The flags of a record, of which each that is set adds a field to the end of the header, in this order.
const (
	unflagged = "-"
	kept      = "k" // a live value says how long it is kept once it is invalidated; a stale one, when that was
	tied      = "t" // the value is tied to epochs
)

// ParseRecord reads a record. Payload aliases text. The header of a record without lease, fences, row version and
// running transactions, which is what a hit has, is read without allocating.
func ParseRecord(text []byte) (Record, error) {
	var r Record
	head, payload, ok := bytes.Cut(text, []byte{'\n'})
	if !ok || len(head) < len(recordMagic) || string(head[:len(recordMagic)]) != recordMagic {
		return Record{}, fmt.Errorf("record: %w", ErrFormat)
	}
	rest := head[len(recordMagic):]
	next := func() []byte {
		var field []byte
		field, rest, ok = bytes.Cut(rest, []byte{' '})
		return field
	}
	state, flags, lease, fences, coverage, version := next(), next(), next(), next(), next(), next()
	if !ok || len(state) != 1 {
		return Record{}, fmt.Errorf("record: %w", ErrFormat)
	}
	good := true
	if r.State, ok = parseState(state[0]); !ok {
		good = false
	}
	if string(flags) != unflagged {
		when := next()
		if !r.parseFlagged(string(flags), rest) {
			good = false
		}
		rest = when
	}
	if r.Lease, ok = parseLease(lease); !ok {
		good = false
	}
	if r.Fences, ok = parseFences(fences); !ok {
		good = false
	}
	if r.Coverage, ok = parseCoverage(coverage); !ok {
		good = false
	}
	if r.RowVersion, ok = unescape(version); !ok {
		good = false
	}
	filled, ok := parseHex(rest)
	if !ok || !good || filled > 1<<62 {
		return Record{}, fmt.Errorf("record: %w", ErrFormat)
	}
	r.Filled = int64(filled)
	r.Payload = payload
	return r, nil
}

// parseFlagged reads the fields that flags add to the header of a value.
func (r *Record) parseFlagged(flags string, fields []byte) bool {
	if r.State == None || flags == "" {
		return false
	}
	if rest, ok := strings.CutPrefix(flags, kept); ok {
		field, others, more := bytes.Cut(fields, []byte{' '})
		fields = others
		n, good := parseHex(field)
		if !good || n == 0 || n > 1<<62 || more != (rest != "") {
			return false
		}
		if flags = rest; r.State.Live() {
			r.Keep = int64(n)
		} else {
			r.Marked = int64(n)
		}
	}
	switch flags {
	case "":
		return true
	case tied:
		var good bool
		r.Epochs, good = parseEpochs(string(fields))
		return good
	}
	return false
}

// Hit tells quickly whether a record is a hit: whether there is such a row, and its payload, which aliases text. It
// reports false for what is not live, is tied to epochs, or is no record. The rest of the header is ParseRecord's, for whoever wants it.
func Hit(text []byte) (payload []byte, found, ok bool) {
	const state, flags, spaces = len(recordMagic), len(recordMagic) + 2, 7
	head, payload, ok := bytes.Cut(text, []byte{'\n'})
	if !ok || len(head) <= flags+1 || string(head[:len(recordMagic)]) != recordMagic || head[flags+1] != ' ' {
		return nil, false, false
	}
	if fields := bytes.Count(head, []byte{' '}); (head[flags] != unflagged[0] || fields != spaces) && (head[flags] != kept[0] || fields != spaces+1) {
		return nil, false, false
	}
	switch head[state] {
	case 'V':
		return payload, true, true
	case 'N':
		return nil, false, true
	}
	return nil, false, false
}

// Append appends the record as the store holds it.
func (r *Record) Append(dst []byte) []byte {
	dst = append(dst, recordMagic...)
	dst = append(dst, r.State.Letter(), ' ')
	keeps := r.State.Live() && r.Keep != 0 || r.State.Stale() && r.Marked != 0
	if keeps {
		dst = append(dst, kept...)
	}
	if len(r.Epochs) > 0 {
		dst = append(dst, tied...)
	}
	if dst[len(dst)-1] == ' ' {
		dst = append(dst, unflagged...)
	}
	dst = append(dst, ' ')
	if r.Lease.IsZero() {
		dst = append(dst, '-')
	} else {
		dst = append(dst, r.Lease.Token...)
		dst = append(dst, '.')
		dst = appendHex(dst, uint64(r.Lease.End)) //nolint:gosec // times are positive
	}
	dst = append(dst, ' ')
	if len(r.Fences) == 0 {
		dst = append(dst, '-')
	}
	for i, f := range r.Fences {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendHex(dst, uint64(f.XID))
		dst = append(dst, '.')
		dst = appendHex(dst, uint64(f.End))
	}
	dst = append(dst, ' ')
	dst = r.Coverage.Append(dst)
	dst = append(dst, ' ')
	dst = append(dst, EscapeVersion(r.RowVersion)...)
	dst = append(dst, ' ')
	dst = appendHex(dst, uint64(r.Filled)) //nolint:gosec // times are positive
	if keeps {
		dst = append(dst, ' ')
		dst = appendHex(dst, uint64(max(r.Keep, r.Marked))) //nolint:gosec // one of them is 0, and times are positive
	}
	if len(r.Epochs) > 0 {
		dst = append(dst, ' ')
		dst = append(dst, EpochsText(r.Epochs)...)
	}
	dst = append(dst, '\n')
	return append(dst, r.Payload...)
}

// Letter is the state as a record spells it: capital letters are live, small ones stale.
func (s State) Letter() byte {
	switch s {
	case Live:
		return 'V'
	case Negative:
		return 'N'
	case Stale:
		return 'v'
	case StaleNegative:
		return 'n'
	case None:
	}
	return '-'
}

func parseState(c byte) (State, bool) {
	switch c {
	case '-':
		return None, true
	case 'V':
		return Live, true
	case 'N':
		return Negative, true
	case 'v':
		return Stale, true
	case 'n':
		return StaleNegative, true
	}
	return None, false
}

// Append appends the coverage as records and scripts spell it: "-", "s:" and a snapshot, or "l:" and a position.
func (c Coverage) Append(dst []byte) []byte {
	switch {
	case !c.Snapshot.IsZero():
		return appendSnapshot(append(dst, 's', ':'), c.Snapshot)
	case c.Replay != 0:
		return appendHex(append(dst, 'l', ':'), uint64(c.Replay))
	}
	return append(dst, '-')
}

// String is the coverage as Append spells it.
func (c Coverage) String() string { return string(c.Append(nil)) }

func parseCoverage(text []byte) (Coverage, bool) {
	if len(text) == 1 && text[0] == '-' {
		return Coverage{}, true
	}
	if len(text) < 2 || text[1] != ':' {
		return Coverage{}, false
	}
	switch text[0] {
	case 's':
		s, ok := parseSnapshot(text[2:])
		return Coverage{Snapshot: s}, ok
	case 'l':
		n, ok := parseHex(text[2:])
		return Coverage{Replay: mvcc.LSN(n)}, ok && n != 0
	}
	return Coverage{}, false
}

func parseLease(text []byte) (Lease, bool) {
	if len(text) == 1 && text[0] == '-' {
		return Lease{}, true
	}
	if len(text) != 32+1+16 || text[32] != '.' {
		return Lease{}, false
	}
	end, ok := parseHex(text[33:])
	token := Token(text[:32])
	return Lease{Token: token, End: int64(end)}, ok && token.Valid() && end <= 1<<62 //nolint:gosec // bounded
}

func parseFences(text []byte) ([]Stamp, bool) {
	if len(text) == 1 && text[0] == '-' {
		return nil, true
	}
	const width = 16 + 1 + 16
	if (len(text)+1)%(width+1) != 0 {
		return nil, false
	}
	fences := make([]Stamp, 0, (len(text)+1)/(width+1))
	for at := 0; at < len(text); at += width + 1 {
		x, okX := parseHex(text[at : at+16])
		e, okE := parseHex(text[at+17 : at+width])
		if !okX || !okE || text[at+16] != '.' || at+width < len(text) && text[at+width] != ',' {
			return nil, false
		}
		fences = append(fences, Stamp{XID: mvcc.XID(x), End: mvcc.LSN(e)})
	}
	return fences, true
}

// EscapeVersion spells a row version as one word: "-" is none, and what is not printable ASCII is %XX.
func EscapeVersion(s string) string {
	if s == "" {
		return "-"
	}
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || c == '%' || c == '-' && len(s) == 1 {
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

func unescape(text []byte) (string, bool) {
	if len(text) == 0 {
		return "", false
	}
	if len(text) == 1 && text[0] == '-' {
		return "", true
	}
	if bytes.IndexByte(text, '%') < 0 {
		return string(text), true
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '%' {
			b.WriteByte(text[i])
			continue
		}
		if i+2 >= len(text) {
			return "", false
		}
		high, low := bytes.IndexByte([]byte("0123456789ABCDEF"), text[i+1]), bytes.IndexByte([]byte("0123456789ABCDEF"), text[i+2])
		if high < 0 || low < 0 {
			return "", false
		}
		b.WriteByte(byte(high<<4 | low)) //nolint:gosec // two digits of a byte
		i += 2
	}
	return b.String(), true
}
