package api

import (
	"errors"
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
