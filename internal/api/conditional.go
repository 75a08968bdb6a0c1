package api

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"
)

// entityTag is the strong validator of a body, which is given in one piece or several: the digest of the bytes sent. They are sent
// without any content coding.
func entityTag(body ...[]byte) string {
	const bytes = 16
	digest := sha256.New()
	for _, piece := range body {
		digest.Write(piece)
	}
	return `"` + base64.RawURLEncoding.EncodeToString(digest.Sum(nil)[:bytes]) + `"`
}

// precondition judges the preconditions of a request that would be answered with 200, in the order of RFC 9110, 13.2.2: it
// returns 412, 304 or 200. Those by date are ignored (13.1.3, 13.1.4), as are ranges: nothing here has a date.
func precondition(h http.Header, tag string) int {
	if list := h.Values("If-Match"); len(list) > 0 && !named(list, tag, false) {
		return http.StatusPreconditionFailed
	}
	if list := h.Values("If-None-Match"); len(list) > 0 && named(list, tag, true) {
		return http.StatusNotModified
	}
	return http.StatusOK
}

// named reports whether a strong tag is among those of If-Match or If-None-Match (RFC 9110, 13.1.1 and 13.1.2): "*", or a list of
// entity tags, over any number of lines. Weak ones count in a weak comparison only (8.8.3.2). What comes after something that
// is none is not read.
func named(lines []string, tag string, weak bool) bool {
	for _, line := range lines {
		rest := strings.Trim(line, " \t")
		if rest == "*" {
			return true
		}
		for rest = strings.TrimLeft(rest, ", \t"); rest != ""; {
			opaque, isWeak := strings.CutPrefix(rest, "W/") // a capital letter: 8.8.3
			if !strings.HasPrefix(opaque, `"`) {
				break
			}
			length := strings.IndexByte(opaque[1:], '"')
			if length < 0 {
				break
			}
			if opaque[:length+2] == tag && (weak || !isWeak) {
				return true
			}
			rest = strings.TrimLeft(opaque[length+2:], " \t")
			if rest != "" && rest[0] != ',' {
				break // not a list
			}
			rest = strings.TrimLeft(rest, ", \t")
		}
	}
	return false
}

// directives calls yield with each directive of Cache-Control (RFC 9111, 5.2), its name in small letters and its argument, a token
// or the content of a quoted string.
func directives(lines []string, yield func(name, argument string)) {
	for _, line := range lines {
		for rest := line; rest != ""; {
			var text string
			text, rest = element(rest)
			name, argument, _ := strings.Cut(text, "=")
			if name = strings.ToLower(strings.Trim(name, " \t")); name != "" {
				yield(name, unquoted(strings.Trim(argument, " \t")))
			}
		}
	}
}

// element cuts the first element off a list: up to a comma that is not within a quoted string (RFC 9110, 5.6.1 and 5.6.4). One
// whose string does not end takes the rest of the line.
func element(list string) (first, rest string) {
	quoted := false
	for i := 0; i < len(list); i++ {
		switch c := list[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted:
			i++
		case c == ',' && !quoted:
			return list[:i], list[i+1:]
		}
	}
	return list, ""
}

// unquoted is the text of a token or of a quoted string.
func unquoted(text string) string {
	if len(text) < 2 || text[0] != '"' || text[len(text)-1] != '"' {
		return text
	}
	text = text[1 : len(text)-1]
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+1 < len(text) {
			i++
		}
		b.WriteByte(text[i])
	}
	return b.String()
}
