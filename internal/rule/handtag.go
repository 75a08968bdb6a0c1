package rule

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/freshet/freshet/internal/keytext"
)

// Tags by hand are texts that the code which loads a value ties it to, and that writers name in intents. Each is an epoch of
// every version of an entry that declares them:
//
//	~t            the tags' own: all values of the entry are tied to it; it ends with an intent of which the tags cannot be read
//	~t:<text>     that of a tag, escaped as in keys
//	~t+           their shared one: it ends with every tag, for values that have too many
//
// They are per entry, and not one for all of them, so that a tag is in the slot, the lane and the generation of the values that are tied to
// it, and goes with their names when those move, like any other epoch.

const (
	// TagsByHand is what an entry says whose values are tied to tags by hand.
	TagsByHand = "by_hand"
	// CoversNone is what an entry says of which values come from elsewhere than the database: no cached one is proof of anything.
	CoversNone = "none"
	// MaxTag is how long a tag may be, in bytes.
	MaxTag = 512
)

// AppendOwnTagEpoch appends the name of the tags' own epoch.
func AppendOwnTagEpoch(dst []byte) []byte { return append(dst, EpochMark, 't') }

// AppendSharedTagEpoch appends the name of the tags' shared epoch.
func AppendSharedTagEpoch(dst []byte) []byte { return append(AppendOwnTagEpoch(dst), '+') }

// AppendTagEpoch appends the name of a tag's epoch.
func AppendTagEpoch(dst []byte, tag string) []byte {
	return keytext.AppendEscaped(append(AppendOwnTagEpoch(dst), ':'), keytext.Arg{Text: tag})
}

// CheckTag says why a text cannot be a tag.
func CheckTag(tag string) error {
	switch {
	case tag == "":
		return errors.New("a tag is empty")
	case len(tag) > MaxTag:
		return fmt.Errorf("a tag of %d bytes is longer than %d: %.40q", len(tag), MaxTag, tag)
	case !utf8.ValidString(tag) || strings.IndexByte(tag, 0) >= 0:
		return fmt.Errorf("a tag is not UTF-8, or holds a NUL byte: %.40q", tag)
	}
	return nil
}
