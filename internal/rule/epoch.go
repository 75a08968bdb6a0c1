package rule

import (
	"slices"
	"strconv"

	"github.com/freshet/freshet/internal/keytext"
)

// An epoch's name in the store is that of its entry up to the activation, and then
//
//	~<number>            the rule's own: all values of the entry are tied to it; it ends with a change that may affect any of them
//	~<number>:<values>   that of values: it ends with a change that affects the values which have these in common
//	~<number>+           the rule's shared one: it ends with every change that ends one of values, for those that have too many
//
// where the number is the rule's place in the entry, and values are escaped as in keys, with colons between them.

// EpochMark begins an epoch's part of a name, where a record's has a colon.
const EpochMark = '~'

// Tied reports whether values are tied to epochs, through which changes of the rule's table take them out of use.
func (r *Rule) Tied() bool { return r.Class == Tag || r.Class == Group || r.Class == Broad }

// Tied reports whether the entry's values are tied to epochs.
func (e *Entry) Tied() bool {
	return e.Tags != "" || slices.ContainsFunc(e.Rules, func(r Rule) bool { return r.Tied() })
}

// Determined are the parameters that name an epoch of a GROUP rule: those that the changed row or the rule itself tells.
func (r *Rule) Determined() []int {
	var places []int
	if r.Class != Group {
		return nil
	}
	for i, column := range r.Bind {
		if column != "" || i < len(r.Fixed) && r.Fixed[i] != nil {
			places = append(places, i)
		}
	}
	return places
}

// AppendOwnEpoch appends the name of a rule's own epoch.
func AppendOwnEpoch(dst []byte, number int) []byte {
	return strconv.AppendInt(append(dst, EpochMark), int64(number), 10)
}

// AppendSharedEpoch appends the name of a rule's shared epoch.
func AppendSharedEpoch(dst []byte, number int) []byte {
	return append(AppendOwnEpoch(dst, number), '+')
}

// IsSharedEpoch reports whether a name is that of a rule's shared epoch.
func IsSharedEpoch(name []byte) bool {
	return len(name) > 0 && name[len(name)-1] == '+' && !slices.Contains(name, ':')
}

// AppendEpoch appends the name of the epoch of some values.
func AppendEpoch(dst []byte, number int, values []keytext.Arg) []byte {
	dst = AppendOwnEpoch(dst, number)
	for _, v := range values {
		dst = keytext.AppendEscaped(append(dst, ':'), v)
	}
	return dst
}
