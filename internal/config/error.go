package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Error is one thing that is wrong with a file, at its place.
type Error struct {
	File         string
	Line, Column int    // from 1; 0 when the place is not known
	Message      string // what is wrong; never holds a secret
	Hint         string // what to do; may be empty
	Excerpt      string // the lines around it with a pointer, secrets masked
}

// Error is the message with its place, the excerpt and the hint.
func (e *Error) Error() string {
	text := e.Summary()
	if e.Excerpt != "" {
		text += "\n" + e.Excerpt
	}
	if e.Hint != "" {
		text += "\n  hint: " + e.Hint
	}
	return text
}

// Summary is the first line of Error: the message with its place.
func (e *Error) Summary() string {
	switch {
	case e.File == "":
		return e.Message
	case e.Line == 0:
		return e.File + ": " + e.Message
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
}

// Errors are all the Errors in err, in their order.
func Errors(err error) []*Error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []*Error
		for _, one := range joined.Unwrap() {
			all = append(all, Errors(one)...)
		}
		return all
	}
	if one, ok := errors.AsType[*Error](err); ok {
		return []*Error{one}
	}
	return nil
}

// place is where a value stands in the file.
type place struct{ line, column int }

// places remembers where each value stood and which texts must not be shown.
type places struct {
	file    string
	lines   []string
	at      map[string]place // by path, such as entries.product.ttl; a mapping's or a list's is its key's
	secrets []secretText
	raw     map[string]string // by path: what the file says where the environment was put in
	unread  bool              // the file is not YAML: what its lines mean is not known
}

// harmless reports whether a section of a file has no place for a secret.
func harmless(section string) bool {
	return slices.Contains([]string{"namespace", "listen", "memory", "l1", "defaults", "entries"}, section)
}

// secretText is a text of the file that must not be shown, and what is shown for it.
type secretText struct{ text, shown string }

// shown is a value as an error may quote it: what came from the environment may be a secret in the wrong place, so
// the reference stands for it.
func (p *places) shown(path, value string) string {
	if p != nil {
		if raw, ok := p.raw[path]; ok {
			return raw
		}
	}
	return value
}

// errorAt is an error at the place of path or, when the file does not have it, at the nearest place around it.
func (p *places) errorAt(path, message, hint string) *Error {
	for {
		if at, ok := p.at[path]; ok {
			return p.errorIn(at, message, hint)
		}
		dot := strings.LastIndexByte(path, '.')
		if dot < 0 {
			return &Error{File: p.file, Message: message, Hint: hint}
		}
		path = path[:dot]
	}
}

func (p *places) errorIn(at place, message, hint string) *Error {
	return &Error{File: p.file, Line: at.line, Column: at.column, Message: message, Hint: hint, Excerpt: p.excerpt(at)}
}

// excerpt shows the line, the one before it, and a pointer under the column.
func (p *places) excerpt(at place) string {
	if at.line < 1 || at.line > len(p.lines) {
		return ""
	}
	var b strings.Builder
	if at.line > 1 && strings.TrimSpace(p.lines[at.line-2]) != "" {
		fmt.Fprintf(&b, "  %4d | %s\n", at.line-1, p.masked(at.line-1))
	}
	fmt.Fprintf(&b, "> %4d | %s\n", at.line, p.masked(at.line))
	b.WriteString("       | ")
	for i, r := range []rune(p.lines[at.line-1]) {
		if i >= at.column-1 {
			break
		}
		if r == '\t' {
			b.WriteByte('\t')
		} else {
			b.WriteByte(' ')
		}
	}
	b.WriteByte('^')
	return b.String()
}

// masked is a line of the file without secrets: those that were read as such, and whatever looks like one, since an
// error of syntax comes before anything is read.
func (p *places) masked(line int) string {
	text := strings.TrimRight(p.lines[line-1], "\r")
	if p.unread && !harmless(p.section(line)) {
		// A key is shown, and a dash before it. A line without one may be a secret's own.
		key := regexp.MustCompile(`^\s*(?:- +)*(?:\w+:(?:\s+|$))?`).FindString(text)
		if len(key) == len(text) {
			return text
		}
		return key + mask
	}
	for _, s := range p.secrets {
		text = strings.ReplaceAll(text, s.text, s.shown)
	}
	text = regexp.MustCompile(`(://[^:/@\s]*:)[^\s"']*@`).ReplaceAllString(text, "${1}"+mask+"@")
	// A reference to the environment is no secret, and shows what to set. A path to a file is not one either.
	return regexp.MustCompile(secretParameter+`(\s*[:=]\s*)("[^"]*"?|'[^']*'?|[^\s"'$][^\s,}]*)`).ReplaceAllString(text, "${1}${2}"+mask)
}

// section is the key at the margin that a line stands below, or begins with.
func (p *places) section(line int) string {
	for ; line > 0; line-- {
		if text := p.lines[line-1]; text != "" && !strings.ContainsAny(text[:1], " \t\r#-]}") {
			key, _, _ := strings.Cut(text, ":")
			return strings.TrimSpace(key)
		}
	}
	return ""
}
