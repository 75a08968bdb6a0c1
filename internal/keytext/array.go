package keytext

import (
	"reflect"
	"strings"
)

// Array is the type of one-dimensional arrays of a type.
func Array(element Type) Type { return element + "[]" }

// Element is the type of an array's elements, and whether the type is an array's.
func (t Type) Element() (Type, bool) {
	element, ok := strings.CutSuffix(string(t), "[]")
	return Type(element), ok
}

// appendArray accepts what array_in accepts for one dimension, and writes what array_out writes: {1,2,NULL,"a b"}. The
// order counts, and so does how often an element comes, as they do for PostgreSQL's own equality of arrays.
func appendArray(dst []byte, t Type, s []byte) ([]byte, error) {
	element, _ := t.Element()
	if _, nested := element.Element(); nested {
		return dst, invalid(t, s, "arrays of arrays have no canonical text")
	}
	a := arrayReader{rest: string(trim(s))}
	if !a.skip('{') {
		return dst, invalid(t, s, "not an array: write {1,2}")
	}
	start := len(dst)
	dst = append(dst, '{')
	for n := 0; !a.skip('}'); n++ {
		if n > 0 {
			if !a.skip(',') {
				return dst[:start], invalid(t, s, "not an array: a comma or a brace is missing")
			}
			dst = append(dst, ',')
		}
		text, quoted, ok := a.element()
		switch {
		case !ok:
			return dst[:start], invalid(t, s, "not an array of one dimension")
		case !quoted && strings.EqualFold(text, "null"):
			dst = append(dst, "NULL"...)
		default:
			canonical, err := Canonical(element, text)
			if err != nil {
				return dst[:start], err
			}
			dst = appendElement(dst, canonical)
		}
	}
	if a.rest != "" {
		return dst[:start], invalid(t, s, "not an array: something follows its last brace")
	}
	return append(dst, '}'), nil
}

// arraySpace is what array_in passes over around elements.
const arraySpace = " \t\n\v\f\r"

func appendElement(dst []byte, text string) []byte {
	if text != "" && !strings.EqualFold(text, "null") && !strings.ContainsAny(text, `{},"\`+arraySpace) {
		return append(dst, text...)
	}
	dst = append(dst, '"')
	for i := range len(text) {
		if text[i] == '"' || text[i] == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, text[i])
	}
	return append(dst, '"')
}

type arrayReader struct{ rest string }

// skip passes over white space, and the byte where it comes then.
func (a *arrayReader) skip(c byte) bool {
	rest := strings.TrimLeft(a.rest, arraySpace)
	if rest == "" || rest[0] != c {
		return false
	}
	a.rest = strings.TrimLeft(rest[1:], arraySpace)
	return true
}

// element reads one element.
func (a *arrayReader) element() (text string, quoted, ok bool) {
	var b strings.Builder
	rest := strings.TrimLeft(a.rest, arraySpace)
	quoted = strings.HasPrefix(rest, `"`)
	i, kept := 0, 0 // kept: up to where unquoted white space counts, since it was escaped
	if quoted {
		i = 1
	}
	for ; i < len(rest); i++ {
		c := rest[i]
		switch {
		case c == '\\' && i+1 < len(rest):
			i++
			b.WriteByte(rest[i])
			kept = b.Len()
			continue
		case c == '\\', !quoted && (c == '{' || c == '"'):
			return "", false, false
		case quoted && c == '"':
			a.rest = strings.TrimLeft(rest[i+1:], arraySpace)
			return b.String(), true, true
		case !quoted && (c == ',' || c == '}'):
			a.rest = rest[i:]
			text = b.String()
			text = text[:kept] + strings.TrimRight(text[kept:], arraySpace)
			return text, kept > 0, text != ""
		}
		b.WriteByte(c)
	}
	return "", false, false
}

// fromSlice takes the elements of a slice or an array one by one; a nil slice is NULL.
func fromSlice(t Type, rv reflect.Value) (Arg, error) {
	if rv.Kind() == reflect.Slice && rv.IsNil() {
		return Arg{Null: true}, nil
	}
	element, _ := t.Element()
	out := []byte{'{'}
	for i := range rv.Len() {
		if i > 0 {
			out = append(out, ',')
		}
		one, err := FromGo(element, rv.Index(i).Interface())
		switch {
		case err != nil:
			return Arg{}, err
		case one.Null:
			out = append(out, "NULL"...)
		default:
			out = appendElement(out, one.Text)
		}
	}
	return Arg{Text: string(append(out, '}'))}, nil
}
