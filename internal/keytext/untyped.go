package keytext

import (
	"fmt"
	"reflect"
	"time"
)

// Untyped is the text that a value usually has, where nobody knows its type. It is for the database to judge.
func Untyped(v any) Arg {
	rv := reflect.ValueOf(v)
	for rv.Kind() == reflect.Pointer {
		if rv.IsNil() {
			return Arg{Null: true}
		}
		rv = rv.Elem()
	}
	if !rv.IsValid() {
		return Arg{Null: true}
	}
	switch x := rv.Interface().(type) {
	case time.Time:
		return Arg{Text: x.Format(time.RFC3339Nano)}
	case []byte:
		return Arg{Text: fmt.Sprintf(`\x%x`, x)}
	default:
		return Arg{Text: fmt.Sprint(x)}
	}
}
