package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// checkText refuses JSON whose strings encoding/json would alter: bytes that are no UTF-8, and halves of surrogate pairs, become U+FFFD
// there, and the argument another one than was sent.
func checkText(text string) error {
	if !utf8.ValidString(text) {
		return errors.New("it is not UTF-8")
	}
	for {
		_, escape, found := strings.Cut(text, `\`)
		if !found || escape == "" {
			return nil // what is not finished is no JSON, which the decoder says
		}
		if text = escape[1:]; escape[0] != 'u' || !utf16.IsSurrogate(unit(escape)) {
			continue
		}
		low, paired := strings.CutPrefix(escape[5:], `\`)
		if !paired || utf16.DecodeRune(unit(escape), unit(low)) == utf8.RuneError {
			return errors.New(`\` + escape[:5] + " is half of a surrogate pair")
		}
		text = low[5:]
	}
}

// inJSON says what is wrong with a text in the words of JSON, and not of the language that this is written in.
func inJSON(err error) error {
	if other, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		kind, _, _ := strings.Cut(other.Value, " ") // behind it a number is repeated
		if other.Field == "" {
			return fmt.Errorf("it is of kind %s", kind)
		}
		return fmt.Errorf("%q is of kind %s", other.Field, kind)
	}
	if wrong, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("it is no JSON from byte %d on", wrong.Offset)
	}
	const unknown = "json: unknown field " // which has no type of its own
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("it is empty")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("it ends too early")
	case strings.HasPrefix(err.Error(), unknown):
		return fmt.Errorf("there is no field %s", strings.TrimPrefix(err.Error(), unknown))
	}
	return err
}

// unit is the code unit that an escape such as u00e9 stands for, and zero where it is none.
func unit(escape string) rune {
	if len(escape) < 5 || escape[0] != 'u' {
		return 0
	}
	n, err := strconv.ParseUint(escape[1:5], 16, 16)
	if err != nil {
		return 0
	}
	return rune(n)
}
