package config

import (
	"regexp"
	"strings"
)

// cacheControl judges what an entry has the gateway send: it goes into a header as it is.
func (j *judge) cacheControl(path, text string) {
	const hint = "such as private, no-cache or private, max-age=5"
	// A name, alone or with a token or a quoted string (RFC 9111, 5.2).
	directive := regexp.MustCompile(`^[a-z-]+(=([0-9A-Za-z-]+|"[ !\x23-\x5b\x5d-\x7e]*"))?$`)
	has := map[string]bool{}
	for part := range strings.SplitSeq(text, ",") {
		part = strings.Trim(part, " ")
		if !directive.MatchString(part) {
			j.fail(path, hint, "%q is no directive of Cache-Control", j.c.places.shown(path, part))
			return
		}
		name, argument, given := strings.Cut(part, "=")
		if has[name] {
			j.fail(path, hint, "%s stands twice", name)
			return
		}
		has[name] = true
		seconds := name == "max-age" || name == "s-maxage" || name == "stale-while-revalidate" || name == "stale-if-error"
		if seconds && (argument == "" || strings.Trim(argument, "0123456789") != "") {
			j.fail(path, hint, "%s takes a number of seconds", name)
			return
		}
		if !seconds && given && name != "no-cache" && name != "private" {
			j.fail(path, hint, "%s takes no argument that is known", name)
			return
		}
	}
	for _, pair := range [][2]string{{"public", "private"}, {"no-store", "max-age"}, {"no-store", "s-maxage"}, {"private", "s-maxage"}, {"no-store", "public"}} {
		if has[pair[0]] && has[pair[1]] {
			j.fail(path, hint, "%s and %s contradict each other", pair[0], pair[1])
		}
	}
}
