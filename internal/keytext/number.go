package keytext

import (
	"math"
	"strconv"
)

// Bounds of numeric, of every PostgreSQL version: digits before and after the decimal point.
const (
	maxNumericWhole    = 131072
	maxNumericFraction = 16383
)

func appendInteger(dst []byte, t Type, s []byte) ([]byte, error) {
	text := trim(s)
	negative := false
	if len(text) > 0 && (text[0] == '-' || text[0] == '+') {
		negative = text[0] == '-'
		text = text[1:]
	}
	if len(text) == 0 {
		return dst, invalid(t, s, "not an integer")
	}
	var n uint64
	for _, c := range text {
		if c < '0' || c > '9' {
			return dst, invalid(t, s, "not an integer")
		}
		if n > (math.MaxUint64-9)/10 {
			return dst, invalid(t, s, "out of range")
		}
		n = n*10 + uint64(c-'0')
	}
	low, high := integerRange(t)
	if negative && n > low || !negative && n > high {
		return dst, invalid(t, s, "out of range")
	}
	switch {
	case negative && n != 0 && t == OID:
		return strconv.AppendUint(dst, 1<<32-n, 10), nil // oidin reads -1 as the highest oid
	case negative && n != 0:
		dst = append(dst, '-')
	}
	return strconv.AppendUint(dst, n, 10), nil
}

// integerRange returns the greatest magnitudes below and above zero.
func integerRange(t Type) (low, high uint64) {
	switch t {
	case Int2:
		return 1 << 15, 1<<15 - 1
	case Int4:
		return 1 << 31, 1<<31 - 1
	case OID:
		return 1 << 31, 1<<32 - 1
	default:
		return 1 << 63, 1<<63 - 1
	}
}

// appendNumeric strips everything that does not change the value: signs of zero and plus, leading and trailing zeros,
// the exponent. 1.0 and 1.00 are equal in PostgreSQL although they print differently.
func appendNumeric(dst, s []byte) ([]byte, error) {
	text := trim(s)
	negative := false
	if len(text) > 0 && (text[0] == '-' || text[0] == '+') {
		negative = text[0] == '-'
		text = text[1:]
	}
	switch {
	case equalFold(text, "nan") && len(text) == len(trim(s)): // numeric's NaN has no sign
		return append(dst, "NaN"...), nil
	case equalFold(text, "infinity"), equalFold(text, "inf"):
		if negative {
			dst = append(dst, '-')
		}
		return append(dst, "Infinity"...), nil
	}
	whole, fraction, exponent, ok := splitNumeric(text)
	if !ok {
		return dst, invalid(Numeric, s, "not a number")
	}
	for len(whole) > 0 && whole[0] == '0' {
		whole = whole[1:]
	}
	for len(fraction) > 0 && fraction[len(fraction)-1] == '0' {
		fraction = fraction[:len(fraction)-1]
	}
	if len(whole) == 0 && len(fraction) == 0 {
		return append(dst, '0'), nil
	}
	// The digits are whole followed by fraction; point is where the decimal point stands among them.
	digits := len(whole) + len(fraction)
	point := len(whole) + exponent
	digit := func(i int) byte {
		switch {
		case i < 0 || i >= digits:
			return '0'
		case i < len(whole):
			return whole[i]
		}
		return fraction[i-len(whole)]
	}
	first, last := 0, digits
	for digit(first) == '0' {
		first++
	}
	for digit(last-1) == '0' {
		last--
	}
	if point-first > maxNumericWhole || last-point > maxNumericFraction {
		return dst, invalid(Numeric, s, "out of range")
	}
	if negative {
		dst = append(dst, '-')
	}
	if first >= point {
		dst = append(dst, '0')
	}
	for i := first; i < point; i++ {
		dst = append(dst, digit(i))
	}
	if last > point {
		dst = append(dst, '.')
		for i := point; i < last; i++ {
			dst = append(dst, digit(i))
		}
	}
	return dst, nil
}

func splitNumeric(text []byte) (whole, fraction []byte, exponent int, ok bool) {
	at := 0
	for at < len(text) && '0' <= text[at] && text[at] <= '9' {
		at++
	}
	whole = text[:at]
	if at < len(text) && text[at] == '.' {
		start := at + 1
		for at = start; at < len(text) && '0' <= text[at] && text[at] <= '9'; at++ {
		}
		fraction = text[start:at]
	}
	if len(whole) == 0 && len(fraction) == 0 {
		return nil, nil, 0, false
	}
	if at == len(text) {
		return whole, fraction, 0, true
	}
	if text[at] != 'e' && text[at] != 'E' {
		return nil, nil, 0, false
	}
	exponent, err := strconv.Atoi(string(text[at+1:]))
	const far = 1 << 30 // PostgreSQL refuses exponents from there on, whatever the digits
	if err != nil || exponent >= far || exponent <= -far {
		return nil, nil, 0, false
	}
	return whole, fraction, exponent, true
}

func equalFold(text []byte, lower string) bool {
	if len(text) != len(lower) {
		return false
	}
	for i, c := range text {
		if lowered(c) != lower[i] {
			return false
		}
	}
	return true
}
