// Package whatif answers which keys a change would affect: it reads a change as somebody writes it, makes of it the row images
// that the log would carry, and has the router itself say what they do.
package whatif

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/freshet/freshet/internal/change"
)

// Event is a change as it was written: users UPDATE id=7 team_id: 1 -> 2.
type Event struct {
	Text     string
	Schema   string // empty: by the search path
	Table    string
	Op       change.Op
	Truncate bool // instead of Op
	Items    []Item

	tableAt int
}

// Item is what an event says of a column. What stays has one value in both places.
type Item struct {
	Column   string
	Old, New *Value
	at       int
}

// Value is one that an event gives.
type Value struct {
	Null bool
	Text string
	at   int
}

// Error says what is wrong in an event, and where.
type Error struct {
	Event   string
	Offset  int // in bytes
	Problem string
	Do      string
}

// Error shows the place.
func (e *Error) Error() string {
	column := utf8.RuneCountInString(e.Event[:e.Offset])
	return fmt.Sprintf("event, character %d: %s\n    %s\n    %s^", column+1, e.Problem, e.Event, strings.Repeat(" ", column))
}

const shape = "users INSERT id=7, users UPDATE id=7 team_id: 1 -> 2, users DELETE id=7, or users TRUNCATE"

// Parse reads an event. Names and values may be quoted as in SQL; items may be separated by commas.
func Parse(text string) (*Event, error) {
	text = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' ' // so that the place below a line is where it is
		}
		return r
	}, text)
	s := &scanner{text: text}
	e := &Event{Text: text}
	s.space()
	e.tableAt = s.at
	first, err := s.name("a table")
	if err != nil {
		return nil, err
	}
	e.Table = first
	if s.take(".") {
		e.Schema = first
		if e.Table, err = s.name("a table"); err != nil {
			return nil, err
		}
	}
	s.space()
	start := s.at
	word := s.word()
	switch strings.ToUpper(word) {
	case "INSERT":
		e.Op = change.Insert
	case "UPDATE":
		e.Op = change.Update
	case "DELETE":
		e.Op = change.Delete
	case "TRUNCATE":
		e.Truncate = true
	default:
		return nil, s.fail(start, "INSERT, UPDATE, DELETE or TRUNCATE is expected", "Write it as "+shape+".")
	}
	if err := s.items(e); err != nil {
		return nil, err
	}
	if len(e.Items) == 0 && !e.Truncate {
		return nil, s.fail(len(text), "nothing is said of the row", "Write its columns, as in id=7.")
	}
	return e, nil
}

type scanner struct {
	text string
	at   int
}

func (s *scanner) fail(at int, problem, do string) error {
	return &Error{Event: s.text, Offset: at, Problem: problem, Do: do}
}

func (s *scanner) space() {
	for s.at < len(s.text) && s.text[s.at] == ' ' {
		s.at++
	}
}

func (s *scanner) take(token string) bool {
	if !strings.HasPrefix(s.text[s.at:], token) {
		return false
	}
	s.at += len(token)
	return true
}

func (s *scanner) word() string {
	start := s.at
	for s.at < len(s.text) && nameByte(s.text[s.at]) {
		s.at++
	}
	return s.text[start:s.at]
}

func nameByte(c byte) bool {
	return c == '_' || c == '$' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c >= utf8.RuneSelf
}

// name reads a name: folded to lower case unless it is quoted.
func (s *scanner) name(what string) (string, error) {
	start := s.at
	if s.take(`"`) {
		s.at = start
		name, err := s.quoted('"')
		if err == nil && name == "" {
			return "", s.fail(start, "the name is empty", "Name "+what+".")
		}
		return name, err
	}
	word := s.word()
	if word == "" {
		return "", s.fail(start, what+" is expected", "Write it as "+shape+".")
	}
	return strings.ToLower(word), nil
}

// quoted reads what is between two quotes, of which one that is doubled stands for itself.
func (s *scanner) quoted(quote byte) (string, error) {
	start := s.at
	var b strings.Builder
	for s.at++; s.at < len(s.text); s.at++ {
		if s.text[s.at] != quote {
			b.WriteByte(s.text[s.at])
			continue
		}
		if s.at+1 < len(s.text) && s.text[s.at+1] == quote {
			b.WriteByte(quote)
			s.at++
			continue
		}
		s.at++
		return b.String(), nil
	}
	return "", s.fail(start, "the quote does not end", "Close it; a quote within is doubled.")
}

func (s *scanner) items(e *Event) error {
	seen := map[string]bool{}
	for {
		s.space()
		for s.take(",") {
			s.space()
		}
		if s.at == len(s.text) {
			return nil
		}
		if e.Truncate {
			return s.fail(s.at, "TRUNCATE takes the whole table", "End the event here.")
		}
		item := Item{at: s.at}
		var err error
		if item.Column, err = s.name("a column"); err != nil {
			return err
		}
		if seen[item.Column] {
			return s.fail(item.at, "column "+item.Column+" stands twice", "Write both values once: "+item.Column+": old -> new.")
		}
		seen[item.Column] = true
		if err := s.values(e.Op, &item); err != nil {
			return err
		}
		e.Items = append(e.Items, item)
	}
}

func (s *scanner) values(op change.Op, item *Item) error {
	s.space()
	start := s.at
	changes := s.take(":")
	if !changes && !s.take("=") {
		return s.fail(start, "= or : is expected", "Write "+item.Column+"=7, or in an UPDATE "+item.Column+": 1 -> 2.")
	}
	first, err := s.value()
	if err != nil {
		return err
	}
	s.space()
	arrow := s.at
	becomes := s.take("->")
	switch {
	case op == change.Update && changes && !becomes:
		return s.fail(arrow, "what "+item.Column+" becomes is missing", "Write "+item.Column+": old -> new, or "+item.Column+"=value where it stays.")
	case op == change.Update && becomes:
		second, err := s.value()
		if err != nil {
			return err
		}
		item.Old, item.New = first, second
	case becomes:
		return s.fail(arrow, fmt.Sprintf("a row that %s has one value", map[change.Op]string{change.Insert: "comes", change.Delete: "goes"}[op]), "Write "+item.Column+"=value.")
	case op == change.Insert:
		item.New = first
	case op == change.Delete:
		item.Old = first
	default:
		item.Old, item.New = first, first
	}
	return nil
}

// value reads NULL, a text in single quotes, or one that goes on until white space, a comma or an arrow.
func (s *scanner) value() (*Value, error) {
	s.space()
	v := &Value{at: s.at}
	if s.at < len(s.text) && s.text[s.at] == '\'' {
		var err error
		v.Text, err = s.quoted('\'')
		return v, err
	}
	for s.at < len(s.text) && s.text[s.at] != ' ' && s.text[s.at] != ',' && !strings.HasPrefix(s.text[s.at:], "->") {
		s.at++
	}
	if v.Text = s.text[v.at:s.at]; v.Text == "" {
		return nil, s.fail(s.at, "a value is expected", "Write it bare, in single quotes, or NULL; the empty text is ''.")
	}
	if strings.EqualFold(v.Text, "null") {
		return &Value{Null: true, at: v.at}, nil
	}
	return v, nil
}
