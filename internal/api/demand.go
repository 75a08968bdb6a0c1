package api

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/freshet/freshet/mvcc"
)

// tokenHeader asks for a value that contains a transaction.
const tokenHeader = "Freshet-After"

// demandOf reads what a request asks of its value, or says what is wrong with it.
func demandOf(h http.Header) (d Demand, bad *problem) {
	d = cacheControl(h.Values("Cache-Control"))
	switch tokens := h.Values(tokenHeader); len(tokens) {
	case 0:
	case 1:
		token, err := mvcc.ParseToken(strings.TrimSpace(tokens[0]))
		if err != nil {
			return d, &problem{
				Type: problemToken, Title: "Malformed token", Status: http.StatusBadRequest,
				Detail: "Freshet-After takes a token: SYSTEM.TIMELINE.XID, or SYSTEM.TIMELINE.XID.LSN.",
			}
		}
		d.After = token
	default:
		return d, &problem{
			Type: problemToken, Title: "Several tokens", Status: http.StatusBadRequest, Detail: "Freshet-After may be given once.",
		}
	}
	return d, nil
}

// cacheControl judges a request's Cache-Control (RFC 9111, 5.2.1): no-cache demands that the database is asked, and max-age
// bounds staleness, in whole seconds. What is not a number of seconds is taken for the strictest.
func cacheControl(headers []string) (d Demand) {
	for _, header := range headers {
		for directive := range strings.SplitSeq(header, ",") {
			name, value, _ := strings.Cut(directive, "=")
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "no-cache":
				d.Past = true
			case "max-age":
				bound := seconds(value)
				if !d.Bounded || bound < d.MaxStale {
					d.Bounded, d.MaxStale = true, bound
				}
			}
		}
	}
	if d.Bounded && d.MaxStale == 0 {
		d.Past = true // nothing cached can be shown to miss nothing at all
	}
	return d
}

// seconds reads delta-seconds (RFC 9111, 1.2.2); more than a year is a year.
func seconds(text string) time.Duration {
	const year = 365 * 24 * 60 * 60
	text = strings.Trim(strings.TrimSpace(text), `"`)
	n, err := strconv.ParseUint(text, 10, 64)
	switch {
	case err != nil && text != "" && strings.Trim(text, "0123456789") == "":
		n = year
	case err != nil:
		n = 0
	}
	return time.Duration(min(n, year)) * time.Second
}
