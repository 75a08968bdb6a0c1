// Package keytext is the one canonicaliser that daemon and library share: for every type that a key parameter may
// have, equal values have one text, whether they come from PostgreSQL's log, from a Go value or from a URL.
package keytext

import "strings"

// Type is a PostgreSQL type whose values have a canonical text. Its value is pg_type.typname, "enum" for all enums; that of
// an array is its element's with [] behind it.
type Type string

// The types that a key parameter may have.
const (
	Int2        Type = "int2"
	Int4        Type = "int4"
	Int8        Type = "int8"
	OID         Type = "oid"
	Bool        Type = "bool"
	UUID        Type = "uuid"
	String      Type = "text" // also varchar, with a deterministic collation
	Date        Type = "date"
	Timestamp   Type = "timestamp"
	Timestamptz Type = "timestamptz"
	Numeric     Type = "numeric"
	Bytea       Type = "bytea"
	Enum        Type = "enum"
	// Unknown is the type of a parameter that no column has: of an entry that only its writers' intents invalidate. Its
	// text is taken as it is.
	Unknown Type = "unknown"
)

// Arg is one argument of a key: canonical text, or NULL.
type Arg struct {
	Text string `json:"text"`
	Null bool   `json:"null,omitempty"`
}

// safe reports the bytes that stand for themselves in a key; every other byte is written as %XX.
func safe(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_', c == '~':
		return true
	}
	return false
}

// Separates reports whether a literal between two parameters keeps their texts apart: it contains a byte that escaped
// text never contains.
func Separates(literal string) bool {
	for i := range len(literal) {
		if !safe(literal[i]) && literal[i] != '%' {
			return true
		}
	}
	return false
}

const upperHex = "0123456789ABCDEF"

// AppendEscaped appends an argument as it stands in a key. NULL is "%-", which no text escapes to.
func AppendEscaped(dst []byte, a Arg) []byte {
	if a.Null {
		return append(dst, '%', '-')
	}
	return appendEscaped(dst, a.Text)
}

// AppendEscapedText is AppendEscaped for canonical text in a buffer.
func AppendEscapedText(dst, text []byte) []byte { return appendEscaped(dst, text) }

// ParseEscaped is the inverse of AppendEscaped: it reads an argument as it stands in a key. It refuses every text that
// AppendEscaped does not write, so that one argument has one spelling here too.
func ParseEscaped(s string) (Arg, bool) {
	if s == "%-" {
		return Arg{Null: true}, true
	}
	text := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case safe(c):
			text = append(text, c)
			continue
		case c != '%' || i+2 >= len(s):
			return Arg{}, false
		}
		high, low := strings.IndexByte(upperHex, s[i+1]), strings.IndexByte(upperHex, s[i+2])
		if high < 0 || low < 0 {
			return Arg{}, false
		}
		c = byte(high<<4 | low) //nolint:gosec // two digits
		if safe(c) {
			return Arg{}, false
		}
		text = append(text, c)
		i += 2
	}
	return Arg{Text: string(text)}, true
}

func appendEscaped[T string | []byte](dst []byte, text T) []byte {
	for i := range len(text) {
		c := text[i]
		if safe(c) {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return dst
}

// Wide is the type by which values are compared: all integers are read as the widest. PostgreSQL compares them across types,
// and a column's value that the parameter's type cannot hold is a key that nobody has.
func (t Type) Wide() Type {
	switch t {
	case Int2, Int4, OID:
		return Int8
	default:
		return t
	}
}
