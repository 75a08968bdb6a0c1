package sqlparam

import "strings"

type kind uint8

const (
	other      kind = iota // any other token, or white space
	name                   // @name
	positional             // $n
)

// scanner cuts a text into tokens as PostgreSQL's scan.l does, as far as that is needed to tell where a parameter can
// be. It assumes standard_conforming_strings = on, as the parser does.
type scanner struct {
	text       string
	start, end int // the token
	parameter  int // where a parameter begins that the operator before it was cut off from
	kind       kind
}

// next moves to the next token and reports whether there is one. An unterminated string or comment reaches to the end
// of the text; whoever parses it next says so.
func (s *scanner) next() bool {
	s.start, s.kind = s.end, other
	if s.start == len(s.text) {
		return false
	}
	at, c := s.start, s.text[s.start]
	switch {
	case s.start > 0 && s.start == s.parameter:
		s.name()
	case c == '\'':
		s.end = s.quoted(at+1, false)
	case c == '"':
		s.end = until(s.text, at+1, '"')
	case c == '$':
		s.dollar()
	case strings.HasPrefix(s.text[at:], "--"):
		s.end = lineEnd(s.text, at)
	case strings.HasPrefix(s.text[at:], "/*"):
		s.end = commentEnd(s.text, at)
	case strings.HasPrefix(s.text[at:], "::"), strings.HasPrefix(s.text[at:], ":="): // not a colon and an operator
		s.end = at + len(":=")
	case identStart(c):
		s.word()
	case digit(c):
		s.end = at + 1
		for s.end < len(s.text) && (identPart(s.text[s.end]) && s.text[s.end] != '$' || s.text[s.end] == '.') {
			s.end++
		}
	case operator(c):
		s.operator()
	default:
		s.end = at + 1
	}
	return true
}

// word reads an identifier or a keyword, or a string constant with a prefix.
func (s *scanner) word() {
	s.end = s.start + 1
	if s.end < len(s.text) && s.text[s.end] == '\'' && (s.text[s.start] == 'e' || s.text[s.start] == 'E') {
		s.end = s.quoted(s.end+1, true)
		return
	}
	for s.end < len(s.text) && identPart(s.text[s.end]) {
		s.end++
	}
	// The other prefixes (B, X, N, U&) change nothing about where the constant that follows ends.
}

// operator reads a run of operator characters, which ends before a comment. A parameter at its end is a token of its
// own.
func (s *scanner) operator() {
	stop := s.start
	for stop < len(s.text) && operator(s.text[stop]) {
		if rest := s.text[stop:]; strings.HasPrefix(rest, "--") || strings.HasPrefix(rest, "/*") {
			break
		}
		stop++
	}
	s.end = stop
	named := stop < len(s.text) && identStart(s.text[stop]) && !prefixed(s.text[stop:])
	if named && s.text[stop-1] == '@' && !knownOperator(s.text[s.start:stop]) {
		s.parameter = stop - 1
		if s.end = s.parameter; s.end == s.start {
			s.name()
		}
	}
}

func (s *scanner) name() {
	s.kind = name
	for s.end = s.start + 1; s.end < len(s.text) && identPart(s.text[s.end]); s.end++ {
	}
}

// prefixed reports whether a letter begins a constant or a quoted identifier, such as E'..', and not a name.
func prefixed(text string) bool {
	switch {
	case len(text) < len("E'"):
		return false
	case strings.IndexByte("eEbBxX", text[0]) >= 0:
		return text[1] == '\''
	case text[0] == 'u' || text[0] == 'U':
		return strings.HasPrefix(text[1:], "&'") || strings.HasPrefix(text[1:], `&"`)
	}
	return false
}

// knownOperator reports whether an operator of PostgreSQL or its contrib modules ends with @ and reads so. The lone @
// (absolute value) is not among them.
func knownOperator(run string) bool {
	switch run {
	case "<@", "@@", "@@@", "@-@", "^@", "^<@", "?<@":
		return true
	}
	return false
}

// dollar reads $n, a dollar-quoted constant, or a stray $.
func (s *scanner) dollar() {
	s.end = s.start + 1
	for s.end < len(s.text) && digit(s.text[s.end]) {
		s.end++
	}
	if s.end > s.start+1 {
		s.kind = positional
		return
	}
	tag := s.start + 1
	if tag < len(s.text) && identStart(s.text[tag]) {
		for tag < len(s.text) && identPart(s.text[tag]) && s.text[tag] != '$' {
			tag++
		}
	}
	if tag == len(s.text) || s.text[tag] != '$' {
		return
	}
	quote := s.text[s.start : tag+1]
	if i := strings.Index(s.text[tag+1:], quote); i >= 0 {
		s.end = tag + 1 + i + len(quote)
	} else {
		s.end = len(s.text)
	}
}

// quoted returns the end of the string constant whose text begins at at. A constant goes on after white space with a
// line break in it and another quote, under the same rules.
func (s *scanner) quoted(at int, backslash bool) int {
	for at < len(s.text) {
		switch c := s.text[at]; {
		case c == '\\' && backslash:
			at += 2
		case c != '\'':
			at++
		default:
			next := continuation(s.text, at+1)
			if next < 0 {
				return at + 1
			}
			at = next
		}
	}
	return len(s.text)
}

// continuation returns where the text of a constant goes on that was closed just before at, or -1. A doubled quote
// goes on too.
func continuation(text string, at int) int {
	broken := false
	for i := at; i < len(text); {
		switch c := text[i]; {
		case c == '\'' && (broken || i == at):
			return i + 1
		case c == '\n' || c == '\r':
			broken = true
			i++
		case c == ' ' || c == '\t' || c == '\f' || c == '\v':
			i++
		case strings.HasPrefix(text[i:], "--"):
			i = lineEnd(text, i)
		default:
			return -1
		}
	}
	return -1
}

// until returns the position after the next closing byte, from at.
func until(text string, at int, closing byte) int {
	if i := strings.IndexByte(text[at:], closing); i >= 0 {
		return at + i + 1
	}
	return len(text)
}

func lineEnd(text string, at int) int {
	if i := strings.IndexAny(text[at:], "\n\r"); i >= 0 {
		return at + i
	}
	return len(text)
}

// commentEnd returns the end of the comment that begins at at. Comments nest.
func commentEnd(text string, at int) int {
	depth := 0
	for at < len(text) {
		switch rest := text[at:]; {
		case strings.HasPrefix(rest, "/*"):
			depth++
			at += 2
		case strings.HasPrefix(rest, "*/"):
			depth--
			at += 2
			if depth == 0 {
				return at
			}
		default:
			at++
		}
	}
	return len(text)
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// identStart is scan.l's ident_start: letters, the underscore, and every byte beyond ASCII.
func identStart(c byte) bool {
	return c == '_' || c >= 0x80 || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// identPart is scan.l's ident_cont.
func identPart(c byte) bool { return identStart(c) || digit(c) || c == '$' }

func operator(c byte) bool { return strings.IndexByte("~!@#^&|`?+-*/%<>=", c) >= 0 }
