package plan

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/freshet/freshet/internal/sqlparam"
)

// Error says why an entry is refused: where, what, why it would be unsafe and what to do.
type Error struct {
	Entry  string `json:"entry"`
	Line   int    `json:"line,omitempty"`   // in the query as it was written, from 1; 0 when no place in it is meant
	Column int    `json:"column,omitempty"` // in characters, from 1
	Source string `json:"source,omitempty"` // that line
	Caret  string `json:"caret,omitempty"`  // what to print below Source: white space and a ^
	What   string `json:"what"`
	Why    string `json:"why,omitempty"`
	Do     string `json:"do,omitempty"`
}

// Error is the whole story, in several lines.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Entry != "" {
		fmt.Fprintf(&b, "entry %s: ", e.Entry)
	}
	if e.Line > 0 {
		fmt.Fprintf(&b, "line %d, column %d: ", e.Line, e.Column)
	}
	b.WriteString(e.What)
	if e.Line > 0 {
		fmt.Fprintf(&b, "\n    %s\n    %s", e.Source, e.Caret)
	}
	if e.Why != "" {
		fmt.Fprintf(&b, "\n  why: %s", e.Why)
	}
	if e.Do != "" {
		fmt.Fprintf(&b, "\n  do:  %s", e.Do)
	}
	return b.String()
}

// nowhere is the offset of a refusal that concerns no place in the query.
const nowhere = -1

// refusal is an Error that does not know the query yet.
type refusal struct {
	at            int  // byte offset in the rewritten query, or nowhere
	original      bool // at counts in the query as it was written
	what, why, do string
}

func (r *refusal) Error() string { return r.what }

// near gives a refusal that knows no place of its own one close by.
func (r *refusal) near(at int) *refusal {
	if r.at < 0 {
		r.at = at
	}
	return r
}

func (r *refusal) located(entry, query string, rewritten *sqlparam.Rewritten) *Error {
	e := &Error{Entry: entry, What: r.what, Why: r.why, Do: r.do}
	at := r.at
	if at < 0 || query == "" {
		return e
	}
	if !r.original {
		at = rewritten.Original(at)
	}
	at = min(at, len(query))
	before := query[:at]
	e.Line = strings.Count(before, "\n") + 1
	start := strings.LastIndexByte(before, '\n') + 1
	e.Source, _, _ = strings.Cut(query[start:], "\n")
	e.Source = strings.TrimSuffix(e.Source, "\r")
	e.Column = utf8.RuneCountInString(before[start:]) + 1
	e.Caret = strings.Map(func(r rune) rune {
		if r == '\t' {
			return '\t' // as wide as above
		}
		return ' '
	}, before[start:]) + "^"
	return e
}
