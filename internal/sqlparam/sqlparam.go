// Package sqlparam finds the parameters of an entry's query, written @name, and rewrites them to PostgreSQL's $n.
//
// PostgreSQL's own lexer cannot be asked: it reads id=@id as the operator =@ and = @id as the absolute value of a
// column. So a scanner with PostgreSQL's lexical rules runs before any parser. The library uses it as well, which is
// why it needs nothing but the standard library.
//
// # What is a parameter
//
// An @ that a name follows directly is a parameter, outside string constants ('..', E'..', U&'..', B'..'), quoted
// identifiers, comments (-- and nested /* */) and dollar quotes. PostgreSQL reads a run of operator characters as one
// operator. When the run that ends with the @ is, as a whole, an operator of PostgreSQL or of its contrib modules
// (<@ @@ @@@ @-@ ^@ ^<@ ?<@), it stays that operator: a<@b is "a is contained by b" whatever is declared. Otherwise
// the last @ begins a parameter and what is left of the run is the operator: id=@id, n>=@min, doc->@field,
// doc@>@part. An @ that something else follows (@> (, @ -5) is an operator.
package sqlparam

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Error says what is wrong with the parameters of a query, and where.
type Error struct {
	Offset int    // 0-based byte offset in the query as it was written
	What   string // what was found
	Why    string // why it would be unsafe
	Do     string // what to do about it
}

func (e *Error) Error() string {
	text := e.What
	if e.Why != "" {
		text += ": " + e.Why
	}
	if e.Do != "" {
		text += ". " + e.Do
	}
	return text
}

// Rewritten is a query whose parameters are $1, $2 in the order of the declared ones.
type Rewritten struct {
	SQL   string
	Used  []string // the declared parameters that occur, in the order of their declaration
	edits []edit
}

// edit replaced [from, to) of the original by [at, end) of the rewritten text.
type edit struct{ from, to, at, end int }

// Original maps a byte offset of SQL to the offset in the query as it was written. Within a parameter it is that
// parameter's @.
func (r *Rewritten) Original(offset int) int {
	shift := 0
	for _, e := range r.edits {
		if offset < e.at {
			break
		}
		if offset < e.end {
			return e.from
		}
		shift = e.to - e.end
	}
	return offset + shift
}

// Rewrite replaces @name by $n, where n is the position of name in params, from 1.
func Rewrite(query string, params []string) (*Rewritten, error) {
	if i := strings.IndexByte(query, 0); i >= 0 {
		return nil, &Error{Offset: i, What: "the query contains a NUL byte", Do: "Remove it."}
	}
	if !utf8.ValidString(query) {
		return nil, &Error{Offset: invalidUTF8(query), What: "the query is not valid UTF-8", Do: "Save the file as UTF-8."}
	}
	r := &Rewritten{}
	var out strings.Builder
	used := make([]bool, len(params))
	copied := 0
	s := scanner{text: query}
	for s.next() {
		switch s.kind {
		case positional:
			return nil, &Error{
				Offset: s.start, What: query[s.start:s.end] + " is a positional parameter",
				Why: "its number says nothing about its place in the key",
				Do:  "Write parameters as @name, with {name} in the key.",
			}
		case name:
			n := slices.Index(params, query[s.start+1:s.end])
			if n < 0 {
				return nil, undeclared(query[s.start+1:s.end], s.start)
			}
			used[n] = true
			out.WriteString(query[copied:s.start])
			if s.start > 0 && identPart(query[s.start-1]) {
				out.WriteByte(' ') // SELECT@id would become the identifier select$1
			}
			at := out.Len()
			out.WriteString("$" + strconv.Itoa(n+1))
			r.edits = append(r.edits, edit{from: s.start, to: s.end, at: at, end: out.Len()})
			copied = s.end
		case other:
		}
	}
	out.WriteString(query[copied:])
	r.SQL = out.String()
	for i, p := range params {
		if used[i] {
			r.Used = append(r.Used, p)
		}
	}
	return r, nil
}

func undeclared(p string, at int) *Error {
	return &Error{
		Offset: at,
		What:   fmt.Sprintf("parameter {%s} is used in the query but not in the key", p),
		Why:    "two results would share one key",
		Do:     fmt.Sprintf("Add {%s} to the key.", p),
	}
}

func invalidUTF8(s string) int {
	for i, r := range s {
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
				return i
			}
		}
	}
	return len(s)
}

// Substitute replaces every $n of a statement by what value says for n, which is counted from 1.
func Substitute(sql string, value func(n int) string) string {
	var out strings.Builder
	copied := 0
	s := scanner{text: sql}
	for s.next() {
		if s.kind != positional {
			continue
		}
		n, err := strconv.Atoi(sql[s.start+1 : s.end])
		if err != nil {
			continue // more digits than an int has: no statement of ours
		}
		out.WriteString(sql[copied:s.start])
		out.WriteString(value(n))
		copied = s.end
	}
	out.WriteString(sql[copied:])
	return out.String()
}
