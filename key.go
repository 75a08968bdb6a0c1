package freshet

import (
	"database/sql/driver"
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
)

// keyCodec knows which field of a key struct is which parameter. Without fields the key is the one parameter itself.
type keyCodec struct {
	params []string
	fields []int
}

// newKeyCodec checks that K can be a key with these parameters.
func newKeyCodec[K any](params []string) (*keyCodec, error) {
	typ := reflect.TypeFor[K]()
	c := &keyCodec{params: params}
	if typ.Kind() != reflect.Struct || len(params) == 1 && isValue(typ) {
		if len(params) != 1 {
			return nil, fmt.Errorf("%w: its key has the parameters %s, so it takes a struct with a field for each, not %s",
				ErrKey, strings.Join(params, ", "), typ)
		}
		return c, nil
	}
	c.fields = make([]int, len(params))
	for i := range c.fields {
		c.fields[i] = -1
	}
	for i := range typ.NumField() {
		field := typ.Field(i)
		if !field.IsExported() {
			continue
		}
		n := parameterOf(field, params)
		switch {
		case n < 0:
			return nil, fmt.Errorf("%w: field %s of %s is none of its key's parameters %s", ErrKey, field.Name, typ, strings.Join(params, ", "))
		case c.fields[n] >= 0:
			return nil, fmt.Errorf("%w: two fields of %s are parameter %s", ErrKey, typ, params[n])
		}
		c.fields[n] = i
	}
	for n, i := range c.fields {
		if i < 0 {
			return nil, fmt.Errorf("%w: %s has no field for parameter %s of its key", ErrKey, typ, params[n])
		}
	}
	return c, nil
}

// isValue reports structs that are one value: times, and types that say so themselves.
func isValue(typ reflect.Type) bool {
	if typ == reflect.TypeFor[time.Time]() {
		return true
	}
	for _, as := range []reflect.Type{
		reflect.TypeFor[driver.Valuer](), reflect.TypeFor[encoding.TextMarshaler](), reflect.TypeFor[fmt.Stringer](),
	} {
		if typ.Implements(as) || reflect.PointerTo(typ).Implements(as) {
			return true
		}
	}
	return false
}

func parameterOf(field reflect.StructField, params []string) int {
	plain := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "_", "")) }
	tag, tagged := field.Tag.Lookup("freshet")
	for i, p := range params {
		if tagged && tag == p || !tagged && plain(field.Name) == plain(p) {
			return i
		}
	}
	return -1
}

// appendKey appends the arguments of a key. The usual keys, integers and strings, need no reflection.
func appendKey[K any](dst []keytext.Arg, c *keyCodec, params []rule.Param, key *K) ([]keytext.Arg, error) {
	if len(params) != len(c.params) {
		return nil, fmt.Errorf("the key has %d parameters here and %d there", len(c.params), len(params))
	}
	if c.fields == nil {
		if n, ok := any(key).(*int64); ok && params[0].Type == keytext.Int8 {
			return append(dst, keytext.Arg{Text: strconv.FormatInt(*n, 10)}), nil
		}
		return appendArg(dst, params[0], any(*key))
	}
	value := reflect.ValueOf(key).Elem()
	for n, i := range c.fields {
		var err error
		if dst, err = appendArg(dst, params[n], value.Field(i).Interface()); err != nil {
			return nil, err
		}
	}
	return dst, nil
}

func appendArg(dst []keytext.Arg, p rule.Param, v any) ([]keytext.Arg, error) {
	if p.Type == "" {
		// Nobody knows the type: no daemon has run, and the entry's code takes the key as it is.
		return append(dst, keytext.Untyped(v)), nil
	}
	arg, err := keytext.FromGo(p.Type, v)
	if err != nil {
		return nil, fmt.Errorf("parameter %s: %w", p.Name, err)
	}
	return append(dst, arg), nil
}
