package store

import (
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/freshet/freshet/internal/rule"
)

// Use names a version of an entry that libraries register the use of (D7), by the digest of its declaration.
type Use struct{ Entry, Definition string }

// LongestUser bounds, in bytes, what is believed of who registered: any client may write it.
const LongestUser = 128

// Printable leaves nothing of a text that a terminal or a log would take for more than text.
func Printable(text string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return '?'
	}, text)
}

// Live is what a sweep leaves: the prefixes of live names, and the retained versions of entries.
type Live struct {
	Prefixes []string
	Retained []Use
}

// Dead reports whether a name is of a record or an epoch that nobody reads any more. rest is what follows in it after the
// namespace, and the lane where there are several.
func (l *Live) Dead(name, rest string) bool {
	generation, _, ok := strings.Cut(rest, ":")
	if _, err := strconv.ParseUint(generation, 16, 64); !ok || err != nil || len(generation) != 16 {
		return false
	}
	return !slices.ContainsFunc(l.Prefixes, func(p string) bool {
		rest, ok := strings.CutPrefix(name, p[:len(p)-1])
		return ok && rest != "" && (rest[0] == p[len(p)-1] || rest[0] == rule.EpochMark)
	})
}
