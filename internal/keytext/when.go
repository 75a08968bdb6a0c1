package keytext

import "strconv"

// A civil moment: astronomical year (1 BC is 0), proleptic Gregorian, as PostgreSQL computes.
type civil struct {
	year             int64
	month, day       int
	seconds, micros  int64 // since midnight
	offset           int64 // seconds east of UTC
	hasTime, hasZone bool
}

const (
	secondsPerDay = 86400
	lowestDay     = -2440588   // 4714-11-24 BC, Julian day 0, counted from 1970-01-01
	highestDate   = 2145042905 // 5874897-12-31
	endTimestamp  = 106762940  // 294277-01-01, the first day that a timestamp cannot have
)

// appendWhen canonicalises dates and timestamps. Accepted are ISO spellings only: others depend on DateStyle. A
// timestamptz needs its zone, since without one it depends on TimeZone; a timestamp must not have one, since
// PostgreSQL would silently ignore it.
func appendWhen(dst []byte, t Type, s []byte) ([]byte, error) {
	text := trim(s)
	if equalFold(text, "infinity") || equalFold(text, "-infinity") {
		for _, c := range text {
			dst = append(dst, lowered(c))
		}
		return dst, nil
	}
	c, problem := parseCivil(text)
	if problem == "" {
		switch {
		case t == Date && c.hasTime:
			problem = "a date has no time of day"
		case t == Timestamp && c.hasZone:
			problem = "a timestamp without time zone has no zone"
		case t == Timestamptz && !c.hasZone:
			problem = "needs its time zone, such as Z or +02:00"
		}
	}
	if problem != "" {
		return dst, invalid(t, s, problem)
	}
	days := daysFromCivil(c.year, c.month, c.day)
	if t == Date {
		if days < lowestDay || days > highestDate {
			return dst, invalid(t, s, "out of range")
		}
		dst, bc := appendDate(dst, days)
		if bc {
			dst = append(dst, " BC"...)
		}
		return dst, nil
	}
	seconds := c.seconds - c.offset
	for ; seconds < 0; seconds += secondsPerDay {
		days--
	}
	for ; seconds >= secondsPerDay; seconds -= secondsPerDay {
		days++
	}
	if days < lowestDay || days >= endTimestamp {
		return dst, invalid(t, s, "out of range")
	}
	dst, bc := appendDate(dst, days)
	dst = append(dst, ' ')
	dst = appendPadded(dst, seconds/3600, 2)
	dst = append(dst, ':')
	dst = appendPadded(dst, seconds/60%60, 2)
	dst = append(dst, ':')
	dst = appendPadded(dst, seconds%60, 2)
	if c.micros != 0 {
		dst = append(dst, '.')
		dst = appendPadded(dst, c.micros, 6)
		for dst[len(dst)-1] == '0' {
			dst = dst[:len(dst)-1]
		}
	}
	if t == Timestamptz {
		dst = append(dst, "+00"...)
	}
	if bc {
		dst = append(dst, " BC"...)
	}
	return dst, nil
}

func appendDate(dst []byte, days int64) (out []byte, bc bool) {
	year, month, day := civilFromDays(days)
	if bc = year <= 0; bc {
		year = 1 - year
	}
	dst = appendPadded(dst, year, 4)
	dst = append(dst, '-')
	dst = appendPadded(dst, int64(month), 2)
	dst = append(dst, '-')
	return appendPadded(dst, int64(day), 2), bc
}

func appendPadded(dst []byte, n int64, width int) []byte {
	for limit := int64(10); width > 1; width, limit = width-1, limit*10 {
		if n < limit {
			for ; width > 1; width-- {
				dst = append(dst, '0')
			}
			break
		}
	}
	return strconv.AppendInt(dst, n, 10)
}

// scanner reads a text from the left.
type scanner struct {
	rest []byte
}

// number reads least to most digits.
func (s *scanner) number(least, most int) (n int64, count int, ok bool) {
	for count < len(s.rest) && count < most && '0' <= s.rest[count] && s.rest[count] <= '9' {
		n = n*10 + int64(s.rest[count]-'0')
		count++
	}
	s.rest = s.rest[count:]
	return n, count, count >= least
}

func (s *scanner) skip(c byte) bool {
	if len(s.rest) > 0 && s.rest[0] == c {
		s.rest = s.rest[1:]
		return true
	}
	return false
}

func parseCivil(text []byte) (c civil, problem string) {
	const notISO = "not in ISO form (YYYY-MM-DD, or YYYY-MM-DD HH:MM:SS with up to 6 digits of fraction)"
	bc := false
	if n := len(text); n > 3 && text[n-3] == ' ' && (equalFold(text[n-2:], "bc") || equalFold(text[n-2:], "ad")) {
		bc = lowered(text[n-2]) == 'b'
		text = trim(text[:n-3])
	}
	s := scanner{rest: text}
	if !s.date(&c) {
		return c, notISO
	}
	if c.year == 0 {
		return c, "there is no year zero"
	}
	if bc {
		c.year = 1 - c.year
	}
	if c.month < 1 || c.month > 12 || c.day < 1 || c.day > daysIn(c.year, c.month) {
		return c, "no such day"
	}
	if len(s.rest) == 0 {
		return c, ""
	}
	if !s.skip(' ') && !s.skip('T') && !s.skip('t') {
		return c, notISO
	}
	c.hasTime = true
	if !s.clock(&c) || !s.zone(&c) || len(s.rest) != 0 {
		return c, notISO
	}
	return c, ""
}

func (s *scanner) date(c *civil) bool {
	year, count, ok := s.number(4, 8)
	if !ok {
		return false
	}
	if count == 8 {
		c.year, c.month, c.day = year/10000, int(year/100%100), int(year%100)
		return true
	}
	if !s.skip('-') {
		return false
	}
	month, _, ok := s.number(1, 2)
	if !ok || !s.skip('-') {
		return false
	}
	day, _, ok := s.number(1, 2)
	c.year, c.month, c.day = year, int(month), int(day)
	return ok
}

func (s *scanner) clock(c *civil) bool {
	hour, _, ok := s.number(1, 2)
	if !ok || hour > 23 || !s.skip(':') {
		return false
	}
	minute, _, ok := s.number(2, 2)
	if !ok || minute > 59 {
		return false
	}
	c.seconds = hour*3600 + minute*60
	if !s.skip(':') {
		return true
	}
	second, _, ok := s.number(2, 2)
	if !ok || second > 59 {
		return false
	}
	c.seconds += second
	if !s.skip('.') {
		return true
	}
	micros, count, ok := s.number(1, 6)
	if !ok {
		return false
	}
	for ; count < 6; count++ {
		micros *= 10
	}
	for s.skip('0') { // beyond microseconds, only digits that say nothing
	}
	c.micros = micros
	return true
}

func (s *scanner) zone(c *civil) bool {
	for s.skip(' ') {
	}
	if len(s.rest) == 0 {
		return true
	}
	c.hasZone = true
	if equalFold(s.rest, "z") || equalFold(s.rest, "utc") {
		s.rest = nil
		return true
	}
	sign := int64(1)
	if s.skip('-') {
		sign = -1
	} else if !s.skip('+') {
		return false
	}
	hours, count, ok := s.number(1, 4)
	if !ok {
		return false
	}
	var minutes, seconds int64
	switch {
	case count == 3:
		return false
	case count == 4:
		hours, minutes = hours/100, hours%100
	case s.skip(':'):
		if minutes, _, ok = s.number(2, 2); !ok {
			return false
		}
		if s.skip(':') {
			if seconds, _, ok = s.number(2, 2); !ok {
				return false
			}
		}
	}
	if hours > 15 || minutes > 59 || seconds > 59 {
		return false
	}
	c.offset = sign * (hours*3600 + minutes*60 + seconds)
	return true
}

func daysIn(year int64, month int) int {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

// daysFromCivil counts days from 1970-01-01, and civilFromDays back. Years begin in March, so that the leap day is
// their last; 400 years have 146097 days.
func daysFromCivil(year int64, month, day int) int64 {
	if month <= 2 {
		year--
	}
	era := floorDiv(year, 400)
	yearOfEra := year - era*400
	dayOfYear := int64((153*((month+9)%12)+2)/5 + day - 1)
	return era*146097 + yearOfEra*365 + yearOfEra/4 - yearOfEra/100 + dayOfYear - 719468
}

func civilFromDays(days int64) (year int64, month, day int) {
	days += 719468
	era := floorDiv(days, 146097)
	dayOfEra := days - era*146097
	yearOfEra := (dayOfEra - dayOfEra/1460 + dayOfEra/36524 - dayOfEra/146096) / 365
	dayOfYear := int(dayOfEra - (365*yearOfEra + yearOfEra/4 - yearOfEra/100))
	shifted := (5*dayOfYear + 2) / 153
	year, month, day = era*400+yearOfEra, (shifted+2)%12+1, dayOfYear-(153*shifted+2)/5+1
	if month <= 2 {
		year++
	}
	return year, month, day
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
