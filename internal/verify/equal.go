package verify

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Format is how an application's values are written.
type Format string

// The formats.
const (
	JSON Format = "json"
	Text Format = "text"
	Hash Format = "hash" // a hash of Redis, with a text for each column
)

// shape says how a foreign value is compared with the row that its query gives.
type shape struct {
	format Format
	field  string   // the column that is compared; empty: the whole row, or the only column for a text
	ignore []string // fields that are not compared
	bag    bool     // the order of rows means nothing
}

// same reports whether a cached text says what the row says. It fails when the text cannot be read in the format.
func (s *shape) same(cached string, found bool, row []byte) (bool, error) {
	var truth any
	if found {
		var err error
		if truth, err = decode(row); err != nil {
			return false, fmt.Errorf("read the row: %w", err)
		}
		if truth, err = s.project(truth); err != nil {
			return false, err
		}
	}
	if s.format == Text {
		text, known := plain(truth)
		if !known {
			return false, fmt.Errorf("the column %q is no plain value", s.field)
		}
		return found && cached == text, nil
	}
	value, err := decode([]byte(cached))
	if err != nil {
		return false, fmt.Errorf("read the cached value: %w", err)
	}
	if s.format == Hash {
		if truth, err = asHash(truth); err != nil {
			return false, err
		}
	}
	return equalValues(s.strip(value), s.strip(truth), s.bag), nil
}

// project takes the column that is compared.
func (s *shape) project(row any) (any, error) {
	object, isObject := row.(map[string]any)
	if s.field != "" {
		value, there := object[s.field]
		if !there {
			return nil, fmt.Errorf("the query has no column %q", s.field)
		}
		return value, nil
	}
	if s.format != Text {
		return row, nil
	}
	if !isObject || len(object) != 1 {
		return nil, fmt.Errorf("a text is compared with one column, and the query has %d: name one", len(object))
	}
	for _, value := range object {
		return value, nil
	}
	return nil, nil //nolint:nilnil // not reached
}

// asHash writes a row as a hash has it: texts, and nothing for NULL.
func asHash(row any) (any, error) {
	object, isObject := row.(map[string]any)
	if !isObject {
		return row, nil
	}
	fields := map[string]any{}
	for name, value := range object {
		text, known := plain(value)
		switch {
		case !known:
			return nil, fmt.Errorf("the column %q is no plain value", name)
		case value != nil:
			fields[name] = text
		}
	}
	return fields, nil
}

// plain is the text of a value that is not made of others. NULL is the empty text.
func plain(value any) (string, bool) {
	switch v := value.(type) {
	case nil:
		return "", true
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

// strip removes the ignored fields of an object, or of the objects of a list.
func (s *shape) strip(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for _, name := range s.ignore {
			delete(v, name)
		}
	case []any:
		for _, element := range v {
			if object, ok := element.(map[string]any); ok {
				s.strip(object)
			}
		}
	}
	return value
}

func decode(text []byte) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, errors.New("not JSON: something follows the value")
	}
	return value, nil
}

// equalValues compares two JSON values. Numbers are equal by what they are worth, and lists, where bag is set, as bags.
func equalValues(a, b any, bag bool) bool {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for name, value := range x {
			if other, there := y[name]; !there || !equalValues(value, other, false) {
				return false
			}
		}
		return true
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			return false
		}
		if bag {
			return slices.Equal(spelled(x), spelled(y))
		}
		for i := range x {
			if !equalValues(x[i], y[i], false) {
				return false
			}
		}
		return true
	case json.Number:
		y, ok := b.(json.Number)
		return ok && worth(x) == worth(y)
	}
	return a == b // nil, text and truth values
}

// spelled are the elements of a list in one spelling, sorted.
func spelled(list []any) []string {
	texts := make([]string, len(list))
	for i, value := range list {
		text, err := json.Marshal(normal(value))
		if err != nil {
			text = []byte(err.Error()) // of a value that was decoded: cannot happen
		}
		texts[i] = string(text)
	}
	slices.Sort(texts)
	return texts
}

// normal writes the numbers of a value in one spelling.
func normal(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for name := range v {
			v[name] = normal(v[name])
		}
	case []any:
		for i := range v {
			v[i] = normal(v[i])
		}
	case json.Number:
		return worth(v)
	}
	return value
}

// worth spells a number as digits and an exponent, so that equal numbers have one spelling: 1.50 and 15e-1 are 15e-1.
func worth(n json.Number) string {
	text, sign := n.String(), ""
	if rest, negative := strings.CutPrefix(text, "-"); negative {
		text, sign = rest, "-"
	}
	mantissa, power, _ := strings.Cut(strings.ToLower(text), "e")
	exponent := 0
	if power != "" {
		var err error
		if exponent, err = strconv.Atoi(power); err != nil {
			return n.String() // an exponent beyond all measure stands for itself
		}
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := strings.TrimLeft(whole+fraction, "0")
	exponent -= len(fraction)
	short := strings.TrimRight(digits, "0")
	exponent += len(digits) - len(short)
	if short == "" {
		return "0"
	}
	return sign + short + "e" + strconv.Itoa(exponent)
}
