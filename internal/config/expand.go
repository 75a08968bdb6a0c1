package config

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// References to the environment contain characters that mean something to YAML: "[${A}]" is no list to it. So before
// the file is parsed, every character of a reference is replaced by one from a private area, which means nothing to
// YAML and takes one column as well; the scalars get them back. What a variable holds is put in only then, so that it
// can never become YAML.
const hidden = '\uE000'

// hideReferences replaces the characters of every ${…}. It reports where a character of the private area stands
// already.
func hideReferences(text string) (safe string, private int) {
	if bad := strings.IndexFunc(text, func(r rune) bool { return hidden <= r && r < hidden+utf8.RuneSelf }); bad >= 0 {
		return "", bad
	}
	var b strings.Builder
	for {
		open := strings.Index(text, "${")
		if open < 0 {
			break
		}
		length := strings.IndexAny(text[open:], "}\r\n")
		if length < 0 || text[open+length] != '}' {
			length = 1 // no end on this line: the expansion says so
		}
		b.WriteString(text[:open])
		for _, r := range text[open : open+length+1] {
			if r < utf8.RuneSelf && r > ' ' {
				r += hidden
			}
			b.WriteRune(r)
		}
		text = text[open+length+1:]
	}
	return b.String() + text, -1
}

// showReferences undoes hideReferences.
func showReferences(text string) string {
	return strings.Map(func(r rune) rune {
		if hidden <= r && r < hidden+utf8.RuneSelf {
			return r - hidden
		}
		return r
	}, text)
}

// unsetError says that a variable without a default is not set.
type unsetError struct{ name string }

func (e *unsetError) Error() string {
	return fmt.Sprintf("environment variable %s is not set", e.name)
}

// expand replaces ${VAR} and ${VAR:-default}; "$${" stands for "${". With an error it returns the byte offset of the
// reference in question.
func expand(text string, lookup func(string) (string, bool)) (expanded string, at int, err error) {
	var b strings.Builder
	for from := 0; ; {
		open := strings.Index(text[from:], "${")
		if open < 0 {
			b.WriteString(text[from:])
			return b.String(), 0, nil
		}
		open += from
		if open > from && text[open-1] == '$' {
			b.WriteString(text[from:open-1] + "${")
			from = open + 2
			continue
		}
		length := strings.IndexByte(text[open:], '}')
		if length < 0 {
			return "", open, errReference
		}
		name, fallback, hasFallback := strings.Cut(text[open+2:open+length], ":-")
		if !validVariable(name) {
			return "", open, errReference
		}
		value, set := lookup(name)
		if value == "" && hasFallback {
			value, set = fallback, true
		}
		if !set {
			return "", open, &unsetError{name: name}
		}
		b.WriteString(text[from:open] + value)
		from = open + length + 1
	}
}

func validVariable(name string) bool {
	for i := range len(name) {
		c := name[i]
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}
