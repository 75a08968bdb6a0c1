// Package intent is the form in which a transaction says, in the log itself, which keys it affects: a logical message
// that commits with it. docs/writing.md describes the form for whoever writes it in SQL.
package intent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"unicode/utf8"

	"github.com/freshet/freshet/internal/keytext"
)

// Prefix is the prefix of the messages.
const Prefix = "freshet"

// version is the form that this code writes and the only one that it reads.
const version = "1"

// maxBytes is about how long a message gets that Messages makes: the daemon holds one in its memory at a time.
const maxBytes = 64 << 10

// Messages spells the keys of one entry, as few messages as there can be without one of them being very long. A key is
// its arguments, in the order of the entry's key template: text that PostgreSQL reads as the parameter's type.
func Messages(entry string, keys [][]keytext.Arg) ([]json.RawMessage, error) {
	var (
		all  []json.RawMessage
		text []byte
	)
	name, err := quote(entry)
	if err != nil {
		return nil, err
	}
	for _, args := range keys {
		switch {
		case len(text) > maxBytes:
			all = append(all, append(text, "]}"...))
			text = open(name)
		case text == nil:
			text = open(name)
		default:
			text = append(text, ",["...)
		}
		for i, a := range args {
			if i > 0 {
				text = append(text, ',')
			}
			if a.Null {
				text = append(text, "null"...)
				continue
			}
			quoted, err := quote(a.Text)
			if err != nil {
				return nil, err
			}
			text = append(text, quoted...)
		}
		text = append(text, ']')
	}
	if text != nil {
		all = append(all, append(text, "]}"...))
	}
	return all, nil
}

// open begins a message, and its first key.
func open(name []byte) []byte {
	return append(append([]byte(`{"v":`+version+`,"entry":`), name...), `,"keys":[[`...)
}

// quote refuses what a PostgreSQL text cannot hold; encoding/json would replace it.
func quote(s string) ([]byte, error) {
	if !utf8.ValidString(s) || bytes.IndexByte([]byte(s), 0) >= 0 {
		return nil, errors.New("text that is not UTF-8, or holds a NUL byte, is no text of PostgreSQL")
	}
	return json.Marshal(s)
}

// Message is a message that was read.
type Message struct {
	Entry string
	// Scope says how much of what it names is meant: single keys, or more than that.
	Scope Scope
	Table Table // of the scope OfTable
	keys  json.RawMessage
	tags  json.RawMessage // of the scope OfTags
}

// Parse reads the frame of a message. With an error, Entry is set when nothing but that entry can have been meant.
func Parse(content []byte) (Message, error) {
	var m Message
	if !utf8.Valid(content) {
		return m, errors.New("it is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(content))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return m, errors.New("it is not a JSON object")
	}
	fields := map[string]json.RawMessage{}
	var problem error
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return m, fmt.Errorf("not JSON: %w", err)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return m, fmt.Errorf("not JSON: %w", err)
		}
		key, _ := name.(string) // of an object, always
		if _, twice := fields[key]; twice && problem == nil {
			problem = fmt.Errorf("field %.40q stands twice", key)
		}
		fields[key] = value
	}
	if _, err := d.Token(); err != nil {
		return m, fmt.Errorf("not JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return m, errors.New("something follows the JSON object")
	}
	if problem == nil {
		problem = m.take(fields)
	}
	return m, problem
}

// take holds that the message has what version 1 has, and nothing that this code would pass over.
func (m *Message) take(fields map[string]json.RawMessage) error {
	if v := string(fields["v"]); v != version {
		return fmt.Errorf("v is %.20q, this program reads %s", v, version)
	}
	for name := range fields {
		switch name {
		case "v", "entry", "keys", "all", "schema", "table", "tags":
		default:
			return fmt.Errorf("field %.40q is not known", name)
		}
	}
	if tags, found := fields["tags"]; found {
		m.Scope, m.tags = OfTags, tags
		return only(fields, "v", "tags")
	}
	if _, found := fields["table"]; found {
		return m.takeTable(fields)
	}
	if _, found := fields["schema"]; found {
		return errors.New("it has a schema, and no table")
	}
	entry, named := fields["entry"]
	all, whole := fields["all"]
	if whole && !named {
		if m.Scope = Everything; string(all) != "true" {
			return errors.New("all is not true")
		}
		return only(fields, "v", "all")
	}
	if !named || json.Unmarshal(entry, &m.Entry) != nil || m.Entry == "" {
		return errors.New("entry is not a name")
	}
	if whole {
		if m.Scope = OfEntry; string(all) != "true" {
			return errors.New("all is not true")
		}
		return only(fields, "v", "entry", "all")
	}
	if m.keys, named = fields["keys"]; !named {
		return errors.New("it has no keys")
	}
	return nil
}

// Keys yields the arguments of each key, which are not kept, or an error, which is the last. keys may be null: an
// aggregate over no rows.
func (m *Message) Keys() iter.Seq2[[]keytext.Arg, error] {
	return func(yield func([]keytext.Arg, error) bool) {
		if string(m.keys) == "null" {
			return
		}
		d := json.NewDecoder(bytes.NewReader(m.keys))
		d.UseNumber()
		if t, err := d.Token(); err != nil || t != json.Delim('[') {
			yield(nil, errors.New("keys is not a list"))
			return
		}
		var args []keytext.Arg
		for d.More() {
			var (
				key any
				err error
			)
			if err = d.Decode(&key); err == nil {
				args, err = arguments(args[:0], key)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(args, nil) {
				return
			}
		}
	}
}

// arguments reads a key: a list of arguments, or the only one.
func arguments(dst []keytext.Arg, key any) ([]keytext.Arg, error) {
	list, ok := key.([]any)
	if !ok {
		list = []any{key}
	}
	for _, value := range list {
		switch v := value.(type) {
		case string:
			dst = append(dst, keytext.Arg{Text: v})
		case json.Number:
			dst = append(dst, keytext.Arg{Text: v.String()})
		case bool:
			dst = append(dst, keytext.Arg{Text: strconv.FormatBool(v)})
		case nil:
			dst = append(dst, keytext.Arg{Null: true})
		default:
			return nil, errors.New("an argument is a list or an object")
		}
	}
	return dst, nil
}
