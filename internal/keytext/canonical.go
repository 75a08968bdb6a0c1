package keytext

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"unicode/utf8"
)

// Error says why a text is not a value that can stand in a key.
type Error struct {
	Type    Type
	Text    string // as given, shortened
	Problem string
}

func (e *Error) Error() string { return fmt.Sprintf("%s %q: %s", e.Type, e.Text, e.Problem) }

// invalid copies the text, so that callers' buffers neither escape nor are kept.
func invalid(t Type, text []byte, problem string) error {
	const enough = 80
	shown := string(text[:min(len(text), enough)])
	if len(text) > enough {
		shown += "..."
	}
	return &Error{Type: t, Text: shown, Problem: problem}
}

// Canonical turns any spelling that PostgreSQL accepts for a value, as far as it means the same under all session
// settings, into the one that stands in keys and is passed to queries. Equal values, and only they, have one text.
func Canonical(t Type, text string) (string, error) {
	var space [64]byte
	out, err := appendCanonical(space[:0], t, []byte(text))
	if err != nil {
		return "", err
	}
	if string(out) == text {
		return text, nil
	}
	return string(out), nil
}

// AppendCanonicalLog appends the canonical text of a value as the log spells it, in a session with TimeZone UTC,
// DateStyle ISO and bytea_output hex. It allocates only when it fails.
func AppendCanonicalLog(dst []byte, t Type, text []byte) ([]byte, error) {
	return appendCanonical(dst, t, text)
}

func appendCanonical(dst []byte, t Type, s []byte) ([]byte, error) {
	switch t {
	case Int2, Int4, Int8, OID:
		return appendInteger(dst, t, s)
	case Bool:
		return appendBool(dst, s)
	case UUID:
		return appendUUID(dst, s)
	case String, Enum, Unknown:
		return appendText(dst, t, s)
	case Date, Timestamp, Timestamptz:
		return appendWhen(dst, t, s)
	case Numeric:
		return appendNumeric(dst, s)
	case Bytea:
		return appendBytea(dst, s)
	}
	if _, ok := t.Element(); ok {
		return appendArray(dst, t, s)
	}
	return dst, invalid(t, s, "values of this type have no canonical text")
}

// trim removes what C's isspace calls space, as PostgreSQL's input functions do.
func trim(s []byte) []byte { return bytes.Trim(s, " \t\n\v\f\r") }

func appendText(dst []byte, t Type, s []byte) ([]byte, error) {
	if !utf8.Valid(s) {
		return dst, invalid(t, s, "not valid UTF-8")
	}
	if bytes.IndexByte(s, 0) >= 0 {
		return dst, invalid(t, s, "contains a NUL byte")
	}
	return append(dst, s...), nil
}

func appendBool(dst, s []byte) ([]byte, error) {
	word := trim(s)
	var space [5]byte
	if len(word) == 0 || len(word) > len(space) {
		return dst, invalid(Bool, s, "not a boolean")
	}
	lower := space[:len(word)]
	for i, c := range word {
		lower[i] = lowered(c)
	}
	is := func(full string, shortest int) bool {
		return len(lower) >= shortest && len(lower) <= len(full) && string(lower) == full[:len(lower)]
	}
	switch {
	case is("true", 1), is("yes", 1), is("on", 2), is("1", 1):
		return append(dst, 't'), nil
	case is("false", 1), is("no", 1), is("off", 2), is("0", 1):
		return append(dst, 'f'), nil
	}
	return dst, invalid(Bool, s, "not a boolean")
}

func lowered(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// appendUUID accepts what uuid_in accepts: either case, braces around all of it, a hyphen after any group of four
// digits or none.
func appendUUID(dst, s []byte) ([]byte, error) {
	digits := s
	if len(digits) > 0 && digits[0] == '{' {
		if digits[len(digits)-1] != '}' {
			return dst, invalid(UUID, s, "unmatched brace")
		}
		digits = digits[1 : len(digits)-1]
	}
	start := len(dst)
	count := 0
	for i := range digits {
		c := lowered(digits[i])
		if c == '-' && count > 0 && count < 32 && count%4 == 0 && digits[i-1] != '-' {
			continue
		}
		if hexValue(c) < 0 || count == 32 {
			return dst[:start], invalid(UUID, s, "not a UUID")
		}
		if count == 8 || count == 12 || count == 16 || count == 20 {
			dst = append(dst, '-')
		}
		dst = append(dst, c)
		count++
	}
	if count != 32 {
		return dst[:start], invalid(UUID, s, "not a UUID")
	}
	return dst, nil
}

func hexValue(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// appendBytea accepts both input forms: hexadecimal after \x, in which spaces may stand between bytes, and escapes.
func appendBytea(dst, s []byte) ([]byte, error) {
	start := len(dst)
	dst = append(dst, '\\', 'x')
	if len(s) >= 2 && s[0] == '\\' && s[1] == 'x' {
		for i := 2; i < len(s); i++ {
			if c := s[i]; c == ' ' || c == '\n' || c == '\t' || c == '\r' {
				continue
			}
			if i+1 == len(s) || hexValue(s[i]) < 0 || hexValue(s[i+1]) < 0 {
				return dst[:start], invalid(Bytea, s, "not pairs of hexadecimal digits")
			}
			dst = append(dst, lowered(s[i]), lowered(s[i+1]))
			i++
		}
		return dst, nil
	}
	for i := 0; i < len(s); {
		switch {
		case s[i] != '\\':
			if s[i] == 0 {
				return dst[:start], invalid(Bytea, s, "contains a NUL byte")
			}
			dst = hex.AppendEncode(dst, s[i:i+1])
			i++
		case i+1 < len(s) && s[i+1] == '\\':
			dst = append(dst, '5', 'c')
			i += 2
		case i+3 < len(s) && '0' <= s[i+1] && s[i+1] <= '3' && octal(s[i+2]) && octal(s[i+3]):
			b := (s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0')
			dst = hex.AppendEncode(dst, []byte{b})
			i += 4
		default:
			return dst[:start], invalid(Bytea, s, `a backslash must be followed by a backslash or three octal digits`)
		}
	}
	return dst, nil
}

func octal(c byte) bool { return '0' <= c && c <= '7' }
