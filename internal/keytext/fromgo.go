package keytext

import (
	"database/sql/driver"
	"encoding"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"time"
)

// FromGo turns a Go value into an argument of type t. A nil pointer, and a driver.Valuer that says nil, are NULL.
//
// Integers, strings and booleans are taken by their kind, [16]byte and []byte as their bytes, other slices as arrays, and everything else by
// driver.Valuer, encoding.TextMarshaler or fmt.Stringer. Of a time.Time a date and a timestamp take what its clock
// shows, a timestamptz the instant; all cut it to microseconds, as pgx does. Of an Unknown type a time is refused, since
// only the type says what of it counts. Floats are refused always: they are rarely the number that they seem to be.
func FromGo(t Type, v any) (Arg, error) {
	for {
		switch x := v.(type) {
		case nil:
			return Arg{Null: true}, nil
		case string:
			return fromText(t, x)
		case int64:
			return fromInt(t, x)
		case int:
			return fromInt(t, int64(x))
		case time.Time:
			return fromTime(t, x)
		case []byte:
			return fromBytes(t, x) // also for an array: its text
		}
		rv := reflect.ValueOf(v)
		if rv.Kind() == reflect.Pointer && rv.IsNil() {
			return Arg{Null: true}, nil
		}
		if arg, done, err := fromKind(t, rv); done {
			return arg, err
		}
		if valuer, ok := v.(driver.Valuer); ok {
			plain, err := valuer.Value()
			if err != nil {
				return Arg{}, fmt.Errorf("take value of %T: %w", v, err)
			}
			if _, again := plain.(driver.Valuer); !again {
				v = plain
				continue
			}
		}
		if rv.Kind() == reflect.Pointer {
			if elem := rv.Elem(); elem.CanInterface() && !describesItself(v) || elem.Type() == reflect.TypeFor[time.Time]() {
				v = elem.Interface()
				continue
			}
		}
		return fromMethods(t, v)
	}
}

// describesItself tells values such as *big.Int, whose pointer carries the methods, from plain pointers.
func describesItself(v any) bool {
	switch v.(type) {
	case encoding.TextMarshaler, fmt.Stringer:
		return true
	}
	return false
}

func fromMethods(t Type, v any) (Arg, error) {
	switch x := v.(type) {
	case encoding.TextMarshaler:
		text, err := x.MarshalText()
		if err != nil {
			return Arg{}, fmt.Errorf("take text of %T: %w", v, err)
		}
		return fromText(t, string(text))
	case fmt.Stringer:
		return fromText(t, x.String())
	}
	return Arg{}, mismatch(t, v)
}

func mismatch(t Type, v any) error {
	return &Error{Type: t, Text: fmt.Sprintf("%T", v), Problem: "a Go value of this type cannot be an argument of this type"}
}

func fromKind(t Type, rv reflect.Value) (arg Arg, done bool, err error) {
	if _, ok := t.Element(); ok && (rv.Kind() == reflect.Slice || rv.Kind() == reflect.Array) {
		arg, err = fromSlice(t, rv)
		return arg, true, err
	}
	switch rv.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if isNumber(t) {
			arg, err = fromInt(t, rv.Int())
			return arg, true, err
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if isNumber(t) {
			arg, err = fromText(t, strconv.FormatUint(rv.Uint(), 10))
			return arg, true, err
		}
	case reflect.Bool:
		if t == Bool || t == Unknown {
			arg, err = fromText(t, strconv.FormatBool(rv.Bool()))
			return arg, true, err
		}
	case reflect.String:
		arg, err = fromText(t, rv.String())
		return arg, true, err
	case reflect.Array:
		if (t == UUID || t == Unknown) && rv.Len() == 16 && rv.Type().Elem().Kind() == reflect.Uint8 {
			var b [16]byte
			reflect.Copy(reflect.ValueOf(&b).Elem(), rv)
			return Arg{Text: uuidText(b[:])}, true, nil
		}
	case reflect.Slice:
		if t == Bytea && rv.Type().Elem().Kind() == reflect.Uint8 {
			arg, err = fromBytes(t, rv.Bytes())
			return arg, true, err
		}
	default:
	}
	return Arg{}, false, nil
}

func isNumber(t Type) bool {
	switch t {
	case Int2, Int4, Int8, OID, Numeric, Unknown:
		return true
	default:
		return false
	}
}

func fromText(t Type, s string) (Arg, error) {
	text, err := Canonical(t, s)
	return Arg{Text: text}, err
}

func fromInt(t Type, n int64) (Arg, error) {
	switch {
	case t == Int8, t == Numeric, t == Unknown, t == Int4 && n == int64(int32(n)), t == Int2 && n == int64(int16(n)), //nolint:gosec // the conversion is the check
		t == OID && n >= 0 && n <= math.MaxUint32:
		return Arg{Text: strconv.FormatInt(n, 10)}, nil
	case isNumber(t):
		return Arg{}, &Error{Type: t, Text: strconv.FormatInt(n, 10), Problem: "out of range"}
	}
	return Arg{}, mismatch(t, n)
}

func fromBytes(t Type, b []byte) (Arg, error) {
	switch {
	case b == nil:
		return Arg{Null: true}, nil
	case t == Bytea:
		const digits = "0123456789abcdef"
		text := make([]byte, 2, 2+2*len(b))
		text[0], text[1] = '\\', 'x'
		for _, c := range b {
			text = append(text, digits[c>>4], digits[c&15])
		}
		return Arg{Text: string(text)}, nil
	case t == UUID && len(b) == 16:
		return Arg{Text: uuidText(b)}, nil
	}
	return fromText(t, string(b))
}

func uuidText(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func fromTime(t Type, v time.Time) (Arg, error) {
	switch t {
	case Timestamptz:
		v = v.UTC()
	case Date, Timestamp:
	default:
		return Arg{}, mismatch(t, v)
	}
	year, suffix := v.Year(), ""
	if year <= 0 {
		year, suffix = 1-year, " BC"
	}
	text := fmt.Sprintf("%04d-%02d-%02d", year, v.Month(), v.Day())
	if t != Date {
		text += fmt.Sprintf(" %02d:%02d:%02d.%06d", v.Hour(), v.Minute(), v.Second(), v.Nanosecond()/1000)
	}
	if t == Timestamptz {
		text += "+00"
	}
	return fromText(t, text+suffix)
}
