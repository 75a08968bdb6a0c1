package route

import "github.com/freshet/freshet/internal/rule"

// Tag adds the epochs of a tag that a transaction itself named: in every version of every entry whose values are tied to tags by hand.
// It reports whether there is such an entry; where there is none, no value is tied to the tag. A text that cannot be one is an error, and
// adds nothing.
func (r *Router) Tag(tag string, out *Keys) (known bool, err error) {
	if err := rule.CheckTag(tag); err != nil {
		return len(r.tagged) > 0, err
	}
	for _, entry := range r.tagged {
		start := len(out.arena)
		out.arena = rule.AppendTagEpoch(out.arena, tag)
		out.sealEpoch(entry, start)
		start = len(out.arena)
		out.arena = rule.AppendSharedTagEpoch(out.arena)
		out.sealEpoch(entry, start)
	}
	return len(r.tagged) > 0, nil
}

// AnyTag is for tags of an intent that cannot be read: it ends what every value is tied to that may have one. It reports whether there is
// an entry of such values.
func (r *Router) AnyTag(out *Keys) (known bool) {
	for _, entry := range r.tagged {
		start := len(out.arena)
		out.arena = rule.AppendOwnTagEpoch(out.arena)
		out.sealEpoch(entry, start)
	}
	return len(r.tagged) > 0
}
