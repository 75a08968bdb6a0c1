package fence

import (
	"strings"

	"github.com/freshet/freshet/mvcc"
)

// Numbers are 16 small hexadecimal digits, so that comparing them as strings compares them as numbers: a script's own
// numbers are doubles, which cannot hold 64 bits.

const lowerHex = "0123456789abcdef"

func appendHex(dst []byte, n uint64) []byte {
	for shift := 60; shift >= 0; shift -= 4 {
		dst = append(dst, lowerHex[n>>shift&15])
	}
	return dst
}

func hex(n uint64) string { return string(appendHex(nil, n)) }

func digit(c byte) (uint64, bool) {
	switch {
	case '0' <= c && c <= '9':
		return uint64(c - '0'), true
	case 'a' <= c && c <= 'f':
		return uint64(c-'a') + 10, true
	}
	return 0, false
}

func parseHex[T string | []byte](text T) (uint64, bool) {
	if len(text) != 16 {
		return 0, false
	}
	var n uint64
	for i := range len(text) {
		d, ok := digit(text[i])
		if !ok {
			return 0, false
		}
		n = n<<4 | d
	}
	return n, true
}

func isHex(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') }) < 0
}

// appendSnapshot appends "xmin:xmax:xip,xip", or "-" for none.
func appendSnapshot(dst []byte, s mvcc.Snapshot) []byte {
	if s.IsZero() {
		return append(dst, '-')
	}
	dst = appendHex(dst, uint64(s.Xmin))
	dst = append(dst, ':')
	dst = appendHex(dst, uint64(s.Xmax))
	dst = append(dst, ':')
	for i, x := range s.Xip {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendHex(dst, uint64(x))
	}
	return dst
}

// SnapshotText is a snapshot as HEAD and the scripts spell it.
func SnapshotText(s mvcc.Snapshot) string { return string(appendSnapshot(nil, s)) }

func parseSnapshot[T string | []byte](text T) (mvcc.Snapshot, bool) {
	const fixed = 16 + 1 + 16 + 1
	if len(text) < fixed || text[16] != ':' || text[fixed-1] != ':' {
		return mvcc.Snapshot{}, false
	}
	low, okLow := parseHex(text[:16])
	high, okHigh := parseHex(text[17:33])
	if !okLow || !okHigh || high < low || high == 0 {
		return mvcc.Snapshot{}, false
	}
	s := mvcc.Snapshot{Xmin: mvcc.XID(low), Xmax: mvcc.XID(high)}
	list := text[fixed:]
	if len(list) == 0 {
		return s, true
	}
	if (len(list)+1)%17 != 0 {
		return mvcc.Snapshot{}, false
	}
	s.Xip = make([]mvcc.XID, 0, (len(list)+1)/17)
	for at := 0; at < len(list); at += 17 {
		x, ok := parseHex(list[at : at+16])
		if !ok || at+16 < len(list) && list[at+16] != ',' || x < low || x >= high ||
			len(s.Xip) > 0 && mvcc.XID(x) <= s.Xip[len(s.Xip)-1] {
			return mvcc.Snapshot{}, false
		}
		s.Xip = append(s.Xip, mvcc.XID(x))
	}
	return s, true
}
