package config

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/rule"
)

// mask is what stands for a secret wherever something is printed.
const mask = "***"

// Secret is a value that never prints: every formatting shows ***.
type Secret string

// Reveal is the secret itself.
func (s Secret) Reveal() string { return string(s) }

// String hides the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return mask
}

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// MarshalText hides the secret from JSON, YAML and slog.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// URL is a connection string, as a URL or in PostgreSQL's key=value form. It prints without its password.
type URL string

// Reveal is the connection string with its password.
func (u URL) Reveal() string { return string(u) }

// String is the connection string with its password masked.
func (u URL) String() string { return maskURL(string(u)) }

// GoString hides the password from %#v.
func (u URL) GoString() string { return strconv.Quote(u.String()) }

// MarshalText hides the password from JSON, YAML and slog.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// secretParameter matches the parameters of a connection string, or keys of a file, that hold a secret.
const secretParameter = `(?i)\b((?:ssl)?password|passwd|token|secret)` //nolint:gosec // a pattern, no secret

// maskURL hides what is secret in a connection string, also in one that does not parse.
func maskURL(s string) string {
	scheme, rest, isURL := strings.Cut(s, "://")
	if isURL {
		// The last @ ends the user information, so that a password with an unescaped @ or / is hidden whole.
		if at := strings.LastIndexByte(rest, '@'); at >= 0 {
			user, _, hasPassword := strings.Cut(rest[:at], ":")
			if hasPassword {
				user += ":" + mask
			}
			rest = user + rest[at:]
		}
		return scheme + "://" + regexp.MustCompile(secretParameter+`=[^&]*`).ReplaceAllString(rest, "$1="+mask)
	}
	return regexp.MustCompile(secretParameter+`\s*=\s*('(?:[^'\\]|\\.)*'?|(?:[^\s\\]|\\.)*)`).ReplaceAllString(s, "$1="+mask)
}

// withPassword puts a password that came from a file into a connection string that has none.
func (u URL) withPassword(password string) (URL, error) {
	if !strings.Contains(string(u), "://") {
		if regexp.MustCompile(`(?i)\bpassword\s*=`).MatchString(string(u)) {
			return "", errTwoPasswords
		}
		quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(password)
		return u + URL(" password='"+quoted+"'"), nil
	}
	parsed, err := url.Parse(string(u))
	if err != nil {
		return "", errURLSyntax
	}
	if _, set := parsed.User.Password(); set {
		return "", errTwoPasswords
	}
	parsed.User = url.UserPassword(parsed.User.Username(), password)
	return URL(parsed.String()), nil
}

// The messages never quote a connection string: it holds a password.
var (
	errURLSyntax    = errors.New("the connection string does not parse")
	errTwoPasswords = errors.New("the connection string has a password, and password_file gives another")
)

// Percent is a share, written "10%".
type Percent float64

// ParsePercent reads "10%".
func ParsePercent(s string) (Percent, error) {
	number, ok := strings.CutSuffix(s, "%")
	if !ok {
		return 0, fmt.Errorf("percentage %q: %w", s, errPercent)
	}
	p, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(p) || math.IsInf(p, 0) {
		return 0, fmt.Errorf("percentage %q: %w", s, errPercent)
	}
	return Percent(p), nil
}

var errPercent = errors.New("write it like 10%")

// Fraction is the share as a number from 0 to 1.
func (p Percent) Fraction() float64 { return float64(p) / 100 }

// String is the form that ParsePercent reads.
func (p Percent) String() string { return strconv.FormatFloat(float64(p), 'f', -1, 64) + "%" }

// MarshalText is String.
func (p Percent) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// Size is a number of bytes, written "256MiB".
type Size int64

// sizeUnits are the units from the smallest, which is also the order in which String tries them backwards.
func sizeUnits() []struct {
	name  string
	bytes int64
} {
	return []struct {
		name  string
		bytes int64
	}{{"B", 1}, {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}}
}

var errSize = errors.New("write it like 256MiB (B, KiB, MiB, GiB, TiB)")

// ParseSize reads "256MiB".
func ParseSize(s string) (Size, error) {
	digits := strings.TrimRight(s, "BKMGTi")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("size %q: %w", s, errSize)
	}
	for _, u := range sizeUnits() {
		if s[len(digits):] == u.name {
			if n < 0 || n > math.MaxInt64/u.bytes {
				return 0, fmt.Errorf("size %q: out of range", s)
			}
			return Size(n * u.bytes), nil
		}
	}
	return 0, fmt.Errorf("size %q: %w", s, errSize)
}

// String is the form that ParseSize reads, in the largest unit that divides it.
func (s Size) String() string {
	units := sizeUnits()
	for i := len(units) - 1; i > 0; i-- {
		if s != 0 && int64(s)%units[i].bytes == 0 {
			return strconv.FormatInt(int64(s)/units[i].bytes, 10) + units[i].name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// MarshalText is String.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Room is a Size of which there may be none: "64MiB", or "off".
type Room int64

// none is "off": 0 is what was not said.
const none Room = -1

// Bytes is the size, 0 when it is off.
func (r Room) Bytes() uint64 { return uint64(max(r, 0)) }

// String is the form of the file.
func (r Room) String() string {
	if r == none {
		return string(Off)
	}
	return Size(r).String()
}

// MarshalText is String.
func (r Room) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

func parseRoom(text string) (Room, error) {
	if text == string(Off) {
		return none, nil
	}
	size, err := ParseSize(text)
	if err == nil && size <= 0 {
		err = fmt.Errorf("size %q: %w, or off", text, errPositive)
	}
	return Room(size), err
}

// Switch is on or off.
type Switch string

// The positions of a Switch.
const (
	On  Switch = "on"
	Off Switch = "off"
)

// formatDuration is Go's form without zero minutes and seconds at its end: "10m", not "10m0s".
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// OnChange is what an invalidation does to a cached value: a word, or {serve_stale: {for: 2s}}.
type OnChange struct {
	Kind string
	For  time.Duration
}

// The kinds of OnChange.
const (
	Drop       = "drop"
	Refresh    = "refresh"
	ServeStale = "serve_stale"
)

// String is the form of the file.
func (o OnChange) String() string {
	if o.For == 0 {
		return o.Kind
	}
	return fmt.Sprintf("{%s: {for: %s}}", o.Kind, formatDuration(o.For))
}

// MarshalText is String.
func (o OnChange) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// OnUnproved is what a read does that asks for more than the cached value can be shown to be.
type OnUnproved string

// The kinds of OnUnproved.
const (
	UnprovedRevalidate OnUnproved = "revalidate" // ask the database for another value than the cached one
	UnprovedLoad       OnUnproved = "load"       // ask it for the value
)

// RuleKind is how changes of a table find the keys that they affect.
type RuleKind string

// The kinds of rules.
const (
	RuleTags   RuleKind = "tags"
	RuleLookup RuleKind = "lookup"
	RuleBroad  RuleKind = "broad"
)

// TagsKind is whether the code that loads an entry ties its values to tags.
type TagsKind string

// TagsByHand says that it does.
const TagsByHand TagsKind = rule.TagsByHand

// CoversKind is what a snapshot of the database says about a value that code loads.
type CoversKind string

// CoversNone says that it says nothing, since the code reads elsewhere.
const CoversNone CoversKind = rule.CoversNone

// scalar reads the text of a scalar into the types that have a form of their own. known is false for all others.
func scalar(text string, target any) (known bool, err error) {
	switch v := target.(type) {
	case *time.Duration:
		if *v, err = time.ParseDuration(text); err != nil {
			err = fmt.Errorf("duration %q: %w", text, errDuration)
		} else if *v <= 0 {
			err = fmt.Errorf("duration %q: %w", text, errPositive)
		}
	case *Percent:
		*v, err = ParsePercent(text)
	case *Size:
		if *v, err = ParseSize(text); err == nil && *v <= 0 {
			err = fmt.Errorf("size %q: %w", text, errPositive)
		}
	case *Room:
		*v, err = parseRoom(text)
	case *Switch:
		*v, err = oneOf(text, On, Off)
	case *rule.Result:
		*v, err = oneOf(text, rule.One, rule.Many)
	case *RuleKind:
		*v, err = oneOf(text, RuleTags, RuleLookup, RuleBroad)
	case *TagsKind:
		*v, err = oneOf(text, TagsByHand)
	case *CoversKind:
		*v, err = oneOf(text, CoversNone)
	case *OnUnproved:
		*v, err = oneOf(text, UnprovedRevalidate, UnprovedLoad)
	case *OnChange:
		v.Kind, err = oneOf(text, Drop, Refresh)
		if err != nil {
			err = noneOf(text, Drop, Refresh, OnChange{Kind: ServeStale, For: 2 * time.Second}.String())
		}
	default:
		return false, nil
	}
	return true, err
}

var errPositive = errors.New("it must be greater than 0")

var errDuration = errors.New("write it like 500ms, 30s, 10m or 1h30m")

// choiceError says which words are allowed. It is an error of its own for what may not show the value beside it.
type choiceError struct{ allowed string }

func (e *choiceError) Error() string { return "it is one of: " + e.allowed }

func noneOf(text string, allowed ...string) error {
	return fmt.Errorf("%q: %w", text, &choiceError{allowed: strings.Join(allowed, ", ")})
}

func oneOf[T ~string](text string, allowed ...T) (T, error) {
	names := make([]string, len(allowed))
	for i, a := range allowed {
		if string(a) == text {
			return a, nil
		}
		names[i] = string(a)
	}
	return "", noneOf(text, names...)
}
